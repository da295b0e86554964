"""The calculator that is given to models: right values, clear errors, and nothing that takes long."""

import math
from fractions import Fraction
from time import monotonic
from typing import Any

import pytest
from haystack.tools.errors import ToolInvocationError
from hypothesis import given, settings
from hypothesis import strategies as st
from llama_agent_tools import calculator

from llama_agent import ToolRetry
from tests.endpoint import Endpoint
from tests.test_tools import call, definitions, told

calculate = calculator.calculate
SECONDS = 5.0
"""More than any expression may take, on a slow machine."""


def refused(expression: str) -> str:
    """What the model is told of an expression without a value."""
    with pytest.raises(ToolRetry) as caught:
        calculate(expression)
    return str(caught.value)


# Values

VALUES = {
    "whole numbers": [
        ("17 + 25", "42"),
        ("17+25", "42"),
        ("2 - 3", "-1"),
        ("6 * 7", "42"),
        ("84 / 2", "42"),
        ("0", "0"),
        ("007", "7"),
        ("1_000_000 + 1", "1000001"),
        ("  \t 1 \n + 2 ", "3"),
        ("123456789 * 987654321", "121932631112635269"),
        ("2 ** 100", "1267650600228229401496703205376"),
        ("10 ** 40", "1" + 40 * "0"),
        ("99999999999999999999 + 1", "100000000000000000000"),
    ],
    "decimals": [
        ("0.1 + 0.2", "0.3"),
        ("0.1 * 3", "0.3"),
        ("1.10 - 1", "0.1"),
        (".5 + 5.", "5.5"),
        ("1e3", "1000"),
        ("1.5E-3", "0.0015"),
        ("2.50", "2.5"),
        ("100.00", "100"),
        ("1 / 8", "0.125"),
        ("1 / 3", "0." + 30 * "3"),
        ("2 / 3", "0." + 29 * "6" + "7"),
        ("1 / 3 * 3", "1"),
        ("19.99 * 3", "59.97"),
        ("1234567.89 * 100", "123456789"),
        ("1 - 0.9", "0.1"),
        ("0.0001", "0.0001"),
    ],
    "precedence": [
        ("2 + 3 * 4", "14"),
        ("(2 + 3) * 4", "20"),
        ("2 * 3 + 4", "10"),
        ("10 - 4 - 3", "3"),
        ("100 / 10 / 2", "5"),
        ("100 / 10 * 2", "20"),
        ("8 // 3 * 3", "6"),
        ("7 % 4 * 2", "6"),
        ("2 ** 3 ** 2", "512"),
        ("(2 ** 3) ** 2", "64"),
        ("-2 ** 2", "-4"),
        ("(-2) ** 2", "4"),
        ("2 ** -1", "0.5"),
        ("2 ** -2 ** 2", "0.0625"),
        ("2 * -3", "-6"),
        ("2 - -3", "5"),
        ("2--3", "5"),
        ("--3", "3"),
        ("+-+3", "-3"),
        ("2 ** 3!", "64"),
        ("-3!", "-6"),
        ("3!!", "720"),
        ("((((7))))", "7"),
        ("2 + 2 ** 2 * 2", "10"),
        ("-7 // 2", "-4"),
        ("-(7 // 2)", "-3"),
    ],
    "quotients and remainders": [
        ("7 // 2", "3"),
        ("7 // -2", "-4"),
        ("-7 // -2", "3"),
        ("7 % 3", "1"),
        ("-7 % 3", "2"),
        ("7 % -3", "-2"),
        ("-7 % -3", "-1"),
        ("5.5 % 2", "1.5"),
        ("0.3 % 0.1", "0"),
        ("1 // 0.1", "10"),
        ("7 // 0.3", "23"),
        ("6 % 3", "0"),
        ("-6 % 3", "0"),
        ("0 // 5", "0"),
        ("1e30 % 7", "1"),
    ],
    "functions": [
        ("sqrt(2)", "1.41421356237309504880168872421"),
        ("sqrt(144)", "12"),
        ("sqrt(0)", "0"),
        ("sqrt(2) ** 2", "2"),
        ("(17 + 25) * sqrt(2)", "59.3969696196699920496709264168"),
        ("abs(-3.5)", "3.5"),
        ("abs(2 - 5)", "3"),
        ("round(2.5)", "3"),
        ("round(-2.5)", "-3"),
        ("round(0.5)", "1"),
        ("round(2.675, 2)", "2.68"),
        ("round(1.005, 2)", "1.01"),
        ("round(1234.5, -2)", "1200"),
        ("round(3.14159, 0)", "3"),
        ("floor(-1.5)", "-2"),
        ("floor(1.9)", "1"),
        ("ceil(-1.5)", "-1"),
        ("ceil(1.1)", "2"),
        ("ceil(-0.5)", "0"),
        ("max(1, 2.5, -3)", "2.5"),
        ("min(1, 2.5, -3)", "-3"),
        ("max(7)", "7"),
        ("max(1 + 1, 2 * 2)", "4"),
        ("gcd(12, 18)", "6"),
        ("gcd(-12, 18)", "6"),
        ("gcd(12, 18, 27)", "3"),
        ("gcd(0, 5)", "5"),
        ("factorial(5)", "120"),
        ("factorial(0)", "1"),
        ("factorial(20) / factorial(18)", "380"),
        ("25!", "15511210043330985984000000"),
        ("ln(e)", "1"),
        ("log(e)", "1"),
        ("log(8, 2)", "3"),
        ("log(100, 10)", "2"),
        ("log10(1000)", "3"),
        ("floor(log(8, 2))", "3"),
        ("ceil(log(1024, 2))", "10"),
        ("exp(0)", "1"),
        ("exp(1)", "2.71828182845904523536028747135"),
        ("ln(exp(2))", "2"),
        ("SQRT(4) + Sqrt(9)", "5"),
        ("sqrt(sqrt(16))", "2"),
        ("27 ** (1 / 3)", "3"),
        ("2 ** 0.5", "1.41421356237309504880168872421"),
    ],
    "angles": [
        ("pi", "3.14159265358979323846264338328"),
        ("PI", "3.14159265358979323846264338328"),
        ("e", "2.71828182845904523536028747135"),
        ("sin(0)", "0"),
        ("sin(pi)", "0"),
        ("sin(pi / 6)", "0.5"),
        ("sin(radians(30))", "0.5"),
        ("cos(0)", "1"),
        ("cos(pi)", "-1"),
        ("cos(pi / 2)", "0"),
        ("tan(pi / 4)", "1"),
        ("tan(0)", "0"),
        ("degrees(pi)", "180"),
        ("radians(180)", "3.14159265358979323846264338328"),
        ("degrees(radians(60))", "60"),
    ],
    "signs that people write": [
        ("6 × 7", "42"),
        ("84 ÷ 2", "42"),
        ("5 − 7", "-2"),
        ("6 · 7", "42"),
        ("2 ^ 10", "1024"),
        ("π * 2", "6.28318530717958647692528676656"),
        ("√(9)", "3"),
        ("2^3^2", "512"),
    ],
    "zeros and powers": [
        ("-0", "0"),
        ("0 * -1.5", "0"),
        ("0 - 0.0", "0"),
        ("0 ** 0", "1"),
        ("0 ** 5", "0"),
        ("5 ** 0", "1"),
        ("1 ** 1e999", "1"),
        ("(-1) ** 1001", "-1"),
        ("(-2) ** 3", "-8"),
        ("(-2) ** -3", "-0.125"),
        ("4 ** 0.5", "2"),
        ("1e-400 * 1e400", "1"),
        ("0e999999 + 1", "1"),
    ],
}
TABLE = [(text, value) for group in VALUES.values() for text, value in group]


