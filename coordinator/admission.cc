#include "coordinator/admission.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"

namespace interlace {
namespace {

absl::Status CheckTokens(const ReplicaShape& shape, const Request& request) {
  for (size_t i = 0; i < request.prompt.size(); ++i) {
    const int32_t token = request.prompt[i];
    if (token >= 0 && token < shape.vocab) continue;
    return absl::InvalidArgumentError(absl::StrCat("token ", i, " of the prompt is ", token,
                                                   ", outside the model's vocabulary of ", shape.vocab, " tokens"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status Admit(const ReplicaShape& shape, const AdmissionLimits& limits, const QueueAhead& ahead,
                   Request* request) {
  if (ahead.waiting >= limits.max_waiting) {
    return absl::ResourceExhaustedError(
        absl::StrCat(ahead.waiting, " requests are waiting (sched.max_waiting=", limits.max_waiting, ")"));
  }
  if (ahead.time() > limits.max_queue_time) {
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
  RETURN_IF_ERROR(CheckTokens(shape, *request));
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
