#include "coordinator/front/json_text.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <string>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "coordinator/front/api_error.h"

namespace interlace {
namespace {

using Json = nlohmann::json;

constexpr int kNumberOverflow = 406;  // nlohmann's id of it

// Follows the parser to the fault and remembers the top-level field in which it lies.
class FaultFinder final : public nlohmann::json_sax<Json> {
 public:
  bool null() override { return true; }
  bool boolean(bool) override { return true; }
  bool number_integer(number_integer_t) override { return true; }
  bool number_unsigned(number_unsigned_t) override { return true; }
  bool number_float(number_float_t, const string_t&) override { return true; }
  bool string(string_t&) override { return true; }
  bool binary(binary_t&) override { return true; }
  bool start_object(size_t) override { return Enter(); }
  bool start_array(size_t) override { return Enter(); }
  bool end_object() override { return Leave(); }
  bool end_array() override { return Leave(); }
  bool key(string_t& name) override {
    if (depth_ == 1) field_ = name.substr(0, 64);
    return true;
  }
  bool parse_error(size_t position, const std::string& token, const Json::exception& error) override {
    if (error.id == kNumberOverflow) {
      const std::string why = absl::StrCat("the number ", token.substr(0, 40), " is out of range");
      fault_ = field_.empty() ? absl::InvalidArgumentError(why) : BadField(field_, why);
    } else {
      fault_ = absl::InvalidArgumentError(absl::StrCat("the body is not valid JSON: see byte ", position));
    }
    return false;
  }
  const absl::Status& fault() const { return fault_; }

 private:
  bool Enter() {
    ++depth_;
    return true;
  }
  bool Leave() {
    --depth_;
    return true;
  }

  int depth_ = 0;
  std::string field_;
  absl::Status fault_ = absl::InvalidArgumentError("the body is not valid JSON");
};

}  // namespace

bool NestsDeeper(absl::string_view json, int levels) {
  int depth = 0;
  bool in_string = false;
  for (size_t i = 0; i < json.size(); ++i) {
    const char c = json[i];
    if (in_string) {
      if (c == '\\') ++i;  // what is escaped cannot end the string
      if (c == '"') in_string = false;
    } else if (c == '"') {
      in_string = true;
    } else if (c == '[' || c == '{') {
      if (++depth > levels) return true;
    } else if (c == ']' || c == '}') {
      --depth;
    }
  }
  return false;
}

namespace {

size_t SpaceEnd(absl::string_view json, size_t at) {
  while (at < json.size() && absl::ascii_isspace(json[at])) ++at;
  return at;
}

// Behind the closing quote of the string that begins at `at`.
size_t StringEnd(absl::string_view json, size_t at) {
  for (++at; at < json.size() && json[at] != '"'; ++at) {
    if (json[at] == '\\') ++at;
  }
  return std::min(json.size(), at + 1);
}

size_t ValueEnd(absl::string_view json, size_t at) {
  int depth = 0;
  while (at < json.size()) {
    const char c = json[at];
    if (c == '"') {
      at = StringEnd(json, at);
      if (depth == 0) return at;
      continue;
    }
    if (c == '[' || c == '{') ++depth;
    if (c == ']' || c == '}') {
      if (depth <= 1) return at + static_cast<size_t>(depth);
      --depth;
    }
    if (depth == 0 && (c == ',' || absl::ascii_isspace(c))) return at;
    ++at;
  }
  return json.size();
}

}  // namespace

absl::string_view RawMember(absl::string_view object, absl::string_view name) {
  absl::string_view found;
  size_t at = object.find('{');
  if (at == absl::string_view::npos) return found;
  for (at = SpaceEnd(object, at + 1); at < object.size() && object[at] == '"'; at = SpaceEnd(object, at)) {
    const size_t key_end = StringEnd(object, at);
    const bool named = object.substr(at, key_end - at) == absl::StrCat("\"", name, "\"");
    at = SpaceEnd(object, key_end);
    if (at >= object.size() || object[at] != ':') break;
    at = SpaceEnd(object, at + 1);
    const size_t end = ValueEnd(object, at);
    if (named) found = object.substr(at, end - at);
    at = SpaceEnd(object, end);
    if (at >= object.size() || object[at] != ',') break;
    at = SpaceEnd(object, at + 1);
  }
  return found;
}

absl::Status FaultOf(absl::string_view json) {
  FaultFinder finder;
  Json::sax_parse(json.data(), json.data() + json.size(), &finder);
  return finder.fault();
}

}  // namespace interlace
