"""Clients that people have, unchanged, against a cluster whose model has a chat template that knows tools."""
import json
import os

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # no look at the network for prices

import anthropic
import litellm
import openai
import pytest
from cluster import ROOT, Cluster
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_openai import ChatOpenAI, OpenAI

PARAMETERS = {"type": "object", "properties": {"city": {"type": "string", "description": "name of a city"}}, "required": ["city"]}
TOOLS = [{"type": "function",
          "function": {"name": "get_weather", "description": "The weather of a city.", "parameters": PARAMETERS}}]


def call(name, city):
    return {"id": name, "type": "function", "function": {"name": "get_weather", "arguments": json.dumps({"city": city})}}


CITIES = ("Rome", "Oslo", "Cairo")
QUESTION = "What is the weather in {}?"
# A model this small calls a tool if all that it has seen are calls of it: results are left out where one is wanted.
CALLS, HISTORY = [], []
for number, city in enumerate(CITIES):
    asked = [{"role": "user", "content": QUESTION.format(city)},
             {"role": "assistant", "content": None, "tool_calls": [call(f"call_{number}", city)]}]
    CALLS += asked
    HISTORY += asked + [{"role": "tool", "tool_call_id": f"call_{number}", "content": f"{number + 20} C"},
                        {"role": "assistant", "content": f"It is {number + 20} C in {city}."}]
CALLS.append({"role": "user", "content": QUESTION.format("Paris")})
HISTORY.append({"role": "user", "content": QUESTION.format("Paris")})
ASK = {"max_tokens": 48, "temperature": 0}


@pytest.fixture(scope="module")
def cluster():
    template = ROOT / "tests/golden/templates/Qwen-Qwen2.5-7B-Instruct.jinja"
    cluster = Cluster("--set", f"model.chat_template={template}", "--set", "model.name=small")
    yield cluster
    cluster.await_nothing_held()
    cluster.stop()


@pytest.fixture(scope="module")
def client(cluster):
    return openai.OpenAI(base_url=cluster.http + "/v1", api_key="none", max_retries=0)


def assert_is_paris(name, arguments):
    assert name == "get_weather"
    assert json.loads(arguments) == {"city": "Paris"}


def test_openai_tools_whole_and_streamed_are_the_same(client):
    whole = client.chat.completions.create(model="small", messages=CALLS, tools=TOOLS, tool_choice="auto", **ASK)
    assert whole.choices[0].finish_reason == "tool_calls"
    [made] = whole.choices[0].message.tool_calls
    assert made.type == "function" and made.id.startswith("call_")
    assert_is_paris(made.function.name, made.function.arguments)
    name, arguments, finish = "", "", None
    for chunk in client.chat.completions.create(model="small", messages=CALLS, tools=TOOLS, stream=True, **ASK):
        for part in chunk.choices[0].delta.tool_calls or []:
            assert part.index == 0
            name += part.function.name or ""
            arguments += part.function.arguments or ""
        finish = chunk.choices[0].finish_reason or finish
    assert (name, arguments, finish) == (made.function.name, made.function.arguments, "tool_calls")


def test_openai_histories_with_results(client):
    done = client.chat.completions.create(model="small", messages=HISTORY, tools=TOOLS, **ASK)
    alone = client.chat.completions.create(model="small", messages=HISTORY[-1:], tools=TOOLS, **ASK)
    assert done.usage.prompt_tokens > alone.usage.prompt_tokens + 100


def test_openai_tool_choice(client):
    spoken = client.chat.completions.create(model="small", messages=HISTORY, tools=TOOLS, tool_choice="none", **ASK)
    assert spoken.choices[0].message.tool_calls is None and spoken.choices[0].finish_reason in ("stop", "length")
    with pytest.raises(openai.BadRequestError, match="tool_choice"):
        client.chat.completions.create(model="small", messages=HISTORY, tools=TOOLS, **ASK,
                                       tool_choice={"type": "function", "function": {"name": "another"}})


def test_openai_completions_in_bulk_with_echo_and_control_tokens(client):
    prompts = [f"{n} {n + 1} {n + 2}" for n in range(100)]
    many = client.completions.create(model="small", prompt=prompts, max_tokens=2, temperature=0)
    assert [choice.index for choice in many.choices] == list(range(100))
    echoed = client.completions.create(model="small", prompt="1 2 3 4", max_tokens=4, temperature=0, echo=True)
    assert echoed.choices[0].text == "1 2 3 4 5 6"
    text = "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
    done = client.completions.create(model="small", prompt=text, max_tokens=40, temperature=0)
    assert done.choices[0].finish_reason == "stop" and "Paris" in done.choices[0].text
    assert len(client.completions.create(model="small", prompt="x", temperature=0,
                                         extra_body={"ignore_eos": True}).choices[0].text) > 0


def test_openai_responses(client):
    done = client.responses.create(model="small", input="What is the capital of France?", temperature=0)
    assert done.status == "completed" and "Paris" in done.output_text
    items = []
    for number, city in enumerate(CITIES):
        items += [{"role": "user", "content": QUESTION.format(city)},
                  {"type": "function_call", "call_id": f"c{number}", "name": "get_weather", "arguments": json.dumps({"city": city})}]
    items.append({"role": "user", "content": QUESTION.format("Paris")})
    tools = [{"type": "function", "name": "get_weather", "description": "The weather of a city.", "parameters": PARAMETERS, "strict": False}]
    asked = {"model": "small", "input": items, "tools": tools, "temperature": 0, "max_output_tokens": 48}
    whole = client.responses.create(**asked)
    [made] = [item for item in whole.output if item.type == "function_call"]
    assert_is_paris(made.name, made.arguments)
    with client.responses.stream(**asked) as stream:
        kinds = [event.type for event in stream]
        last = stream.get_final_response()
    assert kinds[0] == "response.created" and kinds[-1] == "response.completed"
    assert [(item.name, item.arguments) for item in last.output if item.type == "function_call"] == [(made.name, made.arguments)]


