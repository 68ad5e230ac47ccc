// EventWriter: the reactor of one Generate or Chat call.
#pragma once

#include <grpcpp/grpcpp.h>

#include <deque>
#include <memory>
#include <optional>

#include "absl/status/statusor.h"
#include "common/executor.h"
#include "coordinator/front/generation.h"
#include "proto/inference.pb.h"

namespace interlace {

// Holds itself until gRPC is done with it. Its state belongs to the `streams` executor: gRPC's calls are posted there.
// One write is in flight; what the client does not take stays in the TextStream, whose backlog is bounded. The trap:
// both executors outlive the call.
class EventWriter final : public grpc::ServerWriteReactor<v1::GenerateEvent>,
                          public std::enable_shared_from_this<EventWriter> {
 public:
  static EventWriter* Open(GenerationSpec spec, Intake& intake, Executor& slow, Executor& streams);
  EventWriter(Intake& intake, Executor& streams) : intake_(intake), streams_(streams) {}

  void OnWriteDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override;

 private:
  void Begin(const GenerationSpec& spec);  // on `slow`
  void Begun(absl::StatusOr<GenerationRun> run);
  void Advance();
  void Convert(TextEvent event);

  Intake& intake_;
  Executor& streams_;
  std::shared_ptr<EventWriter> self_;     // until OnDone
  std::optional<GenerationRun> run_;      // none: not begun, or over
  std::deque<v1::GenerateEvent> events_;  // the front one may be in flight
  std::optional<absl::Status> final_;
  bool writing_ = false;
  bool finished_ = false;
};

}  // namespace interlace
