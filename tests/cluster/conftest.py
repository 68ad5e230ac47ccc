import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
subprocess.run([sys.executable, str(ROOT / "client/python/generate.py")], check=True)

from cluster import Cluster  # noqa: E402


@pytest.fixture(scope="session")
def shared():
    """Two stages, half the layers streamed, a little host memory, the rest in a kvstore."""
    cluster = Cluster("--pp", "2", "--keep-layers", "15", "--kvstore", "--host-kv", "256MiB", "--device-kv", "64MiB")
    yield cluster
    cluster.await_nothing_held()
    cluster.stop()
