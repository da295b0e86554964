"""What a user is told when the endpoint fails, and what never leaves: the conversation, and the keys."""

import asyncio
import re
import socket
import traceback
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from haystack.dataclasses import ChatMessage
from haystack.utils import Secret
from openai.resources.chat.completions import AsyncCompletions, Completions

from llama_agent import EndpointError, LlamaAgentError, MetaLlamaChatGenerator
from tests.endpoint import Always, Drop, Endpoint, Item, Raw, Reply, Request, Status

PLAIN_HTTP = {"verify": False}
"""No certificates are loaded for each client: that would take most of these tests' time."""
QUESTION = [ChatMessage.from_user("The secret of the house is 42.")]
KEY = "sk-very-secret-0123456789"

Maker = Callable[..., MetaLlamaChatGenerator]


@pytest.fixture
def make(make: Maker) -> Maker:
    return lambda **settings: make(**{"api_key": Secret.from_token(KEY), **settings})


def ask(generator: MetaLlamaChatGenerator, *, way: str = "sync", stream: bool = False) -> ChatMessage:
    kwargs = {"stream": stream}

    async def asked() -> ChatMessage:
        try:
            return (await generator.run_async(QUESTION, generation_kwargs=kwargs))["replies"][0]
        finally:
            await generator.close_async()

    if way == "async":
        return asyncio.run(asked())
    return generator.run(QUESTION, generation_kwargs=kwargs)["replies"][0]


def failure(generator: MetaLlamaChatGenerator, *, way: str = "sync", stream: bool = False) -> EndpointError:
    with pytest.raises(EndpointError) as caught:
        ask(generator, way=way, stream=stream)
    return caught.value


every_way = pytest.mark.parametrize(
    ("way", "stream"), [("sync", False), ("sync", True), ("async", False), ("async", True)]
)


