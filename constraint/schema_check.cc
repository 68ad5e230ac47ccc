#include "constraint/schema_check.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <string>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "constraint/pattern_size.h"

namespace interlace {
namespace {

using Json = nlohmann::json;
using OrderedJson = nlohmann::ordered_json;

constexpr int kDeepest = 64;            // arrays and objects inside each other
constexpr int kMostNodes = 20000;       // values of the text
constexpr int64_t kMostTimes = 100000;  // of a bound such as maxLength or minItems
constexpr int64_t kMostTimesInGrammar = 10000;
constexpr size_t kMostMembers = 500;  // properties of an object
constexpr size_t kMostCounted = 30;   // of one whose properties are counted, in minProperties and maxProperties
constexpr size_t kMostOptions = 100;  // schemas of an anyOf or oneOf
constexpr size_t kMostOfAll = 300;    // of all of them together
constexpr size_t kMostValues = 1000;  // of an enum
constexpr size_t kLongestPattern = 4096;
constexpr int kMostGroups = 50;
constexpr size_t kLongestGrammar = 65536;

// Keywords that restrict values and that grammars of schemas know nothing of.
constexpr const char* kUnknown[] = {
    "not",          "if",       "then",        "else",        "dependentRequired", "dependentSchemas",
    "dependencies", "contains", "minContains", "maxContains", "$dynamicRef",       "$recursiveRef"};

// One of these alone says what a schema's values are; the first in this order is the one that is looked at.
constexpr const char* kLeading[] = {"$ref", "const", "enum", "anyOf", "oneOf", "allOf", "type"};

// Those that restrict values of some type; beside one of kLeading before "type" they would be left out.
constexpr const char* kAsserting[] = {
    "multipleOf",    "minimum",       "maximum",    "exclusiveMinimum",     "exclusiveMaximum", "minLength",
    "maxLength",     "pattern",       "items",      "prefixItems",          "additionalItems",  "minItems",
    "maxItems",      "uniqueItems",   "properties", "patternProperties",    "propertyNames",    "required",
    "minProperties", "maxProperties", "format",     "additionalProperties", "unevaluatedItems", "unevaluatedProperties",
};
// Those that make a schema without a type one of objects or of arrays.
constexpr const char* kShaping[] = {"properties", "additionalProperties", "unevaluatedProperties",
                                    "items",      "prefixItems",          "unevaluatedItems"};
constexpr const char* kBounds[] = {"minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"};
constexpr const char* kSchemas[] = {"items", "additionalProperties", "unevaluatedProperties", "unevaluatedItems",
                                    "propertyNames"};
constexpr const char* kLists[] = {"anyOf", "oneOf", "allOf", "prefixItems"};
constexpr const char* kMaps[] = {"properties", "patternProperties", "$defs", "definitions"};

absl::Status Refuse(absl::string_view where, absl::string_view why) {
  return absl::InvalidArgumentError(absl::StrCat("at ", where.empty() ? "the top" : where, ": ", why));
}

const char* TypeOf(const Json& value) {
  switch (value.type()) {
    case Json::value_t::null:
      return "null";
    case Json::value_t::boolean:
      return "boolean";
    case Json::value_t::string:
      return "string";
    case Json::value_t::array:
      return "array";
    case Json::value_t::object:
      return "object";
    case Json::value_t::number_float:
      return "number";
    default:
      return "integer";
  }
}

bool FitsType(const Json& value, const Json& type) {
  if (type.is_array()) return std::any_of(type.begin(), type.end(), [&](const Json& t) { return FitsType(value, t); });
  return type == TypeOf(value) || (type == "number" && value.is_number());
}

// Of `type` beside const or enum: all values have it. Beside anyOf and oneOf: each of their schemas says it, too.
bool TypeIsSaidAgain(const Json& schema, const char* leading) {
  const Json& type = schema["type"];
  const Json& lead = schema[leading];
  if (std::string(leading) == "const") return FitsType(lead, type);
  if (!lead.is_array()) return false;
  if (std::string(leading) == "enum") {
    return std::all_of(lead.begin(), lead.end(), [&](const Json& v) { return FitsType(v, type); });
  }
  return std::all_of(lead.begin(), lead.end(), [&](const Json& option) {
    if (!option.is_object()) return false;
    if (option.contains("const")) return FitsType(option["const"], type);
    return option.contains("type") && option["type"] == type;
  });
}

class SchemaWalk {
 public:
  absl::Status Check(const Json& schema, const std::string& where) {
    if (!schema.is_object()) return absl::OkStatus();  // true, false, or for the compiler to refuse
    for (const char* keyword : kUnknown) {
      if (schema.contains(keyword)) return Refuse(where, absl::StrCat("\"", keyword, "\" is not supported here"));
    }
    if (schema.contains("uniqueItems") && schema["uniqueItems"] != false) {
      return Refuse(where, "\"uniqueItems\" is not supported here");
    }
    RETURN_IF_ERROR(CheckLeading(schema, where));
    RETURN_IF_ERROR(CheckMembers(schema, where));
    RETURN_IF_ERROR(CheckValues(schema, where));
    return CheckBelow(schema, where);
  }

