// Scripts by which shells complete the tool's commands and flags; pure functions.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "cli/command_tree.h"

namespace interlace {

// "bash", "zsh", "fish".
std::vector<std::string> CompletionShells();

// What that shell reads (docs/operations.md says from where). InvalidArgument names the shells that there are.
absl::StatusOr<std::string> CompletionScript(const CommandEntry& tree, absl::string_view shell);

}  // namespace interlace
