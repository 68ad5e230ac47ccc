#include "text/tokenizer.h"

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "checkpoint/generation_config.h"
#include "common/check.h"
#include "common/status_macros.h"
#include "text/tokenizer_parts.h"

namespace interlace {
namespace {

constexpr absl::string_view kTurnEnds[] = {"<|im_end|>",    "<|eot_id|>", "<|eom_id|>",   "<|end_of_text|>",
                                           "<|endoftext|>", "<|end|>",    "<end_of_turn>"};

// Which of a folder's files says how text becomes tokens: the first that is there.
struct Reader {
  std::string TokenizerFiles::*file;
  absl::StatusOr<std::unique_ptr<Tokenizer>> (*load)(const TokenizerFiles&);
};
constexpr Reader kReaders[] = {{&TokenizerFiles::tokenizer_json, &LoadTokenizerJson},
                               {&TokenizerFiles::tekken_json, &LoadTekken},
                               {&TokenizerFiles::tokenizer_model, &LoadSentencePiece}};

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::Load(const TokenizerFiles& files) {
  for (const Reader& reader : kReaders) {
    if (!(files.*reader.file).empty()) return reader.load(files);
  }
  return absl::NotFoundError(absl::StrCat(files.name, ": there is no tokenizer.json, tekken.json or tokenizer.model"));
}

void Tokenizer::Parts::CollectStopTokens() {
  if (eos >= 0) stop_tokens.push_back(eos);
  for (absl::string_view end : kTurnEnds) {
    const SpecialTokens::Token* token = specials.Find(end);
    if (token != nullptr && std::find(stop_tokens.begin(), stop_tokens.end(), token->id) == stop_tokens.end()) {
      stop_tokens.push_back(token->id);
    }
  }
}

absl::Status Tokenizer::Parts::AddEndTokens(const TokenizerFiles& files) {
  const std::string file = files.name + "/generation_config.json";
  ASSIGN_OR_RETURN(const GenerationDefaults defaults, ParseGenerationDefaults(files.generation_config_json, file));
  for (const int32_t id : defaults.end_tokens) {
    if (static_cast<size_t>(id) >= pieces.size()) {
      return absl::InvalidArgumentError(
          absl::StrCat(file, ": eos_token_id ", id, " is outside the vocabulary of ", pieces.size(), " tokens"));
    }
    if (std::find(stop_tokens.begin(), stop_tokens.end(), id) == stop_tokens.end()) stop_tokens.push_back(id);
  }
  return absl::OkStatus();
}

void Tokenizer::Parts::EncodePlain(absl::string_view text, bool at_start, std::vector<int32_t>* ids) const {
  if (text.empty()) return;
  std::string normal;
  if (!normalizer.empty()) {
    normal = normalizer.Apply(text);
    text = normal;
  }
  Pretokenizer::Pieces pieces;
  const auto encode = [&](size_t begin, size_t end) {
    pieces.views.clear();
    pieces.changed.clear();
    pretokenizer.Split(text.substr(begin, end - begin), at_start && begin == 0, &pieces);
    for (absl::string_view piece : pieces.views) model->Encode(piece, ids);
  };
  size_t begin = 0;
  while (!normal_specials.empty()) {
    const SpecialTokens::Match match = normal_specials.Next(text, {}, begin, /*control=*/false);
    if (match.token == nullptr) break;
    encode(begin, match.begin);
    ids->push_back(match.token->id);
    begin = match.end;
  }
  encode(begin, text.size());
}

Tokenizer::Tokenizer(std::unique_ptr<Parts> parts) : parts_(std::move(parts)) {}
Tokenizer::~Tokenizer() = default;

std::vector<int32_t> Tokenizer::EncodeText(absl::string_view text, absl::string_view data, bool special) const {
  std::vector<int32_t> ids;
  size_t begin = 0;
  while (true) {
    const SpecialTokens::Match match = parts_->specials.Next(text, data, begin, special);
    if (match.token == nullptr) break;
    parts_->EncodePlain(text.substr(begin, match.begin - begin), begin == 0, &ids);
    ids.push_back(match.token->id);
    begin = match.end;
  }
  parts_->EncodePlain(text.substr(begin), begin == 0, &ids);
  return ids;
}

std::vector<int32_t> Tokenizer::Encode(absl::string_view text, bool special) const {
  return EncodeText(text, {}, special);
}

std::vector<int32_t> Tokenizer::EncodePrompt(absl::string_view text, bool special) const {
  std::vector<int32_t> ids = Encode(text, special);
  if (add_bos() && bos() >= 0) ids.insert(ids.begin(), bos());
  return ids;
}

std::vector<int32_t> Tokenizer::EncodeAround(absl::string_view text, absl::string_view data) const {
  CHECK(data.size() == text.size());
  return EncodeText(text, data, /*special=*/true);
}

std::string Tokenizer::Piece(int32_t token, bool special) const {
  if (token < 0 || token >= vocab_size()) return "";
  return parts_->control[token] && !special ? std::string() : parts_->pieces[token];
}

std::string Tokenizer::Decode(absl::Span<const int32_t> tokens, bool special) const {
  std::string text;
  for (int32_t token : tokens) text += Piece(token, special);
  if (parts_->drops_first_space && absl::StartsWith(text, " ")) text.erase(0, 1);
  return text;
}

bool Tokenizer::drops_first_space() const { return parts_->drops_first_space; }
int32_t Tokenizer::vocab_size() const { return static_cast<int32_t>(parts_->pieces.size()); }
int32_t Tokenizer::bos() const { return parts_->bos; }
int32_t Tokenizer::eos() const { return parts_->eos; }
bool Tokenizer::add_bos() const { return parts_->add_bos; }
bool Tokenizer::add_eos() const { return parts_->add_eos; }
const std::vector<int32_t>& Tokenizer::stop_tokens() const { return parts_->stop_tokens; }

absl::StatusOr<int32_t> Tokenizer::Find(absl::string_view piece) const {
  const SpecialTokens::Token* token = parts_->specials.Find(piece);
  if (token == nullptr) token = parts_->normal_specials.Find(piece);
  if (token != nullptr) return token->id;
  return absl::NotFoundError(absl::StrCat("the vocabulary has no control token ", piece));
}

}  // namespace interlace
