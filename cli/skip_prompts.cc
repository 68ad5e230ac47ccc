#include "cli/skip_prompts.h"

#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "common/status_macros.h"

namespace interlace {
namespace {

using nlohmann::json;

absl::StatusOr<std::string> TextOfLine(absl::string_view line) {
  const json object = json::parse(line.begin(), line.end(), nullptr, /*allow_exceptions=*/false);
  if (!object.is_object()) return absl::InvalidArgumentError("is no JSON object");
  const auto text_of = [&object](const char* field) -> std::string {
    const auto found = object.find(field);
    if (found == object.end()) return std::string();
    if (found->is_string()) return found->get<std::string>();
    const bool turns = found->is_array() && !found->empty() && found->front().is_string();
    return turns ? found->front().get<std::string>() : std::string();
  };
  for (const char* field : {"prompt", "question", "text", "turns"}) {
    std::string text = text_of(field);
    if (text.empty()) continue;
    const std::string answer = text_of("answer");
    return answer.empty() ? text : absl::StrCat(text, "\n", answer);
  }
  return absl::InvalidArgumentError("has none of the fields prompt, question, text and turns");
}

std::vector<std::string> Paragraphs(absl::string_view content, size_t least) {
  std::vector<std::string> texts;
  std::string text;
  for (absl::string_view line : absl::StrSplit(content, '\n')) {
    line = absl::StripAsciiWhitespace(line);
    if (line.empty()) continue;
    absl::StrAppend(&text, text.empty() ? "" : "\n", line);
    if (text.size() < least) continue;
    texts.push_back(std::move(text));
    text.clear();
  }
  if (texts.empty() && !text.empty()) texts.push_back(std::move(text));
  return texts;
}

}  // namespace

absl::StatusOr<std::vector<std::string>> TextsOf(absl::string_view name, absl::string_view content, size_t least) {
  if (!absl::EndsWith(name, ".jsonl")) return Paragraphs(content, least);
  std::vector<std::string> texts;
  int line_number = 0;
  for (const absl::string_view line : absl::StrSplit(content, '\n')) {
    ++line_number;
    if (absl::StripAsciiWhitespace(line).empty()) continue;
    absl::StatusOr<std::string> text = TextOfLine(line);
    if (!text.ok()) {
      return absl::InvalidArgumentError(absl::StrCat(name, ":", line_number, " ", text.status().message()));
    }
    texts.push_back(*std::move(text));
  }
  return texts;
}

absl::StatusOr<std::vector<std::string>> ReadTexts(const std::string& path, size_t least) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return absl::NotFoundError(absl::StrCat(path, " cannot be read"));
  const std::string content{std::istreambuf_iterator<char>(file), {}};
  ASSIGN_OR_RETURN(std::vector<std::string> texts, TextsOf(path, content, least));
  if (texts.empty()) return absl::InvalidArgumentError(absl::StrCat(path, " holds no text"));
  return texts;
}

}  // namespace interlace
