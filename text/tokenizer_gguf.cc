// Tokenizers as GGUF metadata describes them.
#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "common/status_macros.h"
#include "text/bpe.h"
#include "text/byte_alphabet.h"
#include "text/spm_bpe.h"
#include "text/tokenizer.h"
#include "text/tokenizer_parts.h"
#include "text/unigram.h"

namespace interlace {
namespace {

// Token types of the format.
enum TokenType : int64_t { kNormal = 1, kUnknown = 2, kControl = 3, kUserDefined = 4, kUnused = 5, kByte = 6 };

}  // namespace

// Reads one file into the parts of a tokenizer; lives within Load.
class TokenizerGguf {
 public:
  explicit TokenizerGguf(const GgufFile& file) : file_(file), parts_(std::make_unique<Tokenizer::Parts>()) {}

  absl::StatusOr<std::unique_ptr<Tokenizer>> Read() {
    ASSIGN_OR_RETURN(const std::string model, file_.Text("tokenizer.ggml.model"));
    std::string known;
    for (const Row& row : kRows) {
      if (row.model != model) {
        absl::StrAppend(&known, known.empty() ? "" : ", ", row.model, " (", row.what, ")");
        continue;
      }
      RETURN_IF_ERROR(ReadTokens());
      RETURN_IF_ERROR((this->*row.read)());
      RETURN_IF_ERROR(ReadMarks());
      return std::unique_ptr<Tokenizer>(new Tokenizer(std::move(parts_)));
    }
    return absl::UnimplementedError(absl::StrCat(file_.name(), ": tokenizer.ggml.model '",
                                                 absl::string_view(model).substr(0, 80),
                                                 "' is not built in; known: ", known));
  }

 private:
  struct Row {
    absl::string_view model;
    absl::Status (TokenizerGguf::*read)();
    absl::string_view what;
  };
  static const Row kRows[3];

  absl::Status Broken(absl::string_view what) const {
    return absl::InvalidArgumentError(absl::StrCat(file_.name(), ": tokenizer.ggml.", what));
  }

  absl::Status ReadTokens() {
    std::vector<std::string>& tokens = parts_->pieces;
    ASSIGN_OR_RETURN(tokens, file_.Texts("tokenizer.ggml.tokens"));
    if (tokens.empty() || tokens.size() > kMostTokens) {
      return Broken(absl::StrCat("tokens has ", tokens.size(), " tokens; 1 to ", kMostTokens, " are possible"));
    }
    types_.assign(tokens.size(), kNormal);
    if (file_.Has("tokenizer.ggml.token_type")) {
      ASSIGN_OR_RETURN(types_, file_.Integers("tokenizer.ggml.token_type"));
    }
    if (types_.size() != tokens.size()) {
      return Broken(absl::StrCat("token_type has ", types_.size(), " types for ", tokens.size(), " tokens"));
    }
    for (size_t i = 0; i < tokens.size(); ++i) {
      const bool control = types_[i] == kControl || types_[i] == kUnknown;
      parts_->control.push_back(control);
      if (!control && types_[i] != kUserDefined) continue;
      if (tokens[i].empty()) return Broken(absl::StrCat("tokens[", i, "] is empty"));
      parts_->specials.Add(tokens[i], {static_cast<int32_t>(i), control});
    }
    return absl::OkStatus();
  }

  // SentencePiece looks for user-defined tokens after spaces became marks. Where it puts a space before the text that
  // makes a difference, and transformers and llama.cpp, which put one before each part, look before.
  void FindUserDefinedAfterMarking() {
    SpecialTokens controls;
    for (size_t i = 0; i < types_.size(); ++i) {
      const SpecialTokens::Token token{static_cast<int32_t>(i), parts_->control[i]};
      if (token.control) controls.Add(parts_->pieces[i], token);
      if (types_[i] == kUserDefined) {
        parts_->normal_specials.Add(absl::StrReplaceAll(parts_->pieces[i], {{" ", kSpaceMark}}), token);
      }
    }
    parts_->specials = std::move(controls);
  }

  absl::Status ReadScores() {
    // Of 32 or 64 bits; other lists are refused by Reals.
    ASSIGN_OR_RETURN(scores_, file_.Reals("tokenizer.ggml.scores"));
    if (scores_.size() != parts_->pieces.size()) {
      return Broken(absl::StrCat("scores has ", scores_.size(), " scores for ", parts_->pieces.size(), " tokens"));
    }
    for (size_t i = 0; i < scores_.size(); ++i) {
      if (!std::isfinite(scores_[i])) return Broken(absl::StrCat("scores[", i, "] is not a finite number"));
    }
    return absl::OkStatus();
  }

