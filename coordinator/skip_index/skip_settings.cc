#include "coordinator/skip_index/skip_settings.h"

#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "common/check.h"

namespace interlace {

std::unique_ptr<SkipAdvisor> MakeSkipAdvisor(const Config& config, const std::string& model_digest, int32_t layers,
                                             std::unique_ptr<Entropy> entropy) {
  const bool drafts = config.sched.speculate == "self" || config.sched.speculate == "auto";
  const bool alone = RanksOfReplica(config) == 1;
  if (!config.skip.index || !drafts || !alone || config.sched.draft_tokens == 0 || layers < kLeastSkipLayers)
    return nullptr;
  SkipAdvisor::Options options{.model_digest = model_digest, .layers = layers};
  options.most_bytes = config.skip.index_bytes.value;
  CHECK(absl::SimpleAtod(config.skip.explore, &options.explore));  // Config has looked at it
  return std::make_unique<SkipAdvisor>(options, std::move(entropy));
}

std::string SkipFilePath(const Config& config) {
  if (!config.skip.file.empty() || config.coordinator.state.empty()) return config.skip.file;
  return absl::StrCat(config.coordinator.state, ".skip");
}

}  // namespace interlace