 private:
  static absl::Status CheckLeading(const Json& schema, const std::string& where) {
    const char* leading = nullptr;
    for (const char* keyword : kLeading) {
      if (!schema.contains(keyword)) continue;
      if (leading == nullptr) {
        leading = keyword;
      } else if (std::string(keyword) != "type" || !TypeIsSaidAgain(schema, leading)) {
        return Refuse(where, absl::StrCat("\"", keyword, "\" beside \"", leading, "\" is not supported here"));
      }
    }
    if (leading != nullptr && std::string(leading) == "type") return absl::OkStatus();
    const auto has = [&](const char* keyword) { return schema.contains(keyword); };
    if (leading == nullptr && std::any_of(std::begin(kShaping), std::end(kShaping), has)) return absl::OkStatus();
    for (const char* keyword : kAsserting) {
      if (!schema.contains(keyword)) continue;
      return Refuse(where, leading == nullptr
                               ? absl::StrCat("\"", keyword, "\" needs a \"type\" beside it")
                               : absl::StrCat("\"", keyword, "\" beside \"", leading, "\" is not supported here"));
    }
    return absl::OkStatus();
  }

  // A member must not fall under two schemas at once: a grammar would look at one of them.
  static absl::Status CheckMembers(const Json& schema, const std::string& where) {
    const bool patterns = schema.contains("patternProperties") && !schema["patternProperties"].empty();
    const bool properties = schema.contains("properties") && !schema["properties"].empty();
    const bool others = schema.contains("additionalProperties") && schema["additionalProperties"] != false;
    if (patterns && (properties || others || schema["patternProperties"].size() > 1)) {
      return Refuse(where,
                    "\"patternProperties\" is supported with one pattern, without properties and "
                    "additionalProperties");
    }
    if (schema.contains("propertyNames") && (properties || patterns)) {
      return Refuse(where, "\"propertyNames\" is not supported beside properties and patternProperties");
    }
    if (!properties && schema.contains("minProperties") && schema["minProperties"] > 1) {  // a name may come twice
      return Refuse(where, "\"minProperties\" above 1 needs properties beside it");
    }
    if (!schema.contains("required") || !schema["required"].is_array()) return absl::OkStatus();
    for (const Json& name : schema["required"]) {
      if (name.is_string() && !(properties && schema["properties"].contains(name.get_ref<const std::string&>()))) {
        return Refuse(where,
                      absl::StrCat("\"required\" names ", name.dump(-1, ' ', true), ", which is none of properties"));
      }
    }
    return absl::OkStatus();
  }

  absl::Status CheckValues(const Json& schema, const std::string& where) {
    for (const char* keyword : kBounds) {
      if (!schema.contains(keyword) || !schema[keyword].is_number()) continue;
      const double bound = schema[keyword].get<double>();
      if (!(bound >= 0 && bound <= kMostTimes)) {
        return Refuse(where,
                      absl::StrCat("\"", keyword, "\" of ", bound, " is out of range: it must be 0 to ", kMostTimes));
      }
    }
    for (const char* keyword : {"pattern", "format", "$ref"}) {
      if (schema.contains(keyword) && !schema[keyword].is_string()) {
        return Refuse(where, absl::StrCat("\"", keyword, "\" must be a string"));
      }
    }
    if (schema.contains("required")) {
      const Json& required = schema["required"];
      const auto is_text = [](const Json& name) { return name.is_string(); };
      if (!required.is_array() || !std::all_of(required.begin(), required.end(), is_text)) {
        return Refuse(where, "\"required\" must be a list of strings");
      }
    }
    RETURN_IF_ERROR(CheckSizes(schema, where));
    if (!schema.contains("pattern")) return absl::OkStatus();
    return CheckPattern(schema["pattern"].get_ref<const std::string&>(), where);
  }

