#include "constraint/grammar.h"

#include <xgrammar/xgrammar.h>

#include <algorithm>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "constraint/schema_check.h"

namespace interlace {
namespace {

constexpr int64_t kCacheBytes = int64_t{96} << 20;  // of masks that grammars share

// What the library warned of on this thread since a compilation began: parts of a schema that it leaves out.
std::vector<std::string>& Warnings() {
  thread_local std::vector<std::string> warnings;
  return warnings;
}

// The first line of what the library threw, without the expression that it checked.
std::string Reason(absl::string_view what) {
  constexpr absl::string_view kCheck = ") is false: ";
  const size_t check = what.find(kCheck);
  if (check != absl::string_view::npos) what.remove_prefix(check + kCheck.size());
  constexpr size_t kLongest = 300;
  return std::string(what.substr(0, std::min(what.find('\n'), kLongest)));
}

}  // namespace
}  // namespace interlace

// The library's log, which it is built to leave to us (cmake/Xgrammar.cmake).
namespace xgrammar {

[[noreturn]] void LogFatalImpl(const std::string& file, int line, const std::string& message) {
  throw std::runtime_error(message);
}

void LogMessageImpl(const std::string& file, int line, int level, const std::string& message) {
  constexpr int kWarning = 2;
  if (level >= kWarning) interlace::Warnings().push_back(message);
}

}  // namespace xgrammar

