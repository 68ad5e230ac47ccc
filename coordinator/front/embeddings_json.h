// /v1/embeddings: OpenAI's body with vLLM's fields, and its answer.
#pragma once

#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "coordinator/front/answer.h"

namespace interlace {

absl::StatusOr<ApiRequest> ParseEmbeddings(absl::string_view body);

// One embedding for each input, of the length 1 unless the request wants them as they are. They come in one piece: of a
// stream there is nothing.
class EmbeddingsAnswer final : public Answer {
 public:
  EmbeddingsAnswer(bool base64, bool normalised, ReplyHead head)
      : base64_(base64), normalised_(normalised), head_(std::move(head)) {}
  Events Begin(size_t, const Usage&) override { return {}; }
  Events Add(size_t, const OutputDelta&, const std::vector<ReplyToken>*, const Usage&) override { return {}; }
  Events Finish(size_t, const ReplyChoice&, const Usage&) override { return {}; }
  Events End(const Usage&) override { return {}; }
  Events Fail(const ApiError&) override { return {}; }
  std::string Whole(absl::Span<const ReplyChoice> choices, const Usage& usage) override;

 private:
  const bool base64_, normalised_;
  const ReplyHead head_;
};

}  // namespace interlace
