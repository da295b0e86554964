"""File tools for one folder: what they do within it, and that nothing leads out of it."""

import os
import re
import socket
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from haystack.tools.errors import ToolInvocationError
from hypothesis import given, settings
from hypothesis import strategies as st
from llama_agent_tools.files import Workspace

from llama_agent import Agent, ConfigurationError, FunctionTool, ToolDenied, ToolRetry
from tests.endpoint import Endpoint
from tests.test_tools import call, definitions, failed, generator, told

SECRET = "the secret of the outside"
REFUSAL = (ToolRetry, ToolDenied)
READING = ["list_files", "read_file", "search_files", "tree"]
WRITING = ["append_to_file", "move_file", "replace_in_file", "write_file"]


@dataclass(frozen=True)
class Place:
    """
    A workspace full of traps, and what lies outside of it.

    :param root: The workspace's folder.
    :param outside: A folder beside it, with `secret.txt` and `sub/deep.txt`.
    """

    root: Path
    outside: Path

    @property
    def workspace(self) -> Workspace:
        return Workspace(self.root)

    def outside_now(self) -> dict[str, Any]:
        """All that is beside the workspace: kinds, permissions and contents."""
        seen: dict[str, Any] = {}
        for path in [self.outside, *self.outside.parent.rglob("*")]:
            if path == self.root or self.root in path.parents:
                continue
            status = path.lstat()
            content = path.read_bytes() if stat.S_ISREG(status.st_mode) else None
            seen[str(path)] = (status.st_mode, status.st_ino, content)
        return seen


def place_in(folder: Path) -> Place:
    root, outside = folder / "work", folder / "outside"
    (outside / "sub").mkdir(parents=True)
    (outside / "secret.txt").write_text(SECRET)
    (outside / "sub" / "deep.txt").write_text(SECRET)
    (folder / "work-other").mkdir()  # its name begins as the workspace's
    (folder / "work-other" / "secret.txt").write_text(SECRET)
    (root / "folder" / "empty").mkdir(parents=True)
    (root / "folder" / "file.txt").write_text("harmless\n")
    (root / "file.txt").write_text("harmless\n")
    (root / ".git" / "hooks").mkdir(parents=True)
    (root / ".git" / "config").write_text("[core]\n")
    links = {
        "link.txt": "../outside/secret.txt",
        "absolute.txt": str(outside / "secret.txt"),
        "out": "../outside",
        "folder/out": "../../outside",
        "chain": "out",
        "up": "..",
        "slash": "/",
        "process": "/proc/self",
        "dangling": "../outside/new.txt",
        "dangling-folder": "../outside/new",
        "loop": "loop",
        "within.txt": "folder/file.txt",
        "within": "folder",
        "here": ".",
    }
    for name, target in links.items():
        (root / name).symlink_to(target)
    os.mkfifo(root / "pipe")
    with socket.socket(socket.AF_UNIX) as server, changed_folder(root):
        server.bind("socket")
    return Place(root, outside)


@contextmanager
def changed_folder(folder: Path) -> Iterator[None]:
    """The path of a socket may have about 100 characters."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return place_in(tmp_path)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An empty workspace's folder."""
    (tmp_path / "plain").mkdir()
    return tmp_path / "plain"


@pytest.fixture
def ws(root: Path) -> Workspace:
    return Workspace(root)


def all_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


# Attacks. Each way to use a path, by a name.


USES: dict[str, Callable[[Workspace, str], Any]] = {
    "list": lambda ws, path: ws.list_files(folder=path),
    "tree": lambda ws, path: ws.tree(folder=path),
    "read": lambda ws, path: ws.read_file(path=path),
    "search": lambda ws, path: ws.search_files(text="secret", folder=path),
    "find": lambda ws, path: ws.search_files(folder=path),
    "write": lambda ws, path: ws.write_file(path=path, text="overwritten"),
    "append": lambda ws, path: ws.append_to_file(path=path, text="overwritten"),
    "replace": lambda ws, path: ws.replace_in_file(path=path, old="secret", new="overwritten"),
    "move from": lambda ws, path: ws.move_file(source=path, target="stolen.txt"),
    "move to": lambda ws, path: ws.move_file(source="file.txt", target=path),
    "move into": lambda ws, path: ws.move_file(source="folder", target=path),
}
READS = ["list", "tree", "read", "search", "find"]
WRITES = [name for name in USES if name not in READS]

