"""`llama-agent tools`, `call` and `--workspace` as a person starts them: processes, a real endpoint."""

import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.endpoint import Endpoint, Item, Reply, Request
from tests.test_cli import EVIL, GUARD, Done, llama_agent, tool_names, unsafe_in

FILE_TOOLS = [
    "append_to_file",
    "list_files",
    "move_file",
    "read_file",
    "replace_in_file",
    "search_files",
    "tree",
    "write_file",
]
CLOCK = ["add_time", "convert_time", "now", "time_between"]
SECRET = "the secret of the outside"

TOOLS = f'''
from typing import Literal
from llama_agent import tool

def add(a: int, b: int = 10) -> int:
    """
    Add two numbers.

    Args:
        a: First number.
        b: Second number.

    """
    print("printed by the tool")
    return a + b

def undocumented(a: int) -> int:
    return a

@tool(destructive=True, idempotent=True)
def paint(color: Literal["red", "blue"], coats: list[int], thick: bool = False) -> dict[str, str]:
    """Paint the wall."""
    return {{"wall": color}}

def evil(text: str) -> str:
    """Say something.

    More of it.
    """
    return text

evil.__doc__ = {f"Say {EVIL} something."!r}

def huge(text: str) -> str:
    """Take much room."""
    return text

huge.__doc__ = "Take much room.\\n\\n" + "word " * 5000
'''


@dataclass(frozen=True)
class Scene:
    """
    A command to be.

    :param arguments: Behind `llama-agent`.
    :param script: What an endpoint answers, for `run`.
    """

    arguments: Sequence[str]
    script: Sequence[Item] = ()

    def play(self, folder: Path) -> "Played":
        with Endpoint() as endpoint:
            endpoint.script(*self.script)
            where = ["--endpoint", endpoint.url] if self.arguments[0] == "run" else []
            done = llama_agent(folder, *self.arguments, *where, env={"OPENAI_MAX_RETRIES": "0"})
            return Played(done, endpoint.requests)


@dataclass(frozen=True)
class Played:
    done: Done
    requests: Sequence[Request]


def write_then_read(path: str) -> list[Item]:
    return [
        Reply(calls=[("write_file", {"path": path, "text": "written"})]),
        Reply(calls=[("read_file", {"path": "../outside.txt"})]),
        Reply(calls=[("read_file", {"path": "notes.txt"})]),
        Reply("Read."),
    ]