  absl::Status ReadByteBpe() {
    std::string pre = "default";
    if (file_.Has("tokenizer.ggml.pre")) {
      ASSIGN_OR_RETURN(pre, file_.Text("tokenizer.ggml.pre"));
    }
    ASSIGN_OR_RETURN(std::unique_ptr<Pretokenizer> pretokenizer, Pretokenizer::Make(pre));
    parts_->pretokenizer = std::move(*pretokenizer);
    const bool llama3 = pre == "llama-bpe" || pre == "llama3" || pre == "llama-v3";
    parts_->add_bos = llama3;
    if (pre == "qwen2" || pre == "deepseek-r1-qwen") parts_->normalizer.AddForm(Normalizer::Form::kNfc);
    auto bpe = std::make_unique<Bpe>();
    bpe->set_whole_pieces_first(llama3);
    const ByteAlphabet alphabet;
    std::string bytes;
    for (size_t i = 0; i < types_.size(); ++i) {
      if (parts_->control[i] || types_[i] == kUserDefined || !alphabet.Read(parts_->pieces[i], &bytes)) continue;
      bpe->AddToken(bytes, static_cast<int32_t>(i));
      parts_->pieces[i] = bytes;
    }
    RETURN_IF_ERROR(ReadMerges(alphabet, bpe.get()));
    parts_->model = std::move(bpe);
    parts_->keeps_bytes = true;
    for (const std::string& piece : parts_->pieces) {
      parts_->longest_piece = std::max(parts_->longest_piece, piece.size());
    }
    return absl::OkStatus();
  }

  absl::Status ReadMerges(const ByteAlphabet& alphabet, Bpe* bpe) {
    ASSIGN_OR_RETURN(const std::vector<std::string> merges, file_.Texts("tokenizer.ggml.merges"));
    std::string left, right;
    for (size_t rank = 0; rank < merges.size(); ++rank) {
      const absl::string_view merge = merges[rank];
      const size_t space = merge.find(' ');
      if (space == absl::string_view::npos || !alphabet.Read(merge.substr(0, space), &left) ||
          !alphabet.Read(merge.substr(space + 1), &right) || !bpe->AddMerge(left, right, static_cast<int32_t>(rank))) {
        return Broken(
            absl::StrCat("merges[", rank, "] '", merge.substr(0, 80), "' does not join two tokens to a third"));
      }
    }
    return absl::OkStatus();
  }

  absl::Status ReadSpmBpe() {
    RETURN_IF_ERROR(ReadScores());
    parts_->add_bos = true;
    RETURN_IF_ERROR(ReadSpaceRules(/*prefix=*/true));
    auto bpe = std::make_unique<SpmBpe>();
    RETURN_IF_ERROR(ReadFallback(/*fuse=*/true, &bpe->fallback()));
    for (size_t i = 0; i < types_.size(); ++i) {
      if (types_[i] != kNormal && types_[i] != kUnused) continue;
      if (parts_->pieces[i].empty()) return Broken(absl::StrCat("tokens[", i, "] is empty"));
      bpe->AddToken(parts_->pieces[i], static_cast<int32_t>(i), static_cast<float>(scores_[i]), types_[i] == kUnused);
    }
    parts_->model = std::move(bpe);
    DropSpaceMarks();
    return absl::OkStatus();
  }

  absl::Status ReadUnigram() {
    if (file_.Has("tokenizer.ggml.precompiled_charsmap")) {
      return absl::UnimplementedError(
          absl::StrCat(file_.name(), ": tokenizer.ggml.precompiled_charsmap is not built in"));
    }
    RETURN_IF_ERROR(ReadScores());
    parts_->add_eos = true;
    if (file_.Has("tokenizer.ggml.remove_extra_whitespaces")) {
      ASSIGN_OR_RETURN(const bool remove, file_.Flag("tokenizer.ggml.remove_extra_whitespaces"));
      if (remove) {
        parts_->normalizer.AddStrip(true, true);
        RETURN_IF_ERROR(parts_->normalizer.AddPatternReplacement(" {2,}", " "));
      }
    }
    RETURN_IF_ERROR(ReadSpaceRules(/*prefix=*/true));
    auto unigram = std::make_unique<Unigram>();
    RETURN_IF_ERROR(ReadFallback(/*fuse=*/true, &unigram->fallback()));
    for (size_t i = 0; i < types_.size(); ++i) {
      if (types_[i] != kNormal) continue;
      const absl::Status added = unigram->AddToken(parts_->pieces[i], static_cast<int32_t>(i), scores_[i]);
      if (!added.ok()) return Broken(absl::StrCat("tokens[", i, "]: ", added.message()));
    }
    parts_->model = std::move(unigram);
    DropSpaceMarks();
    return absl::OkStatus();
  }

