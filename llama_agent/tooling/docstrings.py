"""
Docstring → what a model reads: a description without sections, a text for each parameter, and the values
that a text lists.

Parameters are docstring-parser's trade. It takes a docstring for one style; people mix them, and invent their
own: so each style is asked, and what none finds is looked for line by line.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import cast

from docstring_parser import DocstringStyle, ParseError, parse

_STYLES = (DocstringStyle.GOOGLE, DocstringStyle.NUMPYDOC, DocstringStyle.REST, DocstringStyle.EPYDOC)

# Sections that aren't the description's. Notes and warnings are.
_SECTIONS = frozenset(
    """
    arg args argument arguments param params parameter parameters keyword-args keyword-arguments kwargs
    other-parameters attributes return returns yield yields receives raise raises except exceptions warns
    example examples usage doctest doctests references see-also todo methods
    """.split()
)
_HEADING = re.compile(r"(?:#+\s*|\*\*)?([A-Za-z][A-Za-z ]{1,30}?)(?:\*\*)?\s*:?(?:\*\*)?\s*$")
_FIELD = re.compile(
    r"[:@](?:param|parameter|arg|argument|key|keyword|kwarg|type|returns?|rtype|raises?|except|exception|yields?"
    r"|ytype|var|ivar|cvar|vartype|see|since|author|note)\b[^:]*:"
)
_INLINE = re.compile(r"\s*(?:Args|Arguments|Parameters|Params|Returns?|Yields?|Raises|Examples?)\s*:\s+\S")
_ENTRY = re.compile(r"\s*(?:[-*+•`]\s*)*\**\w[\w, ]*\**\s*(?:[(\[].*?[)\]])?`*\s*:|\s*[-*+•]\s|\s*\d+[.)]\s")
_UNDERLINE = re.compile(r"[-=~]{3,}\s*$")

_QUOTED = r"""(?:"[^"\n]{0,80}"|'[^'\n]{0,80}'|`[^`\n]{0,80}`)"""
_ONE_OF = re.compile(
    rf"\bone of:?\s+(?P<values>{_QUOTED}(?:\s*(?:,\s*or|,|\bor\b|\|)\s*{_QUOTED})+)"
    r"(?=\s*(?:[.;)\]]|$|\n\n|\(|default|\.\s))",
    re.IGNORECASE,
)
# Words of a sentence that say that the values it lists aren't those that must be given.
_OTHERWISE = re.compile(
    r"\b(?:not|never|neither|except|without|unless|ignored|if|when|for|like|e\.g|such as)\b|n't\b",
    re.IGNORECASE,
)
_MORE = re.compile(r"\b(?:others?|also|etc|custom|else|any)\b", re.IGNORECASE)
_ENUM_MARK = re.compile(r"[ \t]*\[Enum\]\s*:\s*(?P<values>\[[^\[\]\n]{0,2000}\])\.?", re.IGNORECASE)
_BRACES = re.compile(r"\{(?P<values>[^{}\n]{1,2000})\}")


@dataclass(frozen=True)
class Documentation:
    """
    What a docstring says to a model.

    :param description: Summary and body, without sections of arguments, results, errors and examples.
    :param parameters: Text of each documented parameter, by name.
    :param others: Names that are documented as parameters, but aren't any.
    :param choices: Values that a parameter's text lists as the only ones, by name.
    """

    description: str = ""
    parameters: dict[str, str] = field(default_factory=dict[str, str])
    others: tuple[str, ...] = ()
    choices: dict[str, list[object]] = field(default_factory=dict[str, list[object]])


def documentation_of(docstring: str | None, names: Collection[str]) -> Documentation:
    """
    Read a docstring of any style.

    :param docstring: As it stands in the source, or None.
    :param names: The function's parameters: what else looks like one is passed over.
    :returns: What it says.
    """
    text = inspect.cleandoc(docstring or "")
    if not text:
        return Documentation()
    parameters: dict[str, str] = {}
    choices: dict[str, list[object]] = {}
    found = _by_style(text, names)
    loose, lines_taken = _loose(text, [name for name in names if not found.get(name, ("",))[0]])
    for name, (description, kind) in {**found, **loose}.items():
        shown, values = _choices(description, kind)
        if shown:
            parameters[name] = shown
        if values:
            choices[name] = values
    lines = [line for place, line in enumerate(text.splitlines()) if place not in lines_taken]
    return Documentation(_description(lines), parameters, _others(text, names), choices)


