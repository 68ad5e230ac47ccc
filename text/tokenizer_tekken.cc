// Tokenizers as Mistral's tekken.json describes them: tiktoken's ranks of bytes, behind a block of special tokens.
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "text/bpe.h"
#include "text/tokenizer.h"
#include "text/tokenizer_files.h"
#include "text/tokenizer_parts.h"

namespace interlace {
namespace {

using Json = nlohmann::json;

// Of files that list none, the first ones; those behind them are fillers.
constexpr absl::string_view kOldSpecials[] = {"<unk>",
                                              "<s>",
                                              "</s>",
                                              "[INST]",
                                              "[/INST]",
                                              "[AVAILABLE_TOOLS]",
                                              "[/AVAILABLE_TOOLS]",
                                              "[TOOL_RESULTS]",
                                              "[/TOOL_RESULTS]",
                                              "[TOOL_CALLS]",
                                              "[IMG]",
                                              "<pad>",
                                              "[IMG_BREAK]",
                                              "[IMG_END]",
                                              "[PREFIX]",
                                              "[MIDDLE]",
                                              "[SUFFIX]",
                                              "[SYSTEM_PROMPT]",
                                              "[/SYSTEM_PROMPT]",
                                              "[TOOL_CONTENT]"};

}  // namespace

// Reads one file into the parts of a tokenizer; lives within Load.
class TokenizerTekken {
 public:
  explicit TokenizerTekken(const TokenizerFiles& files)
      : files_(files), file_(files.name + "/tekken.json"), parts_(std::make_unique<Tokenizer::Parts>()) {}

  absl::StatusOr<std::unique_ptr<Tokenizer>> Read() {
    const Json root = Json::parse(files_.tekken_json, nullptr, /*allow_exceptions=*/false);
    if (!root.is_object() || !root.contains("config") || !root["config"].is_object()) {
      return Broken("config", "is missing");
    }
    const Json& config = root["config"];
    ASSIGN_OR_RETURN(const int64_t all, Count(config, "default_vocab_size"));
    ASSIGN_OR_RETURN(specials_, Count(config, "default_num_special_tokens"));
    if (specials_ > all) return Broken("config.default_num_special_tokens", "is above default_vocab_size");
    if (!config.contains("pattern") || !config["pattern"].is_string()) return Broken("config.pattern", "is no text");
    const absl::Status cut = parts_->pretokenizer.AddPattern(config["pattern"].get<std::string>());
    if (!cut.ok()) return absl::Status(cut.code(), absl::StrCat(file_, ": config.pattern: ", cut.message()));
    parts_->pieces.resize(static_cast<size_t>(specials_));
    RETURN_IF_ERROR(ReadSpecials(root));
    RETURN_IF_ERROR(ReadRanks(root, all - specials_));
    parts_->control.resize(parts_->pieces.size(), false);
    for (const auto& [text, id] : {std::pair{"<s>", &parts_->bos}, {"</s>", &parts_->eos}}) {
      const SpecialTokens::Token* token = parts_->specials.Find(text);
      if (token != nullptr) *id = token->id;
    }
    parts_->add_bos = parts_->bos >= 0;
    parts_->CollectStopTokens();
    RETURN_IF_ERROR(parts_->AddEndTokens(files_));
    return std::unique_ptr<Tokenizer>(new Tokenizer(std::move(parts_)));
  }

 private:
  absl::Status Broken(absl::string_view field, absl::string_view what) const {
    return absl::InvalidArgumentError(absl::StrCat(file_, ": ", field, " ", what));
  }
  absl::StatusOr<int64_t> Count(const Json& config, const char* name) const {
    if (!config.contains(name) || !config[name].is_number_unsigned() ||
        config[name].get<uint64_t>() > uint64_t{kMostTokens}) {
      return Broken(absl::StrCat("config.", name), "is no count of tokens");
    }
    return config[name].get<int64_t>();
  }

