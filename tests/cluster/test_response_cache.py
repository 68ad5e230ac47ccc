"""Answers that are kept, on the real model: the same text without a step, and never to somebody else."""
import http.client
import json
import urllib.parse

import pytest

from cluster import Cluster, wait_until

PROMPT = "The capital of France is"


@pytest.fixture(scope="module")
def exact():
    cluster = Cluster("--set", "cache.responses=exact")
    yield cluster
    cluster.await_nothing_held()
    cluster.stop()


def ask(cluster, path="/v1/completions", **fields):
    """The header of the cache, or None; and the answer, of a stream all its data lines."""
    body = {"prompt": PROMPT, "max_tokens": 12, "temperature": 0, **fields}
    connection = http.client.HTTPConnection(urllib.parse.urlsplit(cluster.http).netloc, timeout=60)
    connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    assert answer.status == 200, text
    header = answer.getheader("x-interlace-cache")
    if not fields.get("stream"):
        return header, json.loads(text)
    events = [line[len("data: "):] for line in text.split("\n") if line.startswith("data: ")]
    assert events[-1] == "[DONE]"
    return header, [json.loads(event) for event in events[:-1]]


def planned(cluster):
    """Tokens put into plans: those of an answer are all counted when its last token comes. Steps are not: what was sent ahead of
    an answer's end is counted when its result is there, which may be after the client has the answer."""
    return cluster.metric("interlace_planned_tokens_total")


def test_the_same_request_takes_no_step(exact):
    header, first = ask(exact)
    assert header is None
    exact.await_nothing_held()
    before = planned(exact)
    header, again = ask(exact)
    assert header == "exact" and planned(exact) == before
    assert again["choices"] == first["choices"]
    usage = dict(again["usage"])
    assert usage.pop("prompt_tokens_details")["cached_tokens"] == usage["prompt_tokens"]
    assert usage == {key: value for key, value in first["usage"].items() if key != "prompt_tokens_details"}
    header, events = ask(exact, stream=True)
    assert header == "exact" and planned(exact) == before
    assert "".join(event["choices"][0]["text"] for event in events if event["choices"]) == first["choices"][0]["text"]
    assert events[-1]["choices"][0]["finish_reason"] == first["choices"][0]["finish_reason"]


def test_a_stream_is_kept_as_well(exact):
    header, events = ask(exact, stream=True, prompt="Once upon a time")
    assert header is None
    header, whole = ask(exact, prompt="Once upon a time")
    assert header == "exact"
    assert whole["choices"][0]["text"] == "".join(e["choices"][0]["text"] for e in events if e["choices"])


@pytest.mark.parametrize("fields", [
    {"fairness_id": "somebody"}, {"cache_salt": "salt"}, {"max_tokens": 11}, {"stop": ["Berlin"]}, {"temperature": 0.5},
    {"presence_penalty": 0.5}, {"logit_bias": {"5": 1}}, {"logprobs": 1}, {"n": 2}, {"cache": {"no-cache": True}},
    {"prompt": PROMPT + " "}, {"response_format": {"type": "json_object"}}], ids=str)
def test_nobody_else_gets_it(exact, fields):
    ask(exact)
    assert ask(exact)[0] == "exact"
    assert ask(exact, **fields)[0] is None


def test_a_stop_string_cuts_a_kept_answer_as_it_did(exact):
    text = ask(exact)[1]["choices"][0]["text"]
    stop = text.split()[1]
    kept = exact.metric("interlace_response_cache_entries")
    first = ask(exact, stop=stop)
    # The door does not wait for the engine to end what a stop string ended.
    wait_until("the answer is kept", lambda: exact.metric("interlace_response_cache_entries") > kept)
    again = ask(exact, stop=stop)
    assert first[0] is None and again[0] == "exact"
    assert again[1]["choices"] == first[1]["choices"] and stop not in again[1]["choices"][0]["text"]


def test_prompts_alike_are_compared_before_any_is_spared():
    cluster = Cluster("--set", "cache.responses=semantic", "--set", "cache.error=0.2")
    try:
        for i in range(6):
            header, answer = ask(cluster, prompt=f"Question {i}: what is the capital of France? The capital is", max_tokens=2)
            assert header is None and answer["usage"]["completion_tokens"] == 2
        assert ask(cluster, prompt="Question 0: what is the capital of France? The capital is", max_tokens=2)[0] == "exact"
        compared = cluster.metric("interlace_response_cache_compared_total")
        assert compared == 5 == cluster.metric("interlace_response_cache_lookups_total", 'result="explored"')
        assert cluster.metric("interlace_response_cache_lookups_total", 'result="semantic"') == 0
        cluster.await_nothing_held()
    finally:
        cluster.stop()
