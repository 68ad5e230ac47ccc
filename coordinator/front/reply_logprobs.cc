#include "coordinator/front/reply_logprobs.h"

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"

namespace interlace {

namespace {

// JSON has no infinity: vLLM writes -9999 too.
ReplyScore Reply(const TokenScore& score, const Tokenizer& tokenizer, int32_t rank = 0) {
  return {tokenizer.Piece(score.token, /*special=*/true), std::max(score.logprob, -9999.0f), score.token, rank};
}

}  // namespace

std::vector<ReplyToken> ReplyTokens(absl::Span<const ShownToken> shown, const Tokenizer& tokenizer) {
  const auto reply = [&tokenizer](const TokenScore& score) { return Reply(score, tokenizer); };
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

std::vector<ReplyToken> PromptReplyTokens(absl::Span<const int32_t> prompt, absl::Span<const PromptScores> scores,
                                          absl::string_view text, const Tokenizer& tokenizer) {
  std::vector<ReplyToken> tokens(prompt.size());
  for (size_t i = 0; i < prompt.size(); ++i) {
    tokens[i].chosen = {tokenizer.Piece(prompt[i], /*special=*/true), 0, prompt[i], 0};
    tokens[i].scored = false;
  }
  for (const PromptScores& part : scores) {
    for (int32_t i = 0; i < part.size() && part.first + i < static_cast<int32_t>(tokens.size()); ++i) {
      ReplyToken& token = tokens[part.first + i];
      const absl::Span<const TokenScore> of = part.of(i);
      token.scored = true;
      token.chosen = Reply(of[0], tokenizer, part.ranks[i]);
      for (int32_t k = 1; k < static_cast<int32_t>(of.size()) && of[k].token >= 0; ++k) {
        token.top.push_back(Reply(of[k], tokenizer, k));
      }
    }
  }
  // A bos that the text does not spell takes none of it.
  Detokenizer detokenizer(tokenizer, Detokenizer::Start::kWholeText);
  detokenizer.Show({}, /*all=*/true);
  const int64_t all = CodePoints(text);
  int64_t made = 0;
  for (size_t i = 0; i < tokens.size(); ++i) {
    tokens[i].offset = std::min(made, all);
    const bool unseen = i == 0 && prompt[0] == tokenizer.bos() && !absl::StartsWith(text, tokens[0].chosen.text);
    if (!unseen) made += CodePoints(detokenizer.Push(prompt[i]));
  }
  return tokens;
}

std::vector<ReplyToken> WithTop(std::vector<ReplyToken> tokens, int64_t top) {
  for (ReplyToken& token : tokens) {
    if (static_cast<int64_t>(token.top.size()) > top) token.top.resize(static_cast<size_t>(top));
  }
  return tokens;
}

}  // namespace interlace
