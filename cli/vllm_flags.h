// Flags of vLLM at `interlace serve`: those that name a setting of ours, those that ask for what is so anyway, and
// those that are understood and not built in.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace CLI {
class App;
}

namespace interlace {

// A flag that stands for a setting.
struct VllmFlag {
  absl::string_view flag;   // "--max-model-len"
  absl::string_view field;  // "model.max_len"
  absl::string_view meaning;
  // The setting's value for the flag's; empty: the setting stays as it is. InvalidArgument says what the flag takes.
  absl::StatusOr<std::string> (*value)(absl::string_view text);
  bool many = false;  // it takes several values, which the setting has side by side, with commas
};
absl::Span<const VllmFlag> VllmFlags();

// A flag that is refused by its name, and what to do instead.
struct UnbuiltFlag {
  absl::string_view flag;
  absl::string_view instead;  // a whole sentence without its full stop
  absl::string_view usual;    // the value that asks for nothing and is taken; empty: there is none
};
absl::Span<const UnbuiltFlag> UnbuiltVllmFlags();

// Flags that ask for what is so anyway: they are taken and change nothing.
absl::Span<const absl::string_view> NeedlessVllmFlags();

// Flags that bound what has no bound here: they are taken with any value and change nothing.
absl::Span<const absl::string_view> BoundlessVllmFlags();

// Adds all of them. Values become pairs of field and value in `settings`, which lives as long as the command.
void AddVllmFlags(CLI::App* serve, std::vector<std::pair<std::string, std::string>>* settings);

// The arguments of `interlace` (without the program's name) with vLLM's spellings behind `serve` made ours: -tp, -pp
// and -dp are flags of two letters, and _ in a flag's name is -. What follows "--" stays.
std::vector<std::string> WithOurSpelling(std::vector<std::string> arguments);

// "8192" and "25.6k" as vLLM reads them: k, m and g are powers of 1000 and take a fraction, K, M and G powers of 1024.
// InvalidArgument if it is no whole number of tokens.
absl::StatusOr<int64_t> ParseCount(absl::string_view text);

}  // namespace interlace