ESCAPES = {
    # Upwards
    "parent": "..",
    "parent with a slash": "../",
    "file beside": "../outside/secret.txt",
    "folder with the same beginning": "../work-other/secret.txt",
    "down and up": "folder/../../outside/secret.txt",
    "dot first": "./../outside/secret.txt",
    "dots between": "folder/./../././../outside/secret.txt",
    "doubled slashes": "folder//..//..//outside//secret.txt",
    "through what isn't there": "missing/../../outside/secret.txt",
    "through a file": "file.txt/../../outside/secret.txt",
    "out and in again": "../work/file.txt",
    "up within": "folder/../file.txt",
    "up at the end": "folder/..",
    "up through a link": "out/../secret.txt",
    "many times up": "../" * 40 + "etc/passwd",
    "with glob": "fold*/../../outside/secret.txt",
    "with a variable": "${PWD}/../outside/secret.txt",
    # Absolute
    "absolute": "{outside}/secret.txt",
    "absolute into the workspace": "{root}/file.txt",
    "absolute, then up": "{root}/../outside/secret.txt",
    "doubled slash": "/{outside}/secret.txt",
    "system file": "/etc/passwd",
    "root folder": "/",
    "process": "/proc/self/environ",
    "root by process": "/proc/self/root/etc/passwd",
    "folder by process": "/proc/self/cwd",
    "descriptor": "/dev/fd/0",
    "device": "/dev/zero",
    # Other systems' absolutes
    "home": "~",
    "home file": "~/.ssh/id_rsa",
    "somebody's home": "~root/.bashrc",
    "drive": "C:\\Windows\\win.ini",
    "drive with slashes": "C:/Windows/win.ini",
    "drive without a slash": "C:secret.txt",
    "share": "\\\\server\\share\\secret.txt",
    "share with slashes": "//server/share/secret.txt",
    "backslashes up": "..\\outside\\secret.txt",
    "backslashes down and up": "folder\\..\\..\\outside\\secret.txt",
    "mixed slashes": "folder/..\\..\\outside/secret.txt",
    "rooted backslash": "\\etc\\passwd",
    # Links
    "link to a file": "link.txt",
    "absolute link to a file": "absolute.txt",
    "link to a folder": "out",
    "link to a folder with a slash": "out/",
    "link to a folder with a dot": "out/.",
    "through a link": "out/secret.txt",
    "far through a link": "out/sub/deep.txt",
    "new file through a link": "out/new.txt",
    "new folder through a link": "out/new/new.txt",
    "through a deeper link": "folder/out/secret.txt",
    "through a chain of links": "chain/secret.txt",
    "through a link upwards": "up/outside/secret.txt",
    "through a link to the root": "slash/etc/passwd",
    "through a link to the process": "process/root/etc/passwd",
    "dangling link": "dangling",
    "through a dangling link": "dangling-folder/new.txt",
    "link to itself": "loop",
    "through a link to itself": "loop/file.txt",
    "link within": "within.txt",
    "through a link within": "within/file.txt",
    "through a link to the workspace": "here/file.txt",
    "links upon links": "here/here/here/up/outside/secret.txt",
    # Characters
    "NUL at the end": "link.txt\0",
    "NUL and another ending": "file.txt\0.png",
    "NUL first": "\0../outside/secret.txt",
    "NUL alone": "\0",
    "line break at the end": "link.txt\n",
    "line break first": "\n../outside/secret.txt",
    "escape sequence": "\x1b]0;owned\x07",
    "delete": "file.txt\x7f",
    "byte of no encoding": "caf\udce9.txt",
    "half a pair": "\ud83d.txt",
    "dots as lone bytes": "\udc2e\udc2e/outside/secret.txt",
    "slash as a lone byte": "..\udc2foutside\udc2fsecret.txt",
    # Sizes
    "name too long": "n" * 300,
    "path too long": "folder/" * 200 + "file.txt",
    "very long": "x" * 1_000_000,
    "deep into nothing, then up": "a/" * 30 + "../" * 32 + "outside/secret.txt",
    # What is no file
    "pipe": "pipe",
    "socket": "socket",
    "through a pipe": "pipe/file.txt",
    "pipe with a slash": "pipe/",
}


def attacked(place: Place, use: str, path: str) -> str | None:
    """
    Uses a path, and checks that nothing has left or changed outside.

    :returns: The refusal's text, or None when it was accepted.
    """
    before = place.outside_now()
    path = path.replace("{outside}", str(place.outside)).replace("{root}", str(place.root))
    try:
        answer, refusal = str(USES[use](place.workspace, path)), None
    except REFUSAL as error:
        answer = refusal = str(error)
    assert SECRET not in answer
    assert "deep.txt" not in answer.replace(path, "")
    assert place.outside_now() == before
    for file in place.root.rglob("*"):
        if file.is_file() and not file.is_symlink():
            assert SECRET not in file.read_text()
    return refusal


def test_the_table_of_attacks_has_at_least_40_rows() -> None:
    assert len(set(ESCAPES.values())) >= 40


@pytest.mark.parametrize("attack", ESCAPES)
def test_an_escape_is_refused_however_it_is_used_and_nothing_comes_or_goes_out(
    place: Place, attack: str
) -> None:
    files = all_in(place.root)
    refusals = {use: attacked(place, use, ESCAPES[attack]) for use in USES}
    assert [use for use, refusal in refusals.items() if refusal is None] == []
    assert [use for use, refusal in refusals.items() if not 0 < len(refusal or "") < 2_500] == []
    assert all_in(place.root) == files


LOOKALIKES = {
    "one-dot leaders": "\u2024\u2024/outside/secret.txt",
    "two-dot leader": "\u2025/outside/secret.txt",
    "full-width dots": "\uff0e\uff0e/outside/secret.txt",
    "ideographic dots": "\u3002\u3002/outside/secret.txt",
    "division slash": "..\u2215outside\u2215secret.txt",
    "fraction slash": "..\u2044outside\u2044secret.txt",
    "full-width slash": "..\uff0foutside\uff0fsecret.txt",
    "full-width backslash": "..\uff3coutside\uff3csecret.txt",
    "zero-width between the dots": ".\u200b./outside/secret.txt",
    "zero-width behind the dots": "..\u200b/outside/secret.txt",
    "right to left": "\u202etxt.terces/edistuo/..",
    "combining": "..\u0338/outside/secret.txt",
    "encoded dots": "%2e%2e/outside/secret.txt",
    "encoded slashes": "..%2foutside%2fsecret.txt",
    "all encoded": "%2e%2e%2foutside%2fsecret.txt",
    "encoded twice": "%252e%252e%252foutside%252fsecret.txt",
    "overlong encoding": "..%c0%afoutside%c0%afsecret.txt",
    "encoded NUL": "link.txt%00",
    "what a filter leaves": "....//outside/secret.txt",
    "what a filter leaves, other slash": "..././outside/secret.txt",
    "three dots": ".../outside/secret.txt",
    "dots and a space": ".. /outside/secret.txt",
    "space and dots": " ../outside/secret.txt",
    "dots and a hard space": "..\u00a0/outside/secret.txt",
    "dots and a semicolon": "..;/outside/secret.txt",
    "trailing dot": "link.txt.",
    "trailing space": "link.txt ",
    "leading space": " link.txt",
    "leading space before a slash": " /etc/passwd",
    "absolute without its slash": "etc/passwd",
    "other case": "OUT/secret.txt",
    "variable": "$HOME/.ssh/id_rsa",
    "command": "$(cat ../outside/secret.txt)".replace("../", ""),
    "back quotes": "`id`",
    "option": "-rf",
    "piped": "|id",
    "file URL": "file:///etc/passwd",
    "web URL": "http://127.0.0.1/secret.txt",
    "glob star": "*/secret.txt",
    "glob question": "o?t/secret.txt",
    "glob class": "[o]ut/secret.txt",
    "glob stars": "**/secret.txt",
    "braces": "{out,folder}/secret.txt",
    "stream": "link.txt::$DATA",
    "quoted": '"link.txt"',
}


