#include "worker/rank.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/algorithm/container.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "common/cluster_security.h"
#include "common/entropy.h"
#include "common/status_macros.h"
#include "common/thread.h"
#include "kvstore/tier/tiers.h"
#include "model/weights.h"
#include "transport/shared_collective.h"

namespace interlace {
namespace {

absl::StatusOr<std::vector<std::unique_ptr<KvTier>>> MakeTiers(const Config& config, Clock& clock,
                                                               Transport* transport) {
  if (absl::c_linear_search(std::vector<absl::string_view>(absl::StrSplit(config.kv.tiers, ',')), "host")) {
    return absl::InvalidArgumentError(
        absl::StrCat("kv.tiers='", config.kv.tiers,
                     "' names host, which is no tier: kv.host_bytes says how much host memory holds KV, and kv.tiers "
                     "lists what lies below it (rocksdb, remote)"));
  }
  TierOptions options;
  options.rocksdb_dir = config.kv.rocksdb_dir;
  options.rocksdb_bytes = config.kv.rocksdb_bytes.value;
  options.remote = config.kv.remote;
  options.transport = transport;
  options.clock = &clock;
  options.answer_within = config.kv.read_timeout;
  ASSIGN_OR_RETURN(const std::vector<std::string> names, ParseTierNames(config.kv.tiers));
  if (absl::c_linear_search(names, "remote")) {
    ASSIGN_OR_RETURN(options.security, ClusterSecurity::Make(config));
  }
  std::vector<std::unique_ptr<KvTier>> tiers;
  for (const std::string& name : names) {
    ASSIGN_OR_RETURN(std::unique_ptr<KvTier> tier, MakeTier(name, options));
    tiers.push_back(std::move(tier));
  }
  return tiers;
}

}  // namespace

absl::StatusOr<DType> ParseKvDType(absl::string_view name) {
  for (DType dtype : {DType::kF32, DType::kF16, DType::kBF16, DType::kI8}) {
    if (absl::AsciiStrToLower(TraitsOf(dtype).name) == name) return dtype;
  }
  return absl::InvalidArgumentError(absl::StrCat("kv.dtype='", name, "' is unknown; known: f32, f16, bf16, i8"));
}

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
  ASSIGN_OR_RETURN(const DType kv_dtype, ParseKvDType(config.kv.dtype));
  const auto tensor_rank = static_cast<int32_t>(config.cluster.tensor_rank);
  const auto tensor_ranks = static_cast<int32_t>(config.cluster.tensor_ranks);
  const auto sequence_rank = static_cast<int32_t>(config.cluster.sequence_rank);
  const auto sequence_ranks = static_cast<int32_t>(config.cluster.sequence_ranks);
  ASSIGN_OR_RETURN(const TensorSplit split, SplitTensors(spec, tensor_rank, tensor_ranks));
  const KvBlockShape shape{static_cast<int32_t>(config.kv.block_tokens), static_cast<int32_t>(split.kv_heads.size()),
                           spec.head_dim, kv_dtype};
  ShardSpec shard = MakeShard(CostOfStep(*rank->checkpoint_, shape.bytes() / shape.block_tokens),
                              static_cast<int32_t>(config.cluster.stage), static_cast<int32_t>(config.cluster.stages));
  shard.tensor_rank = tensor_rank;
  shard.tensor_ranks = tensor_ranks;
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

  ASSIGN_OR_RETURN(rank->arena_, KvArena::Create(backend, config.kv.device_bytes.value, shape.bytes()));
  ASSIGN_OR_RETURN(rank->frames_, FrameStore::Create(backend, config.kv.host_bytes.value, shape.bytes()));
  ASSIGN_OR_RETURN(std::vector<std::unique_ptr<KvTier>> tiers, MakeTiers(config, clock, transport));
  const HeadRange heads{static_cast<int16_t>(split.kv_heads.begin), static_cast<int16_t>(split.kv_heads.end)};
  TierStack::Options tier_options;
  tier_options.payload_bytes = shape.bytes();
  tier_options.layer_begin = shard.layer_begin;
  tier_options.layer_end = shard.layer_end;
  tier_options.heads = heads;
  auto stack = std::make_unique<TierStack>(tier_options, std::move(tiers), clock, faults);
  rank->info_.tiers = stack->names();
  KvPool::Options pool_options;
  pool_options.layer_begin = shard.layer_begin;
  pool_options.layer_end = shard.layer_end;
  pool_options.heads = heads;
  pool_options.payload_bytes = shape.bytes();
  pool_options.link_bytes_per_second = config.kv.link_bytes.value;
  pool_options.fetch_timeout = config.kv.read_timeout;
  ASSIGN_OR_RETURN(rank->pool_, KvPool::Create(pool_options, backend, *rank->arena_, *rank->frames_, std::move(stack),
                                               clock, faults));
  if (transport != nullptr) {
    rank->activations_ = std::make_unique<ActivationChannel>(*transport, StageId{shard.stage}, shard.stages);
  }

