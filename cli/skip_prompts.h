// Texts that `interlace bench skip` measures on, out of files of several kinds.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace interlace {

// The texts of a file, in its order, without those that are empty. "*.jsonl": one of each line, which is an object: its
// "prompt", "question", "text" or the first of its "turns", with its "answer" behind it where there is one. Any other
// file: its paragraphs, put together until a text has at least `least` bytes. NotFound, or InvalidArgument naming file
// and line.
absl::StatusOr<std::vector<std::string>> ReadTexts(const std::string& path, size_t least);
// Of a file's content; `name` is its path.
absl::StatusOr<std::vector<std::string>> TextsOf(absl::string_view name, absl::string_view content, size_t least);

}  // namespace interlace
