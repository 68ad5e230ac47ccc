"""Subscribes to KV events over gRPC with the gateway's package, in a process of its own: the package's descriptors and ours
have the same names. Arguments: address, number of the last batch that it has, number up to which it reads. Prints a list
of batches, or the code with which the call ended."""
import json
import sys

import grpc
from google.protobuf.json_format import MessageToDict
from smg_grpc_proto.generated import common_pb2, vllm_engine_pb2_grpc


def main(address: str, start: int, until: int):
    batches = []
    with grpc.insecure_channel(address) as channel:
        call = vllm_engine_pb2_grpc.VllmEngineStub(channel).SubscribeKvEvents(
            common_pb2.SubscribeKvEventsRequest(start_sequence_number=start), timeout=60)
        try:
            while not batches or batches[-1].sequence_number < until:
                batches.append(next(call))
        except grpc.RpcError as error:
            print(json.dumps({"code": error.code().name, "details": error.details()}))
            return
        call.cancel()
    print(json.dumps([MessageToDict(batch, preserving_proto_field_name=True) for batch in batches]))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
