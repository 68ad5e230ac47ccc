#include "coordinator/front/output_constraint.h"

#include <nlohmann/json.hpp>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "coordinator/front/api_error.h"

namespace interlace {
namespace {

// Formats of xgrammar's structural tags: values that say what one stretch of text is.
using Format = nlohmann::ordered_json;

Format Text(absl::string_view text) { return {{"type", "const_string"}, {"value", std::string(text)}}; }
Format Sequence(std::vector<Format> elements) { return {{"type", "sequence"}, {"elements", std::move(elements)}}; }
Format Or(std::vector<Format> elements) {
  if (elements.size() == 1) return std::move(elements[0]);
  return {{"type", "or"}, {"elements", std::move(elements)}};
}
Format Schema(Format schema) { return {{"type", "json_schema"}, {"json_schema", std::move(schema)}}; }

// A mark is text, or a control token that is no text.
Format Mark(absl::string_view mark, const Tokenizer& tokenizer) {
  const absl::StatusOr<int32_t> token = tokenizer.Find(mark);
  if (!token.ok() || !tokenizer.Piece(*token).empty()) return Text(mark);
  return {{"type", "token"}, {"token", *token}};
}

std::string Quoted(absl::string_view text) {
  return Format(std::string(text)).dump(-1, ' ', false, Format::error_handler_t::replace);
}

// One call, without marks that stand around all of them.
Format CallOf(const ToolSyntax& syntax, const std::string& name, Format parameters, const Tokenizer& tokenizer) {
  const bool marked = !syntax.list && !syntax.bare;
  const char* const arguments = syntax.bare ? "parameters" : "arguments";
  std::vector<Format> parts;
  if (marked) parts.push_back(Mark(syntax.begin, tokenizer));
  parts.push_back(Text(absl::StrCat(marked ? "\n" : "", "{\"name\": ", Quoted(name), ", \"", arguments, "\": ")));
  parts.push_back(Schema(std::move(parameters)));
  parts.push_back(Text(marked ? "}\n" : "}"));
  if (marked) parts.push_back(Mark(syntax.end, tokenizer));
  return Sequence(std::move(parts));
}

absl::StatusOr<Format> CallsOf(const GenerationSpec& spec, const OutputForm& form, const Tokenizer& tokenizer) {
  const auto* chat = std::get_if<ChatInput>(&spec.prompts[0]);
  const ToolSyntax* syntax = form.syntax;
  if (chat == nullptr || chat->tools.empty() || syntax == nullptr) {
    return BadField("tool_choice", "asks for a call, and the request has no tools");
  }
  const Format tools = Format::parse(chat->tools, nullptr, /*allow_exceptions=*/false);
  std::vector<Format> calls;
  for (const Format& tool : tools) {
    const Format function = tool.value("function", Format::object());
    const std::string name = function.value("name", "");
    if (spec.forced_call && !spec.forced_call->name.empty() && spec.forced_call->name != name) continue;
    const auto parameters = function.find("parameters");
    const bool some = parameters != function.end() && parameters->is_object() && !parameters->empty();
    calls.push_back(CallOf(*syntax, name, some ? *parameters : Format{{"type", "object"}}, tokenizer));
  }
  if (calls.empty()) {
    return BadField("tool_choice", absl::StrCat("'", spec.forced_call->name.substr(0, 100), "' is none of the tools"));
  }
  Format one = Or(std::move(calls));
  Format all = one;
  if (spec.parallel_tool_calls && !(spec.forced_call && !spec.forced_call->name.empty())) {
    const char* const between = syntax->list ? ", " : syntax->bare ? "; " : "\n";
    Format more = {{"type", "star"}, {"content", Sequence({Text(between), one})}};
    all = Sequence({std::move(one), std::move(more)});
  }
  if (!syntax->list) return all;
  return Sequence({Mark(syntax->begin, tokenizer), Text("["), std::move(all), Text("]")});
}

absl::StatusOr<Format> FormatOf(const ConstraintSpec& spec) {
  const Constraint& constraint = spec.constraint;
  switch (constraint.kind) {
    case ConstraintKind::kJsonObject:
      return Schema({{"type", "object"}, {"additionalProperties", true}});
    case ConstraintKind::kRegex:
      return Format{{"type", "regex"}, {"pattern", constraint.text}};
    case ConstraintKind::kEbnf:
      return Format{{"type", "grammar"}, {"grammar", constraint.text}};
    case ConstraintKind::kLark:
      return Format{{"type", "grammar"}, {"grammar", constraint.text}, {"syntax", "lark"}};
    case ConstraintKind::kJsonSchema:
    case ConstraintKind::kStructure:
      break;
  }
  Format parsed = Format::parse(constraint.text, nullptr, /*allow_exceptions=*/false);
  if (parsed.is_discarded()) return BadField(spec.field, "is not JSON");
  if (constraint.kind == ConstraintKind::kJsonSchema) return Schema(std::move(parsed));
  if (!parsed.is_object() || !parsed.contains("format")) return BadField(spec.field, "has no format");
  return parsed["format"];
}

// A model that thinks may do so first; one that was made to begin ends it first.
Format BehindThought(Format answer, const OutputForm& form, const Tokenizer& tokenizer) {
  const Format space = {{"type", "regex"}, {"pattern", "\n{0,2}"}};
  const Format thought = {{"type", "any_text"}, {"excludes", {std::string(kThoughtEnd)}}};
  Format end = Mark(kThoughtEnd, tokenizer);
  if (form.in_thought) return Sequence({thought, std::move(end), space, std::move(answer)});
  Format whole = Sequence({Mark(kThoughtBegin, tokenizer), thought, std::move(end), space});
  return Sequence({{{"type", "optional"}, {"content", std::move(whole)}}, std::move(answer)});
}

}  // namespace

absl::StatusOr<std::optional<ConstraintSpec>> ConstraintOf(const GenerationSpec& spec, const OutputForm& form,
                                                           const Tokenizer& tokenizer) {
  if (!spec.constraint && !spec.forced_call) return std::nullopt;
  const bool may_call = !spec.forced_call && form.syntax != nullptr;
  if (spec.constraint && !spec.forced_call && !may_call && !form.thinks) return spec.constraint;
  std::vector<Format> answers;
  std::string field = "tool_choice";
  if (!spec.forced_call) {
    ASSIGN_OR_RETURN(answers.emplace_back(), FormatOf(*spec.constraint));
    field = spec.constraint->field;
  }
  if (spec.forced_call || may_call) {
    ASSIGN_OR_RETURN(answers.emplace_back(), CallsOf(spec, form, tokenizer));
  }
  Format answer = Or(std::move(answers));
  if (form.thinks) answer = BehindThought(std::move(answer), form, tokenizer);
  const Format whole = {{"type", "structural_tag"}, {"format", std::move(answer)}};
  return ConstraintSpec{{ConstraintKind::kStructure, whole.dump(-1, ' ', false, Format::error_handler_t::replace)},
                        std::move(field)};
}

}  // namespace interlace
