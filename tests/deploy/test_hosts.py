"""Plain hosts: systemd's units, and cluster.sh against this machine, with an ssh that runs commands here."""
import os
import re
import shutil
import stat

import pytest
from places import BIN, ROOT, flags, free_ports, run, seconds, settings

UNITS = sorted((ROOT / "deploy/systemd").glob("*.service"))


def members(unit) -> dict[str, list[str]]:
    found = {}
    for line in unit.read_text().splitlines():
        if "=" in line and not line.startswith("#"):
            found.setdefault(line.split("=", 1)[0], []).append(line.split("=", 1)[1])
    return found


def configuration() -> dict[str, str]:
    lines = [line.split("#")[0].strip() for line in (ROOT / "deploy/systemd/interlace.conf").read_text().splitlines()]
    return dict(re.split(r"\s*=\s*", line, maxsplit=1) for line in lines if line)


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_units_call_programs_with_flags_and_settings_that_there_are(unit):
    found = members(unit)
    program, *words = found["ExecStart"][0].split()
    role = program.removeprefix("/usr/bin/interlace-")
    assert {word for word in words if word.startswith("--")} <= flags(role)
    assert {words[i + 1].split("=")[0] for i, word in enumerate(words) if word == "--set"} <= settings()
    ready = words[words.index("--ready-file") + 1]
    assert ready.startswith(f"/run/{found['RuntimeDirectory'][0]}/")
    assert int(found["LimitNOFILE"][0]) >= 16384 * 8 / 7, "http.max_connections"
    assert found["User"] == ["interlace"] and found["NoNewPrivileges"] == ["yes"] and found["ProtectSystem"] == ["strict"]
    if role == "coordinator":
        assert seconds(found["TimeoutStopSec"][0]) >= seconds(configuration()["server.drain_timeout"]) + 30


def test_the_example_is_read_by_every_program(tmp_path):
    assert set(configuration()) <= settings()
    run(BIN / "interlace", "config", "--config", ROOT / "deploy/systemd/interlace.conf")


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed here")
def test_systemd_takes_the_units(tmp_path):
    for unit in UNITS:
        text = re.sub(r"/usr/bin/interlace-[a-z]+", "/bin/true", unit.read_text())
        (tmp_path / unit.name.replace("@", "@0")).write_text(text)
    done = run("systemd-analyze", "verify", "--man=no", *sorted(tmp_path.iterdir()), check=False)
    assert done.returncode == 0 and not done.stderr, done.stderr


class Hosts:
    """A file for cluster.sh, and an ssh that keeps a list of the hosts it was asked for."""

    def __init__(self, folder, model: str):
        self.folder, self.file, self.asked = folder, folder / "hosts", folder / "asked"
        ssh = folder / "ssh"
        ssh.write_text(f'#!/bin/sh\necho "$1" >>{self.asked}\n[ "$1" != away ] || exit 255\nshift\nexec sh -c "$*"\n')
        ssh.chmod(ssh.stat().st_mode | stat.S_IXUSR)
        secret = folder / "secret"
        secret.write_text("0123456789abcdef" * 4)
        secret.chmod(0o600)
        ranks, store, http, grpc = free_ports(4)
        self.http = f"http://127.0.0.1:{http}"
        self.file.write_text(f"""# two stages and a kvstore
bin {BIN}
state {folder}/state
all model.path={model} cluster.stages=2 cluster.secret_file={secret} cluster.coordinator=127.0.0.1:{ranks}
all kv.device_bytes=32MiB kv.host_bytes=32MiB engine.threads=1 kv.tiers=remote kv.remote=127.0.0.1:{store}

coordinator one cluster.listen=127.0.0.1:{ranks} server.http_port={http} server.grpc_port={grpc}
worker two cluster.stage=0   # of two
worker three cluster.stage=1
kvstore four kvstore.listen=127.0.0.1:{store} kvstore.host_bytes=32MiB
""")

    def call(self, command: str, check: bool = True, wait: str = "30"):
        environment = os.environ | {"INTERLACE_SSH": str(self.folder / "ssh"), "WAIT": wait}
        return run("bash", ROOT / "deploy/cluster.sh", self.file, command, check=check, env=environment)


