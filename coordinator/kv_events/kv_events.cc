#include "coordinator/kv_events/kv_events.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "common/clock.h"
#include "common/log.h"
#include "common/loopback.h"
#include "common/status_macros.h"

namespace interlace {
namespace {

// Batches of this process are numbered above those of any before it, which made less than a million a second.
uint64_t FirstNumber() { return static_cast<uint64_t>(WallSeconds()) << 20; }

void WarnIfOpen(const std::string& at) {
  if (at.empty() || IsLoopback(absl::string_view(at).substr(0, at.rfind(':')))) return;
  LOG(WARNING) << "whoever reaches this port reads the tokens of prompts that have no salt" << Field("kv_events", at);
}

}  // namespace

KvEvents::KvEvents(size_t replicas, Metrics& metrics)
    : executor_(std::make_unique<ThreadExecutor>("kv-events", 65536)),
      log_({.first_number = FirstNumber(), .replicas = replicas}, *executor_, metrics) {}

absl::StatusOr<std::unique_ptr<KvEvents>> KvEvents::Open(const Config& config, size_t replicas, Metrics& metrics) {
  const auto& wanted = config.kv_events;
  if (!wanted.grpc && wanted.zmq.empty()) return nullptr;
  std::unique_ptr<KvEvents> events(new KvEvents(replicas, metrics));
  if (!wanted.zmq.empty()) {
    ASSIGN_OR_RETURN(events->zmq_,
                     ZmqPublisher::Open({wanted.zmq, wanted.zmq_replay, wanted.topic}, events->log_, metrics));
    WarnIfOpen(events->zmq_->publish_at());
    WarnIfOpen(events->zmq_->replay_at());
  }
  return events;
}

KvEvents::~KvEvents() {
  if (zmq_ != nullptr) zmq_->Stop();
  executor_.reset();
}

std::string KvEvents::doors() const {
  if (zmq_ == nullptr) return "";
  const std::string replay = zmq_->replay_at();
  return absl::StrCat("kv_events=", zmq_->publish_at(), "\n", replay.empty() ? "" : "kv_events_replay=", replay,
                      replay.empty() ? "" : "\n");
}

}  // namespace interlace