@pytest.mark.parametrize("attack", LOOKALIKES)
def test_what_only_looks_like_an_escape_is_the_name_of_nothing(place: Place, attack: str) -> None:
    assert [use for use in READS if attacked(place, use, LOOKALIKES[attack]) is None] == []


@pytest.mark.parametrize("attack", LOOKALIKES)
def test_what_only_looks_like_an_escape_writes_within_or_not_at_all(tmp_path: Path, attack: str) -> None:
    for use in WRITES:
        place = place_in(tmp_path / use)
        files = all_in(place.root)
        refused = attacked(place, use, LOOKALIKES[attack]) is not None
        assert (all_in(place.root) == files) == refused


@pytest.mark.parametrize(
    "pattern",
    [
        "../*",
        "../**",
        "../outside/*",
        "folder/../../outside/*",
        "**/../../outside/*",
        "/etc/*",
        "/**",
        "{outside}/*",
        "*/..",
    ],
)
@pytest.mark.parametrize("text", [None, "secret"])
def test_a_pattern_that_leads_out_is_refused(place: Place, pattern: str, text: str | None) -> None:
    with pytest.raises(REFUSAL):
        place.workspace.search_files(text=text, files=pattern.replace("{outside}", str(place.outside)))


@pytest.mark.parametrize(
    "pattern",
    ["**", "*", "**/*", "out/*", "up/**", "*/secret.txt", "[.][.]/*", "?.[.]/*", "~/*", "..\\*", ".*/*"],
)
@pytest.mark.parametrize("text", [None, "secret"])
def test_a_search_finds_nothing_outside_whatever_its_pattern(
    place: Place, pattern: str, text: str | None
) -> None:
    found = str(place.workspace.search_files(text=text, files=pattern))
    assert "secret.txt" not in found
    assert "deep.txt" not in found
    assert SECRET not in found


def test_a_tree_and_a_list_show_links_without_following_them(place: Place) -> None:
    tree = place.workspace.tree(depth=20)
    assert "secret.txt" not in tree
    assert "deep.txt" not in tree
    entries = {entry.split(" ")[0]: entry for entry in place.workspace.list_files()}
    assert {"out", "link.txt", "file.txt", "folder/", "pipe"} <= set(entries)
    assert "link" in entries["out"].removeprefix("out")
    assert str(place.outside) not in str(entries)


PIECES = st.sampled_from(
    [".git", "..", ".", "", "/", "\\", "~", "out", "up", "here", "link.txt", "outside", "work", "secret.txt",
     "folder", "file.txt", "\0", " ", "...", "%2e%2e", "\u2025", "*", "**", "slash", "loop", "pipe", "C:"]
)  # fmt: skip


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return place_in(tmp_path_factory.mktemp("shared"))


