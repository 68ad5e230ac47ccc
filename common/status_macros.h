// Early return on errors. The packaged abseil has no such macros; the names are those of newer releases' habit.
#pragma once

#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

#define RETURN_IF_ERROR(expr)                                         \
  do {                                                                \
    if (absl::Status _status = (expr); !_status.ok()) return _status; \
  } while (false)

#define INTERLACE_CONCAT_INNER(a, b) a##b
#define INTERLACE_CONCAT(a, b) INTERLACE_CONCAT_INNER(a, b)
#define INTERLACE_ASSIGN_OR_RETURN(tmp, lhs, expr) \
  auto tmp = (expr);                               \
  if (!tmp.ok()) return std::move(tmp).status();   \
  lhs = *std::move(tmp)

// ASSIGN_OR_RETURN(auto x, MakeX()): x on success, else return the status.
#define ASSIGN_OR_RETURN(lhs, expr) INTERLACE_ASSIGN_OR_RETURN(INTERLACE_CONCAT(_status_or_, __LINE__), lhs, expr)
