"""
Arithmetic for models, which are bad at it.

```python
from llama_agent import Agent
from llama_agent_tools import calculator

agent = Agent(tools=[calculator])
```

A parser of its own: nothing of an expression is ever run as code. Numbers are decimal, so `0.1 + 0.2` is 0.3;
each step is rounded to 50 digits, the result to 30.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import MAX_EMAX, MIN_EMIN, ROUND_HALF_EVEN, Context, Decimal, DecimalException, localcontext
from typing import NoReturn

from llama_agent import ToolRetry, tool

__all__ = ["calculate"]

_MOST_CHARACTERS = 1_000
_DEEPEST = 50
_MOST_DIGITS = 1_000
"""Largest magnitude, as a power of ten: beyond it a number is no answer, and takes ever longer to compute."""
_LARGEST_FACTORIAL = 400
_WORKING = Context(prec=50, rounding=ROUND_HALF_EVEN, Emax=MAX_EMAX, Emin=MIN_EMIN)
_SHOWN_DIGITS = 30

_TOKEN = re.compile(
    r"\s*(?:(?P<number>\d[\d_]*(?:\.[\d_]*)?(?:[eE][+-]?\d{1,6})?|\.\d+(?:[eE][+-]?\d{1,6})?)"
    r"|(?P<name>[A-Za-z_]\w*)|(?P<sign>\*\*|//|[-+*/%^(),!×÷−·√π]))"  # noqa: RUF001 - signs that people write
)
_SPELLINGS = {"×": "*", "·": "*", "÷": "/", "−": "-", "^": "**"}  # noqa: RUF001

_PI = Decimal("3.14159265358979323846264338327950288419716939937511")
_E = Decimal("2.71828182845904523536028747135266249775724709369996")


@tool(read_only=True, idempotent=True, open_world=False)
def calculate(expression: str) -> str:
    """
    Compute the value of an arithmetic expression.

    Args:
        expression: Numbers with + - * / // % ** ( ), the constants pi and e, and the functions abs, ceil,
            cos, degrees, exp, factorial, floor, gcd, ln, log, log10, max, min, radians, round, sin, sqrt,
            tan. Example: "(17 + 25) * sqrt(2)". Angles are in radians; % is the remainder; log(x) is natural,
            log(x, 10) to base 10; round(x, 2) to 2 places.

    """
    if len(expression) > _MOST_CHARACTERS:
        raise ToolRetry(f"the expression has more than {_MOST_CHARACTERS} characters: compute it in parts")
    with localcontext(_WORKING):
        try:
            return _shown(_Parser(expression).value())
        except DecimalException as error:
            raise ToolRetry(f"the expression has no value: {_reason(error)}") from error


@dataclass(frozen=True)
class _Token:
    kind: str
    text: str
    place: int


class _Parser:
    """
    Precedence climbing. From weak to strong: `+ -`, `* / // %`, signs, `**` (which groups to the right), `!`.
    """

    def __init__(self, expression: str) -> None:
        self._expression = expression
        self._tokens = list(_tokens(expression))
        self._next = 0
        self._depth = 0

    def value(self) -> Decimal:
        """The whole expression's value."""
        value = self._sum()
        if self._peek().kind != "end":
            self._refuse("an operator or the end")
        return value

    def _sum(self) -> Decimal:
        self._depth += 1
        if self._depth > _DEEPEST:
            raise ToolRetry(f"the expression is nested more than {_DEEPEST} deep: compute it in parts")
        value = self._product()
        while sign := self._take("+", "-"):
            other = self._product()
            value = _bounded(value + other if sign == "+" else value - other)
        self._depth -= 1
        return value

    def _product(self) -> Decimal:
        value = self._signed()
        while sign := self._take("*", "/", "//", "%"):
            value = _bounded(_multiplied(value, sign, self._signed()))
        return value

    def _signed(self) -> Decimal:
        negative = False
        while sign := self._take("+", "-"):
            negative ^= sign == "-"
        value = self._power()
        return -value if negative else value

    def _power(self) -> Decimal:
        base = self._factorial()
        if not self._take("**"):
            return base
        self._depth += 1
        if self._depth > _DEEPEST:
            raise ToolRetry(f"the expression is nested more than {_DEEPEST} deep: compute it in parts")
        exponent = self._signed()
        self._depth -= 1
        return _raised(base, exponent)

    def _factorial(self) -> Decimal:
        value = self._operand()
        while self._take("!"):
            value = _factorial(value)
        return value

    def _operand(self) -> Decimal:
        token = self._peek()
        self._next += 1
        match token.kind:
            case "number":
                return _bounded(Decimal(token.text.replace("_", "")))
            case "name" if self._peek().text == "(":
                return self._called(token)
            case "name" if token.text.lower() in _CONSTANTS:
                return _CONSTANTS[token.text.lower()]
            case "name":
                raise ToolRetry(
                    f"'{token.text[:40]}' at character {token.place} is neither a constant "
                    f"({', '.join(_CONSTANTS)}) nor a function ({', '.join(_FUNCTIONS)}) with brackets: "
                    f"write numbers.{self._hint()}"
                )
            case "sign" if token.text == "√":
                return _root(self._factorial())
            case "sign" if token.text == "(":
                value = self._sum()
                if not self._take(")"):
                    self._refuse("')'")
                return value
            case _:
                self._next -= 1
                return self._refuse("a number")

    def _called(self, token: _Token) -> Decimal:
        function = _FUNCTIONS.get(token.text.lower())
        if function is None:
            raise ToolRetry(f"there is no function '{token.text[:40]}'. Functions: {', '.join(_FUNCTIONS)}")
        self._take("(")
        values: list[Decimal] = []
        while not self._take(")"):
            values.append(self._sum())
            if not self._take(",") and self._peek().text != ")":
                self._refuse("',' or ')'")
        if not function.fewest <= len(values) <= function.most:
            wanted = f"{function.fewest}" + (
                f" to {function.most}" if function.most != function.fewest else ""
            )
            raise ToolRetry(f"{token.text} takes {wanted} numbers, not {len(values)}")
        try:
            return _bounded(function.compute(*values))
        except (ValueError, OverflowError) as error:
            raise ToolRetry(
                f"{token.text}({', '.join(map(_shown, values))}) has no value: {error}"
            ) from error

    def _peek(self) -> _Token:
        return self._tokens[self._next]

    def _take(self, *texts: str) -> str | None:
        token = self._peek()
        if token.kind == "sign" and token.text in texts:
            self._next += 1
            return token.text
        return None

    def _refuse(self, wanted: str) -> NoReturn:
        token = self._peek()
        found = "the end" if token.kind == "end" else f"'{token.text}'"
        raise ToolRetry(f"at character {token.place}: expected {wanted}, found {found}.{self._hint()}")

    def _hint(self) -> str:
        """What else may be meant by what people write."""
        if re.search(r"\d,\d{3}", self._expression):
            return " Write 1000, not 1,000: no thousands separators."
        return " For 15 % of 80 write 0.15 * 80." if "%" in self._expression else ""


