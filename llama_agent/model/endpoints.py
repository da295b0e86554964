"""
Endpoints are data: what is known of each kind of server, and which one a program means.

An endpoint is chosen by an argument, else by the environment:

- `LLAMA_AGENT_ENDPOINT`: a preset's name or a base URL,
- `LLAMA_AGENT_MODEL`: the model's name there,
- `LLAMA_AGENT_API_KEY`: the key for it; a preset's own key variable works as well.

When `LLAMA_AGENT_ENDPOINT` is set, the other two belong to that endpoint and are given to no other.
"""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass, replace
from typing import cast
from urllib.parse import SplitResult, urlsplit

from haystack.utils import Secret

from llama_agent.arguments import nearest
from llama_agent.errors import ConfigurationError
from llama_agent.model.profiles import (
    PRESETS,
    PUBLISHED_BASE_URL,
    PUBLISHED_KEY_VARIABLE,
    PUBLISHED_MODEL,
    EndpointProfile,
)

RETIRED = (
    "Meta retired its hosted Llama API (api.llama.com) on 2026-07-06. Choose another endpoint: set "
    "LLAMA_AGENT_ENDPOINT, or pass api_base_url=, to a preset ({presets}) or to the base URL of any "
    "OpenAI-compatible server."
)


@dataclass(frozen=True)
class Endpoint:
    """
    A resolved endpoint.

    :param profile: What is known of it; a profile named `custom` for a bare URL.
    :param base_url: Base URL; empty for the embedded model until it listens.
    :param api_key: The key, or None when it needs none.
    :param model: Model name, or None to ask the server.
    :param embedded: For the embedded model: what follows `embedded:`, maybe nothing; None for any other
        endpoint.
    """

    profile: EndpointProfile
    base_url: str
    api_key: str | None
    model: str | None
    embedded: str | None = None

    @property
    def identity(self) -> str:
        """What saved profiles know it by: its base URL without credentials, or `embedded:…`."""
        if self.embedded is not None:
            return f"embedded:{self.embedded}".rstrip(":")
        parts = urlsplit(self.base_url)
        return f"{parts.scheme}://{_host(parts)}{parts.path.rstrip('/')}"


def resolve_endpoint(api_base_url: str | None, model: str | None, api_key: Secret | None) -> Endpoint:
    """
    Find out which endpoint, model and key a program means.

    :param api_base_url: A URL, a preset's name, or `embedded:…`. The published default counts as unset when
        `LLAMA_AGENT_ENDPOINT` is set. None means: the environment, else the embedded model when it is
        installed.
    :param model: A name. None, and the published default on another host, count as unset.
    :param api_key: A secret. The published default (`LLAMA_API_KEY`) is given to `*.llama.com` only.
    :returns: The endpoint.
    :raises ConfigurationError: Nothing is chosen, a name is unknown, or a key is missing.
    """
    from_environment = os.environ.get("LLAMA_AGENT_ENDPOINT", "").strip() or None
    explicit = None if api_base_url == PUBLISHED_BASE_URL and from_environment else api_base_url
    name = explicit or from_environment or _default_name()
    profile, base_url, embedded = _look_up(name)
    # A key or model in the environment belongs to the endpoint in the environment.
    belongs = from_environment is None or name == from_environment
    on_published_host = is_retired_host(base_url)
    chosen_model = model if model != PUBLISHED_MODEL or on_published_host else None
    if chosen_model is None and belongs:
        chosen_model = os.environ.get("LLAMA_AGENT_MODEL") or None
    return Endpoint(
        profile=profile,
        base_url=base_url,
        api_key=_key(profile, base_url, api_key, belongs=belongs),
        model=chosen_model or profile.model,
        embedded=embedded,
    )


def is_retired_host(base_url: str) -> bool:
    """
    Whether a URL leads to Meta's retired host.

    :param base_url: Any URL.
    :returns: True for `llama.com` and its subdomains.
    """
    host = (urlsplit(base_url).hostname or "").lower()
    return host == "llama.com" or host.endswith(".llama.com")


def retired_text() -> str:
    """
    What to say when the retired host is used.

    :returns: A sentence that names the date and the choices.
    """
    return RETIRED.format(presets=", ".join(name for name in PRESETS if name != "llama-api"))


