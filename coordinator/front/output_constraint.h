// What an answer has to be, out of what its client asked for: a format, a call of a tool, a thought before either. Pure
// functions.
#pragma once

#include <optional>

#include "absl/status/statusor.h"
#include "coordinator/front/constraint_spec.h"
#include "coordinator/front/generation.h"
#include "coordinator/front/output_parser.h"
#include "text/tokenizer.h"

namespace interlace {

// Empty: the answer is free. InvalidArgument names the field. `form`: how the answer is read.
absl::StatusOr<std::optional<ConstraintSpec>> ConstraintOf(const GenerationSpec& spec, const OutputForm& form,
                                                           const Tokenizer& tokenizer);

}  // namespace interlace