@pytest.mark.parametrize(("expression", "value"), TABLE, ids=[text.strip() for text, _ in TABLE])
def test_an_expression_has_the_value_that_a_person_expects(expression: str, value: str) -> None:
    assert calculate(expression) == value


def test_the_table_has_many_rows() -> None:
    assert len(TABLE) >= 120


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("2 ** 200", 2**200),
        ("factorial(100)", math.factorial(100)),
        ("400!", math.factorial(400)),
        ("123456789 ** 20", 123456789**20),
        ("1e1000", 10**1000),
        ("1e-1000", Fraction(1, 10**1000)),
        ("1 / 7e100", Fraction(1, 7 * 10**100)),
        ("7 * 10 ** 300 / 3", Fraction(7 * 10**300, 3)),
    ],
)
def test_very_large_and_small_values_have_30_right_digits(expression: str, value: Fraction | int) -> None:
    exact = Fraction(value)
    assert abs(Fraction(calculate(expression)) - exact) <= exact * Fraction(1, 10**29)


def test_zero_has_no_remainder_however_small_the_divisor() -> None:
    assert (calculate("0 // 1e-60"), calculate("0 % 1e-60")) == ("0", "0")


# Errors say what to do


ERRORS = [
    ("1 / 0", ["division by zero"]),
    ("1 // 0", ["division by zero"]),
    ("1 % 0", ["division by zero"]),
    ("0 / 0", ["division by zero"]),
    ("1 / (2 - 2)", ["division by zero"]),
    ("0 ** -1", ["division by zero"]),
    ("", ["number"]),
    ("   ", ["number"]),
    ("1 +", ["number", "the end"]),
    ("* 2", ["number", "'*'", "character 1"]),
    ("(1 + 2", ["')'", "the end"]),
    ("1 + 2)", ["')'", "character 6"]),
    ("()", ["number"]),
    ("5 5", ["operator", "character 3"]),
    ("2(3 + 4)", ["operator", "'('"]),
    ("1.2.3", ["operator"]),
    ("5 km + 3 km", ["operator", "'km'"]),
    ("x + 1", ["'x'", "write numbers"]),
    ("foo(1)", ["'foo'", "Functions:", "sqrt"]),
    ("sqrt", ["'sqrt'", "brackets"]),
    ("sqrt 4", ["'sqrt'", "brackets"]),
    ("sqrt()", ["sqrt takes 1", "not 0"]),
    ("sqrt(1, 2)", ["sqrt takes 1", "not 2"]),
    ("gcd(4)", ["gcd takes 2", "not 1"]),
    ("sqrt(-1)", ["sqrt(-1)", "negative"]),
    ("log(0)", ["log(0)", "positive"]),
    ("log(-1)", ["positive"]),
    ("log(8, 1)", ["base"]),
    ("(-8) ** 0.5", ["negative", "fraction"]),
    ("gcd(1.5, 2)", ["whole"]),
    ("3.5!", ["whole number", "3.5"]),
    ("(-3)!", ["whole number", "-3"]),
    ("401!", ["400"]),
    ("round(1, 0.5)", ["whole number"]),
    ("round(1, 31)", ["30"]),
    ("1e1001", ["too large"]),
    ("1e-1001", ["too small"]),
    ("10 ** 1001", ["too large"]),
    ("exp(100000)", ["too large"]),
    ("2 + 2 =", ["'='"]),
    ("$5 + $3", ["'$'"]),
    ("1 == 1", ["'='"]),
    ("5 & 3", ["'&'"]),
    ('"a" * 3', ["'\"'"]),
    ("[1, 2]", ["'['"]),
    ("50%", ["0.15 * 80"]),
    ("50 + 10%", ["0.15 * 80"]),
    ("15% of 80", ["0.15 * 80"]),
    ("1,000 * 2", ["thousands"]),
    ("1," * 600, ["1000 characters", "parts"]),
    ("(" * 200 + "1" + ")" * 200, ["nested", "parts"]),
    ("2**" * 200 + "1", ["nested", "parts"]),
]


