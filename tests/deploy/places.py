"""Where things are, and what the programs say of themselves."""
import functools
import os
import pathlib
import re
import socket
import subprocess
import sys
import time

import yaml

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
BIN = ROOT / os.environ.get("INTERLACE_BUILD", "out/dev") / "bin"
PROMTOOL = ROOT / "out/prometheus/promtool"
KUBECTL = pathlib.Path(sys.executable).parent / "kubectl"
PROGRAMS = {role: BIN / f"interlace-{role}" for role in ("coordinator", "worker", "kvstore")}


def run(*command, check=True, **options):
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=60, **options)
    assert not check or done.returncode == 0, f"{command} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
    return done


@functools.cache
def flags(role: str) -> frozenset:
    """The long flags that a program's --help lists."""
    return frozenset(re.findall(r"(--[a-z][a-z-]*)", run(PROGRAMS[role], "--help").stdout))


@functools.cache
def settings() -> frozenset:
    """Every setting by its name, as `interlace config` lists them."""
    found = frozenset(re.findall(r"^([a-z]+\.[a-z0-9_]+) ", run(BIN / "interlace", "config").stdout, re.MULTILINE))
    assert len(found) > 50, "`interlace config` was not understood"
    return found


def objects(text: str) -> list:
    """The documents of a text of YAML, by the fast one of its two readers."""
    return list(yaml.load_all(text, Loader=yaml.CSafeLoader))


def setting_of_variable(variable: str) -> str:
    """kv.keep_layers of INTERLACE_KV_KEEP_LAYERS; an assertion fails if there is none."""
    known = {"INTERLACE_" + name.replace(".", "_").upper(): name for name in settings()}
    assert variable in known, f"{variable}: no setting has that variable"
    return known[variable]


UNITS = {"": 1, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}


def size(text) -> int:
    """Bytes of 64MiB (ours) and 64Mi (Kubernetes's)."""
    number, unit = re.fullmatch(r"(\d+)([A-Za-z]*)", str(text)).groups()
    return int(number) * UNITS[unit]


def seconds(text: str) -> int:
    return int(re.fullmatch(r"(\d+)s", text)[1])


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for held in sockets:
        held.bind(("127.0.0.1", 0))
    ports = [held.getsockname()[1] for held in sockets]
    for held in sockets:
        held.close()
    return ports


def wait_until(what: str, condition, within: float = 30):
    """Looks until condition() is true; fails naming `what`. Bounded, never a fixed sleep for an outcome."""
    limit = time.monotonic() + within
    while not condition():
        assert time.monotonic() < limit, f"not within {within} s: {what}"
        time.sleep(0.05)
