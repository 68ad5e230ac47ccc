#include "tests/gpu/model_check.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/clock.h"
#include "tests/model/plain_engine.h"

namespace interlace {
namespace {

// The second largest is `margin` below the largest.
double MarginOf(const float* logits, int32_t vocab) {
  float first = -INFINITY, second = -INFINITY;
  for (int32_t i = 0; i < vocab; ++i) {
    if (logits[i] > first) {
      second = std::exchange(first, logits[i]);
    } else if (logits[i] > second) {
      second = logits[i];
    }
  }
  return double{first} - second;
}

double LossOf(const float* logits, int32_t vocab, int32_t token) {
  const double largest = *std::max_element(logits, logits + vocab);
  double total = 0;
  for (int32_t v = 0; v < vocab; ++v) total += std::exp(logits[v] - largest);
  return std::log(total) + largest - logits[token];
}

void CompareLogits(const std::vector<float>& cpu, const std::vector<float>& device, int32_t vocab, ModelCheck* check,
                   double* sum) {
  for (size_t i = 0; i < cpu.size(); ++i) {
    const double difference = std::abs(double{cpu[i]} - device[i]);
    // A NaN is the worst difference there is.
    if (!(difference <= check->worst_logit)) check->worst_logit = std::isnan(difference) ? INFINITY : difference;
    *sum += difference;
  }
  for (size_t row = 0; row * vocab < cpu.size(); ++row) {
    ++check->compared;
    const float* logits = &cpu[row * vocab];
    if (ArgMax(logits, vocab) == ArgMax(&device[row * vocab], vocab)) {
      ++check->agreed;
    } else {
      check->worst_margin = std::max(check->worst_margin, MarginOf(logits, vocab));
    }
  }
}

double PerplexityLoss(PlainEngine& engine, const std::vector<std::vector<int32_t>>& windows, int first_sequence,
                      double* seconds) {
  RealClock clock;
  double sum = 0;
  int64_t count = 0;
  for (const std::vector<int32_t>& window : windows) {
    const absl::Time start = clock.Now();
    engine.Step({{first_sequence++, window}});
    (void)engine.backend().Synchronize();
    *seconds += absl::ToDoubleSeconds(clock.Now() - start);
    const auto length = static_cast<int32_t>(window.size());
    for (int32_t begin = 0; begin + 1 < length; begin += 64) {
      std::vector<int32_t> rows(std::min(begin + 64, length - 1) - begin);
      std::iota(rows.begin(), rows.end(), begin);
      const std::vector<float> logits = engine.Logits(rows);
      for (size_t i = 0; i < rows.size(); ++i) {
        sum += LossOf(&logits[i * engine.spec().vocab], engine.spec().vocab, window[rows[i] + 1]);
        ++count;
      }
    }
  }
  return count > 0 ? sum / static_cast<double>(count) : 0;
}

}  // namespace

absl::StatusOr<ModelCheck> CheckModel(const GgufFile& file, std::unique_ptr<Backend> device,
                                      const ModelCheckOptions& options) {
  ModelCheck check;
  ASSIGN_OR_RETURN(const std::unique_ptr<Checkpoint> checkpoint, Checkpoint::Of(file));
  ASSIGN_OR_RETURN(std::unique_ptr<PlainEngine> cpu, PlainEngine::Make(*checkpoint, {.ops = "reference"}));
  ASSIGN_OR_RETURN(std::unique_ptr<PlainEngine> gpu, PlainEngine::Make(*checkpoint, {}, std::move(device)));
  const int32_t vocab = cpu->spec().vocab;
  RealClock clock;
  const auto count = static_cast<int>(options.prompts.size());

  double sum = 0;
  std::vector<int32_t> next;
  for (int p = 0; p < count; ++p) {
    const auto last = static_cast<int32_t>(options.prompts[p].size()) - 1;
    cpu->Step({{p, options.prompts[p]}});
    gpu->Step({{p, options.prompts[p]}});
    const std::vector<float> want = cpu->Logits({last});
    CompareLogits(want, gpu->Logits({last}), vocab, &check, &sum);
    next.push_back(ArgMax(want.data(), vocab));
  }
  double gpu_seconds = 0;
  std::vector<int32_t> rows(count);
  std::iota(rows.begin(), rows.end(), 0);
  for (int32_t step = 0; step < options.greedy_steps; ++step) {
    std::vector<std::pair<int, std::vector<int32_t>>> parts;
    for (int p = 0; p < count; ++p) parts.push_back({p, {next[p]}});
    cpu->Step(parts);
    const std::vector<float> want = cpu->Logits(rows);
    const absl::Time middle = clock.Now();
    gpu->Step(parts);
    const std::vector<float> got = gpu->Logits(rows);
    gpu_seconds += absl::ToDoubleSeconds(clock.Now() - middle);
    CompareLogits(want, got, vocab, &check, &sum);
    for (int p = 0; p < count; ++p) next[p] = ArgMax(&want[int64_t{p} * vocab], vocab);
  }
  check.mean_logit = sum / std::max(1.0, static_cast<double>(check.compared) * vocab);
  const double decoded = static_cast<double>(count) * options.greedy_steps;
  if (decoded > 0) check.device_decode_tokens_per_second = decoded / gpu_seconds;

  double of_cpu = 0, of_device = 0;
  if (options.window_nll.empty()) {
    check.nll_expected = PerplexityLoss(*cpu, options.windows, count, &of_cpu);
  } else {  // windows are of equal length
    check.nll_expected = std::accumulate(options.window_nll.begin(), options.window_nll.end(), 0.0) /
                         static_cast<double>(options.window_nll.size());
  }
  check.nll_device = PerplexityLoss(*gpu, options.windows, count, &of_device);
  double tokens = 0;
  for (const std::vector<int32_t>& window : options.windows) tokens += static_cast<double>(window.size());
  if (tokens > 0) check.device_prefill_tokens_per_second = tokens / of_device;
  RETURN_IF_ERROR(gpu->backend().Synchronize());
  return check;
}

std::string FaultOf(const ModelCheck& check) {
  std::string fault;
  const auto add = [&fault](auto&&... text) { absl::StrAppend(&fault, fault.empty() ? "" : "; ", text...); };
  if (!(check.worst_logit <= kLogitTolerance)) {
    add("a logit differs by ", check.worst_logit, ", at most ", kLogitTolerance, " is expected");
  }
  if (check.worst_margin > kMarginTolerance) {
    add("another greedy token where the margin is ", check.worst_margin);
  }
  const double ratio = std::exp(check.nll_device - check.nll_expected);
  if (!(std::abs(ratio - 1) <= kPerplexityTolerance)) add("perplexity is ", ratio, " times what is expected");
  return fault;
}

}  // namespace interlace
