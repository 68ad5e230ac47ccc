#include "coordinator/front/tool_call_parser.h"

#include <algorithm>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"

namespace interlace {
namespace {

constexpr absl::string_view kArguments = "[ARGS]";
constexpr absl::string_view kId = "[CALL_ID]";
constexpr size_t kLongestHead = 256;  // bytes

bool IsOfName(char c) { return absl::ascii_isalnum(c) || c == '_' || c == '-' || c == '.'; }

// NAME, NAME[ARGS] or NAME[CALL_ID]ID[ARGS]; empty if it is none of these.
std::string NameOf(absl::string_view head) {
  head = absl::StripAsciiWhitespace(head);
  head = head.substr(0, std::min(head.find(kId), head.find(kArguments)));
  head = absl::StripAsciiWhitespace(head);
  return std::all_of(head.begin(), head.end(), IsOfName) ? std::string(head) : std::string();
}

uint64_t Mixed(uint64_t x) {  // splitmix64
  x += 0x9e3779b97f4a7c15;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
}

}  // namespace

void ToolCallParser::Push(absl::string_view piece, OutputDelta* out) {
  out_ = out;
  for (char c : piece) Step(c);
  out_ = nullptr;
}

void ToolCallParser::Step(char c) {
  switch (state_) {
    case State::kText:
      return TextByte(c);
    case State::kMarked:
      return MarkedByte(c);
    case State::kNamed:
      return NamedByte(c);
    case State::kCall:
      return CallByte(c);
    case State::kAfterCall:
      return AfterCallByte(c);
  }
}

void ToolCallParser::Say(absl::string_view text) {
  absl::StrAppend(&out_->text, space_, text);
  space_.clear();
  fresh_ = false;
}

void ToolCallParser::TextByte(char c) {
  if (c == syntax_.begin[matched_]) {
    if (++matched_ < syntax_.begin.size()) return;
    raw_ = absl::StrCat(space_, syntax_.begin);
    space_.clear();
    matched_ = 0;
    in_list_ = unmarked_ = false;
    state_ = State::kMarked;
    return;
  }
  if (matched_ > 0) {
    Say(syntax_.begin.substr(0, std::exchange(matched_, 0)));
    return TextByte(c);
  }
  const bool between = syntax_.bare && fresh_ && index_ > 0 && c == ';';
  if (absl::ascii_isspace(c) || between) {
    space_.push_back(c);
  } else if (syntax_.bare && fresh_ && c == '{') {
    raw_ = std::exchange(space_, "");
    unmarked_ = true;
    BeginCall(CallScanner(/*strict=*/true));
    CallByte(c);
  } else {
    Say({&c, 1});
  }
}

void ToolCallParser::MarkedByte(char c) {
  if (c == '{') {
    BeginCall(CallScanner());
    return CallByte(c);
  }
  const bool opens = syntax_.list && !in_list_ && c == '[';
  const bool names = syntax_.list && !in_list_ && IsOfName(c);
  if (!opens && !names && !absl::ascii_isspace(c)) return Fail(c);
  raw_.push_back(c);
  in_list_ |= opens;
  if (!names) return;
  head_.assign(1, c);
  state_ = State::kNamed;
}

void ToolCallParser::NamedByte(char c) {
  if (c == '{') {
    std::string name = NameOf(head_);
    if (name.empty()) return Fail(c);
    BeginCall(CallScanner::OfArguments(std::move(name)));
    return CallByte(c);
  }
  if (head_.size() >= kLongestHead) return Fail(c);
  head_.push_back(c);
  raw_.push_back(c);
}

void ToolCallParser::BeginCall(CallScanner scanner) {
  scanner_ = std::move(scanner);
  begun_ = false;
  state_ = State::kCall;
}

void ToolCallParser::CallByte(char c) {
  const CallScanner::Result result = scanner_.Push(c);
  if (result == CallScanner::Result::kBroken) return Fail(c);
  if (unmarked_ && !scanner_.name().empty() &&
      std::find(tools_.begin(), tools_.end(), scanner_.name()) == tools_.end()) {
    return Fail(c);
  }
  raw_.push_back(c);
  ShowCall();
  if (result == CallScanner::Result::kDone) EndCall();
}

CallDelta& ToolCallParser::DeltaOfCall() {
  if (out_->calls.empty() || out_->calls.back().index != index_) out_->calls.push_back({.index = index_});
  return out_->calls.back();
}

void ToolCallParser::ShowCall() {
  if (scanner_.name().empty() || !scanner_.arguments_begun()) return;
  const std::string arguments = scanner_.TakeArguments();
  const bool shown = parallel_ || index_ == 0;
  if (shown && !begun_) DeltaOfCall().name = scanner_.name();
  if (shown && !arguments.empty()) DeltaOfCall().arguments += arguments;
  begun_ = true;
}

void ToolCallParser::EndCall() {
  ++index_;
  raw_.clear();
  begun_ = false;
  fresh_ = true;
  state_ = syntax_.end.empty() && !in_list_ ? State::kText : State::kAfterCall;
}

void ToolCallParser::AfterCallByte(char c) {
  if (in_list_) {
    if (absl::ascii_isspace(c)) return;
    state_ = c == ',' ? State::kMarked : State::kText;
    if (c == ',') raw_ = ",";
    if (c != ',' && c != ']') TextByte(c);
    return;
  }
  if (c == syntax_.end[matched_]) {
    if (++matched_ < syntax_.end.size()) return;
    matched_ = 0;
    space_.clear();
    state_ = State::kText;
    return;
  }
  if (matched_ == 0 && absl::ascii_isspace(c)) {
    space_.push_back(c);
    return;
  }
  state_ = State::kText;
  for (char held : syntax_.end.substr(0, std::exchange(matched_, 0))) TextByte(held);
  Step(c);
}

void ToolCallParser::Fail(char c) {
  state_ = State::kText;
  if (begun_) {
    if (parallel_ || index_ == 0) DeltaOfCall().undone = std::exchange(raw_, "");
    ++index_;
    begun_ = false;
    fresh_ = false;
  } else {
    Say(std::exchange(raw_, ""));
  }
  TextByte(c);
}

void ToolCallParser::Flush(OutputDelta* out) {
  out_ = out;
  if (state_ == State::kText) {
    if (matched_ > 0) Say(syntax_.begin.substr(0, matched_));
    if (index_ == 0 || !fresh_) Say("");
  } else if (state_ == State::kCall && begun_) {
    if (parallel_ || index_ == 0) DeltaOfCall().undone = raw_;
  } else if (state_ != State::kAfterCall) {
    Say(raw_);
  }
  state_ = State::kText;
  matched_ = 0;
  raw_.clear();
  space_.clear();
  out_ = nullptr;
}

std::string CallId(const ToolSyntax& syntax, absl::string_view answer, size_t choice, size_t index) {
  constexpr absl::string_view kLetters = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
  uint64_t state = Mixed(choice << 32 | index);
  for (char c : answer) state = Mixed(state ^ static_cast<unsigned char>(c));
  std::string id(syntax.id_prefix);
  for (int i = 0; i < syntax.id_letters; ++i) {
    state = Mixed(state);
    id.push_back(kLetters[state % kLetters.size()]);
  }
  return id;
}

}  // namespace interlace
