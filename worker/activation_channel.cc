#include "worker/activation_channel.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"

namespace interlace {
namespace {

// Header: epoch, plan, rows, cols, then one word for each lost sequence; words of 8 bytes, little-endian.
std::string EncodeHeader(const ActivationNote& note, const Tensor& x) {
  std::vector<uint64_t> words = {Value(note.epoch), Value(note.plan), static_cast<uint64_t>(x.rows),
                                 static_cast<uint64_t>(x.cols)};
  words.insert(words.end(), note.lost.begin(), note.lost.end());
  return std::string(reinterpret_cast<const char*>(words.data()), words.size() * sizeof(uint64_t));
}

struct Header {
  ActivationNote note;
  uint64_t rows = 0, cols = 0;
};
bool DecodeHeader(const std::string& bytes, Header* header) {
  if (bytes.size() < 4 * sizeof(uint64_t) || bytes.size() % sizeof(uint64_t) != 0) return false;
  std::vector<uint64_t> words(bytes.size() / sizeof(uint64_t));
  std::memcpy(words.data(), bytes.data(), bytes.size());
  *header = {{Epoch{words[0]}, PlanId{words[1]}, {words.begin() + 4, words.end()}}, words[2], words[3]};
  return true;
}

}  // namespace

ActivationChannel::ActivationChannel(Transport& transport) : transport_(transport), inbox_(std::make_shared<Inbox>()) {
  transport_.Listen(kActivationChannel, [inbox = inbox_](Message message) {
    absl::MutexLock lock(&inbox->mutex);
    inbox->messages.push_back(std::move(message));
  });
}

absl::Status ActivationChannel::Connect(absl::string_view next_stage_address) {
  std::pair<PeerId, bool> former;
  {
    absl::MutexLock lock(&mutex_);
    former = {next_, connected_};
    connected_ = false;
  }
  if (former.second) transport_.Close(former.first);
  if (next_stage_address.empty()) return absl::OkStatus();
  ASSIGN_OR_RETURN(const PeerId peer, transport_.Connect(next_stage_address));
  absl::MutexLock lock(&mutex_);
  next_ = peer;
  connected_ = true;
  return absl::OkStatus();
}

absl::Status ActivationChannel::Send(const ActivationNote& note, const Tensor& x) {
  PeerId peer;
  {
    absl::MutexLock lock(&mutex_);
    if (!connected_) return absl::UnavailableError("the next pipeline stage is not connected");
    peer = next_;
  }
  auto body = std::make_shared<const std::string>(static_cast<const char*>(x.data), x.bytes());
  transport_.Send(peer, kActivationChannel, EncodeHeader(note, x), {std::move(body)}, [](absl::Status) {
    // A send that failed shows at the receiver, whose Receive ends when the coordinator resets the replica.
  });
  return absl::OkStatus();
}

absl::StatusOr<ActivationNote> ActivationChannel::Receive(Epoch epoch, PlanId plan, const Tensor& x,
                                                          absl::Duration timeout) {
  // A condition may be evaluated any number of times, so it only looks; what it found is taken afterwards.
  const auto find = [&]() ABSL_NO_THREAD_SAFETY_ANALYSIS {
    return std::find_if(inbox_->messages.begin(), inbox_->messages.end(), [&](const Message& candidate) {
      Header h;
      return DecodeHeader(candidate.header, &h) && h.note.epoch == epoch && h.note.plan == plan;
    });
  };
  const auto ready = [&]() ABSL_NO_THREAD_SAFETY_ANALYSIS {
    return inbox_->interrupted || find() != inbox_->messages.end();
  };
  Message message;
  {
    absl::MutexLock lock(&inbox_->mutex);
    if (!inbox_->mutex.AwaitWithTimeout(absl::Condition(&ready), timeout)) {
      return absl::UnavailableError(absl::StrCat("no activations of plan ", Value(plan),
                                                 " from the previous stage within ", absl::FormatDuration(timeout)));
    }
    if (inbox_->interrupted) return absl::UnavailableError("interrupted while waiting for the previous stage");
    const auto found = find();
    message = std::move(*found);
    inbox_->messages.erase(found);
    DropStale(epoch, plan);
  }
  Header header;
  DecodeHeader(message.header, &header);
  if (header.rows != static_cast<uint64_t>(x.rows) || header.cols != static_cast<uint64_t>(x.cols) ||
      message.body.size() != static_cast<size_t>(x.bytes())) {
    return absl::InvalidArgumentError(absl::StrCat("activations of plan ", Value(plan), " are [", header.rows, ", ",
                                                   header.cols, "], expected [", x.rows, ", ", x.cols, "]"));
  }
  std::memcpy(x.data, message.body.data(), message.body.size());
  return header.note;
}

void ActivationChannel::DropStale(Epoch epoch, PlanId plan) {
  std::vector<Message> later;
  for (Message& message : inbox_->messages) {
    Header header;
    if (!DecodeHeader(message.header, &header)) continue;
    if (header.note.epoch > epoch || (header.note.epoch == epoch && header.note.plan > plan)) {
      later.push_back(std::move(message));
    }
  }
  inbox_->messages.swap(later);
}

void ActivationChannel::Interrupt() {
  absl::MutexLock lock(&inbox_->mutex);
  inbox_->interrupted = true;
}

void ActivationChannel::Resume() {
  absl::MutexLock lock(&inbox_->mutex);
  inbox_->interrupted = false;
}

}  // namespace interlace
