// Man pages out of the help of the tool; pure functions.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"
#include "cli/command_tree.h"

namespace interlace {

// The page of one command, in the macros of man(7); its commands are pages of their own.
std::string ManPage(const CommandEntry& command, absl::string_view version);

// File name ("interlace-bench-serve.1") and text of each page of a tree.
std::vector<std::pair<std::string, std::string>> ManPages(const CommandEntry& tree, absl::string_view version);

}  // namespace interlace
