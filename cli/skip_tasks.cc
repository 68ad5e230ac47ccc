#include "cli/skip_tasks.h"

#include <algorithm>
#include <fstream>
#include <functional>
#include <iterator>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "common/entropy.h"
#include "common/status_macros.h"

namespace interlace {
namespace {

using nlohmann::json;

constexpr int32_t kCalibration = 2;  // items that plans are made from
constexpr size_t kClozeChoices = 4;
constexpr size_t kFewestWords = 30, kMostWords = 80;  // before a cloze's gap

template <typename T>
void Shuffle(std::vector<T>* values, Entropy& entropy) {
  for (size_t i = values->size(); i > 1; --i) std::swap((*values)[i - 1], (*values)[entropy.Next() % i]);
}

// Calls `read` with each line's object, until it says that there are enough.
absl::Status EachObject(absl::string_view name, absl::string_view content,
                        const std::function<absl::StatusOr<bool>(const json&)>& read) {
  int line_number = 0;
  for (const absl::string_view line : absl::StrSplit(content, '\n')) {
    ++line_number;
    if (absl::StripAsciiWhitespace(line).empty()) continue;
    const json object = json::parse(line.begin(), line.end(), nullptr, /*allow_exceptions=*/false);
    absl::StatusOr<bool> more = absl::InvalidArgumentError("is no JSON object");
    if (object.is_object()) more = read(object);
    if (!more.ok())
      return absl::InvalidArgumentError(absl::StrCat(name, ":", line_number, " ", more.status().message()));
    if (!*more) break;
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> TextOf(const json& object, const char* field) {
  const auto found = object.find(field);
  if (found != object.end() && found->is_string() && !found->get<std::string>().empty()) {
    return found->get<std::string>();
  }
  return absl::InvalidArgumentError(absl::StrCat("has no text ", field));
}

absl::Status CheckEnough(absl::string_view name, const char* what, size_t found, int64_t wanted) {
  if (static_cast<int64_t>(found) >= wanted) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(name, " has ", found, " ", what, ", and ", wanted, " are needed; ask for fewer items"));
}

// "48 / 2 = <<48/2=24>>24" without what a calculator wrote into it.
std::string WithoutNotes(absl::string_view answer) {
  std::string out;
  while (!answer.empty()) {
    const size_t begin = answer.find("<<"), end = answer.find(">>", begin);
    if (begin == absl::string_view::npos || end == absl::string_view::npos) return absl::StrCat(out, answer);
    absl::StrAppend(&out, answer.substr(0, begin));
    answer.remove_prefix(end + 2);
  }
  return out;
}

struct Number {
  std::string text;
  size_t end = 0;  // behind it
};

// The next number from `from` on: digits with commas and one point, perhaps a sign.
std::optional<Number> NextNumber(absl::string_view text, size_t from) {
  size_t at = from;
  while (at < text.size() && !absl::ascii_isdigit(text[at])) ++at;
  if (at == text.size()) return std::nullopt;
  Number number;
  if (at > from && text[at - 1] == '-' && (at < 2 || !absl::ascii_isalnum(text[at - 2]))) number.text = "-";
  bool point = false;
  for (; at < text.size(); ++at) {
    const bool digit_follows = at + 1 < text.size() && absl::ascii_isdigit(text[at + 1]);
    if (absl::ascii_isdigit(text[at])) {
      number.text += text[at];
    } else if (text[at] == '.' && digit_follows && !point) {
      point = true;
      number.text += '.';
    } else if (text[at] != ',' || !digit_follows) {
      break;
    }
  }
  number.end = at;
  if (point) {
    while (number.text.back() == '0') number.text.pop_back();
    if (number.text.back() == '.') number.text.pop_back();
  }
  return number;
}

// What belongs to the answer: models go on with questions of their own.
absl::string_view OwnAnswer(absl::string_view said) {
  return said.substr(0, std::min(said.find("Question:"), said.find("\n\n")));
}

std::string Question(absl::string_view question) { return absl::StrCat("Question: ", question, "\nAnswer:"); }

bool IsPlainWord(absl::string_view word) {
  return word.size() >= 4 && std::all_of(word.begin(), word.end(), [](char c) { return absl::ascii_islower(c); });
}

struct Gap {
  std::string before, word;
};

// The last long enough sentence of a paragraph of words and marks that ends in a plain word.
std::optional<Gap> GapOf(absl::string_view paragraph) {
  const std::vector<absl::string_view> words = absl::StrSplit(paragraph, ' ', absl::SkipEmpty());
  for (size_t end = words.size(); end-- > kFewestWords + 1;) {
    if (words[end] != "." || !IsPlainWord(words[end - 1])) continue;
    const size_t gap = end - 1, begin = gap > kMostWords ? gap - kMostWords : 0;
    return Gap{
        absl::StrJoin(words.begin() + static_cast<ptrdiff_t>(begin), words.begin() + static_cast<ptrdiff_t>(gap), " "),
        std::string(words[gap])};
  }
  return std::nullopt;
}

struct Typed {
  std::string kind, file;
  int32_t items = 0;
};

absl::StatusOr<Typed> Parse(const std::string& typed, int32_t items) {
  const std::pair<std::string, std::string> parts = absl::StrSplit(typed, absl::MaxSplits('=', 1));
  const std::pair<std::string, std::string> kind = absl::StrSplit(parts.first, absl::MaxSplits(':', 1));
  Typed out{kind.first, parts.second, items};
  const bool counted = kind.second.empty() ? !absl::StrContains(parts.first, ':')
                                           : absl::SimpleAtoi(kind.second, &out.items) && out.items > 0;
  if (!counted) {
    return absl::InvalidArgumentError(absl::StrCat("--accuracy ", typed, ": ", kind.second, " is no number of items"));
  }
  if (out.kind != "gsm8k" && out.kind != "choice" && out.kind != "needle") {
    return absl::InvalidArgumentError(absl::StrCat("--accuracy ", typed, ": there is no ", out.kind,
                                                   "; gsm8k=FILE, choice=FILE and needle are there"));
  }
  if ((out.kind == "needle") != out.file.empty()) {
    return absl::InvalidArgumentError(absl::StrCat("--accuracy ", typed, ": ", out.kind,
                                                   out.file.empty() ? " wants a file, =FILE" : " takes no file"));
  }
  return out;
}

}  // namespace

std::optional<std::string> FinalNumber(absl::string_view text) {
  if (const size_t mark = text.rfind("####"); mark != absl::string_view::npos) {
    const std::optional<Number> number = NextNumber(text, mark);
    if (number) return number->text;
  }
  std::optional<std::string> last;
  for (size_t at = 0;;) {
    std::optional<Number> number = NextNumber(text, at);
    if (!number) return last;
    at = number->end;
    last = std::move(number->text);
  }
}

bool IsAnswered(SkipTestKind kind, absl::string_view said) {
  if (kind == SkipTestKind::kSums) {
    const size_t mark = said.find("####");
    return OwnAnswer(said).size() < said.size() ||
           (mark != absl::string_view::npos && said.find('\n', mark) != absl::string_view::npos);
  }
  const absl::string_view trimmed = absl::StripLeadingAsciiWhitespace(said);
  return std::any_of(trimmed.begin(), trimmed.end(), [](char c) { return !absl::ascii_isdigit(c); });
}

bool IsRight(SkipTestKind kind, const SkipTestItem& item, absl::string_view said) {
  if (kind == SkipTestKind::kSums) return FinalNumber(OwnAnswer(said)) == item.expected;
  absl::string_view trimmed = absl::StripLeadingAsciiWhitespace(said);
  return absl::ConsumePrefix(&trimmed, item.expected) && (trimmed.empty() || !absl::ascii_isdigit(trimmed[0]));
}

absl::StatusOr<SkipTestSet> SumsOf(absl::string_view name, absl::string_view content, int32_t items, int32_t shots) {
  SkipTestSet test{.kind = SkipTestKind::kSums, .name = "gsm8k", .outputs = 96};
  test.what = absl::StrCat("word problems behind ", shots, " worked ones; the final number must be the same");
  std::string worked;
  int32_t seen = 0;
  RETURN_IF_ERROR(EachObject(name, content, [&](const json& object) -> absl::StatusOr<bool> {
    ASSIGN_OR_RETURN(const std::string question, TextOf(object, "question"));
    ASSIGN_OR_RETURN(const std::string answer, TextOf(object, "answer"));
    const std::optional<std::string> number = FinalNumber(answer);
    if (!number) return absl::InvalidArgumentError("has no number in its answer");
    const std::string with_answer = absl::StrCat(Question(question), " ", WithoutNotes(answer));
    if (seen < shots) {
      absl::StrAppend(&worked, with_answer, "\n\n");
    } else if (seen < shots + kCalibration) {
      test.calibration.push_back(with_answer);
    } else {
      test.items.push_back({worked + Question(question), {}, 0, *number});
    }
    return ++seen < shots + kCalibration + items;
  }));
  RETURN_IF_ERROR(CheckEnough(name, "questions", seen, shots + kCalibration + items));
  return test;
}

absl::StatusOr<SkipTestSet> ChoicesOf(absl::string_view name, absl::string_view content, int32_t items) {
  SkipTestSet test{.kind = SkipTestKind::kChoices, .name = "choice"};
  test.what = absl::StrCat("questions of ", name, "; the likeliest choice must be the right one");
  int32_t seen = 0;
  RETURN_IF_ERROR(EachObject(name, content, [&](const json& object) -> absl::StatusOr<bool> {
    SkipTestItem item;
    ASSIGN_OR_RETURN(item.prompt, TextOf(object, "question"));
    const json choices = object.value("choices", json());
    if (!choices.is_array() || choices.size() < 2) return absl::InvalidArgumentError("has no two choices");
    for (const json& choice : choices) {
      if (!choice.is_string() || choice.get<std::string>().empty()) {
        return absl::InvalidArgumentError(absl::StrCat("has the choice ", choice.dump(), ", which is no text"));
      }
      item.choices.push_back(choice.get<std::string>());
    }
    const json answer = object.value("answer", json());
    if (!answer.is_number_integer() || answer.get<int64_t>() < 0 ||
        answer.get<int64_t>() >= static_cast<int64_t>(choices.size())) {
      return absl::InvalidArgumentError(absl::StrCat("has the answer ", answer.dump(), ", and not the index of one of ",
                                                     choices.size(), " choices, from 0 on"));
    }
    item.answer = answer.get<int32_t>();
    if (seen < kCalibration) {
      test.calibration.push_back(absl::StrCat(item.prompt, " ", item.choices[item.answer]));
    } else {
      test.chance += 1.0 / static_cast<double>(item.choices.size()) / items;
      test.items.push_back(std::move(item));
    }
    return ++seen < kCalibration + items;
  }));
  RETURN_IF_ERROR(CheckEnough(name, "questions", seen, kCalibration + items));
  return test;
}

absl::StatusOr<SkipTestSet> ClozesOf(absl::string_view name, absl::string_view content, int32_t items, uint64_t seed) {
  // Plans are made from the beginnings of files.
  const size_t middle = std::min(content.size(), content.find('\n', content.size() / 2));
  std::vector<Gap> gaps;
  std::set<std::string> words;  // one gap for each, so that no two choices are the same
  for (const absl::string_view line : absl::StrSplit(content.substr(middle), '\n')) {
    std::optional<Gap> gap = GapOf(line);
    if (gap && words.insert(gap->word).second) gaps.push_back(*std::move(gap));
  }
  RETURN_IF_ERROR(CheckEnough(name, "sentences for clozes in its second half", gaps.size(),
                              std::max<int64_t>(kCalibration + items, kClozeChoices)));
  const std::unique_ptr<Entropy> entropy = MakeSeededEntropy(seed);
  Shuffle(&gaps, *entropy);
  SkipTestSet test{.kind = SkipTestKind::kChoices, .name = "choice", .chance = 1.0 / kClozeChoices};
  test.what = absl::StrCat("last words of sentences of ", name, ", among three of others");
  for (size_t i = 0; i < static_cast<size_t>(kCalibration + items); ++i) {
    if (i < kCalibration) {
      test.calibration.push_back(absl::StrCat(gaps[i].before, " ", gaps[i].word));
      continue;
    }
    SkipTestItem item{gaps[i].before, {gaps[i].word}, 0, ""};
    std::set<size_t> taken = {i};
    while (taken.size() < kClozeChoices) {
      const size_t other = entropy->Next() % gaps.size();
      if (taken.insert(other).second) item.choices.push_back(gaps[other].word);
    }
    item.answer = static_cast<int32_t>(entropy->Next() % kClozeChoices);
    std::swap(item.choices[0], item.choices[item.answer]);
    test.items.push_back(std::move(item));
  }
  return test;
}

SkipTestSet MakeNeedles(int32_t items, int32_t words, uint64_t seed) {
  constexpr const char* kNouns[] = {"garden", "river", "teacher", "window", "market", "horse", "letter", "mountain"};
  constexpr const char* kVerbs[] = {"stands near", "belongs to", "was painted like", "looks over", "is older than"};
  constexpr const char* kPlaces[] = {"Lima", "Oslo", "Cairo", "Quito", "Dublin", "Nairobi", "Hanoi", "Lisbon"};
  const std::unique_ptr<Entropy> entropy = MakeSeededEntropy(seed);
  const auto pick = [&](const auto& list) { return list[entropy->Next() % std::size(list)]; };
  SkipTestSet test{.kind = SkipTestKind::kNeedles, .name = "needle", .outputs = 12};
  test.what = absl::StrCat("a number told somewhere in ", words, " words and asked for at their end");
  for (int32_t i = 0; i < kCalibration + items; ++i) {
    const std::string place = pick(kPlaces), number = absl::StrCat(10000 + entropy->Next() % 90000);
    std::vector<std::string> sentences;
    for (int32_t count = 0; count < words; count += 6) {
      sentences.push_back(absl::StrCat("The ", pick(kNouns), " ", pick(kVerbs), " the ", pick(kNouns), "."));
    }
    sentences.insert(sentences.begin() + static_cast<ptrdiff_t>(entropy->Next() % (sentences.size() + 1)),
                     absl::StrCat("The secret number of ", place, " is ", number, "."));
    const std::string prompt = absl::StrCat(absl::StrJoin(sentences, " "), "\nWhat is the secret number of ", place,
                                            "? The secret number of ", place, " is");
    if (i < kCalibration) {
      test.calibration.push_back(absl::StrCat(prompt, " ", number, "."));
    } else {
      test.items.push_back({prompt, {}, 0, number});
    }
  }
  return test;
}

absl::StatusOr<SkipTestSet> ReadTest(const std::string& typed, const SkipTestOptions& options) {
  ASSIGN_OR_RETURN(const Typed what, Parse(typed, options.items));
  if (what.kind == "needle") return MakeNeedles(what.items, options.needle_words, options.seed);
  std::ifstream file(what.file, std::ios::binary);
  if (!file) return absl::NotFoundError(absl::StrCat("--accuracy ", typed, ": ", what.file, " cannot be read"));
  const std::string content{std::istreambuf_iterator<char>(file), {}};
  if (what.kind == "gsm8k") return SumsOf(what.file, content, what.items, options.shots);
  if (absl::EndsWith(what.file, ".jsonl")) return ChoicesOf(what.file, content, what.items);
  return ClozesOf(what.file, content, what.items, options.seed);
}

}  // namespace interlace
