"""
Files of one folder, and of nothing outside of it.

```python
from llama_agent import Agent
from llama_agent_tools.files import Workspace

agent = Agent(tools=[Workspace("reports")])
```
"""

from __future__ import annotations

import fnmatch
import os
import stat
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Annotated

from pydantic import Field

from llama_agent import ConfigurationError, ToolDenied, ToolRetry, tool
from llama_agent_tools.folder_access import (
    FILE_BYTES,
    FOLDER,
    VISITED,
    Entry,
    encoded,
    entries,
    entry_of,
    exchange,
    identity,
    is_file,
    move,
    parts_of,
    read_quietly,
    read_text,
    told,
    walked,
    writable_parts,
)

__all__ = ["Workspace"]

_SEARCHED_BYTES = 200_000_000
_READ_LINES = 1_000
_READ_CHARACTERS = 50_000
_ENTRIES = 500
_MATCHES = 100
_LINE_CHARACTERS = 300
_PATTERN_CHARACTERS = 200
_DEEPEST = 30
_REPOSITORY = frozenset({"head", "objects", "refs"})
"""A folder with these is a repository to git, whatever its name (gitrepository-layout(5))."""


class Workspace:
    """
    Tools that work on the text files of one folder. Pass the object itself: `tools=[Workspace("reports")]`.

    Nothing outside of the folder is reached: not by `..`, not by absolute paths, not by symbolic links (none
    is followed, wherever it leads), not by exchanging a folder for a link while a tool is at work: each step
    of a path is opened from the folder before it. Written files are exchanged whole, so that a reader never
    sees half of one, and a hard link to a file elsewhere isn't written through.

    :param root: An existing folder.
    :raises ConfigurationError: It isn't one, or can't be read.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        if not (hasattr(os, "O_NOFOLLOW") and hasattr(os, "O_DIRECTORY") and os.open in os.supports_dir_fd):
            raise ConfigurationError("a Workspace needs a POSIX system: it opens files relative to folders")
        if not os.fspath(root):
            raise ConfigurationError("the workspace has no name: give a folder, '.' for the current one")
        try:
            self.root = Path(root).expanduser().resolve()
            descriptor = os.open(self.root, FOLDER)
        except (OSError, RuntimeError, ValueError) as error:
            said = error.strerror if isinstance(error, OSError) else error
            raise ConfigurationError(f"the workspace {str(root)!r} can't be opened: {said}") from error
        self._identity = identity(descriptor)
        os.close(descriptor)
        # Runs may share a workspace: what one reads and writes back, no other may change in between.
        self._writing = threading.Lock()

    def __repr__(self) -> str:
        return f"Workspace({str(self.root)!r})"

    @tool(read_only=True, idempotent=True, open_world=False)
    def list_files(self, folder: str = ".") -> list[str]:
        """
        List the files and folders in a folder of the workspace. Folders end in "/".

        Args:
            folder: Path of the folder within the workspace, e.g. "src".

        """
        parts = parts_of(folder)
        with self._opened_folder(parts) as descriptor:
            shown = [_shown(entry) for entry in entries(descriptor)]
        return _cut(shown, "list a folder below it")

    @tool(read_only=True, idempotent=True, open_world=False)
    def tree(self, folder: str = ".", depth: Annotated[int, Field(ge=1, le=20)] = 3) -> str:
        """
        Show a folder of the workspace with all that is below it, indented.

        Args:
            folder: Path of the folder within the workspace.
            depth: How many levels to show.

        """
        parts = parts_of(folder)
        lines: list[str] = []
        with self._opened_folder(parts) as descriptor:
            for entry in walked(descriptor, depth):
                lines.append("  " * (len(entry.path) - 1) + _shown(entry))
                if len(lines) > _ENTRIES:
                    break
        return "\n".join(_cut(lines, "show a folder below it, or fewer levels")) or "(empty)"

    @tool(read_only=True, idempotent=True, open_world=False)
    def read_file(
        self,
        path: str,
        first_line: Annotated[int, Field(ge=1)] = 1,
        last_line: Annotated[int, Field(ge=1)] | None = None,
    ) -> str:
        """
        Read a text file of the workspace, or some of its lines.

        Args:
            path: Path of the file within the workspace, e.g. "src/main.py".
            first_line: Number of the first line to read, from 1.
            last_line: Number of the last line to read; by default as many as can be shown at once.

        """
        content = self._text(parts_of(path), path)
        count = _line_count(content)
        if first_line > max(count, 1):
            raise ToolRetry(f"'{path}' has {count} lines: there is no line {first_line}")
        if last_line is not None and last_line < first_line:
            raise ToolRetry(f"last_line ({last_line}) lies before first_line ({first_line})")
        end = min(last_line or count, first_line - 1 + _READ_LINES, count)
        taken = _fitting(list(islice(_lines(content), first_line - 1, end)))
        end = first_line - 1 + len(taken)
        text = "".join(taken)
        if len(text) > _READ_CHARACTERS:  # one line alone is longer
            text = text[:_READ_CHARACTERS] + "… (the line is cut)"
        if first_line == 1 and end == count:
            return text
        rest = f"; read on with first_line={end + 1}" if end < count and last_line != end else ""
        return f"[lines {first_line} to {end} of {count}{rest}]\n{text}"

    @tool(read_only=True, idempotent=True, open_world=False)
    def search_files(
        self,
        text: str | None = None,
        files: str = "**",
        folder: str = ".",
        ignore_case: bool = False,
    ) -> list[str]:
        """
        Find files of the workspace by name, or lines that hold a text. Lines are told as "path:line: text".

        Args:
            text: Text to look for, taken literally. Without it, the matching files are listed.
            files: Pattern of the files to look at: "*.md" by name, "src/**/test_*.py" by path.
            folder: Path of the folder to look in.
            ignore_case: Whether upper and lower case are the same.

        """
        if text is not None and not text:
            raise ToolRetry("text is empty: leave it out to find files by name")
        if text is not None and "\n" in text:
            raise ToolRetry("text has more than one line: search for one of them")
        matches = _pattern(files)
        parts = parts_of(folder)
        found: list[str] = []
        left, too_large, visits = _SEARCHED_BYTES, 0, [VISITED]
        with self._opened_folder(parts) as descriptor:
            for entry in walked(descriptor, _DEEPEST, left=visits):
                if not entry.is_file or not matches(entry.path):
                    continue
                name = _printable("/".join((*parts, *entry.path)))
                if text is None:
                    found.append(name)
                elif entry.size > FILE_BYTES:
                    too_large += 1
                else:
                    left -= entry.size
                    found += _matching_lines(name, read_quietly(entry), text, ignore_case=ignore_case)
                if len(found) > _MATCHES or left < 0:
                    break
        if left < 0:
            found.append(f"… stopped after {_SEARCHED_BYTES:,} bytes: search in fewer files")
        if visits[0] <= 0:
            found.append(f"… stopped after {VISITED:,} files and folders: search in a folder below")
        shown = _cut(found, "search for less, or in fewer files", _MATCHES) or ["nothing was found"]
        passed = f"{too_large} files of more than {FILE_BYTES:,} bytes were passed over"
        return [*shown, passed] if too_large else shown

    @tool(destructive=True, idempotent=True, open_world=False)
    def write_file(self, path: str, text: str) -> str:
        """
        Write a text file of the workspace, in place of what it held. Folders on the way are made.

        Args:
            path: Path of the file within the workspace, e.g. "notes/today.md".
            text: The whole new content.

        """
        parts = writable_parts(path)
        encoded(text, path)  # before folders are made for it
        with self._writing, self._made_folder(parts) as folder:
            existed = is_file(folder, parts[-1], path)
            exchange(folder, parts[-1], text, path)
        return f"{'replaced' if existed else 'wrote'} {path}: {_counted(text)}"

    @tool(destructive=True, open_world=False)
    def append_to_file(self, path: str, text: str) -> str:
        """
        Add text to the end of a file of the workspace. A missing file is made.

        Args:
            path: Path of the file within the workspace.
            text: Text to add. Begin it with a line break if the file doesn't end in one.

        """
        parts = writable_parts(path)
        encoded(text, path)  # before folders are made for it
        with self._writing, self._made_folder(parts) as folder:
            before = read_text(folder, parts[-1], path) if is_file(folder, parts[-1], path) else ""
            exchange(folder, parts[-1], before + text, path)
        return f"added {_counted(text)} to {path}"

    @tool(destructive=True, open_world=False)
    def replace_in_file(self, path: str, old: str, new: str) -> str:
        """
        Replace a text in a file of the workspace. The old text has to occur exactly once.

        Args:
            path: Path of the file within the workspace.
            old: Text to replace, with its white space, and so much of it that it occurs once.
            new: Text to put in its place.

        """
        parts = writable_parts(path)
        if not old:
            raise ToolRetry("old is empty: give the text to replace")
        with self._writing, self._opened_folder(parts[:-1]) as folder:
            content = read_text(folder, parts[-1], path)
            if content.count("\n") == content.count("\r\n") > 0:
                # A model sees and writes plain line ends.
                old, new = (text.replace("\r\n", "\n").replace("\n", "\r\n") for text in (old, new))
            count = _occurrences(content, old)
            if count != 1:
                first = old.strip().partition("\n")[0].strip()
                lines = [str(n) for n, line in enumerate(_lines(content), 1) if first and first in line]
                where = f" (its first line is in lines {', '.join(lines[:10])})" if lines else ""
                hint = "give more of the text around it" if count else "read the file, and copy it exactly"
                raise ToolRetry(f"the old text occurs {count} times in '{path}'{where}: {hint}")
            exchange(folder, parts[-1], content.replace(old, new), path)
        line = content[: content.index(old)].count("\n") + 1
        return f"replaced the text in line {line} of {path}"

    @tool(destructive=True, open_world=False)
    def move_file(self, source: str, target: str) -> str:
        """
        Move or rename a file or folder within the workspace. Nothing is overwritten.

        Args:
            source: Path within the workspace.
            target: New path within the workspace, the name included. Folders on the way are made.

        """
        origin, goal = writable_parts(source), writable_parts(target)
        if goal[: len(origin)] == origin:
            raise ToolRetry(f"'{source}' can't be moved to itself or into itself")
        with self._writing, self._opened_folder(origin[:-1]) as folder:
            entry = entry_of(folder, origin[-1], source)
            with self._made_folder(goal) as goal_folder:
                move(folder, origin[-1], goal_folder, goal[-1], is_folder=entry.is_folder, target=target)
        return f"moved {source} to {target}"

    def _text(self, parts: tuple[str, ...], path: str) -> str:
        if not parts:
            raise ToolRetry("that is the workspace itself: give the path of a file")
        with self._opened_folder(parts[:-1]) as folder:
            return read_text(folder, parts[-1], path)

    @contextmanager
    def _made_folder(self, parts: tuple[str, ...]) -> Generator[int]:
        """The folder that a path's last step is written in; made, unless that would make a repository."""
        for place, part in enumerate(parts):
            if part.casefold() in _REPOSITORY and self._holds(parts[:place], _REPOSITORY - {part.casefold()}):
                raise ToolDenied(f"'{'/'.join(parts)}' would make its folder a repository of version control")
        with self._opened_folder(parts[:-1], make=True) as folder:
            yield folder

    def _holds(self, parts: tuple[str, ...], names: frozenset[str]) -> bool:
        try:
            with self._opened_folder(parts) as folder:
                return names <= {entry.path[0].casefold() for entry in entries(folder)}
        except ToolRetry:
            return False  # it isn't there yet

    @contextmanager
    def _opened_folder(self, parts: Iterable[str], *, make: bool = False) -> Generator[int]:
        """A folder's descriptor. Each step is opened from the one before: no link can lead elsewhere."""
        try:
            descriptor = os.open(self.root, FOLDER)
        except OSError as error:
            raise ToolDenied(f"the workspace can't be opened: {error.strerror}") from error
        path = ""
        try:
            if identity(descriptor) != self._identity:
                raise ToolDenied("the workspace's folder was exchanged for another: nothing is done there")
            for part in parts:
                path = f"{path}/{part}" if path else part
                if make:
                    with suppress(FileExistsError), told(path):
                        os.mkdir(part, dir_fd=descriptor)
                with told(path):
                    below = os.open(part, FOLDER, dir_fd=descriptor)
                os.close(descriptor)
                descriptor = below
            yield descriptor
        finally:
            os.close(descriptor)