@pytest.fixture(scope="module")
def untouched(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return place_in(tmp_path_factory.mktemp("untouched"))


@settings(max_examples=200, deadline=None, database=None)
@given(
    use=st.sampled_from(list(USES)),
    path=st.one_of(st.lists(PIECES, max_size=7).map("/".join), st.lists(PIECES).map("".join), st.text()),
)
def test_no_path_reaches_out_or_raises_anything_but_a_refusal(shared: Place, use: str, path: str) -> None:
    attacked(shared, use, path)


@settings(max_examples=150, deadline=5000, database=None)
@given(st.one_of(st.text(), st.text("*?[]!-a/.", max_size=200), st.lists(PIECES, max_size=30).map("/".join)))
def test_no_pattern_finds_anything_outside_or_raises_anything_but_a_refusal(
    untouched: Place, pattern: str
) -> None:
    with suppress(*REFUSAL):
        found = str(untouched.workspace.search_files(files=pattern))
        assert "secret.txt" not in found
        assert "deep.txt" not in found


# Version control's own files


@pytest.mark.parametrize(
    "path",
    [
        ".git",
        ".git/config",
        ".git/hooks/pre-commit",
        "./.git/config",
        ".//.git//config",
        ".GIT/config",
        ".Git/hooks/pre-commit",
        ".git./config",
        ".git /config",
        ".git. ./config",
        "folder/.git",
        "folder/.git/config",
        "folder/.GIT/hooks/post-checkout",
        "new/.git/config",
        ".hg/hgrc",
        ".svn/entries",
    ],
)
def test_what_version_control_would_run_cant_be_written(place: Place, path: str) -> None:
    files = all_in(place.root)
    assert [use for use in WRITES if attacked(place, use, path) is None] == []
    assert all_in(place.root) == files
    assert (place.root / ".git" / "config").read_text() == "[core]\n"


@pytest.mark.parametrize("path", [".gitignore", ".github/workflows/ci.yml", "git/config", ".gitmodules2"])
def test_files_whose_names_only_begin_like_version_controls_can_be_written(ws: Workspace, path: str) -> None:
    ws.write_file(path=path, text="ok")
    assert ws.read_file(path=path) == "ok"


def test_version_controls_files_can_be_read_by_name_and_dont_fill_searches(place: Place) -> None:
    assert place.workspace.read_file(path=".git/config") == "[core]\n"
    assert place.workspace.search_files(text="[core]") == ["nothing was found"]
    assert "hooks" not in place.workspace.tree(depth=5)


# Hard links, devices


@pytest.mark.parametrize("use", ["write", "append", "replace", "move to"])
def test_a_hard_link_to_a_file_outside_is_not_written_through(place: Place, use: str) -> None:
    (place.root / "hard.txt").hardlink_to(place.outside / "secret.txt")
    before = (place.outside / "secret.txt").read_bytes()
    with suppress(*REFUSAL):
        USES[use](place.workspace, "hard.txt")
    assert (place.outside / "secret.txt").read_bytes() == before


def test_moving_a_hard_link_leaves_the_file_outside(place: Place) -> None:
    (place.root / "hard.txt").hardlink_to(place.outside / "secret.txt")
    place.workspace.move_file(source="hard.txt", target="folder/moved.txt")
    assert (place.outside / "secret.txt").read_text() == SECRET
    assert not (place.root / "hard.txt").exists()


@pytest.mark.parametrize(("major", "minor"), [(1, 3), (1, 5), (1, 7)], ids=["null", "zero", "full"])
def test_a_device_in_the_workspace_is_refused(root: Path, major: int, minor: int) -> None:
    try:
        os.mknod(root / "device", stat.S_IFCHR | 0o666, os.makedev(major, minor))
    except PermissionError:
        pytest.skip("only root makes devices, and not in every container")
    (root / "file.txt").touch()
    (root / "folder").mkdir()
    for use in USES.values():
        with pytest.raises(REFUSAL):
            use(Workspace(root), "device")
    assert stat.S_ISCHR((root / "device").stat().st_mode)


def test_a_search_passes_over_pipes_without_waiting(place: Place) -> None:
    assert place.workspace.search_files(text="harmless") == [
        "file.txt:1: harmless",
        "folder/file.txt:1: harmless",
    ]


@pytest.mark.parametrize("use", USES)
def test_no_descriptor_stays_open_after_a_call(place: Place, use: str) -> None:
    def opened() -> int:
        return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - as few calls as can be

    for path in ["file.txt", "folder", "out", "out/secret.txt", "missing/file.txt", "pipe", "socket"]:
        before = opened()
        with suppress(*REFUSAL):
            USES[use](place.workspace, path)
        assert opened() == before


# Races: something outside of the program exchanges a name for a link, over and over


@contextmanager
def exchanged(steps: Callable[[], None]) -> Iterator[Callable[[], int]]:
    """Another thread takes these steps in a tight loop. Gives the number of rounds so far."""
    stop, rounds = threading.Event(), [0]

    def loop() -> None:
        while not stop.is_set():
            steps()
            rounds[0] += 1

    thread = threading.Thread(target=loop)
    thread.start()
    try:
        yield lambda: rounds[0]
    finally:
        stop.set()
        thread.join()


def steps_for_a_folder(place: Place) -> Callable[[], None]:
    """`prey` is now a folder of the workspace, now a link to the outside."""
    prey, real = place.root / "prey", place.root / "real"
    prey.mkdir()
    (prey / "secret.txt").write_text("harmless")
    count = iter(range(10**9))

    def steps() -> None:
        with suppress(OSError):  # a folder that a write has made meanwhile
            if real.exists() and not prey.is_symlink():
                prey.rename(place.root / f"made-{next(count)}")
        with suppress(OSError):
            prey.rename(real)
        with suppress(OSError):
            prey.symlink_to(place.outside)
        with suppress(OSError):
            prey.unlink()
        with suppress(OSError):
            real.rename(prey)

    return steps


def steps_for_a_file(place: Place) -> Callable[[], None]:
    """`prey/secret.txt` is now a file, now a link to the one outside: either replaces the other at once."""
    prey, spare = place.root / "prey" / "secret.txt", place.root / "spare"
    prey.parent.mkdir()
    prey.write_text("harmless")

    def steps() -> None:
        with suppress(OSError):
            spare.symlink_to(place.outside / "secret.txt")
            spare.rename(prey)
        with suppress(OSError):
            spare.write_text("harmless")
            spare.rename(prey)

    return steps


RACING: dict[str, Callable[[Workspace], Any]] = {
    "read": lambda ws: ws.read_file(path="prey/secret.txt"),
    "list": lambda ws: ws.list_files(folder="prey"),
    "tree": lambda ws: ws.tree(depth=5),
    "search": lambda ws: ws.search_files(text="secret"),
    "search in it": lambda ws: ws.search_files(text="secret", folder="prey"),
    "write": lambda ws: ws.write_file(path="prey/secret.txt", text="overwritten"),
    "write new": lambda ws: ws.write_file(path="prey/new.txt", text="overwritten"),
    "write deeper": lambda ws: ws.write_file(path="prey/sub/new.txt", text="overwritten"),
    "append": lambda ws: ws.append_to_file(path="prey/secret.txt", text="overwritten"),
    "replace": lambda ws: ws.replace_in_file(path="prey/secret.txt", old="secret", new="overwritten"),
    "move out of it": lambda ws: ws.move_file(source="prey/secret.txt", target="stolen.txt"),
    "move into it": lambda ws: ws.move_file(source="file.txt", target="prey/moved.txt"),
}


@pytest.mark.parametrize("race", RACING)
@pytest.mark.parametrize("steps", [steps_for_a_folder, steps_for_a_file], ids=["folder", "file"])
def test_a_name_that_is_exchanged_for_a_link_meanwhile_leads_nowhere(
    place: Place, steps: Callable[[Place], Callable[[], None]], race: str
) -> None:
    before = place.outside_now()
    workspace = place.workspace
    answers: list[str] = []
    with exchanged(steps(place)) as rounds:
        while len(answers) < 100 or (rounds() < 50 and len(answers) < 3_000):
            try:
                answers.append(str(RACING[race](workspace)))
            except REFUSAL as error:
                answers.append(str(error))
            (place.root / "stolen.txt").unlink(missing_ok=True)
            (place.root / "file.txt").touch()
        assert rounds() > 10
    assert [answer for answer in answers if SECRET in answer or "deep.txt" in answer] == []
    assert place.outside_now() == before


def test_a_root_that_is_exchanged_for_a_link_later_doesnt_lead_out(place: Place) -> None:
    workspace, before = place.workspace, (place.outside / "secret.txt").read_text()
    place.root.rename(place.root.with_name("gone"))
    place.root.symlink_to(place.outside)
    for use in READS:
        with suppress(*REFUSAL):
            assert SECRET not in str(USES[use](workspace, "secret.txt" if use == "read" else "."))
    for use in ["write", "append", "replace"]:
        with suppress(*REFUSAL):
            USES[use](workspace, "secret.txt")
    assert (place.outside / "secret.txt").read_text() == before


def test_a_folder_above_the_root_that_is_exchanged_for_a_link_later_doesnt_lead_out(tmp_path: Path) -> None:
    above = tmp_path / "above"
    place = place_in(above / "inner")
    (tmp_path / "elsewhere" / "work").mkdir(parents=True)
    (tmp_path / "elsewhere" / "work" / "secret.txt").write_text(SECRET)
    workspace = place.workspace
    (above / "inner").rename(above / "gone")
    (above / "inner").symlink_to(tmp_path / "elsewhere")
    with suppress(*REFUSAL):
        assert SECRET not in workspace.read_file(path="secret.txt")


def test_a_root_that_is_gone_is_told_plainly(root: Path, ws: Workspace) -> None:
    root.rmdir()
    for use in USES:
        with pytest.raises(REFUSAL):
            USES[use](ws, "file.txt")
    assert not root.exists()


# Where a workspace can be


def test_a_workspace_may_be_named_by_a_link(place: Place, tmp_path: Path) -> None:
    (tmp_path / "alias").symlink_to(place.root)
    assert Workspace(tmp_path / "alias").read_file(path="file.txt") == "harmless\n"


def test_a_workspace_may_be_named_relatively_and_stays_where_it_was(place: Place, tmp_path: Path) -> None:
    with changed_folder(place.root.parent):
        workspace = Workspace("work")
    with changed_folder(tmp_path.parent):
        assert workspace.read_file(path="file.txt") == "harmless\n"


@pytest.mark.parametrize(
    "root",
    [
        "missing",
        "missing/deeper",
        "file.txt",
        "file.txt/x",
        "loop",
        "pipe",
        "~nobody-of-this-name/x",
        "nul\0byte",
    ],
)
def test_what_is_no_folder_is_refused_when_the_workspace_is_made(place: Place, root: str) -> None:
    with changed_folder(place.root), pytest.raises(ConfigurationError):
        Workspace(root)


# Reading


@pytest.mark.parametrize(
    ("content", "arguments", "wanted"),
    [
        (b"one\ntwo\nthree\n", {}, "one\ntwo\nthree\n"),
        (b"no end", {}, "no end"),
        (b"", {}, ""),
        (b"\n", {}, "\n"),
        (b"one\ntwo\nthree\n", {"first_line": 1, "last_line": 3}, "one\ntwo\nthree\n"),
        (b"one\ntwo\n", {"last_line": 99}, "one\ntwo\n"),
        ("Grüße, 世界 🦙\n".encode(), {}, "Grüße, 世界 🦙\n"),
        (b"a\x0cb\x0bc\n", {}, "a\x0cb\x0bc\n"),
    ],
)
def test_a_whole_file_is_read_as_it_is(
    root: Path, ws: Workspace, content: bytes, arguments: dict[str, int], wanted: str
) -> None:
    (root / "a.txt").write_bytes(content)
    assert ws.read_file(path="a.txt", **arguments) == wanted


@pytest.mark.parametrize(
    ("first", "last", "lines"),
    [
        (2, 2, "two\n"),
        (2, 3, "two\nthree\n"),
        (1, 2, "one\ntwo\n"),
        (4, None, "four"),
        (3, 99, "three\nfour"),
    ],
)
def test_some_lines_are_read_with_a_word_on_which_they_are(
    root: Path, ws: Workspace, first: int, last: int | None, lines: str
) -> None:
    (root / "a.txt").write_text("one\ntwo\nthree\nfour")
    head, _, text = ws.read_file(path="a.txt", first_line=first, last_line=last).partition("\n")
    assert text == lines
    assert f"lines {first} to {first + lines.count(chr(10)) - lines.endswith(chr(10))} of 4" in head


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"first_line": 5}, ["4 lines", "5"]),
        ({"first_line": 3, "last_line": 2}, ["last_line", "first_line"]),
        ({"path": "missing.txt"}, ["missing.txt", "list_files"]),
        ({"path": "sub"}, ["sub", "folder"]),
        ({"path": "."}, ["workspace"]),
        ({"path": ""}, ["workspace"]),
    ],
)
def test_a_read_that_cant_be_says_what_to_do(
    root: Path, ws: Workspace, arguments: dict[str, Any], words: list[str]
) -> None:
    (root / "a.txt").write_text("one\ntwo\nthree\nfour")
    (root / "sub").mkdir()
    with pytest.raises(ToolRetry) as caught:
        ws.read_file(**{"path": "a.txt", **arguments})
    assert [word for word in words if word not in str(caught.value)] == []


