// The gRPC face of the kvstore: leases and usage.
#pragma once

#include <grpcpp/grpcpp.h>

#include <cstdint>
#include <string>

#include "kvstore/remote/leased_blocks.h"
#include "kvstore/remote/request_intake.h"
#include "proto/kv.grpc.pb.h"

namespace interlace {

// Owned by the store server; called on gRPC's threads. An open Attach stream is one lease.
// The trap: the gRPC server must be shut down before this dies.
class KvStoreService final : public v1::KvStore::CallbackService {
 public:
  KvStoreService(LeasedBlocks& blocks, const RequestIntake& intake, std::string transport_address,
                 uint64_t incarnation);
  grpc::ServerBidiReactor<v1::AttachRequest, v1::AttachReply>* Attach(grpc::CallbackServerContext* context) override;
  grpc::ServerUnaryReactor* Usage(grpc::CallbackServerContext* context, const v1::UsageRequest* request,
                                  v1::UsageReply* reply) override;

 private:
  class Stream;
  LeasedBlocks& blocks_;
  const RequestIntake& intake_;
  const std::string transport_address_;
  const uint64_t incarnation_;
};

}  // namespace interlace
