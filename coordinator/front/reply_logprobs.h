// ReplyToken: a shown token and its log probabilities, as OpenAI's clients read them.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/types/span.h"
#include "coordinator/front/text_stream.h"
#include "text/tokenizer.h"

namespace interlace {

struct ReplyScore {
  std::string text;  // the token's bytes, control tokens spelled out; need not be UTF-8
  float logprob = 0;
};

struct ReplyToken {
  ReplyScore chosen;
  std::vector<ReplyScore> top;  // the most likely first
  int64_t offset = 0;           // code points of the answer's text before the token's own
};

// Tokens without scores, of a request that did not ask for them, are left out.
std::vector<ReplyToken> ReplyTokens(absl::Span<const ShownToken> shown, const Tokenizer& tokenizer);

}  // namespace interlace
