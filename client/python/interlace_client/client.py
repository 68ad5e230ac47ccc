"""Client and the stream of one answer."""
import random
import threading
import time
from typing import Dict, Iterable, Iterator, List, Optional, Sequence

import grpc

from . import inference_pb2 as pb
from . import inference_pb2_grpc as rpc


class AnotherAnswer(RuntimeError):
    """A call broke off, and the server that was tried next answers with other tokens; what has come is good."""


_LOOKS = 20  # at one coordinator or another of several, until one leads, count as a try


class Stream:
    """Iterates over the text of one answer; `result` is there once it ended, `token_ids` grows as it comes, and so does
    `logprobs` (one TokenLogprobs for each id) if they were asked for.

    A call that breaks off, or finds a server that is away or full, is tried again (`tries` counts), at the next address
    if there are several, and goes on behind what has come. Errors are grpc.RpcError with the server's status, or
    AnotherAnswer. cancel() ends the request on the server too.
    """

    def __init__(self, doors: "_Doors", method: str, request, timeout: float, retries: int):
        self._doors, self._method, self._request = doors, method, request
        self._deadline = time.monotonic() + timeout
        self._retries = retries
        self._text_bytes = 0
        self.tries = 0
        self.request_id: str = ""
        self.token_ids: List[int] = []
        self.logprobs: List[pb.TokenLogprobs] = []
        self.prompt_logprobs: List[pb.TokenLogprobs] = []  # of the prompt's tokens but the first, if asked for
        self.result: Optional[pb.Finished] = None
        sampling = request.sampling
        drawn = sampling.temperature > 0 or not sampling.HasField("temperature")
        if retries > 0 and drawn and not sampling.HasField("seed"):
            sampling.seed = random.getrandbits(64)
        self._begin()

    def __iter__(self) -> Iterator[str]:
        while self.result is None:
            try:
                for text in self._texts():
                    self._text_bytes += len(text.encode())
                    yield text
                return
            except grpc.RpcError as error:
                wait = self._wait(error)
                if wait is None:
                    raise
            time.sleep(wait)
            self._begin()

    def text(self) -> str:
        return "".join(self)

    def cancel(self) -> None:
        self._retries = 0
        self._call.cancel()

    def _begin(self) -> None:
        self.tries += 1
        if self.token_ids:
            # The last token is left out: it must come again, which shows that this server goes the same way.
            self._request.resume.CopyFrom(pb.Resume(ids=self.token_ids[:-1], text_bytes=self._text_bytes))
        self._again = bool(self.token_ids)
        left = max(0.001, self._deadline - time.monotonic())
        self._asked, self._call = self._doors.ask(self._method, self._request, left)

    def _texts(self) -> Iterator[str]:
        for event in self._call:
            self.request_id = event.request_id
            if event.HasField("tokens"):
                self._take(event.tokens)
                if event.tokens.text:
                    yield event.tokens.text
            elif event.HasField("prompt_logprobs"):
                self.prompt_logprobs.extend(event.prompt_logprobs.logprobs)
            elif event.HasField("finished"):
                if self._again:
                    raise AnotherAnswer(f"it ends before token {len(self.token_ids)}, which had come")
                self.result = event.finished

    def _take(self, tokens: pb.Tokens) -> None:
        known = 1 if self._again and tokens.ids else 0
        if known and tokens.ids[0] != self.token_ids[-1]:
            self._call.cancel()
            raise AnotherAnswer(f"token {len(self.token_ids)} was {self.token_ids[-1]} and came again as {tokens.ids[0]}")
        self._again = self._again and not known
        self.token_ids.extend(tokens.ids[known:])
        self.logprobs.extend(tokens.logprobs[known:])

    def _wait(self, error: grpc.RpcError) -> Optional[float]:
        """Seconds until the next try; None: there is none."""
        trailing = dict(error.trailing_metadata() or ())
        after = trailing.get("retry-after-ms")
        away = error.code() == grpc.StatusCode.UNAVAILABLE
        full = error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED and after is not None
        held = error.code() == grpc.StatusCode.ALREADY_EXISTS and self.tries > 1
        hopeless = trailing.get("x-should-retry") == "false" or self.prompt_logprobs
        tries = -(-self.tries // _LOOKS) if self._doors.several else self.tries  # rounded up
        if not (away or full or held) or hopeless or tries > self._retries:
            return None
        wait = max(min(2.0, 0.1 * 2 ** (tries - 1)) * random.uniform(0.5, 1), float(after or 0) / 1000)
        if time.monotonic() + wait >= self._deadline:
            return None
        if away:
            self._doors.leave(self._asked, trailing)
        return wait


class _Doors:
    """The addresses of one cluster's coordinators. The one that served last is asked first; a standby names the one that
    leads, and one that is gone or frozen is left for the next."""

    def __init__(self, addresses: List[str], credentials: Optional[grpc.ChannelCredentials], metadata):
        self._addresses, self._credentials, self._metadata = addresses, credentials, metadata
        self._channels: Dict[str, grpc.Channel] = {}
        self._lock = threading.Lock()
        self._lost, self._lost_until = "", 0.0  # did not answer; a standby may name it until its lease is over
        self.at = addresses[0]

    @property
    def several(self) -> bool:
        return len(self._addresses) > 1

    def ask(self, method: str, request, timeout: Optional[float] = None):
        """The address that is asked, and the call."""
        with self._lock:
            at = self.at
            if at not in self._channels:
                self._channels[at] = self._connect(at)
            stub = rpc.InferenceStub(self._channels[at])
        return at, getattr(stub, method)(request, timeout=timeout, metadata=self._metadata)

    def call(self, method: str, request, timeout: Optional[float] = None):
        return self.ask(method, request, timeout)[1]

    def leave(self, address: str, trailing: Dict[str, str]) -> None:
        """What was asked at `address` was refused, or broke off."""
        named = trailing.get("x-interlace-leader")
        with self._lock:
            if self.at != address:
                return  # another call has moved on already
            if named:
                if named != self._lost or time.monotonic() > self._lost_until:
                    self.at = named
            elif "retry-after-ms" not in trailing:
                self._lost, self._lost_until = address, time.monotonic() + 1
                known = self._addresses.index(address) if address in self._addresses else -1
                self.at = self._addresses[(known + 1) % len(self._addresses)]

    def close(self) -> None:
        for channel in self._channels.values():
            channel.close()

    def _connect(self, address: str) -> grpc.Channel:
        # A server that is back is found soon, and one that hangs is left: sooner where another may have taken over.
        ping = 500 if self.several else 2000
        options = [("grpc.max_receive_message_length", -1), ("grpc.initial_reconnect_backoff_ms", 100),
                   ("grpc.min_reconnect_backoff_ms", 500), ("grpc.max_reconnect_backoff_ms", 500),
                   ("grpc.keepalive_time_ms", ping), ("grpc.keepalive_timeout_ms", ping),
                   ("grpc.http2.ping_timeout_ms", ping),  # the same to versions of gRPC of late
                   ("grpc.http2.max_pings_without_data", 0)]
        if self._credentials is None:
            return grpc.insecure_channel(address, options=options)
        return grpc.secure_channel(address, self._credentials, options=options)


class Client:
    """A connection to the gRPC door of a coordinator, or of several, of which one leads. Thread-safe, like the channels
    under it."""

    def __init__(self, address: str, api_key: Optional[str] = None, root_certificates: Optional[bytes] = None):
        """address: host:port of a gRPC door, or several with commas between them.
        root_certificates: PEM, of the authorities of a server that speaks TLS; b"": the machine's; None: no TLS."""
        credentials = None if root_certificates is None else grpc.ssl_channel_credentials(root_certificates or None)
        metadata = [("authorization", f"Bearer {api_key}")] if api_key else None
        self._doors = _Doors([one.strip() for one in address.split(",") if one.strip()], credentials, metadata)

    def close(self) -> None:
        self._doors.close()

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def chat(self, messages: Iterable[Dict[str, str]], timeout: float = 600, request_id: str = "",
             targets: Optional[Dict] = None, fidelity: Optional[Dict] = None, retries: int = 8, **options) -> Stream:
        """timeout: seconds, of all tries together. retries: after the first try, while a server is away or full; if there
        may be some and the answer is drawn by chance, the client chooses the seed that is not set. targets: the fields
        of Targets in proto/inference.proto: ttft_ms, tpot_ms, largest_gap_ms, priority (lower is earlier), fairness_id,
        deadline_ms. fidelity: those of Fidelity: mode (exact, bounded, off), agreement, exit_layer; what became of it is
        in the stream's result. options: those of SamplingOptions.

        temperature, top_p, top_k, min_p, typical_p, repetition_penalty, presence_penalty, frequency_penalty, seed,
        logit_bias (dict), bad_words (list), stop (list), stop_token_ids, ignore_eos, min_tokens, max_tokens, logprobs, prompt_logprobs.
        """
        request = pb.ChatRequest(request_id=request_id, sampling=pb.SamplingOptions(**options),
                                 targets=pb.Targets(**(targets or {})), fidelity=pb.Fidelity(**(fidelity or {})))
        request.messages.extend(pb.ChatMessage(role=m["role"], content=m["content"]) for m in messages)
        return Stream(self._doors, "Chat", request, timeout, retries)

    def generate(self, prompt: str = "", tokens: Optional[Sequence[int]] = None, timeout: float = 600,
                 request_id: str = "", targets: Optional[Dict] = None, fidelity: Optional[Dict] = None,
                 retries: int = 8, **options) -> Stream:
        """Text or token ids, without a chat template."""
        request = pb.GenerateRequest(request_id=request_id, sampling=pb.SamplingOptions(**options),
                                     targets=pb.Targets(**(targets or {})), fidelity=pb.Fidelity(**(fidelity or {})))
        if tokens is not None:
            request.tokens.ids.extend(tokens)
        else:
            request.text = prompt
        return Stream(self._doors, "Generate", request, timeout, retries)

    def tokenize(self, text: str) -> List[int]:
        return list(self._doors.call("Tokenize", pb.TokenizeRequest(text=text)).ids)

    def model(self) -> pb.Model:
        return self._doors.call("GetModel", pb.GetModelRequest())

    def explain(self, request_id: str) -> pb.ExplainReply:
        return self._doors.call("Explain", pb.ExplainRequest(request_id=request_id))