# What the server said, in every shape


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (
            {"error": {"message": "max_tokens is too large", "type": "invalid_request_error"}},
            "max_tokens is too large",
        ),
        ({"error": {"message": "too large", "code": 400, "metadata": {"raw": "x"}}}, "too large"),
        ({"error": "model 'x' not found"}, "model 'x' not found"),
        (
            {"title": "Bad request", "detail": 'Unexpected param value `a`: "1"', "status": 400},
            "param value `a`",
        ),
        ({"title": "Bad request", "status": 400}, "Bad request"),
        ({"object": "error", "message": "This model's maximum context length is 8192", "code": 400}, "8192"),
        ({"detail": [{"loc": ["body", "temperature"], "msg": "value is too hot"}]}, "value is too hot"),
        ({"detail": {"reason": "no such field"}}, "no such field"),
        ({"errors": [{"code": 7009, "message": "no route for that URI"}]}, "no route for that URI"),
        ({"message": "flat"}, "flat"),
        ({"error": {"code": "weird_code"}}, "weird_code"),
        ("plain words", "plain words"),
        ('[{"error": {"message": "in a list"}}]', "in a list"),
        ("{broken json", "broken json"),
        ({"error": {"message": "größer als erlaubt 🦙"}}, "größer als erlaubt 🦙"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_the_error_shows_what_the_server_said_whatever_its_shape(
    make: Maker, endpoint: Endpoint, body: Mapping[str, Any] | str, said: str, stream: bool
) -> None:
    endpoint.script(Status(400, body))
    error = failure(make(), stream=stream)
    assert said in str(error)
    assert "400" in str(error)
    assert endpoint.url in str(error)
    assert (error.status, error.retryable) == (400, False)
    assert error.body
    assert error.result is None
    assert isinstance(error, LlamaAgentError)


@every_way
def test_it_is_the_same_error_in_every_way_of_asking(
    make: Maker, endpoint: Endpoint, way: str, stream: bool
) -> None:
    endpoint.script(Status(422, {"detail": "no"}))
    error = failure(make(), way=way, stream=stream)
    assert (type(error), error.status, error.retryable) == (EndpointError, 422, False)
    assert "no" in str(error)


@pytest.mark.parametrize("body", ["", "  \n "])
def test_an_error_without_a_word_still_names_its_status(make: Maker, endpoint: Endpoint, body: str) -> None:
    endpoint.script(Status(418, body))
    error = failure(make())
    assert "418" in str(error)
    assert endpoint.url in str(error)


def test_a_web_page_as_error_is_shown_short(make: Maker, endpoint: Endpoint) -> None:
    page = f"<html><head><title>502 Bad Gateway</title></head><body>{'<p>nginx</p>' * 2000}</body></html>"
    endpoint.script(Status(502, page))
    error = failure(make())
    assert "502 Bad Gateway" in str(error)
    assert len(str(error)) < 600
    assert len(error.body or "") <= 4000


def test_an_endless_error_message_is_cut(make: Maker, endpoint: Endpoint) -> None:
    endpoint.script(Status(400, {"error": {"message": "far too much " * 20_000}}))
    error = failure(make())
    assert "far too much" in str(error)
    assert len(str(error)) < 5000
    assert len(error.body or "") <= 4000


def test_401_says_where_the_key_comes_from(make: Maker, endpoint: Endpoint) -> None:
    endpoint.script(Status(401, {"error": {"message": "bad key"}}))
    error = failure(make())
    for part in ("bad key", "api_key", "LLAMA_AGENT_API_KEY"):
        assert part in str(error)


def test_404_points_to_the_base_url_and_the_models_name(make: Maker, endpoint: Endpoint) -> None:
    error = failure(make(api_base_url=endpoint.url.removesuffix("/v1")))
    for part in ("404", "/v1", "model"):
        assert part in str(error)


def test_other_statuses_give_neither_hint(make: Maker, endpoint: Endpoint) -> None:
    endpoint.script(Status(400, {"error": "no"}))
    error = failure(make())
    assert "LLAMA_AGENT_API_KEY" not in str(error)
    assert "/v1." not in str(error)


@every_way
def test_a_server_that_is_not_there_is_named(make: Maker, way: str, stream: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    error = failure(make(api_base_url=f"http://127.0.0.1:{port}/v1"), way=way, stream=stream)
    assert f"127.0.0.1:{port}" in str(error)
    assert "running" in str(error)
    assert (error.status, error.retryable) == (None, True)


@every_way
def test_a_connection_that_is_reset_is_an_endpoint_error(
    make: Maker, endpoint: Endpoint, way: str, stream: bool
) -> None:
    endpoint.script(Drop())
    error = failure(make(), way=way, stream=stream)
    assert endpoint.url in str(error)
    assert (error.status, error.retryable) == (None, True)


@every_way
def test_a_server_that_is_too_slow_is_told_with_what_to_do(
    make: Maker, endpoint: Endpoint, way: str, stream: bool
) -> None:
    endpoint.script(Reply("late", first_pause=5))
    error = failure(make(timeout=0.1), way=way, stream=stream)
    assert endpoint.url in str(error)
    assert "timeout" in str(error)
    assert error.retryable


# Status 200 that is no reply


@every_way
@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"error": {"message": "the model crashed", "code": 500}}, "the model crashed"),
        ({"error": {"message": "no credits left", "code": 402}, "user_id": "u"}, "no credits left"),
        ({"error": "out of memory"}, "out of memory"),
        ({"object": "error", "message": "context is too long", "code": 400}, "context is too long"),
        ({"choices": [], "error": {"message": "provider failed"}}, "provider failed"),
    ],
)
def test_an_error_with_status_200_is_an_error_that_shows_what_the_server_said(
    make: Maker, endpoint: Endpoint, body: Mapping[str, Any], said: str, way: str, stream: bool
) -> None:
    endpoint.script(Status(200, body))
    assert said in str(failure(make(), way=way, stream=stream))


