"""
Access to what is below one folder, by descriptors: each step of a path is opened from the folder before it,
and no symbolic link is followed. What can't be done is said in a tool's words.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import stat
import unicodedata
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import NoReturn

from llama_agent import ToolDenied, ToolRetry

FILE_BYTES = 10_000_000
"""Largest file that is read or written."""
VISITED = 20_000
"""Most files and folders that one walk looks at."""
_PATH_CHARACTERS = 1_000

_DRIVE = re.compile(r"[A-Za-z]:")
_SHORT_NAME = re.compile(r"git~\d", re.IGNORECASE)
_PASSED_OVER = frozenset({".git", ".hg", ".svn", ".venv", "__pycache__", "node_modules"})
"""Folders that a tree and a search pass over. They can be listed and read by name."""
_UNWRITABLE = frozenset({".git", ".hg", ".svn", ".jj", ".bzr"})
"""What is written there may be run later, by version control."""
# Where a system lacks one of these, `Workspace` says that it can't work there.
FOLDER = (
    os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
)
# Without O_NONBLOCK, opening a pipe would wait for its other end.
_FILE = (
    os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
)


def identity(descriptor: int) -> tuple[int, int]:
    """
    What tells a folder from every other, whatever its path.

    :param descriptor: An open folder.
    :returns: Device and inode.
    """
    status = os.fstat(descriptor)
    return status.st_dev, status.st_ino


@dataclass(frozen=True)
class Entry:
    """Something in a folder. `folder`: descriptor of the folder that it is in, open while it is looked at."""

    folder: int
    path: tuple[str, ...]
    mode: int
    size: int

    @property
    def is_file(self) -> bool:
        return stat.S_ISREG(self.mode)

    @property
    def is_folder(self) -> bool:
        return stat.S_ISDIR(self.mode)


def parts_of(path: str) -> tuple[str, ...]:
    """
    Read a path.

    :param path: As a model wrote it.
    :returns: Its steps below the root; none for the root itself.
    :raises ToolRetry: It leads, or looks as if it led, out of the workspace, or can't be a path.
    """
    shown = path if len(path) <= 100 else f"{path[:100]}…"
    if len(path) > _PATH_CHARACTERS:
        raise ToolRetry(f"the path has more than {_PATH_CHARACTERS} characters")
    first = path.split("/")[0]
    if (
        path.startswith(("/", "\\"))
        or (first.startswith("~") and first != path)
        or path == "~"
        or _DRIVE.match(path)
    ):
        raise ToolRetry(
            f"'{shown}' is not within the workspace: give a path relative to it, like notes/today.md, "
            "or '.' for all of it"
        )
    if "\\" in path:
        raise ToolRetry(f"'{shown}': separate folders by '/', not by a backslash")
    if any(ord(character) < 32 or ord(character) == 127 for character in path):
        raise ToolRetry("a path can't hold control characters")
    parts = tuple(part for part in path.split("/") if part not in ("", "."))
    if ".." in parts:
        raise ToolRetry(f"'{shown}' leads upwards by '..': only the workspace's own files can be used")
    try:
        os.fsencode("/".join(parts)).decode("utf-8")
    except UnicodeError as error:
        raise ToolRetry("the path holds characters that no file name can have") from error
    return parts


def writable_parts(path: str) -> tuple[str, ...]:
    """
    Read a path that something is to be written at.

    :param path: As a model wrote it.
    :returns: Its steps, at least one.
    :raises ToolRetry: As `parts_of`, or it names no file.
    :raises ToolDenied: It belongs to version control.
    """
    parts = parts_of(path)
    if not parts:
        raise ToolRetry("that is the workspace itself: give the path of a file in it")
    if path.endswith("/"):
        raise ToolRetry(f"'{path}' ends in '/': give the path of a file")
    for part in parts:
        # Some file systems take names that differ in case, in what isn't seen, or at the end for the same.
        seen = "".join(c for c in unicodedata.normalize("NFKC", part) if unicodedata.category(c) != "Cf")
        if seen.casefold().rstrip(". ") in _UNWRITABLE or _SHORT_NAME.match(seen):
            raise ToolDenied(f"'{path}': version control's own files can't be changed")
    return parts


@contextmanager
def told(path: str) -> Generator[None]:
    """
    Say failures of the system in a tool's words. `FileExistsError` passes.

    :param path: What is at hand, for the text.
    :returns: A context manager.
    """
    try:
        yield
    except FileExistsError:
        raise
    except OSError as error:
        _refuse(error, path)


def _refuse(error: OSError, path: str) -> NoReturn:
    match error.errno:
        case errno.ENOENT:
            raise ToolRetry(
                f"there is no '{path}' in the workspace: list_files or tree shows what is"
            ) from error
        case errno.ELOOP | errno.EMLINK:
            raise ToolDenied(f"'{path}' is a symbolic link: links aren't followed") from error
        case errno.ENOTDIR:
            raise ToolRetry(
                f"'{path}' is not a folder (or is a symbolic link: links aren't followed)"
            ) from error
        case errno.EISDIR:
            raise ToolRetry(f"'{path}' is a folder, not a file") from error
        case errno.ENAMETOOLONG:
            raise ToolRetry("a name in the path is too long") from error
        case errno.EACCES | errno.EPERM | errno.EROFS:
            raise ToolDenied(f"'{path}': the system doesn't allow it ({error.strerror})") from error
        case errno.ENOSPC | errno.EDQUOT:
            raise ToolDenied(f"'{path}' can't be written: no space is left") from error
        case _:
            raise ToolRetry(f"'{path}': {error.strerror}") from error


def entries(folder: int) -> list[Entry]:
    """
    Look into a folder.

    :param folder: Its descriptor.
    :returns: What is in it, by name; links are told, and not followed.
    """
    found: list[Entry] = []
    with told("."), os.scandir(folder) as listing:
        for item in listing:
            with suppress(FileNotFoundError):  # gone since
                status = item.stat(follow_symlinks=False)
                found.append(Entry(folder, (item.name,), status.st_mode, status.st_size))
            if len(found) == VISITED:
                break
    return sorted(found, key=lambda entry: entry.path)


def walked(
    folder: int, depth: int, above: tuple[str, ...] = (), left: list[int] | None = None
) -> Iterator[Entry]:
    """
    Walk through a folder and what is below it.

    :param folder: Its descriptor.
    :param depth: Levels to look at.
    :param above: Steps that lead to it.
    :param left: How many entries may still be looked at, as a list of one number that goes down.
    :returns: Entries, a folder before what is in it.
    """
    left = [VISITED] if left is None else left
    for entry in entries(folder):
        if left[0] <= 0:
            return
        left[0] -= 1
        path = (*above, *entry.path)
        yield Entry(folder, path, entry.mode, entry.size)
        if not entry.is_folder or depth <= 1 or entry.path[0] in _PASSED_OVER:
            continue
        try:
            below = os.open(entry.path[0], FOLDER, dir_fd=folder)
        except OSError:
            continue  # gone, exchanged for a link, or not ours to read
        try:
            yield from walked(below, depth - 1, path, left)
        finally:
            os.close(below)


def entry_of(folder: int, name: str, path: str) -> Entry:
    """
    Look at one thing in a folder.

    :param folder: The folder's descriptor.
    :param name: The thing's name.
    :param path: The whole path, for error texts.
    :returns: The file or folder.
    :raises ToolRetry: It isn't there.
    :raises ToolDenied: It is a link, or neither a file nor a folder.
    """
    with told(path):
        status = os.stat(name, dir_fd=folder, follow_symlinks=False)
    if stat.S_ISLNK(status.st_mode):
        raise ToolDenied(f"'{path}' is a symbolic link: links aren't followed")
    if not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode):
        raise ToolDenied(f"'{path}' is neither a file nor a folder")
    return Entry(folder, (name,), status.st_mode, status.st_size)


def is_file(folder: int, name: str, path: str) -> bool:
    """
    Whether a file of this name is there.

    :param folder: The folder's descriptor.
    :param name: The file's name.
    :param path: The whole path, for error texts.
    :returns: False when nothing is there; what else may be there is refused.
    """
    try:
        entry = entry_of(folder, name, path)
    except ToolRetry as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return False
        raise
    if entry.is_folder:
        raise ToolRetry(f"'{path}' is a folder, not a file")
    return True


def _read_bytes(folder: int, name: str) -> bytes:
    """A regular file's content, one byte more than may be at most."""
    descriptor = os.open(name, _FILE, dir_fd=folder)
    try:
        # Looked at after opening: what the name stood for before may have been exchanged.
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not stat.S_ISREG(mode):
            raise ToolDenied("it is neither a file nor a folder: only regular files can be read")
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            return file.read(FILE_BYTES + 1)
    finally:
        os.close(descriptor)


