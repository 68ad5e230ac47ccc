// The remote tier: blocks in a kvstore, reached by transport messages under a lease.
#include <algorithm>
#include <limits>
#include <memory>
#include <optional>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "common/clock.h"
#include "common/entropy.h"
#include "common/gate.h"
#include "common/log.h"
#include "common/status_macros.h"
#include "common/thread.h"
#include "kvstore/remote/attach_stream.h"
#include "kvstore/remote/kv_wire.h"
#include "kvstore/tier/tiers.h"

namespace interlace {
namespace {

constexpr absl::Duration kAttachTimeout = absl::Seconds(5);
constexpr absl::Duration kAttachPause = absl::Seconds(1);

// One Write or Read of the tier; its messages are answered one by one.
struct RemoteCall {
  KvOp op;
  std::vector<absl::StatusOr<SharedBytes>> answers;  // of a write: null when OK
  size_t unanswered = 0;
  KvTier::WriteDone write_done;
  KvTier::ReadDone read_done;
  Gate* gate = nullptr;  // entered; left once the caller has its answer

  RemoteCall(KvOp op, size_t blocks)
      : op(op), answers(blocks, absl::UnavailableError("no answer")), unanswered(blocks) {}
  void Finish() {
    if (op == KvOp::kRead) {
      read_done(std::move(answers));
    } else {
      std::vector<absl::Status> statuses;
      for (const absl::StatusOr<SharedBytes>& answer : answers) statuses.push_back(answer.status());
      write_done(std::move(statuses));
    }
    if (gate != nullptr) gate->Leave();
  }
  void Fail(const absl::Status& why) {
    std::fill(answers.begin(), answers.end(), absl::StatusOr<SharedBytes>(why));
    Finish();
  }
};

// One message on its way: blocks [first, first + count) of a call.
struct RemoteRequest {
  std::shared_ptr<RemoteCall> call;
  size_t first = 0;
  size_t count = 0;
  size_t answered = 0;  // answers come in order
};

struct OutgoingMessage {
  uint64_t id;
  std::string header;
  std::vector<SharedBytes> parts;
};

// Of an answer that is not OK.
absl::Status AnswerStatus(absl::StatusCode code) {
  switch (code) {
    case absl::StatusCode::kNotFound:
      return absl::NotFoundError("the kvstore does not hold the block");
    case absl::StatusCode::kResourceExhausted:
      return absl::ResourceExhaustedError("the kvstore is full");
    default:
      return absl::UnavailableError("the kvstore could not serve the block");
  }
}

// State shared with the transport's handlers, which may outlive the tier; after Stop they find nothing to do.
// Locks: mutex_ alone, never held across a call into the transport, gRPC or a `done`.
class RemoteBlocks : public std::enable_shared_from_this<RemoteBlocks> {
 public:
  RemoteBlocks(std::string address, Transport& transport)
      : address_(std::move(address)), transport_(transport), incarnation_(MakeOsEntropy()->Next()) {}

  absl::Status Start();
  void Stop();  // every call has been answered when it returns
  void Write(std::vector<StoredBlock> blocks, KvTier::WriteDone done);
  void Read(std::vector<BlockKey> keys, KvTier::ReadDone done);
  void Drop(Generation generation);
  TierUsage Usage();

 private:
  // A lease in force. Given back by the attach thread alone.
  struct Attachment {
    std::unique_ptr<AttachStream> stream;
    PeerId peer{};
    uint64_t lease = 0;
  };

  absl::Status Attach();
  void Detach(uint64_t lease, const absl::Status& why);
  uint64_t LeaseOf(PeerId peer);  // 0: none that is in force
  void AttachLoop();
  bool AttachWork() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return stopping_ || attach_wanted_ || !given_back_.empty();
  }
  // The lease to use; empty when detached, and then a new attempt is asked for if the last one is old enough.
  struct Route {
    PeerId peer;
    uint64_t lease;
  };
  std::optional<Route> RouteLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  template <typename CutMessage>
  void Submit(std::shared_ptr<RemoteCall> call, CutMessage cut);
  void SendMessages(const Route& route, std::vector<OutgoingMessage> messages);
  void OnReply(Message message);
  absl::Status TakeReply(PeerId from, const KvReply& reply, std::string body, std::shared_ptr<RemoteCall>* finished);
  void FailRequest(uint64_t id, const absl::Status& why);