@every_way
def test_an_error_in_the_midst_of_a_stream_is_shown(
    make: Maker, endpoint: Endpoint, way: str, stream: bool
) -> None:
    first = b'data: {"choices": [{"index": 0, "delta": {"content": "fi"}}]}\n\n'
    endpoint.script(
        Raw(
            [first, b'data: {"error": {"message": "the GPU fell off", "code": 500}}\n\n'], "text/event-stream"
        )
    )
    error = failure(make(generation_kwargs={"stream": True}), way=way, stream=True)
    assert "the GPU fell off" in str(error)
    assert error.status == 500


@every_way
@pytest.mark.parametrize("body", [{"choices": []}, {"choices": None}, {}, {"object": "chat.completion"}])
def test_an_answer_without_choices_is_an_error_and_not_an_empty_reply(
    make: Maker, endpoint: Endpoint, body: Mapping[str, Any], way: str, stream: bool
) -> None:
    endpoint.script(Status(200, body))
    error = failure(make(), way=way, stream=stream)
    assert error.body is None or len(error.body) <= 4000


def test_an_answer_without_choices_says_so(make: Maker, endpoint: Endpoint) -> None:
    endpoint.script(Status(200, {"choices": []}))
    assert "choices" in str(failure(make()))


@every_way
@pytest.mark.parametrize(
    "body", ["<html><title>Welcome to nginx!</title></html>", "", "null", '["a"]', '{"choices": [']
)
def test_a_page_instead_of_a_reply_is_an_endpoint_error_that_shows_it(
    make: Maker, endpoint: Endpoint, body: str, way: str, stream: bool
) -> None:
    endpoint.script(Status(200, body))
    error = failure(make(), way=way, stream=stream)
    assert body[:20] in str(error)


# Redirects


def _redirect(location: str, code: int = 307) -> dict[tuple[str, str], Callable[[Request], Item]]:
    """Answers below /old with a redirect; {host} and {port} in `location` are the asked server's own."""

    def answer(request: Request) -> Item:
        host = request.headers["host"]
        target = location.format(host=host, port=host.rpartition(":")[2])
        return Status(code, "", {"Location": target})

    return {("POST", "/old/chat/completions"): answer}


def _old(endpoint: Endpoint) -> str:
    return endpoint.url.removesuffix("/v1") + "/old"


@every_way
@pytest.mark.parametrize("code", [307, 308])
@pytest.mark.parametrize("absolute", [False, True])
def test_a_redirect_within_the_origin_is_followed_with_body_and_key(
    make: Maker, code: int, absolute: bool, way: str, stream: bool
) -> None:
    target = "http://{host}/v1/chat/completions" if absolute else "/v1/chat/completions"
    with Endpoint(routes=_redirect(target, code)) as endpoint:
        endpoint.script(Reply("5"))
        assert ask(make(api_base_url=_old(endpoint)), way=way, stream=stream).text == "5"
        first, second = endpoint.all_requests
        assert second.body == first.body
        assert second.messages[0]["content"] == QUESTION[0].text
        assert second.headers["authorization"] == f"Bearer {KEY}"
        assert second.headers["content-type"] == "application/json"


@pytest.mark.parametrize("code", [301, 302])
def test_an_old_redirect_within_the_origin_is_not_called_another_origin(make: Maker, code: int) -> None:
    with Endpoint(routes=_redirect("/v1/chat/completions", code), strict=False) as endpoint:
        endpoint.script(Reply("5"))
        try:
            text = ask(make(api_base_url=_old(endpoint))).text
        except EndpointError as error:
            text = str(error)
        assert "another origin" not in (text or "")


@every_way
@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_a_redirect_to_another_origin_is_refused_by_name_and_nothing_arrives_there(
    make: Maker, code: int, way: str, stream: bool
) -> None:
    with Endpoint() as other:
        target = f"{other.url}/chat/completions"
        with Endpoint(routes=_redirect(target, code)) as endpoint:
            error = failure(make(api_base_url=_old(endpoint), max_retries=2), way=way, stream=stream)
            assert len(endpoint.all_requests) == 1
        assert other.all_requests == []
    assert target in str(error)
    assert (error.status, error.retryable) == (code, False)


