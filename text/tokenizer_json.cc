// Tokenizers as Hugging Face's tokenizer.json and tokenizer_config.json describe them.
#include <algorithm>
#include <limits>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "common/status_macros.h"
#include "text/bpe.h"
#include "text/byte_alphabet.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"
#include "text/tokenizer_files.h"
#include "text/tokenizer_parts.h"
#include "text/unigram.h"

namespace interlace {
namespace {

using Json = nlohmann::json;

// The member of an object; null if the value is no object, has no such member or null there.
const Json* Member(const Json& value, const char* name) {
  if (!value.is_object()) return nullptr;
  const auto it = value.find(name);
  return it == value.end() || it->is_null() ? nullptr : &*it;
}

std::string TypeOf(const Json& value) {
  const Json* type = Member(value, "type");
  return type != nullptr && type->is_string() ? type->get<std::string>() : "";
}

absl::StatusOr<Json> ParseJson(const std::string& text, const std::string& file) {
  Json json = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (json.is_discarded() || !json.is_object()) {
    return absl::InvalidArgumentError(absl::StrCat(file, ": this is no JSON object"));
  }
  return json;
}

}  // namespace

// Reads one tokenizer.json into the parts of a tokenizer; lives within Load.
class TokenizerJson {
 public:
  explicit TokenizerJson(const TokenizerFiles& files)
      : files_(files), file_(files.name + "/tokenizer.json"), parts_(std::make_unique<Tokenizer::Parts>()) {}

  absl::StatusOr<std::unique_ptr<Tokenizer>> Read() {
    ASSIGN_OR_RETURN(const Json root, ParseJson(files_.tokenizer_json, file_));
    Json config = Json::object();
    if (!files_.tokenizer_config_json.empty()) {
      ASSIGN_OR_RETURN(config, ParseJson(files_.tokenizer_config_json, files_.name + "/tokenizer_config.json"));
    }
    const Json* model = Member(root, "model");
    if (model == nullptr) return Broken("model", "is missing");
    if (const Json* normalizer = Member(root, "normalizer"))
      RETURN_IF_ERROR(ReadNormalizer(*normalizer, "normalizer", 0));
    if (const Json* pre = Member(root, "pre_tokenizer")) RETURN_IF_ERROR(ReadPretokenizer(*pre, "pre_tokenizer", 0));
    if (const Json* added = Member(root, "added_tokens")) RETURN_IF_ERROR(ReadAdded(*added));
    if (const Json* more = Member(config, "added_tokens_decoder")) RETURN_IF_ERROR(ReadAddedOfConfig(*more));
    const Json* vocab = Member(*model, "vocab");
    entries_ = added_.size() + (vocab == nullptr ? 0 : vocab->size());
    RETURN_IF_ERROR(ReadModel(*model));
    RETURN_IF_ERROR(PlaceAdded());
    const Json* decoder = Member(root, "decoder");
    if (decoder == nullptr) return Unknown("decoder", "none");
    RETURN_IF_ERROR(ReadDecoder(*decoder, "decoder", 0));
    if (const Json* post = Member(root, "post_processor"))
      RETURN_IF_ERROR(ReadPostProcessor(*post, "post_processor", 0));
    RETURN_IF_ERROR(ReadConfig(config));
    parts_->CollectStopTokens();
    RETURN_IF_ERROR(parts_->AddEndTokens(files_));
    return std::unique_ptr<Tokenizer>(new Tokenizer(std::move(parts_)));
  }

 private:
  static constexpr int kDeepest = 8;  // sequences within sequences

  struct Added {
    int32_t id;
    std::string text;
    SpecialTokens::Token token;
    bool normalized;
  };
  struct ModelRow {
    absl::string_view type;
    absl::Status (TokenizerJson::*read)(const Json&);
  };
  static const ModelRow kModels[2];