@pytest.mark.parametrize(("expression", "words"), ERRORS, ids=[text[:30] or "nothing" for text, _ in ERRORS])
def test_an_expression_without_a_value_is_answered_with_what_is_wrong(
    expression: str, words: list[str]
) -> None:
    message = refused(expression)
    assert [word for word in words if word not in message] == []
    assert len(message) < 500


@pytest.mark.parametrize(
    "expression",
    [
        "__import__('os').system('id')",
        "().__class__.__bases__",
        "open('/etc/passwd')",
        "eval('1')",
        "lambda: 1",
        "1 if 1 else 2",
        "a := 5",
        "1; 2",
        "True",
        "None",
        "nan",
        "inf",
        "Infinity - Infinity",
        "sNaN",
        "0x10",
        "1j",
        "\N{VULGAR FRACTION ONE HALF}",
        "5\N{SUPERSCRIPT TWO}",
        "\0",
        "1 + \ud800",
        "{}",
        "%s%s%s",
        "${1+1}",
        "1e",
        "1e+",
        "_",
        "max.__call__(1)",
    ],
)
def test_what_is_no_arithmetic_is_refused_and_never_run(expression: str) -> None:
    assert refused(expression)


# Nothing takes long


HOSTILE = [
    "9**9**9**9",
    "9**9**9",
    "10**(10**10)",
    "(10**999)**999",
    "1e999999999999",
    "1e999999 ** 1e999999",
    "0e999999 * " * 80 + "1",
    "gcd(" + "1e1000," * 15 + "1e999)",
    "400!" + "+400!" * 190,
    "400!!",
    "3!!!!!!",
    "0" + "!" * 999,
    "(" * 999,
    ")" * 999,
    "-" * 999 + "1",
    "-" * 1000,
    "1" * 1000,
    "." * 1000,
    "1." * 500,
    "_" * 1000,
    "1_" * 500,
    "e" * 1000,
    "1e" * 500,
    "sqrt(" * 199,
    "max(" + "1," * 490 + "1)",
    "1.000000000000000000000000000001 ** 1e32",
    "0.99999999999999999999999999999999999999999999999999 ** 1e49",
    "+".join(["1.1**1.1**1.1"] * 70),
    "+".join(["exp(1.1)"] * 100),
    "+".join(["ln(1.1)"] * 120),
    "1e1000 % 3",
    "1e1000 // 1e-1000",
    "1e-1000 % 1e1000",
    "sin(1e1000)",
    " " * 1000,
    "\u2003" * 999 + "1",
    "(-1) ** 1e999",
    "round(1e1000, -30)",
    "floor(1e1000) - ceil(1e-1000)",
    "1" * 10_000_000,
]


