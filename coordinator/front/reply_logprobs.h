// ReplyToken: a shown token and its log probabilities, as OpenAI's clients read them.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "coordinator/front/text_stream.h"
#include "text/tokenizer.h"

namespace interlace {

struct ReplyScore {
  std::string text;  // the token's bytes, control tokens spelled out; need not be UTF-8
  float logprob = 0;
  int32_t token = -1;
  int32_t rank = 0;  // 1: the most likely; 0: not known
};

struct ReplyToken {
  ReplyScore chosen;
  std::vector<ReplyScore> top;  // the most likely first
  int64_t offset = 0;           // code points of the answer's text before the token's own
  bool scored = true;           // false: nothing comes before it, and so there is nothing that could score it
};

// Tokens without scores, of a request that did not ask for them, are left out.
std::vector<ReplyToken> ReplyTokens(absl::Span<const ShownToken> shown, const Tokenizer& tokenizer);

// The tokens of a prompt, of which `scores` has all but the first. `text`: what is echoed of the prompt, in which their
// offsets count.
std::vector<ReplyToken> PromptReplyTokens(absl::Span<const int32_t> prompt, absl::Span<const PromptScores> scores,
                                          absl::string_view text, const Tokenizer& tokenizer);

// The first `top` of each token's most likely ones.
std::vector<ReplyToken> WithTop(std::vector<ReplyToken> tokens, int64_t top);

}  // namespace interlace
