"""What the parts of tests/nightly.sh share: requests, their reference streams, and the rows of the summary."""
import concurrent.futures
import dataclasses
import http.client
import json
import pathlib
import random
import subprocess
import sys
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "tests/cluster"))

from cluster import BIN, Cluster, model_path, run_ids, wait_until  # noqa: E402,F401

subprocess.run([sys.executable, str(ROOT / "client/python/generate.py")], check=True)

OUT = ROOT / "out/nightly"
LAYERS = {"smollm2-135m": 30, "gemma3-270m": 18}


def say(text: str):
    print(time.strftime("%H:%M:%S ") + text, flush=True)


class Summary:
    """The rows of one part: what was checked, the figure, and whether it held. Written when the part ends."""

    def __init__(self, part: str):
        self.part, self.rows, self.good = part, [], True

    def row(self, what: str, figure: str, good: bool = True):
        self.rows.append((self.part, what, figure, "ok" if good else "FAILED"))
        self.good &= good
        say(f"{self.part}: {what}: {figure}{'' if good else ' FAILED'}")

    def end(self) -> int:
        OUT.mkdir(parents=True, exist_ok=True)
        (OUT / f"{self.part}.tsv").write_text("".join("\t".join(row) + "\n" for row in self.rows))
        return 0 if self.good else 1


@dataclasses.dataclass
class Ask:
    """One request: a raw prompt and options of sampling, named as in proto/inference.proto."""
    prompt: str
    options: dict
    ids: list = dataclasses.field(default_factory=list)  # the reference stream
    text: str = ""                                       # and its text, where a part needs it

    @property
    def flags(self) -> list:
        flags = []
        for name, value in self.options.items():
            if name == "max_tokens":
                continue
            flags += ["--" + name.replace("_", "-"), str(value)]
        return flags


def corpus() -> str:
    """Text to cut prompts from: this project's own."""
    paths = sorted((ROOT / "docs").glob("*.md")) + [ROOT / "README.md"] + sorted((ROOT / "worker").glob("*.h"))
    return "\n".join(path.read_text() for path in paths)


def sampling(rng: random.Random, kind: int, tokens: int) -> dict:
    """Greedy, sampled, or with every step of sampling; never ended by the model, so that the count of tokens is known."""
    options = {"max_tokens": tokens, "min_tokens": tokens}
    if kind % 4 == 0:
        return {**options, "temperature": 0}
    options |= {"temperature": 0.9, "seed": rng.randrange(1 << 32)}
    if kind % 4 == 1:
        return {**options, "top_p": 0.95}
    if kind % 4 == 2:
        return options
    return {**options, "top_k": 60, "top_p": 0.95, "min_p": 0.01, "typical_p": 0.95, "repetition_penalty": 1.2,
            "presence_penalty": 0.4, "frequency_penalty": 0.3}


def slices(rng: random.Random, text: str, characters: int) -> str:
    begin = rng.randrange(len(text) - characters)
    return text[begin:begin + characters]


def reference(ask: Ask, model: str):
    """The stream of one plain configuration: alone in one process, one thread, every layer on the device, no tier."""
    ask.ids = run_ids(ask.prompt, ask.options["max_tokens"], *ask.flags, "--keep-layers", str(LAYERS[model]),
                      "--threads", "1", model=model, timeout=600)
    assert len(ask.ids) == ask.options["max_tokens"], "the reference stream ended early"


def references(asks: list, model: str):
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(reference, ask, model) for ask in asks]:
            done.result()


# A machine that does other things as well may take long to start a rank; what that costs is a figure, not a failure.
PATIENT = ["--set", "cluster.reform_timeout=120s", "--set", "sched.max_queue_time=0s"]  # a busy machine sheds nobody


class Cut(Exception):
    """A stream ended before its end."""


class Refused(Exception):
    """The door was closed, or did not take the request and said when to ask again."""


def stream(address: str, ask: Ask, on_piece, timeout: float = 60) -> str:
    """The whole text of one answer, piece by piece as it comes."""
    host, port = address.removeprefix("http://").split(":")
    body = {"prompt": ask.prompt, "stream": True, **ask.options}
    text, ended = "", False
    try:
        connection = http.client.HTTPConnection(host, int(port), timeout=timeout)
        connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        if answer.status == 503 and answer.headers["Retry-After"]:
            raise Refused(answer.read().decode()[:200])
        if answer.status != 200:
            raise Cut(f"HTTP {answer.status}: {answer.read().decode()[:200]}")
        for line in answer:
            if line.startswith(b"data: [DONE]"):
                ended = True
            elif line.startswith(b"data: "):
                event = json.loads(line[6:])
                if "error" in event:
                    raise Cut(f"error event: {event['error']}")
                piece = event["choices"][0]["text"]
                text += piece
                if piece:
                    on_piece()
    except ConnectionRefusedError as error:
        raise Refused(str(error)) from None
    except (OSError, http.client.HTTPException) as error:
        raise Cut(f"{type(error).__name__}: {error}") from None
    if not ended:
        raise Cut("the stream ended without [DONE]")
    return text


class Reader(threading.Thread):
    """One client: asks, reads, compares, asks the next. A gap is the time between two pieces, over errors too."""

    def __init__(self, number: int, address: str, asks: list, seed: int, forgiven, over: threading.Event):
        super().__init__(daemon=True)
        self.number, self.address, self.asks, self.random = number, address, asks, random.Random(seed)
        self.forgiven, self.over = forgiven, over
        self.good, self.wrong, self.cuts, self.unforgiven, self.refused, self.tokens = 0, [], [], [], 0, 0
        self.last = time.time()   # when a piece came
        self.gaps = []            # (begin, end) of each that is longer than 100 ms
        self.ordinary = []        # lengths of all

    def on_piece(self):
        now = time.time()
        self.ordinary.append(now - self.last)
        if now - self.last > 0.1:
            self.gaps.append((self.last, now))
        self.last = now
        self.tokens += 1

    def run(self):
        while not self.over.is_set():
            ask = self.random.choice(self.asks)
            while not self.over.is_set():
                began = time.time()
                try:
                    text = stream(self.address, ask, self.on_piece)
                except Refused:
                    self.refused += 1
                    time.sleep(0.1)
                    continue
                except Cut as cut:
                    now = time.time()
                    self.cuts.append((now, str(cut)))
                    if not self.forgiven(began, now):
                        self.unforgiven.append((now, str(cut)))
                        say(f"stream {self.number} cut, and the coordinator lives: {cut}")
                    time.sleep(0.1)
                    continue
                if text == ask.text:
                    self.good += 1
                else:
                    self.wrong.append((time.time(), ask, text))
                    say(f"stream {self.number} WRONG: {ask.options}\n  want {ask.text!r}\n  got  {text!r}")
                break


def undisturbed(asks: list, model: str):
    """The text of each, one after the other, from a cluster of one stage that keeps every layer and has no tier."""
    plain = Cluster("--keep-layers", str(LAYERS[model]), *PATIENT, model=model)
    for ask in asks:
        ask.text = stream(plain.http, ask, lambda: None)
    plain.stop()
    say(f"{len(asks)} undisturbed streams")