  absl::Status ReadSpaceRules(bool prefix) {
    if (file_.Has("tokenizer.ggml.add_space_prefix")) {
      ASSIGN_OR_RETURN(prefix, file_.Flag("tokenizer.ggml.add_space_prefix"));
    }
    if (prefix) parts_->normalizer.AddPrefix(" ");
    parts_->normalizer.AddReplacement(" ", kSpaceMark);
    parts_->drops_first_space = prefix;
    if (!prefix) FindUserDefinedAfterMarking();
    return absl::OkStatus();
  }

  absl::Status ReadFallback(bool fuse, ByteFallback* fallback) {
    for (size_t i = 0; i < types_.size(); ++i) {
      if (types_[i] != kByte) continue;
      const int byte = ByteOfToken(parts_->pieces[i]);
      if (byte < 0) {
        return Broken(absl::StrCat("tokens[", i, "] '", parts_->pieces[i].substr(0, 80), "' is no byte token <0x..>"));
      }
      fallback->SetByte(byte, static_cast<int32_t>(i));
      parts_->pieces[i] = std::string(1, static_cast<char>(byte));
    }
    ASSIGN_OR_RETURN(const int32_t unknown, ReadTokenId("unknown_token_id"));
    if (unknown >= 0) fallback->SetUnknown(unknown, fuse);
    return absl::OkStatus();
  }

  // Turns the marks in tokens that stand for text back into spaces.
  void DropSpaceMarks() {
    for (size_t i = 0; i < types_.size(); ++i) {
      if (types_[i] == kNormal || types_[i] == kUnused || types_[i] == kUserDefined) {
        parts_->pieces[i] = absl::StrReplaceAll(parts_->pieces[i], {{kSpaceMark, " "}});
      }
    }
  }

  // The value of a key that may be missing, as an id within the vocabulary; -1 if missing.
  absl::StatusOr<int32_t> ReadTokenId(absl::string_view name) {
    const std::string key = absl::StrCat("tokenizer.ggml.", name);
    if (!file_.Has(key)) return -1;
    ASSIGN_OR_RETURN(const int64_t id, file_.Integer(key));
    if (id < 0 || static_cast<size_t>(id) >= parts_->pieces.size()) {
      return Broken(absl::StrCat(name, " ", id, " is outside the vocabulary of ", parts_->pieces.size(), " tokens"));
    }
    return static_cast<int32_t>(id);
  }

  absl::Status ReadMarks() {
    ASSIGN_OR_RETURN(parts_->bos, ReadTokenId("bos_token_id"));
    ASSIGN_OR_RETURN(parts_->eos, ReadTokenId("eos_token_id"));
    if (file_.Has("tokenizer.ggml.add_bos_token")) {
      ASSIGN_OR_RETURN(parts_->add_bos, file_.Flag("tokenizer.ggml.add_bos_token"));
    }
    if (file_.Has("tokenizer.ggml.add_eos_token")) {
      ASSIGN_OR_RETURN(parts_->add_eos, file_.Flag("tokenizer.ggml.add_eos_token"));
    }
    parts_->CollectStopTokens();
    for (absl::string_view name : {"eot_token_id", "eom_token_id"}) {
      ASSIGN_OR_RETURN(const int32_t id, ReadTokenId(name));
      std::vector<int32_t>& stops = parts_->stop_tokens;
      if (id >= 0 && std::find(stops.begin(), stops.end(), id) == stops.end()) stops.push_back(id);
    }
    return absl::OkStatus();
  }

  const GgufFile& file_;
  std::unique_ptr<Tokenizer::Parts> parts_;
  std::vector<int64_t> types_;
  std::vector<double> scores_;
};

const TokenizerGguf::Row TokenizerGguf::kRows[3] = {
    {"gpt2", &TokenizerGguf::ReadByteBpe, "byte-level BPE"},
    {"llama", &TokenizerGguf::ReadSpmBpe, "SentencePiece BPE"},
    {"t5", &TokenizerGguf::ReadUnigram, "SentencePiece unigram"},
};

absl::StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::Load(const GgufFile& file) { return TokenizerGguf(file).Read(); }

}  // namespace interlace