def choices_text() -> str:
    """
    How to choose an endpoint.

    :returns: Lines for an error text.
    """
    presets = ", ".join(name for name in PRESETS if name != "llama-api")
    choices = [
        f"set LLAMA_AGENT_ENDPOINT (or --endpoint, or api_base_url=) to a preset: {presets}",
        "or to the base URL of any OpenAI-compatible server, e.g. http://localhost:8080/v1",
    ]
    if importlib.util.find_spec("xllamacpp") is None:
        choices.append("or install the embedded model: pip install 'llama-agent-haystack[embedded]'")
    return "\n".join(["Choose one:", *(f"  - {choice}" for choice in choices)])


def _default_name() -> str:
    if importlib.util.find_spec("xllamacpp") is not None:
        return "embedded"
    raise ConfigurationError(
        f"No model endpoint is chosen, and the embedded model isn't installed. {choices_text()}"
    )


def _look_up(name: str) -> tuple[EndpointProfile, str, str | None]:
    kind, colon, rest = name.partition(":")
    if kind == "embedded":
        # The little helps are for the 135M model; a larger model that a user names chooses by itself.
        profile = PRESETS["embedded"]
        if rest:
            profile = replace(profile, small_model=False)
        return profile, "", rest
    if not colon and (profile := PRESETS.get(name)) is not None:
        return profile, profile.base_url, None
    if not _is_http_url(name):
        near = nearest(name.lower(), PRESETS)
        meant = f"'{near}'" if near else (f"'http://{name}'" if ":" in name and "//" not in name else "")
        hint = f" Did you mean {meant}?" if meant else ""
        raise ConfigurationError(f"'{name}' is neither a preset nor an http(s) URL.{hint} {choices_text()}")
    for profile in PRESETS.values():
        if profile.base_url and _same_server(profile.base_url, name):
            return profile, name, None
    return EndpointProfile("custom", name), name, None


def _same_server(preset: str, given: str) -> bool:
    """Whether a URL is a preset's own, by whatever name this machine goes."""
    ours, theirs = urlsplit(preset), urlsplit(given)
    same_path = ours.path.rstrip("/") == theirs.path.rstrip("/")
    return same_path and (ours.scheme, _host(ours)) == (theirs.scheme, _host(theirs))


def _host(parts: SplitResult) -> str:
    host = (parts.hostname or "").lower()
    name = "localhost" if host in ("127.0.0.1", "::1") else host
    return name if parts.port is None else f"{name}:{parts.port}"


def _is_http_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _own_secret(api_key: Secret | None, base_url: str) -> Secret | None:
    """
    The secret a caller chose for this host; None where it is only the published default.

    `LLAMA_API_KEY` belongs to `*.llama.com`: it is struck from a list of variables for any other host.
    """
    if api_key is None:
        return None
    try:
        told = api_key.to_dict()
        variables = cast("list[str]", told.get("env_vars") or [])
    except ValueError:
        return api_key  # a token, which can't be told as a dictionary
    if variables == [PUBLISHED_KEY_VARIABLE]:
        return None
    if PUBLISHED_KEY_VARIABLE in variables and not is_retired_host(base_url):
        others = [name for name in variables if name != PUBLISHED_KEY_VARIABLE]
        return Secret.from_env_var(others, strict=bool(told.get("strict", True)))
    return api_key


def _key(profile: EndpointProfile, base_url: str, api_key: Secret | None, *, belongs: bool) -> str | None:
    if profile.name == "embedded":
        return None
    if (own := _own_secret(api_key, base_url)) is not None:
        try:
            return own.resolve_value()
        except ValueError as error:
            raise ConfigurationError(f"the key for {base_url} can't be had: {error}") from error
    if belongs and (key := os.environ.get("LLAMA_AGENT_API_KEY")):
        return key
    if is_retired_host(base_url):
        if key := os.environ.get(PUBLISHED_KEY_VARIABLE):
            return key
        raise ConfigurationError(f"LLAMA_API_KEY isn't set; but it would not help either. {retired_text()}")
    if profile.key_variable is None:
        return None
    if key := os.environ.get(profile.key_variable):
        return key
    raise ConfigurationError(
        f"The endpoint '{profile.name}' needs a key: set {profile.key_variable} or LLAMA_AGENT_API_KEY, "
        "or pass api_key=."
    )