def _pattern(text: str) -> Callable[[tuple[str, ...]], bool]:
    """A test of paths: a pattern without '/' is one of names, `**` stands for any number of folders."""
    if len(text) > _PATTERN_CHARACTERS:
        raise ToolRetry(f"the pattern has more than {_PATTERN_CHARACTERS} characters")
    wanted = [part for part in text.split("/") if part not in ("", ".")]
    if text.startswith("/") or ".." in wanted:
        raise ToolRetry(f"'{text}' leads out of the workspace: give a pattern like src/**/*.py")
    if len(wanted) <= 1 and wanted != ["**"]:
        return lambda path: fnmatch.fnmatchcase(path[-1], wanted[0] if wanted else "*")
    pieces = [
        piece for place, piece in enumerate(wanted) if piece != "**" or wanted[place - 1 : place] != ["**"]
    ]

    def matches(path: tuple[str, ...]) -> bool:
        # Which pieces may come next, after each step: no path takes longer than steps times pieces.
        places = _skipped({0}, pieces)
        for step in path:
            taken = {
                place if pieces[place] == "**" else place + 1
                for place in places
                if place < len(pieces) and (pieces[place] == "**" or fnmatch.fnmatchcase(step, pieces[place]))
            }
            places = _skipped(taken, pieces)
        return len(pieces) in places

    return matches