  const std::string address_;
  Transport& transport_;
  const uint64_t incarnation_;
  RealClock clock_;
  Gate calls_;  // Write and Read that are not answered yet

  absl::Mutex mutex_;
  std::optional<Attachment> attachment_ ABSL_GUARDED_BY(mutex_);
  std::vector<Attachment> given_back_ ABSL_GUARDED_BY(mutex_);
  absl::flat_hash_map<uint64_t, RemoteRequest> requests_ ABSL_GUARDED_BY(mutex_);
  absl::Time last_attempt_ ABSL_GUARDED_BY(mutex_) = absl::InfinitePast();
  absl::Status away_ ABSL_GUARDED_BY(mutex_) = absl::UnavailableError("not attached yet");
  TierUsage usage_ ABSL_GUARDED_BY(mutex_);
  uint64_t last_id_ ABSL_GUARDED_BY(mutex_) = 0;
  bool attach_wanted_ ABSL_GUARDED_BY(mutex_) = false;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  Thread attach_thread_;
};

absl::Status RemoteBlocks::Start() {
  const std::weak_ptr<RemoteBlocks> weak = weak_from_this();
  transport_.Listen(kKvReplyChannel, [weak](Message message) {
    if (const auto self = weak.lock()) self->OnReply(std::move(message));
  });
  transport_.OnPeerLost([weak](PeerId peer, absl::Status why) {
    const auto self = weak.lock();
    if (self == nullptr) return;
    if (const uint64_t lease = self->LeaseOf(peer); lease != 0) self->Detach(lease, why);
  });
  absl::Status status = Attach();
  if (!status.ok()) {
    return absl::Status(status.code(),
                        absl::StrCat("kv.remote='", address_, "' cannot be attached: ", status.message()));
  }
  attach_thread_ = Thread("kv-attach", [this] { AttachLoop(); });
  return absl::OkStatus();
}

absl::Status RemoteBlocks::Attach() {
  {
    absl::MutexLock lock(&mutex_);
    last_attempt_ = clock_.Now();
  }
  // The stream may break before its lease is known here; the note of that waits in `early`.
  struct Early {
    absl::Mutex mutex;
    uint64_t lease = 0;
    absl::Status broken;
  };
  auto early = std::make_shared<Early>();
  const std::weak_ptr<RemoteBlocks> weak = weak_from_this();
  auto broken = [weak, early](absl::Status why) {
    uint64_t lease = 0;
    {
      absl::MutexLock lock(&early->mutex);
      lease = early->lease;
      early->broken = why;
    }
    const auto self = weak.lock();
    if (lease != 0 && self != nullptr) self->Detach(lease, why);
  };
  Attachment made;
  ASSIGN_OR_RETURN(made.stream,
                   AttachStream::Open(address_, transport_.address(), incarnation_, kAttachTimeout, broken));
  made.lease = made.stream->lease().id;
  if (made.lease == 0) return absl::UnavailableError("the store gave no lease");
  ASSIGN_OR_RETURN(made.peer, transport_.Connect(made.stream->lease().transport_address));
  const uint64_t lease = made.lease;
  {
    absl::MutexLock lock(&mutex_);
    usage_ = {.capacity_bytes = made.stream->lease().capacity_bytes};
    attachment_ = std::move(made);
  }
  absl::Status ended;
  {
    absl::MutexLock lock(&early->mutex);
    early->lease = lease;
    ended = early->broken;
  }
  if (!ended.ok()) Detach(lease, ended);
  return absl::OkStatus();
}

void RemoteBlocks::Detach(uint64_t lease, const absl::Status& why) {
  absl::flat_hash_map<uint64_t, RemoteRequest> failed;
  const absl::Status away = absl::UnavailableError(absl::StrCat("kvstore ", address_, " is away: ", why.message()));
  bool wanted = false;
  {
    absl::MutexLock lock(&mutex_);
    if (!attachment_.has_value() || attachment_->lease != lease) return;
    given_back_.push_back(*std::move(attachment_));
    attachment_.reset();
    failed.swap(requests_);
    usage_ = {};
    away_ = away;
    wanted = !stopping_;
  }
  if (wanted) LOG(WARNING) << "kvstore lost" << Field("address", address_) << Field("requests", failed.size()) << why;
  std::vector<std::shared_ptr<RemoteCall>> calls;
  for (auto& [id, request] : failed) calls.push_back(std::move(request.call));
  std::sort(calls.begin(), calls.end());
  calls.erase(std::unique(calls.begin(), calls.end()), calls.end());
  for (const std::shared_ptr<RemoteCall>& call : calls) call->Fail(away);
}

uint64_t RemoteBlocks::LeaseOf(PeerId peer) {
  absl::MutexLock lock(&mutex_);
  return attachment_.has_value() && attachment_->peer == peer ? attachment_->lease : 0;
}

void RemoteBlocks::AttachLoop() {
  while (true) {
    std::vector<Attachment> ended;
    bool attach = false;
    {
      absl::MutexLock lock(&mutex_);
      mutex_.Await(absl::Condition(this, &RemoteBlocks::AttachWork));
      ended.swap(given_back_);
      if (stopping_ && ended.empty()) return;
      attach = attach_wanted_ && !stopping_;
    }
    for (const Attachment& one : ended) transport_.Close(one.peer);
    ended.clear();  // waits for the streams to end
    if (!attach) continue;
    const absl::Status status = Attach();
    if (status.ok()) LOG(INFO) << "kvstore attached again" << Field("address", address_);
    absl::MutexLock lock(&mutex_);
    attach_wanted_ = false;
    if (!status.ok()) {
      away_ = absl::UnavailableError(absl::StrCat("kvstore ", address_, " is away: ", status.message()));
    }
  }
}

void RemoteBlocks::Stop() {
  uint64_t lease = 0;
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
    if (attachment_.has_value()) lease = attachment_->lease;
  }
  // An attach under way may still finish; the loop gives back whatever is attached by then.
  if (lease != 0) Detach(lease, absl::CancelledError("the tier is closing"));
  calls_.Close();  // some may be answering on the transport's thread
  if (attach_thread_.joinable()) attach_thread_.Join();
  std::optional<Attachment> last;
  {
    absl::MutexLock lock(&mutex_);
    last.swap(attachment_);
  }
  if (last.has_value()) transport_.Close(last->peer);
}