def read_text(folder: int, name: str, path: str) -> str:
    """
    Read a file.

    :param folder: The folder's descriptor.
    :param name: The file's name.
    :param path: The whole path, for error texts.
    :returns: Its text, line ends as they are.
    :raises ToolDenied: It is too large, or no text in UTF-8.
    """
    with told(path):
        data = _read_bytes(folder, name)
    if len(data) > FILE_BYTES:
        raise ToolDenied(f"'{path}' is larger than {FILE_BYTES:,} bytes")
    if b"\0" in data:
        raise ToolDenied(f"'{path}' is not a text file")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ToolDenied(f"'{path}' is not a text file in UTF-8") from error


def read_quietly(entry: Entry) -> str:
    """
    Read a file for a search.

    :param entry: The file.
    :returns: Its text; none for one that can't be read as text.
    """
    try:
        data = _read_bytes(entry.folder, entry.path[-1]) if entry.size <= FILE_BYTES else b""
        return "" if b"\0" in data else data.decode("utf-8")
    except (OSError, UnicodeDecodeError, ToolDenied):
        return ""


def exchange(folder: int, name: str, text: str, path: str) -> None:
    """
    Write a file beside the one of that name, then put it in its place.

    :param folder: The folder's descriptor.
    :param name: The file's name.
    :param text: The whole new content.
    :param path: The whole path, for error texts.
    """
    data = encoded(text, path)
    temporary = f".{secrets.token_hex(8)}.tmp"
    try:
        with told(path):
            mode = _mode_of(folder, name)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            # Never more open than the file that it takes the place of.
            descriptor = os.open(temporary, flags, 0o666 if mode is None else 0o600, dir_fd=folder)
            with os.fdopen(descriptor, "wb") as file:
                if mode is not None:
                    os.fchmod(descriptor, mode)
                file.write(data)
            os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary, dir_fd=folder)
        raise


