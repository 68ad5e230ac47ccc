#include <algorithm>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "text/jinja/builtins.h"
#include "text/jinja/evaluator.h"
#include "text/jinja/formatting.h"

namespace interlace::jinja {

Value Taker::Take(absl::string_view name) {
  if (next_ < arguments_.positional.size()) return arguments_.positional[next_++];
  ++next_;
  for (const auto& [known, value] : arguments_.named) {
    if (known != name) continue;
    ++named_taken_;
    return value;
  }
  return Value();
}

absl::StatusOr<Value> Taker::Need(absl::string_view name) {
  const size_t before = named_taken_;
  const bool positional = next_ < arguments_.positional.size();
  const Value value = Take(name);
  if (positional || named_taken_ > before) return value;
  return absl::InvalidArgumentError(absl::StrCat(callee_, " needs the argument '", name, "'"));
}

absl::StatusOr<bool> Taker::Flag(absl::string_view name, bool fallback) {
  const Value value = Take(name);
  return value.IsUndefined() ? fallback : value.Truth();
}

absl::StatusOr<int64_t> Taker::Integer(absl::string_view name, int64_t fallback) {
  const Value value = Take(name);
  int64_t number;
  if (value.AsInteger(&number)) return number;
  if (value.IsUndefined() || value.IsNone()) return fallback;
  return absl::InvalidArgumentError(absl::StrCat(callee_, ": '", name, "' is a ", value.TypeName(), ", not an int"));
}

absl::StatusOr<const Text*> Taker::Words(absl::string_view name) {
  kept_.reserve(8);
  kept_.push_back(Take(name));
  const Value& value = kept_.back();
  if (value.text() != nullptr || value.IsUndefined() || value.IsNone()) return value.text();
  return absl::InvalidArgumentError(absl::StrCat(callee_, ": '", name, "' is a ", value.TypeName(), ", not a str"));
}

absl::Status Taker::Done() const {
  if (next_ < arguments_.positional.size()) {
    return absl::InvalidArgumentError(absl::StrCat(callee_, " takes not more than ", next_, " arguments"));
  }
  if (named_taken_ < arguments_.named.size()) {
    return absl::InvalidArgumentError(absl::StrCat(
        callee_, " is given a name it does not know or takes otherwise, among '", arguments_.named[0].first, "'"));
  }
  return absl::OkStatus();
}

namespace {

using Result = absl::StatusOr<Value>;

constexpr int64_t kLongestRange = 100'000;  // Jinja's sandbox has the same

Result Range(Evaluator& evaluator, Arguments& arguments) {
  int64_t bounds[3] = {0, 0, 1};
  const size_t count = arguments.positional.size();
  if (count < 1 || count > 3 || !arguments.named.empty())
    return absl::InvalidArgumentError("range takes 1 to 3 integers");
  for (size_t i = 0; i < count; ++i) {
    const Value& given = arguments.positional[i];
    if (given.IsUndefined()) return absl::InvalidArgumentError(given.UndefinedMessage());
    if (!given.AsInteger(&bounds[i])) return absl::InvalidArgumentError(absl::StrCat("range of a ", given.TypeName()));
  }
  if (count == 1) std::swap(bounds[0], bounds[1]);
  const auto [begin, end, step] = bounds;
  if (step == 0) return absl::InvalidArgumentError("range has step 0");
  const __int128 span = step > 0 ? static_cast<__int128>(end) - begin : static_cast<__int128>(begin) - end;
  const __int128 stride = step > 0 ? static_cast<__int128>(step) : -static_cast<__int128>(step);
  const __int128 items = span <= 0 ? 0 : (span + stride - 1) / stride;
  if (items > kLongestRange) return absl::InvalidArgumentError("range is longer than 100000");
  RETURN_IF_ERROR(evaluator.budget().Step(static_cast<int64_t>(items)));
  std::vector<Value> out;
  for (int64_t i = 0; i < static_cast<int64_t>(items); ++i) out.emplace_back(begin + i * step);
  return Value(evaluator.heap().NewList(std::move(out)));
}

absl::StatusOr<Map*> MapOfArguments(Evaluator& evaluator, Arguments& arguments) {
  Map* map = evaluator.heap().NewMap();
  if (arguments.positional.size() > 1) return absl::InvalidArgumentError("dict takes one value and names");
  if (!arguments.positional.empty()) {
    const Value& from = arguments.positional[0];
    if (from.map() != nullptr) {
      map->entries = from.map()->entries;
      map->index = from.map()->index;
      RETURN_IF_ERROR(evaluator.budget().Step(static_cast<int64_t>(map->entries.size())));
    } else {
      ASSIGN_OR_RETURN(const std::vector<Value> pairs, evaluator.Items(from));
      for (const Value& pair : pairs) {
        ASSIGN_OR_RETURN(const std::vector<Value> parts, evaluator.Items(pair));
        std::string key;
        if (parts.size() != 2 || !KeyOf(parts[0], &key))
          return absl::InvalidArgumentError("dict takes pairs of a key and a value");
        map->Set(key, parts[0], parts[1]);
      }
    }
  }
  for (const auto& [name, value] : arguments.named) map->Set(TextKey(name), Value(name), value);
  return map;
}

Result Dict(Evaluator& evaluator, Arguments& arguments) {
  ASSIGN_OR_RETURN(Map* const map, MapOfArguments(evaluator, arguments));
  return Value(map);
}

Result Namespace(Evaluator& evaluator, Arguments& arguments) {
  ASSIGN_OR_RETURN(Map* const map, MapOfArguments(evaluator, arguments));
  for (const auto& [name, value] : map->entries) {
    if (name.text() != nullptr && name.text()->bytes.substr(0, 1) == "_") {
      return absl::InvalidArgumentError("an attribute of a namespace must not begin with _");
    }
  }
  map->is_namespace = true;
  return Value(map);
}

Result RaiseException(Evaluator& evaluator, Arguments& arguments) {
  Taker taker("raise_exception", arguments);
  ASSIGN_OR_RETURN(const Value message, taker.Need("message"));
  ASSIGN_OR_RETURN(const Text text, ToText(message, evaluator.budget()));
  return absl::InvalidArgumentError(absl::StrCat("the template refuses: ", text.bytes.substr(0, 500)));
}

Result StrftimeNow(Evaluator& evaluator, Arguments& arguments) {
  Taker taker("strftime_now", arguments);
  ASSIGN_OR_RETURN(const Text* const format, taker.Words("format"));
  if (format == nullptr) return absl::InvalidArgumentError("strftime_now needs a format");
  RETURN_IF_ERROR(taker.Done());
  RETURN_IF_ERROR(evaluator.budget().Write(static_cast<int64_t>(format->bytes.size() * 8)));
  ASSIGN_OR_RETURN(std::string text, FormatTime(format->bytes, evaluator.wall_seconds()));
  return Value(Text(std::move(text)));
}

constexpr FunctionRow kFunctions[] = {{"range", Range},
                                      {"dict", Dict},
                                      {"namespace", Namespace},
                                      {"raise_exception", RaiseException},
                                      {"strftime_now", StrftimeNow}};

}  // namespace

const FunctionRow* FindFunction(absl::string_view name) {
  const auto* it = std::find_if(std::begin(kFunctions), std::end(kFunctions),
                                [&](const FunctionRow& row) { return row.name == name; });
  return it == std::end(kFunctions) ? nullptr : it;
}

}  // namespace interlace::jinja
