// Content-Encoding of request bodies; pure functions.
#pragma once

#include <cstddef>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace interlace {

// The body without its encoding: gzip, deflate, or identity. InvalidArgument, with a code that makes it 415, 413 or
// 400: another encoding, more than `most` bytes inside, or damage. It never holds more than `most` bytes.
absl::StatusOr<std::string> DecodeBody(absl::string_view encoding, absl::string_view body, size_t most);

}  // namespace interlace