  // All are control tokens: Mistral's own library never finds one in a text.
  absl::Status AddSpecial(int64_t id, const std::string& text) {
    if (text.empty()) return Broken(absl::StrCat("special token ", id), "is empty");
    parts_->pieces[static_cast<size_t>(id)] = text;
    parts_->specials.Add(text, {static_cast<int32_t>(id), /*control=*/true});
    return absl::OkStatus();
  }
  absl::Status ReadSpecials(const Json& root) {
    parts_->control.assign(static_cast<size_t>(specials_), true);
    const auto listed = root.find("special_tokens");
    if (listed == root.end() || listed->is_null()) {
      for (size_t i = 0; i < std::size(kOldSpecials) && i < parts_->pieces.size(); ++i) {
        RETURN_IF_ERROR(AddSpecial(static_cast<int64_t>(i), std::string(kOldSpecials[i])));
      }
    } else {
      if (!listed->is_array()) return Broken("special_tokens", "is no list");
      for (size_t i = 0; i < listed->size(); ++i) {
        const Json& token = (*listed)[i];
        if (!token.is_object() || !token.contains("rank") || !token["rank"].is_number_unsigned() ||
            token["rank"].get<uint64_t>() >= static_cast<uint64_t>(specials_) || !token.contains("token_str") ||
            !token["token_str"].is_string()) {
          return Broken(absl::StrCat("special_tokens[", i, "]"), "is not a text with a rank among the special tokens");
        }
        RETURN_IF_ERROR(AddSpecial(token["rank"].get<int64_t>(), token["token_str"].get<std::string>()));
      }
    }
    for (size_t i = 0; i < parts_->pieces.size(); ++i) {
      if (parts_->pieces[i].empty())
        RETURN_IF_ERROR(AddSpecial(static_cast<int64_t>(i), absl::StrCat("<SPECIAL_", i, ">")));
    }
    return absl::OkStatus();
  }

  // The file may hold more tokens than the model has rows.
  absl::Status ReadRanks(const Json& root, int64_t count) {
    const auto vocab = root.find("vocab");
    if (vocab == root.end() || !vocab->is_array() || static_cast<int64_t>(vocab->size()) < count) {
      return Broken("vocab", absl::StrCat("is no list of at least ", count, " tokens"));
    }
    auto bpe = std::make_unique<Bpe>();
    bpe->set_whole_pieces_first(true);
    std::string bytes;
    for (int64_t rank = 0; rank < count; ++rank) {
      const Json& token = (*vocab)[static_cast<size_t>(rank)];
      const std::string field = absl::StrCat("vocab[", rank, "]");
      if (!token.is_object() || !token.contains("rank") || token["rank"] != rank || !token.contains("token_bytes") ||
          !token["token_bytes"].is_string() ||
          !absl::Base64Unescape(token["token_bytes"].get_ref<const std::string&>(), &bytes) || bytes.empty()) {
        return Broken(field, "is not the token of that rank, in base64");
      }
      if (bytes.size() > kLongest) return Broken(field, absl::StrCat("is longer than ", kLongest, " bytes"));
      bpe->AddToken(bytes, static_cast<int32_t>(specials_ + rank));
      parts_->pieces.push_back(bytes);
    }
    // Any two neighbours merge whose bytes together are a token, the one of least rank first.
    for (int64_t rank = 0; rank < count; ++rank) {
      const std::string& token = parts_->pieces[static_cast<size_t>(specials_ + rank)];
      for (size_t cut = 1; cut < token.size(); ++cut) {
        (void)bpe->AddMerge(token.substr(0, cut), token.substr(cut), static_cast<int32_t>(rank));
      }
    }
    parts_->model = std::move(bpe);
    return absl::OkStatus();
  }

  static constexpr size_t kLongest = 1024;  // bytes of a token
  const TokenizerFiles& files_;
  const std::string file_;
  std::unique_ptr<Tokenizer::Parts> parts_;
  int64_t specials_ = 0;  // ids before the first rank
};

absl::StatusOr<std::unique_ptr<Tokenizer>> LoadTekken(const TokenizerFiles& files) {
  return TokenizerTekken(files).Read();
}

}  // namespace interlace
