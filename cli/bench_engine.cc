#include "cli/bench_engine.h"

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "model/checkpoint.h"

namespace interlace {
namespace {

constexpr uint64_t kFedIds = uint64_t{1} << 32;  // of sequences that Feed names

// Varied tokens, the same in every run, none of the first ids, where control tokens are.
int32_t TokenOf(uint64_t sequence, int32_t position, int32_t vocab) {
  const uint64_t mixed = (sequence * 1000003 + static_cast<uint64_t>(position)) * 0x9e3779b97f4a7c15ull;
  const int32_t first = std::min(vocab / 2, 1000);
  return first + static_cast<int32_t>((mixed >> 33) % static_cast<uint64_t>(vocab - first));
}

// Of one token: of a layer's experts those that run.
ModelWork WorkOf(const Checkpoint& checkpoint) {
  const ModelSpec& spec = checkpoint.spec();
  ModelWork work;
  for (const auto& [name, tensor] : checkpoint.tensors()) {
    work.file_bytes += tensor.bytes();
    const bool head = name == (spec.tied_head ? "token_embd.weight" : "output.weight");
    const bool in_layer = absl::StartsWith(name, "blk.");
    if (!head && !in_layer) continue;
    const bool expert = std::count(name.begin(), name.end(), '.') == 4;  // blk.7.ffn_gate.3.weight
    const double share = expert ? static_cast<double>(spec.experts.top_k) / spec.experts.count : 1;
    (head ? work.head_bytes : work.layer_bytes) += share * static_cast<double>(tensor.bytes());
    if (tensor.rows == 1) continue;  // norms
    const bool is_float = tensor.dtype.has_value() && TraitsOf(*tensor.dtype).block_elements == 1;
    double& ops =
        head ? (is_float ? work.head_float : work.head_int8) : (is_float ? work.layer_float : work.layer_int8);
    ops += 2 * share * static_cast<double>(tensor.rows) * static_cast<double>(tensor.cols);
  }
  work.attention = 4.0 * spec.heads * spec.head_dim;
  for (const LayerSpec& layer : spec.layer) work.windows.push_back(layer.attention.window);
  return work;
}

}  // namespace

absl::StatusOr<std::unique_ptr<BenchEngine>> BenchEngine::Create(const Options& options, Clock& clock,
                                                                 FaultPoints& faults,
                                                                 absl::FunctionRef<void(int64_t, int64_t)> progress) {
  Options fitted = options;
  Config& config = fitted.config;
  ASSIGN_OR_RETURN(const std::unique_ptr<Checkpoint> checkpoint, Checkpoint::Open(config.model.path));
  const ModelSpec& spec = checkpoint->spec();
  // Slots for every block of every layer, in the widest type that a block can have.
  const KvBlockShape shape{static_cast<int32_t>(config.kv.block_tokens), spec.kv_heads, spec.head_dim};
  const int64_t blocks = options.kv_tokens / shape.block_tokens + 2 * int64_t{options.sequences};
  config.kv.device_bytes.value = blocks * spec.layers * shape.bytes();
  config.sched.step_tokens =
      std::max({config.sched.step_tokens, config.sched.chunk_tokens, int64_t{options.sequences}});
  config.sched.max_running = std::max(config.sched.max_running, int64_t{options.sequences});
  std::unique_ptr<BenchEngine> engine(new BenchEngine(fitted, clock));
  ASSIGN_OR_RETURN(engine->rank_, Rank::Create(config, 1, clock, faults, nullptr, progress, &TappedBackend::Make));
  engine->work_ = WorkOf(*checkpoint);
  engine->work_.kv_bytes = static_cast<double>(engine->rank_->info().slot_bytes) / engine->rank_->info().block_tokens;
  return engine;
}

PlanSequence BenchEngine::Part(const Sequence& sequence, int32_t count, bool sample) {
  PlanSequence part;
  part.request = RequestId{sequence.id};
  part.start = sequence.done;
  for (int32_t i = 0; i < count; ++i) part.tokens.push_back(TokenOf(sequence.id, sequence.done + i, spec().vocab));
  part.sample = sample;
  if (known_.insert(part.request).second) {
    part.opening.emplace();
    part.kept = LayerSet::Range(0, spec().layers);
  }
  return part;
}

absl::StatusOr<StepResult> BenchEngine::Execute(std::vector<PlanSequence> sequences, absl::Duration* time) {
  StepPlan plan;
  plan.epoch = Epoch{1};
  plan.id = PlanId{++plans_};
  plan.sequences = std::move(sequences);
  plan.releases = std::exchange(releases_, {});
  const absl::Time begin = clock_.Now();
  StepResult result = rank_->runner().Execute(plan);
  const absl::Duration took = clock_.Now() - begin;
  *time += took;
  step_times_.push_back(took);
  RETURN_IF_ERROR(result.status);
  if (!result.lost.empty()) {
    return absl::InternalError(absl::StrCat("a step lost KV although all layers are kept: ", result.lost[0].detail));
  }
  return result;
}

absl::StatusOr<absl::Duration> BenchEngine::Fill(std::vector<Sequence>& sequences, int32_t tokens, bool sample) {
  absl::Duration time = absl::ZeroDuration();
  const auto chunk = static_cast<int32_t>(options_.config.sched.chunk_tokens);
  while (true) {
    auto room = static_cast<int32_t>(options_.config.sched.step_tokens);
    std::vector<PlanSequence> parts;
    for (Sequence& sequence : sequences) {
      const int32_t count = std::min({tokens - sequence.done, chunk, room});
      if (count <= 0) continue;
      parts.push_back(Part(sequence, count, sample && sequence.done + count == tokens));
      sequence.done += count;
      room -= count;
    }
    if (parts.empty()) return time;
    RETURN_IF_ERROR(Execute(std::move(parts), &time).status());
  }
}

absl::StatusOr<absl::Duration> BenchEngine::Prefill(int32_t batch, int32_t tokens) {
  std::vector<Sequence> sequences(batch);
  for (int32_t i = 0; i < batch; ++i) sequences[i].id = (uint64_t{1} << 31) + static_cast<uint64_t>(i);
  step_times_.clear();
  absl::StatusOr<absl::Duration> time = Fill(sequences, tokens, /*sample=*/true);
  for (const Sequence& sequence : sequences) {
    releases_.push_back({RequestId{sequence.id}, std::nullopt});
    known_.erase(RequestId{sequence.id});
  }
  if (!time.ok()) return time;
  absl::Duration released = absl::ZeroDuration();
  std::vector<absl::Duration> steps = step_times_;
  RETURN_IF_ERROR(Execute({}, &released).status());
  step_times_ = std::move(steps);
  return time;
}

absl::StatusOr<absl::Duration> BenchEngine::Decode(int32_t batch, int32_t context, int32_t steps) {
  const std::pair<int32_t, int32_t> key{batch, context};
  auto found = std::find_if(filled_.begin(), filled_.end(), [&](const auto& entry) { return entry.first == key; });
  if (found == filled_.end()) {
    std::vector<Sequence> sequences(batch);
    for (Sequence& sequence : sequences) sequence.id = ++sequences_;
    found = filled_.insert(filled_.end(), {key, std::move(sequences)});
  }
  // Back from where the last round ended, then up to the context: no block has a name, so any position may be cut.
  for (Sequence& sequence : found->second) sequence.done = std::min(sequence.done, context);
  RETURN_IF_ERROR(Fill(found->second, context, /*sample=*/false).status());
  absl::Duration time = absl::ZeroDuration();
  step_times_.clear();
  for (int32_t step = 0; step < steps; ++step) {
    std::vector<PlanSequence> parts;
    for (Sequence& sequence : found->second) {
      parts.push_back(Part(sequence, 1, true));
      ++sequence.done;
    }
    RETURN_IF_ERROR(Execute(std::move(parts), &time).status());
  }
  return time;
}

absl::StatusOr<std::vector<SampledToken>> BenchEngine::Feed(const std::vector<std::vector<int32_t>>& parts,
                                                            const std::vector<int32_t>& starts, bool sample) {
  std::vector<PlanSequence> planned;
  for (size_t i = 0; i < parts.size(); ++i) {
    if (parts[i].empty()) continue;
    PlanSequence part = Part({kFedIds + i, starts[i]}, 0, sample);
    part.tokens.assign(parts[i].begin(), parts[i].end());
    planned.push_back(std::move(part));
  }
  absl::Duration time = absl::ZeroDuration();
  step_times_.clear();
  ASSIGN_OR_RETURN(StepResult result, Execute(std::move(planned), &time));
  return std::move(result.sampled);
}

double BenchEngine::SeenBy(double positions) const {
  double seen = 0;
  for (const int32_t window : work_.windows) seen += window > 0 ? std::min<double>(positions, window) : positions;
  return seen;
}

double BenchEngine::SeenByPrompt(int32_t tokens) const {
  double seen = 0;
  for (int32_t t = 1; t <= tokens; ++t) seen += SeenBy(t);
  return seen;
}

double BenchEngine::ReadByChunks(int32_t tokens) const {
  const auto chunk = static_cast<int32_t>(std::min<int64_t>(options_.config.sched.chunk_tokens, tokens));
  double read = 0;
  for (int32_t begin = 0; begin < tokens; begin += chunk) {
    const int32_t end = std::min(begin + chunk, tokens);
    for (const int32_t window : work_.windows) read += window > 0 ? std::min(end, window + end - begin) : end;
  }
  return read;
}

Work BenchEngine::PrefillWork(int32_t batch, int32_t tokens) const {
  const double all = static_cast<double>(batch) * tokens;
  Work work;
  work.tokens = all;
  work.steps = static_cast<int>(step_times_.size());
  // At least: weights once for as many tokens as a step may have, each sequence's KV once for each of its chunks.
  const double steps = std::max(1.0, all / static_cast<double>(options_.config.sched.step_tokens));
  work.bytes = steps * work_.layer_bytes + work_.head_bytes + work_.kv_bytes * batch * ReadByChunks(tokens);
  work.int8_ops = all * work_.layer_int8 + batch * work_.head_int8;
  work.float_ops = all * work_.layer_float + batch * work_.head_float + work_.attention * batch * SeenByPrompt(tokens);
  return work;
}

Work BenchEngine::DecodeWork(int32_t batch, int32_t context, int32_t steps) const {
  const double all = static_cast<double>(batch) * steps;
  const double seen = SeenBy(context + (steps + 1) / 2.0);  // on average
  Work work;
  work.tokens = all;
  work.steps = steps;
  work.bytes = steps * (work_.layer_bytes + work_.head_bytes) + all * seen * work_.kv_bytes;
  work.int8_ops = all * (work_.layer_int8 + work_.head_int8);
  work.float_ops = all * (work_.layer_float + work_.head_float + work_.attention * seen);
  return work;
}

}  // namespace interlace
