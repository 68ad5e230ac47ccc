"""Client and the stream of one answer."""
from typing import Dict, Iterable, Iterator, List, Optional, Sequence

import grpc

from . import inference_pb2 as pb
from . import inference_pb2_grpc as rpc


class Stream:
    """Iterates over the text of one answer; `result` is there once it ended, `token_ids` grows as it comes, and so does
    `logprobs` (one TokenLogprobs for each id) if they were asked for.

    Errors are grpc.RpcError with the server's status. cancel() ends the request on the server too.
    """

    def __init__(self, call):
        self._call = call
        self.request_id: str = ""
        self.token_ids: List[int] = []
        self.logprobs: List[pb.TokenLogprobs] = []
        self.prompt_logprobs: List[pb.TokenLogprobs] = []  # of the prompt's tokens but the first, if asked for
        self.result: Optional[pb.Finished] = None

    def __iter__(self) -> Iterator[str]:
        for event in self._call:
            self.request_id = event.request_id
            if event.HasField("tokens"):
                self.token_ids.extend(event.tokens.ids)
                self.logprobs.extend(event.tokens.logprobs)
                if event.tokens.text:
                    yield event.tokens.text
            elif event.HasField("prompt_logprobs"):
                self.prompt_logprobs.extend(event.prompt_logprobs.logprobs)
            elif event.HasField("finished"):
                self.result = event.finished

    def text(self) -> str:
        return "".join(self)

    def cancel(self) -> None:
        self._call.cancel()


class Client:
    """A connection to a coordinator's gRPC door. Thread-safe, like the channel under it."""

    def __init__(self, address: str, api_key: Optional[str] = None, root_certificates: Optional[bytes] = None):
        """root_certificates: PEM, of the authorities of a server that speaks TLS; b"": the machine's; None: no TLS."""
        options = [("grpc.max_receive_message_length", -1)]
        if root_certificates is None:
            self._channel = grpc.insecure_channel(address, options=options)
        else:
            credentials = grpc.ssl_channel_credentials(root_certificates or None)
            self._channel = grpc.secure_channel(address, credentials, options=options)
        self._stub = rpc.InferenceStub(self._channel)
        self._metadata = [("authorization", f"Bearer {api_key}")] if api_key else None

    def close(self) -> None:
        self._channel.close()

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def chat(self, messages: Iterable[Dict[str, str]], timeout: float = 600, request_id: str = "",
             targets: Optional[Dict] = None, **options) -> Stream:
        """targets: the fields of Targets in proto/inference.proto: ttft_ms, tpot_ms, largest_gap_ms, priority (lower is
        earlier), fairness_id, deadline_ms. options: those of SamplingOptions.

        temperature, top_p, top_k, min_p, typical_p, repetition_penalty, presence_penalty, frequency_penalty, seed,
        logit_bias (dict), bad_words (list), stop (list), stop_token_ids, ignore_eos, min_tokens, max_tokens, logprobs, prompt_logprobs.
        """
        request = pb.ChatRequest(request_id=request_id, sampling=pb.SamplingOptions(**options),
                                 targets=pb.Targets(**(targets or {})))
        request.messages.extend(pb.ChatMessage(role=m["role"], content=m["content"]) for m in messages)
        return Stream(self._stub.Chat(request, timeout=timeout, metadata=self._metadata))

    def generate(self, prompt: str = "", tokens: Optional[Sequence[int]] = None, timeout: float = 600,
                 request_id: str = "", targets: Optional[Dict] = None, **options) -> Stream:
        """Text or token ids, without a chat template."""
        request = pb.GenerateRequest(request_id=request_id, sampling=pb.SamplingOptions(**options),
                                     targets=pb.Targets(**(targets or {})))
        if tokens is not None:
            request.tokens.ids.extend(tokens)
        else:
            request.text = prompt
        return Stream(self._stub.Generate(request, timeout=timeout, metadata=self._metadata))

    def tokenize(self, text: str) -> List[int]:
        return list(self._stub.Tokenize(pb.TokenizeRequest(text=text), metadata=self._metadata).ids)

    def model(self) -> pb.Model:
        return self._stub.GetModel(pb.GetModelRequest(), metadata=self._metadata)

    def explain(self, request_id: str) -> pb.ExplainReply:
        return self._stub.Explain(pb.ExplainRequest(request_id=request_id), metadata=self._metadata)
