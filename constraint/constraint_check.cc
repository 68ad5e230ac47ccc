#include "constraint/constraint_check.h"

#include "absl/strings/str_cat.h"
#include "constraint/schema_check.h"

namespace interlace {

absl::Status CheckConstraint(const Constraint& constraint) {
  if (constraint.text.size() > kLongestConstraint) {
    return absl::InvalidArgumentError(
        absl::StrCat("it has ", constraint.text.size(), " bytes; at most ", kLongestConstraint));
  }
  switch (constraint.kind) {
    case ConstraintKind::kJsonObject:
      return absl::OkStatus();
    case ConstraintKind::kJsonSchema:
      return CheckSchema(constraint.text);
    case ConstraintKind::kRegex:
      return CheckPattern(constraint.text, "");
    case ConstraintKind::kEbnf:
    case ConstraintKind::kLark:
      return CheckGrammarText(constraint.text, "");
    case ConstraintKind::kStructure:
      return CheckStructure(constraint.text);
  }
  return absl::InvalidArgumentError("a constraint of no known kind");
}

}  // namespace interlace
