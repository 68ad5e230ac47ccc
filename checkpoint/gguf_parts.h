// The files of a GGUF model that was split: MODEL-00001-of-00003.gguf and its siblings.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "checkpoint/gguf.h"

namespace interlace {

// What a part says of itself. A file that was not split is part 0 of 1.
struct GgufPart {
  int64_t number = 0;   // split.no, from 0
  int64_t count = 1;    // split.count
  int64_t tensors = 0;  // split.tensors.count, of all parts together
};

// InvalidArgument names the file and the key that is missing or out of range.
absl::StatusOr<GgufPart> ReadGgufPart(const GgufFile& file);

// The path of part `number` beside the part at `path`, which is `of`: as llama.cpp names them, "-00002-of-00003.gguf",
// counted from 1. InvalidArgument if `path` is not named so.
absl::StatusOr<std::string> PathOfGgufPart(const std::string& path, const GgufPart& of, int64_t number);

}  // namespace interlace