  absl::Status Broken(absl::string_view field, absl::string_view what) const {
    return absl::InvalidArgumentError(absl::StrCat(file_, ": ", field, " ", what));
  }
  absl::Status Unknown(absl::string_view field, absl::string_view type) const {
    return absl::UnimplementedError(
        absl::StrCat(file_, ": ", field, " '", absl::CHexEscape(type.substr(0, 80)), "' is not built in"));
  }
  absl::StatusOr<std::string> Text(const Json& of, const char* name, absl::string_view field) const {
    const Json* value = Member(of, name);
    if (value == nullptr || !value->is_string()) return Broken(absl::StrCat(field, ".", name), "is not a text");
    return value->get<std::string>();
  }
  absl::StatusOr<bool> Flag(const Json& of, const char* name, absl::string_view field, bool fallback) const {
    const Json* value = Member(of, name);
    if (value == nullptr) return fallback;
    if (!value->is_boolean()) return Broken(absl::StrCat(field, ".", name), "is neither true nor false");
    return value->get<bool>();
  }
  absl::StatusOr<int32_t> Id(const Json& value, absl::string_view field) const {
    if (!value.is_number_integer() || value.get<int64_t>() < 0 ||
        value.get<int64_t>() >= static_cast<int64_t>(kMostTokens)) {
      return Broken(field, "is no token id");
    }
    return value.get<int32_t>();
  }
  // Calls `read` with each member of the list that a sequence holds.
  template <typename ReadOne>
  absl::Status Each(const Json& sequence, const char* name, absl::string_view field, int depth, ReadOne read) {
    const Json* list = Member(sequence, name);
    if (list == nullptr || !list->is_array()) return Broken(absl::StrCat(field, ".", name), "is no list");
    if (depth >= kDeepest) return Broken(field, "nests too deep");
    for (size_t i = 0; i < list->size(); ++i)
      RETURN_IF_ERROR(read((*list)[i], absl::StrCat(field, ".", name, "[", i, "]")));
    return absl::OkStatus();
  }
  absl::Status At(absl::string_view field, const absl::Status& status) const {
    return status.ok() ? status : absl::Status(status.code(), absl::StrCat(file_, ": ", field, ": ", status.message()));
  }

  // {"String": ...} or {"Regex": ...}
  absl::StatusOr<std::string> Pattern(const Json& of, absl::string_view field, bool* regex) const {
    const Json* pattern = Member(of, "pattern");
    const std::string where = absl::StrCat(field, ".pattern");
    if (pattern == nullptr) return Broken(where, "is missing");
    *regex = Member(*pattern, "Regex") != nullptr;
    return Text(*pattern, *regex ? "Regex" : "String", where);
  }

  absl::Status ReadNormalizer(const Json& json, const std::string& field, int depth) {
    const std::string type = TypeOf(json);
    Normalizer& normalizer = parts_->normalizer;
    if (type == "Sequence") {
      return Each(json, "normalizers", field, depth,
                  [&](const Json& one, const std::string& where) { return ReadNormalizer(one, where, depth + 1); });
    }
    static constexpr std::pair<absl::string_view, Normalizer::Form> kForms[] = {{"NFC", Normalizer::Form::kNfc},
                                                                                {"NFD", Normalizer::Form::kNfd},
                                                                                {"NFKC", Normalizer::Form::kNfkc},
                                                                                {"NFKD", Normalizer::Form::kNfkd}};
    for (const auto& [name, form] : kForms) {
      if (type != name) continue;
      normalizer.AddForm(form);
      return absl::OkStatus();
    }
    if (type == "Prepend") {
      ASSIGN_OR_RETURN(const std::string text, Text(json, "prepend", field));
      normalizer.AddPrefix(text);
    } else if (type == "Replace") {
      bool regex = false;
      ASSIGN_OR_RETURN(const std::string pattern, Pattern(json, field, &regex));
      ASSIGN_OR_RETURN(const std::string content, Text(json, "content", field));
      if (regex) return At(field, normalizer.AddPatternReplacement(pattern, content));
      if (pattern.empty()) return Broken(absl::StrCat(field, ".pattern"), "is empty");
      normalizer.AddReplacement(pattern, content);
    } else if (type == "Strip") {
      ASSIGN_OR_RETURN(const bool left, Flag(json, "strip_left", field, true));
      ASSIGN_OR_RETURN(const bool right, Flag(json, "strip_right", field, true));
      normalizer.AddStrip(left, right);
    } else if (type == "Nmt") {
      normalizer.AddControlCleaning();
    } else {
      return Unknown(field, type);
    }
    return absl::OkStatus();
  }

