#include "worker/rank.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "common/status_macros.h"
#include "common/thread.h"
#include "kvstore/tier/tiers.h"

namespace interlace {
namespace {

absl::StatusOr<std::vector<std::unique_ptr<KvTier>>> MakeTiers(const Config& config, Transport* transport) {
  const TierOptions options{.host_bytes = config.kv.host_bytes.value,
                            .rocksdb_dir = config.kv.rocksdb_dir,
                            .rocksdb_bytes = config.kv.rocksdb_bytes.value,
                            .remote = config.kv.remote,
                            .transport = transport};
  std::vector<std::unique_ptr<KvTier>> tiers;
  for (absl::string_view name : absl::StrSplit(config.kv.tiers, ',', absl::SkipEmpty())) {
    ASSIGN_OR_RETURN(std::unique_ptr<KvTier> tier, MakeTier(name, options));
    tiers.push_back(std::move(tier));
  }
  return tiers;
}

absl::StatusOr<DType> KvDType(absl::string_view name) {
  for (DType dtype : {DType::kF32, DType::kF16, DType::kBF16, DType::kI8}) {
    if (absl::AsciiStrToLower(TraitsOf(dtype).name) == name) return dtype;
  }
  return absl::InvalidArgumentError(absl::StrCat("kv.dtype='", name, "' is unknown; known: f32, f16, bf16, i8"));
}

}  // namespace

absl::StatusOr<std::unique_ptr<Rank>> Rank::Create(const Config& config, uint64_t incarnation, Clock& clock,
                                                   FaultPoints& faults, Transport* transport,
                                                   absl::FunctionRef<void(int64_t, int64_t)> progress,
                                                   MakeBackend make_backend) {
  std::unique_ptr<Rank> rank(new Rank);
  ASSIGN_OR_RETURN(rank->checkpoint_, Checkpoint::Open(config.model.path));
  const ModelSpec& spec = rank->spec();
  if (config.cluster.stages > spec.layers) {
    return absl::InvalidArgumentError(
        absl::StrCat("cluster.stages=", config.cluster.stages, " exceeds the model's ", spec.layers, " layers"));
  }
  const ShardSpec shard =
      MakeShard(spec.layers, static_cast<int32_t>(config.cluster.stage), static_cast<int32_t>(config.cluster.stages));
  const int threads = config.engine.threads > 0 ? static_cast<int>(config.engine.threads) : AvailableCores();
  const BackendOptions options{.ops = config.engine.ops, .threads = threads};
  absl::StatusOr<std::unique_ptr<Backend>> made =
      make_backend == nullptr ? CreateBackend(config.engine.backend, options) : make_backend(options);
  if (!made.ok()) {
    return absl::Status(made.status().code(),
                        absl::StrCat("engine.backend=", config.engine.backend, ": ", made.status().message()));
  }
  rank->backend_ = *std::move(made);
  Backend& backend = *rank->backend_;

  ASSIGN_OR_RETURN(const DType kv_dtype, KvDType(config.kv.dtype));
  const KvBlockShape shape{static_cast<int32_t>(config.kv.block_tokens), spec.kv_heads, spec.head_dim, kv_dtype};
  ASSIGN_OR_RETURN(rank->arena_, KvArena::Create(backend, config.kv.device_bytes.value, shape.bytes()));
  ASSIGN_OR_RETURN(std::vector<std::unique_ptr<KvTier>> tiers, MakeTiers(config, transport));
  int64_t tier_bytes = 0;
  for (const std::unique_ptr<KvTier>& tier : tiers) {
    tier_bytes += tier->Usage().capacity_bytes;
    rank->info_.tiers.push_back(std::string(tier->name()));
  }
  TransferEngine::Options transfer_options;
  transfer_options.payload_bytes = shape.bytes();
  rank->transfers_ = std::make_unique<TransferEngine>(transfer_options, std::move(tiers), clock, faults);
  if (transport != nullptr) rank->activations_ = std::make_unique<ActivationChannel>(*transport, StageId{shard.stage});

  const int32_t max_tokens = static_cast<int32_t>(config.sched.step_tokens);
  ASSIGN_OR_RETURN(std::unique_ptr<ModelArch> arch,
                   MakeArch({rank->checkpoint_.get(), &spec, shard, &backend, max_tokens, progress}));
  LayerWindow::Options window_options;
  window_options.shard = shard;
  window_options.shape = shape;
  window_options.heads = spec.heads;
  window_options.read_timeout = config.kv.read_timeout;
  for (const LayerSpec& layer : spec.layer) window_options.attention.push_back(layer.attention);
  window_options.seed = {.model_digest = spec.digest,
                         .block_tokens = shape.block_tokens,
                         .kv_heads = shape.kv_heads,
                         .head_dim = shape.head_dim,
                         .dtype = TraitsOf(shape.dtype).name};
  auto window = std::make_unique<LayerWindow>(window_options, backend, *rank->arena_, *rank->transfers_, clock);
  ModelRunner::Options runner_options;
  runner_options.shard = shard;
  runner_options.layers = spec.layers;
  runner_options.width = spec.width;
  runner_options.vocab = spec.vocab;
  runner_options.max_tokens = max_tokens;
  runner_options.max_sequences = static_cast<int32_t>(std::min(config.sched.max_running, config.sched.step_tokens));
  runner_options.activation_timeout = config.cluster.rank_timeout;
  ASSIGN_OR_RETURN(rank->runner_, ModelRunner::Create(runner_options, backend, std::move(arch), std::move(window),
                                                      rank->activations_.get(), clock));

  RankInfo& info = rank->info_;
  info.stage = StageId{shard.stage};
  info.stages = shard.stages;
  info.incarnation = incarnation;
  info.model_digest = spec.digest;
  info.layers = spec.layers;
  info.layer_begin = shard.layer_begin;
  info.layer_end = shard.layer_end;
  info.block_tokens = shape.block_tokens;
  info.arena_slots = rank->arena_->slots();
  info.slot_bytes = shape.bytes();
  info.tier_bytes = tier_bytes;
  if (transport != nullptr) info.transport_address = transport->address();
  return rank;
}

}  // namespace interlace
