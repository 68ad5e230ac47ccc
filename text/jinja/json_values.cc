#include <limits>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "text/jinja/value.h"

namespace interlace::jinja {
namespace {

// Builds values while the document is read, so that nothing deep is ever held or freed by recursion.
class Builder : public nlohmann::json_sax<nlohmann::ordered_json> {
 public:
  Builder(bool marked, Heap& heap) : marked_(marked), heap_(heap) {}
  Value root;
  std::string error;

  bool null() override { return Add(Value::MakeNone()); }
  bool boolean(bool value) override { return Add(Value(value)); }
  bool number_integer(number_integer_t value) override { return Add(Value(int64_t{value})); }
  bool number_unsigned(number_unsigned_t value) override {
    if (value > static_cast<number_unsigned_t>(std::numeric_limits<int64_t>::max())) {
      return Fail(absl::StrCat("the integer ", value, " does not fit 64 bits"));
    }
    return Add(Value(static_cast<int64_t>(value)));
  }
  bool number_float(number_float_t value, const string_t& text) override {
    if (text.find_first_of(".eE") == std::string::npos) return Fail("an integer does not fit 64 bits");
    return Add(Value(static_cast<double>(value)));
  }
  bool string(string_t& value) override { return Add(Value(Text(std::move(value), marked_))); }
  bool binary(binary_t&) override { return Fail("binary"); }
  bool start_object(std::size_t) override { return Open(heap_.NewMap()); }
  bool key(string_t& value) override {
    keys_.back() = std::move(value);
    return true;
  }
  bool end_object() override { return Close(); }
  bool start_array(std::size_t) override { return Open(heap_.NewList()); }
  bool end_array() override { return Close(); }
  bool parse_error(std::size_t position, const std::string&, const nlohmann::detail::exception&) override {
    return Fail(absl::StrCat("it is not JSON at byte ", position));
  }

 private:
  static constexpr size_t kDeepest = 100;

  bool Fail(std::string what) {
    if (error.empty()) error = std::move(what);
    return false;
  }
  bool Add(Value value) {
    if (open_.empty()) {
      root = value;
    } else if (List* list = open_.back().list()) {
      list->items.push_back(value);
    } else {
      open_.back().map()->Set(TextKey(keys_.back()), Value(Text(keys_.back(), marked_)), value);
    }
    return true;
  }
  template <typename T>
  bool Open(T* value) {
    if (open_.size() >= kDeepest) return Fail(absl::StrCat("it is more than ", kDeepest, " deep"));
    Add(Value(value));
    open_.push_back(Value(value));
    keys_.emplace_back();
    return true;
  }
  bool Close() {
    open_.pop_back();
    keys_.pop_back();
    return true;
  }

  const bool marked_;
  Heap& heap_;
  std::vector<Value> open_;
  std::vector<std::string> keys_;  // the last key of each open object
};

}  // namespace

absl::StatusOr<Value> FromJson(absl::string_view json, absl::string_view field, bool marked, Heap& heap) {
  Builder builder(marked, heap);
  if (!nlohmann::ordered_json::sax_parse(json.begin(), json.end(), &builder)) {
    return absl::InvalidArgumentError(absl::StrCat(field, ": ", builder.error));
  }
  return builder.root;
}

}  // namespace interlace::jinja
