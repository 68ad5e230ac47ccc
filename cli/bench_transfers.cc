#include "cli/bench_transfers.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"

namespace interlace {
namespace {

constexpr int32_t kSpareLayers = 4;  // of ring and tails, of all streams
constexpr int32_t kFirstToken = 300;

}  // namespace

double WriteBack::Hidden(double bytes_per_second) const {
  return 1 - absl::ToDoubleSeconds(leaves - stays) * bytes_per_second / static_cast<double>(bytes + read_back);
}

absl::StatusOr<std::unique_ptr<TransferBench>> TransferBench::Create(
    const Options& options, Clock& clock, FaultPoints& faults, absl::FunctionRef<void(int64_t, int64_t)> progress) {
  Options fitted = options;
  Config& config = fitted.config;
  if (options.context % config.kv.block_tokens != 0 || options.prompt % config.kv.block_tokens != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("--context=", options.context, " and --prompt=", options.prompt,
                     " are not whole blocks of kv.block_tokens=", config.kv.block_tokens));
  }
  ASSIGN_OR_RETURN(const std::unique_ptr<Checkpoint> checkpoint, Checkpoint::Open(config.model.path));
  const ModelSpec& spec = checkpoint->spec();
  const KvBlockShape shape{static_cast<int32_t>(config.kv.block_tokens), spec.kv_heads, spec.head_dim};
  const int64_t blocks =
      (int64_t{options.streams} * (options.context + shape.block_tokens) + options.prompt) / shape.block_tokens;
  // In the widest type that a block can have.
  config.kv.device_bytes.value = blocks * (spec.layers + kSpareLayers) * shape.bytes();
  config.kv.host_bytes.value = 2 * blocks * spec.layers * (shape.bytes() + 4096);
  config.sched.step_tokens = std::max({config.sched.step_tokens, config.sched.chunk_tokens, int64_t{options.prompt}});
  config.sched.max_running = std::max(config.sched.max_running, int64_t{options.streams} + 1);
  std::unique_ptr<TransferBench> bench(new TransferBench(fitted, clock));
  ASSIGN_OR_RETURN(bench->rank_, Rank::Create(config, 1, clock, faults, nullptr, progress));
  return bench;
}

TransferBench::Stream TransferBench::Open() { return {RequestId{++requests_}, {}, 0}; }

// The next `count` positions, all blocks that they fill named.
PlanSequence TransferBench::Part(Stream& stream, int32_t count, LayerSet kept) {
  PlanSequence part;
  part.request = stream.request;
  part.start = stream.done;
  const int32_t vocab = rank_->spec().vocab, first = std::min(kFirstToken, vocab / 2);  // control tokens lie before it
  for (int32_t i = 0; i < count; ++i) {
    const int64_t drawn = static_cast<int64_t>(Value(stream.request)) * 31 + part.start + i;
    part.tokens.push_back(first + static_cast<int32_t>(drawn % std::min(997, vocab - first)));
  }
  if (stream.done == 0) {
    part.opening.emplace();
    part.kept = kept;
  }
  SealedNames names{static_cast<int32_t>(stream.blocks.size()), {}};
  stream.done += count;
  while (static_cast<int32_t>(stream.blocks.size()) < stream.done / block_tokens()) {
    names.ids.push_back({1, ++blocks_});
    stream.blocks.push_back(names.ids.back());
  }
  if (!names.ids.empty()) part.names = std::move(names);
  return part;
}

absl::StatusOr<StepResult> TransferBench::Execute(const StepPlan& plan, absl::Duration* time, const StepPlan* next) {
  const absl::Time begin = clock_.Now();
  StepResult result = rank_->runner().Execute(plan, [next] { return next; });
  *time += clock_.Now() - begin;
  RETURN_IF_ERROR(result.status);
  if (!result.lost.empty()) return absl::InternalError(absl::StrCat("a step lost KV: ", result.lost[0].detail));
  return result;
}

absl::StatusOr<TransferBench::Filled> TransferBench::Fill(Stream& stream, int32_t tokens, int32_t chunk,
                                                          LayerSet kept) {
  Filled out;
  const auto next_chunk = [&] {
    StepPlan plan = NewPlan();
    plan.sequences.push_back(Part(stream, std::min(chunk, tokens - stream.done), kept));
    plan.sequences.back().sample = stream.done == tokens;
    return plan;
  };
  std::optional<StepPlan> plan = next_chunk();
  while (plan) {
    std::optional<StepPlan> next;
    if (stream.done < tokens) next = next_chunk();
    ASSIGN_OR_RETURN(const StepResult result, Execute(*plan, &out.time, next ? &*next : nullptr));
    out.stall += absl::Microseconds(result.stall_us);
    for (const LayerTraffic& traffic : result.traffic) out.read_back += traffic.bytes_in;
    plan = std::move(next);
  }
  return out;
}