WORKSPACE = ["--workspace", "work"]
SCENES = {
    "table": Scene(["tools", "llama_agent_tools.clock", "tools.py:add", "tools.py:paint", *WORKSPACE]),
    "json": Scene(["tools", "llama_agent_tools.clock", "tools.py:paint", "--json", *WORKSPACE]),
    "warnings": Scene(["tools", "tools.py:undocumented", "tools.py:evil", "tools.py:huge"]),
    "warnings as json": Scene(["tools", "tools.py:undocumented", "tools.py:evil", "tools.py:huge", "--json"]),
    "call": Scene(["call", "tools.py:add", "--args", '{"a": "17"}']),
    "call that doesn't fit": Scene(["call", "tools.py:add", "--args", '{"a": "many", "c": 1}']),
    "call without json": Scene(["call", "tools.py:add", "--args", "{'a': 1"]),
    "call of no tool": Scene(["call", "llama_agent_tools.clock:nou"]),
    "call beside a workspace": Scene(["call", "tools.py:add", "--args", '{"a": 1}', *WORKSPACE]),
    "call that escapes": Scene(["call", "read_file", "--args", '{"path": "../outside.txt"}', *WORKSPACE]),
    "write unasked": Scene(
        ["call", "write_file", "--args", '{"path": "unasked.txt", "text": "x"}', *WORKSPACE]
    ),
    "write allowed": Scene(
        ["call", "write_file", "--args", '{"path": "allowed.txt", "text": "x"}', "--yes", *WORKSPACE]
    ),
    "run": Scene(["run", "Write it", *WORKSPACE], write_then_read("by-run.txt")),
    "run allowed": Scene(["run", "Write it", "--yes", *WORKSPACE], write_then_read("by-allowed-run.txt")),
    "run in no folder": Scene(["run", "Hi", "--workspace", "missing"]),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The current folder of all processes."""
    path = tmp_path_factory.mktemp("cli-tools")
    (path / "guard").mkdir()
    (path / "guard" / "sitecustomize.py").write_text(GUARD)
    (path / "tools.py").write_text(TOOLS, encoding="utf-8")
    (path / "work").mkdir()
    (path / "work" / "notes.txt").write_text("from the notes")
    (path / "outside.txt").write_text(SECRET)
    return path


@pytest.fixture(scope="module")
def played(folder: Path) -> Iterator[Callable[[str], Played]]:
    """Plays all of `SCENES`, two at a time, and gives one by name as soon as it has ended."""
    with ThreadPoolExecutor(2) as pool:
        futures = {name: pool.submit(scene.play, folder) for name, scene in SCENES.items()}
        yield lambda name: futures[name].result()


@pytest.fixture
def done(played: Callable[[str], Played]) -> Callable[[str], Done]:
    return lambda name: played(name).done


def cells(table: str) -> list[list[str]]:
    """A printed table's rows, each a list of cells, with the pieces of a cell's lines put together."""
    rows: list[list[list[str]]] = [[]]
    for line in table.splitlines():
        if line[:1] in "│┃" and line:
            rows[-1].append([cell.strip() for cell in line[1:-1].replace("┃", "│").split("│")])
        else:
            rows.append([])
    return [[" ".join(filter(None, cell)) for cell in zip(*row, strict=True)] for row in rows if row]


# tools


def test_the_table_has_a_row_for_each_tool_with_its_summary(done: Callable[[str], Done]) -> None:
    table = done("table")
    assert table.code == 0
    names = [row[0].split()[0] for row in cells(table.out)[1:]]
    assert sorted(names) == sorted([*CLOCK, "add", "paint", *FILE_TOOLS])
    assert any("Paint the wall." in row[0] for row in cells(table.out))


def test_the_table_shows_arguments_with_their_types_and_defaults(done: Callable[[str], Done]) -> None:
    row = next(row for row in cells(done("table").out) if row[0].startswith("paint"))
    text = " ".join(row[1].split())
    for shown in ["color: 'red' | 'blue'", "coats: array of integer", "thick: boolean = False"]:
        assert shown in text
    row = next(row for row in cells(done("table").out) if row[0].startswith("add "))
    assert "b: integer = 10" in row[1]


def test_the_table_shows_what_is_destructive(done: Callable[[str], Done]) -> None:
    rows = {row[0].split()[0]: row[2] for row in cells(done("table").out)[1:]}
    writing = ["append_to_file", "move_file", "paint", "replace_in_file", "write_file"]
    assert sorted(name for name, hints in rows.items() if "destructive" in hints) == writing
    assert sorted(name for name, hints in rows.items() if "read_only" in hints) == sorted(
        [*CLOCK, *(name for name in FILE_TOOLS if name not in writing)]
    )


def test_the_table_shows_sizes_that_add_up_and_fit_the_definitions(done: Callable[[str], Done]) -> None:
    table = done("table").out
    sizes = {row[0].split()[0]: int(row[3]) for row in cells(table)[1:]}
    assert f"{len(sizes)} tools" in table
    assert str(sum(sizes.values())) in table.replace(",", "")
    definitions = {
        item["function"]["name"]: json.dumps(item) for item in json.loads(done("json").out)["tools"]
    }
    for name, text in definitions.items():
        assert 0.15 < sizes[name] / len(text) < 0.4  # a token has 3 to 5 characters


def test_a_small_set_without_faults_gives_no_warning(done: Callable[[str], Done]) -> None:
    assert done("table").err == ""
    assert done("json").err == ""


def test_the_json_is_what_a_server_would_be_sent(
    done: Callable[[str], Done], played: Callable[[str], Played]
) -> None:
    shown: list[dict[str, Any]] = json.loads(done("json").out)["tools"]
    assert done("json").code == 0
    assert sorted(item["function"]["name"] for item in shown) == sorted([*CLOCK, "paint", *FILE_TOOLS])
    sent = {item["function"]["name"]: item for item in played("run").requests[0].json["tools"]}
    assert {name: item for item in shown if (name := item["function"]["name"]) in sent} == sent


@pytest.mark.parametrize("scene", ["warnings", "warnings as json"])
def test_warnings_name_the_tool_without_a_docstring_and_the_set_that_fills_the_window(
    done: Callable[[str], Done], scene: str
) -> None:
    lines = [line for line in done(scene).err.splitlines() if "warning" in line]
    assert done(scene).code == 0
    assert any("undocumented" in line and "docstring" in line for line in lines)
    assert any("huge" in line and "window" in line for line in lines)


def test_json_stays_json_when_there_are_warnings(done: Callable[[str], Done]) -> None:
    names = [item["function"]["name"] for item in json.loads(done("warnings as json").out)["tools"]]
    assert names == ["undocumented", "evil", "huge"]


@pytest.mark.parametrize("scene", ["warnings", "warnings as json"])
def test_a_tools_text_cant_steer_the_terminal(done: Callable[[str], Done], scene: str) -> None:
    assert unsafe_in(done(scene).out) == []
    assert unsafe_in(done(scene).err) == []


# call


def test_a_call_prints_what_a_model_would_read_and_nothing_else(done: Callable[[str], Done]) -> None:
    assert done("call").out == "27\n"
    assert done("call").code == 0
    assert "printed by the tool" in done("call").err


def test_a_call_whose_arguments_dont_fit_tells_each_of_them_and_runs_nothing(
    done: Callable[[str], Done],
) -> None:
    failed = done("call that doesn't fit")
    assert (failed.out, failed.code) == ("", 1)
    assert "a:" in failed.err
    assert "many" in failed.err
    assert "c: not a parameter" in failed.err
    assert "printed by the tool" not in failed.err
    assert "Traceback" not in failed.err


def test_arguments_that_are_no_json_are_wrong_usage(done: Callable[[str], Done]) -> None:
    failed = done("call without json")
    assert (failed.out, failed.code) == ("", 2)
    assert "JSON" in failed.err
    assert "Traceback" not in failed.err


def test_a_name_that_is_no_tool_is_wrong_usage(done: Callable[[str], Done]) -> None:
    failed = done("call of no tool")
    assert (failed.out, failed.code) == ("", 2)
    assert "nou" in failed.err
    assert "Traceback" not in failed.err


def test_a_tool_named_in_full_can_be_called_beside_a_workspace(done: Callable[[str], Done]) -> None:
    assert done("call beside a workspace").out == "11\n"
    assert done("call beside a workspace").code == 0


def test_a_call_of_a_file_tool_cant_leave_the_folder(done: Callable[[str], Done]) -> None:
    refused = done("call that escapes")
    assert (refused.out, refused.code) == ("", 1)
    assert "'..'" in refused.err
    assert SECRET not in refused.err


def test_a_destructive_call_is_refused_where_nobody_can_be_asked(
    folder: Path, done: Callable[[str], Done]
) -> None:
    refused = done("write unasked")
    assert (refused.out, refused.code) == ("", 1)
    assert "--yes" in refused.err
    assert not (folder / "work" / "unasked.txt").exists()


def test_a_destructive_call_runs_with_yes(folder: Path, done: Callable[[str], Done]) -> None:
    allowed = done("write allowed")
    assert allowed.code == 0
    assert "allowed.txt" in allowed.out
    assert (folder / "work" / "allowed.txt").read_text() == "x"


# run --workspace


def results(played: Played) -> list[str]:
    """What the model was told of its calls."""
    return [str(message["content"]) for message in played.requests[-1].messages if message["role"] == "tool"]


def test_a_run_with_a_workspace_offers_its_file_tools(played: Callable[[str], Played]) -> None:
    assert sorted(tool_names(played("run").requests[0])) == FILE_TOOLS
    assert (played("run").done.out, played("run").done.code) == ("Read.\n", 0)


@pytest.mark.parametrize("scene", ["run", "run allowed"])
def test_a_run_reads_in_the_workspace_and_nowhere_else(played: Callable[[str], Played], scene: str) -> None:
    _, outside, inside = results(played(scene))
    assert "from the notes" in inside
    assert ".." in outside
    assert SECRET not in str(results(played(scene)))
    assert SECRET not in played(scene).done.err


def test_a_run_writes_only_when_it_is_allowed(folder: Path, played: Callable[[str], Played]) -> None:
    refused, allowed = results(played("run"))[0], results(played("run allowed"))[0]
    assert "destructive" in refused
    assert "by-allowed-run.txt" in allowed
    assert not (folder / "work" / "by-run.txt").exists()
    assert (folder / "work" / "by-allowed-run.txt").read_text() == "written"


def test_a_workspace_that_isnt_there_is_wrong_usage_and_no_model_is_asked(
    played: Callable[[str], Played],
) -> None:
    scene = played("run in no folder")
    assert (scene.done.out, scene.done.code) == ("", 2)
    assert "missing" in scene.done.err
    assert "Traceback" not in scene.done.err
    assert len(scene.requests) == 0