@pytest.mark.parametrize("expression", HOSTILE, ids=[text[:20] for text in HOSTILE])
def test_a_hostile_expression_is_answered_at_once_and_its_answer_is_bounded(expression: str) -> None:
    begin = monotonic()
    try:
        answer = calculate(expression)
    except ToolRetry as error:
        answer = str(error)
    assert monotonic() - begin < SECONDS
    assert 0 < len(answer) < 1500


PIECES = st.sampled_from(
    "0 1 2 7 10 0.5 .1 1e3 1e-9 1e999 0e999999 + - * / // % ** ^ ! ( ) , pi e sqrt( max( gcd( log( round( "
    "exp( factorial( sin( floor( × √ % = x \u0664".split()
)


@settings(max_examples=250, deadline=1000 * SECONDS, database=None)
@given(st.one_of(st.text(), st.lists(PIECES, max_size=25).map(" ".join), st.lists(PIECES).map("".join)))
def test_no_text_raises_anything_but_a_request_to_try_again(text: str) -> None:
    try:
        answer = calculate(text)
    except ToolRetry as error:
        assert 0 < len(str(error)) < 1500
    else:
        Fraction(answer)  # a number, and nothing else


# As Python computes


SIGNS = st.sampled_from(["+", "-", "*", "//", "%"])
WHOLE = st.one_of(
    st.integers(0, 1000).map(str),
    st.integers(1, 1000).map(lambda number: f"-{number}"),
    st.sampled_from(["2**3", "-3**2", "2**3**2", "(-2)**3", "7**2", "(5-8)", "(2+3)", "--4"]),
)


