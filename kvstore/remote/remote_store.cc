#include "kvstore/remote/remote_store.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/entropy.h"
#include "common/log.h"
#include "common/status_macros.h"

namespace interlace {
namespace {

constexpr absl::Duration kAttachTimeout = absl::Seconds(2);
constexpr absl::Duration kAttachPause = absl::Seconds(1);
constexpr absl::Duration kTick = absl::Milliseconds(200);  // of the keeper, while there is something to watch

}  // namespace

RemoteStore::RemoteStore(const Options& options, Transport& transport, Clock& clock)
    : options_(options), transport_(transport), clock_(clock), incarnation_(MakeOsEntropy()->Next()) {}

void RemoteStore::Start() {
  const std::weak_ptr<RemoteStore> weak = weak_from_this();
  transport_.Listen(kKvReplyChannel, [weak](interlace::Message message) {
    if (const auto self = weak.lock()) self->OnReply(std::move(message));
  });
  transport_.OnPeerLost([weak](PeerId peer, absl::Status why) {
    const auto self = weak.lock();
    if (self == nullptr) return;
    if (const uint64_t session = self->SessionOf(peer); session != 0) self->Detach(session, why);
  });
  AttachIfDue();
  keeper_ = Thread("kv-attach", [this] { RunKeeper(); });
}

absl::Status RemoteStore::Attach() {
  // The stream may break before its session is known here; the note of that waits in `early`.
  struct Early {
    absl::Mutex mutex;
    uint64_t session = 0;
    absl::Status broken;
  };
  auto early = std::make_shared<Early>();
  const std::weak_ptr<RemoteStore> weak = weak_from_this();
  auto broken = [weak, early](absl::Status why) {
    uint64_t session = 0;
    {
      absl::MutexLock lock(&early->mutex);
      session = early->session;
      early->broken = why;
    }
    const auto self = weak.lock();
    if (session != 0 && self != nullptr) self->Detach(session, why);
  };
  Attachment made;
  ASSIGN_OR_RETURN(made.stream, AttachStream::Open({.control_address = options_.address,
                                                    .transport_address = transport_.address(),
                                                    .incarnation = incarnation_,
                                                    .timeout = kAttachTimeout,
                                                    .security = options_.security.get()},
                                                   broken));
  const AttachStream::Session session = made.stream->session();
  if (session.id == 0) return absl::UnavailableError("the store gave no session");
  made.session = session.id;
  ASSIGN_OR_RETURN(made.peer, transport_.Connect(session.transport_address));
  {
    absl::MutexLock lock(&mutex_);
    usage_ = {.capacity_bytes = session.capacity_bytes, .shared = true};
    room_bytes_ = session.room_bytes;
    attachment_ = std::move(made);
  }
  absl::Status ended;
  {
    absl::MutexLock lock(&early->mutex);
    early->session = session.id;
    ended = early->broken;
  }
  if (!ended.ok()) Detach(session.id, ended);
  return absl::OkStatus();
}

void RemoteStore::Detach(uint64_t session, const absl::Status& why) {
  const absl::Status away =
      absl::UnavailableError(absl::StrCat("kvstore ", options_.address, " is away: ", why.message()));
  std::vector<RemoteCallPtr> failed;
  bool stopping = false;
  {
    absl::MutexLock lock(&mutex_);
    if (!attachment_.has_value() || attachment_->session != session) return;
    ended_.push_back(*std::move(attachment_));
    attachment_.reset();
    failed = asked_.FailAll(away);
    usage_ = {.shared = true};
    room_bytes_ = 0;
    away_ = away;
    last_attempt_ = clock_.Now();
    stopping = stopping_;
  }
  if (!stopping) {
    LOG(WARNING) << "kvstore lost" << Field("address", options_.address) << Field("calls", failed.size()) << why;
  }
  for (const RemoteCallPtr& call : failed) call->Finish();
}

uint64_t RemoteStore::SessionOf(PeerId peer) const {
  absl::MutexLock lock(&mutex_);
  return attachment_.has_value() && attachment_->peer == peer ? attachment_->session : 0;
}

void RemoteStore::Stop() {
  uint64_t session = 0;
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
    if (attachment_.has_value()) session = attachment_->session;
  }
  // An attach under way may still finish; the keeper gives back whatever is attached by then.
  if (session != 0) Detach(session, absl::CancelledError("the tier is closing"));
  calls_.Close();  // some may be answering on the transport's thread
  if (keeper_.joinable()) keeper_.Join();
  std::optional<Attachment> last;
  {
    absl::MutexLock lock(&mutex_);
    last.swap(attachment_);
  }
  if (last.has_value()) transport_.Close(last->peer);
}