absl::StatusOr<absl::Duration> TransferBench::Forget(const Stream& stream) {
  StepPlan plan = NewPlan();
  plan.releases.push_back({stream.request, std::nullopt});
  for (const BlockId& block : stream.blocks) {
    for (const MoveKind drop : {MoveKind::kDropDevice, MoveKind::kDropHost}) {
      plan.moves.push_back({block, drop, LayerSet::Range(0, layers())});
    }
  }
  absl::Duration time = absl::ZeroDuration();
  RETURN_IF_ERROR(Execute(plan, &time).status());
  return time;
}

absl::StatusOr<WriteBack> TransferBench::Prefill(int32_t chunk) {
  WriteBack out;
  Stream stays = Open(), leaves = Open();
  ASSIGN_OR_RETURN(const Filled resident, Fill(stays, options_.prompt, chunk, LayerSet::Range(0, layers())));
  RETURN_IF_ERROR(Forget(stays).status());
  ASSIGN_OR_RETURN(const Filled left, Fill(leaves, options_.prompt, chunk, LayerSet()));
  out.stays = resident.time;
  out.leaves = left.time;
  out.stall = left.stall;
  out.read_back = left.read_back;
  out.bytes = static_cast<int64_t>(leaves.blocks.size()) * layers() * rank_->info().slot_bytes;
  ASSIGN_OR_RETURN(out.left, Forget(leaves));
  return out;
}

absl::Status TransferBench::Place(int32_t host) {
  const LayerSet all = LayerSet::Range(0, layers());
  const LayerSet kept = LayerSet::Interleaved(layers() - host, layers());
  const LayerSet out = (all - kept) - on_host_, in = on_host_ - (all - kept);
  StepPlan plan = NewPlan();
  for (const Stream& stream : streams_) {
    plan.changes.push_back({stream.request, kept, std::nullopt});
    for (const BlockId& block : stream.blocks) {
      for (const MoveKind move : {MoveKind::kCopyOut, MoveKind::kDropDevice}) {
        if (!out.empty()) plan.moves.push_back({block, move, out});
      }
      for (const MoveKind move : {MoveKind::kCopyIn, MoveKind::kDropHost}) {
        if (!in.empty()) plan.moves.push_back({block, move, in});
      }
    }
  }
  on_host_ = all - kept;
  absl::Duration time = absl::ZeroDuration();
  RETURN_IF_ERROR(Execute(plan, &time).status());
  rank_->pool().Drain();
  return absl::OkStatus();
}

absl::StatusOr<HostStep> TransferBench::Decode(int32_t host) {
  if (streams_.empty()) {
    const auto chunk = static_cast<int32_t>(options_.config.sched.chunk_tokens);
    for (int32_t i = 0; i < options_.streams; ++i) streams_.push_back(Open());
    for (Stream& stream : streams_) {
      RETURN_IF_ERROR(Fill(stream, options_.context, chunk, LayerSet::Range(0, layers())).status());
    }
  }
  RETURN_IF_ERROR(Place(host));
  HostStep out{.host = host};
  for (Stream& stream : streams_) stream.done = options_.context;  // back to where the blocks with names end
  // As many steps as fill no block. The first one waits for the moves and none follows the last one, which reads no
  // more: neither counts.
  const int32_t last = block_tokens() - 2, steps = last - 1;
  StepPlan plan = NextStep();
  for (int32_t step = 0; step < last; ++step) {
    const StepPlan next = NextStep();
    absl::Duration time = absl::ZeroDuration();
    ASSIGN_OR_RETURN(const StepResult result, Execute(plan, &time, &next));
    plan = next;
    if (step == 0) continue;
    out.step += time / steps;
    out.stall += absl::Microseconds(result.stall_us) / steps;
    out.pager += rank_->runner().pager().own_time() / steps;
    for (const LayerTraffic& traffic : result.traffic) out.bytes_in += traffic.bytes_in;
  }
  out.bytes_in /= steps;
  absl::Duration time = absl::ZeroDuration();
  RETURN_IF_ERROR(Execute(plan, &time).status());
  return out;
}

StepPlan TransferBench::NextStep() {
  StepPlan plan = NewPlan();
  for (Stream& stream : streams_) {
    plan.sequences.push_back(Part(stream, 1, LayerSet()));
    plan.sequences.back().sample = true;
  }
  return plan;
}

double TransferBench::HiddenLayers(absl::Duration step) const {
  const double layer_bytes = static_cast<double>(streams_.size()) * (options_.context / block_tokens()) *
                             static_cast<double>(rank_->info().slot_bytes);
  return absl::ToDoubleSeconds(step) * static_cast<double>(options_.config.kv.link_bytes.value) / layer_bytes;
}

}  // namespace interlace
