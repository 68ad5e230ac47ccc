// What adapter_config.json says of an adapter's matrices. Not for others: include peft_adapter.h.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace interlace {

// A value, immutable after Parse. Module names are full ones, "model.layers.3.self_attn.q_proj".
class PeftConfig {
 public:
  // InvalidArgument and Unimplemented name `name`, the field, its value and what to do instead.
  static absl::StatusOr<PeftConfig> Parse(absl::string_view json, const std::string& name);

  int64_t RankOf(absl::string_view module) const;
  double ScaleOf(absl::string_view module) const;
  // Names that target_modules lists; empty: it is a pattern, and the file's tensors alone say which modules are
  // adapted.
  const std::vector<std::string>& targets() const { return targets_; }
  const std::string& base_model() const { return base_model_; }

 private:
  template <typename Value>
  using Pattern = std::vector<std::pair<std::string, Value>>;  // the first key that names a module counts
  int64_t rank_ = 0;
  double alpha_ = 0;
  bool by_root_ = false;
  Pattern<int64_t> ranks_;
  Pattern<double> alphas_;
  std::vector<std::string> targets_;
  std::string base_model_;
};

// Whether `module` is the one that `key` names, or ends with it behind a dot: PEFT's rule for names without patterns.
bool NamesModule(absl::string_view key, absl::string_view module);

// The last parts of the names of modules that may be adapted, with commas, for messages.
inline constexpr absl::string_view kAdaptableModules =
    "q_proj, k_proj, v_proj, o_proj, qkv_proj, gate_proj, up_proj, gate_up_proj, down_proj";
bool IsAdaptable(absl::string_view module);

}  // namespace interlace