@pytest.mark.parametrize(
    "arguments",
    [
        {"first_line": 0},
        {"first_line": -1},
        {"last_line": 0},
        {"first_line": "two"},
        {"path": None},
        {"path": ["a.txt"]},
    ],
)
def test_arguments_that_dont_fit_are_refused_by_name(ws: Workspace, arguments: dict[str, Any]) -> None:
    with pytest.raises(ToolInvocationError, match=next(iter(arguments))):
        ws.read_file.invoke(**{"path": "a.txt", **arguments})


def read_on(ws: Workspace, path: str) -> tuple[str, int]:
    """The whole of a file, as a model reads it that follows the hints; and the longest answer."""
    whole, first, longest = "", 1, 0
    for _ in range(1_000):
        answer = ws.read_file(path=path, first_line=first)
        longest = max(longest, len(answer))
        head, _, text = answer.partition("\n") if answer.startswith("[lines ") else ("", "", answer)
        whole += text
        onward = re.search(r"first_line=(\d+)", head)
        if onward is None:
            return whole, longest
        assert int(onward[1]) > first
        first = int(onward[1])
    raise AssertionError("no end")


@pytest.mark.parametrize(
    "content",
    [
        "".join(f"line {number}\n" for number in range(12_345)),
        "".join(f"{number} {'x' * 900}\n" for number in range(500)),
        "\n" * 5_000,
        "a\u2028b\x0cc\x85d\r\n" * 3_000,
        ("x" * 49_000 + "\n") * 5 + "end",
        "last line without an end\n" * 2_000 + "end",
    ],
    ids=["many lines", "long lines", "empty lines", "odd line ends", "very long lines", "no end"],
)
def test_a_long_file_is_read_piece_by_piece_without_loss(root: Path, ws: Workspace, content: str) -> None:
    (root / "a.txt").write_bytes(content.encode())
    whole, longest = read_on(ws, "a.txt")
    assert whole == content
    assert longest < 60_000