// ---- Calls.

std::optional<RemoteStore::Route> RemoteStore::RouteLocked() const {
  if (stopping_ || !attachment_.has_value()) return std::nullopt;
  return Route{attachment_->peer, attachment_->session};
}

void RemoteStore::Submit(RemoteCallPtr call, Cut cut) {
  if (call->unanswered == 0) return call->Finish();
  if (!calls_.TryEnter()) {
    std::fill(call->answers.begin(), call->answers.end(), absl::UnavailableError("the tier is closing"));
    return call->Finish();
  }
  call->done = [this, done = std::move(call->done)](auto answers) mutable {
    done(std::move(answers));
    calls_.Leave();
  };
  std::vector<Message> messages;
  std::optional<Route> route;
  bool refused_all = false;
  {
    absl::MutexLock lock(&mutex_);
    route = RouteLocked();
    if (!route.has_value()) std::fill(call->answers.begin(), call->answers.end(), away_);
    const absl::Time deadline = clock_.Now() + options_.answer_within;
    for (size_t first = 0; route.has_value() && first < call->answers.size();) {
      Outgoing out;
      out.request.op = call->op;
      out.request.session = route->session;
      const size_t count = cut(first, room_bytes_ - asked_.put_bytes(), &out);
      if (count == 0) {
        for (size_t i = first; i < call->answers.size(); ++i) {
          call->answers[i] = absl::ResourceExhaustedError("the kvstore has no room now");
        }
        call->unanswered -= call->answers.size() - first;
        refused_all = call->unanswered == 0;
        break;
      }
      int64_t bytes = 0;
      for (const uint32_t length : out.request.lengths) bytes += length;
      out.request.id = asked_.Add(call, first, count, bytes, deadline);
      messages.push_back({out.request.id, out.request.Encode(), std::move(out.parts)});
      first += count;
    }
  }
  if (!route.has_value() || refused_all) return call->Finish();
  SendAll(*route, std::move(messages));
}

void RemoteStore::SendAll(const Route& route, std::vector<Message> messages) {
  const std::weak_ptr<RemoteStore> weak = weak_from_this();
  for (Message& message : messages) {
    transport_.Send(route.peer, kKvRequestChannel, std::move(message.header), std::move(message.parts),
                    [weak, id = message.id, session = route.session](absl::Status status) {
                      const auto self = status.ok() ? nullptr : weak.lock();
                      if (self == nullptr) return;
                      if (absl::IsInvalidArgument(status)) return self->FailMessage(id, status);  // too large
                      self->Detach(session, status);
                    });
  }
}

void RemoteStore::Drop(std::vector<BlockKey> keys) {
  std::vector<Message> messages;
  std::optional<Route> route;
  {
    absl::MutexLock lock(&mutex_);
    route = RouteLocked();
    for (size_t first = 0; route.has_value() && first < keys.size(); first += kMostKvBlocks) {
      KvRequest request{.op = KvOp::kDrop, .session = route->session, .id = asked_.NextId()};
      const size_t end = std::min(keys.size(), first + kMostKvBlocks);
      request.keys.assign(keys.begin() + static_cast<ptrdiff_t>(first), keys.begin() + static_cast<ptrdiff_t>(end));
      messages.push_back({request.id, request.Encode(), {}});
    }
  }
  if (route.has_value()) SendAll(*route, std::move(messages));
}

bool RemoteStore::Wants() const {
  absl::MutexLock lock(&mutex_);
  return attachment_.has_value() && asked_.put_bytes() < room_bytes_;
}

