// ConstraintSpec: what a client wants its whole answer to be.
#pragma once

#include <string>

#include "proto/plan/sampling.h"

namespace interlace {

struct ConstraintSpec {
  Constraint constraint;  // without its end tokens
  std::string field;      // of the request, where it stands: refusals name it
};

// A tool has to be called: `name`, or any if it is empty.
struct ForcedCall {
  std::string name;
};

}  // namespace interlace