def test_a_line_too_long_to_be_shown_is_cut_and_says_so(root: Path, ws: Workspace) -> None:
    (root / "a.txt").write_text("x" * 1_000_000 + "\nnext\n")
    answer = ws.read_file(path="a.txt")
    assert len(answer) < 60_000
    assert "cut" in answer
    assert "next" in ws.read_file(path="a.txt", first_line=2)


@pytest.mark.parametrize(
    "content",
    [
        b"\xff\xfe\x00h\x00i",
        b"\x89PNG\r\n\x1a\n\x00\xff",
        b"caf\xe9\n",
        "hi".encode("utf-16"),
        b"\x00" * 5_000,
    ],
    ids=["bytes", "image", "latin-1", "utf-16", "zeros"],
)
@pytest.mark.parametrize("use", ["read", "append", "replace"])
def test_a_file_that_is_no_text_is_refused_and_stays(
    root: Path, ws: Workspace, content: bytes, use: str
) -> None:
    (root / "a.bin").write_bytes(content)
    with pytest.raises(REFUSAL):
        USES[use](ws, "a.bin")
    assert (root / "a.bin").read_bytes() == content


@pytest.mark.parametrize("use", ["read", "append", "replace"])
def test_a_huge_file_is_refused_with_the_limit(root: Path, ws: Workspace, use: str) -> None:
    with (root / "huge.txt").open("wb") as file:
        file.truncate(10**12)
    with pytest.raises(REFUSAL, match="10,000,000 bytes"):
        USES[use](ws, "huge.txt")
    assert (root / "huge.txt").stat().st_size == 10**12


# Listing


def test_a_folder_is_listed_with_its_folders_marked(place: Place) -> None:
    listed = place.workspace.list_files(folder="folder")
    assert listed[0] == "empty/"
    assert listed[1].startswith("file.txt")
    assert place.workspace.list_files(folder="./folder/") == listed


def test_an_empty_folder_is_an_empty_list_and_a_tree_that_says_so(ws: Workspace) -> None:
    assert ws.list_files() == []
    assert "empty" in ws.tree()


def test_a_tree_is_indented_and_as_deep_as_asked(root: Path, ws: Workspace) -> None:
    (root / "a" / "b" / "c" / "d").mkdir(parents=True)
    (root / "a" / "x.txt").touch()
    assert [line.split(" (")[0] for line in ws.tree(depth=2).split("\n")] == ["a/", "  b/", "  x.txt"]
    assert [line.split(" (")[0] for line in ws.tree(folder="a/b", depth=20).split("\n")] == ["c/", "  d/"]


@pytest.mark.parametrize("depth", [0, -1, 21, 10**9])
def test_a_trees_depth_is_bounded(ws: Workspace, depth: int) -> None:
    with pytest.raises(ToolInvocationError, match="depth"):
        ws.tree.invoke(depth=depth)


def test_a_large_folder_is_cut_with_a_word_on_how_to_go_on(root: Path, ws: Workspace) -> None:
    for number in range(700):
        (root / f"{number:04}.txt").touch()
    listed, tree = ws.list_files(), ws.tree().split("\n")
    assert 500 <= len(listed) < 520
    assert 500 <= len(tree) < 520
    assert "more" in listed[-1]
    assert "more" in tree[-1]


def test_names_that_are_no_utf_8_are_shown_and_harm_nothing(root: Path, ws: Workspace) -> None:
    with (root / os.fsdecode(b"caf\xe9.txt")).open("w") as file:
        file.write("needle\n")
    for answer in [ws.list_files(), ws.tree(), ws.search_files(), ws.search_files(text="needle")]:
        assert "caf" in str(answer)
        str(answer).encode()


def test_a_name_with_a_line_break_cant_fake_a_second_entry(root: Path, ws: Workspace) -> None:
    (root / "a\nfaked.txt").touch()
    assert len(ws.tree().split("\n")) == 1


# Searching


@pytest.fixture
def library(root: Path) -> Workspace:
    files = {
        "README.md": "Needle at the top\nnothing\n",
        "src/main.py": "import os\nneedle = 1\n",
        "src/test_main.py": "from main import needle\n",
        "src/deep/er/test_more.py": "# a.b*c [x] needle\n",
        "docs/guide.md": "haystack\r\nneedle\r\n",
        ".hidden/notes.md": "needle\n",
        "straße.txt": "Die Straße\n",
    }
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content.encode())
    (root / "image.png").write_bytes(b"\x89PNG needle \xff\x00")
    return Workspace(root)


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("*.md", [".hidden/notes.md", "README.md", "docs/guide.md"]),
        ("main.py", ["src/main.py"]),
        ("README.*", ["README.md"]),
        ("src/*.py", ["src/main.py", "src/test_main.py"]),
        ("src/**/*.py", ["src/deep/er/test_more.py", "src/main.py", "src/test_main.py"]),
        ("src/**/test_*.py", ["src/deep/er/test_more.py", "src/test_main.py"]),
        ("src/**", ["src/deep/er/test_more.py", "src/main.py", "src/test_main.py"]),
        ("**/*.png", ["image.png"]),
        ("**/test_*.py", ["src/deep/er/test_more.py", "src/test_main.py"]),
        ("./src/*.py", ["src/main.py", "src/test_main.py"]),
        ("**/**/main.py", ["src/main.py"]),
        ("[rR]EADME.m?", ["README.md"]),
        ("src/*/test_*.py", ["nothing was found"]),
        ("readme.md", ["nothing was found"]),
        ("*.exe", ["nothing was found"]),
    ],
)
def test_files_are_found_by_a_pattern(library: Workspace, pattern: str, found: list[str]) -> None:
    assert sorted(library.search_files(files=pattern)) == found


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        ({"text": "needle = "}, ["src/main.py:2: needle = 1"]),
        ({"text": "Needle"}, ["README.md:1: Needle at the top"]),
        ({"text": "NEEDLE =", "ignore_case": True}, ["src/main.py:2: needle = 1"]),
        ({"text": "a.b*c [x]"}, ["src/deep/er/test_more.py:1: # a.b*c [x] needle"]),
        ({"text": "a.b.c"}, ["nothing was found"]),
        ({"text": "needle", "files": "*.md"}, [".hidden/notes.md:1: needle", "docs/guide.md:2: needle"]),
        ({"text": "from", "folder": "src"}, ["src/test_main.py:1: from main import needle"]),
        ({"text": "STRASSE", "ignore_case": True}, ["straße.txt:1: Die Straße"]),
        ({"text": "PNG"}, ["nothing was found"]),
    ],
)  # fmt: skip
def test_lines_are_found_by_a_text_taken_literally(
    library: Workspace, arguments: dict[str, Any], found: list[str]
) -> None:
    assert sorted(library.search_files(**arguments)) == found


