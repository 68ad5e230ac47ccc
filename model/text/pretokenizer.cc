#include "model/text/pretokenizer.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <limits>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "common/check.h"
#include "model/text/utf8.h"

namespace interlace {
namespace {

// In the patterns below S stands for the members of White_Space: PCRE2's \s has U+180E besides, which is none since
// Unicode 6.3.
constexpr const char* kWhiteSpace =
    R"(\x{9}-\x{d}\x{20}\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000})";

constexpr const char* kDigit = R"(\p{N})";
constexpr const char* kGpt2 =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^<S>\p{L}\p{N}]+|[<S>]+(?![^<S>])|[<S>]+)";
constexpr const char* kLlama3 =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^<S>\p{L}\p{N}]+[\r\n]*|)"
    R"([<S>]*[\r\n]+|[<S>]+(?![^<S>])|[<S>]+)";

// What llama.cpp does for each name.
struct Row {
  absl::string_view name;
  std::vector<const char*> patterns;
};
const std::vector<Row>& Rows() {
  static const std::vector<Row>& rows = *new std::vector<Row>{
      {"smollm", {kDigit, kGpt2}},
      {"llama-bpe", {kLlama3}},
      {"gpt-2", {kGpt2}},
      {"default", {R"([\p{P}\$\+<=>\^~\|]+)", kGpt2, R"(\p{N}+)", "[0-9][0-9][0-9]"}},
  };
  return rows;
}

struct CodeFree {
  void operator()(pcre2_code* code) const { pcre2_code_free(code); }
};
struct MatchFree {
  void operator()(pcre2_match_data* match) const { pcre2_match_data_free(match); }
};
struct ContextFree {
  void operator()(pcre2_match_context* context) const { pcre2_match_context_free(context); }
};
using Code = std::unique_ptr<pcre2_code, CodeFree>;
using Match = std::unique_ptr<pcre2_match_data, MatchFree>;
using Context = std::unique_ptr<pcre2_match_context, ContextFree>;

absl::StatusOr<Code> Compile(const char* pattern) {
  const std::string full = absl::StrReplaceAll(pattern, {{"<S>", kWhiteSpace}});
  int error = 0;
  PCRE2_SIZE at = 0;
  Code code(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(full.data()), full.size(), PCRE2_UTF | PCRE2_UCP, &error, &at,
                          nullptr));
  if (code == nullptr) {
    return absl::InternalError(absl::StrCat("pattern ", full, ": PCRE2 error ", error, " at ", at));
  }
  pcre2_jit_compile(code.get(), PCRE2_JIT_COMPLETE);  // without JIT the same matches, only slower
  return code;
}

}  // namespace

struct Pretokenizer::Stages {
  std::vector<Code> codes;
  Context context;  // read only: no limits, since the patterns backtrack at most one run of white space

  // Whether `code` matches in `text` at `from` or later. `text` is UTF-8.
  bool Find(const Code& code, absl::string_view text, size_t from, pcre2_match_data* match) const {
    const auto run = [&](uint32_t options) {
      return pcre2_match(code.get(), reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), from,
                         PCRE2_NO_UTF_CHECK | options, match, context.get());
    };
    int found = run(0);
    if (found == PCRE2_ERROR_JIT_STACKLIMIT) found = run(PCRE2_NO_JIT);
    CHECK_MSG(found >= 0 || found == PCRE2_ERROR_NOMATCH, "a pretokenizer pattern cannot be matched: out of memory");
    return found >= 0;
  }

  // Appends the matches of `code` in `text` and the gaps between them.
  void SplitBy(const Code& code, absl::string_view text, pcre2_match_data* match,
               std::vector<absl::string_view>* pieces) const {
    size_t done = 0;
    while (done < text.size() && Find(code, text, done, match)) {
      const PCRE2_SIZE* span = pcre2_get_ovector_pointer(match);
      CHECK_MSG(span[1] > span[0], "no pretokenizer pattern matches an empty text");
      if (span[0] > done) pieces->push_back(text.substr(done, span[0] - done));
      pieces->push_back(text.substr(span[0], span[1] - span[0]));
      done = span[1];
    }
    if (done < text.size()) pieces->push_back(text.substr(done));
  }

  // Appends the pieces of a UTF-8 text after every stage.
  void SplitRun(absl::string_view text, const std::vector<Match>& matches,
                std::vector<absl::string_view>* pieces) const {
    if (text.empty()) return;
    std::vector<absl::string_view> coarse = {text}, fine;
    for (size_t stage = 0; stage < codes.size(); ++stage) {
      fine.clear();
      for (absl::string_view piece : coarse) SplitBy(codes[stage], piece, matches[stage].get(), &fine);
      std::swap(coarse, fine);
    }
    pieces->insert(pieces->end(), coarse.begin(), coarse.end());
  }
};

Pretokenizer::Pretokenizer(std::unique_ptr<Stages> stages) : stages_(std::move(stages)) {}
Pretokenizer::~Pretokenizer() = default;

absl::StatusOr<std::unique_ptr<Pretokenizer>> Pretokenizer::Make(absl::string_view name) {
  std::string known;
  for (const Row& row : Rows()) {
    if (row.name != name) {
      absl::StrAppend(&known, known.empty() ? "" : ", ", row.name);
      continue;
    }
    auto stages = std::make_unique<Stages>();
    for (const char* pattern : row.patterns) {
      absl::StatusOr<Code> code = Compile(pattern);
      if (!code.ok()) return code.status();
      stages->codes.push_back(*std::move(code));
    }
    stages->context.reset(pcre2_match_context_create(nullptr));
    CHECK(stages->context != nullptr);
    pcre2_set_match_limit(stages->context.get(), std::numeric_limits<uint32_t>::max());
    pcre2_set_depth_limit(stages->context.get(), std::numeric_limits<uint32_t>::max());
    pcre2_set_heap_limit(stages->context.get(), std::numeric_limits<uint32_t>::max());
    return std::unique_ptr<Pretokenizer>(new Pretokenizer(std::move(stages)));
  }
  return absl::UnimplementedError(
      absl::StrCat("tokenizer.ggml.pre is '", name.substr(0, 80), "', which is not built in; known: ", known));
}

std::vector<absl::string_view> Pretokenizer::Split(absl::string_view text) const {
  std::vector<Match> matches;
  for (const Code& code : stages_->codes) {
    matches.emplace_back(pcre2_match_data_create_from_pattern(code.get(), nullptr));
    CHECK(matches.back() != nullptr);
  }
  std::vector<absl::string_view> pieces;
  size_t begin = 0;  // of the run of whole code points that ends at i
  for (size_t i = 0; i < text.size();) {
    const Utf8Front front = Utf8FrontOf(text.substr(i));
    if (front.kind != Utf8Front::kComplete) {
      stages_->SplitRun(text.substr(begin, i - begin), matches, &pieces);
      pieces.push_back(text.substr(i, front.bytes));
      begin = i + front.bytes;
    }
    i += front.bytes;
  }
  stages_->SplitRun(text.substr(begin), matches, &pieces);
  return pieces;
}

}  // namespace interlace
