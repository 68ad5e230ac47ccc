// Value: what expressions of a template evaluate to; Python's values as far as templates see them.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "text/jinja/text.h"

namespace interlace::jinja {

struct List;
struct Map;
struct Function;
struct Loop;

// Small, copied freely. Lists and maps are shared, as in Python, and belong to the Heap of the rendering.
class Value {
 public:
  struct None {
    bool operator==(const None&) const { return true; }
  };
  // What is missing; prints as nothing. `name` is for messages.
  struct Undefined {
    std::shared_ptr<const std::string> name;
  };
  using TextRef = std::shared_ptr<const Text>;

  Value() : held_(Undefined{}) {}
  Value(const Value&);
  Value(Value&&) noexcept;
  Value& operator=(const Value&);
  Value& operator=(Value&&) noexcept;
  ~Value();
  Value(bool flag) : held_(flag) {}
  Value(int64_t number) : held_(number) {}
  Value(int number) : held_(int64_t{number}) {}
  Value(size_t number) : held_(static_cast<int64_t>(number)) {}
  Value(double number) : held_(number) {}
  Value(Text text) : held_(std::make_shared<const Text>(std::move(text))) {}
  Value(absl::string_view text) : Value(Text(std::string(text))) {}
  Value(const char* text) : Value(absl::string_view(text)) {}
  Value(List* list) : held_(list) {}
  Value(Map* map) : held_(map) {}
  Value(Function* function) : held_(function) {}
  Value(Loop* loop) : held_(loop) {}
  static Value MakeNone() {
    Value value;
    value.held_ = None{};
    return value;
  }
  static Value MakeUndefined(absl::string_view name) {
    Value value;
    value.held_ = Undefined{std::make_shared<const std::string>(name)};
    return value;
  }

  bool IsUndefined() const { return std::holds_alternative<Undefined>(held_); }
  bool IsNone() const { return std::holds_alternative<None>(held_); }
  const bool* flag() const { return std::get_if<bool>(&held_); }
  const int64_t* integer() const { return std::get_if<int64_t>(&held_); }
  const double* real() const { return std::get_if<double>(&held_); }
  const Text* text() const {
    const auto* ref = std::get_if<TextRef>(&held_);
    return ref == nullptr ? nullptr : ref->get();
  }
  List* list() const { return Held<List>(); }
  Map* map() const { return Held<Map>(); }
  Function* function() const { return Held<Function>(); }
  Loop* loop() const { return Held<Loop>(); }
  bool IsNumber() const { return flag() != nullptr || integer() != nullptr || real() != nullptr; }
  // Requires: IsNumber().
  double AsReal() const;
  // A flag or an integer as an integer.
  bool AsInteger(int64_t* out) const;

  bool Truth() const;
  // As messages name it: "str", "dict", ...
  absl::string_view TypeName() const;
  // "'x' is undefined" for what is, of the name it was looked up by.
  std::string UndefinedMessage() const;

 private:
  template <typename T>
  T* Held() const {
    T* const* held = std::get_if<T*>(&held_);
    return held == nullptr ? nullptr : *held;
  }
  std::variant<Undefined, None, bool, int64_t, double, TextRef, List*, Map*, Function*, Loop*> held_;
};

struct List {
  std::vector<Value> items;
  bool tuple = false;  // prints with parentheses, equals no list
  // What a filter like map gives: true, without length or index, and empty once it was walked.
  bool generator = false;
};

// In the order of insertion. Keys are what Python can hash, told apart by KeyOf.
struct Map {
  std::vector<std::pair<Value, Value>> entries;
  absl::flat_hash_map<std::string, size_t> index;
  bool is_namespace = false;  // of the global namespace(): attributes, no items

  const Value* Find(const std::string& key) const;
  void Set(const std::string& key, const Value& name, const Value& value);
  bool Erase(const std::string& key);
};

// Tells the keys of a map apart: equal for equal keys. False iff the value cannot be a key.
bool KeyOf(const Value& value, std::string* key);
std::string TextKey(absl::string_view text);

class Evaluator;

// Arguments of a call.
struct Arguments {
  std::vector<Value> positional;
  std::vector<std::pair<std::string, Value>> named;
};

// A macro, a global function or a method of a value.
struct Function {
  std::string name;
  std::function<absl::StatusOr<Value>(Evaluator&, Arguments&)> call;
};

// The `loop` of a for statement.
struct Loop {
  std::vector<Value> items;
  size_t index = 0;  // from 0
  Value last_changed;
  bool changed_before = false;
};

// Owns what values point to for one rendering; freed at its end, cycles included.
class Heap {
 public:
  List* NewList(std::vector<Value> items = {}, bool tuple = false) {
    lists_.push_back({std::move(items), tuple, false});
    return &lists_.back();
  }
  List* NewGenerator(std::vector<Value> items) {
    lists_.push_back({std::move(items), false, true});
    return &lists_.back();
  }
  Map* NewMap() {
    maps_.emplace_back();
    return &maps_.back();
  }
  Function* NewFunction(std::string name, std::function<absl::StatusOr<Value>(Evaluator&, Arguments&)> call) {
    functions_.push_back({std::move(name), std::move(call)});
    return &functions_.back();
  }
  Loop* NewLoop() {
    loops_.emplace_back();
    return &loops_.back();
  }

 private:
  std::deque<List> lists_;
  std::deque<Map> maps_;
  std::deque<Function> functions_;
  std::deque<Loop> loops_;
};

// How tojson and json.dumps write.
struct JsonStyle {
  bool ascii = false, sort_keys = false;
  bool lines = false;  // an indent was given
  std::string indent;
  std::string item_separator = ", ", key_separator = ": ";
};

// Bounds of what one call below may walk and write; each lowers them and fails when they are used up. Depth bounds
// recursion: values may contain themselves.
struct Budget {
  int64_t steps = 0;
  int64_t bytes = 0;
  absl::Status Step(int64_t count = 1);
  absl::Status Write(int64_t count);
};

absl::StatusOr<bool> Equal(const Value& a, const Value& b, Budget& budget, int depth = 0);
// Negative, zero or positive. InvalidArgument if Python cannot order them.
absl::StatusOr<int> Compare(const Value& a, const Value& b, Budget& budget, int depth = 0);
// Python's str(), marks kept where the value is a text, else all marked if anything in it was.
absl::StatusOr<Text> ToText(const Value& value, Budget& budget);
absl::StatusOr<Text> ToRepr(const Value& value, Budget& budget);
absl::StatusOr<Text> ToJson(const Value& value, const JsonStyle& style, Budget& budget);
// Python's repr of a float.
std::string RealText(double number);

// A JSON document as values; every text in it is marked if `marked`. InvalidArgument names `field` and where it breaks.
absl::StatusOr<Value> FromJson(absl::string_view json, absl::string_view field, bool marked, Heap& heap);

}  // namespace interlace::jinja
