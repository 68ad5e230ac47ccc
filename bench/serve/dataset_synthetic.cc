// Datasets that need no file: lengths and tokens from the seed.
#include <array>
#include <set>

#include "absl/strings/str_cat.h"
#include "bench/serve/dataset.h"

namespace interlace {
namespace {

constexpr const char* kWords[] = {
    "the",     "of",   "and",   "to",    "in",      "is",    "that",   "for",  "it",    "as",      "was",
    "with",    "be",   "by",    "on",    "not",     "he",    "his",    "but",  "at",    "are",     "this",
    "have",    "from", "or",    "had",   "an",      "they",  "which",  "one",  "you",   "were",    "all",
    "her",     "she",  "there", "would", "their",   "we",    "him",    "been", "has",   "when",    "who",
    "will",    "no",   "more",  "if",    "out",     "so",    "up",     "said", "what",  "its",     "about",
    "than",    "into", "them",  "can",   "only",    "other", "time",   "new",  "some",  "could",   "these",
    "two",     "may",  "first", "then",  "do",      "any",   "like",   "my",   "now",   "over",    "such",
    "our",     "man",  "me",    "even",  "most",    "made",  "after",  "also", "well",  "did",     "many",
    "before",  "must", "years", "back",  "through", "much",  "where",  "your", "way",   "down",    "should",
    "because", "long", "each",  "just",  "state",   "those", "people", "too",  "world", "little",  "good",
    "very",    "make", "great", "still", "own",     "see",   "men",    "work", "here",  "get",     "both",
    "between", "life", "being", "under", "three",   "never", "know",   "same", "last",  "another", "while",
};

class Synthetic final : public Dataset {
 public:
  Synthetic(const DatasetSpec& spec, std::unique_ptr<Entropy> entropy)
      : spec_(spec),
        turns_(spec.turns > 0 ? spec.turns : 1),
        lengths_(entropy->Fork("lengths")),
        words_(entropy->Fork(absl::StrCat("tokens", spec.salt))) {
    if (turns_ > 1) spec_.ids = false;  // an answer comes as text, and the next prompt begins with it
  }
  std::optional<Conversation> Next() override {
    Conversation conversation;
    for (int32_t turn = 0; turn < turns_; ++turn) {
      PlannedRequest& request = conversation.turns.emplace_back();
      std::vector<int32_t> ids(static_cast<size_t>(spec_.input.Draw(lengths_)));
      for (int32_t& id : ids) id = DrawId();
      SetPrompt(spec_, std::move(ids), &request);
      request.max_tokens = spec_.output.Draw(lengths_);
      request.ignore_eos = spec_.ignore_eos.value_or(true);
    }
    return conversation;
  }
  std::string description() const override {
    return absl::StrCat("synthetic ", DescribeLength(spec_.input), "/", DescribeLength(spec_.output),
                        turns_ > 1 ? absl::StrCat(", ", turns_, " turns") : "");
  }

 private:
  int32_t DrawId() { return spec_.token_low + static_cast<int32_t>(words_.Below(spec_.token_high - spec_.token_low)); }

  DatasetSpec spec_;
  const int32_t turns_;
  Draws lengths_, words_;
};

// Each prompt is the prefix of a group, drawn evenly, and tokens of its own.
class PrefixShared final : public Dataset {
 public:
  PrefixShared(const DatasetSpec& spec, std::unique_ptr<Entropy> entropy)
      : spec_(spec),
        choice_(entropy->Fork("group")),
        lengths_(entropy->Fork("lengths")),
        words_(entropy->Fork(absl::StrCat("tokens", spec.salt))) {
    Draws prefixes(entropy->Fork(absl::StrCat("prefixes", spec.salt)));
    for (int32_t g = 0; g < spec.groups; ++g) {
      std::vector<int32_t>& prefix = prefixes_.emplace_back();
      for (int32_t t = 0; t < spec.shared_tokens; ++t) prefix.push_back(IdFrom(prefixes));
    }
    seen_.resize(prefixes_.size());
  }
  std::optional<Conversation> Next() override {
    const size_t group = static_cast<size_t>(choice_.Below(spec_.groups));
    std::vector<int32_t> ids = prefixes_[group];
    for (int32_t left = spec_.input.Draw(lengths_); left > 0; --left) ids.push_back(IdFrom(words_));
    Conversation conversation;
    PlannedRequest& request = conversation.turns.emplace_back();
    SetPrompt(spec_, std::move(ids), &request);
    request.shared_prefix_tokens = seen_[group] ? spec_.shared_tokens : 0;
    seen_[group] = true;
    request.max_tokens = spec_.output.Draw(lengths_);
    request.ignore_eos = spec_.ignore_eos.value_or(true);
    return conversation;
  }
  std::string description() const override {
    return absl::StrCat("prefix ", spec_.groups, "x", spec_.shared_tokens, "+", DescribeLength(spec_.input), "/",
                        DescribeLength(spec_.output));
  }

 private:
  int32_t IdFrom(Draws& draws) const {
    return spec_.token_low + static_cast<int32_t>(draws.Below(spec_.token_high - spec_.token_low));
  }

  const DatasetSpec spec_;
  Draws choice_, lengths_, words_;
  std::vector<std::vector<int32_t>> prefixes_;
  std::vector<bool> seen_;
};

}  // namespace

std::string WordsOf(const std::vector<int32_t>& ids) {
  std::string text;
  for (int32_t id : ids) {
    if (!text.empty()) text += ' ';
    text += kWords[static_cast<size_t>(id) % std::size(kWords)];
  }
  return text;
}

void SetPrompt(const DatasetSpec& spec, std::vector<int32_t> ids, PlannedRequest* request) {
  request->expected_prompt_tokens = static_cast<int32_t>(ids.size());
  if (spec.ids) {
    request->prompt_ids = std::move(ids);
  } else {
    request->messages = {{"user", WordsOf(ids)}};
  }
}

absl::StatusOr<std::unique_ptr<Dataset>> MakeSynthetic(const DatasetSpec& spec, std::unique_ptr<Entropy> entropy) {
  return std::make_unique<Synthetic>(spec, std::move(entropy));
}

absl::StatusOr<std::unique_ptr<Dataset>> MakePrefixShared(const DatasetSpec& spec, std::unique_ptr<Entropy> entropy) {
  if (spec.groups < 1 || spec.shared_tokens < 1) {
    return absl::InvalidArgumentError(absl::StrCat("--groups ", spec.groups, " --shared-tokens ", spec.shared_tokens,
                                                   ": a shared prefix needs at least 1 of each"));
  }
  return std::make_unique<PrefixShared>(spec, std::move(entropy));
}

}  // namespace interlace