  absl::Status ReadPretokenizer(const Json& json, const std::string& field, int depth) {
    const std::string type = TypeOf(json);
    if (type == "Sequence") {
      return Each(json, "pretokenizers", field, depth,
                  [&](const Json& one, const std::string& where) { return ReadPretokenizer(one, where, depth + 1); });
    }
    Pretokenizer& pretokenizer = parts_->pretokenizer;
    if (byte_level_) return Unknown(field, absl::StrCat(type, " after ByteLevel"));
    if (type == "Split") return ReadSplit(json, field);
    if (type == "ByteLevel") {
      byte_level_ = true;
      ASSIGN_OR_RETURN(const bool prefix, Flag(json, "add_prefix_space", field, true));
      ASSIGN_OR_RETURN(const bool regex, Flag(json, "use_regex", field, true));
      if (prefix) pretokenizer.AddSpacePrefix();
      return regex ? pretokenizer.AddPattern(Pretokenizer::kByteLevelPattern) : absl::OkStatus();
    }
    if (type == "Digits") {
      ASSIGN_OR_RETURN(const bool individual, Flag(json, "individual_digits", field, false));
      return pretokenizer.AddPattern(individual ? "\\p{N}" : "\\p{N}+");
    }
    if (type == "WhitespaceSplit") return pretokenizer.AddPattern("\\s+", Pretokenizer::Behaviour::kRemoved);
    if (type != "Metaspace") return Unknown(field, type);
    ASSIGN_OR_RETURN(const std::string replacement, Text(json, "replacement", field));
    if (replacement != kSpaceMark) return Unknown(absl::StrCat(field, ".replacement"), replacement);
    ASSIGN_OR_RETURN(const bool split, Flag(json, "split", field, true));
    Pretokenizer::Prefix prefix = Pretokenizer::Prefix::kAlways;
    if (Member(json, "prepend_scheme") != nullptr) {
      ASSIGN_OR_RETURN(const std::string scheme, Text(json, "prepend_scheme", field));
      if (scheme != "always" && scheme != "first" && scheme != "never")
        return Unknown(absl::StrCat(field, ".prepend_scheme"), scheme);
      prefix = scheme == "never"   ? Pretokenizer::Prefix::kNever
               : scheme == "first" ? Pretokenizer::Prefix::kFirst
                                   : Pretokenizer::Prefix::kAlways;
    } else {
      ASSIGN_OR_RETURN(const bool add, Flag(json, "add_prefix_space", field, true));
      if (!add) prefix = Pretokenizer::Prefix::kNever;
    }
    pretokenizer.AddSpaceMarks(prefix, split);
    return absl::OkStatus();
  }

  absl::Status ReadSplit(const Json& json, const std::string& field) {
    static constexpr std::pair<absl::string_view, Pretokenizer::Behaviour> kBehaviours[] = {
        {"Isolated", Pretokenizer::Behaviour::kIsolated},
        {"Removed", Pretokenizer::Behaviour::kRemoved},
        {"MergedWithPrevious", Pretokenizer::Behaviour::kMergedWithPrevious},
        {"MergedWithNext", Pretokenizer::Behaviour::kMergedWithNext},
        {"Contiguous", Pretokenizer::Behaviour::kContiguous}};
    bool regex = false;
    ASSIGN_OR_RETURN(std::string pattern, Pattern(json, field, &regex));
    ASSIGN_OR_RETURN(const std::string behaviour, Text(json, "behavior", field));
    ASSIGN_OR_RETURN(const bool invert, Flag(json, "invert", field, false));
    if (!regex) {  // as it stands
      std::string quoted;
      for (char c : pattern) {
        if (absl::string_view("\\^$.[]|()*+?{}").find(c) != absl::string_view::npos) quoted += '\\';
        quoted += c;
      }
      pattern = quoted;
    }
    for (const auto& [name, meant] : kBehaviours) {
      if (behaviour == name) return At(field, parts_->pretokenizer.AddPattern(pattern, meant, invert));
    }
    return Unknown(absl::StrCat(field, ".behavior"), behaviour);
  }

