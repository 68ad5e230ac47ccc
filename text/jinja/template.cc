#include "text/jinja/template.h"

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "text/jinja/evaluator.h"
#include "text/jinja/lexer.h"
#include "text/jinja/parser.h"

namespace interlace::jinja {

struct Template::Syntax {
  std::string name;
  Block block;
};

Template::Template(std::unique_ptr<Syntax> syntax) : syntax_(std::move(syntax)) {}
Template::Template(Template&&) noexcept = default;
Template& Template::operator=(Template&&) noexcept = default;
Template::~Template() = default;

absl::StatusOr<Template> Template::Compile(absl::string_view source, std::string name) {
  const auto named = [&](const absl::Status& status) {
    return absl::Status(status.code(), absl::StrCat(name, " ", status.message()));
  };
  if (source.size() > kLargest) {
    return absl::InvalidArgumentError(
        absl::StrCat(name, " has ", source.size(), " bytes; ", kLargest, " are possible"));
  }
  const absl::StatusOr<std::vector<Token>> tokens = Lex(source);
  if (!tokens.ok()) return named(tokens.status());
  absl::StatusOr<Block> block = Parse(*tokens);
  if (!block.ok()) return named(block.status());
  auto syntax = std::make_unique<Syntax>();
  syntax->name = std::move(name);
  syntax->block = *std::move(block);
  return Template(std::move(syntax));
}

absl::StatusOr<Text> Template::Render(const std::vector<std::pair<std::string, Value>>& variables, int64_t wall_seconds,
                                      Heap& heap) const {
  Evaluator evaluator(Evaluator::Limits(), wall_seconds, heap);
  absl::StatusOr<Text> text = evaluator.Render(syntax_->block, variables);
  if (text.ok()) return text;
  return absl::Status(text.status().code(), absl::StrCat(syntax_->name, " ", text.status().message()));
}

}  // namespace interlace::jinja
