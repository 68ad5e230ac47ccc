#include "worker/activation_channel.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/log.h"
#include "common/status_macros.h"

namespace interlace {
namespace {

constexpr size_t kMostWaiting = 256;     // messages; more than plans are ever in flight
constexpr uint64_t kMostSide = 1 << 30;  // of a matrix

// Words of 8 bytes, little-endian. The body is the rows, then one word for each lost sequence.
// A header without rows and columns opens a connection: it says who will send, and for which epoch.
struct Header {
  uint64_t epoch = 0;
  uint64_t plan = 0;
  uint64_t stage = 0;  // of the sender
  uint64_t rows = 0;
  uint64_t cols = 0;
  uint64_t row_bytes = 0;  // of all rows
  uint64_t lost = 0;
  uint64_t checksum = 0;  // XXH3-64 of the body, seeded with that of the words before

  bool opens() const { return rows == 0 && cols == 0 && row_bytes == 0 && lost == 0; }
  uint64_t ChecksumOf(absl::string_view body) const {
    return XXH3_64bits_withSeed(body.data(), body.size(), XXH3_64bits(this, offsetof(Header, checksum)));
  }
  std::string Encode(absl::string_view body) {
    checksum = ChecksumOf(body);
    return std::string(reinterpret_cast<const char*>(this), sizeof *this);
  }
};
static_assert(sizeof(Header) == 8 * sizeof(uint64_t));

// False unless the lengths agree.
bool Decode(const Message& message, Header* header) {
  if (message.header.size() != sizeof *header) return false;
  std::memcpy(header, message.header.data(), sizeof *header);
  if (header->rows > kMostSide || header->cols > kMostSide || header->row_bytes > message.body.size()) return false;
  const uint64_t rest = message.body.size() - header->row_bytes;
  return rest % sizeof(uint64_t) == 0 && header->lost == rest / sizeof(uint64_t);
}

}  // namespace

struct ActivationChannel::Inbox {
  struct Arrived {
    Header header;
    std::string body;
    bool older_than(Epoch epoch, PlanId plan) const {
      return header.epoch < Value(epoch) || (header.epoch == Value(epoch) && header.plan <= Value(plan));
    }
  };
  struct Wait {
    Inbox* inbox;
    Epoch epoch;
    PlanId plan;
    bool Over() const { return inbox->WhyNot(epoch) || inbox->Find(epoch, plan) != inbox->arrived.end(); }
  };

  absl::Mutex mutex;
  std::deque<Arrived> arrived;  // protected by mutex, as everything below
  bool stopped = false;
  Epoch floor{};      // epochs below are over
  PeerId previous{};  // who sends to us, and
  Epoch promised{};   // for which epoch
  absl::Status gone;  // why `previous` will send no more