  // What compiling, or the first mask, takes more time for than its length says.
  absl::Status CheckSizes(const Json& schema, const std::string& where) {
    const bool counted = schema.contains("minProperties") || schema.contains("maxProperties");
    const std::pair<const char*, size_t> sizes[] = {{"properties", counted ? kMostCounted : kMostMembers},
                                                    {"anyOf", kMostOptions},
                                                    {"oneOf", kMostOptions},
                                                    {"enum", kMostValues}};
    for (const auto& [keyword, most] : sizes) {
      if (!schema.contains(keyword) || schema[keyword].size() <= most) continue;
      return Refuse(where, absl::StrCat("\"", keyword, "\" has ", schema[keyword].size(), " parts; at most ", most,
                                        counted && most == kMostCounted ? " where they are counted" : ""));
    }
    for (const char* keyword : {"anyOf", "oneOf"}) {
      if (schema.contains(keyword)) options_ += schema[keyword].size();
    }
    if (options_ <= kMostOfAll) return absl::OkStatus();
    return Refuse(where, absl::StrCat("\"anyOf\" and \"oneOf\" have more than ", kMostOfAll, " schemas in all"));
  }

  absl::Status CheckBelow(const Json& schema, const std::string& where) {
    for (const char* keyword : kSchemas) {
      if (schema.contains(keyword)) RETURN_IF_ERROR(Check(schema[keyword], absl::StrCat(where, "/", keyword)));
    }
    for (const char* keyword : kLists) {
      if (!schema.contains(keyword) || !schema[keyword].is_array()) continue;
      for (size_t i = 0; i < schema[keyword].size(); ++i) {
        RETURN_IF_ERROR(Check(schema[keyword][i], absl::StrCat(where, "/", keyword, "/", i)));
      }
    }
    for (const char* keyword : kMaps) {
      if (!schema.contains(keyword) || !schema[keyword].is_object()) continue;
      for (const auto& [name, below] : schema[keyword].items()) {
        const std::string at = absl::StrCat(where, "/", keyword, "/", name.substr(0, 64));
        if (std::string(keyword) == "patternProperties") RETURN_IF_ERROR(CheckPattern(name, at));
        RETURN_IF_ERROR(Check(below, at));
      }
    }
    return absl::OkStatus();
  }

