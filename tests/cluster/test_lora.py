"""LoRA adapters over the official openai package: base and adapters side by side, each as it is alone."""
import array
import concurrent.futures
import json
import os
import pathlib
import random
import signal
import struct
import subprocess
import urllib.error
import urllib.request

import openai
import pytest

from cluster import BIN, Cluster, model_path, wait_until

LAYERS, WIDTH, KV, FEED_FORWARD = 30, 576, 192, 1536  # of SmolLM2-135M
SIZES = {"q_proj": (WIDTH, WIDTH), "k_proj": (KV, WIDTH), "v_proj": (KV, WIDTH), "o_proj": (WIDTH, WIDTH),
         "gate_proj": (FEED_FORWARD, WIDTH), "up_proj": (FEED_FORWARD, WIDTH), "down_proj": (WIDTH, FEED_FORWARD)}
PROMPTS = ["1 2 3 4", "The capital of France is", "Once upon a time there was a king who " * 6]


def write_adapter(folder: pathlib.Path, seed: int, rank: int, modules: list[str]) -> pathlib.Path:
    """Random matrices, as PEFT saves them: adapter_config.json and adapter_model.safetensors."""
    folder.mkdir()
    draw = random.Random(seed)
    header, data = {}, bytearray()

    def add(name, rows, cols, spread):
        values = array.array("f", (draw.uniform(-spread, spread) for _ in range(rows * cols))).tobytes()
        header[name] = {"dtype": "F32", "shape": [rows, cols], "data_offsets": [len(data), len(data) + len(values)]}
        data.extend(values)

    for layer in range(LAYERS):
        for module in modules:
            outputs, inputs = SIZES[module]
            part = "self_attn" if module[0] in "qkvo" else "mlp"
            stem = f"base_model.model.model.layers.{layer}.{part}.{module}"
            add(stem + ".lora_A.weight", rank, inputs, inputs ** -0.5)
            add(stem + ".lora_B.weight", outputs, rank, 0.03)
    text = json.dumps(header).encode()
    (folder / "adapter_model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)
    (folder / "adapter_config.json").write_text(json.dumps({
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": rank, "lora_alpha": 2 * rank, "bias": "none",
        "target_modules": modules, "modules_to_save": None, "base_model_name_or_path": "HuggingFaceTB/SmolLM2-135M"}))
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("adapters")
    return {"wide": write_adapter(root / "wide", 1, 6, list(SIZES)),
            "narrow": write_adapter(root / "narrow", 2, 2, ["q_proj", "v_proj"])}


@pytest.fixture(scope="module")
def cluster(folders):
    running = Cluster("--enable-lora", "--max-lora-rank", "16", "--lora-modules",
                      *(f"{name}={folder}" for name, folder in folders.items()), "--pp", "2", "--keep-layers", "15",
                      "--host-kv", "256MiB", "--device-kv", "64MiB")
    yield running
    running.await_nothing_held()
    running.stop()


@pytest.fixture(scope="module")
def client(cluster):
    return openai.OpenAI(base_url=cluster.http + "/v1", api_key="none", max_retries=0)


def complete(client, model, prompt):
    done = client.completions.create(model=model, prompt=prompt, max_tokens=12, temperature=0, logprobs=2)
    assert done.model == model
    return done.choices[0].text, done.choices[0].logprobs.token_logprobs


def test_they_are_models_with_a_parent(client, folders):
    base, *adapters = client.models.list().data
    assert base.parent is None
    assert [(m.id, m.parent, m.root) for m in adapters] == [(n, base.id, str(f)) for n, f in folders.items()]
    with pytest.raises(openai.NotFoundError, match="wide.*narrow"):
        client.completions.create(model="other", prompt="a")


def test_side_by_side_each_is_what_it_is_alone(client, folders):
    models = [client.models.list().data[0].id, *folders]
    asked = [(model, prompt) for prompt in PROMPTS for model in models]
    alone = {one: complete(client, *one) for one in asked}
    assert alone[(models[0], "1 2 3 4")][0].startswith(" 5 6 7 8")
    for prompt in PROMPTS:  # the same tokens, and KV of others in the cache: three answers
        assert len({tuple(alone[(model, prompt)][1]) for model in models}) == 3
    with concurrent.futures.ThreadPoolExecutor(len(asked)) as pool:
        for _ in range(3):
            together = dict(zip(asked, pool.map(lambda one: complete(client, *one), asked)))
            assert together == alone


def test_the_other_doors_take_their_names(cluster, client):
    chat = client.chat.completions.create(model="wide", messages=[{"role": "user", "content": "hi"}], max_tokens=4)
    assert chat.model == "wide"
    body = {"model": "narrow", "max_tokens": 4, "messages": [{"role": "user", "content": "hi"}]}
    asked = urllib.request.Request(cluster.http + "/v1/messages", json.dumps(body).encode(),
                                   {"content-type": "application/json"})
    assert json.load(urllib.request.urlopen(asked, timeout=30))["model"] == "narrow"


def test_run_takes_one(client, folders):
    def answer(*flags):
        done = subprocess.run([str(BIN / "interlace"), "run", model_path(), "--raw", "-n", "12", "-p", PROMPTS[1], *flags],
                              capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return done.stdout.rstrip("\n")

    assert answer("--lora", str(folders["wide"])) == complete(client, "wide", PROMPTS[1])[0]


def test_what_does_not_fit_is_refused_at_the_start(folders, tmp_path):
    wrong = write_adapter(tmp_path / "wrong", 3, 2, ["q_proj"])
    config = json.loads((wrong / "adapter_config.json").read_text())
    (wrong / "adapter_config.json").write_text(json.dumps(config | {"use_dora": True}))
    for flag, text in ((f"a={wrong}", "use_dora"), ("a=/nowhere", "/nowhere/adapter_config.json"), ("a", "NAME=FOLDER")):
        done = subprocess.run([str(BIN / "interlace"), "serve", model_path(), "--port", "0", "--grpc-port", "0", "--state",
                               str(tmp_path / "state"), "--lora-modules", flag], capture_output=True, text=True, timeout=60)
        assert done.returncode != 0 and text in done.stderr + done.stdout, done.stderr


# ---- adapters that come and go while the server runs

@pytest.fixture(scope="module")
def later(folders, tmp_path_factory):
    """Two replicas, one adapter of the start."""
    root = next(iter(folders.values())).parent
    outside = write_adapter(tmp_path_factory.mktemp("outside") / "secret", 5, 2, ["q_proj"])
    (root / "link").symlink_to(outside)
    running = Cluster("--enable-lora", "--lora-modules", f"narrow={folders['narrow']}", "--replicas", "2", "--set",
                      "model.runtime_adapters=true", "--set", f"model.adapter_dir={root}", "--host-kv", "64MiB", "--device-kv",
                      "64MiB")
    yield running
    running.await_nothing_held()
    running.stop()


def post(url, path, **body):
    asked = urllib.request.Request(url + path, json.dumps(body).encode(), {"content-type": "application/json"})
    try:
        with urllib.request.urlopen(asked, timeout=120) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def names(client):
    return [model.id for model in client.models.list().data]


def test_loaded_in_mid_stream_it_is_as_from_the_start(client, later):
    want = {prompt: complete(client, "wide", prompt) for prompt in PROMPTS}  # of a server that had it at its start
    here = openai.OpenAI(base_url=later.http + "/v1", api_key="none", max_retries=0)
    base = names(here)[0]
    ask = dict(prompt="1 2 3 4", max_tokens=120, temperature=0, stream=True, extra_body={"ignore_eos": True})
    alone = {model: "".join(c.choices[0].text for c in here.completions.create(model=model, **ask)) for model in (base, "narrow")}
    streams = {model: here.completions.create(model=model, **ask) for model in (base, "narrow")}
    texts = {model: next(stream).choices[0].text for model, stream in streams.items()}
    assert post(later.http, "/v1/completions", model="new", prompt="a")[0] == 404
    assert post(later.http, "/v1/load_lora_adapter", lora_name="new", lora_path="wide") == (
        200, "Success: LoRA adapter 'new' added successfully.")
    assert names(here) == [base, "narrow", "new"]
    assert {prompt: complete(here, "new", prompt) for prompt in PROMPTS} == want
    for model, stream in streams.items():
        assert texts[model] + "".join(c.choices[0].text for c in stream) == alone[model]
    assert later.metric("vllm:lora_requests_info", 'max_lora="64"') > 1e9

    # Unloaded while it is in use: what runs ends as it is, and what comes finds none.
    whole = "".join(c.choices[0].text for c in here.completions.create(model="new", **ask))
    stream = here.completions.create(model="new", **ask)
    text = next(stream).choices[0].text
    assert post(later.http, "/v1/unload_lora_adapter", lora_name="new") == (
        200, "Success: LoRA adapter 'new' removed successfully.")
    with pytest.raises(openai.NotFoundError, match="new"):
        complete(here, "new", "a")
    assert text + "".join(c.choices[0].text for c in stream) == whole
    assert post(later.http, "/v1/unload_lora_adapter", lora_name="new")[0] == 404


def test_what_cannot_be_loaded_changes_nothing(later):
    here = openai.OpenAI(base_url=later.http + "/v1", api_key="none", max_retries=0)
    before = names(here)
    for path, status, text in (("nothing", 404, "No adapter found for nothing"), ("../secret", 400, "leads out of"),
                               ("/etc", 400, "leads out of"), ("link", 400, "leads out of"), ("", 400, "must be provided")):
        got = post(later.http, "/v1/load_lora_adapter", lora_name="bad", lora_path=path)
        assert got[0] == status and text in got[1], got
    assert post(later.http, "/v1/load_lora_adapter", lora_name="narrow", lora_path="wide")[0] == 400  # the name is taken
    assert names(here) == before


def test_a_rank_that_is_started_again_has_it(client, later):
    here = openai.OpenAI(base_url=later.http + "/v1", api_key="none", max_retries=0)
    want = complete(client, "wide", PROMPTS[1])
    assert post(later.http, "/v1/load_lora_adapter", lora_name="kept", lora_path="wide")[0] == 200
    for worker in ("worker-0", "worker-1"):
        losses = later.metric("interlace_replica_losses_total")
        os.kill(later.child(worker), signal.SIGKILL)
        wait_until("the loss is seen", lambda: later.metric("interlace_replica_losses_total") > losses)
        wait_until("all ranks are there", lambda: later.metric("interlace_router_replicas_ready") == 2, 60)
    for _ in range(4):  # on either replica
        assert complete(here, "kept", PROMPTS[1]) == want
    assert "kept" in names(here)
    assert post(later.http, "/v1/unload_lora_adapter", lora_name="kept")[0] == 200


def test_without_the_setting_there_is_no_such_path(cluster):
    status, text = post(cluster.http, "/v1/load_lora_adapter", lora_name="new", lora_path="wide")
    assert status == 404 and "model.runtime_adapters=true" in text
