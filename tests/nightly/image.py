"""The images without a container engine: the root file systems that deploy/images/Dockerfile describes are made with debootstrap,
and the pods of the overlay cpu-demo run in them: as user 10001, with a read-only root and the volumes of the manifest, and
nothing else of this machine but its kernel and network. The programs are those of INTERLACE_BUILD.
Needs root, debootstrap and a Debian 12 underneath, of which the programs were built.
"""
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT / "tests/deploy"), str(ROOT / "deploy/observability")]

import conftest  # noqa: E402
import pods  # noqa: E402
import test_pods  # noqa: E402
from dockerfile import stages  # noqa: E402
from manifests import role  # noqa: E402
from places import PROGRAMS  # noqa: E402

OUT = ROOT / "out/nightly/image"
OVERLAY = "cpu-demo"


def call(*command, **options) -> str:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, f"{command} ended with {done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
    return done.stdout


def base() -> pathlib.Path:
    """debian:12-slim, or nearly so; kept from night to night."""
    folder = OUT / "base"
    if not (folder / "etc/debian_version").exists():
        # Where this machine gets its own packages.
        mirrors = call("apt-get", "indextargets", "--format", "$(REPO_URI)", "Origin: Debian", "Codename: bookworm", "Component: main").split()
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        call("debootstrap", "--variant=minbase", "bookworm", folder, mirrors[0])
    return folder


def root_of(name: str) -> pathlib.Path:
    """The root of an image's last stage, made as its steps say."""
    folder = OUT / name
    shutil.rmtree(folder, ignore_errors=True)
    call("cp", "-a", base(), folder)
    for stage in (stages()["run"], stages()[name]):
        for word, text in stage.steps:
            if word == "RUN":
                call("chroot", folder, "sh", "-c", text, env={"PATH": os.environ["PATH"], "DEBIAN_FRONTEND": "noninteractive"})
            elif word == "COPY":
                program = PROGRAMS[name]
                assert text.split()[1].endswith(f"/{program.name}")
                call("strip", "-o", folder / text.split()[2].strip("/") / program.name, program)
    return folder


class Contained(pods.Container):
    """A container whose process sees the image and its volumes alone."""

    def start(self):
        root, user = self.node.images[role(self.manifest)], "10001:10001"
        entry = stages()[role(self.manifest)].entrypoint()
        steps = ["set -e", "mount --make-rprivate /", f"mount --bind {root} {root}", f"mount -o remount,bind,ro {root}", f"mount -t proc proc {root}/proc"]
        for mount in self.manifest["volumeMounts"]:
            source, target = self.mounts[mount["mountPath"]], f"{root}{mount['mountPath']}"
            pathlib.Path(target).mkdir(parents=True, exist_ok=True)  # as a container engine does
            shutil.chown(source, 10001, 10001)
            for file in source.rglob("*"):
                shutil.chown(file, 10001, 10001)
            steps.append(f"mount --bind {source} {target}")
            if mount.get("readOnly"):
                steps.append(f"mount -o remount,bind,ro {target}")
        words = " ".join(self.addresses(word) for word in self.manifest["args"])
        steps.append(f"exec chroot --userspec={user} {root} {entry} {words}")
        variables = {name: self.addresses(value) for name, value in self.declared.items()}
        with open(self.log, "a") as log:
            self.process = subprocess.Popen(["unshare", "--mount", "sh", "-c", "\n".join(steps)], env=variables, stdout=log, stderr=log)


class ImageNode(pods.Node):
    container = Contained

    def __init__(self, folder: pathlib.Path, model: str):
        self.images = {name: root_of(name) for name in sorted(PROGRAMS)}
        super().__init__(OVERLAY, folder, model)

    def volume(self, pod: pathlib.Path, name: str) -> pathlib.Path:
        folder = super().volume(pod, name)
        if name == "model" and (folder / "model.gguf").is_symlink():
            (folder / "model.gguf").unlink()
            shutil.copy(self.model, folder / "model.gguf")
        return folder


def main() -> int:
    rows = []
    if shutil.which("debootstrap") is None:
        call("apt-get", "install", "-y", "-qq", "--no-install-recommends", "debootstrap")
    good = True
    with tempfile.TemporaryDirectory(prefix="interlace-image-") as folder:
        try:
            node = ImageNode(pathlib.Path(folder) / "node", conftest.model_path())
            try:
                test_pods.check_start_serve_and_drain(node, conftest.ask_for)
                what = f"pods of {OVERLAY} in their images, read-only, as user 10001"
                rows.append((what, f"{len(node.containers)} processes start, serve, drain", "ok"))
            finally:
                node.close()
            for name, root in node.images.items():
                rows.append((f"image of {name}", call("du", "-sm", root).split()[0] + " MiB", "ok"))
        except AssertionError as why:
            print(why, file=sys.stderr)
            rows.append((f"pods of {OVERLAY} in their images", str(why).split("\n")[0][:60], "FAILED"))
            good = False
    (ROOT / "out/nightly/image.tsv").write_text("".join("\t".join(("image", *row)) + "\n" for row in rows))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