  absl::Status ReadAdded(const Json& list) {
    if (!list.is_array()) return Broken("added_tokens", "is no list");
    for (size_t i = 0; i < list.size(); ++i) {
      const std::string field = absl::StrCat("added_tokens[", i, "]");
      const Json* id = Member(list[i], "id");
      ASSIGN_OR_RETURN(const int32_t number, Id(id == nullptr ? Json() : *id, absl::StrCat(field, ".id")));
      RETURN_IF_ERROR(ReadAddedToken(list[i], number, field));
    }
    return absl::OkStatus();
  }
  // Those of the configuration that tokenizer.json lacks; transformers adds them too.
  absl::Status ReadAddedOfConfig(const Json& entries) {
    if (!entries.is_object()) return Broken("added_tokens_decoder", "is no object");
    for (const auto& [key, entry] : entries.items()) {
      int32_t id;
      const std::string field = absl::StrCat("added_tokens_decoder.", key.substr(0, 40));
      if (!absl::SimpleAtoi(key, &id) || id < 0 || id >= static_cast<int32_t>(kMostTokens))
        return Broken(field, "is no token id");
      if (!controls_.contains(id)) RETURN_IF_ERROR(ReadAddedToken(entry, id, field));
    }
    return absl::OkStatus();
  }
  absl::Status ReadAddedToken(const Json& json, int32_t id, const std::string& field) {
    Added added{id, "", {id}, false};
    ASSIGN_OR_RETURN(added.text, Text(json, "content", field));
    if (added.text.empty()) return Broken(absl::StrCat(field, ".content"), "is empty");
    ASSIGN_OR_RETURN(added.token.control, Flag(json, "special", field, false));
    ASSIGN_OR_RETURN(added.token.takes_space_before, Flag(json, "lstrip", field, false));
    ASSIGN_OR_RETURN(added.token.takes_space_after, Flag(json, "rstrip", field, false));
    ASSIGN_OR_RETURN(added.token.whole_word, Flag(json, "single_word", field, false));
    ASSIGN_OR_RETURN(added.normalized, Flag(json, "normalized", field, !added.token.control));
    controls_.emplace(id, added.token.control);
    added_.push_back(std::move(added));
    return absl::OkStatus();
  }

  absl::Status Place(int32_t id, const std::string& text, absl::string_view field) {
    std::vector<std::string>& pieces = parts_->pieces;
    const auto at = static_cast<size_t>(id);
    // Some vocabularies have gaps, none is mostly gaps.
    if (at >= 4096 + 4 * entries_)
      return Broken(field, absl::StrCat("gives id ", id, " in a vocabulary of ", entries_));
    if (at >= pieces.size()) {
      pieces.resize(at + 1);
      parts_->control.resize(at + 1);
      taken_.resize(at + 1);
    }
    if (taken_[at] && pieces[at] != text) return Broken(field, absl::StrCat("gives id ", id, " to a second token"));
    taken_[at] = true;
    pieces[at] = text;
    ids_.emplace(text, id);
    return absl::OkStatus();
  }

  absl::Status ReadModel(const Json& model) {
    const std::string type = TypeOf(model);
    for (const ModelRow& row : kModels) {
      if (row.type == type) return (this->*row.read)(model);
    }
    return Unknown("model.type", type);
  }

  bool IsControl(int32_t id) const {
    const auto it = controls_.find(id);
    return it != controls_.end() && it->second;
  }

  absl::Status ReadBpe(const Json& model) {
    for (const char* name : {"continuing_subword_prefix", "end_of_word_suffix"}) {
      const Json* affix = Member(model, name);
      if (affix != nullptr && *affix != "") return Unknown("model", name);
    }
    if (const Json* dropout = Member(model, "dropout"); dropout != nullptr && *dropout != 0.0)
      return Unknown("model", "dropout");
    auto bpe = std::make_unique<Bpe>();
    ASSIGN_OR_RETURN(const bool whole, Flag(model, "ignore_merges", "model", false));
    bpe->set_whole_pieces_first(whole);
    bpe->set_characters(!byte_level_);
    const Json* vocab = Member(model, "vocab");
    if (vocab == nullptr || !vocab->is_object()) return Broken("model.vocab", "is no object");
    const ByteAlphabet alphabet;
    std::string bytes;
    for (const auto& [token, value] : vocab->items()) {
      const std::string field =
          absl::StrCat("model.vocab['", absl::CHexEscape(absl::string_view(token).substr(0, 40)), "']");
      ASSIGN_OR_RETURN(const int32_t id, Id(value, field));
      RETURN_IF_ERROR(Place(id, token, field));
      if (!byte_level_) {
        bpe->AddToken(token, id);
      } else if (alphabet.Read(token, &bytes)) {
        bpe->AddToken(bytes, id);
      }
    }
    RETURN_IF_ERROR(ReadMerges(model, alphabet, bpe.get()));
    RETURN_IF_ERROR(ReadFallback(model, &bpe->fallback()));
    parts_->model = std::move(bpe);
    return absl::OkStatus();
  }