  std::deque<Arrived>::iterator Find(Epoch epoch, PlanId plan) {
    return std::find_if(arrived.begin(), arrived.end(), [&](const Arrived& a) {
      return a.header.epoch == Value(epoch) && a.header.plan == Value(plan);
    });
  }
  // Why nothing will come any more.
  std::optional<absl::Status> WhyNot(Epoch epoch) const {
    if (stopped || epoch < floor) return absl::UnavailableError("interrupted while waiting for the previous stage");
    if (!gone.ok() && promised == epoch) return gone;
    return std::nullopt;
  }
  void Arrive(StageId stage, Message message) {
    Header header;
    if (!Decode(message, &header) || header.stage + 1 != static_cast<uint64_t>(Value(stage))) {
      LOG(WARNING) << "activations dropped: not of the previous stage" << Field("bytes", message.body.size());
      return;
    }
    absl::MutexLock lock(&mutex);
    if (header.opens()) {
      if (header.checksum != header.ChecksumOf("")) return;
      previous = message.from;
      promised = Epoch{header.epoch};
      gone = absl::OkStatus();
      return;
    }
    if (arrived.size() >= kMostWaiting) arrived.pop_front();  // nobody can be waiting for so old a plan
    arrived.push_back({header, std::move(message.body)});
  }
  void Lose(PeerId peer, const absl::Status& why) {
    absl::MutexLock lock(&mutex);
    if (peer != previous) return;
    gone = absl::UnavailableError(absl::StrCat("the previous pipeline stage is gone: ", why.message()));
  }
};

ActivationChannel::ActivationChannel(Transport& transport, StageId stage)
    : transport_(transport), stage_(stage), inbox_(std::make_shared<Inbox>()), link_(std::make_shared<Link>()) {
  transport_.Listen(kActivationChannel,
                    [inbox = inbox_, stage](Message message) { inbox->Arrive(stage, std::move(message)); });
  transport_.OnPeerLost([inbox = inbox_, link = link_](PeerId peer, absl::Status why) {
    inbox->Lose(peer, why);
    Fail(*link, peer, why);
  });
}

void ActivationChannel::Fail(Link& link, PeerId peer, const absl::Status& why) {
  absl::MutexLock lock(&link.mutex);
  if (!link.connected || link.next != peer || !link.failure.ok()) return;
  link.failure = absl::UnavailableError(absl::StrCat("activations did not reach the next stage: ", why.message()));
}

absl::Status ActivationChannel::Connect(absl::string_view next_stage_address, Epoch epoch) {
  std::pair<PeerId, bool> former;
  {
    absl::MutexLock lock(&link_->mutex);
    former = {link_->next, std::exchange(link_->connected, false)};
    link_->failure = absl::OkStatus();
  }
  if (former.second) transport_.Close(former.first);
  if (next_stage_address.empty()) return absl::OkStatus();
  ASSIGN_OR_RETURN(const PeerId peer, transport_.Connect(next_stage_address));
  {
    absl::MutexLock lock(&link_->mutex);
    link_->next = peer;
    link_->connected = true;
  }
  Header opening{.epoch = Value(epoch), .stage = static_cast<uint64_t>(Value(stage_))};
  transport_.Send(peer, kActivationChannel, opening.Encode(""), {}, [link = link_, peer](absl::Status status) {
    if (!status.ok()) Fail(*link, peer, status);
  });
  return absl::OkStatus();
}

absl::Status ActivationChannel::Send(const ActivationNote& note, const Tensor& x) {
  PeerId peer;
  {
    absl::MutexLock lock(&link_->mutex);
    if (!link_->connected) return absl::UnavailableError("the next pipeline stage is not connected");
    RETURN_IF_ERROR(link_->failure);
    peer = link_->next;
  }
  Header header{.epoch = Value(note.epoch),
                .plan = Value(note.plan),
                .stage = static_cast<uint64_t>(Value(stage_)),
                .rows = static_cast<uint64_t>(x.rows),
                .cols = static_cast<uint64_t>(x.cols),
                .row_bytes = static_cast<uint64_t>(x.bytes()),
                .lost = note.lost.size()};
  const std::vector<uint64_t> lost(note.lost.begin(), note.lost.end());
  std::string body;
  body.reserve(header.row_bytes + lost.size() * sizeof(uint64_t));
  body.append(static_cast<const char*>(x.data), header.row_bytes);
  body.append(reinterpret_cast<const char*>(lost.data()), lost.size() * sizeof(uint64_t));
  std::string encoded = header.Encode(body);
  transport_.Send(peer, kActivationChannel, std::move(encoded), {std::make_shared<const std::string>(std::move(body))},
                  [link = link_, peer](absl::Status status) {
                    if (!status.ok()) Fail(*link, peer, status);
                  });
  // What the transport refused or could not send at once is known already.
  absl::MutexLock lock(&link_->mutex);
  return link_->failure;
}

absl::StatusOr<ActivationNote> ActivationChannel::Receive(Epoch epoch, PlanId plan, const Tensor& x,
                                                          absl::Duration timeout) {
  Inbox::Arrived message;
  {
    absl::MutexLock lock(&inbox_->mutex);
    const Inbox::Wait wait{inbox_.get(), epoch, plan};
    const bool over = inbox_->mutex.AwaitWithTimeout(absl::Condition(&wait, &Inbox::Wait::Over), timeout);
    const auto found = inbox_->Find(epoch, plan);
    if (inbox_->stopped || epoch < inbox_->floor || found == inbox_->arrived.end()) {
      if (over) return *inbox_->WhyNot(epoch);
      return absl::UnavailableError(absl::StrCat("no activations of plan ", Value(plan),
                                                 " from the previous stage within ", absl::FormatDuration(timeout)));
    }
    message = std::move(*found);
    std::erase_if(inbox_->arrived, [&](const Inbox::Arrived& a) { return a.older_than(epoch, plan); });
  }
  const Header& header = message.header;
  if (header.checksum != header.ChecksumOf(message.body)) {
    return absl::DataLossError(absl::StrCat("activations of plan ", Value(plan), " were damaged on their way"));
  }
  if (header.rows != static_cast<uint64_t>(x.rows) || header.cols != static_cast<uint64_t>(x.cols) ||
      header.row_bytes != static_cast<uint64_t>(x.bytes())) {
    return absl::InvalidArgumentError(absl::StrCat("activations of plan ", Value(plan), " are [", header.rows, ", ",
                                                   header.cols, "], expected [", x.rows, ", ", x.cols, "]"));
  }
  std::memcpy(x.data, message.body.data(), header.row_bytes);
  std::vector<uint64_t> lost(header.lost);
  std::memcpy(lost.data(), message.body.data() + header.row_bytes, lost.size() * sizeof(uint64_t));
  return ActivationNote{epoch, plan, {lost.begin(), lost.end()}};
}

void ActivationChannel::Interrupt(Epoch epoch) {
  absl::MutexLock lock(&inbox_->mutex);
  inbox_->floor = std::max(inbox_->floor, epoch);
}

void ActivationChannel::Interrupt() {
  absl::MutexLock lock(&inbox_->mutex);
  inbox_->stopped = true;
}

void ActivationChannel::Resume() {
  absl::MutexLock lock(&inbox_->mutex);
  inbox_->stopped = false;
  inbox_->floor = Epoch{};
  inbox_->arrived.clear();
}

}  // namespace interlace