def _tokens(expression: str) -> Iterator[_Token]:
    place = 0
    while expression[place:].strip():
        match = _TOKEN.match(expression, place)
        if match is None:
            wrong = expression[place:].lstrip()[0]
            raise ToolRetry(
                f"at character {expression.index(wrong, place) + 1}: '{wrong}' has no meaning here: write "
                "numbers with a point and no thousands separators, and the operators + - * / // % **"
            )
        kind = str(match.lastgroup)
        text = match[kind]
        start = match.start(kind) + 1
        if text == "π":
            yield _Token("name", "pi", start)
        else:
            yield _Token(kind, _SPELLINGS.get(text, text), start)
        place = match.end()
    yield _Token("end", "", len(expression) + 1)


def _bounded(value: Decimal) -> Decimal:
    if value.is_finite() and value and abs(value.adjusted()) > _MOST_DIGITS:
        size = "large" if value.adjusted() > 0 else "small"
        raise ToolRetry(f"a number becomes too {size}: beyond 10 to the power of {_MOST_DIGITS}")
    return value


def _multiplied(a: Decimal, sign: str, b: Decimal) -> Decimal:
    if sign == "*":
        return a * b
    if not b:
        raise ToolRetry("division by zero")
    if sign == "/":
        return a / b
    if not a:
        return a
    # As people and Python have it: the quotient is rounded down, the remainder has the divisor's sign. With
    # so many digits, both are exact: a number has at most 50, and its magnitude is bounded.
    with localcontext(Context(prec=3 * _MOST_DIGITS, Emax=MAX_EMAX, Emin=MIN_EMIN)):
        quotient, remainder = divmod(a, b)
        if remainder and (remainder < 0) != (b < 0):
            quotient, remainder = quotient - 1, remainder + b
    return +(quotient if sign == "//" else remainder)


def _raised(base: Decimal, exponent: Decimal) -> Decimal:
    if not base:
        if exponent < 0:
            raise ToolRetry("division by zero: 0 to a negative power")
        return Decimal(1) if not exponent else Decimal(0)
    if base < 0 and exponent != exponent.to_integral_value():
        raise ToolRetry("a negative number to a fractional power is no real number")
    # The size of the result is known before it is computed.
    if abs(exponent * abs(base).log10()) > _MOST_DIGITS:
        raise ToolRetry(f"a power becomes too large or too small: beyond 10 to the power of {_MOST_DIGITS}")
    return _bounded(base**exponent)


