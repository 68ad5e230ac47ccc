#include "worker/stage_link.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <algorithm>
#include <cstring>
#include <deque>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/log.h"
#include "common/status_macros.h"

namespace interlace {
namespace {

constexpr size_t kMostWaiting = 256;  // messages; more than plans are ever in flight

// Words of 8 bytes, little-endian. A message of plan 0 opens a connection: it says who will send, and for which epoch.
struct Header {
  uint64_t epoch = 0;
  uint64_t plan = 0;
  uint64_t stage = 0;     // of the sender
  uint64_t checksum = 0;  // XXH3-64 of the body, seeded with that of the words before

  bool opens() const { return plan == 0; }
  uint64_t ChecksumOf(absl::string_view body) const {
    return XXH3_64bits_withSeed(body.data(), body.size(), XXH3_64bits(this, offsetof(Header, checksum)));
  }
  std::string Encode(absl::string_view body) {
    checksum = ChecksumOf(body);
    return std::string(reinterpret_cast<const char*>(this), sizeof *this);
  }
};
static_assert(sizeof(Header) == 4 * sizeof(uint64_t));

}  // namespace

struct StageLink::Inbox {
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

  explicit Inbox(const Options& o) : options(o) {}

  const Options options;
  absl::Mutex mutex;
  std::deque<Arrived> arrived;  // protected by mutex, as everything below
  bool stopped = false;
  Epoch floor{};      // epochs below are over
  PeerId sender{};    // who sends to us, and
  Epoch promised{};   // for which epoch
  absl::Status gone;  // why `sender` will send no more