  absl::Status ReadMerges(const Json& model, const ByteAlphabet& alphabet, Bpe* bpe) {
    const Json* merges = Member(model, "merges");
    if (merges == nullptr || !merges->is_array() ||
        merges->size() > static_cast<size_t>(std::numeric_limits<int32_t>::max())) {
      return Broken("model.merges", "is no list");
    }
    for (size_t rank = 0; rank < merges->size(); ++rank) {
      const Json& merge = (*merges)[rank];
      const std::string field = absl::StrCat("model.merges[", rank, "]");
      std::string sides[2];
      if (merge.is_string()) {
        const std::string& text = merge.get_ref<const std::string&>();
        const size_t space = text.find(' ');
        if (space == std::string::npos) return Broken(field, "has no space");
        sides[0] = text.substr(0, space);
        sides[1] = text.substr(space + 1);
      } else if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
        sides[0] = merge[0].get<std::string>();
        sides[1] = merge[1].get<std::string>();
      } else {
        return Broken(field, "is neither a text nor two");
      }
      for (std::string& side : sides) {
        std::string bytes;
        if (byte_level_ && !alphabet.Read(side, &bytes)) return Broken(field, "is not written in bytes");
        if (byte_level_) side = bytes;
      }
      if (!bpe->AddMerge(sides[0], sides[1], static_cast<int32_t>(rank)))
        return Broken(field, "does not join two tokens to a third");
    }
    return absl::OkStatus();
  }

  absl::Status ReadUnigram(const Json& model) {
    const Json* vocab = Member(model, "vocab");
    if (vocab == nullptr || !vocab->is_array() || vocab->size() > kMostTokens)
      return Broken("model.vocab", "is no list");
    int32_t unknown = -1;
    if (const Json* id = Member(model, "unk_id")) {
      ASSIGN_OR_RETURN(unknown, Id(*id, "model.unk_id"));
      if (static_cast<size_t>(unknown) >= vocab->size()) return Broken("model.unk_id", "is outside the vocabulary");
    }
    ASSIGN_OR_RETURN(const bool bytes, Flag(model, "byte_fallback", "model", false));
    auto unigram = std::make_unique<Unigram>();
    for (size_t i = 0; i < vocab->size(); ++i) {
      const Json& entry = (*vocab)[i];
      const std::string field = absl::StrCat("model.vocab[", i, "]");
      if (!entry.is_array() || entry.size() != 2 || !entry[0].is_string() || !entry[1].is_number()) {
        return Broken(field, "is not a text and a number");
      }
      const int32_t id = static_cast<int32_t>(i);
      const std::string token = entry[0].get<std::string>();
      RETURN_IF_ERROR(Place(id, token, field));
      if (id == unknown || IsControl(id) || (bytes && ByteOfToken(token) >= 0)) continue;
      RETURN_IF_ERROR(At(field, unigram->AddToken(token, id, entry[1].get<double>())));
    }
    RETURN_IF_ERROR(ReadFallback(model, &unigram->fallback()));
    if (unknown >= 0) unigram->fallback().SetUnknown(unknown, true);
    parts_->model = std::move(unigram);
    return absl::OkStatus();
  }

  absl::Status ReadFallback(const Json& model, ByteFallback* fallback) {
    ASSIGN_OR_RETURN(const bool bytes, Flag(model, "byte_fallback", "model", false));
    for (size_t i = 0; bytes && i < parts_->pieces.size(); ++i) {
      const int byte = ByteOfToken(parts_->pieces[i]);
      if (byte >= 0) fallback->SetByte(byte, static_cast<int32_t>(i));
    }
    if (Member(model, "unk_token") == nullptr) return absl::OkStatus();
    ASSIGN_OR_RETURN(const std::string unknown, Text(model, "unk_token", "model"));
    ASSIGN_OR_RETURN(const bool fuse, Flag(model, "fuse_unk", "model", false));
    const auto it = ids_.find(unknown);
    if (it == ids_.end()) return Broken("model.unk_token", "is not in the vocabulary");
    fallback->SetUnknown(it->second, fuse);
    return absl::OkStatus();
  }

