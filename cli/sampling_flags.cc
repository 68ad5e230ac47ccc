#include "cli/sampling_flags.h"

#include <CLI/CLI.hpp>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace interlace {

void SamplingFlags::AddTo(CLI::App* command) {
  command->add_option("--temperature", spec.temperature, "0 is greedy");
  command->add_option("--top-k", spec.top_k, "only that many of the most likely; 0 is all");
  command->add_option("--top-p", spec.top_p, "only the most likely that make up this share");
  command->add_option("--min-p", spec.min_p, "only those of this share of the most likely one's probability");
  command->add_option("--typical-p", spec.typical_p, "only the most typical that make up this share");
  command->add_option("--repetition-penalty", spec.repetition_penalty, "above 1: less of what prompt or answer has");
  command->add_option("--presence-penalty", spec.presence_penalty, "above 0: less of what the answer has");
  command->add_option("--frequency-penalty", spec.frequency_penalty, "above 0: less of it with each time");
  command->add_option("--logit-bias", biases, "TOKEN:BIAS, -100 to 100; may be given several times")
      ->allow_extra_args(false);
  command->add_option("--bad-word", spec.bad_words, "never in the answer; may be given several times")
      ->allow_extra_args(false);
  command->add_option("--min-tokens", spec.min_tokens, "least tokens of an answer");
  command->add_option("--seed", spec.seed, "of the random numbers");
}

absl::Status SamplingFlags::Finish() {
  for (const std::string& text : biases) {
    const std::pair<std::string, std::string> parts = absl::StrSplit(text, absl::MaxSplits(':', 1));
    int64_t token = 0;
    double bias = 0;
    if (!absl::SimpleAtoi(parts.first, &token) || !absl::SimpleAtod(parts.second, &bias)) {
      return absl::InvalidArgumentError(absl::StrCat("--logit-bias ", text, " is not TOKEN:BIAS, such as 42:-100"));
    }
    spec.logit_bias.emplace_back(token, bias);
  }
  biases.clear();
  return absl::OkStatus();
}

void SetSampling(const SamplingSpec& spec, ClientOptions* options) {
  const auto narrow = [](const auto& from, auto* to) {
    if (from) *to = static_cast<typename std::decay_t<decltype(*to)>::value_type>(*from);
  };
  narrow(spec.temperature, &options->temperature);
  narrow(spec.top_p, &options->top_p);
  narrow(spec.top_k, &options->top_k);
  narrow(spec.min_p, &options->min_p);
  narrow(spec.typical_p, &options->typical_p);
  narrow(spec.repetition_penalty, &options->repetition_penalty);
  narrow(spec.presence_penalty, &options->presence_penalty);
  narrow(spec.frequency_penalty, &options->frequency_penalty);
  narrow(spec.min_tokens, &options->min_tokens);
  narrow(spec.seed, &options->seed);
  for (const auto& [token, bias] : spec.logit_bias) {
    options->logit_bias[static_cast<int32_t>(token)] = static_cast<float>(bias);
  }
  options->bad_words = spec.bad_words;
}

}  // namespace interlace