def _by_style(text: str, names: Collection[str]) -> dict[str, tuple[str, str]]:
    """Text and type of each parameter, by name; of several styles, the one that finds most comes first."""
    regular = _regular(text)
    readings = [_read(regular, style, names) for style in _STYLES]
    readings.sort(key=len, reverse=True)
    found: dict[str, tuple[str, str]] = {}
    for reading in readings:
        for name, texts in reading.items():
            if name not in found or not found[name][0]:
                found[name] = texts
    return found


def _regular(text: str) -> str:
    """
    What docstring-parser wants more exactly than people write it: rules as long as their headings, and the
    lines of an entry indented more than its first.
    """
    lines = text.splitlines()
    entries: int | None = None  # the indentation of the entries of the section at hand
    for place, line in enumerate(lines):
        following = lines[place + 1] if place + 1 < len(lines) else ""
        if _is_section(line):
            entries = _indent(following) if _indent(following) > _indent(line) else None
            if re.fullmatch(r"\s*[-=~]{2,}\s*", following):
                lines[place + 1] = " " * _indent(line) + "-" * len(line.strip())
        elif line.strip() and entries is not None and _indent(line) < entries:
            entries = None
        elif entries is not None and _indent(line) == entries and line.strip() and not _ENTRY.match(line):
            lines[place] = f"    {line}"
    return "\n".join(lines)


def _read(text: str, style: DocstringStyle, names: Collection[str]) -> dict[str, tuple[str, str]]:
    try:
        documentation = parse(text, style)
    except (ParseError, ValueError, IndexError):
        return {}
    found: dict[str, tuple[str, str]] = {}
    for item in documentation.params:
        for name in item.arg_name.split(","):  # NumPy: `x, y : int`
            plain = name.strip().strip("`").lstrip("*\\")
            if plain in names and plain not in found:
                found[plain] = (_tidy(item.description), item.type_name or "")
    return found


def _others(text: str, names: Collection[str]) -> tuple[str, ...]:
    """Documented names that aren't parameters, in the style that a docstring is written in."""
    for style in _STYLES:
        with suppress(ParseError, ValueError, IndexError):
            documented = [
                name for item in parse(_regular(text), style).params for name in item.arg_name.split(",")
            ]
            plain = [name.strip().strip("`").lstrip("*\\") for name in documented]
            if plain:
                return tuple(name for name in plain if name.isidentifier() and name not in names)
    return ()


def _loose(text: str, names: Sequence[str]) -> tuple[dict[str, tuple[str, str]], set[int]]:
    """
    Lines such as `- x: text`, `* x (int) - text` or `x -- text`, with what is indented below them, and their
    places.
    """
    if not names:
        return {}, set()
    either = "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))
    start = re.compile(
        rf"(?P<indent>\s*)(?:[-*+•]\s+|\d+[.)]\s+|@param\s+|:param\s+|\\param\s+)?[`*]{{0,3}}(?P<name>{either})"
        rf"[`*]{{0,3}}\s*(?:[(\[](?P<type>[^()\[\]]{{0,80}})[)\]])?[`*]{{0,2}}\s*(?::|--?|–|—|=>)\s+(?P<text>\S.*)$"  # noqa: RUF001 - dashes that people write
    )
    lines = text.splitlines()
    found: dict[str, tuple[str, str]] = {}
    taken: set[int] = set()
    summary = next((place for place, line in enumerate(lines) if not line.strip()), len(lines))
    marked = {
        place for place, line in enumerate(lines) if re.match(r"\s*(?:[-*+•]|\d+[.)]|[:@\\]param)\s", line)
    }
    likely = {m["name"] for line in lines[summary:] if (m := start.match(line))}
    for place, line in enumerate(lines):
        if (match := start.match(line)) is None or match["name"] in found:
            continue
        # The summary is one, and a lone line like "a: ..." may be a sentence.
        if place not in marked and (
            place < min(summary, 1) or (len(likely) < 2 <= len(names) and not match["indent"])
        ):
            continue
        body = list(_deeper(lines[place + 1 :], len(match["indent"])))
        found[match["name"]] = (_tidy("\n".join([match["text"], *body])), match["type"] or "")
        taken.update(range(place, place + 1 + len(body)))
    return found, taken


def _deeper(lines: Sequence[str], indent: int) -> Iterator[str]:
    for line in lines:
        if not line.strip() or _indent(line) <= indent:
            return
        yield line.strip()


def _tidy(text: str | None) -> str:
    """A text without its indentation, and without what a style took for its continuation by mistake."""
    lines = inspect.cleandoc(text or "").splitlines()
    end = next((place for place, line in enumerate(lines) if _begins_another(line)), len(lines))
    return "\n".join(lines[:end]).strip()


