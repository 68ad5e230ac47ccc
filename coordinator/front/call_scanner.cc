#include "coordinator/front/call_scanner.h"

#include <algorithm>
#include <iterator>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/ascii.h"

namespace interlace {
namespace {

constexpr size_t kLongestKey = 256, kLongestName = 1024;  // bytes
constexpr size_t kDeepest = 64;

// What the families write in a call.
constexpr absl::string_view kMembers[] = {"name", "arguments", "parameters", "type", "id"};

// A string of JSON, or nothing.
std::string Decoded(const std::string& json) {
  const nlohmann::json value = nlohmann::json::parse(json, nullptr, /*allow_exceptions=*/false);
  return value.is_string() ? value.get<std::string>() : std::string();
}

}  // namespace

CallScanner CallScanner::OfArguments(std::string name) {
  CallScanner scanner;
  scanner.name_ = std::move(name);
  scanner.arguments_alone_ = true;
  scanner.member_ = Member::kArguments;
  scanner.state_ = State::kValueStart;
  return scanner;
}

std::string CallScanner::TakeArguments() { return std::exchange(arguments_, ""); }

CallScanner::Result CallScanner::Push(char c) {
  const bool space = absl::ascii_isspace(c);
  switch (state_) {
    case State::kStart:
      state_ = State::kFirstKey;
      return c == '{' ? Result::kMore : Result::kBroken;
    case State::kFirstKey:
    case State::kKey:
      if (space) return Result::kMore;
      if (c == '}' && state_ == State::kFirstKey) return EndObject();
      key_.clear();
      state_ = State::kInKey;
      return c == '"' ? Result::kMore : Result::kBroken;
    case State::kInKey:
      if (c == '"' && !escaped_) return EndKey();
      escaped_ = c == '\\' && !escaped_;
      key_.push_back(c);
      return key_.size() > kLongestKey ? Result::kBroken : Result::kMore;
    case State::kColon:
      if (space) return Result::kMore;
      state_ = State::kValueStart;
      return c == ':' ? Result::kMore : Result::kBroken;
    case State::kValueStart:
      return space ? Result::kMore : BeginValue(c);
    case State::kValue:
      return ValueByte(c);
    case State::kAfterValue:
      if (space) return Result::kMore;
      if (c == '}') return EndObject();
      state_ = State::kKey;
      return c == ',' ? Result::kMore : Result::kBroken;
  }
  return Result::kBroken;
}

CallScanner::Result CallScanner::EndKey() {
  const bool arguments = key_ == "arguments" || key_ == "parameters";
  member_ = key_ == "name" && name_.empty()  ? Member::kName
            : arguments && !arguments_begun_ ? Member::kArguments
                                             : Member::kOther;
  state_ = State::kColon;
  if (!strict_) return Result::kMore;
  return std::find(std::begin(kMembers), std::end(kMembers), key_) == std::end(kMembers) ? Result::kBroken
                                                                                         : Result::kMore;
}

CallScanner::Result CallScanner::BeginValue(char c) {
  if (absl::string_view("]},:").find(c) != absl::string_view::npos) return Result::kBroken;
  state_ = State::kValue;
  value_.clear();
  streams_ = member_ == Member::kArguments && c == '{';
  arguments_begun_ |= streams_;
  return ValueByte(c);
}

void CallScanner::Keep(char c) {
  if (streams_) {
    arguments_.push_back(c);
  } else if (member_ != Member::kOther) {
    value_.push_back(c);
  }
}

CallScanner::Result CallScanner::ValueByte(char c) {
  if (in_string_) {
    Keep(c);
    if (c == '"' && !escaped_) {
      in_string_ = false;
      if (open_.empty()) return EndValue();
    }
    escaped_ = c == '\\' && !escaped_;
    return member_ == Member::kName && value_.size() > kLongestName ? Result::kBroken : Result::kMore;
  }
  const bool closes = c == ']' || c == '}';
  if (open_.empty() && (closes || c == ',' || absl::ascii_isspace(c))) return EndValueAt(c);
  Keep(c);
  if (c == '"') {
    in_string_ = true;
  } else if (c == '[' || c == '{') {
    open_.push_back(c == '[' ? ']' : '}');
    if (open_.size() > kDeepest) return Result::kBroken;
  } else if (closes) {
    if (open_.back() != c) return Result::kBroken;
    open_.pop_back();
    if (open_.empty()) return EndValue();
  }
  return Result::kMore;
}

CallScanner::Result CallScanner::EndValueAt(char c) {
  const Result ended = EndValue();
  return ended == Result::kMore ? Push(c) : ended;
}

CallScanner::Result CallScanner::EndValue() {
  state_ = State::kAfterValue;
  if (member_ == Member::kName) {
    name_ = Decoded(value_);
    if (name_.empty()) return Result::kBroken;
  }
  if (member_ == Member::kArguments && !streams_) {  // a text that holds JSON, or null
    arguments_begun_ = true;
    arguments_ = value_[0] == '"' ? Decoded(value_) : value_ == "null" ? "" : value_;
    if (arguments_.empty()) arguments_ = "{}";
  }
  return arguments_alone_ ? Result::kDone : Result::kMore;
}

CallScanner::Result CallScanner::EndObject() {
  if (name_.empty()) return Result::kBroken;
  if (!arguments_begun_) arguments_ = "{}";
  arguments_begun_ = true;
  return Result::kDone;
}

}  // namespace interlace