@pytest.mark.parametrize(
    "elsewhere",
    ["http://localhost:{port}/v1/chat/completions", "https://127.0.0.1:{port}/v1/chat/completions"],
)
def test_another_name_or_scheme_for_the_same_server_is_another_origin(make: Maker, elsewhere: str) -> None:
    with Endpoint(routes=_redirect(elsewhere)) as endpoint:
        error = failure(make(api_base_url=_old(endpoint)))
        assert elsewhere.partition("{")[0] in str(error)
        assert len(endpoint.all_requests) == 1


def test_a_redirect_that_goes_on_to_another_origin_is_refused_there(make: Maker) -> None:
    with Endpoint() as other:
        routes = {
            **_redirect("/older/chat/completions"),
            ("POST", "/older/chat/completions"): Status(
                308, "", {"Location": f"{other.url}/chat/completions"}
            ),
        }
        with Endpoint(routes=routes) as endpoint:
            assert other.url in str(failure(make(api_base_url=_old(endpoint))))
            assert len(endpoint.all_requests) == 2
        assert other.all_requests == []


@every_way
def test_redirects_in_a_circle_end_in_an_error(make: Maker, way: str, stream: bool) -> None:
    with Endpoint(routes=_redirect("/old/chat/completions")) as endpoint:
        error = failure(make(api_base_url=_old(endpoint), max_retries=3), way=way, stream=stream)
        assert "redirect" in str(error)
        assert len(endpoint.all_requests) <= 10


@pytest.mark.parametrize("code", [301, 302, 307, 308])
@pytest.mark.parametrize("way", ["sync", "async"])
def test_the_list_of_models_may_be_redirected_within_the_origin(make: Maker, code: int, way: str) -> None:
    routes = {
        ("GET", "/v1/models"): Status(code, "", {"Location": "/models"}),
        ("GET", "/models"): Status(200, {"data": [{"id": "found"}]}),
    }
    with Endpoint(routes=routes) as endpoint:
        endpoint.script(Reply("5"))
        ask(make(api_base_url=endpoint.url, model=None), way=way)
        assert endpoint.requests[0].json["model"] == "found"


@pytest.mark.parametrize("way", ["sync", "async"])
def test_the_list_of_models_is_not_fetched_from_another_origin(make: Maker, way: str) -> None:
    with Endpoint() as other:
        target = f"{other.url}/models"
        with Endpoint(routes={("GET", "/v1/models"): Status(307, "", {"Location": target})}) as endpoint:
            assert target in str(failure(make(api_base_url=endpoint.url, model=None), way=way))
        assert other.all_requests == []


@every_way
def test_a_wrapped_create_does_not_follow_to_another_origin_either(
    make: Maker, monkeypatch: pytest.MonkeyPatch, way: str, stream: bool
) -> None:
    owner = AsyncCompletions if way == "async" else Completions
    original = owner.create

    def create(*args: Any, **kwargs: Any) -> Any:
        return original(*args, **kwargs)

    create.__wrapped__ = original  # type: ignore[attr-defined]
    monkeypatch.setattr(owner, "create", create)
    with Endpoint() as other:
        target = f"{other.url}/chat/completions"
        with Endpoint(routes=_redirect(target)) as endpoint:
            assert target in str(failure(make(api_base_url=_old(endpoint)), way=way, stream=stream))
        assert other.all_requests == []


def test_http_client_settings_cannot_switch_redirects_on(make: Maker) -> None:
    with Endpoint() as other:
        with Endpoint(routes=_redirect(f"{other.url}/chat/completions")) as endpoint:
            failure(make(api_base_url=_old(endpoint), http_client_kwargs={"follow_redirects": True}))
        assert other.all_requests == []


# Secrets