def _factorial(value: Decimal) -> Decimal:
    if value != value.to_integral_value() or not 0 <= value <= _LARGEST_FACTORIAL:
        raise ToolRetry(f"factorial takes a whole number from 0 to {_LARGEST_FACTORIAL}, not {_shown(value)}")
    return Decimal(math.factorial(int(value))) + 0


def _rounded(value: Decimal, digits: Decimal = Decimal(0)) -> Decimal:
    if digits != digits.to_integral_value() or abs(digits) > _SHOWN_DIGITS:
        raise ValueError(f"the number of digits must be a whole number up to {_SHOWN_DIGITS}")
    if value.adjusted() + digits >= _WORKING.prec - 1:
        return value
    return value.quantize(Decimal(1).scaleb(-int(digits)), rounding="ROUND_HALF_UP")


def _logarithm(value: Decimal, base: Decimal | None = None) -> Decimal:
    if value <= 0 or (base is not None and (base <= 0 or base == 1)):
        raise ValueError("logarithms take positive numbers, and a base other than 1")
    if base == 10:
        return value.log10()
    return value.ln() if base is None else value.ln() / base.ln()


def _decimal_logarithm(value: Decimal) -> Decimal:
    return _logarithm(value, Decimal(10))


def _largest(*values: Decimal) -> Decimal:
    return max(values)


def _smallest(*values: Decimal) -> Decimal:
    return min(values)


def _absolute(value: Decimal) -> Decimal:
    return abs(value)


def _root(value: Decimal) -> Decimal:
    if value < 0:
        raise ValueError("a negative number has no real root")
    return value.sqrt()


def _greatest_divisor(*values: Decimal) -> Decimal:
    if any(value != value.to_integral_value() for value in values):
        raise ValueError("gcd takes whole numbers")
    return Decimal(math.gcd(*(int(value) for value in values)))


def _steady(value: Decimal) -> Decimal:
    """Without the last digits, which rounding leaves: 1/3*3 is 1, and not a little less."""
    return Context(prec=_WORKING.prec - 5, Emax=MAX_EMAX, Emin=MIN_EMIN).create_decimal(value)


def _floored(value: Decimal) -> Decimal:
    value = _steady(value)
    return value.to_integral_value(rounding="ROUND_FLOOR")


def _ceiled(value: Decimal) -> Decimal:
    value = _steady(value)
    return value.to_integral_value(rounding="ROUND_CEILING")


def _by_float(function: Callable[[float], float]) -> Callable[[Decimal], Decimal]:
    """Trigonometry is Python's: about 15 digits, and so it is rounded to them."""

    def compute(value: Decimal) -> Decimal:
        if abs(value) > 10**12:
            raise ValueError("angles beyond 10 to the power of 12 lose their meaning")
        return (
            Decimal(f"{function(float(value)):.15g}") if abs(function(float(value))) > 1e-15 else Decimal(0)
        )

    return compute


def _exponential(value: Decimal) -> Decimal:
    return _raised(_E, value)


def _to_degrees(value: Decimal) -> Decimal:
    return value * 180 / _PI


def _to_radians(value: Decimal) -> Decimal:
    return value * _PI / 180


@dataclass(frozen=True)
class _Function:
    compute: Callable[..., Decimal]
    fewest: int = 1
    most: int = 1


_CONSTANTS = {"pi": _PI, "e": _E}
_FUNCTIONS = {
    "abs": _Function(_absolute),
    "ceil": _Function(_ceiled),
    "cos": _Function(_by_float(math.cos)),
    "degrees": _Function(_to_degrees),
    "exp": _Function(_exponential),
    "factorial": _Function(_factorial),
    "floor": _Function(_floored),
    "gcd": _Function(_greatest_divisor, 2, 20),
    "ln": _Function(_logarithm),
    "log": _Function(_logarithm, 1, 2),
    "log10": _Function(_decimal_logarithm),
    "max": _Function(_largest, 1, 100),
    "min": _Function(_smallest, 1, 100),
    "radians": _Function(_to_radians),
    "round": _Function(_rounded, 1, 2),
    "sin": _Function(_by_float(math.sin)),
    "sqrt": _Function(_root),
    "tan": _Function(_by_float(math.tan)),
}


def _shown(value: Decimal) -> str:
    """Up to 30 digits; whole numbers in full, and no exponent where a person would write none."""
    if value == value.to_integral_value() and value.adjusted() < _WORKING.prec:
        return str(int(value))
    rounded = Context(prec=_SHOWN_DIGITS, Emax=MAX_EMAX, Emin=MIN_EMIN).create_decimal(value).normalize()
    return f"{rounded:f}" if -7 <= rounded.adjusted() < _SHOWN_DIGITS else str(rounded)


def _reason(error: DecimalException) -> str:
    names = {"DivisionByZero": "division by zero", "Overflow": "a number becomes too large"}
    return names.get(type(error).__name__, "an operation isn't defined for its numbers")
