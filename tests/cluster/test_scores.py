"""Scores of prompts and embeddings: what lm_eval, vLLM's clients and OpenAI's ask for, against references of transformers."""
import base64
import json
import math
import struct
from operator import itemgetter

import openai
import pytest
import requests
from cluster import ROOT
from langchain_openai import OpenAIEmbeddings

GOLDEN = ROOT / "tests/golden/model"
# Mean loglikelihood of a token: what the quantised activations of the CPU's tables change (tests/model/golden_test.cc).
TOLERANCE = 0.05


@pytest.fixture(scope="module")
def client(shared):
    return openai.OpenAI(base_url=shared.http + "/v1", api_key="none", max_retries=0)


@pytest.fixture(scope="module")
def model(client):
    return client.models.list().data[0].id


def scores_of(client, model, prompts, logprobs=1, max_tokens=1):
    """The body that lm_eval's local-completions sends for loglikelihoods."""
    done = client.completions.create(model=model, prompt=prompts, temperature=0, max_tokens=max_tokens, logprobs=logprobs,
                                     seed=1234, echo=True)
    return [choice.logprobs for choice in sorted(done.choices, key=lambda c: c.index)]


def test_perplexity_is_that_of_transformers(client, model):
    golden = json.loads((GOLDEN / "perplexity.json").read_text())
    size = golden["window"]
    windows = [golden["tokens"][at:at + size] for at in range(0, len(golden["tokens"]), size)][:3]
    for window, logprobs, nll in zip(windows, scores_of(client, model, windows), golden["nll"]):
        assert len(logprobs.tokens) == size + 1 and logprobs.token_logprobs[0] is None
        ours = -sum(logprobs.token_logprobs[1:size]) / (size - 1)
        assert abs(ours - nll) < TOLERANCE, f"{ours} where transformers has {nll}"


def parse_logprobs(out, ctxlens):
    """lm_eval 0.4.13, LocalCompletionsAPI.parse_logprobs."""
    res = []
    for choice, ctxlen in zip(sorted(out["choices"], key=itemgetter("index")), ctxlens):
        logprobs = sum(choice["logprobs"]["token_logprobs"][ctxlen:-1])
        top_logprobs = choice["logprobs"]["top_logprobs"][ctxlen:-1]
        is_greedy = all(tok == max(top.values())
                        for tok, top in zip(choice["logprobs"]["token_logprobs"][ctxlen:-1], top_logprobs))
        res.append((logprobs, is_greedy))
    return res


def test_loglikelihoods_are_those_of_transformers(shared, model):
    items = json.loads((GOLDEN / "loglikelihood.json").read_text())["items"][:40]
    ours = []
    for at in range(0, len(items), 8):
        batch = items[at:at + 8]
        answer = requests.post(shared.http + "/v1/completions", timeout=120, json={
            "model": model, "prompt": [item["context"] + item["continuation"] for item in batch], "temperature": 0,
            "max_tokens": 1, "logprobs": 1, "seed": 1234, "echo": True})
        assert answer.status_code == 200, answer.text
        ours += parse_logprobs(answer.json(), [len(item["context"]) for item in batch])
    off = [abs(got[0] - item["loglikelihood"]) / len(item["continuation"]) for got, item in zip(ours, items)]
    assert max(off) < 10 * TOLERANCE and sum(off) / len(off) < TOLERANCE * 2, off
    # Whether each token is the likeliest may differ where two are nearly so.
    assert sum(got[1] != item["greedy"] for got, item in zip(ours, items)) <= 2
    # What lm_eval makes of it: which of an item's two continuations is the likelier.
    for a in range(0, len(items), 2):
        want, got = items[a]["loglikelihood"] - items[a + 1]["loglikelihood"], ours[a][0] - ours[a + 1][0]
        assert want * got > 0 or abs(want) < 1, (want, got)


def test_what_the_model_says_is_the_likeliest(shared, client, model):
    prompt = json.loads((GOLDEN / "perplexity.json").read_text())["tokens"][:40]
    said = client.completions.create(model=model, prompt=prompt, max_tokens=6, temperature=0, logprobs=0,
                                     extra_body={"ignore_eos": True}).choices[0]
    ids = requests.post(shared.http + "/tokenize", timeout=60, json={"prompt": said.text, "add_special_tokens": False}).json()["tokens"]
    body = {"model": model, "temperature": 0, "max_tokens": 1, "logprobs": 1, "echo": True}
    answer = requests.post(shared.http + "/v1/completions", timeout=60, json={**body, "prompt": [prompt + ids]}).json()
    likelihood, greedy = parse_logprobs(answer, [len(prompt)])[0]
    assert greedy and likelihood == pytest.approx(sum(said.logprobs.token_logprobs), abs=1e-4)
    other = requests.post(shared.http + "/v1/completions", timeout=60, json={**body, "prompt": [prompt + ids[::-1]]}).json()
    assert not parse_logprobs(other, [len(prompt)])[0][1]


