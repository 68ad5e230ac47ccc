// Filters that take or make lists; listed in filters.cc.
#pragma once

#include "absl/status/statusor.h"
#include "text/jinja/value.h"

namespace interlace::jinja {

class Evaluator;

absl::StatusOr<Value> Batch(Evaluator& evaluator, const Value& value, Arguments& arguments);
absl::StatusOr<Value> DictSort(Evaluator& evaluator, const Value& value, Arguments& arguments);
absl::StatusOr<Value> First(Evaluator& evaluator, const Value& value, Arguments& arguments);
absl::StatusOr<Value> GroupBy(Evaluator& evaluator, const Value& value, Arguments& arguments);
absl::StatusOr<Value> Items(Evaluator& evaluator, const Value& value, Arguments& arguments);
absl::StatusOr<Value> Join(Evaluator& evaluator, const Value& value, Arguments& arguments);
absl::StatusOr<Value> Last(Evaluator& evaluator, const Value& value, Arguments& arguments);
absl::StatusOr<Value> ListOf(Evaluator& evaluator, const Value& value, Arguments& arguments);
absl::StatusOr<Value> MapValues(Evaluator& evaluator, const Value& value, Arguments& arguments);
absl::StatusOr<Value> Max(Evaluator& evaluator, const Value& value, Arguments& arguments);
absl::StatusOr<Value> Min(Evaluator& evaluator, const Value& value, Arguments& arguments);
absl::StatusOr<Value> Reject(Evaluator& evaluator, const Value& value, Arguments& arguments);
absl::StatusOr<Value> RejectAttr(Evaluator& evaluator, const Value& value, Arguments& arguments);
absl::StatusOr<Value> Reverse(Evaluator& evaluator, const Value& value, Arguments& arguments);
absl::StatusOr<Value> Select(Evaluator& evaluator, const Value& value, Arguments& arguments);
absl::StatusOr<Value> SelectAttr(Evaluator& evaluator, const Value& value, Arguments& arguments);
absl::StatusOr<Value> Slice(Evaluator& evaluator, const Value& value, Arguments& arguments);
absl::StatusOr<Value> Sort(Evaluator& evaluator, const Value& value, Arguments& arguments);
absl::StatusOr<Value> Sum(Evaluator& evaluator, const Value& value, Arguments& arguments);
absl::StatusOr<Value> Unique(Evaluator& evaluator, const Value& value, Arguments& arguments);

}  // namespace interlace::jinja
