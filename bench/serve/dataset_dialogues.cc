// Datasets of texts: ShareGPT, MT-Bench, GSM8K, LongBench and InfiniteBench files into dialogues, and these into
// conversations.
#include <algorithm>
#include <nlohmann/json.hpp>
#include <numeric>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "bench/serve/dataset.h"
#include "common/status_macros.h"

namespace interlace {
namespace {

using Json = nlohmann::json;

// About what a tokenizer makes of English text; only asked where the file has an answer and --output-tokens is not
// given.
constexpr size_t kBytesPerToken = 4;
constexpr int32_t kLongestAnswer = 2048;  // tokens, of an answer whose length is estimated so

absl::Status Damaged(absl::string_view name, size_t line, absl::string_view what) {
  return absl::InvalidArgumentError(
      absl::StrCat(name, ":", line, ": ", what, "; correct the line or take it out of the file"));
}

Json ParseJson(absl::string_view text) {
  return Json::parse(text.begin(), text.end(), nullptr, /*allow_exceptions=*/false);
}

// Null: the field is missing or no text.
const std::string* TextOf(const Json& json, const char* field) {
  if (!json.is_object()) return nullptr;
  const auto it = json.find(field);
  return it != json.end() && it->is_string() ? it->get_ptr<const std::string*>() : nullptr;
}

int32_t TokensOfText(absl::string_view text) {
  return std::clamp(static_cast<int32_t>(text.size() / kBytesPerToken), 1, kLongestAnswer);
}

// Dialogues out of a file with one JSON object a line; `parse` returns what is wrong with one, or "".
template <typename Parse>
absl::StatusOr<std::vector<Dialogue>> ParseLines(absl::string_view text, absl::string_view name, int64_t* damaged,
                                                 Parse parse) {
  std::vector<Dialogue> dialogues;
  size_t number = 0;
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    ++number;
    line = absl::StripAsciiWhitespace(line);
    if (line.empty()) continue;
    const Json json = ParseJson(line);
    Dialogue dialogue;
    const std::string fault = json.is_object() ? parse(json, &dialogue) : "the line is no JSON object";
    if (fault.empty()) {
      dialogues.push_back(std::move(dialogue));
    } else {
      RETURN_IF_ERROR(Note(Damaged(name, number, fault), damaged));
    }
  }
  if (dialogues.empty()) return absl::InvalidArgumentError(absl::StrCat(name, ": no questions in the file"));
  return dialogues;
}

// The elements of the array that a text is, one by one: a ShareGPT file is too large to be parsed as a whole.
class ArrayElements {
 public:
  explicit ArrayElements(absl::string_view text) : text_(text) {}
  // False: the array has ended, or the text is no array.
  bool Next(absl::string_view* element, size_t* line) {
    SkipBlank();
    if (at_ >= text_.size() || (text_[at_] != '[' && text_[at_] != ',')) return false;
    if ((text_[at_] == '[') != first_) return false;
    first_ = false;
    ++at_;
    SkipBlank();
    if (at_ >= text_.size() || text_[at_] == ']') return false;
    const size_t begin = at_;
    *line = line_;
    Skip();
    *element = text_.substr(begin, at_ - begin);
    return true;
  }
  // The array was whole, and nothing stands behind it.
  bool AtEnd() {
    SkipBlank();
    if (at_ >= text_.size() || text_[at_] != ']') return false;
    ++at_;
    SkipBlank();
    return at_ == text_.size();
  }
  size_t line() const { return line_; }

 private:
  void Step() {
    if (text_[at_] == '\n') ++line_;
    ++at_;
  }
  void SkipBlank() {
    while (at_ < text_.size() && absl::ascii_isspace(static_cast<unsigned char>(text_[at_]))) Step();
  }
  // One value, up to the comma or bracket behind it.
  void Skip() {
    int depth = 0;
    bool quoted = false;
    for (; at_ < text_.size(); Step()) {
      const char c = text_[at_];
      if (quoted) {
        if (c == '\\' && at_ + 1 < text_.size()) {
          Step();
        } else if (c == '"') {
          quoted = false;
        }
      } else if (c == '"') {
        quoted = true;
      } else if (c == '[' || c == '{') {
        ++depth;
      } else if (c == ']' || c == '}') {
        if (depth == 0) return;
        --depth;
      } else if (c == ',' && depth == 0) {
        return;
      }
    }
  }