def encoded(text: str, path: str) -> bytes:
    """
    Make sure that a text can be written.

    :param text: Any text.
    :param path: Where to, for error texts.
    :returns: Its bytes.
    :raises ToolRetry: It is too large, or holds halves of characters.
    """
    try:
        data = text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ToolRetry("the text holds characters that UTF-8 can't (halves of surrogate pairs)") from error
    if len(data) > FILE_BYTES:
        raise ToolRetry(f"'{path}' would be larger than {FILE_BYTES:,} bytes: write less, or several files")
    return data


def _mode_of(folder: int, name: str) -> int | None:
    """Permissions of the file that will be exchanged: an executable script stays one."""
    try:
        return stat.S_IMODE(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode) & 0o777
    except FileNotFoundError:
        return None


def move(folder: int, name: str, goal_folder: int, goal: str, *, is_folder: bool, target: str) -> None:
    """
    Move a file or folder; nothing is overwritten.

    :param folder: Descriptor of the folder it is in.
    :param name: Its name there.
    :param goal_folder: Descriptor of the folder to move it to.
    :param goal: Its name there.
    :param is_folder: Whether it is a folder.
    :param target: The whole new path, for error texts.
    """
    taken = ToolRetry(f"there is already a '{target}': nothing is overwritten")
    with told(target):
        try:
            if is_folder:
                # The system itself refuses to put a folder in place of anything but an empty folder.
                with suppress(FileNotFoundError):
                    os.stat(goal, dir_fd=goal_folder, follow_symlinks=False)
                    raise taken
                os.rename(name, goal, src_dir_fd=folder, dst_dir_fd=goal_folder)
            else:
                _move_file(folder, name, goal_folder, goal)
        except FileExistsError as error:
            raise taken from error


def _move_file(folder: int, name: str, goal_folder: int, goal: str) -> None:
    # Unlike a rename, a link never takes another file's place, not even one made this moment.
    try:
        os.link(name, goal, src_dir_fd=folder, dst_dir_fd=goal_folder, follow_symlinks=False)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK):
            raise
        # A file system without hard links.
        with suppress(FileNotFoundError):
            os.stat(goal, dir_fd=goal_folder, follow_symlinks=False)
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST)) from error
        os.rename(name, goal, src_dir_fd=folder, dst_dir_fd=goal_folder)
    else:
        os.unlink(name, dir_fd=folder)