  absl::Status PlaceAdded() {
    for (const Added& added : added_) {
      RETURN_IF_ERROR(Place(added.id, added.text, absl::StrCat("the added token '", added.text.substr(0, 80), "'")));
      parts_->control[static_cast<size_t>(added.id)] = added.token.control;
      // A control token is looked for in text as it came even if the file says otherwise: what users wrote must be told
      // apart, and normal forms have no marks.
      const std::string normal = added.normalized ? parts_->normalizer.Apply(added.text) : added.text;
      if (normal == added.text || added.token.control) {
        parts_->specials.Add(added.text, added.token);
      } else if (!normal.empty()) {
        parts_->normal_specials.Add(normal, added.token);
        parts_->pieces[static_cast<size_t>(added.id)] = normal;  // what it decodes to, as in the library
      }
    }
    if (parts_->pieces.empty()) return Broken("model.vocab", "is empty");
    return absl::OkStatus();
  }

  // Turns the texts of tokens into what they stand for.
  absl::Status ReadDecoder(const Json& json, const std::string& field, int depth) {
    const std::string type = TypeOf(json);
    std::vector<std::string>& pieces = parts_->pieces;
    if (type == "Sequence") {
      return Each(json, "decoders", field, depth,
                  [&](const Json& one, const std::string& where) { return ReadDecoder(one, where, depth + 1); });
    }
    if (fused_ && type != "Strip" && type != "Fuse") return Unknown(field, absl::StrCat(type, " after Fuse"));
    if (type == "ByteLevel") {
      const ByteAlphabet alphabet;
      std::string bytes;
      for (size_t i = 0; i < pieces.size(); ++i) {
        if (!controls_.contains(static_cast<int32_t>(i)) && alphabet.Read(pieces[i], &bytes)) pieces[i] = bytes;
      }
    } else if (type == "Replace") {
      bool regex = false;
      ASSIGN_OR_RETURN(const std::string pattern, Pattern(json, field, &regex));
      ASSIGN_OR_RETURN(const std::string content, Text(json, "content", field));
      if (regex || pattern.empty()) return Unknown(absl::StrCat(field, ".pattern"), pattern);
      for (std::string& piece : pieces) piece = absl::StrReplaceAll(piece, {{pattern, content}});
    } else if (type == "ByteFallback") {
      for (std::string& piece : pieces) {
        if (const int byte = ByteOfToken(piece); byte >= 0) piece = std::string(1, static_cast<char>(byte));
      }
    } else if (type == "Fuse") {
      fused_ = true;
    } else if (type == "Strip") {
      ASSIGN_OR_RETURN(const std::string content, Text(json, "content", field));
      const Json *start = Member(json, "start"), *stop = Member(json, "stop");
      if (!fused_ || content != " " || start == nullptr || stop == nullptr || *start != 1 || *stop != 0) {
        return Unknown(field, "Strip of anything but one space at the start of the fused text");
      }
      parts_->drops_first_space = true;
    } else if (type == "Metaspace") {
      ASSIGN_OR_RETURN(const std::string replacement, Text(json, "replacement", field));
      for (std::string& piece : pieces) piece = absl::StrReplaceAll(piece, {{replacement, " "}});
      const Json* scheme = Member(json, "prepend_scheme");
      ASSIGN_OR_RETURN(const bool prefix, Flag(json, "add_prefix_space", field, true));
      parts_->drops_first_space = scheme != nullptr ? *scheme != "never" : prefix;
    } else {
      return Unknown(field, type);
    }
    return absl::OkStatus();
  }

  absl::Status ReadPostProcessor(const Json& json, const std::string& field, int depth) {
    const std::string type = TypeOf(json);
    if (type == "Sequence") {
      return Each(json, "processors", field, depth,
                  [&](const Json& one, const std::string& where) { return ReadPostProcessor(one, where, depth + 1); });
    }
    if (type == "ByteLevel") return absl::OkStatus();  // of offsets alone
    if (type != "TemplateProcessing") return Unknown(field, type);
    bool after = false;
    return Each(json, "single", field, depth, [&](const Json& part, const std::string& where) -> absl::Status {
      if (Member(part, "Sequence") != nullptr) {
        if (after) return Unknown(where, "a second sequence");
        after = true;
        return absl::OkStatus();
      }
      const Json* special = Member(part, "SpecialToken");
      if (special == nullptr) return Broken(where, "is neither a token nor the text");
      ASSIGN_OR_RETURN(const std::string token, Text(*special, "id", where));
      const auto it = ids_.find(token);
      if (it == ids_.end()) return Broken(where, absl::StrCat("'", token.substr(0, 80), "' is no token"));
      bool& adds = after ? parts_->add_eos : parts_->add_bos;
      if (adds) return Unknown(where, "a second token there");
      adds = true;
      (after ? parts_->eos : parts_->bos) = it->second;
      return absl::OkStatus();
    });
  }

