"""Ollama cuts long prompts without a word: it is noticed, and nothing else is taken for it."""

import asyncio
import base64
import random
import re
from collections.abc import Callable, Iterator

import pytest
from haystack.dataclasses import ChatMessage, ImageContent, StreamingChunk, TextContent, ToolCall
from haystack.tools import Tool

from llama_agent import Agent, ContextOverflow, MetaLlamaChatGenerator, tool
from tests.commands import llama_agent
from tests.endpoint import Always, Endpoint, Reply
from tests.endpoint.dresses import Ollama, worn

PROSE = "She went down to the shop to buy some bread, but it was shut. So she walked on to the next one. "
OLLAMA = "http://localhost:11434/v1"
RANDOM = random.Random(7)
NOISE = base64.b64encode(bytes(RANDOM.randrange(256) for _ in range(9000))).decode()

# Text, how often, and the tokens that it truly takes: the fewer of what Llama 3's tokenizer
# (llama3-tokenizer-js 1.2.0) and gpt-oss's (o200k, gpt-tokenizer 4.0.0) count. Both run on Ollama.
ORDINARY: dict[str, tuple[str, int, int]] = {
    "plain English": (
        "She went down to the shop to buy some bread, but it was shut. So she had to walk on to the next "
        "one, and it began to rain. ",
        150,
        4951,
    ),
    "formal English": (
        "The history of the region is complicated, and most of the surviving documents were written by "
        "administrators who had little understanding of the local communities. Nevertheless, researchers "
        "have reconstructed important developments through archaeological evidence. ",
        90,
        3421,
    ),
    "Python": (
        "def mean(values):\n    total = 0.0\n    for value in values:\n        total += value\n"
        "    return total / len(values)\n\n",
        120,
        3600,
    ),
    "Java": (
        "    public static final class ConnectionConfigurationProperties extends "
        "AbstractConfigurationProperties {\n        private final ApplicationContext applicationContext;\n"
        "        public ConnectionConfigurationProperties(ApplicationContext applicationContext) {\n"
        "            this.applicationContext = applicationContext;\n        }\n    }\n",
        60,
        2400,
    ),
    "JSON": (
        '{"id": 4711, "name": "Ada", "tags": ["a", "b"], "price": 12.5, "active": true, "parent": null}\n',
        150,
        6000,
    ),
    "indented JSON": (
        '                {\n                    "identifier": 4711,\n'
        '                    "description": "something"\n                },\n',
        120,
        2280,
    ),
    "a log": (
        "2026-11-23T10:15:42.123Z INFO  [worker-7] com.example.orders.OrderService - processed order "
        "8812731 in 45 ms\n",
        120,
        4680,
    ),
    "Chinese": (
        "中国是一个历史悠久的国家，拥有丰富的文化和多样的自然景观。人们在不同的季节里享受各种各样的美食。",
        100,
        3400,
    ),
    "Japanese": (
        "日本は四季がはっきりしている国で、春には桜が咲き、秋には紅葉が美しいです。人々は季節ごとに異なる食べ物を楽しみます。",
        100,
        4700,
    ),
    "Korean": (
        "한국은 아름다운 산과 바다가 있는 나라이며 사람들은 계절마다 다른 음식을 즐겨 먹습니다. "
        "봄에는 꽃이 피고 가을에는 단풍이 아름답습니다. ",
        100,
        4201,
    ),
    "Russian": (
        "Россия занимает значительную часть Евразии, и её природа чрезвычайно разнообразна. "
        "Путешественники отправляются на поезде через всю страну, чтобы увидеть озёра, горы и бескрайние "
        "леса, о которых они так много читали. ",
        80,
        4561,
    ),
    "Hindi": (
        "भारत एक विशाल देश है जिसकी संस्कृति बहुत पुरानी है। यहाँ के लोग अलग अलग भाषाएँ बोलते हैं और अनेक त्योहार "
        "मनाते हैं। मौसम पूरे वर्ष बदलता रहता है और किसान वर्षा की प्रतीक्षा करते हैं। ",
        80,
        3761,
    ),
    "Arabic": (
        "تعتبر اللغة العربية من أكثر اللغات انتشارا في العالم، ويتحدث بها مئات الملايين من الناس في بلدان "
        "كثيرة، ولها تاريخ طويل في الأدب والعلوم والفلسفة. ",
        80,
        3122,
    ),
    "Thai": (
        "ประเทศไทยเป็นประเทศที่มีวัฒนธรรมอันยาวนานและมีอาหารที่อร่อยมาก ผู้คนเป็นมิตรและยินดีต้อนรับนักท่องเที่ยวจากทั่วโลก ",
        80,
        3440,
    ),
    "repeated letters": ("A" * 400 + " ", 400, 20_799),
    "repeated Chinese characters": ("哈" * 60 + "，", 150, 4650),
    "lines of dashes": ("-" * 78 + "\nname   value\n", 500, 2500),
    "lines of box drawing": ("─" * 78 + "\nname   value\n", 300, 3600),
    "repeated pairs": ("=-" * 40 + "\n", 200, 1800),
    "zeros": ("0," * 300, 10, 6000),
    "base64": (NOISE, 1, 8130),
    "emoji": ("😀😀😀😀 ", 700, 2801),
}


