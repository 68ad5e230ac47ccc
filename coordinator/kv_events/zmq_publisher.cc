#include "coordinator/kv_events/zmq_publisher.h"

#include <zmq.h>

#include <array>
#include <cerrno>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "absl/synchronization/notification.h"
#include "common/status_macros.h"
#include "coordinator/kv_events/kv_event_msgpack.h"

namespace interlace {
namespace {

constexpr int kMostBehind = 10000;    // batches that wait for one reader; then it misses some
constexpr int kMostOfReplay = 256;    // likewise of a replay; then the replay waits, for as long as its patience
constexpr int64_t kMostAsked = 1024;  // bytes of what a reader says: subscriptions and requests

// 8 bytes, big-endian.
std::string Encode(uint64_t number) {
  std::string bytes(8, '\0');
  for (int i = 7; i >= 0; --i, number >>= 8) bytes[static_cast<size_t>(i)] = static_cast<char>(number & 0xff);
  return bytes;
}
uint64_t Decode(absl::string_view bytes) {
  uint64_t number = 0;
  for (const char byte : bytes) number = number << 8 | static_cast<unsigned char>(byte);
  return number;
}

// One message of several frames, whole or not at all.
bool Send(void* socket, const std::vector<absl::string_view>& frames) {
  for (size_t i = 0; i < frames.size(); ++i) {
    const int more = i + 1 < frames.size() ? ZMQ_SNDMORE : 0;
    if (zmq_send(socket, frames[i].data(), frames[i].size(), more) < 0) return false;
  }
  return true;
}

// The frames of the next message. Empty: the context is shut down.
std::optional<std::vector<std::string>> Receive(void* socket) {
  std::vector<std::string> frames;
  for (;;) {
    zmq_msg_t frame;
    zmq_msg_init(&frame);
    if (zmq_msg_recv(&frame, socket, 0) < 0) {
      const bool again = zmq_errno() == EINTR;
      zmq_msg_close(&frame);
      if (again) continue;
      return std::nullopt;
    }
    frames.emplace_back(static_cast<const char*>(zmq_msg_data(&frame)), zmq_msg_size(&frame));
    const bool more = zmq_msg_more(&frame) != 0;
    zmq_msg_close(&frame);
    if (!more) return frames;
  }
}

}  // namespace

void ZmqPublisher::EndContext::operator()(void* context) const { zmq_ctx_term(context); }
void ZmqPublisher::EndSocket::operator()(void* socket) const { zmq_close(socket); }

ZmqPublisher::ZmqPublisher(const Options& options, KvEventLog& log, Metrics& metrics)
    : options_(options),
      log_(log),
      replays_done_(metrics.counter("interlace_kv_event_replays_total", {{"result", "done"}})),
      replays_broken_(metrics.counter("interlace_kv_event_replays_total", {{"result", "broken"}})),
      context_(zmq_ctx_new()) {}

ZmqPublisher::~ZmqPublisher() { Stop(); }

void ZmqPublisher::Stop() {
  zmq_ctx_shutdown(context_.get());
  if (replays_.joinable()) replays_.Join();
}

absl::StatusOr<std::unique_ptr<ZmqPublisher>> ZmqPublisher::Open(const Options& options, KvEventLog& log,
                                                                 Metrics& metrics) {
  std::unique_ptr<ZmqPublisher> publisher(new ZmqPublisher(options, log, metrics));
  ASSIGN_OR_RETURN(publisher->publish_at_,
                   publisher->Bind(ZMQ_PUB, "kv_events.zmq", options.publish, &publisher->publish_));
  if (!options.replay.empty()) {
    ASSIGN_OR_RETURN(publisher->replay_at_,
                     publisher->Bind(ZMQ_ROUTER, "kv_events.zmq_replay", options.replay, &publisher->replay_));
    publisher->replays_ = Thread("kv-replays", [raw = publisher.get()] { raw->ServeReplays(); });
  }
  publisher->sent_ = log.last();
  log.Listen([raw = publisher.get()] { raw->Publish(); });
  return publisher;
}

absl::StatusOr<std::string> ZmqPublisher::Bind(int kind, const std::string& setting, const std::string& address,
                                               Socket* socket) {
  socket->reset(zmq_socket(context_.get(), kind));
  const auto set = [&](int option, const auto& value) { zmq_setsockopt(socket->get(), option, &value, sizeof(value)); };
  set(ZMQ_LINGER, 0);
  set(ZMQ_IPV6, 1);
  set(ZMQ_MAXMSGSIZE, kMostAsked);
  set(ZMQ_SNDHWM, kind == ZMQ_PUB ? kMostBehind : kMostOfReplay);
  if (kind == ZMQ_ROUTER) {  // or what a reader has no room for would be left out in silence
    set(ZMQ_ROUTER_MANDATORY, 1);
    set(ZMQ_SNDTIMEO, static_cast<int>(absl::ToInt64Milliseconds(options_.patience)));
  }
  if (zmq_bind(socket->get(), absl::StrCat("tcp://", address).c_str()) != 0) {
    return absl::FailedPreconditionError(
        absl::StrCat(setting, "=", address, " cannot be listened on: ", zmq_strerror(zmq_errno()),
                     "; it must be HOST:PORT with a numeric address of this machine and a port that is free (0: any)"));
  }
  std::array<char, 256> bound{};
  size_t size = bound.size();
  zmq_getsockopt(socket->get(), ZMQ_LAST_ENDPOINT, bound.data(), &size);
  return std::string(absl::StripPrefix(bound.data(), "tcp://"));
}

void ZmqPublisher::Publish() {
  while (const KvEventLog::Batch batch = log_.After(sent_)) {
    sent_ = batch->number;
    Send(publish_.get(), {options_.topic, Encode(batch->number), EncodeAsVllm(*batch)});
  }
}

void ZmqPublisher::ServeReplays() {
  while (const std::optional<std::vector<std::string>> request = Receive(replay_.get())) {
    // [reader, "", number]; anything else is not answered, as by vLLM.
    if (request->size() != 3 || !(*request)[1].empty() || (*request)[2].size() != 8) continue;
    const bool done = Replay((*request)[0], Decode((*request)[2]));
    (done ? replays_done_ : replays_broken_).Add();
  }
}

bool ZmqPublisher::Replay(const std::string& reader, uint64_t first) {
  std::vector<KvEventLog::Batch> batches;
  absl::Notification gathered;
  const bool posted = log_.executor().Post([&] {
    batches = log_.From(first);
    gathered.Notify();
  });
  if (!posted) return false;
  gathered.WaitForNotification();
  for (const KvEventLog::Batch& batch : batches) {
    if (!Send(replay_.get(), {reader, "", Encode(batch->number), EncodeAsVllm(*batch)})) return false;
  }
  return Send(replay_.get(), {reader, "", Encode(~uint64_t{0}), ""});
}

}  // namespace interlace