def test_scores_do_not_depend_on_batch_or_cache(shared, client, model):
    golden = json.loads((GOLDEN / "perplexity.json").read_text())["tokens"]
    prompts = [golden[at:at + length] for at, length in ((0, 300), (0, 200), (50, 31), (600, 333), (7, 1))]
    together = scores_of(client, model, prompts)
    before = shared.metric("vllm:prefix_cache_hits_total")
    again = [scores_of(client, model, prompt)[0] for prompt in prompts]
    assert shared.metric("vllm:prefix_cache_hits_total") == before, "scores were taken from a cache that has none"
    for one, other in zip(together, again):
        assert one.token_logprobs == other.token_logprobs and one.top_logprobs == other.top_logprobs
    without = scores_of(client, model, prompts, max_tokens=0)
    for one, other in zip(together, without):
        assert one.token_logprobs[:-1] == other.token_logprobs and one.tokens[:-1] == other.tokens
    # What such requests computed is there for others.
    done = client.completions.create(model=model, prompt=prompts[0], max_tokens=1, temperature=0)
    assert done.usage.prompt_tokens_details.cached_tokens >= 256


def test_prompt_logprobs_as_vllm_writes_them(client, model):
    text = "The capital of France is Paris"
    done = client.completions.create(model=model, prompt=text, max_tokens=1, temperature=0,
                                     extra_body={"prompt_logprobs": 2})
    scores = done.choices[0].model_extra["prompt_logprobs"]
    assert scores[0] is None and "".join(next(iter(s.values()))["decoded_token"] for s in scores[1:]) == text[3:]
    for entry in scores[1:]:
        ranks = [one["rank"] for one in entry.values()]
        assert 2 <= len(entry) <= 3 and {1, 2} <= set(ranks)
        by_rank = sorted(entry.values(), key=itemgetter("rank"))
        assert all(a["logprob"] >= b["logprob"] for a, b in zip(by_rank, by_rank[1:]))
    last = next(iter(scores[-1].values()))
    assert last["decoded_token"] == " Paris" and last["rank"] == 1
    chat = client.chat.completions.create(model=model, messages=[{"role": "user", "content": "Hi"}], max_tokens=1,
                                          extra_body={"prompt_logprobs": 0})
    assert len(chat.model_extra["prompt_logprobs"]) == chat.usage.prompt_tokens
    with pytest.raises(openai.BadRequestError, match="prompt_logprobs"):
        client.completions.create(model=model, prompt=text, stream=True, extra_body={"prompt_logprobs": 0})
    streamed = list(client.completions.create(model=model, prompt=text, max_tokens=2, temperature=0, logprobs=0, echo=True,
                                              stream=True))
    whole = client.completions.create(model=model, prompt=text, max_tokens=2, temperature=0, logprobs=0, echo=True)
    assert "".join(c.choices[0].text for c in streamed) == whole.choices[0].text
    parts = [s for c in streamed if c.choices[0].logprobs for s in c.choices[0].logprobs.token_logprobs]
    assert parts == whole.choices[0].logprobs.token_logprobs


def test_embeddings(shared, client, model):
    texts = ["The cat sat on the mat.", "A kitten is sitting on a rug.", "Interest rates rose by a quarter of a percent.", "x " * 400]
    many = client.embeddings.create(model=model, input=texts, encoding_format="float")
    vectors = [item.embedding for item in many.data]
    assert [item.index for item in many.data] == [0, 1, 2, 3] and many.usage.total_tokens == many.usage.prompt_tokens > 400
    for vector in vectors:
        assert len(vector) == 576 and math.isclose(sum(x * x for x in vector), 1, rel_tol=1e-5)
    cosine = lambda a, b: sum(x * y for x, y in zip(a, b))
    assert cosine(vectors[0], vectors[1]) > cosine(vectors[0], vectors[2])
    # The sdk asks for base64 by itself; alone, and when its prompt is cached, a text has the very same vector.
    bits = lambda vector: struct.pack("<576f", *vector)
    assert bits(client.embeddings.create(model=model, input=texts[0]).data[0].embedding) == bits(vectors[0])
    client.completions.create(model=model, prompt=texts[3], max_tokens=1)
    assert bits(client.embeddings.create(model=model, input=texts[3]).data[0].embedding) == bits(vectors[3])
    raw = requests.post(shared.http + "/v1/embeddings", timeout=60, json={"input": texts[0], "encoding_format": "base64"}).json()
    assert list(struct.unpack("<576f", base64.b64decode(raw["data"][0]["embedding"]))) == pytest.approx(vectors[0], abs=1e-7)
    ids = client.embeddings.create(model=model, input=[[33, 216, 34], [33, 216]])
    assert len(ids.data) == 2 and ids.usage.prompt_tokens == 5
    with pytest.raises(openai.BadRequestError, match="dimensions"):
        client.embeddings.create(model=model, input="a", dimensions=64)
    chain = OpenAIEmbeddings(model=model, base_url=shared.http + "/v1", api_key="none", check_embedding_ctx_length=False)
    assert chain.embed_query(texts[0]) == pytest.approx(vectors[0], abs=1e-6)
    assert len(chain.embed_documents(texts[:3])) == 3
