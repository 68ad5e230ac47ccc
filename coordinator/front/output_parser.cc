#include "coordinator/front/output_parser.h"

#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"

namespace interlace {

void ThoughtSplitter::Push(absl::string_view piece, std::string* thought, std::string* rest) {
  for (size_t i = 0; i < piece.size(); ++i) {
    if (state_ == State::kRest) {
      absl::StrAppend(rest, piece.substr(i));
      return;
    }
    Step(piece[i], thought, rest);
  }
}

void ThoughtSplitter::Step(char c, std::string* thought, std::string* rest) {
  const bool space = absl::ascii_isspace(c);
  if (state_ == State::kBehind) {
    if (space) return;
    state_ = State::kRest;
  }
  if (state_ == State::kRest) {
    rest->push_back(c);
    return;
  }
  const absl::string_view mark = state_ == State::kBefore ? kThoughtBegin : kThoughtEnd;
  if (c == mark[matched_]) {
    if (++matched_ < mark.size()) return;
    matched_ = 0;
    space_.clear();
    state_ = state_ == State::kBefore ? State::kThought : State::kBehind;
    return;
  }
  if (matched_ == 0 && space) {
    if (state_ == State::kBefore || thought_begun_) space_.push_back(c);
    return;
  }
  std::string* out = state_ == State::kBefore ? rest : thought;
  absl::StrAppend(out, std::exchange(space_, ""), mark.substr(0, std::exchange(matched_, 0)));
  if (state_ == State::kBefore) {
    state_ = State::kRest;
    return Step(c, thought, rest);
  }
  thought_begun_ = true;
  if (c == mark[0]) {
    matched_ = 1;
  } else if (space) {
    space_.push_back(c);
  } else {
    thought->push_back(c);
  }
}

void ThoughtSplitter::Flush(std::string* thought, std::string* rest) {
  if (state_ == State::kBefore) absl::StrAppend(rest, space_, kThoughtBegin.substr(0, matched_));
  if (state_ == State::kThought && matched_ > 0) absl::StrAppend(thought, space_, kThoughtEnd.substr(0, matched_));
  state_ = State::kRest;
}

OutputParser::OutputParser(const OutputForm& form) {
  if (form.thinks) thought_.emplace(form.in_thought);
  if (form.syntax != nullptr) calls_.emplace(*form.syntax, form.tools, form.parallel);
}

void OutputParser::Rest(absl::string_view text, OutputDelta* out) {
  if (calls_) {
    calls_->Push(text, out);
  } else {
    absl::StrAppend(&out->text, text);
  }
}

OutputDelta OutputParser::Push(absl::string_view piece) {
  OutputDelta out;
  std::string rest;
  if (thought_) {
    thought_->Push(piece, &out.thought, &rest);
    piece = rest;
  }
  Rest(piece, &out);
  return out;
}

OutputDelta OutputParser::Flush() {
  OutputDelta out;
  std::string rest;
  if (thought_) thought_->Flush(&out.thought, &rest);
  Rest(rest, &out);
  if (calls_) calls_->Flush(&out);
  return out;
}

}  // namespace interlace
