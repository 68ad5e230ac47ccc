#include "model/text/tokenizer.h"

#include <algorithm>
#include <array>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "common/check.h"
#include "common/status_macros.h"
#include "model/text/bpe.h"
#include "model/text/pretokenizer.h"

namespace interlace {
namespace {

// Token types of GGUF that matter here.
enum TokenType : int64_t { kNormal = 1, kUnknown = 2, kControl = 3, kUserDefined = 4 };

constexpr size_t kMostTokens = 1 << 24;
constexpr absl::string_view kTurnEnds[] = {"<|im_end|>", "<|eot_id|>", "<|endoftext|>", "<|end_of_text|>"};

// The alphabet in which vocabularies of byte-level BPE are written: GPT-2 shows each byte as a printable character.
// 33-126, 161-172 and 174-255 stand for themselves, the others take the characters from 256 on.
class ByteAlphabet {
 public:
  ByteAlphabet() {
    bytes_.fill(-1);
    size_t next = 256;
    for (int byte = 0; byte < 256; ++byte) {
      const bool printable = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
      bytes_[printable ? byte : next++] = byte;
    }
  }

  // False iff a character of `text` is not in the alphabet. All that are take one or two bytes of UTF-8.
  bool Read(absl::string_view text, std::string* bytes) const {
    bytes->clear();
    for (size_t i = 0; i < text.size(); ++i) {
      uint32_t character = static_cast<unsigned char>(text[i]);
      if (character >= 0x80) {
        if ((character & 0xe0) != 0xc0 || i + 1 >= text.size()) return false;
        character = (character & 0x1f) << 6 | (static_cast<unsigned char>(text[++i]) & 0x3f);
      }
      if (character >= bytes_.size() || bytes_[character] < 0) return false;
      bytes->push_back(static_cast<char>(bytes_[character]));
    }
    return true;
  }

 private:
  std::array<int, 256 + 68> bytes_;  // by character; -1: not in the alphabet
};

// Tokens that are found as text before anything else: control tokens and those that a user of the model defined.
class SpecialTokens {
 public:
  struct Match {
    int32_t id;
    bool control;
    size_t bytes;
  };

  void Add(const std::string& text, int32_t id, bool control) {
    if (!by_text_.emplace(text, Match{id, control, text.size()}).second) return;
    leads_[static_cast<unsigned char>(text[0])] = true;
    const auto at = std::lower_bound(lengths_.begin(), lengths_.end(), text.size(), std::greater<size_t>());
    if (at == lengths_.end() || *at != text.size()) lengths_.insert(at, text.size());
  }
  const Match* Find(absl::string_view text) const {
    const auto it = by_text_.find(text);
    return it == by_text_.end() ? nullptr : &it->second;
  }
  // The longest that `text` begins with. Control tokens only if `control`. Requires: a text that is not empty.
  const Match* Longest(absl::string_view text, bool control) const {
    if (!leads_[static_cast<unsigned char>(text[0])]) return nullptr;
    for (size_t length : lengths_) {
      if (length > text.size()) continue;
      const Match* match = Find(text.substr(0, length));
      if (match != nullptr && (control || !match->control)) return match;
    }
    return nullptr;
  }

 private:
  absl::flat_hash_map<std::string, Match> by_text_;
  std::array<bool, 256> leads_{};
  std::vector<size_t> lengths_;  // distinct, longest first
};

// The value of a key that may be missing, as an id within the vocabulary; -1 if missing.
absl::StatusOr<int32_t> ReadTokenId(const GgufFile& file, absl::string_view key, size_t tokens) {
  if (!file.Has(key)) return -1;
  ASSIGN_OR_RETURN(const int64_t id, file.Integer(key));
  if (id < 0 || static_cast<size_t>(id) >= tokens) {
    return absl::InvalidArgumentError(
        absl::StrCat(file.name(), ": ", key, " ", id, " is outside the vocabulary of ", tokens, " tokens"));
  }
  return static_cast<int32_t>(id);
}

}  // namespace

struct Tokenizer::Tables {
  Bpe bpe;
  std::unique_ptr<Pretokenizer> pretokenizer;
  SpecialTokens specials;
  std::vector<std::string> pieces;  // bytes of each token
  std::vector<bool> control;
  int32_t bos = -1, eos = -1;
  bool add_bos = false;
  std::vector<int32_t> stop_tokens;

