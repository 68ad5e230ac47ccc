// What the server says of itself, printed as JSON; pure functions.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "coordinator/engine.h"

namespace interlace {

struct ModelCard {
  std::string id;
  int32_t context = 0;
  int64_t created = 0;
  std::string root;    // file or folder that it comes from
  std::string parent;  // of an adapter: the model that it adds to; empty: none
};
std::string ModelJson(const ModelCard& card);
std::string ModelListJson(absl::Span<const ModelCard> cards);
std::string HealthJson(const EngineLoad& load, bool ready, bool standby);
// As vLLM's /load: requests that are under way.
std::string LoadJson(const EngineLoad& load);
std::string ExplanationJson(const Explanation& explanation);
// `texts` may be null: not asked for.
std::string TokensJson(absl::Span<const int32_t> tokens, int32_t context,
                       const std::vector<std::string>* texts = nullptr);
// As vLLM's /tokenizer_info: the texts of the tokens that begin and end a text, where the vocabulary has them.
std::string TokenizerInfoJson(const std::optional<std::string>& bos, const std::optional<std::string>& eos,
                              int32_t vocab);
std::string DetokenizedJson(absl::string_view text);
std::string VersionJson(absl::string_view version);

}  // namespace interlace
