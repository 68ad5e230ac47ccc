"""Sampling fields through both doors, on the real model."""
import math

import grpc
import openai
import pytest

PROMPT = "Once upon a time, in a small village by the sea, there lived a"


@pytest.fixture(scope="module")
def http(shared):
    return openai.OpenAI(base_url=shared.http + "/v1", api_key="none", max_retries=0)


@pytest.fixture(scope="module")
def model(http):
    return http.models.list().data[0].id


@pytest.fixture(scope="module")
def native(shared):
    from interlace_client import Client
    with Client(shared.grpc) as client:
        yield client


def complete(http, model, prompt=PROMPT, tokens=24, temperature=0, extra=None, **fields):
    return http.completions.create(model=model, prompt=prompt, max_tokens=tokens, temperature=temperature,
                                   extra_body=extra or {}, **fields)


def test_completion_logprobs(http, model):
    choice = complete(http, model, tokens=12, logprobs=3).choices[0]
    scores = choice.logprobs
    assert "".join(scores.tokens) == choice.text and len(scores.tokens) == 12
    assert scores.text_offset == [len("".join(scores.tokens[:i])) for i in range(12)]
    for token, logprob, top in zip(scores.tokens, scores.token_logprobs, scores.top_logprobs):
        assert len(top) == 3 and top[token] == logprob == max(top.values())  # greedy takes the most likely
        assert sum(math.exp(x) for x in top.values()) <= 1 + 1e-6
    only_chosen = complete(http, model, tokens=12, logprobs=0).choices[0].logprobs
    assert only_chosen.token_logprobs == scores.token_logprobs
    assert [list(top) for top in only_chosen.top_logprobs] == [[t] for t in scores.tokens]


def test_chat_logprobs_whole_and_streamed(http, model):
    ask = dict(model=model, messages=[{"role": "user", "content": "Write 🙂 and 𓀀."}], max_tokens=24, temperature=1,
               seed=5, logprobs=True, top_logprobs=2)
    whole = http.chat.completions.create(**ask).choices[0]
    content = whole.logprobs.content
    assert b"".join(bytes(t.bytes) for t in content).decode(errors="replace") == whole.message.content
    assert all(len(t.top_logprobs) == 2 and t.logprob <= t.top_logprobs[0].logprob for t in content)
    streamed, text = [], ""
    for chunk in http.chat.completions.create(stream=True, **ask):
        choice = chunk.choices[0]
        text += choice.delta.content or ""
        if choice.logprobs:
            streamed += choice.logprobs.content
    assert text == whole.message.content
    assert [(t.token, t.logprob) for t in streamed] == [(t.token, t.logprob) for t in content]


def test_logprobs_do_not_depend_on_sampling_and_stop_strings_withhold_them(http, model):
    plain = complete(http, model, logprobs=1).choices[0]
    word = plain.logprobs.tokens[8]
    stopped = complete(http, model, logprobs=1, stop=[word]).choices[0]
    assert stopped.finish_reason == "stop" and stopped.text == plain.text[:plain.text.index(word)]
    kept = len(stopped.logprobs.tokens)
    # The stop string may begin within a token: one of which something is shown has its score shown too, none after it.
    tokens = stopped.logprobs.tokens
    assert "".join(tokens).startswith(stopped.text) and len("".join(tokens[:-1])) < len(stopped.text)
    assert stopped.logprobs.token_logprobs == plain.logprobs.token_logprobs[:kept]
    # The same greedy stream, though temperature, bias of a token that never wins and top_k are set.
    other = complete(http, model, logprobs=1, logit_bias={"49151": -100}, extra={"top_k": 1}, temperature=0.5).choices[0]
    assert other.logprobs == plain.logprobs


def test_a_stop_string_is_a_finished_request(http, model, native, shared):
    before = shared.metric("vllm:request_success_total")
    failed = shared.metric("interlace_requests_failed_total")
    stream = native.generate(PROMPT, max_tokens=400, temperature=0, stop=["."], request_id="stopped", ignore_eos=True)
    text = stream.text()
    assert "." not in text and stream.result.reason == 1
    shared.await_nothing_held()
    assert shared.metric("vllm:request_success_total") == before + 1
    assert shared.metric("interlace_requests_failed_total") == failed
    report = native.explain("stopped")
    assert report.state == "finished" and report.status == "OK"


