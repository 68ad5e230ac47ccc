#include "coordinator/admission.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"

namespace interlace {
namespace {

absl::Status CheckTokens(const ReplicaShape& shape, absl::Span<const int32_t> tokens, absl::string_view of) {
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (tokens[i] >= 0 && tokens[i] < shape.vocab) continue;
    return absl::InvalidArgumentError(absl::StrCat("token ", i, " of ", of, " is ", tokens[i],
                                                   ", outside the model's vocabulary of ", shape.vocab, " tokens"));
  }
  return absl::OkStatus();
}

// An answer that goes on has scored its prompt and given its first tokens elsewhere.
absl::Status CheckHad(const ReplicaShape& shape, const Request& request) {
  if (request.had.empty()) return absl::OkStatus();
  if (request.prompt_logprobs >= 0 || request.pooled || request.max_tokens == 0) {
    return absl::InvalidArgumentError("a request for more than its answer's tokens cannot be resumed");
  }
  return CheckTokens(shape, request.had, "the answer so far");
}

}  // namespace

absl::Status Admit(const ReplicaShape& shape, const AdmissionLimits& limits, const QueueAhead& ahead,
                   Request* request) {
  const bool resumes = request->resumed != nullptr;  // it was taken once: no queue is too long for it
  if (!resumes && ahead.waiting >= limits.max_waiting) {
    return absl::ResourceExhaustedError(
        absl::StrCat(ahead.waiting, " requests are waiting (sched.max_waiting=", limits.max_waiting, ")"));
  }
  if (!resumes && ahead.time() > limits.max_queue_time) {
    return absl::ResourceExhaustedError(absl::StrCat(
        ahead.waiting, " requests are waiting: the next would start in about ", absl::ToInt64Seconds(ahead.time()),
        " s (sched.max_queue_time=", absl::FormatDuration(limits.max_queue_time), ")"));
  }
  const auto prompt = static_cast<int32_t>(request->prompt.size());
  if (prompt == 0) return absl::InvalidArgumentError("the prompt is empty");
  if (request->max_tokens < 0) {
    return absl::InvalidArgumentError(absl::StrCat("max_tokens=", request->max_tokens, " must be at least 0"));
  }
  const int32_t least = request->max_tokens > 0 ? 1 : 0;  // of the answer
  if (prompt + least > limits.context) {
    return absl::InvalidArgumentError(absl::StrCat("the prompt has ", prompt, " tokens, the context is ",
                                                   limits.context, least > 0 ? ", one of which must be left" : ""));
  }
  RETURN_IF_ERROR(CheckTokens(shape, request->prompt, "the prompt"));
  RETURN_IF_ERROR(CheckHad(shape, *request));
  request->max_tokens = std::min(request->max_tokens, limits.context - prompt);
  const auto can_run = [&](int32_t tokens) {
    return KvPlacement::CheckCanRun(shape, limits.placement, prompt + tokens);
  };
  const absl::Status asked = can_run(request->max_tokens);
  if (asked.ok() || request->max_tokens_given) return asked;
  RETURN_IF_ERROR(can_run(1));
  int32_t fits = 1, too_many = request->max_tokens;  // the most that fits lies in [fits, too_many)
  while (too_many - fits > 1) {
    const int32_t middle = fits + (too_many - fits) / 2;
    (can_run(middle).ok() ? fits : too_many) = middle;
  }
  request->max_tokens = fits;
  return absl::OkStatus();
}

}  // namespace interlace
