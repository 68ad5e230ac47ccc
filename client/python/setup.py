"""Makes the gRPC stubs before they are packed. What else there is to say stands in pyproject.toml."""
import pathlib
import sys

from setuptools import setup
from setuptools.command.build_py import build_py

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import generate  # noqa: E402


class BuildWithStubs(build_py):
    def run(self):
        if generate.main() != 0:
            raise RuntimeError("the stubs of proto/inference.proto could not be made")
        super().run()


setup(cmdclass={"build_py": BuildWithStubs})
