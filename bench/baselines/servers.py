"""Servers that speak OpenAI's completions over HTTP, each with settings that are fair on few cores. Standard library
only. README.md says why each setting is as it is.

A server is `up()` while it is measured and `down()` otherwise. Interlace and llama.cpp start in seconds and are ended;
vLLM compiles for minutes, so it is stopped by signal (SIGSTOP): a process that is stopped takes no CPU time."""
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

KV_GIB = 2  # of each server, for keys and values
SLOT_TOKENS = 4096  # prompt and answer of one request, at most
LLAMA_KV_TOKENS = 65536  # of llama.cpp's, in all slots together; SmolLM2: 1.4 GiB as f16


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def end_on_signal():
    """SIGTERM and Ctrl-C end the program by an exception, so that servers that were started are ended too."""
    for sig in (signal.SIGTERM, signal.SIGINT):
        signal.signal(sig, lambda number, _: sys.exit(128 + number))


class Server:
    """One process and its children, in a session of their own, on the first cores."""

    def __init__(self, name, threads, folder):
        self.name, self.threads = name, threads
        self.log = pathlib.Path(folder) / f"{name.replace(' ', '-')}.log"
        self.process, self.command, self.port = None, [], 0

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def arguments(self):
        raise NotImplementedError

    def environment(self):
        return {}

    def start(self, seconds):
        self.port = free_port()
        self.command = [str(a) for a in self.arguments()]
        cores = sorted(os.sched_getaffinity(0))[: self.threads]
        with open(self.log, "a", encoding="utf-8") as log:
            self.process = subprocess.Popen(self.command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
                                            env={**os.environ, **self.environment()},
                                            preexec_fn=lambda: os.sched_setaffinity(0, cores))
        limit = time.monotonic() + seconds
        while not self.answers():
            if self.process.poll() is not None or time.monotonic() > limit:
                self.end()
                tail = self.log.read_text(errors="replace")[-2000:]
                raise SystemExit(f"serve: {self.name} did not start within {seconds} s; {self.log} ends with\n{tail}")
            time.sleep(0.1)

    def answers(self):
        try:
            with urllib.request.urlopen(self.url + "/health", timeout=2) as reply:
                return reply.status == 200
        except (urllib.error.URLError, OSError):
            return False

    def up(self):
        self.start(60)

    def down(self):
        self.end()

    def end(self):
        if self.process is None:
            return
        process, self.process = self.process, None
        group = process.pid  # start_new_session made it the leader
        for sig, patience in ((signal.SIGTERM, 20), (signal.SIGKILL, 20)):
            try:
                os.killpg(group, signal.SIGCONT)
                os.killpg(group, sig)
                process.wait(patience)
                return
            except ProcessLookupError:
                return
            except subprocess.TimeoutExpired:
                continue


class Interlace(Server):
    def __init__(self, program, model, settings, threads, folder):
        super().__init__("interlace", threads, folder)
        self.program, self.model, self.settings = program, model, settings
        self.state = pathlib.Path(folder) / "interlace-state"

    def arguments(self):
        out = [self.program, "serve", self.model, "--port", self.port, "--grpc-port", free_port(), "--device-kv",
               f"{KV_GIB}GiB", "--state", self.state, "--set", f"engine.threads={self.threads}"]
        for setting in self.settings:
            out += ["--set", setting]
        return out


class Llama(Server):
    def __init__(self, program, model, slots, threads, folder, label=None):
        super().__init__(label or f"llama.cpp {slots} slots", threads, folder)
        self.program, self.model, self.slots = program, model, slots

    def arguments(self):
        context = min(LLAMA_KV_TOKENS, self.slots * SLOT_TOKENS)
        return [self.program, "-m", self.model, "--host", "127.0.0.1", "--port", self.port, "-t", self.threads, "-tb",
                self.threads, "-np", self.slots, "-c", context, "--no-webui"]


class Vllm(Server):
    def __init__(self, python, model, threads, folder):
        super().__init__("vllm", threads, folder)
        self.python = pathlib.Path(python)
        convert = pathlib.Path(__file__).parent / "vllm_bench.py"
        self.weights = subprocess.run([python, str(convert), model, "--convert"], stdout=subprocess.PIPE, text=True,
                                      check=True).stdout.strip().split("\n")[-1]

    def arguments(self):
        return [self.python.parent / "vllm", "serve", self.weights, "--served-model-name", "smollm2", "--host", "127.0.0.1",
                "--port", self.port, "--dtype", "bfloat16", "--max-model-len", SLOT_TOKENS, "--enable-prefix-caching",
                "--enable-prompt-tokens-details"]

    def environment(self):
        cores = sorted(os.sched_getaffinity(0))[: self.threads]
        return {"OMP_NUM_THREADS": str(self.threads), "VLLM_CPU_OMP_THREADS_BIND": f"{cores[0]}-{cores[-1]}",
                "VLLM_CPU_KVCACHE_SPACE": str(KV_GIB), "VLLM_LOGGING_LEVEL": "WARNING", "HF_HUB_OFFLINE": "1",
                "VLLM_NO_USAGE_STATS": "1"}

    def up(self):
        if self.process is None:
            print("serve: vLLM compiles and warms up (minutes)", file=sys.stderr)
            self.start(900)
        else:
            os.killpg(self.process.pid, signal.SIGCONT)

    def down(self):
        os.killpg(self.process.pid, signal.SIGSTOP)
