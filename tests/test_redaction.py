"""Secrets are masked, and ordinary words aren't."""

import pytest

from llama_agent.redaction import redact, remember_secret


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("Authorization: Bearer sk-abc.DEF_123", "sk-abc.DEF_123"),
        ("authorization=basic dXNlcjpwYXNz", "dXNlcjpwYXNz"),
        ("GET https://host/v1?api_key=s3cr3t&x=1", "s3cr3t"),
        ("https://host/path?x=1&token=t0ken-value", "t0ken-value"),
        ("connecting to http://user:hunter22@host:8080/v1", "hunter22"),
    ],
)
def test_a_secret_is_masked(text: str, secret: str) -> None:
    masked = redact(text)
    assert secret not in masked
    assert "***" in masked


def test_a_remembered_secret_is_masked_wherever_it_stands() -> None:
    remember_secret("correct horse battery")
    assert redact("he said correct horse battery, twice") == "he said ***, twice"


@pytest.mark.parametrize(
    "text", ["", "the key to success", "a token of love", "http://host:8080/v1?page=2", "12:30"]
)
def test_ordinary_text_stays(text: str) -> None:
    assert redact(text) == text


def test_a_long_text_takes_no_longer_than_its_length_allows() -> None:
    # Alike characters are what makes patterns backtrack; this ends in a moment or never.
    assert len(redact("://" + "a" * 200_000 + "?key=" * 1000)) > 1000


@pytest.mark.parametrize(
    "text", ["basic authentication disabled; use bearer tokens", "a bearer certificate", "Basic English"]
)
def test_words_after_bearer_and_basic_are_not_taken_for_credentials(text: str) -> None:
    assert redact(text) == text


def test_a_text_is_cut_after_its_secrets_are_masked() -> None:
    remember_secret("tok-abcdef-1234567890")
    assert "tok" not in redact("x" * 10 + "tok-abcdef-1234567890", limit=15)


def test_the_longer_of_two_secrets_is_masked_first() -> None:
    remember_secret("tok-zyxwvu")
    remember_secret("tok-zyxwvu-production-9999")
    assert redact("tok-zyxwvu-production-9999") == "***"
