// What a JSON schema may hold here; pure functions.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace interlace {

// InvalidArgument names the place in the schema and what is wrong there: a keyword that the grammar of the schema would
// leave out, so that an output might not be valid, or a schema that is larger than what is compiled in bounded time.
// What is no schema at all may be found by the compiler alone. `text`: of a schema, or of xgrammar's structural tags,
// whose schemas, patterns and grammars are checked.
absl::Status CheckSchema(absl::string_view text);
absl::Status CheckStructure(absl::string_view text);

// The same schema, or structure, whose objects have no members but those that they name, where they name any. Requires:
// a text that was found good.
std::string NarrowedText(absl::string_view text, bool structure);

// Of a pattern; `where` begins the message.
absl::Status CheckPattern(absl::string_view pattern, absl::string_view where);
// Of a grammar in EBNF or Lark's syntax: lengths, depth of its parentheses and counts alone.
absl::Status CheckGrammarText(absl::string_view text, absl::string_view where);

}  // namespace interlace