std::optional<RemoteBlocks::Route> RemoteBlocks::RouteLocked() {
  if (stopping_) return std::nullopt;
  if (attachment_.has_value()) return Route{attachment_->peer, attachment_->lease};
  if (!attach_wanted_ && attach_thread_.joinable() && clock_.Now() - last_attempt_ >= kAttachPause) {
    attach_wanted_ = true;
  }
  return std::nullopt;
}

// `cut(first, lease, message)` fills the message that starts with block `first` and answers how many blocks it took.
template <typename CutMessage>
void RemoteBlocks::Submit(std::shared_ptr<RemoteCall> call, CutMessage cut) {
  if (call->unanswered == 0) return call->Finish();
  if (!calls_.TryEnter()) return call->Fail(absl::UnavailableError("the tier is closing"));
  call->gate = &calls_;
  std::vector<OutgoingMessage> messages;
  std::optional<Route> route;
  absl::Status away;
  {
    absl::MutexLock lock(&mutex_);
    route = RouteLocked();
    away = away_;
    for (size_t first = 0; route.has_value();) {
      const uint64_t id = ++last_id_;
      messages.push_back({id, {}, {}});
      const size_t count = cut(first, route->lease, &messages.back());
      requests_[id] = {call, first, count, 0};
      first += count;
      if (first == call->answers.size()) break;
    }
  }
  if (!route.has_value()) return call->Fail(away);
  SendMessages(*route, std::move(messages));
}

