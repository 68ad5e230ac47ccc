"""The stages of deploy/images/Dockerfile."""
import dataclasses
import json
import re

from places import ROOT

PATH = ROOT / "deploy/images/Dockerfile"


@dataclasses.dataclass
class Stage:
    name: str
    base: str  # another stage, or an image
    steps: list  # (RUN, "..."), in their order

    def of(self, word: str) -> list[str]:
        return [text for step, text in self.steps if step == word]

    def entrypoint(self) -> str:
        (found,) = self.of("ENTRYPOINT")
        return json.loads(found)[0]

    def packages(self) -> list[str]:
        """What its apt-get install names."""
        found = re.search(r"apt-get install -y --no-install-recommends (.*?)(?: &&|$)", " ".join(self.of("RUN")))
        return found[1].split() if found else []


def stages() -> dict[str, Stage]:
    text = re.sub(r"\\\n\s*", "", re.sub(r"^#.*\n", "", PATH.read_text(), flags=re.MULTILINE))
    found, stage = {}, None
    for line in filter(None, map(str.strip, text.split("\n"))):
        word, rest = line.split(None, 1)
        if word == "FROM":
            base, _, name = rest.partition(" AS ")
            stage = found[name] = Stage(name, base, [])
        elif stage is not None:
            stage.steps.append((word, rest))
    return found
