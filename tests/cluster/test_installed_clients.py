"""Both clients as others get them: a wheel, and an installed library that CMake finds."""
import os
import shutil
import subprocess
import sys

from cluster import BIN, ROOT

ASK = """
import sys
from interlace_client import Client
with Client(sys.argv[1]) as client:
    print(client.generate(sys.argv[2], max_tokens=8, temperature=0).text(), end="")
"""
PROMPT = "1 2 3 4"


def run(*command, **more) -> str:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False, timeout=300, **more)
    assert done.returncode == 0, f"{command}:\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
    return done.stdout


def test_wheel(tmp_path, shared):
    source = tmp_path / "client/python"
    shutil.copytree(ROOT / "client/python", source, ignore=shutil.ignore_patterns("*_pb2*", "__pycache__", "build", "*.egg-info"))
    shutil.copytree(ROOT / "proto", tmp_path / "proto")
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check")
    run(*pip, "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", tmp_path / "wheels", source)
    [wheel] = (tmp_path / "wheels").glob("interlace_client-*.whl")
    run(*pip, "install", "--quiet", "--no-deps", "--target", tmp_path / "site", wheel)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    assert run(sys.executable, "-c", ASK, shared.grpc, PROMPT, env=environment, cwd=tmp_path) == " 5 6 7 8"


def test_find_package(tmp_path, shared):
    run("cmake", "--install", BIN.parent, "--prefix", tmp_path / "prefix")
    run("cmake", "-S", ROOT / "tests/cluster/find_package", "-B", tmp_path / "build", "-G", "Ninja",
        f"-DCMAKE_PREFIX_PATH={tmp_path / 'prefix'}")
    run("cmake", "--build", tmp_path / "build")
    assert run(tmp_path / "build/asks", shared.grpc, PROMPT) == " 5 6 7 8"
