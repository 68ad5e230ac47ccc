// The filters, tests, methods and global functions of templates, each a table.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "text/jinja/value.h"

namespace interlace::jinja {

class Evaluator;

// `arguments` hold what stands in parentheses.
struct FilterRow {
  absl::string_view name;
  absl::StatusOr<Value> (*apply)(Evaluator&, const Value&, Arguments&);
};
struct TestRow {
  absl::string_view name;
  absl::StatusOr<bool> (*holds)(Evaluator&, const Value&, Arguments&);
};
struct FunctionRow {
  absl::string_view name;
  absl::StatusOr<Value> (*call)(Evaluator&, Arguments&);
};
struct MethodRow {
  absl::string_view name;
  absl::StatusOr<Value> (*call)(Evaluator&, const Value&, Arguments&);
};

// Null if there is none.
const FilterRow* FindFilter(absl::string_view name);
const TestRow* FindTest(absl::string_view name);
const FunctionRow* FindFunction(absl::string_view name);
const MethodRow* FindMethod(const Value& value, absl::string_view name);

// Takes the arguments of one call by position or name, as a Python function with such parameters does.
class Taker {
 public:
  Taker(absl::string_view callee, Arguments& arguments) : callee_(callee), arguments_(arguments) {}
  // The next parameter; undefined if the call does not give it.
  Value Take(absl::string_view name);
  absl::StatusOr<Value> Need(absl::string_view name);
  absl::StatusOr<bool> Flag(absl::string_view name, bool fallback);
  absl::StatusOr<int64_t> Integer(absl::string_view name, int64_t fallback);
  // Null: not given, or none.
  absl::StatusOr<const Text*> Words(absl::string_view name);
  // InvalidArgument names an argument that was not taken.
  absl::Status Done() const;

 private:
  const absl::string_view callee_;
  Arguments& arguments_;
  size_t next_ = 0;
  size_t named_taken_ = 0;
  std::vector<Value> kept_;  // texts that Words gave out
};

}  // namespace interlace::jinja