  size_t options_ = 0;  // of anyOf and oneOf, so far
};

absl::Status CheckParts(const Json& format, const std::string& where) {
  if (format.is_array()) {
    for (size_t i = 0; i < format.size(); ++i) RETURN_IF_ERROR(CheckParts(format[i], absl::StrCat(where, "/", i)));
  }
  if (!format.is_object()) return absl::OkStatus();
  for (const char* keyword : {"max_tokens", "max_chars"}) {  // they count what no output can be read for again
    if (format.contains(keyword) && !format[keyword].is_null()) {
      return Refuse(where, absl::StrCat("\"", keyword, "\" is not supported here"));
    }
  }
  for (const auto& [name, value] : format.items()) {
    const std::string at = absl::StrCat(where, "/", name.substr(0, 64));
    if (name == "json_schema" || name == "schema") {
      RETURN_IF_ERROR(SchemaWalk().Check(value, at));
    } else if (name == "pattern" && value.is_string()) {
      RETURN_IF_ERROR(CheckPattern(value.get_ref<const std::string&>(), at));
    } else if (name == "grammar" && value.is_string()) {
      RETURN_IF_ERROR(CheckGrammarText(value.get_ref<const std::string&>(), at));
    } else {
      RETURN_IF_ERROR(CheckParts(value, at));
    }
  }
  for (const char* keyword : {"min", "max"}) {
    if (format.contains(keyword) && format[keyword].is_number() && format[keyword].get<double>() > kMostTimes) {
      return Refuse(where, absl::StrCat("\"", keyword, "\" must be at most ", kMostTimes));
    }
  }
  return absl::OkStatus();
}

// JSON that is safe to recurse over.
absl::StatusOr<Json> Parsed(absl::string_view text) {
  int depth = 0, deepest = 0, nodes = 0;
  const auto count = [&](int, Json::parse_event_t event, Json&) {
    if (event == Json::parse_event_t::object_start || event == Json::parse_event_t::array_start) {
      deepest = std::max(deepest, ++depth);
    }
    if (event == Json::parse_event_t::object_end || event == Json::parse_event_t::array_end) --depth;
    if (event == Json::parse_event_t::value || event == Json::parse_event_t::key) ++nodes;
    return depth <= kDeepest;
  };
  Json json = Json::parse(text.begin(), text.end(), count, /*allow_exceptions=*/false);
  if (deepest > kDeepest) {
    return absl::InvalidArgumentError(absl::StrCat("it nests arrays and objects deeper than ", kDeepest, " levels"));
  }
  if (nodes > kMostNodes) {
    return absl::InvalidArgumentError(absl::StrCat("it has ", nodes, " names and values, at most ", kMostNodes));
  }
  if (json.is_discarded()) return absl::InvalidArgumentError("it is not JSON");
  return json;
}

// An object that names members has no others, whatever it says: a grammar would write a name among the others once
// more.
void Narrow(OrderedJson& schema) {
  if (!schema.is_object()) return;
  const auto named = schema.find("properties");
  const bool names = named != schema.end() && named->is_object() && !named->empty();
  for (const char* keyword : {"additionalProperties", "unevaluatedProperties"}) {
    if (names && schema.contains(keyword)) schema[keyword] = false;
  }
  for (const char* keyword : kSchemas) {
    if (schema.contains(keyword)) Narrow(schema[keyword]);
  }
  for (const char* keyword : kLists) {
    if (!schema.contains(keyword) || !schema[keyword].is_array()) continue;
    for (OrderedJson& below : schema[keyword]) Narrow(below);
  }
  for (const char* keyword : kMaps) {
    if (!schema.contains(keyword) || !schema[keyword].is_object()) continue;
    for (auto& [name, below] : schema[keyword].items()) Narrow(below);
  }
}

void NarrowParts(OrderedJson& format) {
  if (!format.is_structured()) return;
  for (auto& [name, value] : format.items()) {
    if (format.is_object() && (name == "json_schema" || name == "schema")) {
      Narrow(value);
    } else {
      NarrowParts(value);
    }
  }
}

}  // namespace

std::string NarrowedText(absl::string_view text, bool structure) {
  OrderedJson json = OrderedJson::parse(text.begin(), text.end(), nullptr, /*allow_exceptions=*/false);
  if (json.is_discarded()) return std::string(text);
  structure ? NarrowParts(json) : Narrow(json);
  return json.dump(-1, ' ', false, OrderedJson::error_handler_t::replace);
}

absl::Status CheckPattern(absl::string_view pattern, absl::string_view where) {
  if (pattern.size() > kLongestPattern) {
    return Refuse(where, absl::StrCat("a pattern of ", pattern.size(), " bytes; at most ", kLongestPattern));
  }
  const PatternSize size = SizeOfPattern(pattern);
  if (size.atoms > kMostAtoms) {
    return Refuse(where, absl::StrCat("a pattern that is larger than ", kMostAtoms,
                                      " characters when its repetitions are written out"));
  }
  if (size.groups <= kMostGroups) return absl::OkStatus();
  return Refuse(where, absl::StrCat("a pattern with groups deeper than ", kMostGroups, " levels"));
}

absl::Status CheckGrammarText(absl::string_view text, absl::string_view where) {
  if (text.size() > kLongestGrammar) {
    return Refuse(where, absl::StrCat("a grammar of ", text.size(), " bytes; at most ", kLongestGrammar));
  }
  // Parentheses within strings count too, which does no harm: they are as seldom as deep ones.
  int depth = 0, deepest = 0;
  int64_t times = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '(' || text[i] == '[') deepest = std::max(deepest, ++depth);
    if (text[i] == ')' || text[i] == ']') depth = std::max(0, depth - 1);
    if (text[i] != '{' && text[i] != ',' && text[i] != '.' && text[i] != '~') continue;
    int64_t number = 0;
    size_t end = i + 1;
    while (end < text.size() && end < i + 16 && text[end] >= '0' && text[end] <= '9') ++end;
    if (absl::SimpleAtoi(text.substr(i + 1, end - i - 1), &number)) times = std::max(times, number);
  }
  if (deepest > kMostGroups) {
    return Refuse(where, absl::StrCat("a grammar with parentheses deeper than ", kMostGroups, " levels"));
  }
  if (times <= kMostTimesInGrammar) return absl::OkStatus();
  return Refuse(where,
                absl::StrCat("a grammar that repeats something ", times, " times; at most ", kMostTimesInGrammar));
}

absl::Status CheckSchema(absl::string_view text) {
  ASSIGN_OR_RETURN(const Json schema, Parsed(text));
  return SchemaWalk().Check(schema, "");
}

absl::Status CheckStructure(absl::string_view text) {
  ASSIGN_OR_RETURN(const Json structure, Parsed(text));
  return CheckParts(structure, "");
}

}  // namespace interlace
