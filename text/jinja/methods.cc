// Methods of texts, lists and maps. Names that Python has and templates do not use are listed so that they are defined,
// and say when called that they are not built in.
#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "text/jinja/builtins.h"
#include "text/jinja/evaluator.h"
#include "text/jinja/formatting.h"

namespace interlace::jinja {
namespace {

using Result = absl::StatusOr<Value>;

absl::Status Wrong(absl::string_view what) { return absl::InvalidArgumentError(what); }

Result NotBuiltIn(Evaluator&, const Value& self, Arguments&) {
  return absl::UnimplementedError(absl::StrCat("this method of a ", self.TypeName(), " is not built in"));
}

Value ListOf(Evaluator& evaluator, std::vector<Text> texts) {
  std::vector<Value> items;
  for (Text& text : texts) items.emplace_back(std::move(text));
  return Value(evaluator.heap().NewList(std::move(items)));
}

// Charges for a walk over a text.
absl::Status Walk(Evaluator& evaluator, const Text& text) {
  return evaluator.budget().Write(static_cast<int64_t>(text.bytes.size()));
}

// ---- texts

template <bool left, bool right>
Result Strip(Evaluator& evaluator, const Value& self, Arguments& arguments) {
  Taker taker("strip", arguments);
  ASSIGN_OR_RETURN(const Text* const characters, taker.Words("chars"));
  RETURN_IF_ERROR(taker.Done());
  RETURN_IF_ERROR(Walk(evaluator, *self.text()));
  if (characters != nullptr) {
    RETURN_IF_ERROR(evaluator.budget().Step(
        static_cast<int64_t>(self.text()->bytes.size() / 16 * std::min<size_t>(characters->bytes.size(), 1 << 20))));
  }
  return Value(Stripped(*self.text(), characters, left, right));
}

template <bool from_right>
Result SplitText(Evaluator& evaluator, const Value& self, Arguments& arguments) {
  Taker taker("split", arguments);
  ASSIGN_OR_RETURN(const Text* const separator, taker.Words("sep"));
  ASSIGN_OR_RETURN(const int64_t limit, taker.Integer("maxsplit", -1));
  RETURN_IF_ERROR(taker.Done());
  if (separator != nullptr && separator->bytes.empty()) return Wrong("split by an empty separator");
  RETURN_IF_ERROR(Walk(evaluator, *self.text()));
  std::vector<Text> parts = Split(*self.text(), separator, limit < 0 ? -1 : limit, from_right);
  RETURN_IF_ERROR(evaluator.budget().Step(static_cast<int64_t>(parts.size())));
  return ListOf(evaluator, std::move(parts));
}

Result SplitIntoLines(Evaluator& evaluator, const Value& self, Arguments& arguments) {
  Taker taker("splitlines", arguments);
  ASSIGN_OR_RETURN(const bool keep, taker.Flag("keepends", false));
  RETURN_IF_ERROR(taker.Done());
  RETURN_IF_ERROR(Walk(evaluator, *self.text()));
  std::vector<Text> parts = SplitLines(*self.text(), keep);
  RETURN_IF_ERROR(evaluator.budget().Step(static_cast<int64_t>(parts.size())));
  return ListOf(evaluator, std::move(parts));
}

template <bool from_right>
Result Partition(Evaluator& evaluator, const Value& self, Arguments& arguments) {
  Taker taker("partition", arguments);
  ASSIGN_OR_RETURN(const Text* const separator, taker.Words("sep"));
  RETURN_IF_ERROR(taker.Done());
  if (separator == nullptr || separator->bytes.empty()) return Wrong("partition by an empty separator");
  const Text& text = *self.text();
  RETURN_IF_ERROR(Walk(evaluator, text));
  const size_t at = from_right ? text.bytes.rfind(separator->bytes) : text.bytes.find(separator->bytes);
  std::vector<Value> parts;
  if (at == std::string::npos) {
    parts = {Value(text), Value(""), Value("")};
    if (from_right) std::swap(parts[0], parts[2]);
  } else {
    const size_t end = at + separator->bytes.size();
    parts = {Value(text.Part(0, at)), Value(text.Part(at, end)), Value(text.Part(end, text.bytes.size()))};
  }
  return Value(evaluator.heap().NewList(std::move(parts), true));
}

Result Replace(Evaluator& evaluator, const Value& self, Arguments& arguments) {
  Taker taker("replace", arguments);
  ASSIGN_OR_RETURN(const Text* const from, taker.Words("old"));
  ASSIGN_OR_RETURN(const Text* const to, taker.Words("new"));
  ASSIGN_OR_RETURN(const int64_t limit, taker.Integer("count", -1));
  RETURN_IF_ERROR(taker.Done());
  if (from == nullptr || to == nullptr) return Wrong("replace needs two texts");
  const auto size = static_cast<int64_t>(self.text()->bytes.size());
  const int64_t places = size / static_cast<int64_t>(std::max<size_t>(from->bytes.size(), 1)) + 1;
  const int64_t most = limit < 0 ? places : std::min(places, limit);
  RETURN_IF_ERROR(evaluator.budget().Write(size));
  if (most > 0 && static_cast<int64_t>(to->bytes.size()) > evaluator.budget().bytes / most) {
    return Wrong("it makes too much text");
  }
  Text made = self.text()->safe ? Replaced(*self.text(), Escaped(*from), Escaped(*to), limit)
                                : Replaced(*self.text(), *from, *to, limit);
  made.safe = self.text()->safe;
  RETURN_IF_ERROR(evaluator.budget().Write(static_cast<int64_t>(made.bytes.size())));
  return Value(std::move(made));
}

template <Case letter_case>
Result ChangeCase(Evaluator& evaluator, const Value& self, Arguments&) {
  RETURN_IF_ERROR(Walk(evaluator, *self.text()));
  Text made(WithCase(self.text()->bytes, letter_case), self.text()->Marked());
  made.safe = self.text()->safe;
  return Value(std::move(made));
}

template <CharacterClass wanted>
Result IsAll(Evaluator& evaluator, const Value& self, Arguments&) {
  RETURN_IF_ERROR(Walk(evaluator, *self.text()));
  return Value(AllAre(self.text()->bytes, wanted));
}

// The part of a text that start and end, counted in characters, leave; false if they leave none.
absl::StatusOr<absl::string_view> Window(Evaluator& evaluator, const Text& text, Taker& taker, size_t* skipped) {
  ASSIGN_OR_RETURN(const int64_t from, taker.Integer("start", 0));
  ASSIGN_OR_RETURN(const int64_t to, taker.Integer("end", INT64_MAX));
  RETURN_IF_ERROR(taker.Done());
  RETURN_IF_ERROR(Walk(evaluator, text));
  *skipped = 0;
  if (from == 0 && to == INT64_MAX) return text.bytes;
  const std::vector<size_t> at = Boundaries(text.bytes);
  const auto length = static_cast<int64_t>(at.size()) - 1;
  const auto place = [&](int64_t i) {
    return std::clamp<int64_t>(i < 0 ? std::max<int64_t>(i + length, 0) : i, 0, length);
  };
  const int64_t begin = place(from), end = std::max(place(to), begin);
  *skipped = static_cast<size_t>(begin);
  return absl::string_view(text.bytes)
      .substr(at[static_cast<size_t>(begin)], at[static_cast<size_t>(end)] - at[static_cast<size_t>(begin)]);
}

template <bool ends>
Result StartsOrEnds(Evaluator& evaluator, const Value& self, Arguments& arguments) {
  Taker taker(ends ? "endswith" : "startswith", arguments);
  ASSIGN_OR_RETURN(const Value wanted, taker.Need("prefix"));
  size_t skipped;
  ASSIGN_OR_RETURN(const absl::string_view text, Window(evaluator, *self.text(), taker, &skipped));
  const std::vector<Value> one = {wanted};
  for (const Value& each : wanted.list() != nullptr && wanted.list()->tuple ? wanted.list()->items : one) {
    if (each.text() == nullptr)
      return Wrong(absl::StrCat("startswith and endswith take a str, not a ", each.TypeName()));
    if (ends ? absl::EndsWith(text, each.text()->bytes) : absl::StartsWith(text, each.text()->bytes))
      return Value(true);
  }
  return Value(false);
}

template <bool from_right, bool needs>
Result Find(Evaluator& evaluator, const Value& self, Arguments& arguments) {
  Taker taker("find", arguments);
  ASSIGN_OR_RETURN(const Text* const wanted, taker.Words("sub"));
  if (wanted == nullptr) return Wrong("find needs a text");
  size_t skipped;
  ASSIGN_OR_RETURN(const absl::string_view text, Window(evaluator, *self.text(), taker, &skipped));
  const size_t at = from_right ? text.rfind(wanted->bytes) : text.find(wanted->bytes);
  if (at == absl::string_view::npos) return needs ? Result(Wrong("the text is not found")) : Value(-1);
  return Value(skipped + LengthOf(text.substr(0, at)));
}

Result Count(Evaluator& evaluator, const Value& self, Arguments& arguments) {
  Taker taker("count", arguments);
  ASSIGN_OR_RETURN(const Text* const wanted, taker.Words("sub"));
  if (wanted == nullptr) return Wrong("count needs a text");
  size_t skipped;
  ASSIGN_OR_RETURN(const absl::string_view text, Window(evaluator, *self.text(), taker, &skipped));
  if (wanted->bytes.empty()) return Value(LengthOf(text) + 1);
  int64_t count = 0;
  for (size_t at = 0; (at = text.find(wanted->bytes, at)) != absl::string_view::npos; at += wanted->bytes.size())
    ++count;
  return Value(count);
}

Result Join(Evaluator& evaluator, const Value& self, Arguments& arguments) {
  Taker taker("join", arguments);
  ASSIGN_OR_RETURN(const Value from, taker.Need("iterable"));
  ASSIGN_OR_RETURN(const std::vector<Value> items, evaluator.Items(from));
  std::vector<Text> parts;
  for (const Value& item : items) {
    if (item.text() == nullptr) return Wrong(absl::StrCat("join of a ", item.TypeName()));
    RETURN_IF_ERROR(
        evaluator.budget().Write(static_cast<int64_t>(item.text()->bytes.size() + self.text()->bytes.size())));
    parts.push_back(*item.text());
  }
  return Value(Joined(parts, *self.text()));
}

Result Format(Evaluator& evaluator, const Value& self, Arguments& arguments) {
  ASSIGN_OR_RETURN(Text text, FormatBraces(evaluator, *self.text(), arguments));
  return Value(std::move(text));
}

template <bool left, bool right>
Result Justify(Evaluator& evaluator, const Value& self, Arguments& arguments) {
  Taker taker("justify", arguments);
  ASSIGN_OR_RETURN(const int64_t width, taker.Integer("width", 0));
  ASSIGN_OR_RETURN(const Text* const fill, taker.Words("fillchar"));
  RETURN_IF_ERROR(taker.Done());
  const Text filler = fill != nullptr ? *fill : Text(" ");
  if (LengthOf(filler.bytes) != 1) return Wrong("the fill must be one character");
  RETURN_IF_ERROR(Walk(evaluator, *self.text()));
  const int64_t missing = std::max<int64_t>(width - static_cast<int64_t>(LengthOf(self.text()->bytes)), 0);
  RETURN_IF_ERROR(evaluator.budget().Write(missing));
  // Python's centre puts the odd one on the left if the width is odd.
  const int64_t before = !right ? 0 : !left ? missing : missing / 2 + (missing & width & 1);
  Text out;
  for (int64_t i = 0; i < before; ++i) out.Append(filler);
  out.Append(*self.text());
  for (int64_t i = before; i < missing; ++i) out.Append(filler);
  return Value(std::move(out));
}

Result ZeroFill(Evaluator& evaluator, const Value& self, Arguments& arguments) {
  Taker taker("zfill", arguments);
  ASSIGN_OR_RETURN(const int64_t width, taker.Integer("width", 0));
  RETURN_IF_ERROR(taker.Done());
  const Text& text = *self.text();
  const int64_t missing = std::max<int64_t>(width - static_cast<int64_t>(LengthOf(text.bytes)), 0);
  RETURN_IF_ERROR(evaluator.budget().Write(missing + static_cast<int64_t>(text.bytes.size())));
  const size_t sign = !text.bytes.empty() && (text.bytes[0] == '-' || text.bytes[0] == '+') ? 1 : 0;
  Text out = text.Part(0, sign);
  out.Append(std::string(static_cast<size_t>(missing), '0'));
  out.Append(text.Part(sign, text.bytes.size()));
  return Value(std::move(out));
}

template <bool suffix>
Result RemoveEnd(Evaluator& evaluator, const Value& self, Arguments& arguments) {
  Taker taker(suffix ? "removesuffix" : "removeprefix", arguments);
  ASSIGN_OR_RETURN(const Text* const end, taker.Words("prefix"));
  RETURN_IF_ERROR(taker.Done());
  if (end == nullptr) return Wrong("removeprefix and removesuffix need a text");
  const Text& text = *self.text();
  RETURN_IF_ERROR(Walk(evaluator, text));
  if (suffix && absl::EndsWith(text.bytes, end->bytes))
    return Value(text.Part(0, text.bytes.size() - end->bytes.size()));
  if (!suffix && absl::StartsWith(text.bytes, end->bytes))
    return Value(text.Part(end->bytes.size(), text.bytes.size()));
  return self;
}

constexpr MethodRow kTextMethods[] = {
    {"strip", Strip<true, true>},
    {"lstrip", Strip<true, false>},
    {"rstrip", Strip<false, true>},
    {"split", SplitText<false>},
    {"rsplit", SplitText<true>},
    {"splitlines", SplitIntoLines},
    {"partition", Partition<false>},
    {"rpartition", Partition<true>},
    {"replace", Replace},
    {"upper", ChangeCase<Case::kUpper>},
    {"lower", ChangeCase<Case::kLower>},
    {"casefold", NotBuiltIn},
    {"title", ChangeCase<Case::kTitle>},
    {"capitalize", ChangeCase<Case::kCapitalize>},
    {"swapcase", ChangeCase<Case::kSwap>},
    {"startswith", StartsOrEnds<false>},
    {"endswith", StartsOrEnds<true>},
    {"find", Find<false, false>},
    {"rfind", Find<true, false>},
    {"index", Find<false, true>},
    {"rindex", Find<true, true>},
    {"count", Count},
    {"join", Join},
    {"format", Format},
    {"ljust", Justify<true, false>},
    {"rjust", Justify<false, true>},
    {"center", Justify<true, true>},
    {"zfill", ZeroFill},
    {"removeprefix", RemoveEnd<false>},
    {"removesuffix", RemoveEnd<true>},
    {"isalpha", IsAll<CharacterClass::kAlpha>},
    {"isdigit", IsAll<CharacterClass::kDigit>},
    {"isdecimal", IsAll<CharacterClass::kDecimal>},
    {"isnumeric", IsAll<CharacterClass::kNumeric>},
    {"isalnum", IsAll<CharacterClass::kAlnum>},
    {"isspace", IsAll<CharacterClass::kSpace>},
    {"isupper", IsAll<CharacterClass::kUpper>},
    {"islower", IsAll<CharacterClass::kLower>},
    {"isprintable", IsAll<CharacterClass::kPrintable>},
    {"isascii", IsAll<CharacterClass::kAscii>},
    {"istitle", NotBuiltIn},
    {"isidentifier", NotBuiltIn},
    {"encode", NotBuiltIn},
    {"expandtabs", NotBuiltIn},
    {"format_map", NotBuiltIn},
    {"maketrans", NotBuiltIn},
    {"translate", NotBuiltIn},
};

// ---- lists

Result Append(Evaluator& evaluator, const Value& self, Arguments& arguments) {
  Taker taker("append", arguments);
  ASSIGN_OR_RETURN(const Value item, taker.Need("object"));
  RETURN_IF_ERROR(taker.Done());
  if (self.list()->tuple) return Wrong("a tuple cannot be changed");
  self.list()->items.push_back(item);
  return Value::MakeNone();
}

Result Extend(Evaluator& evaluator, const Value& self, Arguments& arguments) {
  Taker taker("extend", arguments);
  ASSIGN_OR_RETURN(const Value more, taker.Need("iterable"));
  ASSIGN_OR_RETURN(const std::vector<Value> items, evaluator.Items(more));
  if (self.list()->tuple) return Wrong("a tuple cannot be changed");
  RETURN_IF_ERROR(evaluator.budget().Step(static_cast<int64_t>(items.size())));
  self.list()->items.insert(self.list()->items.end(), items.begin(), items.end());
  return Value::MakeNone();
}

Result PopItem(Evaluator& evaluator, const Value& self, Arguments& arguments) {
  Taker taker("pop", arguments);
  ASSIGN_OR_RETURN(int64_t index, taker.Integer("index", -1));
  RETURN_IF_ERROR(taker.Done());
  std::vector<Value>& items = self.list()->items;
  if (index < 0) index += static_cast<int64_t>(items.size());
  if (self.list()->tuple || index < 0 || index >= static_cast<int64_t>(items.size()))
    return Wrong("pop of what a list does not hold");
  RETURN_IF_ERROR(evaluator.budget().Step(static_cast<int64_t>(items.size() / 16)));
  const Value item = items[static_cast<size_t>(index)];
  items.erase(items.begin() + index);
  return item;
}

template <bool counts>
Result IndexOrCount(Evaluator& evaluator, const Value& self, Arguments& arguments) {
  Taker taker(counts ? "count" : "index", arguments);
  ASSIGN_OR_RETURN(const Value wanted, taker.Need("value"));
  int64_t count = 0;
  const std::vector<Value>& items = self.list()->items;
  for (size_t i = 0; i < items.size(); ++i) {
    ASSIGN_OR_RETURN(const bool same, Equal(items[i], wanted, evaluator.budget()));
    if (same && !counts) return Value(i);
    count += same ? 1 : 0;
  }
  return counts ? Result(Value(count)) : Wrong("the value is not in the list");
}

Result CopyList(Evaluator& evaluator, const Value& self, Arguments&) {
  RETURN_IF_ERROR(evaluator.budget().Step(static_cast<int64_t>(self.list()->items.size())));
  return Value(evaluator.heap().NewList(self.list()->items));
}

constexpr MethodRow kListMethods[] = {
    {"append", Append},
    {"extend", Extend},
    {"pop", PopItem},
    {"index", IndexOrCount<false>},
    {"count", IndexOrCount<true>},
    {"copy", CopyList},
    {"insert", NotBuiltIn},
    {"remove", NotBuiltIn},
    {"reverse", NotBuiltIn},
    {"sort", NotBuiltIn},
    {"clear", NotBuiltIn},
};
constexpr MethodRow kTupleMethods[] = {{"index", IndexOrCount<false>}, {"count", IndexOrCount<true>}};

// ---- maps

Result Entries(Evaluator& evaluator, const Value& self, Arguments& arguments) {
  RETURN_IF_ERROR(Taker("items", arguments).Done());
  std::vector<Value> entries;
  RETURN_IF_ERROR(evaluator.budget().Step(static_cast<int64_t>(self.map()->entries.size())));
  for (const auto& [name, value] : self.map()->entries) {
    entries.emplace_back(evaluator.heap().NewList({name, value}, true));
  }
  return Value(evaluator.heap().NewList(std::move(entries)));
}

template <bool values>
Result KeysOrValues(Evaluator& evaluator, const Value& self, Arguments& arguments) {
  RETURN_IF_ERROR(Taker("keys", arguments).Done());
  std::vector<Value> out;
  RETURN_IF_ERROR(evaluator.budget().Step(static_cast<int64_t>(self.map()->entries.size())));
  for (const auto& [name, value] : self.map()->entries) out.push_back(values ? value : name);
  return Value(evaluator.heap().NewList(std::move(out)));
}

absl::StatusOr<std::string> TakeKey(Taker& taker, Value* name) {
  ASSIGN_OR_RETURN(*name, taker.Need("key"));
  std::string key;
  if (!KeyOf(*name, &key)) return Wrong(absl::StrCat("a ", name->TypeName(), " cannot be a key"));
  return key;
}

Result Get(Evaluator&, const Value& self, Arguments& arguments) {
  if (!arguments.named.empty()) return Wrong("get takes no names");
  Taker taker("get", arguments);
  Value name;
  ASSIGN_OR_RETURN(const std::string key, TakeKey(taker, &name));
  const bool has_fallback = arguments.positional.size() > 1;
  const Value fallback = taker.Take("default");
  RETURN_IF_ERROR(taker.Done());
  if (const Value* value = self.map()->Find(key)) return *value;
  return has_fallback ? fallback : Value::MakeNone();
}

Result Pop(Evaluator& evaluator, const Value& self, Arguments& arguments) {
  Taker taker("pop", arguments);
  Value name;
  ASSIGN_OR_RETURN(const std::string key, TakeKey(taker, &name));
  const bool has_fallback = arguments.positional.size() > 1;
  const Value fallback = taker.Take("default");
  RETURN_IF_ERROR(taker.Done());
  RETURN_IF_ERROR(evaluator.budget().Step(static_cast<int64_t>(self.map()->entries.size())));
  const Value* held = self.map()->Find(key);
  if (held == nullptr) return has_fallback ? Result(fallback) : Wrong("pop of a key that a dict does not hold");
  const Value value = *held;
  self.map()->Erase(key);
  return value;
}

Result SetDefault(Evaluator&, const Value& self, Arguments& arguments) {
  Taker taker("setdefault", arguments);
  Value name;
  ASSIGN_OR_RETURN(const std::string key, TakeKey(taker, &name));
  const Value fallback = arguments.positional.size() > 1 ? taker.Take("default") : Value::MakeNone();
  RETURN_IF_ERROR(taker.Done());
  if (const Value* value = self.map()->Find(key)) return *value;
  self.map()->Set(key, name, fallback);
  return fallback;
}

Result Update(Evaluator& evaluator, const Value& self, Arguments& arguments) {
  const FunctionRow* dict = FindFunction("dict");
  ASSIGN_OR_RETURN(const Value more, dict->call(evaluator, arguments));
  for (const auto& [name, value] : more.map()->entries) {
    std::string key;
    KeyOf(name, &key);
    self.map()->Set(key, name, value);
  }
  return Value::MakeNone();
}

Result CopyMap(Evaluator& evaluator, const Value& self, Arguments&) {
  Arguments arguments{{self}, {}};
  return FindFunction("dict")->call(evaluator, arguments);
}

constexpr MethodRow kMapMethods[] = {
    {"items", Entries},
    {"keys", KeysOrValues<false>},
    {"values", KeysOrValues<true>},
    {"get", Get},
    {"pop", Pop},
    {"setdefault", SetDefault},
    {"update", Update},
    {"copy", CopyMap},
    {"clear", NotBuiltIn},
    {"popitem", NotBuiltIn},
    {"fromkeys", NotBuiltIn},
};

template <size_t count>
const MethodRow* FindIn(const MethodRow (&rows)[count], absl::string_view name) {
  const auto* it = std::find_if(rows, rows + count, [&](const MethodRow& row) { return row.name == name; });
  return it == rows + count ? nullptr : it;
}

}  // namespace

const MethodRow* FindMethod(const Value& value, absl::string_view name) {
  if (value.text() != nullptr) return FindIn(kTextMethods, name);
  if (const List* list = value.list()) {
    return list->generator ? nullptr : list->tuple ? FindIn(kTupleMethods, name) : FindIn(kListMethods, name);
  }
  if (const Map* map = value.map(); map != nullptr && !map->is_namespace) return FindIn(kMapMethods, name);
  return nullptr;
}

}  // namespace interlace::jinja
