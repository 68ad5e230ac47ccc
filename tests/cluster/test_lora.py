"""LoRA adapters over the official openai package: base and adapters side by side, each as it is alone."""
import array
import concurrent.futures
import json
import pathlib
import random
import struct
import subprocess
import urllib.request

import openai
import pytest

from cluster import BIN, Cluster, model_path

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
