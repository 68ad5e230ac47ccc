import json
import pathlib
import subprocess
import sys
import urllib.request

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "deploy/observability"))


def model_path() -> str:
    done = subprocess.run(["bash", str(ROOT / "deploy/fetch_model.sh")], capture_output=True, text=True, check=True)
    return done.stdout.strip().split("\n")[-1]


def ask_for(url: str, tokens: int = 4) -> str:
    """A few greedy tokens of a server."""
    body = json.dumps({"prompt": "The capital of France is", "max_tokens": tokens, "temperature": 0}).encode()
    request = urllib.request.Request(url + "/v1/completions", body, {"content-type": "application/json"})
    return json.load(urllib.request.urlopen(request, timeout=30))["choices"][0]["text"]


@pytest.fixture(scope="session")
def model() -> str:
    return model_path()


@pytest.fixture(scope="session")
def ask():
    return ask_for
