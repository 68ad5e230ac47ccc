#include "coordinator/front/reply_logprobs.h"

#include <algorithm>
#include <utility>

namespace interlace {

std::vector<ReplyToken> ReplyTokens(absl::Span<const ShownToken> shown, const Tokenizer& tokenizer) {
  // JSON has no infinity: vLLM writes -9999 too.
  const auto reply = [&tokenizer](const TokenScore& score) {
    return ReplyScore{tokenizer.Piece(score.token, /*special=*/true), std::max(score.logprob, -9999.0f)};
  };
  std::vector<ReplyToken> tokens;
  for (const ShownToken& token : shown) {
    if (token.scores.empty()) continue;
    ReplyToken& out = tokens.emplace_back();
    out.chosen = reply(token.scores[0]);
    for (size_t i = 1; i < token.scores.size(); ++i) out.top.push_back(reply(token.scores[i]));
    out.offset = token.offset;
  }
  return tokens;
}

}  // namespace interlace
