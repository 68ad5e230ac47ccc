// Tokenizers as GGUF metadata describes them.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "text/bpe.h"
#include "text/byte_alphabet.h"
#include "text/spm_parts.h"
#include "text/tokenizer.h"
#include "text/tokenizer_parts.h"

namespace interlace {

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
    return Spm().FillSpecials();
  }

  SpmParts Spm() { return SpmParts(absl::StrCat(file_.name(), ": tokenizer.ggml."), types_, parts_.get()); }

  absl::Status ReadByteBpe() {
    std::string pre = "default";
    if (file_.Has("tokenizer.ggml.pre")) {
      ASSIGN_OR_RETURN(pre, file_.Text("tokenizer.ggml.pre"));
    }
    ASSIGN_OR_RETURN(std::unique_ptr<Pretokenizer> pretokenizer, Pretokenizer::Make(pre));
    parts_->pretokenizer = std::move(*pretokenizer);
    const Pretokenizer::Ways ways = Pretokenizer::WaysOf(pre);
    parts_->add_bos = ways.bos;
    if (ways.nfc) parts_->normalizer.AddForm(Normalizer::Form::kNfc);
    auto bpe = std::make_unique<Bpe>();
    bpe->set_whole_pieces_first(ways.whole_pieces_first);
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
    parts_->add_bos = true;
    ASSIGN_OR_RETURN(const SpmParts::Rules rules, ReadSpmRules());
    return Spm().FillModel(rules);
  }

  absl::Status ReadUnigram() {
    if (file_.Has("tokenizer.ggml.precompiled_charsmap")) {
      return absl::UnimplementedError(
          absl::StrCat(file_.name(), ": tokenizer.ggml.precompiled_charsmap is not built in"));
    }
    parts_->add_eos = true;
    ASSIGN_OR_RETURN(SpmParts::Rules rules, ReadSpmRules());
    rules.unigram = true;
    if (file_.Has("tokenizer.ggml.remove_extra_whitespaces")) {
      ASSIGN_OR_RETURN(rules.collapse_spaces, file_.Flag("tokenizer.ggml.remove_extra_whitespaces"));
    }
    return Spm().FillModel(rules);
  }

  absl::StatusOr<SpmParts::Rules> ReadSpmRules() {
    SpmParts::Rules rules;
    // Of 32 or 64 bits; other lists are refused by Reals.
    ASSIGN_OR_RETURN(rules.scores, file_.Reals("tokenizer.ggml.scores"));
    if (rules.scores.size() != parts_->pieces.size()) {
      return Broken(absl::StrCat("scores has ", rules.scores.size(), " scores for ", parts_->pieces.size(), " tokens"));
    }
    if (file_.Has("tokenizer.ggml.add_space_prefix")) {
      ASSIGN_OR_RETURN(rules.space_prefix, file_.Flag("tokenizer.ggml.add_space_prefix"));
    }
    ASSIGN_OR_RETURN(rules.unknown, ReadTokenId("unknown_token_id"));
    return rules;
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
};

const TokenizerGguf::Row TokenizerGguf::kRows[3] = {
    {"gpt2", &TokenizerGguf::ReadByteBpe, "byte-level BPE"},
    {"llama", &TokenizerGguf::ReadSpmBpe, "SentencePiece BPE"},
    {"t5", &TokenizerGguf::ReadUnigram, "SentencePiece unigram"},
};

absl::StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::Load(const GgufFile& file) { return TokenizerGguf(file).Read(); }

}  // namespace interlace
