"""Tool calls come about natively, by a prompt or by schemas; and `tool_choice` holds in each way."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
from haystack import Pipeline
from haystack.components.agents import Agent as HaystackAgent
from haystack.dataclasses import ChatMessage, StreamingChunk, ToolCall

from llama_agent import (
    Agent,
    ConfigurationError,
    EndpointError,
    MetaLlamaChatGenerator,
    ParameterRefused,
    RunResult,
    ToolCallsRecovered,
    ToolModeChanged,
    tool,
)
from tests.conftest import Maker
from tests.endpoint import Always, Endpoint, Item, Reply, Request, Status
from tests.endpoint import Maker as ItemMaker
from tests.endpoint.dresses import VLLM, Dress, NoTools, Ollama, SGLang, instance, schema_asked_for, worn
from tests.prompted_model import NoJinja, NoTemplate, Prompted, form_shown, no_flags

Json = dict[str, Any]

TASK = "What is the weather in Paris and Oslo?"
ANSWER = "It is sunny in Paris and Oslo."
MOST_REQUESTS = 6
"""For one reply, however stubborn the model is."""

MODES = ("auto", "native", "prompted", "constrained")
each_mode = pytest.mark.parametrize("mode", MODES)
each_way = pytest.mark.parametrize("way", ["sync", "async"])
each_stream = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])


@tool
def weather(city: str) -> str:
    """
    Tell the weather of a place.

    Args:
        city: Name of the city.

    """
    return f"sunny in {city}"


@tool
def add(a: int, b: int) -> int:
    """Add two whole numbers."""
    return a + b


@tool
def subtract(a: int, b: int) -> int:
    """Subtract b from a."""
    return a - b


# Runs to their end, wherever the generator sits.


class Shown:
    """What a streaming callback was given as text."""

    def __init__(self) -> None:
        self.text = ""

    def settings(self, way: str, stream: bool) -> Json:
        """A callback that is a plain function: a pipeline copies its inputs, objects and all."""

        def take(chunk: StreamingChunk) -> None:
            self.text += chunk.content

        async def take_async(chunk: StreamingChunk) -> None:
            self.text += chunk.content

        if not stream:
            return {}
        return {"streaming_callback": take_async if way == "async" else take}


def in_our_agent(generator: MetaLlamaChatGenerator, way: str, settings: Json) -> str:
    async def main() -> Any:
        async with agent:
            return await agent.run_async(TASK, **settings)

    agent = Agent(chat_generator=generator, tools=[weather])
    if way == "async":
        return asyncio.run(main()).text
    with agent:
        return agent.run(TASK, **settings).text


def in_haystacks_agent(generator: MetaLlamaChatGenerator, way: str, settings: Json) -> str:
    agent = HaystackAgent(chat_generator=generator, tools=[weather])
    messages = [ChatMessage.from_user(TASK)]

    async def main() -> Any:
        try:
            return await agent.run_async(messages=messages, **settings)
        finally:
            await agent.close_async()

    result = asyncio.run(main()) if way == "async" else agent.run(messages=messages, **settings)
    return result["last_message"].text


def in_a_pipeline(generator: MetaLlamaChatGenerator, way: str, settings: Json) -> str:
    """The generator alone in a pipeline; its calls are run by hand."""
    pipeline = Pipeline()
    pipeline.add_component("llm", generator)

    async def ask_async(inputs: Json) -> Json:
        try:
            return await pipeline.run_async(inputs)
        finally:
            await generator.close_async()

    def ask(messages: list[ChatMessage]) -> ChatMessage:
        inputs = {"llm": {"messages": messages, "tools": [weather], **settings}}
        outputs = asyncio.run(ask_async(inputs)) if way == "async" else pipeline.run(inputs)
        return outputs["llm"]["replies"][0]

    messages = [ChatMessage.from_user(TASK)]
    for _ in range(4):
        messages.append(ask(messages))
        if not messages[-1].tool_calls:
            return messages[-1].text or ""
        messages += [
            ChatMessage.from_tool(weather.invoke(**call.arguments), origin=call)
            for call in messages[-1].tool_calls
        ]
    raise AssertionError("it calls and calls")


def in_haystacks_agent_in_a_pipeline(generator: MetaLlamaChatGenerator, way: str, settings: Json) -> str:
    pipeline = Pipeline()
    pipeline.add_component("agent", HaystackAgent(chat_generator=generator, tools=[weather]))
    inputs = {"agent": {"messages": [ChatMessage.from_user(TASK)], **settings}}

    async def main() -> Json:
        try:
            return await pipeline.run_async(inputs)
        finally:
            await generator.close_async()

    outputs = asyncio.run(main()) if way == "async" else pipeline.run(inputs)
    return outputs["agent"]["last_message"].text


HOSTS = [in_our_agent, in_haystacks_agent, in_a_pipeline, in_haystacks_agent_in_a_pipeline]
each_host = pytest.mark.parametrize("host", HOSTS, ids=lambda host: host.__name__)

FAMILIES: dict[str, tuple[str, ...]] = {
    "json": (
        "Llama-3.3-70B-Instruct",
        "meta-llama/Llama-3.1-8B-Instruct",
        "llama-3.3-70b-versatile",
        "llama3.1:8b",
    ),
    "pythonic": (
        "Llama-4-Scout-17B-16E-Instruct",
        "meta-llama/Llama-4-Maverick-17B-128E-Instruct",
        "llama4:scout",
    ),
    "tool_call": ("Qwen/Qwen2.5-7B-Instruct", "qwen3:8b", "NousResearch/Hermes-3-Llama-3.1-8B"),
}
UNKNOWN = ("m", "phi-4", "some/Model-7B")

SERVERS: dict[str, tuple[Callable[[], Dress], Json]] = {
    "prompted, Llama": (lambda: Prompted(model="Llama-3.3-70B-Instruct"), {"tool_mode": "prompted"}),
    "prompted, Llama 4": (lambda: Prompted(model="Llama-4-Scout"), {"tool_mode": "prompted"}),
    "prompted, Qwen": (lambda: Prompted(model="Qwen/Qwen2.5-7B-Instruct"), {"tool_mode": "prompted"}),
    "prompted, unknown": (lambda: Prompted(model="phi-4"), {"tool_mode": "prompted"}),
    "auto, vLLM without its flags": (lambda: Prompted(no_flags()), {}),
    "auto, llama.cpp without its flag": (lambda: Prompted(NoJinja()), {}),
    "auto, Ollama without a template": (lambda: Prompted(NoTemplate(), model="gemma:2b"), {}),
    "auto, tools passed over": (NoTools, {}),
    "auto, native": (VLLM, {}),
    "auto by name, native": (VLLM, {"tool_mode": "auto"}),
    "native": (VLLM, {"tool_mode": "native"}),
    "native, calls as text": (NoTools, {"tool_mode": "native"}),
}


@pytest.mark.parametrize("name", SERVERS)
@each_host
@each_way
@each_stream
def test_a_run_ends_with_the_answer_wherever_the_generator_sits(
    make: Maker, name: str, host: Callable[..., str], way: str, stream: bool
) -> None:
    dress = SERVERS[name][0]()
    shown = Shown()
    with worn(dress) as endpoint:
        generator = make(api_base_url=endpoint.url, model=dress.models[0], **SERVERS[name][1])
        text = host(generator, way, shown.settings(way, stream))
    assert text.replace("and sunny in", "and") == ANSWER
    if stream:
        assert shown.text == text


@each_host
@each_way
@each_stream
def test_constrained_mode_works_wherever_the_generator_sits(
    make: Maker, host: Callable[..., str], way: str, stream: bool
) -> None:
    """One call a turn, so one place of the two."""
    shown = Shown()
    with worn(NoTools()) as endpoint:
        generator = make(api_base_url=endpoint.url, model="llama", tool_mode="constrained")
        text = host(generator, way, shown.settings(way, stream))
    assert text == "It is sunny in Paris."
    if stream:
        assert shown.text == text


# What the prompt says.


def prompt_for(make: Maker, model: str, messages: list[ChatMessage] | None = None) -> Request:
    with Endpoint() as endpoint:
        endpoint.script(Reply("Hello."))
        generator = make(api_base_url=endpoint.url, model=model, tool_mode="prompted")
        generator.run(messages or [ChatMessage.from_user("Hi")], tools=[weather, add])
        return endpoint.requests[0]


@pytest.mark.parametrize(
    ("form", "model"), [(form, model) for form, models in FAMILIES.items() for model in models]
)
def test_tools_are_prompted_in_the_form_that_the_family_was_trained_on(
    make: Maker, form: str, model: str
) -> None:
    assert form_shown(prompt_for(make, model).messages[0]["content"]) == form


@pytest.mark.parametrize("model", UNKNOWN)
def test_a_model_of_an_unknown_family_is_shown_some_form(make: Maker, model: str) -> None:
    assert form_shown(prompt_for(make, model).messages[0]["content"]) != "none"


EVERY_MODEL = [*(model for models in FAMILIES.values() for model in models), *UNKNOWN]
each_model = pytest.mark.parametrize("model", EVERY_MODEL)


@each_model
def test_the_server_sees_nothing_of_tools_but_text(make: Maker, model: str) -> None:
    request = prompt_for(make, model)
    assert {"tools", "tool_choice", "parallel_tool_calls", "response_format"}.isdisjoint(request.json)
    assert [message["role"] for message in request.messages] == ["system", "user"]
    assert all(message.keys() == {"role", "content"} for message in request.messages)


@each_model
def test_the_prompt_describes_each_tool(make: Maker, model: str) -> None:
    prompt = prompt_for(make, model).messages[0]["content"]
    for text in ("weather", "Tell the weather of a place.", "city", "Name of the city.", "add", "Add two"):
        assert text in prompt


@each_model
def test_the_users_own_system_message_comes_first_in_one_system_message(make: Maker, model: str) -> None:
    given = [ChatMessage.from_system("Be brief."), ChatMessage.from_user("Hi")]
    sent = prompt_for(make, model, given).messages
    assert [message["role"] for message in sent] == ["system", "user"]
    assert sent[0]["content"].startswith("Be brief.")
    assert "weather" in sent[0]["content"]


@each_model
def test_calls_and_results_are_told_in_plain_messages(make: Maker, model: str) -> None:
    one, two = ToolCall("weather", {"city": "Århus"}, id="x"), ToolCall("add", {"a": 17, "b": 25}, id="y")
    given = [
        ChatMessage.from_user("Hi"),
        ChatMessage.from_assistant("Let me see.", tool_calls=[one, two]),
        ChatMessage.from_tool("sunny", origin=one),
        ChatMessage.from_tool("42", origin=two),
    ]
    sent = prompt_for(make, model, given).messages
    assert {message["role"] for message in sent} == {"system", "user", "assistant"}
    assert all(message.keys() == {"role", "content"} for message in sent)
    (called,) = [message["content"] for message in sent if message["role"] == "assistant"]
    for text in ("Let me see.", "weather", "Århus", "add", "17"):
        assert text in called
    told = "\n".join(message["content"] for message in sent[3:])
    assert told.index("sunny") < told.index("42")


@each_model
def test_earlier_calls_are_told_in_the_form_that_the_prompt_shows(make: Maker, model: str) -> None:
    """What the model sees of its own calls is what it will write next."""
    one = ToolCall("weather", {"city": "Oslo"}, id="x")
    given = [
        ChatMessage.from_user("Hi"),
        ChatMessage.from_assistant(tool_calls=[one]),
        ChatMessage.from_tool("sunny", origin=one),
    ]
    sent = prompt_for(make, model, given).messages
    form = form_shown(sent[0]["content"])
    begin = {
        "json": '{"name"',
        "pythonic": "[weather(",
        "tool_call": "<tool_call>",
        "function_tag": "<function=",
    }
    assert begin[form] in sent[2]["content"]


@each_model
def test_prompts_stay_alike_from_step_to_step(make: Maker, model: str) -> None:
    """Else no server could use its cache of the prompt."""
    with worn(Prompted(model=model)) as endpoint:
        generator = make(api_base_url=endpoint.url, model=model, tool_mode="prompted")
        with Agent(chat_generator=generator, tools=[weather]) as agent:
            agent.run(TASK)
        first, second = (request.messages for request in endpoint.requests)
    assert second[: len(first)] == first


@each_model
@each_stream
def test_a_call_in_the_form_of_the_prompt_is_an_ordinary_call(make: Maker, model: str, stream: bool) -> None:
    with worn(Prompted(model=model)) as endpoint:
        generator = make(api_base_url=endpoint.url, model=model, tool_mode="prompted")
        kwargs = {"stream": stream}
        (reply,) = generator.run(TASK, tools=[weather], generation_kwargs=kwargs)["replies"]
    assert [(call.tool_name, call.arguments) for call in reply.tool_calls] == [
        ("weather", {"city": "Paris"}),
        ("weather", {"city": "Oslo"}),
    ]
    assert len({call.id for call in reply.tool_calls} - {None, ""}) == 2
    assert not (reply.text or "").strip()
    assert reply.meta["recovered"] is True
    assert reply.meta["finish_reason"] == "tool_calls"


def test_a_question_without_tools_is_asked_as_it_is(make: Maker, endpoint: Endpoint) -> None:
    endpoint.script(Reply("Hello."))
    assert make(tool_mode="prompted").run("Hi")["replies"][0].text == "Hello."
    assert endpoint.requests[0].messages == [{"role": "user", "content": "Hi"}]


def test_the_messages_that_were_given_are_not_changed(make: Maker, endpoint: Endpoint) -> None:
    endpoint.script(Reply("Hello."))
    given = [ChatMessage.from_system("Be brief."), ChatMessage.from_user("Hi")]
    before = [repr(message) for message in given]
    make(tool_mode="prompted").run(given, tools=[weather])
    assert [repr(message) for message in given] == before


def test_the_runs_messages_have_no_prompt_of_ours(make: Maker) -> None:
    with worn(Prompted()) as endpoint:
        generator = make(api_base_url=endpoint.url, model="llama", tool_mode="prompted")
        with Agent(chat_generator=generator, tools=[weather]) as agent:
            result = agent.run(TASK)
    assert [message.role.value for message in result.messages] == [
        "user",
        "assistant",
        "tool",
        "tool",
        "assistant",
    ]


@pytest.mark.parametrize("settings", [{"parallel_tool_calls": True}, {"tool_choice": "auto"}], ids=str)
def test_settings_of_tool_calls_are_not_sent_in_prompted_mode(
    make: Maker, endpoint: Endpoint, settings: Json
) -> None:
    endpoint.script(Reply("Hello."))
    make(tool_mode="prompted").run("Hi", tools=[weather], generation_kwargs=settings)
    assert settings.keys().isdisjoint(endpoint.requests[0].json)


# Auto: what a server refuses once isn't asked of it again.

REFUSALS: dict[str, Callable[[], Dress]] = {
    "vLLM without its flags": lambda: Prompted(no_flags()),
    "llama.cpp without its flag": lambda: Prompted(NoJinja()),
    "Ollama without a template": lambda: Prompted(NoTemplate(), model="gemma:2b"),
}
each_refusal = pytest.mark.parametrize("name", REFUSALS)


@each_refusal
@each_way
@each_stream
def test_a_refusal_of_tools_is_met_once_and_said_once(make: Maker, name: str, way: str, stream: bool) -> None:
    dress: Any = REFUSALS[name]()
    with worn(dress) as endpoint:
        generator = make(
            api_base_url=endpoint.url,
            model=dress.models[0],
            generation_kwargs={"stream": stream},
            max_retries=3,
        )
        agent = Agent(chat_generator=generator, tools=[weather])

        async def main() -> Any:
            async with agent:
                return [await agent.run_async(TASK), await agent.run_async(TASK)]

        runs = asyncio.run(main()) if way == "async" else [agent.run(TASK), agent.run(TASK)]
        agent.close()
        asked = ["tools" in request.json for request in endpoint.requests]
    assert [run.text for run in runs] == [ANSWER, ANSWER]
    assert asked == [True, False, False, False, False]
    changes = [[event for event in run.events if isinstance(event, ToolModeChanged)] for run in runs]
    assert [[event.mode for event in found] for found in changes] == [["prompted"], []]
    assert changes[0][0].reason


def run_on(make: Maker, dress: Dress) -> RunResult:
    with worn(dress) as endpoint:
        generator = make(api_base_url=endpoint.url, model=dress.models[0])
        with Agent(chat_generator=generator, tools=[weather]) as agent:
            return agent.run(TASK)


def test_the_event_of_a_change_can_be_written_as_json(make: Maker) -> None:
    result = run_on(make, Prompted(no_flags()))
    (data,) = [event.to_dict() for event in result.events if isinstance(event, ToolModeChanged)]
    assert data["type"] == "ToolModeChanged"
    assert "tool" in data["reason"]
    json.dumps(data)


@each_refusal
@each_way
def test_native_mode_by_name_raises_what_the_server_refused(make: Maker, name: str, way: str) -> None:
    dress: Any = REFUSALS[name]()
    with worn(dress) as endpoint:
        generator = make(api_base_url=endpoint.url, model=dress.models[0], tool_mode="native")
        with pytest.raises(ParameterRefused):
            in_a_pipeline_step(generator, way)
    assert dress.refusals == 1


def in_a_pipeline_step(generator: MetaLlamaChatGenerator, way: str, **settings: Any) -> ChatMessage:
    async def main() -> ChatMessage:
        try:
            return (await generator.run_async(TASK, tools=[weather], **settings))["replies"][0]
        finally:
            await generator.close_async()

    if way == "async":
        return asyncio.run(main())
    return generator.run(TASK, tools=[weather], **settings)["replies"][0]


@pytest.mark.parametrize("own", ["gemma:2b", "llama3.1"])
def test_another_model_of_the_same_generator_is_asked_natively(make: Maker, own: str) -> None:
    asked: list[tuple[str, bool]] = []

    def answer(request: Request) -> Item:
        asked.append((request.json["model"], "tools" in request.json))
        if "tools" in request.json and request.json["model"] == "gemma:2b":
            return NoTemplate().refused(request.json) or Reply("never")
        return Reply("Hello there!")

    with Endpoint() as endpoint:
        endpoint.script(Always(answer))
        generator = make(api_base_url=endpoint.url, model=own)
        for model in ("gemma:2b", "llama3.1", "gemma:2b", "llama3.1"):
            generator.run("Hi", tools=[weather], generation_kwargs={"model": model})
    assert asked == [
        ("gemma:2b", True),
        ("gemma:2b", False),
        ("llama3.1", True),
        ("gemma:2b", False),
        ("llama3.1", True),
    ]


def test_a_server_that_refuses_in_the_middle_of_a_run_is_gone_on_with(make: Maker) -> None:
    """It was started anew, without its flags."""
    plain = Prompted(no_flags())

    def answer(request: Request) -> Item:
        return (
            Reply(calls=[("weather", {"city": city}) for city in ("Paris", "Oslo")])
            if first(request)
            else plain(request)
        )

    def first(request: Request) -> bool:
        return len(request.messages) == 1 and "tools" in request.json

    with Endpoint() as endpoint:
        endpoint.script(Always(answer))
        with Agent(chat_generator=make(api_base_url=endpoint.url, model="llama"), tools=[weather]) as agent:
            assert agent.run(TASK).text == ANSWER


OTHER_REFUSALS = {
    "a bad parameter": Status(400, {"error": {"message": "temperature: Input should be a valid number"}}),
    "a wrong key": Status(401, {"error": {"message": "Invalid API Key"}}),
    "an unknown model": Status(404, {"error": {"message": "The model `m` does not exist."}}),
    "an overload": Status(503),
    "a field": Status(400, {"error": {"message": "property 'parallel_tools' is unsupported"}}),
}


@pytest.mark.parametrize("name", OTHER_REFUSALS)
def test_other_refusals_dont_change_the_mode(make: Maker, endpoint: Endpoint, name: str) -> None:
    endpoint.script(OTHER_REFUSALS[name], Reply("Hello."))
    generator = make()
    with pytest.raises(EndpointError):
        generator.run("Hi", tools=[weather])
    generator.run("Hi", tools=[weather])
    assert ["tools" in request.json for request in endpoint.requests] == [True, True]


def test_a_server_that_fails_in_prompted_mode_too_is_an_error(make: Maker, endpoint: Endpoint) -> None:
    refused = no_flags().refused({"tools": [1], "messages": []})
    assert refused
    endpoint.script(refused, Status(400, {"error": {"message": "no luck"}}))
    with pytest.raises(EndpointError, match="no luck"):
        make().run("Hi", tools=[weather])


@each_stream
def test_calls_as_text_are_recovered_and_native_calls_asked_for_all_the_same(
    make: Maker, stream: bool
) -> None:
    with worn(NoTools()) as endpoint:
        generator = make(api_base_url=endpoint.url, model="llama", generation_kwargs={"stream": stream})
        with Agent(chat_generator=generator, tools=[weather]) as agent:
            result = agent.run(TASK)
        asked = ["tools" in request.json for request in endpoint.requests]
    assert result["tool_call_counts"] == {"weather": 2}
    (event,) = [event for event in result.events if isinstance(event, ToolCallsRecovered)]
    assert (event.format, event.tool_names) == ("json", ("weather", "weather"))
    assert asked == [True, True]


def test_no_mode_changes_where_tools_are_taken(make: Maker) -> None:
    result = run_on(make, VLLM())
    assert not [e for e in result.events if isinstance(e, ToolModeChanged | ToolCallsRecovered)]


def test_an_unknown_mode_is_refused_with_the_modes_there_are() -> None:
    with pytest.raises(ConfigurationError) as caught:
        MetaLlamaChatGenerator(tool_mode="textual")  # type: ignore[arg-type]
    assert all(f"'{mode}'" in str(caught.value) for mode in MODES)


@each_mode
def test_a_mode_is_saved(mode: str) -> None:
    saved = MetaLlamaChatGenerator(tool_mode=mode).to_dict()  # type: ignore[arg-type]
    assert MetaLlamaChatGenerator.from_dict(saved).tool_mode == mode


# tool_choice


SUBTRACT = {"type": "function", "function": {"name": "subtract"}}


class Stubborn:
    """
    A model behind a server that passes `tool_choice` over; only a schema holds it.

    :param unheld: What it writes, one after the other, the last of them for ever.
    """

    def __init__(self, *unheld: Reply) -> None:
        self.unheld = list(unheld)

    def __call__(self, request: Request) -> Item:
        asked = request.json
        if (schema := schema_asked_for(asked)) is not None:
            return Reply(json.dumps(instance(schema, asked)))
        return self.unheld.pop(0) if len(self.unheld) > 1 else self.unheld[0]


def chosen(
    make: Maker, answer: ItemMaker, mode: str, choice: Any, way: str = "sync", stream: bool = False
) -> tuple[ChatMessage, list[Request]]:
    """The reply to a question with a `tool_choice`, and what was asked for it."""
    kwargs = {"tool_choice": choice, "stream": stream}
    tools = [add, subtract]
    with Endpoint() as endpoint:
        endpoint.script(Always(answer))
        generator = make(api_base_url=endpoint.url, model="llama", tool_mode=mode)

        async def main() -> ChatMessage:
            try:
                return (await generator.run_async("Hi, 3 and 4!", tools=tools, generation_kwargs=kwargs))[
                    "replies"
                ][0]
            finally:
                await generator.close_async()

        if way == "async":
            reply = asyncio.run(main())
        else:
            reply = generator.run("Hi, 3 and 4!", tools=tools, generation_kwargs=kwargs)["replies"][0]
        return reply, endpoint.requests


def called(reply: ChatMessage) -> list[str]:
    return [call.tool_name for call in reply.tool_calls]


HELLO = Reply("Hello there!")
NATIVE_ADD = Reply(calls=[("add", {"a": 1, "b": 2})])
NATIVE_SUBTRACT = Reply(calls=[("subtract", {"a": 1, "b": 2})])
NATIVE_BOTH = Reply(calls=[("add", {"a": 1, "b": 2}), ("subtract", {"a": 1, "b": 2})])
TEXT_ADD = Reply('{"name": "add", "parameters": {"a": 1, "b": 2}}')
TEXT_SUBTRACT = Reply('{"name": "subtract", "parameters": {"a": 1, "b": 2}}')
TAGGED_ADD = Reply('<tool_call>{"name": "add", "arguments": {"a": 1, "b": 2}}</tool_call>')

ANSWERS_FIRST: dict[str, tuple[Reply, ...]] = {
    "text for ever": (HELLO,),
    "text, then a native call": (HELLO, NATIVE_SUBTRACT),
    "text, then a call as text": (HELLO, TEXT_SUBTRACT),
    "nothing, then a call as text": (Reply(""), TEXT_SUBTRACT),
    "a refusal to call": (Reply("I can't call tools."), Reply("Really, I can't.")),
}
CALLS_ANOTHER: dict[str, tuple[Reply, ...]] = {
    "another tool natively for ever": (NATIVE_ADD,),
    "another tool as text for ever": (TEXT_ADD,),
    "another tool, then the right one": (NATIVE_ADD, NATIVE_SUBTRACT),
    "another tool, then text": (TEXT_ADD, HELLO),
    "a tool that isn't there": (Reply(calls=[("divide", {"a": 1, "b": 2})]),),
}
CALLS_UNASKED: dict[str, tuple[Reply, ...]] = {
    "a native call for ever": (NATIVE_ADD,),
    "native calls for ever": (NATIVE_BOTH,),
    "a native call with text": (Reply("Let me add.", calls=NATIVE_ADD.calls),),
    "a native call, then text": (NATIVE_ADD, HELLO),
    "a call as text for ever": (TEXT_ADD,),
    "a tagged call for ever": (TAGGED_ADD,),
}


@pytest.mark.parametrize("name", ANSWERS_FIRST)
@each_mode
@each_way
@each_stream
def test_required_gets_a_call_of_a_model_that_just_answers(
    make: Maker, name: str, mode: str, way: str, stream: bool
) -> None:
    reply, requests = chosen(make, Stubborn(*ANSWERS_FIRST[name]), mode, "required", way, stream)
    assert called(reply)
    assert set(called(reply)) <= {"add", "subtract"}
    assert all(call.arguments.keys() == {"a", "b"} for call in reply.tool_calls)
    assert reply.meta["finish_reason"] == "tool_calls"
    assert len(requests) <= MOST_REQUESTS


@pytest.mark.parametrize("name", [*ANSWERS_FIRST, *CALLS_ANOTHER])
@each_mode
@each_way
@each_stream
def test_a_name_gets_a_call_of_that_tool_and_no_other(
    make: Maker, name: str, mode: str, way: str, stream: bool
) -> None:
    unheld = {**ANSWERS_FIRST, **CALLS_ANOTHER}[name]
    reply, requests = chosen(make, Stubborn(*unheld), mode, SUBTRACT, way, stream)
    assert set(called(reply)) == {"subtract"}
    assert all(call.arguments.keys() == {"a", "b"} for call in reply.tool_calls)
    assert len(requests) <= MOST_REQUESTS


@each_mode
def test_a_name_leaves_out_calls_of_other_tools_beside_it(make: Maker, mode: str) -> None:
    reply, _ = chosen(make, Stubborn(NATIVE_BOTH), mode, SUBTRACT)
    assert set(called(reply)) == {"subtract"}


@pytest.mark.parametrize("name", CALLS_UNASKED)
@each_mode
@each_way
@each_stream
def test_none_gets_no_calls(make: Maker, name: str, mode: str, way: str, stream: bool) -> None:
    reply, requests = chosen(make, Stubborn(*CALLS_UNASKED[name]), mode, "none", way, stream)
    assert reply.tool_calls == []
    assert reply.meta["finish_reason"] != "tool_calls"
    assert len(requests) <= MOST_REQUESTS


@each_mode
def test_none_lets_a_model_answer_at_once(make: Maker, mode: str) -> None:
    reply, requests = chosen(make, Stubborn(HELLO), mode, "none")
    assert (reply.text, len(requests)) == ("Hello there!", 1)


@each_mode
def test_auto_takes_the_answer_that_comes(make: Maker, mode: str) -> None:
    answer = Stubborn(HELLO) if mode != "constrained" else Stubborn(HELLO, HELLO)

    def free(request: Request) -> Item:
        if schema_asked_for(request.json) is not None:
            return Reply('{"next": "answer"}')
        return answer(request)

    reply, _ = chosen(make, free, mode, "auto")
    assert (reply.text, reply.tool_calls) == ("Hello there!", [])


@pytest.mark.parametrize("answer", [TEXT_ADD, TAGGED_ADD], ids=["json", "tagged"])
@pytest.mark.parametrize("mode", ["auto", "native", "prompted"])
def test_auto_takes_the_call_that_comes(make: Maker, mode: str, answer: Reply) -> None:
    reply, requests = chosen(make, Stubborn(answer), mode, "auto")
    assert (called(reply), len(requests)) == (["add"], 1)


@pytest.mark.parametrize("choice", ["required", SUBTRACT], ids=["required", "named"])
@pytest.mark.parametrize("mode", ["auto", "native", "prompted"])
def test_a_model_that_obeys_is_asked_but_once(make: Maker, mode: str, choice: Any) -> None:
    answer = TEXT_SUBTRACT if mode == "prompted" else NATIVE_SUBTRACT
    reply, requests = chosen(make, Stubborn(answer), mode, choice)
    assert (called(reply), len(requests)) == (["subtract"], 1)
    assert ("tool_choice" in requests[0].json) is (mode != "prompted")


@pytest.mark.parametrize("choice", ["required", SUBTRACT], ids=["required", "named"])
@pytest.mark.parametrize("mode", ["auto", "native", "prompted"])
def test_a_model_that_just_answers_is_asked_again_with_a_note_before_a_schema_holds_it(
    make: Maker, mode: str, choice: Any
) -> None:
    _, requests = chosen(make, Stubborn(HELLO), mode, choice)
    held = [schema_asked_for(request.json) is not None for request in requests]
    assert held[:2] == [False, False]
    assert held[-1]
    assert len(requests[1].messages) > len(requests[0].messages)


@pytest.mark.parametrize("choice", ["required", SUBTRACT], ids=["required", "named"])
@each_mode
def test_a_server_that_holds_nothing_doesnt_keep_us_asking(make: Maker, mode: str, choice: Any) -> None:
    """Neither a choice nor a schema: what comes of it is told, one way or the other."""
    requests: list[Request] = []

    def deaf(request: Request) -> Item:
        requests.append(request)
        return HELLO

    try:
        reply, _ = chosen(make, deaf, mode, choice)
    except EndpointError as error:
        assert "tool_choice" in str(error)
    else:
        assert all(name == "subtract" for name in called(reply)) or choice == "required"
    assert len(requests) <= MOST_REQUESTS


DRESSES: dict[str, Callable[[], Dress]] = {
    "ollama": Ollama,
    "vllm": VLLM,
    "sglang": SGLang,
    "no tools": NoTools,
}


@pytest.mark.parametrize("choice", ["required", SUBTRACT], ids=["required", "named"])
@pytest.mark.parametrize("server", DRESSES)
@pytest.mark.parametrize("mode", ["auto", "native", "prompted", "constrained"])
@each_stream
def test_a_choice_holds_with_servers_of_each_kind(
    make: Maker, server: str, mode: str, choice: Any, stream: bool
) -> None:
    dress = DRESSES[server]()
    with worn(dress) as endpoint:
        generator = make(api_base_url=endpoint.url, model=dress.models[0], tool_mode=mode)
        kwargs = {"tool_choice": choice, "stream": stream}
        (reply,) = generator.run("Hi, 3 and 4!", tools=[add, subtract], generation_kwargs=kwargs)["replies"]
    assert called(reply)
    assert choice == "required" or set(called(reply)) == {"subtract"}


def test_a_choice_holds_where_a_server_refuses_tools(make: Maker) -> None:
    plain = Prompted(no_flags())

    def answer(request: Request) -> Item:
        if (schema := schema_asked_for(request.json)) is not None:
            return Reply(json.dumps(instance(schema, request.json)))
        return plain(request)

    reply, _ = chosen(make, answer, "auto", SUBTRACT)
    assert called(reply) == ["subtract"]


class Watched:
    """What a person sees of a stream that takes back what no longer counts."""

    def __init__(self) -> None:
        self.text = ""

    def take(self, chunk: StreamingChunk) -> None:
        if superseded := (chunk.meta or {}).get("superseded"):
            self.text = self.text[: -int(superseded)]
        self.text += chunk.content


@pytest.mark.parametrize("choice", ["required", SUBTRACT, "none"], ids=["required", "named", "none"])
@pytest.mark.parametrize("name", ANSWERS_FIRST | CALLS_UNASKED)
@each_mode
def test_what_is_shown_while_it_streams_is_the_text_of_the_reply(
    make: Maker, name: str, mode: str, choice: Any
) -> None:
    watched = Watched()
    with Endpoint() as endpoint:
        endpoint.script(Always(Stubborn(*(ANSWERS_FIRST | CALLS_UNASKED)[name])))
        generator = make(api_base_url=endpoint.url, model="llama", tool_mode=mode)
        (reply,) = generator.run(
            "Hi, 3 and 4!",
            tools=[add, subtract],
            generation_kwargs={"tool_choice": choice},
            streaming_callback=watched.take,
        )["replies"]
    assert watched.text.strip() == (reply.text or "").strip()


@pytest.mark.parametrize("choice", ["required", SUBTRACT], ids=["required", "named"])
@each_stream
def test_a_choice_holds_where_a_server_refuses_the_field(make: Maker, choice: Any, stream: bool) -> None:
    def answer(request: Request) -> Item:
        if "tool_choice" in request.json:
            return Status(400, {"error": {"message": "Unsupported parameter: tool_choice"}})
        return stubborn(request)

    stubborn = Stubborn(HELLO, NATIVE_SUBTRACT)
    reply, requests = chosen(make, answer, "auto", choice, stream=stream)
    assert called(reply) == ["subtract"]
    assert len(requests) <= MOST_REQUESTS


@each_mode
def test_an_agent_with_none_answers_without_running_a_tool(make: Maker, mode: str) -> None:
    with Endpoint() as endpoint:
        endpoint.script(Always(Stubborn(TEXT_ADD, HELLO)))
        generator = make(api_base_url=endpoint.url, model="llama", tool_mode=mode)
        with Agent(chat_generator=generator, tools=[add]) as agent:
            result = agent.run("Hi", generation_kwargs={"tool_choice": "none"})
    assert result.stop_reason == "answered"
    assert not any(result["tool_call_counts"].values())


@pytest.mark.parametrize("mode", ["auto", "native", "prompted", "constrained"])
def test_haystacks_agent_with_a_name_runs_that_tool(make: Maker, mode: str) -> None:
    with Endpoint() as endpoint:
        endpoint.script(Always(Stubborn(HELLO)))
        generator = make(api_base_url=endpoint.url, model="llama", tool_mode=mode)
        agent = HaystackAgent(chat_generator=generator, tools=[add, subtract], max_agent_steps=1)
        result = agent.run(
            messages=[ChatMessage.from_user("Hi, 3 and 4!")], generation_kwargs={"tool_choice": SUBTRACT}
        )
        agent.close()
    ran = [r.origin.tool_name for message in result["messages"] for r in message.tool_call_results]
    assert ran == ["subtract"]


def test_the_note_that_asks_again_is_not_in_the_runs_messages(make: Maker) -> None:
    with Endpoint() as endpoint:
        endpoint.script(Always(Stubborn(HELLO, NATIVE_SUBTRACT)))
        generator = make(api_base_url=endpoint.url, model="llama")
        with Agent(chat_generator=generator, tools=[add, subtract], max_agent_steps=1) as agent:
            result = agent.run("Hi, 3 and 4!", generation_kwargs={"tool_choice": "required"})
    roles = [message.role.value for message in result.messages]
    assert roles == ["user", "assistant", "tool", "user", "assistant"]


@pytest.mark.parametrize("choice", ["required", SUBTRACT], ids=["required", "named"])
@pytest.mark.parametrize("mode", ["auto", "native", "prompted"])
def test_the_tokens_of_all_that_was_asked_are_counted(make: Maker, mode: str, choice: Any) -> None:
    reply, requests = chosen(make, Stubborn(HELLO), mode, choice)
    assert reply.meta["usage"]["prompt_tokens"] == 10 * len(requests)
    assert reply.meta["usage"]["completion_tokens"] == 5 * len(requests)