  absl::Status ReadConfig(const Json& config) {
    for (const auto& [name, id] :
         {std::pair<const char*, int32_t*>{"bos_token", &parts_->bos}, {"eos_token", &parts_->eos}}) {
      const Json* token = Member(config, name);
      if (token == nullptr) continue;
      const Json* content = token->is_object() ? Member(*token, "content") : token;
      const std::string field = absl::StrCat("the ", name, " of tokenizer_config.json");
      if (content == nullptr || !content->is_string()) return Broken(field, "is no text");
      const auto it = ids_.find(content->get<std::string>());
      if (it == ids_.end())
        return Broken(field, absl::StrCat("'", content->get<std::string>().substr(0, 80), "' is no token"));
      *id = it->second;
    }
    ASSIGN_OR_RETURN(parts_->add_bos, Flag(config, "add_bos_token", "tokenizer_config.json", parts_->add_bos));
    ASSIGN_OR_RETURN(parts_->add_eos, Flag(config, "add_eos_token", "tokenizer_config.json", parts_->add_eos));
    parts_->add_bos &= parts_->bos >= 0;
    parts_->add_eos &= parts_->eos >= 0;
    return absl::OkStatus();
  }

  const TokenizerFiles& files_;
  const std::string file_;
  std::unique_ptr<Tokenizer::Parts> parts_;
  std::vector<Added> added_;
  absl::flat_hash_map<int32_t, bool> controls_;    // added tokens by id: whether they are control tokens
  std::vector<bool> taken_;                        // by id
  absl::flat_hash_map<std::string, int32_t> ids_;  // by text
  size_t entries_ = 0;                             // of the vocabulary and the added tokens
  bool byte_level_ = false;
  bool fused_ = false;
};

const TokenizerJson::ModelRow TokenizerJson::kModels[2] = {{"BPE", &TokenizerJson::ReadBpe},
                                                           {"Unigram", &TokenizerJson::ReadUnigram}};

absl::StatusOr<std::unique_ptr<Tokenizer>> LoadTokenizerJson(const TokenizerFiles& files) {
  return TokenizerJson(files).Read();
}

absl::StatusOr<ChatTemplate> ChatTemplate::Load(const TokenizerFiles& files, WallClock wall_clock) {
  const std::string file = files.name + "/tokenizer_config.json";
  ChatTemplateSource source;
  source.name = files.name;
  Json config = Json::object();
  if (!files.tokenizer_config_json.empty()) {
    ASSIGN_OR_RETURN(config, ParseJson(files.tokenizer_config_json, file));
  }
  source.text = files.chat_template;
  const Json* given = Member(config, "chat_template");
  if (source.text.empty() && given != nullptr && given->is_string()) source.text = given->get<std::string>();
  if (source.text.empty() && given != nullptr && given->is_array()) {
    for (const Json& entry : *given) {
      const Json *name = Member(entry, "name"), *text = Member(entry, "template");
      if (name == nullptr || text == nullptr || !text->is_string()) {
        return absl::InvalidArgumentError(absl::StrCat(file, ": chat_template is no list of names and templates"));
      }
      if (*name == "default") source.text = text->get<std::string>();
      if (*name == "tool_use") source.tool_use = text->get<std::string>();
    }
  }
  if (source.text.empty()) return absl::NotFoundError(absl::StrCat(files.name, ": there is no chat template"));
  for (const char* name :
       {"bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token"}) {
    const Json* token = Member(config, name);
    const Json* content = token != nullptr && token->is_object() ? Member(*token, "content") : token;
    if (content != nullptr && content->is_string()) source.tokens.emplace_back(name, content->get<std::string>());
  }
  return Make(source, wall_clock);
}

}  // namespace interlace