@pytest.fixture
def ollama() -> Iterator[Endpoint]:
    """Stands where the preset says: a proxy is asked for whole URLs."""
    with Endpoint(base_path=OLLAMA) as running:
        yield running


@pytest.fixture
def generator(ollama: Endpoint) -> Iterator[MetaLlamaChatGenerator]:
    found = re.match(r"http://127\.0\.0\.1:\d+", ollama.url)
    assert found
    through = {"proxy": found[0], "trust_env": False, "verify": False}
    running = MetaLlamaChatGenerator(
        api_base_url="ollama", model="llama3.2", max_retries=2, http_client_kwargs=through
    )
    yield running
    running.close()


def ignore(chunk: StreamingChunk) -> None:
    """Nothing is shown."""


async def ignore_async(chunk: StreamingChunk) -> None:
    """Nothing is shown."""


def ask(generator: MetaLlamaChatGenerator, messages: list[ChatMessage], way: str = "sync") -> ChatMessage:
    async def asked() -> ChatMessage:
        callback = ignore_async if "stream" in way else None
        try:
            return (await generator.run_async(messages, streaming_callback=callback))["replies"][0]
        finally:
            await generator.close_async()

    if "async" in way:
        return asyncio.run(asked())
    return generator.run(messages, streaming_callback=ignore if "stream" in way else None)["replies"][0]


every_way = pytest.mark.parametrize("way", ["sync", "sync stream", "async", "async stream"])


# It is noticed


@every_way
def test_a_cut_prompt_is_an_overflow(ollama: Endpoint, generator: MetaLlamaChatGenerator, way: str) -> None:
    ollama.script(Always(Ollama(window=4096)))
    with pytest.raises(ContextOverflow):
        ask(generator, [ChatMessage.from_user(PROSE * 400)], way)


@pytest.fixture
def overflow(ollama: Endpoint, generator: MetaLlamaChatGenerator) -> ContextOverflow:
    ollama.script(Always(Ollama(window=4096)))
    with pytest.raises(ContextOverflow) as caught:
        ask(generator, [ChatMessage.from_user(PROSE * 400)])
    return caught.value


def test_the_overflow_has_the_window_as_its_limit(overflow: ContextOverflow) -> None:
    assert overflow.limit == 4096


def test_the_overflow_asked_for_more_than_the_window(overflow: ContextOverflow) -> None:
    assert overflow.requested is not None and 4096 < overflow.requested <= len(PROSE) * 400


def test_the_overflow_says_how_to_get_a_larger_window(overflow: ContextOverflow) -> None:
    assert "OLLAMA_CONTEXT_LENGTH" in str(overflow) and "num_ctx" in str(overflow)


def test_a_cut_prompt_is_not_sent_again(ollama: Endpoint, overflow: ContextOverflow) -> None:
    assert len(ollama.requests) == 1