def test_bias_bad_words_and_penalties(http, model, native):
    plain = complete(http, model).choices[0].text
    first = native.tokenize(" " + plain.split()[0])[0]
    banned = complete(http, model, logit_bias={str(first): -100}).choices[0].text
    assert banned.split()[0] != plain.split()[0]
    forced = complete(http, model, logit_bias={str(first): 100}, tokens=5).choices[0].text
    assert forced == 5 * (" " + plain.split()[0])
    words = plain.split()[:6]
    without = complete(http, model, extra={"bad_words": words}, tokens=40).choices[0].text
    for word in words:
        assert word not in without.split()
    loop = "a b a b a b a b a b a b a b"
    assert complete(http, model, loop).choices[0].text.startswith(" a b a b")
    assert not complete(http, model, loop, extra={"repetition_penalty": 5.0}).choices[0].text.startswith(" a b a b")
    for field in ("presence_penalty", "frequency_penalty"):
        penalised = complete(http, model, loop, tokens=60, **{field: 2.0}).choices[0].text
        assert len(set(penalised.split())) > 3, field


def test_min_tokens(http, model):
    question = [{"role": "user", "content": "What is the capital of France?"}]
    short = http.chat.completions.create(model=model, messages=question, temperature=0)
    assert short.choices[0].finish_reason == "stop"
    count = short.usage.completion_tokens
    longer = http.chat.completions.create(model=model, messages=question, temperature=0, max_tokens=count + 30,
                                          extra_body={"min_tokens": count + 10})
    assert longer.usage.completion_tokens >= count + 10
    assert longer.choices[0].message.content.startswith(short.choices[0].message.content)


def test_seeded_streams_of_every_step_are_the_same_through_both_doors(http, model, native):
    options = dict(max_tokens=40, temperature=0.9, seed=11, top_k=50, top_p=0.95, min_p=0.02, typical_p=0.97,
                   repetition_penalty=1.1, presence_penalty=0.3, frequency_penalty=0.2, logit_bias={100: 1.5},
                   bad_words=["king", "the old"], min_tokens=10)
    extra = {k: options[k] for k in ("top_k", "min_p", "typical_p", "repetition_penalty", "bad_words", "min_tokens")}
    streams = [native.generate(PROMPT, logprobs=2, **options) for _ in range(3)]
    texts = {stream.text() for stream in streams}
    over_http = complete(http, model, tokens=40, temperature=0.9, seed=11, top_p=0.95, presence_penalty=0.3,
                         frequency_penalty=0.2, logit_bias={"100": 1.5}, logprobs=2, extra=extra).choices[0]
    assert texts == {over_http.text}
    for stream in streams:
        assert [t.chosen.id for t in stream.logprobs] == stream.token_ids
        assert [t.chosen.logprob for t in stream.logprobs] == pytest.approx(over_http.logprobs.token_logprobs)
        assert all(len(t.top) == 2 for t in stream.logprobs)


@pytest.mark.parametrize("field, value", [
    ("logit_bias", {"1": 101}), ("logit_bias", {"49152": 1}), ("logit_bias", {"x": 1}), ("presence_penalty", 3),
    ("frequency_penalty", -3), ("repetition_penalty", 0), ("min_p", 2), ("typical_p", 0), ("min_tokens", 500),
    ("bad_words", [""]), ("logprobs", 21), ("logit_bias", {str(i): 1 for i in range(301)})])
def test_bad_values_are_named(http, model, field, value):
    with pytest.raises(openai.BadRequestError) as refused:
        complete(http, model, extra={field: value})
    assert refused.value.param == field


def test_bad_values_over_grpc(native):
    for options in ({"logprobs": 21}, {"min_p": 2}, {"logit_bias": {49152: 1}}, {"bad_words": [" "]}):
        with pytest.raises(grpc.RpcError) as refused:
            native.generate("x", **options).text()
        assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