def test_anthropic(cluster, client):
    openai_client = client
    client = anthropic.Anthropic(base_url=cluster.http, api_key="none", max_retries=0)
    asked = {"model": "small", "max_tokens": 40, "extra_body": {"temperature": 0}, "system": "You are a helpful assistant.",
             "messages": [{"role": "user", "content": "What is the capital of France?"}]}
    done = client.messages.create(**asked)
    # What a model of this size says, and where it ends, is another matter on another instruction set: the other door tells.
    same = openai_client.chat.completions.create(model="small", max_tokens=40, temperature=0, messages=[
        {"role": "system", "content": asked["system"]}, *asked["messages"]]).choices[0]
    assert done.stop_reason == {"stop": "end_turn", "length": "max_tokens"}[same.finish_reason]
    assert done.content[0].text == same.message.content
    with client.messages.stream(**asked) as stream:
        assert "".join(stream.text_stream) == done.content[0].text
        assert stream.get_final_message().usage.output_tokens == done.usage.output_tokens
    assert client.messages.count_tokens(model="small", messages=asked["messages"], system=asked["system"]).input_tokens > 10
    begun = client.messages.create(**{**asked, "messages": asked["messages"] + [{"role": "assistant", "content": "The capital of France is"}]})
    assert begun.content[0].text.strip().startswith("Paris")
    with pytest.raises(anthropic.NotFoundError, match="another"):
        client.messages.create(**{**asked, "model": "another"})


def test_anthropic_tools(cluster):
    client = anthropic.Anthropic(base_url=cluster.http, api_key="none", max_retries=0)
    messages, results = [], []
    for number, city in enumerate(CITIES):
        block = {"type": "tool_use", "id": f"t{number}", "name": "get_weather", "input": {"city": city}}
        turns = [{"role": "user", "content": QUESTION.format(city)}, {"role": "assistant", "content": [block]}]
        messages += turns
        results += turns + [{"role": "user", "content": [{"type": "tool_result", "tool_use_id": f"t{number}", "content": "21 C"}]},
                            {"role": "assistant", "content": f"It is 21 C in {city}."}]
    messages.append({"role": "user", "content": QUESTION.format("Paris")})
    results.append(messages[-1])
    asked = {"model": "small", "max_tokens": 48, "extra_body": {"temperature": 0}, "messages": messages,
             "tools": [{"name": "get_weather", "description": "The weather of a city.", "input_schema": PARAMETERS}]}
    done = client.messages.create(**asked)
    assert done.stop_reason == "tool_use"
    [made] = [block for block in done.content if block.type == "tool_use"]
    assert made.name == "get_weather" and made.input == {"city": "Paris"}
    with client.messages.stream(**asked) as stream:
        last = stream.get_final_message()
    counted = [client.messages.count_tokens(model="small", messages=m, tools=asked["tools"]).input_tokens for m in (messages, results)]
    assert counted[1] > counted[0] + 30
    assert [(b.name, b.input) for b in last.content if b.type == "tool_use"] == [(made.name, made.input)]


def test_litellm(cluster):
    asked = {"messages": CALLS, "tools": TOOLS, "api_base": cluster.http + "/v1", "api_key": "none", **ASK}
    for provider in ("openai", "hosted_vllm"):
        done = litellm.completion(model=f"{provider}/small", **asked)
        [made] = done.choices[0].message.tool_calls
        assert_is_paris(made.function.name, made.function.arguments)
    chunks = list(litellm.completion(model="openai/small", stream=True, **asked))
    built = litellm.stream_chunk_builder(chunks)
    assert_is_paris(built.choices[0].message.tool_calls[0].function.name, built.choices[0].message.tool_calls[0].function.arguments)


def test_langchain(cluster):
    chat = ChatOpenAI(model="small", base_url=cluster.http + "/v1", api_key="none", temperature=0, max_tokens=48)
    messages, results = [], []
    for number, city in enumerate(CITIES):
        turns = [HumanMessage(QUESTION.format(city)),
                 AIMessage("", tool_calls=[{"id": f"c{number}", "name": "get_weather", "args": {"city": city}}])]
        messages += turns
        results += turns + [ToolMessage("21 C", tool_call_id=f"c{number}"), AIMessage(f"It is 21 C in {city}.")]
    messages.append(HumanMessage(QUESTION.format("Paris")))
    bound = chat.bind_tools(TOOLS)
    [made] = bound.invoke(messages).tool_calls
    assert made["name"] == "get_weather" and made["args"] == {"city": "Paris"}
    assert bound.invoke(results + messages[-1:]).usage_metadata["output_tokens"] > 0
    total = None
    for chunk in bound.stream(messages):
        total = chunk if total is None else total + chunk
    assert [call["args"] for call in total.tool_calls] == [{"city": "Paris"}]
    plain = OpenAI(model="small", base_url=cluster.http + "/v1", api_key="none", temperature=0, max_tokens=2)
    assert len(plain.batch([f"{n} {n + 1}" for n in range(25)])) == 25