  const auto max_tokens = static_cast<int32_t>(config.sched.step_tokens);
  const auto max_samples = static_cast<int32_t>(std::min(config.sched.max_running, config.sched.step_tokens));
  if (tensor_ranks > 1) {
    // The largest part of the vocabulary is that of the first rank.
    ASSIGN_OR_RETURN(const TensorSplit largest, SplitTensors(spec, 0, tensor_ranks));
    const StageGroup::Options group_options{max_tokens, spec.width, shard.last() ? max_samples : 0,
                                            largest.vocab.size(), config.cluster.rank_timeout};
    RETURN_IF_ERROR(rank->MakeGroup("cluster.tensor_ranks", tensor_rank, tensor_ranks, group_options, clock));
  }
  const int64_t kv_width = split.kv_heads.size() * spec.head_dim;
  if (sequence_ranks > 1) {
    const StageGroup::Options group_options{max_tokens, RowShare::GroupWidth(spec.width, kv_width), 0, 0,
                                            config.cluster.rank_timeout};
    RETURN_IF_ERROR(rank->MakeGroup("cluster.sequence_ranks", sequence_rank, sequence_ranks, group_options, clock));
  }
  RETURN_IF_ERROR(rank->LoadAdapters(config, shard));
  ASSIGN_OR_RETURN(std::unique_ptr<ModelArch> arch,
                   MakeArch({rank->checkpoint_.get(), &spec, shard, &backend, max_tokens,
                             tensor_ranks > 1 ? rank->group_.get() : nullptr, rank->adapters_.get(), progress}));
  if (!config.engine.draft_model.empty()) {
    ASSIGN_OR_RETURN(rank->draft_model_,
                     DraftModel::Load(config, *rank->checkpoint_, kv_dtype, max_samples, backend, progress));
  }
  LayerPager::Options pager_options;
  pager_options.shard = shard;
  pager_options.shape = shape;
  pager_options.heads = static_cast<int32_t>(split.heads.size());
  for (const LayerSpec& layer : spec.layer) pager_options.attention.push_back(layer.attention);
  pager_options.adapters = rank->adapters_.get();
  auto pager = std::make_unique<LayerPager>(pager_options, backend, *rank->pool_, clock);
  ModelRunner::Options runner_options;
  runner_options.shard = shard;
  runner_options.stage_rank = tensor_rank + sequence_rank;
  runner_options.width = spec.width;
  runner_options.kv_width = static_cast<int32_t>(kv_width);
  runner_options.limits.vocab = spec.vocab;
  runner_options.limits.layers = spec.layers;
  runner_options.limits.max_tokens = max_tokens;
  runner_options.limits.max_samples = max_samples;
  runner_options.limits.sequence_ranks = sequence_ranks;
  // Which guesses a rank makes depends on what is on its device just then: several that hold all would not agree.
  runner_options.limits.whole_model = shard.stages == 1 && tensor_ranks == 1 && sequence_ranks == 1;
  runner_options.limits.draft_model = rank->draft_model_ != nullptr;
  runner_options.limits.adapters = rank->adapters_.get();
  runner_options.activation_timeout = config.cluster.rank_timeout;
  runner_options.vocabulary = [path = config.model.path] { return ReadVocabulary(path); };
  runner_options.draft_model = rank->draft_model_.get();
  ASSIGN_OR_RETURN(rank->runner_, ModelRunner::Create(runner_options, backend, std::move(arch), std::move(pager),
                                                      rank->activations_.get(), rank->group_.get(), clock));

