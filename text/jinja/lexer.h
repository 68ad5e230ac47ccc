// Lexer: a template's source as tokens, with the white space rules that transformers sets.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace interlace::jinja {

enum class TokenKind {
  kData,
  kBlockBegin,
  kBlockEnd,
  kPrintBegin,
  kPrintEnd,
  kName,
  kText,
  kInteger,
  kReal,
  kOperator,
  kEnd
};

struct Token {
  TokenKind kind;
  std::string text;  // data, name, contents of a literal or the operator
  int line = 0;
  int64_t integer = 0;
  double real = 0;
};

// Tokens of `source`, the last one kEnd. trim_blocks and lstrip_blocks are on, a last line break is dropped.
// InvalidArgument with the line of what is not a template.
absl::StatusOr<std::vector<Token>> Lex(absl::string_view source);

}  // namespace interlace::jinja
