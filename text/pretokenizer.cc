#include "text/pretokenizer.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "common/check.h"
#include "common/status_macros.h"
#include "text/text_pattern.h"
#include "text/utf8.h"

namespace interlace {
namespace {

constexpr absl::string_view kSpaceMark = "\u2581";

constexpr const char* kDigit = R"(\p{N})";
constexpr const char* kGpt2 = R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
constexpr const char* kLlama3 =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|)"
    R"(\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr const char* kQwen2 =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|)"
    R"(\s*[\r\n]+|\s+(?!\S)|\s+)";

// Runs of letters change where a small one is followed by a large one.
constexpr const char* kTekken = R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|)"
                                R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|)"
                                R"(\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr const char* kGpt4o =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|)"
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|)"
    R"(\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

// What the tokenizer.json of each name's models does; llama.cpp comes near it.
struct Row {
  absl::string_view name;
  std::vector<const char*> patterns;
  Pretokenizer::Ways ways;
};
constexpr Pretokenizer::Ways kWhole{.bos = true, .whole_pieces_first = true};
constexpr Pretokenizer::Ways kNfc{.nfc = true};
const std::vector<Row>& Rows() {
  static const std::vector<Row>& rows = *new std::vector<Row>{
      {"smollm", {kDigit, kGpt2}, {}},
      {"starcoder", {kDigit, kGpt2}, {}},
      {"refact", {kDigit, kGpt2}, {}},  // Granite 3
      {"llama-bpe", {kLlama3}, kWhole},
      {"llama3", {kLlama3}, kWhole},
      {"llama-v3", {kLlama3}, kWhole},
      {"pixtral", {kLlama3}, kWhole},
      {"dbrx", {kLlama3}, {}},  // Phi-4, OLMo 2
      {"smaug-bpe", {kLlama3}, {}},
      {"tekken", {kTekken}, kWhole},
      {"gpt-4o", {kGpt4o}, {}},  // Phi-4-mini
      {"qwen2", {kQwen2}, kNfc},
      {"deepseek-r1-qwen", {kQwen2}, kNfc},
      {"gpt-2", {kGpt2}, {}},
      {"olmo", {kGpt2}, {}},
      {"default", {R"([\p{P}\$\+<=>\^~\|]+)", kGpt2, R"(\p{N}+)", "[0-9][0-9][0-9]"}, {}},
  };
  return rows;
}

// A part of a piece, and whether it is what a pattern matched.
struct Part {
  size_t begin, end;
  bool match;
};

// Joins parts that follow one another as the behaviour says.
std::vector<Part> Joined(const std::vector<Part>& parts, Pretokenizer::Behaviour behaviour) {
  std::vector<Part> out;
  for (const Part& part : parts) {
    const bool first = out.empty();
    switch (behaviour) {
      case Pretokenizer::Behaviour::kIsolated:
        out.push_back(part);
        break;
      case Pretokenizer::Behaviour::kRemoved:
        if (!part.match) out.push_back(part);
        break;
      case Pretokenizer::Behaviour::kMergedWithPrevious:
        // A match joins what it follows, unless that is a match.
        if (part.match && !first && !out.back().match) {
          out.back() = {out.back().begin, part.end, true};
        } else {
          out.push_back(part);
        }
        break;
      case Pretokenizer::Behaviour::kMergedWithNext:
        // What follows a match joins it, unless it is a match too.
        if (!part.match && !first && out.back().match) {
          out.back() = {out.back().begin, part.end, false};
        } else {
          out.push_back(part);
        }
        break;
      case Pretokenizer::Behaviour::kContiguous:
        if (!first && out.back().match == part.match) {
          out.back().end = part.end;
        } else {
          out.push_back(part);
        }
        break;
    }
  }
  return out;
}

}  // namespace

struct Pretokenizer::Step {
  std::optional<TextPattern> pattern;  // none: the step changes text
  Behaviour behaviour = Behaviour::kIsolated;
  bool invert = false;
  absl::string_view prefix;  // of pieces that do not begin with it
  Prefix prefix_where = Prefix::kAlways;
  bool marks = false, cut_at_marks = false;
};

// One call of Split.
struct Pretokenizer::Run {
  const Pretokenizer& pretokenizer;
  Pieces* pieces;
  TextPattern::Search search;

  void Cut(const Step& step, absl::string_view piece, std::vector<absl::string_view>* out) {
    std::vector<Part> parts;
    size_t done = 0;
    for (size_t from = 0; from <= piece.size();) {
      const TextPattern::Found found = step.pattern->Find(piece, from, search);
      if (!found.any) break;
      if (found.begin > done) parts.push_back({done, found.begin, step.invert});
      if (found.end > found.begin) parts.push_back({found.begin, found.end, !step.invert});
      done = found.end;
      // An empty match cuts and the search goes on behind the next character.
      from = found.end > found.begin    ? found.end
             : found.end < piece.size() ? found.end + Utf8FrontOf(piece.substr(found.end)).bytes
                                        : piece.size() + 1;
    }
    if (done < piece.size()) parts.push_back({done, piece.size(), step.invert});
    for (const Part& part : Joined(parts, step.behaviour))
      out->push_back(piece.substr(part.begin, part.end - part.begin));
  }

