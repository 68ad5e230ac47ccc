#include "coordinator/front/json_fields.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "absl/strings/str_cat.h"
#include "coordinator/front/api_error.h"
#include "coordinator/front/json_text.h"

namespace interlace {
namespace {

// No field has a use for more. Values nest at most this deep from here on, so that what recurses over them is safe.
constexpr int kDeepest = 64;

}  // namespace

absl::StatusOr<Json> ParseObject(absl::string_view body) {
  if (NestsDeeper(body, kDeepest)) {
    return absl::InvalidArgumentError(
        absl::StrCat("the body nests arrays or objects deeper than ", kDeepest, " levels"));
  }
  Json json = Json::parse(body.data(), body.data() + body.size(), nullptr, /*allow_exceptions=*/false);
  if (json.is_discarded()) return FaultOf(body);
  if (!json.is_object()) return absl::InvalidArgumentError("the body is not a JSON object");
  return json;
}

const Json* Member(const Json& json, const char* field) {
  const auto it = json.find(field);
  return it == json.end() || it->is_null() ? nullptr : &*it;
}

std::string Shown(const Json& value) {
  const std::string text = value.dump(-1, ' ', /*ensure_ascii=*/true, Json::error_handler_t::replace);
  return text.size() <= 40 ? text : absl::StrCat(text.substr(0, 40), "...");
}

std::string Printed(const Json& value) { return value.dump(-1, ' ', false, Json::error_handler_t::replace); }

absl::Status Read(const Json& json, const char* field, std::optional<double>* out) {
  const Json* value = Member(json, field);
  if (value == nullptr) return absl::OkStatus();
  if (!value->is_number()) return BadField(field, absl::StrCat("must be a number, not ", Shown(*value)));
  *out = value->get<double>();
  return absl::OkStatus();
}

absl::Status Read(const Json& json, const char* field, std::optional<int64_t>* out) {
  const Json* value = Member(json, field);
  if (value == nullptr) return absl::OkStatus();
  if (value->is_number_unsigned()) {
    const uint64_t wide = value->get<uint64_t>();
    if (wide > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
      return BadField(field, absl::StrCat(wide, " is out of range"));
    }
    *out = static_cast<int64_t>(wide);
  } else if (value->is_number_integer()) {
    *out = value->get<int64_t>();
  } else if (value->is_number_float() && std::trunc(value->get<double>()) == value->get<double>()) {
    if (std::abs(value->get<double>()) >= 0x1p53)
      return BadField(field, absl::StrCat(Shown(*value), " is out of range"));
    *out = static_cast<int64_t>(value->get<double>());
  } else {
    return BadField(field, absl::StrCat("must be an integer, not ", Shown(*value)));
  }
  return absl::OkStatus();
}

absl::Status Read(const Json& json, const char* field, bool* out) {
  const Json* value = Member(json, field);
  if (value == nullptr) return absl::OkStatus();
  if (!value->is_boolean()) return BadField(field, "must be true or false");
  *out = value->get<bool>();
  return absl::OkStatus();
}

absl::Status Read(const Json& json, const char* field, std::string* out) {
  const Json* value = Member(json, field);
  if (value == nullptr) return absl::OkStatus();
  if (!value->is_string()) return BadField(field, "must be a string");
  *out = value->get<std::string>();
  return absl::OkStatus();
}

absl::Status ReadTexts(const Json& json, const char* field, std::vector<std::string>* out) {
  const Json* value = Member(json, field);
  if (value == nullptr) return absl::OkStatus();
  if (value->is_string()) {
    out->push_back(value->get<std::string>());
    return absl::OkStatus();
  }
  if (!value->is_array()) return BadField(field, "must be a string or a list of strings");
  for (const Json& item : *value) {
    if (!item.is_string()) return BadField(field, "must be a string or a list of strings");
    out->push_back(item.get_ref<const std::string&>());
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<int32_t>> ReadIds(const Json& json, absl::string_view field) {
  if (!json.is_array()) return BadField(field, "must be a list of token ids");
  std::vector<int32_t> ids;
  ids.reserve(json.size());
  for (const Json& item : json) {
    if (!item.is_number_unsigned() || item.get<uint64_t>() > std::numeric_limits<int32_t>::max()) {
      return BadField(field, "must hold token ids alone");
    }
    ids.push_back(item.get<int32_t>());
  }
  return ids;
}

absl::Status RefuseUnsupported(const Json& json, absl::Span<const UnsupportedField> fields) {
  for (const UnsupportedField& row : fields) {
    const Json* value = Member(json, row.field);
    if (value == nullptr) continue;
    const Json harmless = Json::parse(row.harmless, nullptr, /*allow_exceptions=*/false);
    if (std::find(harmless.begin(), harmless.end(), *value) != harmless.end()) continue;
    std::string allowed;
    for (const Json& v : harmless) absl::StrAppend(&allowed, allowed.empty() ? "" : " or ", v.dump());
    return BadField(row.field, absl::StrCat("is not supported here; leave it out",
                                            allowed.empty() ? "" : absl::StrCat(" (or send ", allowed, ")")));
  }
  return absl::OkStatus();
}

}  // namespace interlace