def _skipped(places: set[int], pieces: list[str]) -> set[int]:
    """`**` may stand for no folder at all."""
    return places | {place + 1 for place in places if place < len(pieces) and pieces[place] == "**"}


def _matching_lines(name: str, content: str, text: str, *, ignore_case: bool) -> list[str]:
    wanted = text.casefold() if ignore_case else text
    if wanted not in (content.casefold() if ignore_case else content):
        return []
    found: list[str] = []
    for number, line in enumerate(_lines(content), 1):
        place = (line.casefold() if ignore_case else line).find(wanted)
        if place >= 0:
            found.append(f"{name}:{number}: {_around(line, place)}")
        if len(found) > _MATCHES:
            break
    return found


def _around(line: str, place: int) -> str:
    """So much of a line as can be shown, with what was found in it."""
    start = max(0, place - _LINE_CHARACTERS // 2) if len(line) > _LINE_CHARACTERS else 0
    shown = line[start : start + _LINE_CHARACTERS]
    end = "…" if start + _LINE_CHARACTERS < len(line.rstrip()) else ""
    return ("…" if start else "") + shown.strip() + end


def _fitting(lines: list[str]) -> list[str]:
    """As many lines as fit, at least one."""
    size = 0
    for count, line in enumerate(lines):
        size += len(line)
        if size > _READ_CHARACTERS:
            return lines[: max(count, 1)]
    return lines


def _cut(lines: list[str], advice: str, limit: int = _ENTRIES) -> list[str]:
    return lines if len(lines) <= limit else [*lines[:limit], f"… and more: {advice}"]


def _shown(entry: Entry) -> str:
    name = _printable(entry.path[-1])
    if entry.is_folder:
        return f"{name}/"
    if stat.S_ISLNK(entry.mode):
        return f"{name} (symbolic link, not followed)"
    return f"{name} ({entry.size:,} bytes)" if entry.is_file else f"{name} (not a file)"


def _printable(name: str) -> str:
    """A name that isn't UTF-8 can't go to a model as it is, and one with a line break would look like two."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in name)


def _lines(text: str) -> Iterator[str]:
    """Lines with their ends, as editors count them: `splitlines` also ends them at form feeds and others."""
    start = 0
    while start < len(text):
        end = text.find("\n", start) + 1 or len(text)
        yield text[start:end]
        start = end


def _line_count(text: str) -> int:
    return text.count("\n") + (not text.endswith("\n") and bool(text))


def _occurrences(content: str, text: str) -> int:
    """How often a text occurs, also where it overlaps itself; counted up to 100."""
    count, place = 0, content.find(text)
    while place >= 0 and count < 100:
        count, place = count + 1, content.find(text, place + 1)
    return count


def _counted(text: str) -> str:
    return f"{len(text):,} characters in {_line_count(text):,} lines"
