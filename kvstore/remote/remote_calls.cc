#include "kvstore/remote/remote_calls.h"

#include <algorithm>

namespace interlace {
namespace {

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

}  // namespace

uint64_t RemoteCalls::Add(RemoteCallPtr call, size_t first, size_t count, int64_t put_bytes, absl::Time deadline) {
  put_bytes_ += put_bytes;
  asked_[++last_id_] = {std::move(call), first, count, 0, put_bytes, deadline};
  return last_id_;
}

absl::StatusOr<RemoteCallPtr> RemoteCalls::TakeReply(const KvReply& reply, std::string body) {
  const auto it = asked_.find(reply.id);
  if (it == asked_.end()) return RemoteCallPtr();  // a drop, or a message that failed already
  Asked& asked = it->second;
  RemoteCall& call = *asked.call;
  if (reply.op != call.op || reply.first != asked.answered || reply.answers.empty() ||
      reply.answers.size() > asked.count - asked.answered) {
    return absl::InternalError("the store's reply does not fit the request");
  }
  std::vector<uint32_t> lengths;  // of the blocks in the body
  for (const KvAnswer& answer : reply.answers) {
    if (reply.op == KvOp::kGet && answer.code == absl::StatusCode::kOk) lengths.push_back(answer.length);
  }
  std::vector<SharedBytes> blocks = CutBody(std::move(body), lengths);
  auto block = blocks.begin();
  for (const KvAnswer& answer : reply.answers) {
    absl::StatusOr<SharedBytes>& to = call.answers[asked.first + asked.answered++];
    if (answer.code != absl::StatusCode::kOk) {
      to = AnswerStatus(answer.code);
    } else {
      to = call.op == KvOp::kGet ? std::move(*block++) : SharedBytes();
    }
  }
  call.unanswered -= reply.answers.size();
  RemoteCallPtr finished = call.unanswered == 0 ? asked.call : nullptr;
  if (asked.answered == asked.count) {
    put_bytes_ -= asked.put_bytes;
    asked_.erase(it);
  }
  return finished;
}

RemoteCallPtr RemoteCalls::Fail(uint64_t id, const absl::Status& why) {
  const auto it = asked_.find(id);
  if (it == asked_.end()) return nullptr;
  const Asked& asked = it->second;
  RemoteCall& call = *asked.call;
  for (size_t i = asked.answered; i < asked.count; ++i) call.answers[asked.first + i] = why;
  call.unanswered -= asked.count - asked.answered;
  put_bytes_ -= asked.put_bytes;
  RemoteCallPtr finished = call.unanswered == 0 ? asked.call : nullptr;
  asked_.erase(it);
  return finished;
}

std::vector<RemoteCallPtr> RemoteCalls::FailAll(const absl::Status& why) {
  std::vector<RemoteCallPtr> finished;
  while (!asked_.empty()) {
    if (RemoteCallPtr call = Fail(asked_.begin()->first, why); call != nullptr) finished.push_back(std::move(call));
  }
  return finished;
}

absl::Time RemoteCalls::NextDeadline() const {
  absl::Time next = absl::InfiniteFuture();
  for (const auto& [id, asked] : asked_) next = std::min(next, asked.deadline);
  return next;
}

}  // namespace interlace
