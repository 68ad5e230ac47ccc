"""VllmEngine with a client that the proto made, and the proto against that of the gateway's package."""
import importlib
import pathlib
import sys

import grpc
import pytest
from google.protobuf import descriptor_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_tools import protoc

from cluster import ROOT, Cluster, run_ids

PROMPT = "The history of the printing press begins in the fifteenth century, when"
SERVICE = "vllm.grpc.engine.VllmEngine"


@pytest.fixture(scope="module")
def pb(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vllm")
    assert protoc.main(["protoc", f"--proto_path={ROOT}", f"--python_out={folder}", f"--grpc_python_out={folder}",
                        "proto/compat/smg_common.proto", "proto/compat/vllm_engine.proto"]) == 0
    sys.path.insert(0, str(folder))
    from proto.compat import vllm_engine_pb2, vllm_engine_pb2_grpc
    vllm_engine_pb2.Stub = vllm_engine_pb2_grpc.VllmEngineStub
    return vllm_engine_pb2


@pytest.fixture(scope="module")
def stub(shared, pb):
    # As the gateway keeps its connections: pings that a default server takes for an attack.
    with grpc.insecure_channel(shared.grpc, options=[("grpc.keepalive_time_ms", 10000), ("grpc.keepalive_timeout_ms", 10000),
                                                     ("grpc.keepalive_permit_without_calls", 1)]) as channel:
        yield pb.Stub(channel)


def generate(stub, pb, **fields):
    ids, complete = {}, {}
    for message in stub.Generate(pb.GenerateRequest(**fields), timeout=120):
        kind = message.WhichOneof("response")
        part = getattr(message, kind)
        ids.setdefault(part.index, []).extend(part.token_ids if kind == "chunk" else part.output_ids)
        if kind == "complete":
            complete[part.index] = part
    return ids, complete


@pytest.mark.parametrize("stream", [True, False])
def test_generates_what_run_does(stub, pb, stream):
    sampling = pb.SamplingParams(temperature=0, max_tokens=40)
    ids, complete = generate(stub, pb, text=PROMPT, sampling_params=sampling, stream=stream)
    assert ids == {0: run_ids(PROMPT, 40, "--keep-layers", "30")}
    assert complete[0].finish_reason == "length" and complete[0].completion_tokens == 40


def test_several_outputs_and_a_stop_string(stub, pb):
    sampling = pb.SamplingParams(temperature=0, max_tokens=40, n=2, stop=["7"])
    ids, complete = generate(stub, pb, text="1 2 3 4", sampling_params=sampling, stream=True)
    assert sorted(complete) == [0, 1] and ids[0] == ids[1]
    assert all(one.finish_reason == "stop" and one.matched_stop_str == "7" for one in complete.values())


def test_abort(stub, pb):
    sampling = pb.SamplingParams(temperature=0, max_tokens=4000, ignore_eos=True)
    stream = stub.Generate(pb.GenerateRequest(request_id="endless", text=PROMPT, sampling_params=sampling, stream=True))
    next(stream)
    stub.Abort(pb.AbortRequest(request_ids=["endless"]))
    assert list(stream)[-1].complete.finish_reason == "abort"


def test_health_and_info(shared, stub, pb):
    assert stub.HealthCheck(pb.HealthCheckRequest()).healthy
    with grpc.insecure_channel(shared.grpc) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for name in ("", SERVICE):
            assert health.Check(health_pb2.HealthCheckRequest(service=name)).status == health_pb2.HealthCheckResponse.SERVING
    model = stub.GetModelInfo(pb.GetModelInfoRequest())
    assert model.is_generation and model.vocab_size == 49152 and pathlib.Path(model.model_path).exists()
    assert stub.GetServerInfo(pb.GetServerInfoRequest()).server_type == "vllm-grpc"
    assert stub.GetLoads(pb.GetLoadsRequest()).loads[0].max_total_num_tokens > 0


@pytest.mark.parametrize("ours_name, theirs_name", [("vllm_engine", "vllm_engine"), ("smg_common", "common")])
def test_the_proto_is_that_of_the_gateway(pb, tmp_path, ours_name, theirs_name):
    """Every field, method and value of ours has the name, number, type and label that the package gives it."""
    package = pytest.importorskip("smg_grpc_proto")
    theirs_folder = pathlib.Path(package.__file__).parent / "proto"
    assert protoc.main(["protoc", f"--proto_path={theirs_folder}", f"--descriptor_set_out={tmp_path / 'theirs'}",
                        f"{theirs_name}.proto"]) == 0
    theirs = descriptor_pb2.FileDescriptorSet.FromString((tmp_path / "theirs").read_bytes()).file[-1]
    ours = descriptor_pb2.FileDescriptorProto()
    importlib.import_module(f"proto.compat.{ours_name}_pb2").DESCRIPTOR.CopyToProto(ours)
    assert ours.package == theirs.package
    values = {enum.name: {value.name: value.number for value in enum.value} for enum in theirs.enum_type}
    for enum in ours.enum_type:
        assert {value.name: value.number for value in enum.value} == values[enum.name]
    messages = {message.name: {field.number: field for field in message.field} for message in theirs.message_type}
    for message in ours.message_type:
        for field in message.field:
            other = messages[message.name][field.number]
            assert (field.name, field.type, field.label, field.type_name, field.proto3_optional) == (
                other.name, other.type, other.label, other.type_name, other.proto3_optional), message.name
    methods = {m.name: (m.input_type, m.output_type, m.server_streaming) for service in theirs.service for m in service.method}
    for method in (method for service in ours.service for method in service.method):
        assert methods[method.name] == (method.input_type, method.output_type, method.server_streaming)


def test_with_keys_it_takes_an_operators(pb, tmp_path):
    """A gateway asks for everybody: its limits, its tenants and its right to abort are its own business."""
    keys = tmp_path / "keys.json"
    keys.write_text('{"tenants": [{"name": "acme", "keys": ["sk-acme"]}, {"name": "ops", "keys": ["sk-ops"], "operator": true}]}')
    cluster = Cluster("--set", f"server.api_keys={keys}")
    try:
        with grpc.insecure_channel(cluster.grpc) as channel:
            def ask(*metadata):
                call = pb.Stub(channel).Generate(pb.GenerateRequest(text="1 2", sampling_params=pb.SamplingParams(max_tokens=2)),
                                                 timeout=60, metadata=metadata)
                return [message.WhichOneof("response") for message in call]
            for metadata, code in [((), grpc.StatusCode.UNAUTHENTICATED),
                                   ((("authorization", "Bearer sk-acme"),), grpc.StatusCode.PERMISSION_DENIED)]:
                with pytest.raises(grpc.RpcError) as refused:
                    ask(*metadata)
                assert refused.value.code() == code
            assert ask(("authorization", "Bearer sk-ops"))[-1] == "complete"
    finally:
        cluster.stop()