def test_an_empty_text_is_refused_with_a_hint(library: Workspace) -> None:
    with pytest.raises(ToolRetry, match="leave it out"):
        library.search_files(text="")


def test_a_text_of_two_lines_is_found_or_refused_but_never_said_to_be_missing(library: Workspace) -> None:
    try:
        found = library.search_files(text="import os\nneedle")
    except ToolRetry:
        return
    assert "src/main.py" in str(found)


def test_too_many_matches_are_cut_with_a_hint(root: Path, ws: Workspace) -> None:
    (root / "a.txt").write_text("needle\n" * 10_000)
    found = ws.search_files(text="needle")
    assert 100 <= len(found) < 110
    assert "more" in found[-1]


def test_a_match_far_along_a_line_is_shown_and_bounded(root: Path, ws: Workspace) -> None:
    (root / "a.min.js").write_text("x" * 100_000 + " needle " + "y" * 100_000)
    (match,) = ws.search_files(text="needle")
    assert len(match) < 1_000
    assert "needle" in match


def test_a_file_too_large_to_be_read_doesnt_end_the_search(root: Path, ws: Workspace) -> None:
    with (root / "a.log").open("wb") as file:
        file.truncate(10**12)
    (root / "b.txt").write_text("needle\n")
    assert "b.txt:1: needle" in ws.search_files(text="needle")


# Writing


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n",
        "no end",
        "one\ntwo\n",
        "dos\r\nlines\r\n",
        "Grüße 🦙",
        "tab\tand \x0c form feed",
        "\ufeffmark",
    ],
)
def test_what_is_written_is_there_byte_by_byte_and_read_back(root: Path, ws: Workspace, text: str) -> None:
    ws.write_file(path="new/folder/a.txt", text=text)
    assert (root / "new/folder/a.txt").read_bytes() == text.encode()
    assert ws.read_file(path="new/folder/a.txt") == text
    assert all_in(root) == ["new", "new/folder", "new/folder/a.txt"]


def test_writing_again_replaces_all_and_keeps_the_permissions(root: Path, ws: Workspace) -> None:
    (root / "run.sh").write_text("a long old text")
    (root / "run.sh").chmod(0o750)
    ws.write_file(path="run.sh", text="new")
    assert (root / "run.sh").read_text() == "new"
    assert stat.S_IMODE((root / "run.sh").stat().st_mode) == 0o750


def test_no_bit_that_gives_rights_outlives_a_write(root: Path, ws: Workspace) -> None:
    (root / "tool").write_text("old")
    (root / "tool").chmod(0o6755)
    ws.write_file(path="tool", text="new")
    assert stat.S_IMODE((root / "tool").stat().st_mode) == 0o755


@pytest.mark.parametrize(
    ("path", "text", "word"),
    [
        ("big.txt", "x" * 10_000_001, "10,000,000 bytes"),
        ("big.txt", "ü" * 5_000_001, "10,000,000 bytes"),
        ("half.txt", "\ud83d", "UTF-8"),
        ("folder", "x", "folder"),
        ("file.txt/below.txt", "x", "file.txt"),
        ("", "x", "workspace"),
        (".", "x", "workspace"),
        ("new/", "x", "'/'"),
    ],
    ids=["too big", "too big in bytes", "half a pair", "folder", "below a file", "nothing", "dot", "slash"],
)
@pytest.mark.parametrize("tool", ["write_file", "append_to_file"])
def test_a_write_that_cant_be_says_why_and_leaves_nothing(
    root: Path, ws: Workspace, tool: str, path: str, text: str, word: str
) -> None:
    (root / "folder").mkdir()
    (root / "file.txt").write_text("old")
    with pytest.raises(REFUSAL, match=word):
        getattr(ws, tool)(path=path, text=text)
    assert all_in(root) == ["file.txt", "folder"]
    assert (root / "file.txt").read_text() == "old"


def test_text_is_added_at_the_end_and_a_missing_file_is_made(root: Path, ws: Workspace) -> None:
    ws.append_to_file(path="new/a.txt", text="one\n")
    ws.append_to_file(path="new/a.txt", text="two\r\n")
    ws.append_to_file(path="new/a.txt", text="")
    assert (root / "new/a.txt").read_bytes() == b"one\ntwo\r\n"


def test_a_file_cant_grow_beyond_the_limit_by_additions(root: Path, ws: Workspace) -> None:
    (root / "a.txt").write_bytes(b"x" * 9_999_999)
    ws.append_to_file(path="a.txt", text="y")
    with pytest.raises(REFUSAL, match="10,000,000 bytes"):
        ws.append_to_file(path="a.txt", text="z")
    assert (root / "a.txt").stat().st_size == 10_000_000


# Replacing