void RemoteBlocks::SendMessages(const Route& route, std::vector<OutgoingMessage> messages) {
  const std::weak_ptr<RemoteBlocks> weak = weak_from_this();
  for (OutgoingMessage& message : messages) {
    transport_.Send(route.peer, kKvRequestChannel, std::move(message.header), std::move(message.parts),
                    [weak, id = message.id, lease = route.lease](absl::Status status) {
                      const auto self = status.ok() ? nullptr : weak.lock();
                      if (self == nullptr) return;
                      if (absl::IsInvalidArgument(status)) return self->FailRequest(id, status);  // too large
                      self->Detach(lease, status);
                    });
  }
}

void RemoteBlocks::Write(std::vector<StoredBlock> blocks, KvTier::WriteDone done) {
  auto call = std::make_shared<RemoteCall>(KvOp::kWrite, blocks.size());
  call->write_done = std::move(done);
  for (const StoredBlock& block : blocks) {
    if (block.bytes->size() > std::numeric_limits<uint32_t>::max()) {
      return call->Fail(absl::ResourceExhaustedError(absl::StrCat("block of ", block.bytes->size(), " bytes")));
    }
  }
  Submit(std::move(call), [&blocks](size_t first, uint64_t lease, OutgoingMessage* message) {
    KvRequest request{.op = KvOp::kWrite, .lease = lease, .id = message->id};
    size_t bytes = 0;
    for (size_t i = first; i < blocks.size() && i - first < kMostKvBlocks; ++i) {
      if (i > first && bytes + blocks[i].bytes->size() > kKvBatchBytes) break;
      bytes += blocks[i].bytes->size();
      request.keys.push_back(blocks[i].key);
      request.lengths.push_back(static_cast<uint32_t>(blocks[i].bytes->size()));
      message->parts.push_back(std::move(blocks[i].bytes));
    }
    message->header = request.Encode();
    return request.keys.size();
  });
}

void RemoteBlocks::Read(std::vector<BlockKey> keys, KvTier::ReadDone done) {
  auto call = std::make_shared<RemoteCall>(KvOp::kRead, keys.size());
  call->read_done = std::move(done);
  Submit(std::move(call), [&keys](size_t first, uint64_t lease, OutgoingMessage* message) {
    KvRequest request{.op = KvOp::kRead, .lease = lease, .id = message->id};
    const size_t count = std::min(kMostKvBlocks, keys.size() - first);
    request.keys.assign(keys.begin() + static_cast<ptrdiff_t>(first),
                        keys.begin() + static_cast<ptrdiff_t>(first + count));
    message->header = request.Encode();
    return count;
  });
}

void RemoteBlocks::Drop(Generation generation) {
  std::optional<Route> route;
  OutgoingMessage message{};
  {
    absl::MutexLock lock(&mutex_);
    route = RouteLocked();
    message.id = ++last_id_;
  }
  if (!route.has_value()) return;  // the store dropped everything with the lease
  message.header =
      KvRequest{.op = KvOp::kDrop, .lease = route->lease, .id = message.id, .generation = generation}.Encode();
  std::vector<OutgoingMessage> messages;
  messages.push_back(std::move(message));
  SendMessages(*route, std::move(messages));
}

TierUsage RemoteBlocks::Usage() {
  absl::MutexLock lock(&mutex_);
  return usage_;
}

void RemoteBlocks::OnReply(Message message) {
  const absl::StatusOr<KvReply> reply = KvReply::Decode(message.header, message.body.size());
  absl::Status wrong = reply.status();
  if (wrong.ok() && !reply->lease_known) wrong = absl::UnavailableError("the store forgot the lease");
  std::shared_ptr<RemoteCall> finished;
  if (wrong.ok()) wrong = TakeReply(message.from, *reply, std::move(message.body), &finished);
  if (finished != nullptr) finished->Finish();
  if (wrong.ok()) return;
  // A store that answers nonsense cannot be trusted to answer the rest.
  if (const uint64_t lease = LeaseOf(message.from); lease != 0) Detach(lease, wrong);
}

