// Fields of a request's JSON, read and refused by name; pure functions. Private to *_json.cc and chat_history.cc.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace interlace {

using Json = nlohmann::json;

// InvalidArgument if the body is no JSON object, or nests deeper than what recurses over it could bear.
absl::StatusOr<Json> ParseObject(absl::string_view body);

// A member that is present and not null; else null.
const Json* Member(const Json& json, const char* field);
// A value as an error names it: the begin of its JSON.
std::string Shown(const Json& value);
// The whole of a value; what is not UTF-8 comes out as U+FFFD.
std::string Printed(const Json& value);

// Each leaves `out` alone if the member is missing or null, and names the field if it has another type.
absl::Status Read(const Json& json, const char* field, std::optional<double>* out);
// Integers, and floats that are integers: some clients print 16 as 16.0.
absl::Status Read(const Json& json, const char* field, std::optional<int64_t>* out);
absl::Status Read(const Json& json, const char* field, bool* out);
absl::Status Read(const Json& json, const char* field, std::string* out);
// A string or a list of strings.
absl::Status ReadTexts(const Json& json, const char* field, std::vector<std::string>* out);
absl::StatusOr<std::vector<int32_t>> ReadIds(const Json& json, absl::string_view field);

// What is understood and not built in, and the values (a JSON list) that ask for nothing; null always does.
struct UnsupportedField {
  const char* field;
  const char* harmless;
};
absl::Status RefuseUnsupported(const Json& json, absl::Span<const UnsupportedField> fields);

}  // namespace interlace
