#include "kvstore/remote/request_intake.h"

#include <algorithm>
#include <utility>

#include "common/log.h"

namespace interlace {
namespace {

// What travels; other codes of a tier are an unavailable block to the client.
absl::StatusCode Travelling(absl::StatusCode code) {
  switch (code) {
    case absl::StatusCode::kOk:
    case absl::StatusCode::kNotFound:
    case absl::StatusCode::kResourceExhausted:
      return code;
    default:
      return absl::StatusCode::kUnavailable;
  }
}

}  // namespace

// Holds the gate open until the last reply was handed over.
struct RequestIntake::Asked {
  PeerId from;
  KvRequest request;
  Gate& gate;
  ~Asked() { gate.Leave(); }
};

RequestIntake::RequestIntake(Transport& transport, KvTier& tier, StoreSessions& sessions, int64_t max_pending_bytes)
    : transport_(transport), tier_(tier), sessions_(sessions), max_pending_bytes_(max_pending_bytes) {}

int64_t RequestIntake::RoomBytes() const {
  return tier_.Wants() ? max_pending_bytes_ / std::max<int64_t>(sessions_.count(), 1) : 0;
}

void RequestIntake::Handle(Message message) {
  absl::StatusOr<KvRequest> request = KvRequest::Decode(message.header, message.body.size());
  if (!request.ok()) {
    malformed_.fetch_add(1);
    LOG(DEBUG) << "kv request ignored" << Field("peer", static_cast<uint64_t>(message.from)) << request.status();
    return;
  }
  if (!gate_.TryEnter()) return;
  const std::shared_ptr<Asked> asked(new Asked{message.from, *std::move(request), gate_});
  if (!sessions_.Admits(SessionId{asked->request.session}, asked->from)) {
    KvReply reply = ReplyTo(*asked);
    reply.session_known = false;
    return Send(*asked, reply, {});
  }
  switch (asked->request.op) {
    case KvOp::kPut:
      return Put(asked, std::move(message.body));
    case KvOp::kGet:
      return Get(asked);
    case KvOp::kProbe:
      return Probe(asked);
    case KvOp::kDrop:
      tier_.Drop(asked->request.keys);
      return Send(*asked, ReplyTo(*asked), {});
    case KvOp::kRoom:
      return Send(*asked, ReplyTo(*asked), {});
  }
}

void RequestIntake::Put(std::shared_ptr<Asked> asked, std::string body) {
  const KvRequest& request = asked->request;
  const auto bytes = static_cast<int64_t>(body.size());
  const int64_t pending = pending_bytes_.fetch_add(bytes);
  if (pending > 0 && pending + bytes > max_pending_bytes_) {
    pending_bytes_.fetch_sub(bytes);
    return ReplyAll(*asked, std::vector<absl::Status>(request.keys.size(),
                                                      absl::ResourceExhaustedError("too many puts under way")));
  }
  std::vector<SharedBytes> parts = CutBody(std::move(body), request.lengths);
  std::vector<StoredBlock> blocks;
  for (size_t i = 0; i < parts.size(); ++i)
    blocks.push_back({request.keys[i], request.indices[i], std::move(parts[i])});
  tier_.Put(std::move(blocks), [this, asked, bytes](std::vector<absl::Status> statuses) {
    pending_bytes_.fetch_sub(bytes);
    ReplyAll(*asked, statuses);
  });
}

void RequestIntake::Get(std::shared_ptr<Asked> asked) {
  tier_.Get(asked->request.keys,
            [this, asked](std::vector<absl::StatusOr<SharedBytes>> answers) { ReplyBlocks(*asked, answers); });
}

void RequestIntake::Probe(std::shared_ptr<Asked> asked) {
  tier_.Probe(asked->request.keys, [this, asked](std::vector<bool> held) {
    KvReply reply = ReplyTo(*asked);
    for (const bool one : held) {
      reply.answers.push_back({one ? absl::StatusCode::kOk : absl::StatusCode::kNotFound, 0});
    }
    Send(*asked, reply, {});
  });
}

// Without answers.
KvReply RequestIntake::ReplyTo(const Asked& asked) const {
  const TierUsage usage = tier_.Usage();
  return {.op = asked.request.op,
          .session = asked.request.session,
          .id = asked.request.id,
          .held_blocks = usage.blocks,
          .held_bytes = usage.bytes,
          .capacity_bytes = usage.capacity_bytes,
          .room_bytes = RoomBytes()};
}

void RequestIntake::ReplyAll(const Asked& asked, const std::vector<absl::Status>& statuses) {
  KvReply reply = ReplyTo(asked);
  for (const absl::Status& status : statuses) reply.answers.push_back({Travelling(status.code()), 0});
  Send(asked, reply, {});
}

void RequestIntake::ReplyBlocks(const Asked& asked, const std::vector<absl::StatusOr<SharedBytes>>& answers) {
  KvReply reply = ReplyTo(asked);
  std::vector<SharedBytes> parts;
  size_t bytes = 0;
  for (size_t i = 0; i < answers.size(); ++i) {
    const size_t size = answers[i].ok() ? (*answers[i])->size() : 0;
    if (bytes > 0 && bytes + size > kKvBatchBytes) {
      Send(asked, reply, std::exchange(parts, {}));
      reply.answers.clear();
      reply.first = static_cast<uint32_t>(i);
      bytes = 0;
    }
    bytes += size;
    reply.answers.push_back({Travelling(answers[i].status().code()), static_cast<uint32_t>(size)});
    if (answers[i].ok()) parts.push_back(*answers[i]);
  }
  Send(asked, reply, std::move(parts));
}

// A client that is gone gets no reply; its session ends by itself.
void RequestIntake::Send(const Asked& asked, const KvReply& reply, std::vector<SharedBytes> parts) {
  transport_.Send(asked.from, kKvReplyChannel, reply.Encode(), std::move(parts), [](absl::Status) {});
}

}  // namespace interlace