absl::Status RemoteBlocks::TakeReply(PeerId from, const KvReply& reply, std::string body,
                                     std::shared_ptr<RemoteCall>* finished) {
  std::vector<uint32_t> lengths;  // of the blocks in the body
  for (const KvAnswer& answer : reply.answers) {
    if (reply.op == KvOp::kRead && answer.code == absl::StatusCode::kOk) lengths.push_back(answer.length);
  }
  std::vector<SharedBytes> blocks = CutBody(std::move(body), lengths);
  absl::MutexLock lock(&mutex_);
  if (!attachment_.has_value() || attachment_->peer != from || attachment_->lease != reply.lease) {
    return absl::OkStatus();  // of a lease that is over
  }
  usage_ = {reply.held_blocks, reply.held_bytes, reply.capacity_bytes};
  const auto it = requests_.find(reply.id);
  if (it == requests_.end()) return absl::OkStatus();  // a drop, or a request that failed already
  RemoteRequest& request = it->second;
  RemoteCall& call = *request.call;
  if (reply.op != call.op || reply.first != request.answered || reply.answers.empty() ||
      reply.answers.size() > request.count - request.answered) {
    return absl::InternalError("the store's reply does not fit the request");
  }
  auto block = blocks.begin();
  for (const KvAnswer& answer : reply.answers) {
    absl::StatusOr<SharedBytes>& to = call.answers[request.first + request.answered++];
    if (answer.code != absl::StatusCode::kOk) {
      to = AnswerStatus(answer.code);
    } else {
      to = call.op == KvOp::kRead ? std::move(*block++) : SharedBytes();
    }
  }
  call.unanswered -= reply.answers.size();
  if (call.unanswered == 0) *finished = request.call;
  if (request.answered == request.count) requests_.erase(it);
  return absl::OkStatus();
}

void RemoteBlocks::FailRequest(uint64_t id, const absl::Status& why) {
  std::shared_ptr<RemoteCall> finished;
  {
    absl::MutexLock lock(&mutex_);
    const auto it = requests_.find(id);
    if (it == requests_.end()) return;
    const RemoteRequest& request = it->second;
    for (size_t i = request.answered; i < request.count; ++i) {
      request.call->answers[request.first + i] = absl::UnavailableError(why.message());
    }
    request.call->unanswered -= request.count - request.answered;
    if (request.call->unanswered == 0) finished = request.call;
    requests_.erase(it);
  }
  if (finished != nullptr) finished->Finish();
}

class RemoteTier final : public KvTier {
 public:
  explicit RemoteTier(std::shared_ptr<RemoteBlocks> blocks) : blocks_(std::move(blocks)) {}
  ~RemoteTier() override { blocks_->Stop(); }
  absl::string_view name() const override { return "remote"; }
  void Write(std::vector<StoredBlock> blocks, WriteDone done) override {
    blocks_->Write(std::move(blocks), std::move(done));
  }
  void Read(std::vector<BlockKey> keys, ReadDone done) override { blocks_->Read(std::move(keys), std::move(done)); }
  void Drop(Generation generation) override { blocks_->Drop(generation); }
  TierUsage Usage() override { return blocks_->Usage(); }

 private:
  const std::shared_ptr<RemoteBlocks> blocks_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<KvTier>> MakeRemoteTier(const TierOptions& options) {
  if (options.remote.empty()) {
    return absl::InvalidArgumentError("kv.remote='' names no kvstore; set it to the kvstore's control address");
  }
  if (options.transport == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat("kv.remote='", options.remote, "' needs a transport"));
  }
  auto blocks = std::make_shared<RemoteBlocks>(options.remote, *options.transport);
  RETURN_IF_ERROR(blocks->Start());
  return std::make_unique<RemoteTier>(std::move(blocks));
}

}  // namespace interlace
