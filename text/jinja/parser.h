// Parser: a template's tokens as a syntax tree.
#pragma once

#include <vector>

#include "absl/status/statusor.h"
#include "text/jinja/lexer.h"
#include "text/jinja/syntax.h"

namespace interlace::jinja {

// InvalidArgument with the line of what breaks the grammar or nests too deep; Unimplemented with the line and name of a
// tag, filter or test that is not built in.
absl::StatusOr<Block> Parse(const std::vector<Token>& tokens);

}  // namespace interlace::jinja
