"""Constrained answers, by clients that people have: what is asked for is what comes, whatever happens to the ranks."""
import json
import os
import re
import signal
import threading

import instructor
import jsonschema
import openai
import pydantic
import pytest
from cluster import ROOT, Cluster
from langchain_openai import ChatOpenAI


class City(pydantic.BaseModel):
    name: str = pydantic.Field(max_length=30)
    country: str = pydantic.Field(max_length=30)
    inhabitants: int = pydantic.Field(ge=0, le=100000000)
    coastal: bool


SCHEMA = City.model_json_schema()
ASKED = [{"role": "user", "content": "Tell me about the city of Oslo as JSON with its name, country, inhabitants and coastal."}]
ASK = {"model": "small", "messages": ASKED, "max_tokens": 300, "temperature": 0}
FORMAT = {"type": "json_schema", "json_schema": {"name": "city", "strict": True, "schema": SCHEMA}}
TOOLS = [{"type": "function", "function": {"name": name, "description": "About a city.", "parameters":
          {"type": "object", "properties": {"city": {"type": "string", "maxLength": 30}, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
           "required": ["city", "days"]}}} for name in ("get_weather", "get_news")]


@pytest.fixture(scope="module")
def cluster():
    template = ROOT / "tests/golden/templates/Qwen-Qwen2.5-7B-Instruct.jinja"
    cluster = Cluster("--pp", "2", "--set", f"model.chat_template={template}", "--set", "model.name=small")
    yield cluster
    cluster.await_nothing_held()
    cluster.stop()


@pytest.fixture(scope="module")
def client(cluster):
    return openai.OpenAI(base_url=cluster.http + "/v1", api_key="none", max_retries=0)


def is_city(text):
    value = json.loads(text)
    jsonschema.validate(value, SCHEMA)
    assert list(value) == ["name", "country", "inhabitants", "coastal"]  # as the schema orders them
    return value


def test_response_format_whole_streamed_seeded_and_many(client):
    whole = client.chat.completions.create(**ASK, response_format=FORMAT).choices[0]
    assert whole.finish_reason == "stop"
    is_city(whole.message.content)
    parts = client.chat.completions.create(**ASK, response_format=FORMAT, stream=True)
    assert "".join(part.choices[0].delta.content or "" for part in parts) == whole.message.content
    sampled = {**ASK, "temperature": 1, "seed": 5, "n": 4}
    first, again = (client.chat.completions.create(**sampled, response_format=FORMAT).choices for _ in range(2))
    assert [c.message.content for c in first] == [c.message.content for c in again]
    assert len({c.message.content for c in first}) > 1
    for choice in first:
        if choice.finish_reason == "stop":
            is_city(choice.message.content)
    free = client.chat.completions.create(**{**ASK, "max_tokens": 300}, response_format={"type": "json_object"}, seed=1).choices[0]
    if free.finish_reason == "stop":
        assert isinstance(json.loads(free.message.content), dict)


def test_parse(client):
    parsed = client.chat.completions.parse(**ASK, response_format=City).choices[0].message.parsed
    assert isinstance(parsed, City)
    response = client.responses.parse(model="small", input=ASKED, max_output_tokens=300, temperature=0, text_format=City)
    assert isinstance(response.output_parsed, City)


def test_langchain_and_instructor(cluster):
    model = ChatOpenAI(base_url=cluster.http + "/v1", api_key="none", model="small", temperature=0, max_tokens=300)
    for method in ("json_schema", "function_calling"):
        made = model.with_structured_output(City, method=method).invoke(ASKED[0]["content"])
        assert isinstance(made, City), method
    for mode in (instructor.Mode.JSON_SCHEMA, instructor.Mode.TOOLS):
        asker = instructor.from_openai(openai.OpenAI(base_url=cluster.http + "/v1", api_key="none"), mode=mode)
        assert isinstance(asker.chat.completions.create(response_model=City, max_retries=0, **ASK), City), mode


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "get_news"}}])
def test_forced_calls(client, choice):
    whole = client.chat.completions.create(**ASK, tools=TOOLS, tool_choice=choice, parallel_tool_calls=False).choices[0]
    assert whole.finish_reason == "tool_calls" and not whole.message.content
    [call] = whole.message.tool_calls
    jsonschema.validate(json.loads(call.function.arguments), TOOLS[0]["function"]["parameters"])
    assert call.function.name in ("get_weather", "get_news") if choice == "required" else call.function.name == "get_news"
    name, arguments = "", ""
    for part in client.chat.completions.create(**ASK, tools=TOOLS, tool_choice=choice, parallel_tool_calls=False, stream=True):
        for delta in part.choices[0].delta.tool_calls or []:
            name += delta.function.name or ""
            arguments += delta.function.arguments or ""
    assert (name, arguments) == (call.function.name, call.function.arguments)


