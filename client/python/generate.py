#!/usr/bin/env python3
"""Makes interlace_client/inference_pb2*.py from proto/inference.proto. Needs grpcio-tools."""
import pathlib
import sys

from grpc_tools import protoc

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent


def main() -> int:
    out = HERE / "interlace_client"
    code = protoc.main(["protoc", f"--proto_path={ROOT / 'proto'}", f"--python_out={out}", f"--grpc_python_out={out}",
                        "inference.proto"])
    stub = out / "inference_pb2_grpc.py"
    if code == 0:  # the generator writes an absolute import; inside a package it must be relative
        stub.write_text(stub.read_text().replace("import inference_pb2 as", "from . import inference_pb2 as"))
    return code


if __name__ == "__main__":
    sys.exit(main())
