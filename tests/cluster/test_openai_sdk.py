"""The official openai package against the HTTP door."""
import openai
import pytest

MESSAGES = [{"role": "user", "content": "Why is the sky blue?"}]


@pytest.fixture(scope="module")
def client(shared):
    return openai.OpenAI(base_url=shared.http + "/v1", api_key="none", max_retries=0)


@pytest.fixture(scope="module")
def model(client):
    return client.models.list().data[0].id


def test_models(client, model):
    assert client.models.retrieve(model).id == model
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("another")


def test_chat_whole_and_streamed_are_the_same(client, model):
    whole = client.chat.completions.create(model=model, messages=MESSAGES, max_tokens=24, temperature=0)
    assert whole.choices[0].finish_reason == "length"
    assert whole.usage.completion_tokens == 24 and whole.usage.prompt_tokens == 36
    assert whole._request_id
    chunks = list(client.chat.completions.create(model=model, messages=MESSAGES, max_tokens=24, temperature=0,
                                                 stream=True, stream_options={"include_usage": True}))
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == whole.choices[0].message.content
    assert [c.choices[0].finish_reason for c in chunks if c.choices and c.choices[0].finish_reason] == ["length"]
    assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens == 24
    assert all(c.object == "chat.completion.chunk" for c in chunks)


def test_no_usage_chunk_unasked(client, model):
    chunks = list(client.chat.completions.create(model=model, messages=MESSAGES, max_tokens=3, stream=True))
    assert all(c.choices for c in chunks)


def test_end_of_turn(client, model):
    done = client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": "What is the capital of France?"}], temperature=0)
    assert done.choices[0].finish_reason == "stop"
    assert "Paris" in done.choices[0].message.content and "<|im_end|>" not in done.choices[0].message.content


def test_completions_text_lists_and_ids(client, model):
    one = client.completions.create(model=model, prompt="1 2 3 4", max_tokens=8, temperature=0)
    assert one.choices[0].text == " 5 6 7 8"
    two = client.completions.create(model=model, prompt=["1 2 3 4", "a b c d"], max_tokens=8, temperature=0)
    assert two.choices[0].text == " 5 6 7 8" and len(two.choices) == 2
    ids = client.completions.create(model=model, prompt=[33, 216, 34, 216, 35, 216, 36], max_tokens=8, temperature=0)
    assert ids.usage.prompt_tokens == 7


def test_stop_strings(client, model):
    done = client.completions.create(model=model, prompt="1 2 3 4", max_tokens=30, temperature=0, stop=[" 7 8"])
    assert done.choices[0].text == " 5 6" and done.choices[0].finish_reason == "stop"
    parts = list(client.completions.create(model=model, prompt="1 2 3 4", max_tokens=30, temperature=0, stop="7",
                                           stream=True))
    assert "".join(c.choices[0].text for c in parts) == " 5 6 "


def test_seed_repeats(client, model):
    def sample(seed):
        return client.chat.completions.create(model=model, messages=MESSAGES, max_tokens=24, temperature=1,
                                              seed=seed).choices[0].message.content

    assert sample(7) == sample(7)
    assert len({sample(s) for s in range(4)}) > 1


@pytest.mark.parametrize("extra, text", [
    ({"n": 0}, "n"), ({"temperature": -1}, "temperature"), ({"top_p": 0}, "top_p"), ({"max_tokens": 0}, "max_tokens"),
    ({"top_logprobs": 2}, "top_logprobs"), ({"presence_penalty": 2.5}, "presence_penalty"),
    ({"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"not": {}}}}}, "response_format.*not"),
    ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"), ({"logit_bias": {"1": 200}}, "logit_bias"),
])
def test_what_is_not_honoured_is_refused(client, model, extra, text):
    with pytest.raises(openai.BadRequestError, match=text):
        client.chat.completions.create(model=model, messages=MESSAGES, **extra)


def test_errors(client, model):
    with pytest.raises(openai.NotFoundError, match="another"):
        client.chat.completions.create(model="another", messages=MESSAGES)
    with pytest.raises(openai.BadRequestError) as refused:
        client.completions.create(model=model, prompt="word " * 9000, max_tokens=1)
    assert refused.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError, match="role"):
        client.chat.completions.create(model=model, messages=[{"role": "robot", "content": "x"}])
