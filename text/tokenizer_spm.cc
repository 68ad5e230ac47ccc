// Tokenizers as SentencePiece's tokenizer.model describes them, a ModelProto; added tokens are in
// tokenizer_config.json.
#include <google/protobuf/io/coded_stream.h>

#include <bit>
#include <limits>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "text/spm_parts.h"
#include "text/tokenizer.h"
#include "text/tokenizer_files.h"
#include "text/tokenizer_parts.h"

namespace interlace {
namespace {

using Json = nlohmann::json;

// A field of a message: its number, and its value in one of the forms.
struct Field {
  uint32_t number = 0;
  uint64_t integer = 0;
  float real = 0;
  std::string text;
};

// Calls `read` with each field of a message. False: the bytes are no message.
bool ForFields(absl::string_view bytes, absl::FunctionRef<void(const Field&)> read) {
  if (bytes.size() > static_cast<size_t>(std::numeric_limits<int>::max())) return false;
  google::protobuf::io::CodedInputStream in(reinterpret_cast<const uint8_t*>(bytes.data()),
                                            static_cast<int>(bytes.size()));
  while (const uint32_t tag = in.ReadTag()) {
    Field field{.number = tag >> 3};
    uint32_t word = 0, length = 0;
    bool sound = false;
    switch (tag & 7) {
      case 0:
        sound = in.ReadVarint64(&field.integer);
        break;
      case 1:
        sound = in.ReadLittleEndian64(&field.integer);
        break;
      case 2:
        sound =
            in.ReadVarint32(&length) && length <= bytes.size() && in.ReadString(&field.text, static_cast<int>(length));
        break;
      case 5:
        sound = in.ReadLittleEndian32(&word);
        field.real = std::bit_cast<float>(word);
        break;
      default:
        break;
    }
    if (!sound) return false;
    read(field);
  }
  return in.ConsumedEntireMessage();
}

// Numbers of fields and their defaults: sentencepiece_model.proto.
struct TrainerSpec {
  int64_t model_type = 1;  // 1: unigram, 2: BPE
  bool suffix_marks = false;
  int32_t unknown = 0, bos = 1, eos = 2;
};
struct NormalizerSpec {
  std::string charsmap;
  bool space_prefix = true, collapse_spaces = true, marks = true;
};

}  // namespace

// Reads one model into the parts of a tokenizer; lives within Load.
class TokenizerSpm {
 public:
  explicit TokenizerSpm(const TokenizerFiles& files)
      : files_(files), file_(files.name + "/tokenizer.model"), parts_(std::make_unique<Tokenizer::Parts>()) {}

  absl::StatusOr<std::unique_ptr<Tokenizer>> Read() {
    RETURN_IF_ERROR(ReadModel());
    Json config = Json::object();
    if (!files_.tokenizer_config_json.empty()) {
      config = Json::parse(files_.tokenizer_config_json, nullptr, /*allow_exceptions=*/false);
      if (!config.is_object()) return Config("", "this is no JSON object");
    }
    RETURN_IF_ERROR(ReadAdded(config));
    SpmParts spm(absl::StrCat(file_, ": "), types_, parts_.get());
    RETURN_IF_ERROR(spm.FillSpecials());
    RETURN_IF_ERROR(spm.FillModel(rules_));
    RETURN_IF_ERROR(ReadMarks(config));
    parts_->CollectStopTokens();
    RETURN_IF_ERROR(parts_->AddEndTokens(files_));
    return std::unique_ptr<Tokenizer>(new Tokenizer(std::move(parts_)));
  }

 private:
  absl::Status Broken(absl::string_view what) const {
    return absl::InvalidArgumentError(absl::StrCat(file_, ": ", what));
  }
  absl::Status Unbuilt(absl::string_view what) const {
    return absl::UnimplementedError(absl::StrCat(file_, ": ", what, " is not built in"));
  }
  absl::Status Config(absl::string_view field, absl::string_view what) const {
    return absl::InvalidArgumentError(absl::StrCat(files_.name, "/tokenizer_config.json: ", field, " ", what));
  }

