"""The Python client against the gRPC door."""
import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase



@pytest.fixture(scope="module")
def client(shared):
    from interlace_client import Client
    with Client(shared.grpc) as c:
        yield c


MESSAGES = [{"role": "user", "content": "Why is the sky blue?"}]


def test_chat_and_explain(client):
    stream = client.chat(MESSAGES, max_tokens=40, temperature=0, request_id="explained")
    text = stream.text()
    assert text.startswith("The ") and stream.result.completion_tokens == 40 and len(stream.token_ids) == 40
    report = client.explain("explained")
    assert report.state == "finished" and report.keep_layers == 15 and report.layers == 30
    assert [l.layer for l in report.by_layer] == list(range(30))
    assert {l.stage for l in report.by_layer} == {0, 1}
    for layer in report.by_layer:
        assert (layer.mode == "keep") == (layer.layer % 2 == 0)
        assert (layer.bytes_in > 0) == (layer.mode == "stream") and (layer.bytes_out > 0) == (layer.mode == "stream")
    with pytest.raises(grpc.RpcError) as missing:
        client.explain("nobody")
    assert missing.value.code() == grpc.StatusCode.NOT_FOUND


def test_targets_are_asked_for_and_judged(client):
    stream = client.chat(MESSAGES, max_tokens=8, temperature=0, request_id="with-targets",
                         targets={"ttft_ms": 0.001, "tpot_ms": 600000, "priority": -1, "fairness_id": "acme"})
    stream.text()
    report = client.explain("with-targets")
    assert report.targets.ttft_ms == 0.001 and report.targets.priority == -1 and report.targets.fairness_id == "acme"
    assert report.met.HasField("ttft") and not report.met.ttft  # nothing is so fast
    assert report.met.tpot and report.met.deadline and not report.met.HasField("largest_gap")
    assert 0 < report.tpot_seconds <= report.largest_gap_seconds


def test_generate_from_ids_equals_text(client):
    ids = client.tokenize("1 2 3 4")
    by_text = client.generate("1 2 3 4", max_tokens=8, temperature=0)
    by_ids = client.generate(tokens=ids, max_tokens=8, temperature=0)
    assert by_text.text() == by_ids.text() == " 5 6 7 8" and by_text.token_ids == by_ids.token_ids


def test_cancel_frees_everything(client, shared):
    stream = client.chat(MESSAGES, max_tokens=2000, temperature=0, ignore_eos=True)
    for count, _ in enumerate(stream):
        if count == 5:
            break
    stream.cancel()
    shared.await_nothing_held()


def test_deadline(client, shared):
    with pytest.raises(grpc.RpcError) as late:
        client.chat(MESSAGES, max_tokens=4000, temperature=0, ignore_eos=True, timeout=1).text()
    assert late.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    shared.await_nothing_held()


def test_bad_requests(client):
    for call in (lambda: client.generate(tokens=[1 << 30]), lambda: client.generate(tokens=[]),
                 lambda: client.chat([]), lambda: client.generate("x", temperature=-1)):
        with pytest.raises(grpc.RpcError) as refused:
            call().text()
        assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT


def test_health_and_reflection(shared):
    with grpc.insecure_channel(shared.grpc) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        assert health.Check(health_pb2.HealthCheckRequest()).status == health_pb2.HealthCheckResponse.SERVING
        assert "interlace.v1.Inference" in ProtoReflectionDescriptorDatabase(channel).get_services()