@st.composite
def flat_expressions(draw: st.DrawFn) -> str:
    """Such as `3 + -4 * 7 % (2+3) // 2`: what belongs together is for the precedence to say."""
    text = draw(WHOLE)
    for sign, number in draw(st.lists(st.tuples(SIGNS, WHOLE), max_size=8)):
        text += f" {sign} {number}"
    return text


@settings(max_examples=200, deadline=None, database=None)
@given(flat_expressions())
def test_whole_numbers_are_computed_exactly_as_python_does(text: str) -> None:
    try:
        expected = str(eval(text))
    except ZeroDivisionError:
        assert "division by zero" in refused(text)
    else:
        assert calculate(text) == expected


FRACTIONS = st.tuples(st.integers(-999, 999), st.integers(1, 999)).map(
    lambda pair: (f"({pair[0]} / {pair[1]})", Fraction(*pair))
)


def combined(parts: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    def join(left: Any, sign: str, right: Any) -> tuple[str, Fraction]:
        value = {"+": left[1] + right[1], "-": left[1] - right[1], "*": left[1] * right[1]}[sign]
        return f"({left[0]} {sign} {right[0]})", value

    return st.builds(join, parts, st.sampled_from("+-*"), parts)


@settings(max_examples=100, deadline=None, database=None)
@given(st.recursive(FRACTIONS, combined, max_leaves=6))
def test_fractions_are_computed_to_30_digits(expression: tuple[str, Fraction]) -> None:
    text, exact = expression
    off = abs(Fraction(calculate(text)) - exact)
    assert off <= abs(exact) * Fraction(1, 10**29) + Fraction(1, 10**30)


@settings(max_examples=100, deadline=None, database=None)
@given(st.integers(1, 10**20), st.integers(1, 10**20), st.integers(1, 10**6))
def test_quotient_and_remainder_make_up_the_dividend(scaled: int, other: int, scale: int) -> None:
    a, b = f"({scaled} / {10 ** len(str(scale))})", str(other)
    quotient, rest = Fraction(calculate(f"{a} // {b}")), Fraction(calculate(f"{a} % {b}"))
    assert quotient * other + rest == Fraction(scaled, 10 ** len(str(scale)))
    assert 0 <= rest < other


# As a model meets it


def test_the_model_is_offered_one_tool_whose_text_names_every_function(endpoint: Endpoint) -> None:
    definition = definitions(endpoint, [calculator])
    assert list(definition) == ["calculate"]
    text = definition["calculate"]["parameters"]["properties"]["expression"]["description"]
    names = refused("foo(1)").partition("Functions: ")[2].split(", ")
    assert len(names) > 15
    assert [name for name in names if name not in text] == []
    assert definition["calculate"]["parameters"]["required"] == ["expression"]


def test_a_value_reaches_the_model_as_plain_digits(endpoint: Endpoint) -> None:
    assert told(call(endpoint, [calculator], "calculate", {"expression": "0.1 + 0.2"})) == "0.3"


def test_a_number_in_place_of_a_text_is_computed_too() -> None:
    assert calculate.invoke(expression=42) == "42"


@pytest.mark.parametrize("arguments", [{}, {"expression": None}, {"expression": ["1"]}, {"expr": "1"}])
def test_a_call_without_an_expression_is_refused_by_its_name(arguments: dict[str, Any]) -> None:
    with pytest.raises(ToolInvocationError, match="expression"):
        calculate.invoke(**arguments)


def test_it_says_that_it_changes_nothing_and_reaches_nothing() -> None:
    hints = calculate.hints
    assert (hints.read_only, hints.destructive, hints.open_world) == (True, False, False)