  absl::Status ReadModel() {
    TrainerSpec trainer;
    NormalizerSpec normalizer;
    bool sound = true;
    sound &= ForFields(files_.tokenizer_model, [&](const Field& field) {
      if (field.number == 1) sound &= ReadPiece(field.text);
      if (field.number == 2) sound &= ReadTrainer(field.text, &trainer);
      if (field.number == 3) sound &= ReadNormalizer(field.text, &normalizer);
    });
    if (!sound) return Broken("this is no SentencePiece model");
    if (parts_->pieces.empty() || parts_->pieces.size() > kMostTokens) {
      return Broken(absl::StrCat(parts_->pieces.size(), " pieces; 1 to ", kMostTokens, " are possible"));
    }
    if (trainer.model_type != 1 && trainer.model_type != 2) {
      return Unbuilt(absl::StrCat("model_type ", trainer.model_type, " (known: unigram, BPE)"));
    }
    if (!normalizer.charsmap.empty()) return Unbuilt("precompiled_charsmap");
    if (!normalizer.marks || trainer.suffix_marks) return Unbuilt("a mark of spaces elsewhere than before words");
    rules_.unigram = trainer.model_type == 1;
    rules_.space_prefix = normalizer.space_prefix;
    rules_.collapse_spaces = normalizer.collapse_spaces;
    const auto size = static_cast<int32_t>(parts_->pieces.size());
    const auto id = [&](int32_t given) { return given >= 0 && given < size ? given : -1; };
    rules_.unknown = id(trainer.unknown);
    parts_->bos = id(trainer.bos);
    parts_->eos = id(trainer.eos);
    parts_->add_bos = true;
    return absl::OkStatus();
  }
  bool ReadPiece(absl::string_view bytes) {
    std::string text;
    double score = 0;
    int64_t type = kNormal;
    const bool sound = ForFields(bytes, [&](const Field& field) {
      if (field.number == 1) text = field.text;
      if (field.number == 2) score = field.real;
      if (field.number == 3) type = static_cast<int64_t>(field.integer);
    });
    parts_->pieces.push_back(std::move(text));
    rules_.scores.push_back(score);
    types_.push_back(type);
    return sound && type >= kNormal && type <= kByte;
  }
  static bool ReadTrainer(absl::string_view bytes, TrainerSpec* trainer) {
    return ForFields(bytes, [&](const Field& field) {
      const auto id = static_cast<int32_t>(static_cast<int64_t>(field.integer));
      if (field.number == 3) trainer->model_type = static_cast<int64_t>(field.integer);
      if (field.number == 24) trainer->suffix_marks = field.integer != 0;
      if (field.number == 40) trainer->unknown = id;
      if (field.number == 41) trainer->bos = id;
      if (field.number == 42) trainer->eos = id;
    });
  }
  static bool ReadNormalizer(absl::string_view bytes, NormalizerSpec* normalizer) {
    return ForFields(bytes, [&](const Field& field) {
      if (field.number == 2) normalizer->charsmap = field.text;
      if (field.number == 3) normalizer->space_prefix = field.integer != 0;
      if (field.number == 4) normalizer->collapse_spaces = field.integer != 0;
      if (field.number == 5) normalizer->marks = field.integer != 0;
    });
  }

  // Tokens that the model was given after training; some take the place of a piece.
  absl::Status ReadAdded(const Json& config) {
    const auto added = config.find("added_tokens_decoder");
    if (added == config.end()) return absl::OkStatus();
    if (!added->is_object()) return Config("added_tokens_decoder", "is no object");
    const size_t most = parts_->pieces.size() + added->size() + 4096;
    for (const auto& [key, token] : added->items()) {
      const std::string field = absl::StrCat("added_tokens_decoder.", key.substr(0, 40));
      size_t id = 0;
      if (!absl::SimpleAtoi(key, &id) || id >= most) return Config(field, "is no token id");
      if (!token.is_object() || !token.contains("content") || !token["content"].is_string() || token["content"] == "") {
        return Config(field, "has no content");
      }
      while (id >= parts_->pieces.size()) {  // ids between stand for nothing
        types_.push_back(kUnused);
        rules_.scores.push_back(0);
        parts_->pieces.push_back(absl::StrCat("<unused", parts_->pieces.size(), ">"));
      }
      parts_->pieces[id] = token["content"].get<std::string>();
      if (types_[id] == kUnknown || types_[id] == kByte) continue;
      types_[id] = token.contains("special") && token["special"] == true ? kControl : kUserDefined;
    }
    return absl::OkStatus();
  }

  absl::Status ReadMarks(const Json& config) {
    for (const auto& [name, id] : {std::pair{"bos_token", &parts_->bos}, {"eos_token", &parts_->eos}}) {
      const auto token = config.find(name);
      if (token == config.end() || token->is_null()) continue;
      const Json& content = token->is_object() && token->contains("content") ? (*token)["content"] : *token;
      const SpecialTokens::Token* found =
          content.is_string() ? parts_->specials.Find(content.get<std::string>()) : nullptr;
      if (found == nullptr) return Config(name, "is no special token");
      *id = found->id;
    }
    for (const auto& [name, adds] :
         {std::pair{"add_bos_token", &parts_->add_bos}, {"add_eos_token", &parts_->add_eos}}) {
      const auto flag = config.find(name);
      if (flag == config.end() || flag->is_null()) continue;
      if (!flag->is_boolean()) return Config(name, "is neither true nor false");
      *adds = flag->get<bool>();
    }
    parts_->add_bos &= parts_->bos >= 0;
    parts_->add_eos &= parts_->eos >= 0;
    return absl::OkStatus();
  }

  const TokenizerFiles& files_;
  const std::string file_;
  std::unique_ptr<Tokenizer::Parts> parts_;
  std::vector<int64_t> types_;
  SpmParts::Rules rules_;
};

absl::StatusOr<std::unique_ptr<Tokenizer>> LoadSentencePiece(const TokenizerFiles& files) {
  return TokenizerSpm(files).Read();
}

}  // namespace interlace
