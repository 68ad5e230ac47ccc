// The gRPC face of the kvstore: sessions and usage.
#pragma once

#include <grpcpp/grpcpp.h>

#include <cstdint>
#include <string>
#include <vector>

#include "kvstore/remote/request_intake.h"
#include "kvstore/remote/store_sessions.h"
#include "proto/kv.grpc.pb.h"

namespace interlace {

// Owned by the store server; called on gRPC's threads. An open Attach stream is one session.
// The trap: the gRPC server must be shut down before this dies.
class KvStoreService final : public v1::KvStore::CallbackService {
 public:
  // `tiers`: by name, for Usage.
  KvStoreService(std::vector<KvTier*> tiers, StoreSessions& sessions, const RequestIntake& intake,
                 const Transport& transport, uint64_t incarnation);
  grpc::ServerBidiReactor<v1::AttachRequest, v1::AttachReply>* Attach(grpc::CallbackServerContext* context) override;
  grpc::ServerUnaryReactor* Usage(grpc::CallbackServerContext* context, const v1::UsageRequest* request,
                                  v1::UsageReply* reply) override;

 private:
  class Stream;
  const std::vector<KvTier*> tiers_;
  StoreSessions& sessions_;
  const RequestIntake& intake_;
  const Transport& transport_;
  const uint64_t incarnation_;
};

}  // namespace interlace