namespace interlace {

struct Grammar::Parts {
  xgrammar::CompiledGrammar compiled;
};

size_t Grammar::bytes() const { return parts_->compiled.MemorySizeBytes(); }

struct GrammarCompiler::Parts {
  xgrammar::TokenizerInfo vocabulary;
  mutable xgrammar::GrammarCompiler compiler;
};

absl::StatusOr<std::unique_ptr<GrammarCompiler>> GrammarCompiler::Make(const Vocabulary& vocabulary) {
  try {
    xgrammar::TokenizerInfo info(vocabulary.pieces, xgrammar::VocabType::RAW, std::nullopt, vocabulary.end_tokens);
    // Masks are made when they are needed, by who fills them: compiling takes milliseconds then, not seconds.
    xgrammar::GrammarCompiler compiler(info, /*max_threads=*/1, /*cache_enabled=*/true, kCacheBytes,
                                       /*enable_dynamic_compilation=*/true);
    return std::unique_ptr<GrammarCompiler>(
        new GrammarCompiler(std::make_unique<Parts>(Parts{std::move(info), std::move(compiler)})));
  } catch (const std::exception& error) {
    return absl::InternalError(absl::StrCat("no grammars for this vocabulary: ", Reason(error.what())));
  }
}

GrammarCompiler::GrammarCompiler(std::unique_ptr<Parts> parts) : parts_(std::move(parts)) {}
GrammarCompiler::~GrammarCompiler() = default;

namespace {

xgrammar::CompiledGrammar CompiledBy(xgrammar::GrammarCompiler& compiler, const Constraint& constraint) {
  switch (constraint.kind) {
    case ConstraintKind::kJsonObject:
    case ConstraintKind::kJsonSchema: {
      const bool any = constraint.kind == ConstraintKind::kJsonObject;
      return compiler.CompileJSONSchema(
          any ? R"({"type":"object","additionalProperties":true})" : NarrowedText(constraint.text, /*structure=*/false),
          /*any_whitespace=*/!constraint.compact, /*indent=*/std::nullopt,
          /*separators=*/std::nullopt, /*strict_mode=*/true,
          constraint.compact ? std::nullopt : std::optional(kMostSpaces));
    }
    case ConstraintKind::kRegex:
      return compiler.CompileRegex(constraint.text);
    case ConstraintKind::kEbnf:
      return compiler.CompileGrammar(constraint.text);
    case ConstraintKind::kLark:
      return compiler.CompileLark(constraint.text);
    case ConstraintKind::kStructure:
      return compiler.CompileStructuralTag(NarrowedText(constraint.text, /*structure=*/true));
  }
  throw std::runtime_error("a constraint of no known kind");
}

}  // namespace

absl::StatusOr<Grammar> GrammarCompiler::Compile(const Constraint& constraint) const {
  Warnings().clear();
  try {
    Grammar grammar(std::make_shared<Grammar::Parts>(Grammar::Parts{CompiledBy(parts_->compiler, constraint)}));
    if (!Warnings().empty()) return absl::InvalidArgumentError(Reason(Warnings()[0]));
    // The mask of the first token is the dearest as a rule. It shows, too, whether there is any text at all.
    ASSIGN_OR_RETURN(TokenMatcher matcher, TokenMatcher::Make(grammar, constraint.end_tokens));
    std::vector<uint32_t> mask(MaskWords(parts_->vocabulary.GetVocabSize()));
    RETURN_IF_ERROR(matcher.FillMask(absl::MakeSpan(mask)));
    if (std::all_of(mask.begin(), mask.end(), [](uint32_t word) { return word == 0; })) {
      return absl::InvalidArgumentError("it allows no text");
    }
    return grammar;
  } catch (const std::exception& error) {
    return absl::InvalidArgumentError(Reason(error.what()));
  }
}

struct TokenMatcher::Parts {
  xgrammar::GrammarMatcher matcher;
  std::vector<int32_t> taken;
  size_t vocabulary;
};

absl::StatusOr<TokenMatcher> TokenMatcher::Make(const Grammar& grammar, const std::vector<int32_t>& end_tokens) {
  const xgrammar::CompiledGrammar& compiled = grammar.parts().compiled;
  try {
    return TokenMatcher(
        std::make_unique<Parts>(Parts{xgrammar::GrammarMatcher(compiled, end_tokens),
                                      {},
                                      static_cast<size_t>(compiled.GetTokenizerInfo().GetVocabSize())}));
  } catch (const std::exception& error) {
    return absl::InternalError(absl::StrCat("no output can be followed: ", Reason(error.what())));
  }
}

TokenMatcher::TokenMatcher(std::unique_ptr<Parts> parts) : parts_(std::move(parts)) {}
TokenMatcher::~TokenMatcher() = default;
TokenMatcher::TokenMatcher(TokenMatcher&&) noexcept = default;
TokenMatcher& TokenMatcher::operator=(TokenMatcher&&) noexcept = default;

bool TokenMatcher::ended() const { return parts_->matcher.IsTerminated(); }

bool TokenMatcher::Follow(absl::Span<const int32_t> output) {
  std::vector<int32_t>& taken = parts_->taken;
  const auto [mine, theirs] = std::mismatch(taken.begin(), taken.end(), output.begin(), output.end());
  if (const auto back = static_cast<int>(taken.end() - mine); back > 0) {
    parts_->matcher.Rollback(back);
    taken.resize(taken.size() - back);
  }
  Warnings().clear();
  for (const int32_t token : output.subspan(taken.size())) {
    if (ended() || token < 0 || token >= static_cast<int32_t>(parts_->vocabulary)) return false;
    try {
      if (!parts_->matcher.AcceptToken(token)) return false;
    } catch (const std::exception&) {
      return false;
    }
    taken.push_back(token);
  }
  return true;
}

absl::Status TokenMatcher::FillMask(absl::Span<uint32_t> bits) {
  const size_t words = MaskWords(parts_->vocabulary);
  int64_t shape = static_cast<int64_t>(words);
  DLTensor tensor{};
  tensor.data = bits.data();
  tensor.device = {kDLCPU, 0};
  tensor.ndim = 1;
  tensor.dtype = xgrammar::GetBitmaskDLType();
  tensor.shape = &shape;
  std::fill(bits.begin(), bits.end(), 0);
  try {
    // It answers false, and may have left the mask alone, where every token is allowed.
    if (!parts_->matcher.FillNextTokenBitmask(&tensor)) {
      std::fill(bits.begin(), bits.begin() + static_cast<ptrdiff_t>(words), ~uint32_t{0});
    }
  } catch (const std::exception& error) {
    return absl::InternalError(Reason(error.what()));
  }
  if (const size_t rest = parts_->vocabulary % 32; rest > 0) bits[words - 1] &= (uint32_t{1} << rest) - 1;
  return absl::OkStatus();
}

}  // namespace interlace
