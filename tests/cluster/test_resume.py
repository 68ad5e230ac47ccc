"""Answers that break off go on behind what has come: text and tokens are those of a call that was not disturbed."""
import os
import random
import signal
import socket
import threading

import pytest

from cluster import Cluster

PROMPT = "The history of the printing press begins in the fifteenth century, when"
TOKENS = 60
WAYS = {
    "greedy": {"temperature": 0},
    "drawn": {"temperature": 0.9, "top_p": 0.95, "seed": 7, "presence_penalty": 0.5, "frequency_penalty": 0.3},
    "stop": {"temperature": 0},
    "scored": {"temperature": 0.7, "seed": 3, "logprobs": 2},
    "regex": {"temperature": 0.8, "seed": 5, "regex": "( [a-z]{2,9}){30}\\."},
}


class Cutter:
    """Stands between client and door, and cuts each of the first connections after some bytes of the answer."""

    def __init__(self, address: str, chance: random.Random):
        host, port = address.rsplit(":", 1)
        self._door, self._chance = (host, int(port)), chance
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.cuts = 0
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        for left in (4, 3, 2, 1) + (0,) * 50:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            door = socket.create_connection(self._door)
            # The first 200 bytes or so are settings of HTTP/2; an event of one token is about 60.
            most = self._chance.randrange(100, 1500) if left else 1 << 40
            threading.Thread(target=self._pass, args=(client, door, 1 << 40), daemon=True).start()
            threading.Thread(target=self._pass, args=(door, client, most), daemon=True).start()

    def _pass(self, source: socket.socket, to: socket.socket, most: int):
        try:
            while most > 0 and (data := source.recv(min(most, 4096))):
                to.sendall(data)
                most -= len(data)
            self.cuts += most == 0
        except OSError:
            pass
        for end in (source, to):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def close(self):
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


def told(stream):
    text = stream.text()
    scores = [(row.chosen.id, round(row.chosen.logprob, 5), [top.id for top in row.top]) for row in stream.logprobs]
    return text, stream.token_ids, scores, stream.result.reason, stream.result.completion_tokens, stream.result.prompt_tokens


@pytest.mark.parametrize("way", WAYS)
def test_an_answer_that_breaks_off_goes_on(shared, way):
    from interlace_client import Client
    chance, asked = random.Random(way), dict(WAYS[way])
    with Client(shared.grpc) as client:
        if way == "stop":
            words = client.generate(PROMPT, max_tokens=TOKENS, **asked).text().split(" ")
            asked["stop"] = [" ".join(words[24:26])]
        expected = told(client.generate(PROMPT, max_tokens=TOKENS, **asked))
    cuts = resumed = 0
    for _ in range(3):
        cutter = Cutter(shared.grpc, chance)
        with Client(cutter.address) as client:
            stream = client.generate(PROMPT, max_tokens=TOKENS, **asked)
            assert told(stream) == expected
        cuts += cutter.cuts
        resumed += len(stream._request.resume.ids) > 0
        cutter.close()
    assert cuts >= 3 and resumed >= 1  # the property was put to the test
    shared.await_nothing_held()


def test_the_coordinator_dies_in_mid_stream():
    """serve starts it again, the ranks have kept weights and KV, the client goes on."""
    from interlace_client import Client
    cluster = Cluster("--keep-layers", "30")
    try:
        with Client(cluster.grpc) as client:
            expected = told(client.generate(PROMPT, max_tokens=TOKENS, temperature=0))
            stream = client.generate(PROMPT, max_tokens=TOKENS, temperature=0)
            text = ""
            for count, piece in enumerate(stream):
                text += piece
                if count == 20:
                    os.kill(cluster.child("coordinator"), signal.SIGKILL)
            assert (text, stream.token_ids) == expected[:2] and stream.tries > 1
        cluster.await_nothing_held()
    finally:
        cluster.stop()


def test_what_cannot_be_resumed_is_refused(shared):
    from interlace_client import Client
    from interlace_client.client import grpc, pb
    with Client(shared.grpc) as client:
        def refusal(resume, **options):
            request = pb.GenerateRequest(text=PROMPT, sampling=pb.SamplingOptions(max_tokens=8, **options), resume=resume)
            with pytest.raises(grpc.RpcError) as refused:
                list(client._doors.call("Generate", request, 10))
            assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
            return refused.value.details()
        assert "seed" in refusal(pb.Resume(ids=[1]), temperature=1)
        assert "resume.ids" in refusal(pb.Resume(ids=[1 << 30]), temperature=0)
        assert "resume.ids" in refusal(pb.Resume(ids=[1] * 9), temperature=0)
        assert "resume.text_bytes" in refusal(pb.Resume(ids=[1], text_bytes=-1), temperature=0)
        assert "prompt_logprobs" in refusal(pb.Resume(ids=[1]), temperature=0, prompt_logprobs=1)