def test_vllms_fields(client):
    def ask(extra, **more):
        return client.chat.completions.create(**{**ASK, **more}, extra_body=extra).choices[0]

    for fields in ({"structured_outputs": {"choice": ["Oslo", "Rome"]}}, {"guided_choice": ["Oslo", "Rome"]}):
        answer = ask(fields)
        assert answer.message.content in ("Oslo", "Rome") and answer.finish_reason == "stop"
    for pattern in ({"structured_outputs": {"regex": "\\d{3}-\\d{4}"}}, {"guided_regex": "\\d{3}-\\d{4}"}):
        assert re.fullmatch("\\d{3}-\\d{4}", ask(pattern).message.content)
    for grammar in ('root ::= "x" [0-9]+ "y"\n', 'start: "x" /[0-9]{1,4}/ "y"\n'):
        answer = ask({"guided_grammar": grammar}, temperature=1, seed=3)
        assert answer.finish_reason == "length" or re.fullmatch("x[0-9]+y", answer.message.content)
    compact = ask({"structured_outputs": {"json": SCHEMA, "disable_any_whitespace": True}})
    assert is_city(compact.message.content) and "\n" not in compact.message.content
    only = client.chat.completions.create(**{**ASK, "max_tokens": 8}, logprobs=True, extra_body={"allowed_token_ids": [30, 31]})
    assert set("".join(t.token for t in only.choices[0].logprobs.content)) <= set("-./0123456789")
    # The end comes where nothing else may, whatever says otherwise.
    for stubborn in ({"ignore_eos": True}, {"min_tokens": 40}):
        answer = ask({"guided_choice": ["Oslo"], **stubborn})
        assert answer.message.content == "Oslo" and answer.finish_reason == "stop"


def test_what_leaves_no_token_ends_with_a_status(client):
    with pytest.raises(openai.APIStatusError, match="no token may follow"):
        client.chat.completions.create(**ASK, extra_body={"guided_choice": ["Oslo"], "allowed_token_ids": [5]})
    assert client.chat.completions.create(**{**ASK, "max_tokens": 2}).choices[0].message.content  # nobody else is harmed


@pytest.mark.parametrize("fields, name", [
    ({"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "string", "pattern": "(a{1,300}){1,300}"}}}},
     "response_format"),
    ({"extra_body": {"guided_regex": "(((a{1,99}){1,99}){1,99})"}}, "guided_regex"),
    ({"extra_body": {"guided_grammar": "root ::= root"}}, "guided_grammar"),
    ({"extra_body": {"guided_json": {"anyOf": [{"type": "object", "properties": {f"p{i}": {}}} for i in range(900)]}}}, "guided_json"),
    ({"extra_body": {"structured_outputs": {"json": {"type": "array", "uniqueItems": True}}}}, "structured_outputs.json"),
])
def test_hostile_constraints_are_refused_by_name(client, fields, name):
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(**ASK, **fields)
    assert refused.value.param == name


def test_drafts_change_nothing(client):
    cluster = Cluster("--set", "sched.speculate=ngram", "--set", "sched.draft_tokens=3", "--set", "model.name=small", "--set",
                      f"model.chat_template={ROOT / 'tests/golden/templates/Qwen-Qwen2.5-7B-Instruct.jinja'}")
    try:
        other = openai.OpenAI(base_url=cluster.http + "/v1", api_key="none", max_retries=0)
        asked = {**ASK, "temperature": 0.8, "seed": 9, "response_format": FORMAT}
        assert other.chat.completions.create(**asked).choices[0].message.content == \
            client.chat.completions.create(**asked).choices[0].message.content
    finally:
        cluster.stop()


def test_ranks_that_die_in_mid_stream_change_nothing(cluster, client):
    asked = {**ASK, "temperature": 1, "seed": 11, "max_tokens": 120,
             "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {
                 "type": "array", "minItems": 6, "maxItems": 8, "items": {"type": "string", "minLength": 12, "maxLength": 40}}}}}
    expected = client.chat.completions.create(**asked).choices[0]
    for victim in ("worker-1", "worker-0"):
        text, killed = "", threading.Event()
        for part in client.chat.completions.create(**asked, stream=True):
            text += part.choices[0].delta.content or ""
            if len(text) > 60 and not killed.is_set():
                killed.set()
                os.kill(cluster.child(victim), signal.SIGKILL)
        assert killed.is_set() and text == expected.message.content, victim
