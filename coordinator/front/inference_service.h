// InferenceService: the native gRPC door, interlace.v1.
#pragma once

#include <grpcpp/grpcpp.h>

#include <memory>

#include "absl/status/status.h"
#include "common/executor.h"
#include "coordinator/front/generation.h"
#include "coordinator/front/intake_lanes.h"
#include "coordinator/front/tenants.h"
#include "proto/inference.grpc.pb.h"

namespace interlace {

// The gRPC deadline of a call is its request's deadline; a cancelled call cancels its request. Owned by main; gRPC
// threads, which only convert and post. The trap: its server must be shut down before it dies, the intake and its
// engine outlive it.
class InferenceService final : public v1::Inference::CallbackService {
 public:
  // `tenants`: whose keys count; null: none is needed. Outlives it.
  explicit InferenceService(Intake& intake, Tenants* tenants = nullptr);
  // Whether the call may speak for everybody, as routers do: where keys are needed, its key must be an operator's.
  absl::Status MayRoute(const grpc::CallbackServerContext& context) const;

  grpc::ServerWriteReactor<v1::GenerateEvent>* Generate(grpc::CallbackServerContext* context,
                                                        const v1::GenerateRequest* request) override;
  grpc::ServerWriteReactor<v1::GenerateEvent>* Chat(grpc::CallbackServerContext* context,
                                                    const v1::ChatRequest* request) override;
  grpc::ServerUnaryReactor* GetModel(grpc::CallbackServerContext* context, const v1::GetModelRequest* request,
                                     v1::Model* reply) override;
  grpc::ServerUnaryReactor* Tokenize(grpc::CallbackServerContext* context, const v1::TokenizeRequest* request,
                                     v1::TokenizeReply* reply) override;
  grpc::ServerUnaryReactor* Explain(grpc::CallbackServerContext* context, const v1::ExplainRequest* request,
                                    v1::ExplainReply* reply) override;

 private:
  // Null where no key is needed. Unauthenticated: the call has none, or nobody's.
  absl::StatusOr<std::shared_ptr<Tenant>> CallerOf(const grpc::CallbackServerContext& context) const;
  grpc::ServerWriteReactor<v1::GenerateEvent>* Open(grpc::CallbackServerContext* context, size_t bytes,
                                                    GenerationSpec spec);
  // Whether a call that generates nothing may go on; if not, it was ended.
  bool MayAsk(grpc::CallbackServerContext* context, grpc::ServerUnaryReactor* reactor, std::shared_ptr<Tenant>* caller);

  Intake& intake_;
  Tenants* const tenants_;
  ThreadExecutor streams_{"grpc-streams", 65536};  // moves text to the wire
  IntakeLanes lanes_{"grpc-intake"};               // tokenise, wait for the scheduler; post to streams_
};

}  // namespace interlace