@pytest.fixture
def hosts(tmp_path, model):
    made = Hosts(tmp_path, model)
    yield made
    made.call("stop", check=False)


def pids(hosts) -> dict[str, int]:
    return {file.stem: int(file.read_text()) for file in (hosts.folder / "state").glob("*.pid")}


def test_a_cluster_is_started_shown_and_stopped(hosts, ask):
    started = hosts.call("start").stdout
    assert {"one", "two", "three", "four"} == set(hosts.asked.read_text().split())
    assert ask(hosts.http)
    shown = hosts.call("status").stdout
    assert len(re.findall(r" ready ", shown)) == 4 and "serving=true" in shown, shown
    before = pids(hosts)
    assert set(before) == {"coordinator-0", "worker-0", "worker-1", "kvstore-0"}
    assert "runs already" in hosts.call("start").stdout and pids(hosts) == before, f"a second start starts nothing\n{started}"
    os.kill(before["worker-1"], 9)
    down = hosts.call("status", check=False)
    assert down.returncode == 1 and re.search(r"worker-1 +three +down", down.stdout), down.stdout
    hosts.call("start")
    after = pids(hosts)
    assert {name for name in after if after[name] != before[name]} == {"worker-1"}, "what runs stays"
    assert ask(hosts.http)
    assert "coordinator ready" in hosts.call("logs").stdout
    stopped = hosts.call("stop").stdout
    assert stopped.index("coordinator-0") < stopped.index("worker-0") < stopped.index("kvstore-0"), "who uses stops before what is used"
    assert not any(os.path.exists(f"/proc/{pid}/exe") for pid in after.values())
    assert hosts.call("status", check=False).returncode == 1


def test_a_process_that_ends_is_told_with_its_log(hosts):
    text = hosts.file.read_text()
    hosts.file.write_text(text.replace("cluster.stage=1", "cluster.stage=2"))
    failed = hosts.call("start", check=False)
    assert failed.returncode == 1 and "worker-1 on three has ended" in failed.stderr and "must lie in [0, 2)" in failed.stderr, failed.stderr


@pytest.mark.parametrize("line, said", [
    ("worker two cluster.stage=$(id)", "characters that are not allowed"),
    ("worker two 'x'", "characters that are not allowed"),
    ("wroker two", "'wroker' is none of"),
    ("worker", "worker HOST SETTING=VALUE"),
])
def test_a_line_that_is_wrong_is_named(tmp_path, line, said):
    made = Hosts(tmp_path, "none")
    made.file.write_text(made.file.read_text() + line + "\n")
    failed = made.call("status", check=False)
    assert failed.returncode != 0 and said in failed.stderr and "hosts:11" in failed.stderr, failed.stderr
    assert not made.asked.exists(), "no host was asked for anything"


def test_a_host_that_does_not_answer_is_told(tmp_path):
    made = Hosts(tmp_path, "none")
    made.file.write_text(made.file.read_text().replace("kvstore four", "kvstore away"))
    failed = made.call("start", check=False)
    assert failed.returncode == 1 and re.search(r"kvstore-0 +away +did not answer", failed.stdout), failed.stdout
    assert set(made.asked.read_text().split()) == {"away"}, "nobody else was started"


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed here")
def test_scripts_are_clean():
    scripts = sorted((ROOT / "deploy").glob("*.sh")) + sorted((ROOT / "tests/deploy").glob("*.sh"))
    run("shellcheck", "--severity=style", *scripts)


def test_settings_of_the_example_in_the_docs_are_there():
    text = (ROOT / "docs/operations.md").read_text()
    example = re.search(r"```\nbin /opt.*?```", text, re.DOTALL)[0]
    assert set(re.findall(r"([a-z]+\.[a-z_]+)=", example)) <= settings()