  void Change(const Step& step, absl::string_view piece, bool first, std::vector<absl::string_view>* out) {
    std::string text = step.marks ? absl::StrReplaceAll(piece, {{" ", kSpaceMark}}) : std::string(piece);
    const bool wanted = step.prefix_where == Prefix::kAlways || (step.prefix_where == Prefix::kFirst && first);
    if (wanted && !absl::StartsWith(text, step.prefix)) text.insert(0, step.prefix.data(), step.prefix.size());
    pieces->changed.push_back(std::move(text));
    const absl::string_view changed = pieces->changed.back();
    if (!step.cut_at_marks) {
      out->push_back(changed);
      return;
    }
    for (size_t begin = 0; begin < changed.size();) {
      const size_t end = std::min(changed.find(kSpaceMark, begin + 1), changed.size());
      out->push_back(changed.substr(begin, end - begin));
      begin = end;
    }
  }

  // Appends the pieces of a UTF-8 text after every step.
  void Add(absl::string_view text, bool at_start) {
    if (text.empty()) return;
    std::vector<absl::string_view> coarse = {text}, fine;
    for (const auto& step : pretokenizer.steps_) {
      fine.clear();
      for (size_t i = 0; i < coarse.size(); ++i) {
        if (step->pattern.has_value()) {
          Cut(*step, coarse[i], &fine);
        } else {
          Change(*step, coarse[i], at_start && i == 0, &fine);
        }
      }
      std::swap(coarse, fine);
    }
    pieces->views.insert(pieces->views.end(), coarse.begin(), coarse.end());
  }
};

const char* const Pretokenizer::kByteLevelPattern = kGpt2;

Pretokenizer::Pretokenizer() = default;
Pretokenizer::Pretokenizer(Pretokenizer&&) noexcept = default;
Pretokenizer& Pretokenizer::operator=(Pretokenizer&&) noexcept = default;
Pretokenizer::~Pretokenizer() = default;

absl::StatusOr<std::unique_ptr<Pretokenizer>> Pretokenizer::Make(absl::string_view name) {
  std::string known;
  for (const Row& row : Rows()) {
    if (row.name != name) {
      absl::StrAppend(&known, known.empty() ? "" : ", ", row.name);
      continue;
    }
    auto pretokenizer = std::make_unique<Pretokenizer>();
    for (const char* pattern : row.patterns) RETURN_IF_ERROR(pretokenizer->AddPattern(pattern));
    return pretokenizer;
  }
  return absl::UnimplementedError(
      absl::StrCat("tokenizer.ggml.pre is '", name.substr(0, 80), "', which is not built in; known: ", known));
}

Pretokenizer::Ways Pretokenizer::WaysOf(absl::string_view name) {
  for (const Row& row : Rows()) {
    if (row.name == name) return row.ways;
  }
  return {};
}

absl::Status Pretokenizer::AddPattern(absl::string_view pattern, Behaviour behaviour, bool invert) {
  ASSIGN_OR_RETURN(TextPattern compiled, TextPattern::Compile(pattern));
  steps_.push_back(std::make_unique<Step>());
  steps_.back()->pattern.emplace(std::move(compiled));
  steps_.back()->behaviour = behaviour;
  steps_.back()->invert = invert;
  return absl::OkStatus();
}

void Pretokenizer::AddSpacePrefix() {
  steps_.push_back(std::make_unique<Step>());
  steps_.back()->prefix = " ";
}

void Pretokenizer::AddSpaceMarks(Prefix prefix, bool cut) {
  steps_.push_back(std::make_unique<Step>());
  steps_.back()->prefix = kSpaceMark;
  steps_.back()->prefix_where = prefix;
  steps_.back()->marks = true;
  steps_.back()->cut_at_marks = cut;
}

void Pretokenizer::Split(absl::string_view text, bool at_start, Pieces* pieces) const {
  Run run{*this, pieces, {}};
  size_t begin = 0;  // of the run of whole code points that ends at i
  for (size_t i = 0; i < text.size();) {
    const Utf8Front front = Utf8FrontOf(text.substr(i));
    if (front.kind != Utf8Front::kComplete) {
      run.Add(text.substr(begin, i - begin), at_start && begin == 0);
      pieces->views.push_back(text.substr(i, front.bytes));
      begin = i + front.bytes;
    }
    i += front.bytes;
  }
  run.Add(text.substr(begin), at_start && begin == 0);
}

std::vector<absl::string_view> Pretokenizer::Split(absl::string_view text) const {
  Pieces pieces;
  Split(text, true, &pieces);
  CHECK_MSG(pieces.changed.empty(), "a step changes the text");
  return std::move(pieces.views);
}

}  // namespace interlace
