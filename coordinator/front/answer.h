// Answer: what a generation gives, in the form of the protocol that asked for it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/types/span.h"
#include "coordinator/front/api_error.h"
#include "coordinator/front/api_request.h"
#include "coordinator/front/output_delta.h"
#include "coordinator/front/reply_logprobs.h"
#include "coordinator/front/tool_syntax.h"

namespace interlace {

struct Usage {
  int32_t prompt_tokens = 0;
  int32_t completion_tokens = 0;
  int32_t cached_tokens = 0;  // of the prompt tokens
};

// What every event and every answer of one request carries.
struct ReplyHead {
  Protocol protocol = Protocol::kCompletion;
  std::string name;  // of the request; ids are made of it
  std::string model;
  int64_t created = 0;                 // seconds since 1970
  const ToolSyntax* syntax = nullptr;  // of the calls in it; null: there are none
  std::string echoed;                  // see ApiRequest
};

struct ReplyCall {
  size_t index = 0;  // among those that the model began
  std::string name;
  std::string arguments;  // JSON, as the model wrote it
};

struct ReplyChoice {
  std::string text;
  std::optional<std::vector<ReplyToken>> logprobs;  // none: not asked for
  FinishReason finish = FinishReason::kStop;
  int32_t completion_tokens = 0;
  std::string thought = {};
  std::vector<ReplyCall> calls = {};
  std::string stop = {};  // the stop string that ended it; empty: none did
  double score = 0;       // sum of the logprobs of its tokens, if they were asked for
  std::optional<std::vector<ReplyToken>> prompt_logprobs = {};  // of its prompt; none: not asked for
  FidelityReport fidelity = {};
  std::vector<float> embedding = {};  // of a kEmbeddings
};

// Of the choices of several prompts, `n` of each, the `keep` with the best scores, best first.
std::vector<ReplyChoice> BestOf(std::vector<ReplyChoice> choices, size_t n, size_t keep);

// Adds to what a choice has. A call that was left half written becomes text again.
void Gather(const OutputDelta& delta, ReplyChoice* choice);

// For the index-th call of a choice.
std::string CallId(const ReplyHead& head, size_t choice, size_t index);

// A pure function of what it is given, in this order: Begin once; Add and Finish for each choice; End or Fail. Or Whole
// alone. Events are bytes of server-sent events, each one whole. Owned by the delivery of one request; one thread.
class Answer {
 public:
  using Events = std::vector<std::string>;
  virtual ~Answer() = default;
  // `usage` counts the prompt; nothing was generated.
  virtual Events Begin(size_t choices, const Usage& usage) = 0;
  // `logprobs` may be null: not asked for. Requires: something is new.
  virtual Events Add(size_t choice, const OutputDelta& delta, const std::vector<ReplyToken>* logprobs,
                     const Usage& usage) = 0;
  // The choice has ended well. Of `end`, finish, stop and calls count.
  virtual Events Finish(size_t choice, const ReplyChoice& end, const Usage& usage) = 0;
  // All choices have ended well.
  virtual Events End(const Usage& usage) = 0;
  // One has not, or the server stops.
  virtual Events Fail(const ApiError& error) = 0;
  virtual std::string Whole(absl::Span<const ReplyChoice> choices, const Usage& usage) = 0;
};

}  // namespace interlace
