#include "text/jinja/list_filters.h"

#include <algorithm>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "common/status_macros.h"
#include "text/jinja/builtins.h"
#include "text/jinja/evaluator.h"

namespace interlace::jinja {
namespace {

using Result = absl::StatusOr<Value>;

absl::Status Wrong(absl::string_view what) { return absl::InvalidArgumentError(what); }

// The attribute that a filter is told to look at: a.b.0, or an index; the item itself if none is given.
absl::StatusOr<Value> Looked(Evaluator& evaluator, const Value& item, const Value& path) {
  if (path.IsUndefined() || path.IsNone()) return item;
  if (path.text() == nullptr) return evaluator.Item(item, path);
  Value value = item;
  for (const absl::string_view part : absl::StrSplit(path.text()->bytes, '.')) {
    int64_t index;
    ASSIGN_OR_RETURN(value, evaluator.Item(value, absl::SimpleAtoi(part, &index) ? Value(index) : Value(part)));
  }
  return value;
}

Value Folded(const Value& value, bool case_sensitive) {
  if (case_sensitive || value.text() == nullptr) return value;
  return Value(Text(WithCase(value.text()->bytes, Case::kLower), value.text()->Marked()));
}

// Sorts pairs of (key, item) by their keys, in order.
absl::Status SortByKeys(Evaluator& evaluator, bool reverse, std::vector<std::pair<Value, Value>>* pairs) {
  absl::Status status;
  // Merges by hand: a comparison may fail, and then no order may be relied on.
  std::vector<std::pair<Value, Value>> other(pairs->size());
  for (size_t width = 1; width < pairs->size(); width *= 2) {
    for (size_t begin = 0; begin < pairs->size(); begin += 2 * width) {
      const size_t middle = std::min(begin + width, pairs->size()), end = std::min(begin + 2 * width, pairs->size());
      size_t a = begin, b = middle;
      for (size_t out = begin; out < end; ++out) {
        bool second = a == middle;
        if (a < middle && b < end) {
          ASSIGN_OR_RETURN(const int order, Compare((*pairs)[b].first, (*pairs)[a].first, evaluator.budget()));
          second = reverse ? order > 0 : order < 0;
        }
        other[out] = std::move((*pairs)[second ? b++ : a++]);
      }
    }
    pairs->swap(other);
  }
  return absl::OkStatus();
}

Value Generated(Evaluator& evaluator, std::vector<Value> items) {
  return Value(evaluator.heap().NewGenerator(std::move(items)));
}

// What select and its relatives share. With `attribute` the first argument is a path.
Result Chosen(Evaluator& evaluator, const Value& value, Arguments& arguments, bool attribute, bool wanted) {
  if (!value.Truth()) return Generated(evaluator, {});  // even none
  ASSIGN_OR_RETURN(const std::vector<Value> items, evaluator.Items(value));
  Value path;
  size_t used = 0;
  if (attribute) {
    if (arguments.positional.empty()) return Wrong("selectattr and rejectattr need an attribute");
    path = arguments.positional[used++];
  }
  const TestRow* test = nullptr;
  if (used < arguments.positional.size()) {
    const Text* name = arguments.positional[used++].text();
    test = name == nullptr ? nullptr : FindTest(name->bytes);
    if (test == nullptr)
      return Wrong(absl::StrCat("there is no test '", name == nullptr ? "" : name->bytes.substr(0, 80), "'"));
  }
  std::vector<Value> kept;
  for (const Value& item : items) {
    RETURN_IF_ERROR(evaluator.budget().Step());
    ASSIGN_OR_RETURN(const Value looked, Looked(evaluator, item, path));
    bool holds = looked.Truth();
    if (test != nullptr) {
      Arguments rest{{arguments.positional.begin() + static_cast<std::ptrdiff_t>(used), arguments.positional.end()},
                     arguments.named};
      ASSIGN_OR_RETURN(holds, test->holds(evaluator, looked, rest));
    }
    if (holds == wanted) kept.push_back(item);
  }
  return Generated(evaluator, std::move(kept));
}

Result Extreme(Evaluator& evaluator, const Value& value, Arguments& arguments, bool most) {
  Taker taker(most ? "max" : "min", arguments);
  ASSIGN_OR_RETURN(const bool case_sensitive, taker.Flag("case_sensitive", false));
  const Value path = taker.Take("attribute");
  RETURN_IF_ERROR(taker.Done());
  ASSIGN_OR_RETURN(const std::vector<Value> items, evaluator.Items(value));
  if (items.empty()) return Value::MakeUndefined("an item of an empty list");
  Value best, best_key;
  for (size_t i = 0; i < items.size(); ++i) {
    ASSIGN_OR_RETURN(const Value looked, Looked(evaluator, items[i], path));
    const Value key = Folded(looked, case_sensitive);
    int order = 1;
    if (i > 0) {
      ASSIGN_OR_RETURN(order, Compare(key, best_key, evaluator.budget()));
      if (!most) order = -order;
    }
    if (order > 0) {
      best = items[i];
      best_key = key;
    }
  }
  return best;
}

}  // namespace

Result Select(Evaluator& evaluator, const Value& value, Arguments& arguments) {
  return Chosen(evaluator, value, arguments, false, true);
}
Result Reject(Evaluator& evaluator, const Value& value, Arguments& arguments) {
  return Chosen(evaluator, value, arguments, false, false);
}
Result SelectAttr(Evaluator& evaluator, const Value& value, Arguments& arguments) {
  return Chosen(evaluator, value, arguments, true, true);
}
Result RejectAttr(Evaluator& evaluator, const Value& value, Arguments& arguments) {
  return Chosen(evaluator, value, arguments, true, false);
}
Result Max(Evaluator& evaluator, const Value& value, Arguments& arguments) {
  return Extreme(evaluator, value, arguments, true);
}
Result Min(Evaluator& evaluator, const Value& value, Arguments& arguments) {
  return Extreme(evaluator, value, arguments, false);
}

Result ListOf(Evaluator& evaluator, const Value& value, Arguments& arguments) {
  RETURN_IF_ERROR(Taker("list", arguments).Done());
  ASSIGN_OR_RETURN(std::vector<Value> items, evaluator.Items(value));
  return Value(evaluator.heap().NewList(std::move(items)));
}

Result First(Evaluator& evaluator, const Value& value, Arguments& arguments) {
  RETURN_IF_ERROR(Taker("first", arguments).Done());
  ASSIGN_OR_RETURN(const std::vector<Value> items, evaluator.Items(value));
  return items.empty() ? Value::MakeUndefined("the first item of nothing") : items.front();
}

Result Last(Evaluator& evaluator, const Value& value, Arguments& arguments) {
  RETURN_IF_ERROR(Taker("last", arguments).Done());
  if (value.list() != nullptr && value.list()->generator) return Wrong("last of a generator");
  ASSIGN_OR_RETURN(const std::vector<Value> items, evaluator.Items(value));
  return items.empty() ? Value::MakeUndefined("the last item of nothing") : items.back();
}

Result Items(Evaluator& evaluator, const Value& value, Arguments& arguments) {
  RETURN_IF_ERROR(Taker("items", arguments).Done());
  if (value.IsUndefined()) return Generated(evaluator, {});
  if (value.map() == nullptr || value.map()->is_namespace) return Wrong(absl::StrCat("items of a ", value.TypeName()));
  Arguments none;
  ASSIGN_OR_RETURN(const Value entries, FindMethod(value, "items")->call(evaluator, value, none));
  return Generated(evaluator, entries.list()->items);
}

Result Join(Evaluator& evaluator, const Value& value, Arguments& arguments) {
  Taker taker("join", arguments);
  const Value separator = taker.Take("d");
  const Value path = taker.Take("attribute");
  RETURN_IF_ERROR(taker.Done());
  ASSIGN_OR_RETURN(const std::vector<Value> items, evaluator.Items(value));
  Text between;
  if (!separator.IsUndefined()) {
    ASSIGN_OR_RETURN(between, ToText(separator, evaluator.budget()));
  }
  Text out;
  for (size_t i = 0; i < items.size(); ++i) {
    ASSIGN_OR_RETURN(const Value looked, Looked(evaluator, items[i], path));
    ASSIGN_OR_RETURN(const Text text, ToText(looked, evaluator.budget()));
    if (i > 0) {
      RETURN_IF_ERROR(evaluator.budget().Write(static_cast<int64_t>(between.bytes.size())));
      out.Append(between);
    }
    out.Append(text);
  }
  return Value(std::move(out));
}

Result Reverse(Evaluator& evaluator, const Value& value, Arguments& arguments) {
  RETURN_IF_ERROR(Taker("reverse", arguments).Done());
  ASSIGN_OR_RETURN(std::vector<Value> items, evaluator.Items(value));
  std::reverse(items.begin(), items.end());
  if (value.text() == nullptr) return Generated(evaluator, std::move(items));
  Text out;
  for (const Value& item : items) out.Append(*item.text());
  RETURN_IF_ERROR(evaluator.budget().Write(static_cast<int64_t>(out.bytes.size())));
  return Value(std::move(out));
}

Result MapValues(Evaluator& evaluator, const Value& value, Arguments& arguments) {
  if (!value.Truth()) return Generated(evaluator, {});  // even none
  ASSIGN_OR_RETURN(const std::vector<Value> items, evaluator.Items(value));
  std::vector<Value> out;
  if (arguments.positional.empty()) {
    Taker taker("map", arguments);
    ASSIGN_OR_RETURN(const Value path, taker.Need("attribute"));
    const Value fallback = taker.Take("default");
    RETURN_IF_ERROR(taker.Done());
    for (const Value& item : items) {
      RETURN_IF_ERROR(evaluator.budget().Step());
      ASSIGN_OR_RETURN(const Value looked, Looked(evaluator, item, path));
      out.push_back(looked.IsUndefined() && !fallback.IsUndefined() ? fallback : looked);
    }
    return Generated(evaluator, std::move(out));
  }
  const Text* name = arguments.positional[0].text();
  const FilterRow* filter = name == nullptr ? nullptr : FindFilter(name->bytes);
  if (filter == nullptr)
    return Wrong(absl::StrCat("there is no filter '", name == nullptr ? "" : name->bytes.substr(0, 80), "'"));
  for (const Value& item : items) {
    RETURN_IF_ERROR(evaluator.budget().Step());
    Arguments rest{{arguments.positional.begin() + 1, arguments.positional.end()}, arguments.named};
    ASSIGN_OR_RETURN(Value made, filter->apply(evaluator, item, rest));
    out.push_back(std::move(made));
  }
  return Generated(evaluator, std::move(out));
}

Result Sort(Evaluator& evaluator, const Value& value, Arguments& arguments) {
  Taker taker("sort", arguments);
  ASSIGN_OR_RETURN(const bool reverse, taker.Flag("reverse", false));
  ASSIGN_OR_RETURN(const bool case_sensitive, taker.Flag("case_sensitive", false));
  const Value attribute = taker.Take("attribute");
  RETURN_IF_ERROR(taker.Done());
  ASSIGN_OR_RETURN(const std::vector<Value> items, evaluator.Items(value));
  std::vector<std::pair<Value, Value>> pairs;
  for (const Value& item : items) {
    if (attribute.text() == nullptr) {
      ASSIGN_OR_RETURN(const Value looked, Looked(evaluator, item, attribute));
      pairs.emplace_back(Folded(looked, case_sensitive), item);
      continue;
    }
    std::vector<Value> keys;  // several attributes, divided by commas
    for (const absl::string_view path : absl::StrSplit(attribute.text()->bytes, ',')) {
      ASSIGN_OR_RETURN(const Value looked, Looked(evaluator, item, Value(path)));
      keys.push_back(Folded(looked, case_sensitive));
    }
    pairs.emplace_back(Value(evaluator.heap().NewList(std::move(keys))), item);
  }
  RETURN_IF_ERROR(SortByKeys(evaluator, reverse, &pairs));
  std::vector<Value> out;
  for (auto& [key, item] : pairs) out.push_back(std::move(item));
  return Value(evaluator.heap().NewList(std::move(out)));
}

Result DictSort(Evaluator& evaluator, const Value& value, Arguments& arguments) {
  Taker taker("dictsort", arguments);
  ASSIGN_OR_RETURN(const bool case_sensitive, taker.Flag("case_sensitive", false));
  ASSIGN_OR_RETURN(const Text* const by, taker.Words("by"));
  ASSIGN_OR_RETURN(const bool reverse, taker.Flag("reverse", false));
  RETURN_IF_ERROR(taker.Done());
  if (by != nullptr && by->bytes != "key" && by->bytes != "value") return Wrong("dictsort sorts by key or value");
  if (value.map() == nullptr || value.map()->is_namespace)
    return Wrong(absl::StrCat("dictsort of a ", value.TypeName()));
  std::vector<std::pair<Value, Value>> pairs;
  for (const auto& [name, held] : value.map()->entries) {
    const Value key = by != nullptr && by->bytes == "value" ? held : name;
    pairs.emplace_back(Folded(key, case_sensitive), Value(evaluator.heap().NewList({name, held}, true)));
  }
  RETURN_IF_ERROR(SortByKeys(evaluator, reverse, &pairs));
  std::vector<Value> out;
  for (auto& [key, item] : pairs) out.push_back(std::move(item));
  return Value(evaluator.heap().NewList(std::move(out)));
}

Result Unique(Evaluator& evaluator, const Value& value, Arguments& arguments) {
  Taker taker("unique", arguments);
  ASSIGN_OR_RETURN(const bool case_sensitive, taker.Flag("case_sensitive", false));
  const Value path = taker.Take("attribute");
  RETURN_IF_ERROR(taker.Done());
  ASSIGN_OR_RETURN(const std::vector<Value> items, evaluator.Items(value));
  Map* seen = evaluator.heap().NewMap();
  std::vector<Value> out;
  for (const Value& item : items) {
    ASSIGN_OR_RETURN(const Value looked, Looked(evaluator, item, path));
    std::string key;
    if (!KeyOf(Folded(looked, case_sensitive), &key)) return Wrong(absl::StrCat("unique of a ", looked.TypeName()));
    if (seen->Find(key) != nullptr) continue;
    seen->Set(key, looked, Value(true));
    out.push_back(item);
  }
  return Generated(evaluator, std::move(out));
}

Result GroupBy(Evaluator& evaluator, const Value& value, Arguments& arguments) {
  Taker taker("groupby", arguments);
  ASSIGN_OR_RETURN(const Value path, taker.Need("attribute"));
  const Value fallback = taker.Take("default");
  ASSIGN_OR_RETURN(const bool case_sensitive, taker.Flag("case_sensitive", false));
  RETURN_IF_ERROR(taker.Done());
  ASSIGN_OR_RETURN(const std::vector<Value> items, evaluator.Items(value));
  std::vector<std::pair<Value, Value>> pairs;
  for (const Value& item : items) {
    ASSIGN_OR_RETURN(Value looked, Looked(evaluator, item, path));
    if (looked.IsUndefined() && !fallback.IsUndefined()) looked = fallback;
    pairs.emplace_back(Folded(looked, case_sensitive), item);
  }
  RETURN_IF_ERROR(SortByKeys(evaluator, false, &pairs));
  std::vector<Value> groups;
  for (size_t begin = 0; begin < pairs.size();) {
    size_t end = begin;
    std::vector<Value> members;
    for (; end < pairs.size(); ++end) {
      ASSIGN_OR_RETURN(const bool same, Equal(pairs[end].first, pairs[begin].first, evaluator.budget()));
      if (!same) break;
      members.push_back(pairs[end].second);
    }
    ASSIGN_OR_RETURN(Value name, Looked(evaluator, members[0], path));
    if (name.IsUndefined() && !fallback.IsUndefined()) name = fallback;
    groups.emplace_back(evaluator.heap().NewList({name, Value(evaluator.heap().NewList(std::move(members)))}, true));
    begin = end;
  }
  return Value(evaluator.heap().NewList(std::move(groups)));
}

Result Sum(Evaluator& evaluator, const Value& value, Arguments& arguments) {
  Taker taker("sum", arguments);
  const Value path = taker.Take("attribute");
  const Value start = taker.Take("start");
  RETURN_IF_ERROR(taker.Done());
  ASSIGN_OR_RETURN(const std::vector<Value> items, evaluator.Items(value));
  Value total = start.IsUndefined() ? Value(0) : start;
  for (const Value& item : items) {
    ASSIGN_OR_RETURN(const Value looked, Looked(evaluator, item, path));
    ASSIGN_OR_RETURN(total, evaluator.Apply("+", total, looked));
  }
  return total;
}

Result Batch(Evaluator& evaluator, const Value& value, Arguments& arguments) {
  Taker taker("batch", arguments);
  ASSIGN_OR_RETURN(const int64_t size, taker.Integer("linecount", 0));
  const Value fill = taker.Take("fill_with");
  RETURN_IF_ERROR(taker.Done());
  if (size < 1) return Wrong("batch needs a size of at least 1");
  ASSIGN_OR_RETURN(const std::vector<Value> items, evaluator.Items(value));
  std::vector<Value> out;
  for (size_t begin = 0; begin < items.size();) {
    const size_t end = begin + std::min<size_t>(items.size() - begin, static_cast<size_t>(size));
    std::vector<Value> part(items.begin() + static_cast<std::ptrdiff_t>(begin),
                            items.begin() + static_cast<std::ptrdiff_t>(end));
    if (!fill.IsUndefined() && !fill.IsNone()) {
      RETURN_IF_ERROR(evaluator.budget().Step(size));
      part.resize(static_cast<size_t>(size), fill);
    }
    out.emplace_back(evaluator.heap().NewList(std::move(part)));
    begin = end;
  }
  return Generated(evaluator, std::move(out));
}

Result Slice(Evaluator& evaluator, const Value& value, Arguments& arguments) {
  Taker taker("slice", arguments);
  ASSIGN_OR_RETURN(const int64_t slices, taker.Integer("slices", 0));
  const Value fill = taker.Take("fill_with");
  RETURN_IF_ERROR(taker.Done());
  if (slices < 1) return Wrong("slice needs at least 1 slice");
  RETURN_IF_ERROR(evaluator.budget().Step(slices));
  ASSIGN_OR_RETURN(const std::vector<Value> items, evaluator.Items(value));
  const size_t count = static_cast<size_t>(slices), each = items.size() / count, more = items.size() % count;
  std::vector<Value> out;
  size_t begin = 0;
  for (size_t i = 0; i < count; ++i) {
    const size_t end = begin + each + (i < more ? 1 : 0);
    std::vector<Value> part(items.begin() + static_cast<std::ptrdiff_t>(begin),
                            items.begin() + static_cast<std::ptrdiff_t>(end));
    if (!fill.IsUndefined() && !fill.IsNone() && i >= more) part.push_back(fill);
    out.emplace_back(evaluator.heap().NewList(std::move(part)));
    begin = end;
  }
  return Generated(evaluator, std::move(out));
}

}  // namespace interlace::jinja