  std::deque<Arrived>::iterator Find(Epoch epoch, PlanId plan) {
    return std::find_if(arrived.begin(), arrived.end(), [&](const Arrived& a) {
      return a.header.epoch == Value(epoch) && a.header.plan == Value(plan);
    });
  }
  // Why nothing will come any more.
  std::optional<absl::Status> WhyNot(Epoch epoch) const {
    if (stopped || epoch < floor) {
      return absl::UnavailableError(absl::StrCat("interrupted while waiting for the ", options.from, " stage"));
    }
    if (!gone.ok() && promised == epoch) return gone;
    return std::nullopt;
  }
  // Whether a connection for this epoch takes the place of the one that is heard now.
  bool Succeeds(Epoch epoch, PeerId from) const {
    return promised < epoch || (promised == epoch && (sender == from || !gone.ok()));
  }
  void Arrive(Message message) {
    Header header;
    const bool whole = message.header.size() == sizeof header;
    if (whole) std::memcpy(&header, message.header.data(), sizeof header);
    if (!whole || header.stage != static_cast<uint64_t>(Value(options.sender))) {
      LOG(WARNING) << options.what << " dropped: not of the " << options.from << " stage"
                   << Field("bytes", message.body.size());
      return;
    }
    absl::MutexLock lock(&mutex);
    if (header.opens()) {
      if (header.checksum != header.ChecksumOf(message.body) || !Succeeds(Epoch{header.epoch}, message.from)) return;
      sender = message.from;
      promised = Epoch{header.epoch};
      gone = absl::OkStatus();
      return;
    }
    if (message.from != sender) return;                       // of a connection that is over, or that never opened
    if (arrived.size() >= kMostWaiting) arrived.pop_front();  // nobody can be waiting for so old a plan
    arrived.push_back({header, std::move(message.body)});
  }
  void Lose(PeerId peer, const absl::Status& why) {
    absl::MutexLock lock(&mutex);
    if (peer != sender) return;
    gone = absl::UnavailableError(absl::StrCat("the ", options.from, " pipeline stage is gone: ", why.message()));
  }
};

StageLink::StageLink(Transport& transport, const Options& options)
    : transport_(transport),
      options_(options),
      inbox_(std::make_shared<Inbox>(options)),
      outbox_(std::make_shared<Outbox>(options.what, options.to)) {
  transport_.Listen(options_.channel, [inbox = inbox_](Message message) { inbox->Arrive(std::move(message)); });
  transport_.OnPeerLost([inbox = inbox_, outbox = outbox_](PeerId peer, absl::Status why) {
    inbox->Lose(peer, why);
    outbox->Fail(peer, why);
  });
}

void StageLink::Outbox::Fail(PeerId lost, const absl::Status& why) {
  absl::MutexLock lock(&mutex);
  if (!connected || peer != lost || !failure.ok()) return;
  failure = absl::UnavailableError(absl::StrCat(what, " did not reach the ", to, " stage: ", why.message()));
}

absl::Status StageLink::Connect(absl::string_view address, Epoch epoch) {
  std::pair<PeerId, bool> former;
  {
    absl::MutexLock lock(&outbox_->mutex);
    former = {outbox_->peer, std::exchange(outbox_->connected, false)};
    outbox_->failure = absl::OkStatus();
  }
  if (former.second) transport_.Close(former.first);
  if (address.empty()) return absl::OkStatus();
  ASSIGN_OR_RETURN(const PeerId peer, transport_.Connect(address));
  {
    absl::MutexLock lock(&outbox_->mutex);
    outbox_->peer = peer;
    outbox_->connected = true;
  }
  return Send(epoch, PlanId{}, std::string());
}

absl::Status StageLink::Send(Epoch epoch, PlanId plan, std::string body) {
  PeerId peer;
  {
    absl::MutexLock lock(&outbox_->mutex);
    if (!outbox_->connected) {
      return absl::UnavailableError(absl::StrCat("the ", options_.to, " pipeline stage is not connected"));
    }
    RETURN_IF_ERROR(outbox_->failure);
    peer = outbox_->peer;
  }
  Header header{.epoch = Value(epoch), .plan = Value(plan), .stage = static_cast<uint64_t>(Value(options_.self))};
  std::string encoded = header.Encode(body);
  transport_.Send(peer, options_.channel, std::move(encoded), {std::make_shared<const std::string>(std::move(body))},
                  [outbox = outbox_, peer](absl::Status status) {
                    if (!status.ok()) outbox->Fail(peer, status);
                  });
  // What the transport refused or could not send at once is known already.
  absl::MutexLock lock(&outbox_->mutex);
  return outbox_->failure;
}

absl::StatusOr<std::string> StageLink::Receive(Epoch epoch, PlanId plan, absl::Duration timeout) {
  Inbox::Arrived message;
  {
    absl::MutexLock lock(&inbox_->mutex);
    const Inbox::Wait wait{inbox_.get(), epoch, plan};
    const bool over = inbox_->mutex.AwaitWithTimeout(absl::Condition(&wait, &Inbox::Wait::Over), timeout);
    const auto found = inbox_->Find(epoch, plan);
    if (inbox_->stopped || epoch < inbox_->floor || found == inbox_->arrived.end()) {
      if (over) return *inbox_->WhyNot(epoch);
      return absl::UnavailableError(absl::StrCat("no ", options_.what, " of plan ", Value(plan), " from the ",
                                                 options_.from, " stage within ", absl::FormatDuration(timeout)));
    }
    message = std::move(*found);
    std::erase_if(inbox_->arrived, [&](const Inbox::Arrived& a) { return a.older_than(epoch, plan); });
  }
  if (message.header.checksum != message.header.ChecksumOf(message.body)) {
    return absl::DataLossError(absl::StrCat(options_.what, " of plan ", Value(plan), " were damaged on their way"));
  }
  return std::move(message.body);
}

bool StageLink::Arrived(Epoch epoch, PlanId plan) const {
  absl::MutexLock lock(&inbox_->mutex);
  return inbox_->Find(epoch, plan) != inbox_->arrived.end();
}

void StageLink::Interrupt(Epoch epoch) {
  absl::MutexLock lock(&inbox_->mutex);
  inbox_->floor = std::max(inbox_->floor, epoch);
}

void StageLink::Interrupt() {
  absl::MutexLock lock(&inbox_->mutex);
  inbox_->stopped = true;
}

void StageLink::Resume() {
  absl::MutexLock lock(&inbox_->mutex);
  inbox_->stopped = false;
  inbox_->floor = Epoch{};
  inbox_->arrived.clear();
  inbox_->sender = PeerId{};
  inbox_->promised = Epoch{};
  inbox_->gone = absl::OkStatus();
}

}  // namespace interlace
