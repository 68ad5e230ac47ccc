#include "coordinator/front/constraint_fields.h"

#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "coordinator/front/api_error.h"

namespace interlace {
namespace {

// Members of schemas come in the order in which they are written: it is the order of the answer's.
using OrderedJson = nlohmann::ordered_json;

constexpr size_t kMostChoices = 1000;

OrderedJson Ordered(absl::string_view text) {
  return OrderedJson::parse(text.begin(), text.end(), nullptr, /*allow_exceptions=*/false);
}

std::string Written(const OrderedJson& value) {
  return value.dump(-1, ' ', false, OrderedJson::error_handler_t::replace);
}

// Each reads the value of one kind of field.
using Reader = absl::StatusOr<Constraint> (*)(const OrderedJson& value, absl::string_view field);

absl::StatusOr<Constraint> ReadSchema(const OrderedJson& value, absl::string_view field) {
  if (value.is_string()) return Constraint{ConstraintKind::kJsonSchema, value.get<std::string>()};
  if (!value.is_object() && !value.is_boolean()) return BadField(field, "must be a JSON schema, an object or its text");
  return Constraint{ConstraintKind::kJsonSchema, Written(value)};
}

absl::StatusOr<Constraint> ReadRegex(const OrderedJson& value, absl::string_view field) {
  if (!value.is_string()) return BadField(field, "must be a string");
  return Constraint{ConstraintKind::kRegex, value.get<std::string>()};
}

absl::StatusOr<Constraint> ReadGrammar(const OrderedJson& value, absl::string_view field) {
  if (!value.is_string()) return BadField(field, "must be a string");
  return GrammarConstraint(value.get<std::string>());
}

absl::StatusOr<Constraint> ReadChoice(const OrderedJson& value, absl::string_view field) {
  std::vector<std::string> texts;
  if (!value.is_array()) return BadField(field, "must be a list of strings");
  for (const OrderedJson& text : value) {
    if (!text.is_string()) return BadField(field, "must be a list of strings");
    texts.push_back(text.get<std::string>());
  }
  if (texts.empty() || texts.size() > kMostChoices) {
    return BadField(field, absl::StrCat("must hold 1 to ", kMostChoices, " strings"));
  }
  return OneOfTexts(texts);
}

absl::StatusOr<Constraint> ReadStructure(const OrderedJson& value, absl::string_view field) {
  if (value.is_string()) return Constraint{ConstraintKind::kStructure, value.get<std::string>()};
  if (!value.is_object()) return BadField(field, "must be an object or its text");
  return Constraint{ConstraintKind::kStructure, Written(value)};
}

absl::StatusOr<Constraint> ReadAnyObject(const OrderedJson& value, absl::string_view field) {
  if (value != true) return BadField(field, "must be true, or left out");
  return Constraint{ConstraintKind::kJsonObject, ""};
}

struct FieldRow {
  const char* field;
  Reader read;
};
constexpr FieldRow kFields[] = {
    {"guided_json", &ReadSchema},
    {"json_schema", &ReadSchema},
    {"guided_regex", &ReadRegex},
    {"regex", &ReadRegex},
    {"guided_grammar", &ReadGrammar},
    {"grammar", &ReadGrammar},
    {"ebnf", &ReadGrammar},
    {"guided_choice", &ReadChoice},
    {"structural_tag", &ReadStructure},
    {"guided_json_object", &ReadAnyObject},
};
// Members of structured_outputs.
constexpr FieldRow kStructured[] = {
    {"json", &ReadSchema},   {"regex", &ReadRegex},           {"grammar", &ReadGrammar},
    {"choice", &ReadChoice}, {"json_object", &ReadAnyObject}, {"structural_tag", &ReadStructure},
};

// The empty text of a field of a string asks for nothing, and so do null and, of an object's flag, false.
bool AsksNothing(const Json& value) {
  return value.is_null() || value == false || value == "" || (value.is_array() && value.empty());
}

absl::Status Set(absl::StatusOr<Constraint> constraint, absl::string_view field, GenerationSpec* spec) {
  RETURN_IF_ERROR(constraint.status());
  if (spec->constraint) {
    return BadField(field,
                    absl::StrCat("not together with ", spec->constraint->field, ": an answer has one constraint"));
  }
  spec->constraint = ConstraintSpec{*std::move(constraint), std::string(field)};
  return absl::OkStatus();
}

absl::Status ReadStructured(const Json& json, const OrderedJson& ordered, GenerationSpec* spec) {
  const char* const field = "structured_outputs";
  const Json* value = Member(json, field);
  if (value == nullptr) return absl::OkStatus();
  if (!value->is_object()) return BadField(field, "must be an object");
  constexpr UnsupportedField kNotHere[] = {{"whitespace_pattern", "[\"\"]"},
                                           {"disable_additional_properties", "[false]"},
                                           {"disable_fallback", "[false, true]"}};
  if (absl::Status known = RefuseUnsupported(*value, kNotHere); !known.ok()) {
    return BadField(field, known.message());
  }
  for (const FieldRow& row : kStructured) {
    const Json* member = Member(*value, row.field);
    if (member == nullptr || AsksNothing(*member)) continue;
    const std::string name = absl::StrCat(field, ".", row.field);
    RETURN_IF_ERROR(Set(row.read(ordered[field][row.field], name), name, spec));
  }
  bool compact = false;
  RETURN_IF_ERROR(Read(*value, "disable_any_whitespace", &compact));
  if (compact && spec->constraint) spec->constraint->constraint.compact = true;
  return absl::OkStatus();
}

absl::Status ReadAllowed(const Json& json, GenerationSpec* spec) {
  const Json* ids = Member(json, "allowed_token_ids");
  if (ids == nullptr) return absl::OkStatus();
  ASSIGN_OR_RETURN(spec->allowed_token_ids, ReadIds(*ids, "allowed_token_ids"));
  if (spec->allowed_token_ids.empty()) {
    return BadField("allowed_token_ids", "must not be empty, as no token could follow; leave it out to allow all");
  }
  return absl::OkStatus();
}

// Of OpenAI's chats the schema stands in an object of its own, with a name.
absl::Status ReadFormatOf(const OrderedJson& format, absl::string_view field, bool in_its_own, GenerationSpec* spec) {
  const auto type = format.is_object() ? format.find("type") : format.end();
  if (!format.is_object() || type == format.end() || !type->is_string()) {
    return BadField(field, "must be an object with a type");
  }
  if (*type == "text") return absl::OkStatus();
  if (*type == "json_object") return Set(Constraint{ConstraintKind::kJsonObject, ""}, field, spec);
  if (*type == "structural_tag") return Set(ReadStructure(format, field), field, spec);
  if (*type != "json_schema") {
    return BadField(field, absl::StrCat("type ", type->dump(-1, ' ', true).substr(0, 40),
                                        " is none of text, json_object, json_schema, structural_tag"));
  }
  const std::string own = in_its_own ? absl::StrCat(field, ".json_schema") : std::string(field);
  const auto described = in_its_own ? format.find("json_schema") : format.end();
  if (in_its_own && (described == format.end() || !described->is_object())) return BadField(own, "is missing");
  const OrderedJson& holder = in_its_own ? *described : format;
  const auto schema = holder.find("schema");
  if (schema == holder.end() || schema->is_null()) return BadField(own, "has no schema");
  return Set(ReadSchema(*schema, absl::StrCat(own, ".schema")), field, spec);
}

}  // namespace

Constraint GrammarConstraint(std::string text) {
  const bool ebnf = absl::StrContains(text, "::=");
  return Constraint{ebnf ? ConstraintKind::kEbnf : ConstraintKind::kLark, std::move(text)};
}

Constraint OneOfTexts(absl::Span<const std::string> texts) {
  std::string grammar = "root ::= ";
  for (const std::string& text : texts) {
    absl::StrAppend(&grammar, &text == &texts[0] ? "" : " | ", Printed(Json(text)));
  }
  return {ConstraintKind::kEbnf, std::move(grammar)};
}

absl::Status ReadConstraint(const Json& json, absl::string_view body, GenerationSpec* spec) {
  RETURN_IF_ERROR(ReadAllowed(json, spec));
  const auto given = [&](const char* field) {
    const Json* value = Member(json, field);
    return value != nullptr && !AsksNothing(*value);
  };
  bool any = given("response_format") || given("structured_outputs");
  for (const FieldRow& row : kFields) any = any || given(row.field);
  if (!any) return absl::OkStatus();
  const OrderedJson ordered = Ordered(body);
  if (given("response_format")) {
    RETURN_IF_ERROR(ReadFormatOf(ordered["response_format"], "response_format", /*in_its_own=*/true, spec));
  }
  RETURN_IF_ERROR(ReadStructured(json, ordered, spec));
  for (const FieldRow& row : kFields) {
    if (given(row.field)) RETURN_IF_ERROR(Set(row.read(ordered[row.field], row.field), row.field, spec));
  }
  return absl::OkStatus();
}

absl::Status ReadFormat(absl::string_view format, absl::string_view field, GenerationSpec* spec) {
  return ReadFormatOf(Ordered(format), field, /*in_its_own=*/false, spec);
}

}  // namespace interlace
