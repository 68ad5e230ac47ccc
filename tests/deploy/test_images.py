"""The Dockerfile: small run stages that have every library, and that fit the manifests. tests/nightly.sh image runs them."""
import re
import subprocess

import pytest
from dockerfile import stages
from manifests import OVERLAYS, overlay, role
from places import PROGRAMS, ROOT, run

ROLES = sorted(PROGRAMS)
# In every Debian; and what programs open by name while they run: UCX's modules are files of libucx0 itself.
ESSENTIAL = {"libc6", "libstdc++6", "libgcc-s1"}


def packages_of(libraries: list[str]) -> set[str]:
    """The Debian packages of files of libraries, which ldd and dpkg may name by either of /lib and /usr/lib."""
    plain = [library.removeprefix("/usr") for library in libraries]
    done = subprocess.run(["dpkg-query", "--search", *plain, *("/usr" + p for p in plain)], capture_output=True, text=True, check=False)
    owners = {path.removeprefix("/usr"): owner.split(":")[0] for owner, path in re.findall(r"^(\S+): (\S+)$", done.stdout, re.MULTILINE)}
    assert owners.keys() == set(plain), f"no package has {set(plain) - owners.keys()}"
    return set(owners.values())


def needed(program) -> set[str]:
    """Packages of the libraries that a program itself names."""
    names = set(re.findall(r"NEEDED.*\[(.+)\]", run("readelf", "-d", program).stdout))
    found = dict(re.findall(r"(\S+) => (\S+)", run("ldd", program).stdout))
    return packages_of([found[name] for name in sorted(names & found.keys())])


@pytest.mark.parametrize("name", ROLES)
def test_a_run_stage_has_the_libraries_of_its_program_and_no_others(name):
    assert set(stages()[name].packages()) == needed(PROGRAMS[name]) - ESSENTIAL


@pytest.mark.parametrize("name", ROLES)
def test_a_run_stage_is_small_and_of_a_user_without_rights(name):
    stage = stages()[name]
    assert stage.base == "run" and stages()["run"].base == "${RUN_IMAGE}"
    assert stage.of("USER") == ["10001:10001"]
    assert stage.of("COPY") == [f"--from=build /src/out/release/bin/interlace-{name} /usr/bin/"]
    assert stage.entrypoint() == f"/usr/bin/interlace-{name}"
    assert all("rm -rf /var/lib/apt/lists/*" in step for step in stage.of("RUN") if "apt-get" in step)
    assert not any(package.endswith("-dev") for package in stage.packages())


def test_what_is_built_and_copied_is_there():
    build = stages()["build"]
    targets = re.search(r"--target (.+?) &&", " ".join(build.of("RUN")))[1].split()
    assert sorted(targets) == [f"interlace-{name}" for name in ROLES]
    for stage in stages().values():
        for copy in stage.of("COPY"):
            sources = [word for word in copy.split()[:-1] if not word.startswith("--")]
            assert "--from" in copy or all((ROOT / source).exists() for source in sources), copy
    # install.sh runs before the rest is copied, so that a change of a source installs nothing.
    beside = set(re.findall(r'\$here/([\w.]+)', (ROOT / "deploy/install.sh").read_text()))
    assert {f"deploy/{name}" for name in beside} <= set(build.of("COPY")[0].split())


def test_images_of_the_manifests_are_stages_and_ports_are_the_same():
    named = {}
    for name in OVERLAYS:
        for pod in overlay(name).pods():
            for container in pod.containers + pod.spec.get("initContainers", []):
                image = container["image"].split(":")[0].removeprefix("interlace-")
                named.setdefault(image, set()).update(str(p["containerPort"]) for p in container.get("ports", []))
            for container in pod.containers:
                assert "command" not in container, f"{role(container)} is started by the image"
    assert set(named) <= set(stages())
    for image, ports in named.items():
        assert {word for text in stages()[image].of("EXPOSE") for word in text.split()} == ports, image
    demo = next(c for pod in overlay("cpu-demo").pods() for c in pod.spec.get("initContainers", []))
    assert demo["command"][1] == stages()["demo-model"].of("COPY")[0].split()[-1]
