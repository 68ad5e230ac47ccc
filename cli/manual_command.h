// interlace completion and interlace man: what shells and man(1) read, out of the tool's own help.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "cli/command_tree.h"

namespace interlace {

// Prints the script for one shell.
absl::Status CompletionCommand(const CommandEntry& tree, const std::string& shell);

struct ManOptions {
  std::vector<std::string> command;  // "bench", "serve": whose page; empty: the tool's own
  std::string folder;                // where all pages are written; empty: one is printed
  std::string version;
};

// NotFound: there is no such command. PermissionDenied names the file that cannot be written.
absl::Status ManCommand(const CommandEntry& tree, const ManOptions& options);

}  // namespace interlace
