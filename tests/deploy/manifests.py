"""Overlays as Kustomize builds them, and what a test asks of them."""
import dataclasses
import functools
import pathlib
import re

from places import KUBECTL, ROOT, objects, run, setting_of_variable

KUBERNETES = ROOT / "deploy/kubernetes"
OVERLAYS = sorted(folder.name for folder in (KUBERNETES / "overlays").iterdir())


@functools.cache
def rendered(folder: pathlib.Path) -> str:
    return run(KUBECTL, "kustomize", folder).stdout


@functools.cache
def overlay(name: str) -> "Overlay":
    return Overlay(objects(rendered(KUBERNETES / "overlays" / name)))


@dataclasses.dataclass
class Pod:
    """A template and the object that makes pods of it."""
    owner: dict
    template: dict
    count: int  # of pods with it, in one replica

    @property
    def spec(self) -> dict:
        return self.template["spec"]

    @property
    def labels(self) -> dict:
        return self.template["metadata"]["labels"]

    @property
    def containers(self) -> list:
        return self.spec["containers"]

    @property
    def name(self) -> str:
        return f"{self.owner['kind']}/{self.owner['metadata']['name']}"


def role(container: dict) -> str:
    """coordinator, worker or kvstore."""
    return re.fullmatch(r"interlace-([a-z]+):\S+", container["image"])[1]


class Overlay:
    def __init__(self, objects: list):
        self.objects = objects

    def of_kind(self, kind: str) -> list:
        return [o for o in self.objects if o["kind"] == kind]

    def named(self, kind: str, name: str) -> dict:
        found = [o for o in self.of_kind(kind) if o["metadata"]["name"] == name]
        assert len(found) == 1, f"{kind}/{name}: {len(found)} of them"
        return found[0]

    def pods(self) -> list[Pod]:
        found = [Pod(o, o["spec"]["template"], o["spec"]["replicas"]) for o in self.of_kind("Deployment") + self.of_kind("StatefulSet")]
        for group in self.of_kind("LeaderWorkerSet"):
            template = group["spec"]["leaderWorkerTemplate"]
            found += [Pod(group, template["leaderTemplate"], 1), Pod(group, template["workerTemplate"], template["size"] - 1)]
        return found

    def containers(self) -> list[tuple[Pod, dict]]:
        return [(pod, container) for pod in self.pods() for container in pod.containers]

    def ranks(self) -> list[tuple[Pod, dict]]:
        return [(pod, container) for pod, container in self.containers() if role(container) == "worker"]

    def settings(self) -> dict[str, str]:
        """Of the one map that all processes read, by the names of settings."""
        maps = [o for o in self.of_kind("ConfigMap") if o["metadata"]["name"].startswith("interlace-settings")]
        assert len(maps) == 1
        return {setting_of_variable(variable): value for variable, value in maps[0]["data"].items()}