TierUsage RemoteStore::Usage() const {
  absl::MutexLock lock(&mutex_);
  return usage_;
}

void RemoteStore::OnReply(interlace::Message message) {
  const absl::StatusOr<KvReply> reply = KvReply::Decode(message.header, message.body.size());
  absl::Status wrong = reply.status();
  if (wrong.ok() && !reply->session_known) wrong = absl::UnavailableError("the store does not know the session");
  RemoteCallPtr finished;
  if (wrong.ok()) {
    absl::MutexLock lock(&mutex_);
    if (!attachment_.has_value() || attachment_->peer != message.from || attachment_->session != reply->session) {
      return;  // of a session that is over
    }
    usage_ = {reply->held_blocks, reply->held_bytes, reply->capacity_bytes, /*shared=*/true};
    room_bytes_ = reply->room_bytes;
    absl::StatusOr<RemoteCallPtr> taken = asked_.TakeReply(*reply, std::move(message.body));
    wrong = taken.status();
    if (taken.ok()) finished = *std::move(taken);
  }
  if (finished != nullptr) finished->Finish();
  if (wrong.ok()) return;
  // A store that answers nonsense cannot be trusted to answer the rest.
  if (const uint64_t session = SessionOf(message.from); session != 0) Detach(session, wrong);
}

void RemoteStore::FailMessage(uint64_t id, const absl::Status& why) {
  RemoteCallPtr finished;
  {
    absl::MutexLock lock(&mutex_);
    finished = asked_.Fail(id, absl::UnavailableError(why.message()));
  }
  if (finished != nullptr) finished->Finish();
}

// ---- Thread: kv-attach.

bool RemoteStore::Woken() const { return stopping_ || !ended_.empty(); }

void RemoteStore::RunKeeper() {
  while (true) {
    {
      absl::MutexLock lock(&mutex_);
      mutex_.AwaitWithTimeout(absl::Condition(this, &RemoteStore::Woken), kTick);
      if (stopping_ && ended_.empty()) return;
    }
    GiveBackEnded();
    AttachIfDue();
    CheckAnswers();
    AskForRoom();
  }
}

void RemoteStore::GiveBackEnded() {
  std::vector<Attachment> ended;
  {
    absl::MutexLock lock(&mutex_);
    ended.swap(ended_);
  }
  for (const Attachment& one : ended) transport_.Close(one.peer);
}  // waits for the streams to end

void RemoteStore::AttachIfDue() {
  const absl::Time now = clock_.Now();
  bool again = false;
  {
    absl::MutexLock lock(&mutex_);
    if (stopping_ || attachment_.has_value() || now - last_attempt_ < kAttachPause) return;
    again = last_attempt_ != absl::InfinitePast();
    last_attempt_ = now;
  }
  const absl::Status status = Attach();
  if (status.ok()) {
    if (again) LOG(INFO) << "kvstore attached" << Field("address", options_.address);
    return;
  }
  if (!again) LOG(WARNING) << "kvstore is away; trying on" << Field("kv.remote", options_.address) << status;
  absl::MutexLock lock(&mutex_);
  away_ = absl::UnavailableError(absl::StrCat("kvstore ", options_.address, " is away: ", status.message()));
}

void RemoteStore::CheckAnswers() {
  uint64_t session = 0;
  {
    absl::MutexLock lock(&mutex_);
    if (attachment_.has_value() && asked_.NextDeadline() <= clock_.Now()) session = attachment_->session;
  }
  if (session == 0) return;
  Detach(session,
         absl::DeadlineExceededError(absl::StrCat("no answer within ", absl::FormatDuration(options_.answer_within))));
}

void RemoteStore::AskForRoom() {
  std::vector<Message> messages;
  std::optional<Route> route;
  {
    absl::MutexLock lock(&mutex_);
    route = RouteLocked();
    if (!route.has_value() || room_bytes_ > 0) return;
    const KvRequest request{.op = KvOp::kRoom, .session = route->session, .id = asked_.NextId()};
    messages.push_back({request.id, request.Encode(), {}});
  }
  SendAll(*route, std::move(messages));
}

}  // namespace interlace