ECHOES = [
    pytest.param(Status(401, {"error": {"message": f"Incorrect API key: {KEY}"}}), id="401"),
    pytest.param(Status(400, f"<html>You sent Authorization: Bearer {KEY}</html>"), id="page"),
    pytest.param(Status(400, "x" * (4000 - len(KEY) // 2) + KEY), id="at the cut"),
    pytest.param(
        Status(400, {"error": {"message": "no", "headers": {"authorization": f"Bearer {KEY}"}}}), id="body"
    ),
    pytest.param(Status(200, {"error": {"message": f"Incorrect API key: {KEY}"}}), id="error in 200"),
    pytest.param(Status(200, f"<html>You sent {KEY}</html>"), id="page with 200"),
    pytest.param(Status(200, {"choices": [], "echo": KEY}), id="no choices"),
    pytest.param(Status(307, "", {"Location": f"http://127.0.0.1:1/v1?api_key={KEY}"}), id="redirect"),
]


def _texts(error: EndpointError) -> str:
    return f"{error} {error!r} {error.body}"


@pytest.mark.parametrize("echo", ECHOES)
@pytest.mark.parametrize("stream", [False, True])
def test_a_key_that_the_server_echoes_is_not_in_the_error(
    make: Maker, endpoint: Endpoint, echo: Status, stream: bool
) -> None:
    endpoint.script(echo)
    texts = _texts(failure(make(), stream=stream))
    assert KEY not in texts
    assert KEY[: len(KEY) // 2] not in texts


def test_a_key_that_a_stream_echoes_is_not_in_the_error(make: Maker, endpoint: Endpoint) -> None:
    event = f'data: {{"error": {{"message": "Incorrect API key: {KEY}"}}}}\n\n'
    endpoint.script(Raw([event.encode()], "text/event-stream"))
    assert KEY not in _texts(failure(make(), stream=True))


def test_a_key_that_the_server_echoes_is_not_in_the_traceback(make: Maker, endpoint: Endpoint) -> None:
    endpoint.script(Status(401, {"error": {"message": f"Incorrect API key: {KEY}"}}))
    error = failure(make())
    assert KEY not in "".join(traceback.format_exception(error))


@pytest.mark.parametrize(
    "answer",
    [
        Status(500),
        Drop(),
        Reply("late", first_pause=5),
        Status(307, "", {"Location": "http://127.0.0.1:1/v1"}),
        Status(200, "<html></html>"),
    ],
    ids=["500", "reset", "silence", "redirect", "page"],
)
def test_a_password_in_the_base_url_is_not_in_the_error(
    make: Maker, endpoint: Endpoint, answer: Item
) -> None:
    endpoint.script(answer)
    base_url = endpoint.url.replace("http://", "http://user:pass-in-url@")
    assert "pass-in-url" not in _texts(failure(make(api_base_url=base_url, timeout=0.2)))


def test_a_password_in_the_base_url_is_not_in_the_error_about_models(make: Maker) -> None:
    for models in ([], ["a", "b"]):
        with Endpoint(models) as endpoint:
            base_url = endpoint.url.replace("http://", "http://user:pass-in-url@")
            with pytest.raises(LlamaAgentError) as caught:
                ask(make(api_base_url=base_url, model=None))
            assert "pass-in-url" not in str(caught.value)


def test_the_conversation_is_not_in_the_error(make: Maker, endpoint: Endpoint) -> None:
    endpoint.script(Status(500, {"error": "boom"}), Drop())
    generator = make()
    for _ in range(2):
        assert "42" not in re.sub(r":\d+", "", str(failure(generator)))


def test_after_a_failure_the_next_question_is_answered(make: Maker, endpoint: Endpoint) -> None:
    endpoint.script(Status(400, {"error": "no"}), Drop(), Status(200, "junk"), Always(Reply("5")))
    generator = make()
    for _ in range(3):
        failure(generator)
    assert ask(generator).text == "5"
    assert ask(generator, stream=True).text == "5"