@pytest.mark.parametrize("window", [2048, 4096, 8192, 32_768])
def test_twice_the_window_is_noticed_whatever_its_size(
    ollama: Endpoint, generator: MetaLlamaChatGenerator, window: int
) -> None:
    ollama.script(Always(Ollama(window=window)))
    with pytest.raises(ContextOverflow):
        ask(generator, [ChatMessage.from_user(PROSE * (2 * window * 4 // len(PROSE)))])


@pytest.mark.parametrize("kind", ["Python", "JSON", "Chinese", "Russian", "a log"])
def test_four_times_the_window_is_noticed_whatever_the_text(
    ollama: Endpoint, generator: MetaLlamaChatGenerator, kind: str
) -> None:
    text, times, tokens = ORDINARY[kind]
    window = 2048
    repeated = text * -(-times * 4 * window // tokens)
    ollama.script(Reply("Fine.", usage=(window, 5)))
    with pytest.raises(ContextOverflow):
        ask(generator, [ChatMessage.from_user(repeated)])


def test_tools_that_are_cut_away_are_noticed_too(ollama: Endpoint, generator: MetaLlamaChatGenerator) -> None:
    tools = [
        Tool(f"tool{n}", PROSE * 20, {"type": "object", "properties": {}}, lambda: None) for n in range(20)
    ]
    ollama.script(Always(Ollama(window=4096)))
    with pytest.raises(ContextOverflow):
        generator.run([ChatMessage.from_user("Hi")], tools=tools)


def test_an_agents_run_goes_on_with_less_of_the_result(
    ollama: Endpoint, generator: MetaLlamaChatGenerator
) -> None:
    @tool(max_result_chars=100_000)
    def read() -> str:
        """Read the book."""
        return PROSE * 200

    ollama.script(Reply(calls=[("read", {})], usage=(100, 5)), Always(Reply("Fine.", usage=(2048, 5))))
    with Agent(chat_generator=generator, tools=[read]) as agent:
        result = agent.run("Read the book.")
    assert (result.text, result.stop_reason) == ("Fine.", "answered")
    assert "shortened" in str(ollama.requests[-1].messages[-1]["content"])


def test_a_probed_ollama_at_another_address_is_noticed_too() -> None:
    with worn(Ollama(window=4096)) as endpoint:
        llama_agent("probe", "--endpoint", endpoint.url, "--model", "llama3.2", "--save")
        generator = MetaLlamaChatGenerator(api_base_url=endpoint.url, model="llama3.2")
        with pytest.raises(ContextOverflow):
            generator.run([ChatMessage.from_user(PROSE * 400)])
        generator.close()


def test_the_command_line_says_so_without_a_traceback() -> None:
    with worn(Ollama(window=4096)) as endpoint:
        llama_agent("probe", "--endpoint", endpoint.url, "--model", "llama3.2", "--save")
        done = llama_agent("run", PROSE * 400, "--endpoint", endpoint.url, "--model", "llama3.2")
    assert done.code == 1 and "without saying so" in done.err


# Nothing else is taken for it


@pytest.mark.parametrize("kind", ORDINARY)
def test_ordinary_text_is_no_alarm(ollama: Endpoint, generator: MetaLlamaChatGenerator, kind: str) -> None:
    text, times, tokens = ORDINARY[kind]
    ollama.script(Reply("Fine.", usage=(tokens + 30, 5)))
    assert ask(generator, [ChatMessage.from_user(text * times)]).text == "Fine."


@pytest.mark.parametrize(
    ("arguments", "result", "tokens"), [({}, "ok", 24), ({"a": 17, "b": 25}, "42", 33)], ids=["none", "two"]
)
def test_many_short_calls_are_no_alarm(
    ollama: Endpoint, generator: MetaLlamaChatGenerator, arguments: dict[str, int], result: str, tokens: int
) -> None:
    """Of a call and its result, Llama 3's template shows neither the id nor most of the JSON around it."""
    messages = [ChatMessage.from_user("Go on until it says stop.")]
    for number in range(100):
        call = ToolCall("next_page" if not arguments else "add", arguments, id=f"call_{number:08}")
        messages += [ChatMessage.from_assistant(tool_calls=[call]), ChatMessage.from_tool(result, call)]
    ollama.script(Reply("Fine.", usage=(100 * tokens + 150, 5)))
    assert ask(generator, messages).text == "Fine."


def test_many_short_messages_are_no_alarm(ollama: Endpoint, generator: MetaLlamaChatGenerator) -> None:
    messages: list[ChatMessage] = []
    for _ in range(150):
        messages += [ChatMessage.from_user("yes"), ChatMessage.from_assistant("no")]
    ollama.script(Reply("Fine.", usage=(300 * 6, 5)))  # five of a message's six tokens are the template's
    assert ask(generator, messages).text == "Fine."


def test_an_image_is_no_alarm(ollama: Endpoint, generator: MetaLlamaChatGenerator) -> None:
    content = [TextContent("What is this?"), ImageContent(NOISE * 20, "image/png", validation=False)]
    ollama.script(Reply("Noise.", usage=(1700, 5)))
    assert ask(generator, [ChatMessage.from_user(content_parts=content)]).text == "Noise."


@pytest.mark.parametrize("usage", [(0, 5), (12, 5)])
def test_counts_that_are_no_window_are_no_alarm(
    ollama: Endpoint, generator: MetaLlamaChatGenerator, usage: tuple[int, int]
) -> None:
    ollama.script(Reply("Fine.", usage=usage))
    assert ask(generator, [ChatMessage.from_user(PROSE * 100)]).text == "Fine."


def test_no_count_at_all_is_no_alarm(ollama: Endpoint, generator: MetaLlamaChatGenerator) -> None:
    ollama.script(Reply("Fine.", no_usage=True))
    assert ask(generator, [ChatMessage.from_user(PROSE * 400)]).text == "Fine."


def test_a_server_that_tells_of_overflows_is_not_judged(
    endpoint: Endpoint, make: Callable[..., MetaLlamaChatGenerator]
) -> None:
    endpoint.script(Reply("Fine.", usage=(4096, 5)))
    assert ask(make(), [ChatMessage.from_user(PROSE * 400)]).text == "Fine."


def test_a_prompt_that_fits_is_answered(ollama: Endpoint, generator: MetaLlamaChatGenerator) -> None:
    ollama.script(Always(Ollama(window=32_768)))
    assert ask(generator, [ChatMessage.from_user(PROSE * 100)]).text == "Hello there!"