  RankInfo& info = rank->info_;
  info.replica = static_cast<int32_t>(config.cluster.replica);
  info.stage = StageId{shard.stage};
  info.stages = shard.stages;
  info.tensor_rank = tensor_rank;
  info.tensor_ranks = tensor_ranks;
  info.sequence_rank = sequence_rank;
  info.sequence_ranks = sequence_ranks;
  if (rank->collective_ != nullptr) info.collective_address = rank->collective_->address();
  info.incarnation = incarnation;
  info.model_digest = spec.digest;
  info.adapters = rank->adapters_->digests();
  info.numerics = absl::StrCat(backend.name(), "/", backend.ops().name);
  if (tensor_ranks > 1) absl::StrAppend(&info.numerics, "/tp", tensor_ranks);  // sums of parts have bits of their own
  info.threads = backend.threads();
  if (rank->draft_model_ != nullptr) {
    info.draft_model = rank->draft_model_->spec().digest;
    info.draft_share = rank->draft_model_->share;
  }
  info.dtype = std::string(TraitsOf(shape.dtype).name);
  info.layers = spec.layers;
  info.layer_begin = shard.layer_begin;
  info.layer_end = shard.layer_end;
  for (const LayerSpec& layer : spec.layer) info.windows.push_back(layer.attention.window);
  info.vocab = spec.vocab;
  info.kv_heads = spec.kv_heads;
  info.head_dim = spec.head_dim;
  info.heads = heads;
  info.block_tokens = shape.block_tokens;
  info.device_slots = rank->arena_->slots();
  info.host_frames = rank->frames_->frames();
  info.slot_bytes = shape.bytes();
  info.step_tokens = max_tokens;
  if (transport != nullptr) info.transport_address = transport->address();
  return rank;
}

absl::Status Rank::LoadAdapters(const Config& config, const ShardSpec& shard) {
  const auto& model = config.model;
  ASSIGN_OR_RETURN(const std::vector<AdapterPlace> places, ParseAdapterPlaces(model.adapters));
  const LoraRoom room{model.runtime_adapters ? model.max_adapter_rank : 0};
  ASSIGN_OR_RETURN(adapters_, LoraSet::Load(places, spec(), shard, *backend_, room));
  if (adapters_->bytes() > model.adapter_bytes.value) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "model.adapters take ", adapters_->bytes(),
        " bytes on this rank, more than model.adapter_bytes=", model.adapter_bytes.value, "; raise it, or list fewer"));
  }
  adapter_loader_ =
      std::make_unique<AdapterLoader>(AdapterLoader::Options{.folder = model.runtime_adapters ? model.adapter_dir : "",
                                                             .most_rank = model.max_adapter_rank,
                                                             .most_bytes = model.adapter_bytes.value},
                                      spec(), shard, *backend_, *adapters_);
  return absl::OkStatus();
}

absl::Status Rank::MakeGroup(absl::string_view setting, int32_t rank, int32_t ranks, const StageGroup::Options& options,
                             Clock& clock) {
  if (backend_->name() == "cuda") {
    return absl::UnimplementedError(absl::StrCat(setting, "=", ranks, ": ranks of engine.backend=", backend_->name(),
                                                 " cannot share a stage yet; set ", setting, "=1"));
  }
  const std::unique_ptr<Entropy> entropy = MakeOsEntropy();
  ASSIGN_OR_RETURN(collective_,
                   MakeSharedCollective({.rank = rank, .ranks = ranks, .max_bytes = StageGroup::MaxBytes(options)},
                                        *entropy, clock));
  group_ = std::make_unique<StageGroup>(options, *collective_, *backend_);
  return absl::OkStatus();
}

absl::Status Rank::Connect(absl::string_view next_stage_address, absl::string_view first_stage_address,
                           absl::Span<const std::string> collective_addresses, Epoch epoch) {
  if (activations_ != nullptr) RETURN_IF_ERROR(activations_->Connect(next_stage_address, first_stage_address, epoch));
  return collective_ == nullptr ? absl::OkStatus() : collective_->Connect(collective_addresses, epoch);
}

void Rank::Interrupt(Epoch epoch) {
  if (activations_ != nullptr) activations_->Interrupt(epoch);
  if (collective_ != nullptr) collective_->Interrupt(epoch);
}

void Rank::Interrupt() {
  if (activations_ != nullptr) activations_->Interrupt();
  if (collective_ != nullptr) collective_->Interrupt();
}

void Rank::Resume() {
  if (activations_ != nullptr) activations_->Resume();
  if (collective_ != nullptr) collective_->Resume();
}

}  // namespace interlace
