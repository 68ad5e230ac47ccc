// VllmEngineService: the gRPC door for gateways that speak with vLLM engines (proto/compat/vllm_engine.proto).
#pragma once

#include <grpcpp/grpcpp.h>

#include <atomic>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "common/executor.h"
#include "coordinator/front/generation.h"
#include "coordinator/front/kv_event_stream.h"
#include "proto/compat/vllm_engine.grpc.pb.h"

namespace interlace {

// Tokens in, tokens out: the gateway owns the chat template and the text. A text may come in too, and stop strings are
// looked for here. The call's deadline is the request's; a cancelled call cancels its request. Owned by main; threads
// of gRPC, which only convert and post. The trap: its server must be shut down before it dies, the intake and its
// engine outlive it.
class VllmEngineService final : public vllm::grpc::engine::VllmEngine::CallbackService {
 public:
  struct Options {
    std::string model_path;
    int32_t block_tokens = 0;
    int32_t max_running = 0;
    std::string kv_dtype;
    // Whether a call may be made; not OK: what it ends with. Null: all may.
    std::function<absl::Status(const ::grpc::CallbackServerContext& context)> admit;
    KvEventLog* kv_events = nullptr;  // outlives the service; null: nobody can subscribe
  };
  VllmEngineService(Options options, Intake& intake);
  ~VllmEngineService() override;

  // Every subscription of KV events, which would never end by itself.
  void EndSubscriptions(const absl::Status& why);

  ::grpc::ServerWriteReactor<vllm::grpc::engine::GenerateResponse>* Generate(
      ::grpc::CallbackServerContext* context, const vllm::grpc::engine::GenerateRequest* request) override;
  ::grpc::ServerUnaryReactor* HealthCheck(::grpc::CallbackServerContext* context,
                                          const vllm::grpc::engine::HealthCheckRequest* request,
                                          vllm::grpc::engine::HealthCheckResponse* reply) override;
  ::grpc::ServerUnaryReactor* Abort(::grpc::CallbackServerContext* context,
                                    const vllm::grpc::engine::AbortRequest* request,
                                    vllm::grpc::engine::AbortResponse* reply) override;
  ::grpc::ServerUnaryReactor* GetModelInfo(::grpc::CallbackServerContext* context,
                                           const vllm::grpc::engine::GetModelInfoRequest* request,
                                           vllm::grpc::engine::GetModelInfoResponse* reply) override;
  ::grpc::ServerUnaryReactor* GetServerInfo(::grpc::CallbackServerContext* context,
                                            const vllm::grpc::engine::GetServerInfoRequest* request,
                                            vllm::grpc::engine::GetServerInfoResponse* reply) override;
  ::grpc::ServerUnaryReactor* GetLoads(::grpc::CallbackServerContext* context,
                                       const vllm::grpc::engine::GetLoadsRequest* request,
                                       vllm::grpc::engine::GetLoadsResponse* reply) override;
  KvEventStreams::Reactor* SubscribeKvEvents(::grpc::CallbackServerContext* context,
                                             const smg::grpc::common::SubscribeKvEventsRequest* request) override;

 private:
  class OpenStreams;
  absl::Status Admit(const ::grpc::CallbackServerContext& context) const;
  ::grpc::ServerUnaryReactor* Answer(::grpc::CallbackServerContext* context, const std::function<void()>& fill);

  const Options options_;
  Intake& intake_;
  const absl::Time started_;
  std::atomic<double> last_request_{0};  // seconds since 1970
  const std::unique_ptr<OpenStreams> open_;
  const std::unique_ptr<KvEventStreams> subscriptions_;  // null: nobody can subscribe
  ThreadExecutor streams_{"vllm-streams", 65536};        // moves tokens to the wire
  ThreadExecutor slow_{"vllm-intake", 65536};            // tokenises, waits for the scheduler; posts to streams_
};

}  // namespace interlace