  const absl::string_view text_;
  size_t at_ = 0, line_ = 1;
  bool first_ = true;
};

// "" or what is wrong with a conversation of ShareGPT. One without a question leaves `dialogue` empty.
std::string ReadShareGpt(const Json& json, Dialogue* dialogue) {
  if (!json.is_object()) return "a conversation is no JSON object";
  const auto said = json.find("conversations");
  if (said == json.end() || !said->is_array()) return "a conversation has no list `conversations`";
  for (const Json& part : *said) {
    const std::string* from = TextOf(part, "from");
    const std::string* value = TextOf(part, "value");
    if (from == nullptr || value == nullptr) return "a part of `conversations` lacks `from` or `value`";
    const bool user = *from == "human" || *from == "user";
    if (user && !value->empty()) {
      dialogue->questions.push_back(*value);
      dialogue->answer_tokens.push_back(0);
    } else if (!user && !dialogue->questions.empty() && dialogue->answer_tokens.back() == 0) {
      dialogue->answer_tokens.back() = TokensOfText(*value);
    }
  }
  return "";
}

class Dialogues final : public Dataset {
 public:
  Dialogues(const DatasetSpec& spec, std::vector<Dialogue> dialogues, std::unique_ptr<Entropy> entropy)
      : spec_(spec),
        dialogues_(std::move(dialogues)),
        order_(dialogues_.size()),
        shuffle_(entropy->Fork("order")),
        lengths_(entropy->Fork("lengths")) {
    std::iota(order_.begin(), order_.end(), size_t{0});
    at_ = order_.size();
  }
  std::optional<Conversation> Next() override {
    if (at_ == order_.size()) Begin();
    const Dialogue& dialogue = dialogues_[order_[at_++]];
    // MT-Bench is made of two turns; of ShareGPT, as in other benchmarks, the first is taken unless more are asked for.
    const size_t most = spec_.turns > 0 ? static_cast<size_t>(spec_.turns) : spec_.kind == "mt-bench" ? 2 : 1;
    Conversation conversation;
    for (size_t turn = 0; turn < std::min(most, dialogue.questions.size()); ++turn) {
      PlannedRequest& request = conversation.turns.emplace_back();
      request.messages = {{"user", dialogue.questions[turn]}};
      const bool estimated = !spec_.output.given && dialogue.answer_tokens[turn] > 0;
      request.max_tokens = estimated ? dialogue.answer_tokens[turn] : spec_.output.Draw(lengths_);
      request.ignore_eos = spec_.ignore_eos.value_or(false);
    }
    return conversation;
  }
  std::string description() const override {
    return absl::StrCat(spec_.kind, spec_.output.given ? absl::StrCat(" -/", DescribeLength(spec_.output)) : "",
                        DescribeDamage(spec_));
  }

 private:
  void Begin() {
    at_ = 0;
    if (!spec_.shuffle) return;
    for (size_t i = order_.size(); i > 1; --i) {
      std::swap(order_[i - 1], order_[static_cast<size_t>(shuffle_.Below(static_cast<int64_t>(i)))]);
    }
  }

  const DatasetSpec spec_;
  const std::vector<Dialogue> dialogues_;
  std::vector<size_t> order_;
  Draws shuffle_, lengths_;
  size_t at_ = 0;
};

}  // namespace

absl::StatusOr<std::vector<Dialogue>> ParseShareGpt(absl::string_view text, absl::string_view name, int64_t* damaged) {
  std::vector<Dialogue> dialogues;
  ArrayElements elements(text);
  absl::string_view element;
  size_t line = 0;
  while (elements.Next(&element, &line)) {
    Dialogue dialogue;
    const std::string fault = ReadShareGpt(ParseJson(element), &dialogue);
    if (!fault.empty()) {
      RETURN_IF_ERROR(Note(Damaged(name, line, fault), damaged));
    } else if (!dialogue.questions.empty()) {
      dialogues.push_back(std::move(dialogue));
    }
  }
  if (!elements.AtEnd()) {
    RETURN_IF_ERROR(Note(Damaged(name, elements.line(), "the list of conversations is cut off or no JSON"), damaged));
  }
  if (dialogues.empty()) return absl::InvalidArgumentError(absl::StrCat(name, ": no conversations in the file"));
  return dialogues;
}

absl::StatusOr<std::vector<Dialogue>> ParseMtBench(absl::string_view text, absl::string_view name, int64_t* damaged) {
  return ParseLines(text, name, damaged, [](const Json& json, Dialogue* dialogue) -> std::string {
    const auto turns = json.find("turns");
    if (turns == json.end() || !turns->is_array() || turns->empty()) return "the question has no list `turns`";
    for (const Json& turn : *turns) {
      if (!turn.is_string()) return "`turns` holds something that is no text";
      dialogue->questions.push_back(turn.get<std::string>());
      dialogue->answer_tokens.push_back(0);
    }
    return "";
  });
}

absl::StatusOr<std::vector<Dialogue>> ParseGsm8k(absl::string_view text, absl::string_view name, int64_t* damaged) {
  return ParseLines(text, name, damaged, [](const Json& json, Dialogue* dialogue) -> std::string {
    const std::string* question = TextOf(json, "question");
    if (question == nullptr) return "`question` is missing or no text";
    const std::string* answer = TextOf(json, "answer");
    dialogue->questions.push_back(*question);
    dialogue->answer_tokens.push_back(answer == nullptr ? 0 : TokensOfText(*answer));
    return "";
  });
}

absl::StatusOr<std::vector<Dialogue>> ParseLongContext(absl::string_view text, absl::string_view name,
                                                       int64_t* damaged) {
  return ParseLines(text, name, damaged, [](const Json& json, Dialogue* dialogue) -> std::string {
    const std::string* context = TextOf(json, "context");
    const std::string* input = TextOf(json, "input");
    if (context == nullptr || input == nullptr) return "`context` or `input` is missing or no text";
    dialogue->questions.push_back(input->empty() ? *context : absl::StrCat(*context, "\n\n", *input));
    dialogue->answer_tokens.push_back(0);
    return "";
  });
}

absl::StatusOr<std::unique_ptr<Dataset>> MakeDialogues(const DatasetSpec& spec, std::vector<Dialogue> dialogues,
                                                       std::unique_ptr<Entropy> entropy) {
  return std::make_unique<Dialogues>(spec, std::move(dialogues), std::move(entropy));
}

}  // namespace interlace
