"""The helps for the very small model: what they cut out of a request, and grammars that the server takes."""

from collections.abc import Callable, Iterator

import httpx2
import pytest

from llama_agent.model.embedded import EmbeddedServer
from llama_agent.model.small_model import _chunks, _literal, answer_grammar, span_grammar
from llama_agent.tooling.given_tools import as_tools

ODD: dict[str, str] = {
    "nothing": "",
    "blanks": " \t\n ",
    "one word": "llama",
    "quotes": 'Say "hello" and \'bye\' and “well” to """ him',
    "an open quote": 'Say "hello',
    "backslashes": "C:\\temp\\new \\ \\\\ \\x41 \\u0041 \\",
    "newlines": "first\nsecond\r\nthird\rfourth\n",
    "grammar signs": 'root ::= ("a" | [b-c]* )+ ? {3} # . ::= | )',
    "emoji": "🦙🦙 👩‍👩‍👧 🇵🇪 é",
    "other scripts": "你好 世界 مرحبا שלום नमस्ते",
    "separators": "a\u2028b\u2029c\x85d\x1ce\u00a0f",
    "control characters": "bell \x07 escape \x1b[2J delete \x7f",
    "a nul": "before\x00after next",
    "a long word": "x" * 5_000,
    "punctuation only": "?!., ... --- “” ''",
    "ten thousand words": " ".join(f"word{number}" for number in range(10_000)),
    "one word often": "very " * 2_000,
}


def reverse_text(text: str) -> str:
    """Reverse a text, so that it reads backwards."""
    return text[::-1]


(REVERSE,) = as_tools([reverse_text])


@pytest.fixture(scope="module")
def complaint() -> Iterator[Callable[[str], str]]:
    """What the real server says against a grammar; empty when it takes it."""
    server = EmbeddedServer.acquire("")

    def of(grammar: str) -> str:
        body = {"prompt": "Say:", "n_predict": 1, "grammar": grammar, "temperature": 0}
        answer = client.post(f"{server.base_url.removesuffix('/v1')}/completion", json=body)
        return "" if answer.status_code == 200 else answer.text

    headers = {"Authorization": f"Bearer {server.api_key}"}
    with httpx2.Client(headers=headers, timeout=30, trust_env=False) as client:
        yield of
    server.release()


@pytest.mark.parametrize("case", ODD)
def test_the_server_takes_a_grammar_of_the_words_of_any_request(
    complaint: Callable[[str], str], case: str
) -> None:
    _, chunks = _chunks(ODD[case], REVERSE, [])
    for pieces in ([ODD[case]], chunks):
        grammar = span_grammar(pieces)
        assert grammar is None or complaint(grammar) == ""


@pytest.mark.parametrize("case", ODD)
def test_the_server_takes_an_answer_grammar_of_any_request_and_result(
    complaint: Callable[[str], str], case: str
) -> None:
    assert complaint(answer_grammar(ODD[case], "42")) == ""
    assert complaint(answer_grammar("Why?", " ".join(ODD[case].split())[:600])) == ""


def test_the_servers_grammar_check_can_fail(complaint: Callable[[str], str]) -> None:
    assert "grammar" in complaint('root ::= "open')


@pytest.mark.parametrize(
    ("text", "literal"),
    [
        ("plain", '"plain"'),
        ('a "b"', '"a \\"b\\""'),
        ("a\\b", '"a\\\\b"'),
        ("a\nb\rc", '"a\\nb\\rc"'),
        ('\\"', '"\\\\\\""'),
    ],
)
def test_a_literal_is_escaped(text: str, literal: str) -> None:
    assert _literal(text) == literal


def test_a_span_begins_at_no_function_word_and_goes_on_in_the_texts_order() -> None:
    assert span_grammar(["the red car"]) == (
        'root ::= " "? (w0x1 | w0x2) "\\n"\n'
        'w0x0 ::= "the" (" " w0x1)?\n'
        'w0x1 ::= "red" (" " w0x2)?\n'
        'w0x2 ::= "car"'
    )


@pytest.mark.parametrize("pieces", [[], [""], ["the", "of a"]])
def test_without_a_word_to_copy_there_is_no_grammar(pieces: list[str]) -> None:
    assert span_grammar(pieces) is None


@pytest.mark.parametrize(
    ("request_text", "literal"),
    [
        ('Reverse the text "Lama glama".', ["Lama glama"]),
        ("Reverse “Lama glama” please", ["Lama glama"]),
        ("Reverse 'it is'", ["it is"]),
        ("Reverse this: one two three", ["one two three"]),
        ('Reverse "a b" and then "c d"', ["a b", "c d"]),
        ("Don't reverse what isn't there", []),
    ],
)
def test_what_is_quoted_or_stands_behind_a_colon_is_taken_literally(
    request_text: str, literal: list[str]
) -> None:
    assert _chunks(request_text, REVERSE, [])[0] == literal


def test_words_that_name_the_tool_are_no_argument() -> None:
    assert _chunks("Reverse the text llama", REVERSE, [])[1] == ["llama"]


def test_what_another_argument_has_taken_is_not_taken_again() -> None:
    _, chunks = _chunks("Repeat llama 3 times", REVERSE, ["3"])
    assert not any("3" in chunk for chunk in chunks)