  absl::Status ReadTokens(const GgufFile& file, const ByteAlphabet& alphabet);
  absl::Status ReadMerges(const GgufFile& file, const ByteAlphabet& alphabet);
  absl::Status ReadMarks(const GgufFile& file);
  void EncodePlain(absl::string_view text, std::vector<int32_t>* ids) const {
    for (absl::string_view piece : pretokenizer->Split(text)) bpe.Encode(piece, ids);
  }
};

absl::Status Tokenizer::Tables::ReadTokens(const GgufFile& file, const ByteAlphabet& alphabet) {
  ASSIGN_OR_RETURN(std::vector<std::string> tokens, file.Texts("tokenizer.ggml.tokens"));
  if (tokens.empty() || tokens.size() > kMostTokens) {
    return absl::InvalidArgumentError(absl::StrCat(file.name(), ": tokenizer.ggml.tokens has ", tokens.size(),
                                                   " tokens; 1 to ", kMostTokens, " are possible"));
  }
  std::vector<int64_t> types(tokens.size(), kNormal);
  if (file.Has("tokenizer.ggml.token_type")) {
    ASSIGN_OR_RETURN(types, file.Integers("tokenizer.ggml.token_type"));
  }
  if (types.size() != tokens.size()) {
    return absl::InvalidArgumentError(absl::StrCat(file.name(), ": tokenizer.ggml.token_type has ", types.size(),
                                                   " types for ", tokens.size(), " tokens"));
  }
  std::string bytes;
  for (size_t i = 0; i < tokens.size(); ++i) {
    const int32_t id = static_cast<int32_t>(i);
    const bool is_control = types[i] == kControl || types[i] == kUnknown;
    control.push_back(is_control);
    if (is_control || types[i] == kUserDefined) {
      if (tokens[i].empty()) {
        return absl::InvalidArgumentError(absl::StrCat(file.name(), ": tokenizer.ggml.tokens[", i, "] is empty"));
      }
      specials.Add(tokens[i], id, is_control);
    } else if (alphabet.Read(tokens[i], &bytes)) {
      bpe.AddToken(bytes, id);
      tokens[i] = bytes;
    }
  }
  pieces = std::move(tokens);
  return absl::OkStatus();
}

absl::Status Tokenizer::Tables::ReadMerges(const GgufFile& file, const ByteAlphabet& alphabet) {
  ASSIGN_OR_RETURN(const std::vector<std::string> merges, file.Texts("tokenizer.ggml.merges"));
  std::string left, right;
  for (size_t rank = 0; rank < merges.size(); ++rank) {
    const absl::string_view merge = merges[rank];
    const size_t space = merge.find(' ');
    if (space == absl::string_view::npos || !alphabet.Read(merge.substr(0, space), &left) ||
        !alphabet.Read(merge.substr(space + 1), &right) || !bpe.AddMerge(left, right, static_cast<int32_t>(rank))) {
      return absl::InvalidArgumentError(absl::StrCat(file.name(), ": tokenizer.ggml.merges[", rank, "] '",
                                                     merge.substr(0, 80), "' does not join two tokens to a third"));
    }
  }
  return absl::OkStatus();
}

absl::Status Tokenizer::Tables::ReadMarks(const GgufFile& file) {
  ASSIGN_OR_RETURN(bos, ReadTokenId(file, "tokenizer.ggml.bos_token_id", pieces.size()));
  ASSIGN_OR_RETURN(eos, ReadTokenId(file, "tokenizer.ggml.eos_token_id", pieces.size()));
  if (file.Has("tokenizer.ggml.add_bos_token")) {
    ASSIGN_OR_RETURN(add_bos, file.Flag("tokenizer.ggml.add_bos_token"));
  }
  if (eos >= 0) stop_tokens.push_back(eos);
  for (absl::string_view end : kTurnEnds) {
    const SpecialTokens::Match* match = specials.Find(end);
    if (match != nullptr && match->id != eos) stop_tokens.push_back(match->id);
  }
  return absl::OkStatus();
}

Tokenizer::Tokenizer(std::unique_ptr<Tables> tables) : tables_(std::move(tables)) {}
Tokenizer::~Tokenizer() = default;

absl::StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::Load(const GgufFile& file) {
  ASSIGN_OR_RETURN(const std::string model, file.Text("tokenizer.ggml.model"));
  if (model != "gpt2") {
    return absl::UnimplementedError(absl::StrCat(file.name(), ": tokenizer.ggml.model '",
                                                 absl::string_view(model).substr(0, 80),
                                                 "' is not built in; known: gpt2 (byte-level BPE)"));
  }
  std::string pre = "default";
  if (file.Has("tokenizer.ggml.pre")) {
    ASSIGN_OR_RETURN(pre, file.Text("tokenizer.ggml.pre"));
  }
  auto tables = std::make_unique<Tables>();
  ASSIGN_OR_RETURN(tables->pretokenizer, Pretokenizer::Make(pre));
  tables->bpe.set_whole_pieces_first(pre == "llama-bpe");
  const ByteAlphabet alphabet;
  RETURN_IF_ERROR(tables->ReadTokens(file, alphabet));
  RETURN_IF_ERROR(tables->ReadMerges(file, alphabet));
  RETURN_IF_ERROR(tables->ReadMarks(file));
  return std::unique_ptr<Tokenizer>(new Tokenizer(std::move(tables)));
}

std::vector<int32_t> Tokenizer::Encode(absl::string_view text, bool special) const {
  std::vector<int32_t> ids;
  size_t begin = 0;  // of the plain text before i
  for (size_t i = 0; i < text.size();) {
    const SpecialTokens::Match* match = tables_->specials.Longest(text.substr(i), special);
    if (match == nullptr) {
      ++i;
      continue;
    }
    tables_->EncodePlain(text.substr(begin, i - begin), &ids);
    ids.push_back(match->id);
    i += match->bytes;
    begin = i;
  }
  tables_->EncodePlain(text.substr(begin), &ids);
  return ids;
}

std::string Tokenizer::Piece(int32_t token, bool special) const {
  CHECK(token >= 0 && token < vocab_size());
  return tables_->control[token] && !special ? std::string() : tables_->pieces[token];
}

std::string Tokenizer::Decode(absl::Span<const int32_t> tokens, bool special) const {
  std::string text;
  for (int32_t token : tokens) text += Piece(token, special);
  return text;
}

int32_t Tokenizer::vocab_size() const { return static_cast<int32_t>(tables_->pieces.size()); }
int32_t Tokenizer::bos() const { return tables_->bos; }
int32_t Tokenizer::eos() const { return tables_->eos; }
bool Tokenizer::add_bos() const { return tables_->add_bos; }
const std::vector<int32_t>& Tokenizer::stop_tokens() const { return tables_->stop_tokens; }

absl::StatusOr<int32_t> Tokenizer::Find(absl::string_view piece) const {
  const SpecialTokens::Match* match = tables_->specials.Find(piece);
  if (match != nullptr) return match->id;
  return absl::NotFoundError(absl::StrCat("the vocabulary has no control token ", piece));
}

}  // namespace interlace