@pytest.mark.parametrize(
    ("content", "old", "new", "wanted"),
    [
        ("one two three", "two", "2", "one 2 three"),
        ("one\ntwo\nthree\n", "one\ntwo\n", "", "three\n"),
        ("a", "a", "aa", "aa"),
        ("tabs\tand  spaces", "\tand  ", " ", "tabs spaces"),
        ("a.b", ".", "\\1", "a\\1b"),
        ("dos\r\nlines\r\nhere\r\n", "dos\nlines\n", "unix\nlines\n", "unix\r\nlines\r\nhere\r\n"),
        ("dos\r\nlines\r\n", "dos\r\nlines", "x\r\ny", "x\r\ny\r\n"),
        ("dos\r\nlines\r\n", "lines", "more\nlines", "dos\r\nmore\r\nlines\r\n"),
        ("Straße 🦙", "🦙", "", "Straße "),
        ("no end", "no end", "end\n", "end\n"),
    ],
)
def test_a_text_that_occurs_once_is_replaced(
    root: Path, ws: Workspace, content: str, old: str, new: str, wanted: str
) -> None:
    (root / "a.txt").write_bytes(content.encode())
    ws.replace_in_file(path="a.txt", old=old, new=new)
    assert (root / "a.txt").read_bytes() == wanted.encode()


@pytest.mark.parametrize(
    ("content", "old"),
    [
        ("one two", "three"),
        ("two two", "two"),
        ("One", "one"),
        ("one two", "one  two"),
        ("ababa", "aba"),
        ("}\n}\n}\n", "}\n}\n"),
        ("", "x"),
        ("x", ""),
        ("a\r\nb\r\na\r\nb\r\n", "a\nb\n"),
    ],
    ids="missing twice case space overlapping overlapping-lines empty no-old dos".split(),
)
def test_a_text_that_doesnt_occur_exactly_once_is_refused_and_nothing_changes(
    root: Path, ws: Workspace, content: str, old: str
) -> None:
    (root / "a.txt").write_bytes(content.encode())
    with pytest.raises(ToolRetry):
        ws.replace_in_file(path="a.txt", old=old, new="new")
    assert (root / "a.txt").read_bytes() == content.encode()


def test_a_text_that_occurs_often_is_told_with_its_lines(root: Path, ws: Workspace) -> None:
    (root / "a.txt").write_text("x = 1\ny = 2\nx = 1\n")
    with pytest.raises(ToolRetry, match=r"occurs 2 times.* 1, 3"):
        ws.replace_in_file(path="a.txt", old="x = 1", new="x = 3")


# Moving


@pytest.mark.parametrize(
    ("source", "target", "there"),
    [
        ("file.txt", "new.txt", "new.txt"),
        ("file.txt", "made/on/the/way.txt", "made/on/the/way.txt"),
        ("folder/file.txt", "new.txt", "new.txt"),
        ("folder", "renamed", "renamed/file.txt"),
        ("folder", "made/renamed", "made/renamed/file.txt"),
        ("./folder/file.txt", "./folder/other.txt", "folder/other.txt"),
    ],
)
def test_a_file_or_a_folder_is_moved(place: Place, source: str, target: str, there: str) -> None:
    place.workspace.move_file(source=source, target=target)
    assert (place.root / there).read_text() == "harmless\n"
    assert not (place.root / source).exists()


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("file.txt", "folder/file.txt"),
        ("file.txt", "folder"),
        ("file.txt", "folder/empty"),
        ("folder", "file.txt"),
        ("folder/file.txt", "file.txt"),
        ("folder", "folder/empty/folder"),
        ("folder", "folder"),
        ("file.txt", "file.txt"),
        ("file.txt", "./file.txt"),
        ("folder/empty", "folder"),
        ("folder/empty", ".git"),
        ("missing", "new.txt"),
        ("missing/file.txt", "new.txt"),
        (".", "new"),
        ("file.txt", "."),
        ("file.txt", "link.txt"),
        ("file.txt", "dangling"),
        ("folder", "dangling-folder"),
        ("link.txt", "new.txt"),
        ("out", "new"),
        ("pipe", "new"),
        ("file.txt", "file.txt/below.txt"),
    ],
)
def test_a_move_overwrites_nothing_and_moves_nothing_into_itself(
    place: Place, source: str, target: str
) -> None:
    files, before = all_in(place.root), place.outside_now()
    with pytest.raises(REFUSAL):
        place.workspace.move_file(source=source, target=target)
    assert all_in(place.root) == files
    assert (place.root / "file.txt").read_text() == "harmless\n"
    assert place.outside_now() == before


# As a model meets it


def test_the_object_as_a_whole_gives_its_documented_methods(endpoint: Endpoint, ws: Workspace) -> None:
    given_tools = definitions(endpoint, [ws])
    assert sorted(given_tools) == sorted([*READING, *WRITING])
    texts = {
        (name, parameter): schema.get("description", "")
        for name, definition in given_tools.items()
        for parameter, schema in definition["parameters"]["properties"].items()
    }
    assert [place for place, text in texts.items() if not text] == []
    assert str(ws.root) not in str(given_tools)


def test_writing_is_destructive_reading_is_not_and_none_leaves_the_machine(ws: Workspace) -> None:
    tools: dict[str, FunctionTool] = {name: getattr(ws, name) for name in [*READING, *WRITING]}
    assert [name for name in tools if tools[name].hints.destructive] == WRITING
    assert [name for name in tools if tools[name].hints.read_only] == READING
    assert [name for name in tools if tools[name].hints.open_world] == []


@pytest.mark.parametrize("path", ["../outside/secret.txt", "out/secret.txt", "/etc/passwd", "a\0b"])
def test_the_model_is_told_of_a_refusal_and_the_run_goes_on(
    endpoint: Endpoint, place: Place, path: str
) -> None:
    result = call(endpoint, [place.workspace], "read_file", {"path": path})
    assert failed(result)
    assert SECRET not in told(result)
    assert "root:" not in told(result)
    assert result.text == "done"


def test_two_workspaces_side_by_side_are_refused_since_their_tools_have_the_same_names(
    endpoint: Endpoint, place: Place, ws: Workspace
) -> None:
    with pytest.raises(ConfigurationError, match="list_files"):
        Agent(chat_generator=generator(endpoint), tools=[ws, place.workspace])


def test_two_workspaces_in_one_program_keep_apart(root: Path, ws: Workspace, place: Place) -> None:
    ws.write_file(path="file.txt", text="mine")
    assert place.workspace.read_file(path="file.txt") == "harmless\n"
    assert ws.read_file(path="file.txt") == "mine"
