"""Pods of an overlay as processes of this machine: what the kubelet does with a manifest, but for images and limits."""
import os
import pathlib
import re
import shutil
import signal
import subprocess
import urllib.error
import urllib.request

from manifests import Pod, overlay, role
from places import PROGRAMS, free_ports, wait_until

# Of a machine of two cores, on which all pods run at once.
SMALL = {"INTERLACE_ENGINE_THREADS": "1", "INTERLACE_KV_DEVICE_BYTES": "32MiB", "INTERLACE_KV_HOST_BYTES": "32MiB",
         "INTERLACE_KVSTORE_HOST_BYTES": "32MiB"}


class Container:
    """One container of one pod: its process, its probes, its hook."""

    def __init__(self, node: "Node", pod: Pod, index: int, manifest: dict):
        self.node, self.manifest, self.name = node, manifest, f"{pod.owner['metadata']['name']}-{index}-{manifest['name']}"
        folder = node.folder / f"{pod.owner['metadata']['name']}-{index}"
        self.mounts = {m["mountPath"]: node.volume(folder, m["name"]) for m in manifest["volumeMounts"]}
        self.log = node.folder / f"{self.name}.log"
        labels = {**pod.labels, "apps.kubernetes.io/pod-index": str(index)}
        variables = dict(node.variables)
        if pod.owner["kind"] == "LeaderWorkerSet":  # which puts these before those of the manifest
            variables |= {"LWS_LEADER_ADDRESS": "127.0.0.1", "LWS_WORKER_INDEX": str(index)}
        for variable in manifest.get("env", []):
            path = variable.get("valueFrom", {}).get("fieldRef", {}).get("fieldPath", "")
            label = re.fullmatch(r"metadata\.labels\['(.+)'\]", path)
            variables[variable["name"]] = variable["value"] if "value" in variable else labels[label[1]] if label else node.fields[path]
        self.declared = variables
        self.variables = {name: self.here(value) for name, value in variables.items()}
        self.process = None

    def here(self, text: str) -> str:
        """With this machine's paths, addresses and ports in place of the pod's."""
        text = re.sub(rf"(?<![^\s=])({'|'.join(self.mounts)})(?![^/\s])", lambda found: str(self.mounts[found[1]]), text)
        return self.addresses(text)

    def addresses(self, text: str) -> str:
        text = re.sub(r"\b(interlace-ranks|interlace-kvstore|0\.0\.0\.0)(?=:|$)", "127.0.0.1", text)
        return re.sub(rf"(?:^|(?<=[:=]))({'|'.join(self.node.ports)})$", lambda found: str(self.node.ports[found[1]]), text)

    def start(self):
        words = [re.sub(r"\$\((\w+)\)", lambda found: self.variables[found[1]], word) for word in self.manifest["args"]]
        with open(self.log, "a") as log:
            self.process = subprocess.Popen([PROGRAMS[role(self.manifest)], *map(self.here, words)], env=self.variables, stdout=log, stderr=log)

    def passes(self, probe: str) -> bool:
        how = self.manifest[probe]
        if "exec" in how:
            return subprocess.run(list(map(self.here, how["exec"]["command"])), check=False).returncode == 0
        port = next(p["containerPort"] for p in self.manifest["ports"] if p["name"] == how["httpGet"]["port"])
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{self.node.ports[str(port)]}{how['httpGet']['path']}", timeout=5)
            return True
        except (urllib.error.URLError, OSError):
            return False

    def await_probe(self, probe: str, passes: bool = True):
        def seen():
            assert self.process.poll() is None, f"{self.name} ended with {self.process.returncode}:\n{self.log.read_text()[-2000:]}"
            return self.passes(probe) == passes
        wait_until(f"{self.name}: {probe} {'passes' if passes else 'fails'}", seen)

    def hook(self) -> subprocess.Popen:
        return subprocess.Popen(list(map(self.here, self.manifest["lifecycle"]["preStop"]["exec"]["command"])))

    def send(self, number: int = signal.SIGTERM):
        self.process.send_signal(number)

    def await_end(self) -> int:
        return self.process.wait(timeout=30)


class Node:
    container = Container

    def __init__(self, name: str, folder: pathlib.Path, model: str):
        self.folder, self.model = folder, model
        self.ports = dict(zip(("8000", "50051", "7070", "7071"), free_ports(4), strict=True))
        self.fields = {"status.podIP": "127.0.0.1"}
        data = next(o for o in overlay(name).of_kind("ConfigMap") if o["metadata"]["name"].startswith("interlace-settings"))["data"]
        keyless = {k: v for k, v in data.items() if k != "INTERLACE_SERVER_API_KEYS"}  # its Secret is the operator's
        self.variables = {"PATH": os.environ["PATH"], **keyless, **SMALL}
        self.containers = [self.container(self, pod, index, manifest) for pod in overlay(name).pods()
                           for index in self.indices(pod) for manifest in pod.containers]
        self.http = f"http://127.0.0.1:{self.ports['8000']}"

    @staticmethod
    def indices(pod: Pod) -> range:
        leader = any(role(c) == "coordinator" for c in pod.containers)
        return range(1, pod.count + 1) if pod.owner["kind"] == "LeaderWorkerSet" and not leader else range(pod.count)

    def volume(self, pod: pathlib.Path, name: str) -> pathlib.Path:
        folder = pod / name
        if not folder.exists():
            folder.mkdir(parents=True)
            if name == "model":
                (folder / "model.gguf").symlink_to(self.model)
            if name == "cluster-secret":
                (folder / "secret").write_text("0123456789abcdef" * 4)
                (folder / "secret").chmod(0o440)
        return folder

    def of_role(self, wanted: str) -> list[Container]:
        return [container for container in self.containers if role(container.manifest) == wanted]

    def metric(self, name: str) -> float:
        text = urllib.request.urlopen(self.http + "/metrics", timeout=10).read().decode()
        return sum(float(line.rsplit(" ", 1)[1]) for line in text.split("\n") if line.startswith(name + "{"))

    def close(self):
        for container in self.containers:
            if container.process is not None and container.process.poll() is None:
                container.process.kill()
                container.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)