def _begins_another(line: str) -> bool:
    return bool(_FIELD.match(line.strip())) or (line.rstrip().endswith(":") and _is_section(line))


def _is_section(line: str) -> bool:
    # A heading is short; the bound also keeps the search for one quick.
    heading = _HEADING.match(line.strip()) if len(line.strip()) <= 60 else None
    return heading is not None and heading[1].strip().lower().replace(" ", "-") in _SECTIONS


def _choices(description: str, kind: str) -> tuple[str, list[object]]:
    """The values that a text lists, and the text without a list that has no words of its own."""
    if (match := _ENUM_MARK.search(description)) is not None and (values := _literals(match["values"])):
        return (description[: match.start()] + description[match.end() :]).strip(), values
    if (match := _BRACES.fullmatch(kind.split("},")[0] + "}" if "}," in kind else kind)) is not None and (
        values := _literals(f"[{match['values']}]")
    ):
        return description, values
    if (match := _ONE_OF.search(description)) and not _more_is_allowed(description, match):
        quoted = cast("list[str]", re.findall(_QUOTED, match["values"]))
        return description, list(dict.fromkeys(value[1:-1] for value in quoted))
    return description, []


def _more_is_allowed(description: str, listed: re.Match[str]) -> bool:
    """Whether a text lists values, but as exceptions or examples, or lets others do as well."""
    clause = re.split(r"[.;]\s", description[: listed.start()])[-1]
    return bool(_OTHERWISE.search(clause) or _MORE.search(description[listed.end() :]))


def _literals(text: str) -> list[object]:
    """The texts and whole numbers of a list, each once; none when it holds anything else."""
    try:
        values = cast("object", ast.literal_eval(text))
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return []
    if not isinstance(values, list):
        return []
    items = cast("list[object]", values)
    return list(dict.fromkeys(items)) if items and all(type(item) in (str, int) for item in items) else []


def _description(lines: Sequence[str]) -> str:
    """The lines that belong to no section, no field list and no doctest."""
    kept: list[str] = []
    place = 0
    while place < len(lines):
        end = _end_of_section(lines, place)
        if end is None:
            kept.append(lines[place])
            place += 1
        else:
            place = end
    return re.sub(r"\n{3,}", "\n\n", "\n".join(kept)).strip()


def _end_of_section(lines: Sequence[str], start: int) -> int | None:
    """Where a section that begins at a line ends; None for a line that begins none."""
    line = lines[start]
    following = lines[start + 1] if start + 1 < len(lines) else ""
    if _FIELD.match(line.strip()) or _INLINE.match(line) or line.lstrip().startswith(">>>"):
        return _end_of_block(lines, start, _indent(line))
    if not _is_section(line):
        return None
    if _UNDERLINE.match(following.strip()):
        return _end_of_underlined(lines, start + 2)
    marked = line.rstrip().endswith((":", "**")) or line.lstrip().startswith("#")
    listed = bool(re.match(r"\s*[-*+•]\s", following))
    if not (_indent(following) > _indent(line) and following.strip()) and not (marked and listed):
        # A heading alone: with a colon, over a paragraph that isn't indented, or over nothing.
        return _end_of_block(lines, start, _indent(line)) if marked else None
    return _end_of_indented(lines, start + 1, _indent(line), listed=listed)


def _end_of_block(lines: Sequence[str], start: int, indent: int) -> int:
    """After the lines up to a blank one; those indented below it belong to it too."""
    place = start + 1
    while place < len(lines) and lines[place].strip() and not _FIELD.match(lines[place].strip()):
        place += 1
    while place < len(lines) and (not lines[place].strip() or _indent(lines[place]) > indent):
        if not lines[place].strip() and not _goes_on(lines, place, indent):
            break
        place += 1
    return place


def _goes_on(lines: Sequence[str], blank: int, indent: int) -> bool:
    below = next((line for line in lines[blank:] if line.strip()), "")
    return bool(below) and _indent(below) > indent


def _end_of_indented(lines: Sequence[str], start: int, indent: int, *, listed: bool) -> int:
    place = start
    while place < len(lines):
        line = lines[place]
        item = listed and bool(re.match(r"\s*[-*+•]\s", line))
        if line.strip() and _indent(line) <= indent and not item:
            break
        place += 1
    return place


def _end_of_underlined(lines: Sequence[str], start: int) -> int:
    """A NumPy section ends at the next heading that has a line below it."""
    for place in range(start, len(lines) - 1):
        if lines[place].strip() and _UNDERLINE.match(lines[place + 1].strip()):
            return place
    return len(lines)


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())
