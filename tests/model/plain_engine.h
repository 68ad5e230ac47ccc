// PlainEngine: the layer loop without a scheduler, residency or processes: what the model's own tests run on.
#pragma once

#include <algorithm>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "common/check.h"
#include "common/status_macros.h"
#include "kernels/backend.h"
#include "model/model_arch.h"
#include "model/weights.h"

namespace interlace {

// Rows of one sequence in a step, at consecutive positions.
struct PlainRows {
  int sequence;
  int32_t start;
  std::vector<int32_t> tokens;
};

// All blocks of all sequences and layers, nothing ever leaves. Slots never written are NaN.
class PlainKv final : public LayerKv {
 public:
  PlainKv(Backend& backend, const ModelSpec& spec, int32_t block_tokens)
      : backend_(backend), spec_(spec), shape_{block_tokens, spec.kv_heads, spec.head_dim} {}

  void Begin(const std::vector<PlainRows>* step) { step_ = step; }

  void Attend(LayerId layer, const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& out) override {
    int64_t row = 0;
    const AttentionSpec& attention = spec_.layer[Value(layer)].attention;
    for (const PlainRows& rows : *step_) {
      const auto count = static_cast<int64_t>(rows.tokens.size());
      std::vector<std::byte*>& blocks = blocks_[{rows.sequence, Value(layer)}];
      while (static_cast<int64_t>(blocks.size()) * shape_.block_tokens < rows.start + count) blocks.push_back(Block());
      const SequenceRows sequence{row, count, rows.start, blocks};
      backend_.ops().kv_append({shape_, k, v, {&sequence, 1}}, backend_.context());
      row += count;
      if (q.rows == 0) continue;  // they pass the attention over
      backend_.ops().paged_attention({.out = out,
                                      .q = q,
                                      .shape = shape_,
                                      .sequences = {&sequence, 1},
                                      .heads = spec_.heads,
                                      .scale = attention.scale,
                                      .window = attention.window,
                                      .soft_cap = attention.soft_cap},
                                     backend_.context());
    }
    CHECK(row == k.rows);
  }
  const KvBlockShape& shape() const { return shape_; }
  // The blocks of a sequence and layer, in order; a test may put others in their places.
  std::vector<std::byte*>& Blocks(int sequence, int32_t layer) { return blocks_[{sequence, layer}]; }

 private:
  std::byte* Block() {
    constexpr int64_t kSlab = 128;  // blocks
    if (free_ == 0) {
      slabs_.push_back(*backend_.Allocate(kSlab * shape_.bytes()));
      auto* floats = reinterpret_cast<float*>(slabs_.back()->data());
      std::fill_n(floats, slabs_.back()->bytes() / int64_t{sizeof(float)}, std::numeric_limits<float>::quiet_NaN());
      free_ = kSlab;
    }
    return slabs_.back()->data() + --free_ * shape_.bytes();
  }

  Backend& backend_;
  const ModelSpec& spec_;
  const KvBlockShape shape_;
  const std::vector<PlainRows>* step_ = nullptr;
  std::map<std::pair<int, int32_t>, std::vector<std::byte*>> blocks_;  // by (sequence, layer)
  std::vector<std::unique_ptr<DeviceBuffer>> slabs_;
  int64_t free_ = 0;
};

struct PlainOptions {
  absl::string_view backend = "cpu";
  absl::string_view ops = "auto";
  int threads = 1;
  int32_t stages = 1;
  int32_t max_tokens = 512;
  int32_t block_tokens = 16;
  MakeBackend make_backend = nullptr;  // null: `backend` of the table
  std::vector<AdapterPlace> adapters = {};
  std::map<int, std::string> adapter_of = {};  // by sequence: the folder of one of them; the others have none
};

// One model on one backend, cut into stages that hand hidden states over. Thread: the test's.
class PlainEngine {
 public:
  static absl::StatusOr<std::unique_ptr<PlainEngine>> Make(const GgufFile& file, const PlainOptions& options) {
    ASSIGN_OR_RETURN(std::unique_ptr<Checkpoint> checkpoint, Checkpoint::Of(file));
    ASSIGN_OR_RETURN(std::unique_ptr<PlainEngine> engine, Make(*checkpoint, options));
    engine->owned_ = std::move(checkpoint);
    return engine;
  }
  // `checkpoint` outlives the engine.
  static absl::StatusOr<std::unique_ptr<PlainEngine>> Make(const Checkpoint& checkpoint, const PlainOptions& options) {
    const BackendOptions wanted{options.ops, options.threads};
    ASSIGN_OR_RETURN(std::unique_ptr<Backend> backend, options.make_backend == nullptr
                                                           ? CreateBackend(options.backend, wanted)
                                                           : options.make_backend(wanted));
    return Make(checkpoint, options, std::move(backend));
  }
  static absl::StatusOr<std::unique_ptr<PlainEngine>> Make(const Checkpoint& checkpoint, const PlainOptions& options,
                                                           std::unique_ptr<Backend> backend) {
    ModelSpec spec = checkpoint.spec();
    auto engine = std::unique_ptr<PlainEngine>(new PlainEngine(std::move(spec), std::move(backend), options));
    for (int32_t s = 0; s < options.stages; ++s) {
      engine->shards_.push_back(MakeShard(CostOfStep(checkpoint, 0), s, options.stages));
      ASSIGN_OR_RETURN(std::unique_ptr<LoraSet> adapters,
                       LoraSet::Load(options.adapters, engine->spec_, engine->shards_.back(), *engine->backend_));
      engine->adapters_.push_back(std::move(adapters));
      ASSIGN_OR_RETURN(std::unique_ptr<ModelArch> stage, MakeArch({.checkpoint = &checkpoint,
                                                                   .spec = &engine->spec_,
                                                                   .shard = engine->shards_.back(),
                                                                   .backend = engine->backend_.get(),
                                                                   .max_tokens = options.max_tokens,
                                                                   .adapters = engine->adapters_.back().get(),
                                                                   .progress = [](int64_t, int64_t) {}}));
      engine->stages_.push_back(std::move(stage));
    }
    for (const auto& [sequence, folder] : options.adapter_of) {
      ASSIGN_OR_RETURN(const std::unique_ptr<PeftAdapter> file, PeftAdapter::Open(folder));
      engine->adapter_of_[sequence] = file->digest();
    }
    return engine;
  }

  const ModelSpec& spec() const { return spec_; }
  Backend& backend() { return *backend_; }
  PlainKv& kv() { return kv_; }
  int32_t length(int sequence) const {
    const auto it = lengths_.find(sequence);
    return it == lengths_.end() ? 0 : it->second;
  }

  // Whether a sublayer of a layer, attention or feed-forward, is passed over.
  using Skips = std::function<bool(LayerId layer, bool attention)>;
  // Appends tokens to sequences, in this order of rows, which pass over what `skips` says; null: nothing. Hidden states
  // are then those after the last layer.
  void Step(std::vector<std::pair<int, std::vector<int32_t>>> parts, const Skips& skips = nullptr) {
    std::vector<PlainRows> step;
    std::vector<int32_t> tokens, positions;
    std::vector<std::string> adapters;  // of each row: a digest, or empty
    for (auto& [sequence, added] : parts) {
      const auto adapter = adapter_of_.find(sequence);
      adapters.resize(adapters.size() + added.size(), adapter == adapter_of_.end() ? "" : adapter->second);
      for (size_t i = 0; i < added.size(); ++i) {
        positions.push_back(length(sequence) + static_cast<int32_t>(i));
        tokens.push_back(added[i]);
      }
      const auto count = static_cast<int32_t>(added.size());
      step.push_back({sequence, length(sequence), std::move(added)});
      lengths_[sequence] += count;
    }
    const auto rows = static_cast<int64_t>(tokens.size());
    kv_.Begin(&step);
    for (size_t s = 0; s < stages_.size(); ++s) {
      std::vector<const LoraAdapter*> rows_adapters;
      for (const std::string& digest : adapters) rows_adapters.push_back(adapters_[s]->Find(digest));
      const StepInput in{tokens, positions, rows_adapters};
      std::vector<float> received(rows * spec_.width, std::numeric_limits<float>::quiet_NaN());
      if (s > 0) received = hidden();
      auto memory = std::move(backend_->Allocate(rows * spec_.width * int64_t{sizeof(float)})).value();
      const Tensor x{memory->data(), DType::kF32, rows, spec_.width};
      std::copy(received.begin(), received.end(), x.f32());
      if (s == 0) stages_[0]->Embed(in, x);
      for (int32_t l = shards_[s].layer_begin; l < shards_[s].layer_end; ++l) {
        if (skips && skips(LayerId{l}, true)) {
          stages_[s]->KeysAndValues(LayerId{l}, in, kv_, x);
        } else {
          stages_[s]->Attention(LayerId{l}, in, kv_, x);
        }
        if (!skips || !skips(LayerId{l}, false)) stages_[s]->FeedForward(LayerId{l}, in, x);
      }
      hidden_ = std::move(memory);
      hidden_rows_ = rows;
    }
  }
  // [rows of the step, width]
  std::vector<float> hidden() {
    CHECK(backend_->Synchronize().ok());
    const auto* first = reinterpret_cast<const float*>(hidden_->data());
    return {first, first + hidden_rows_ * spec_.width};
  }
  // [rows.size(), vocab], of rows of the last step.
  std::vector<float> Logits(const std::vector<int32_t>& rows) {
    const int64_t count = static_cast<int64_t>(rows.size()) * spec_.vocab;
    auto memory = std::move(backend_->Allocate(count * int64_t{sizeof(float)})).value();
    stages_.back()->Logits({hidden_->data(), DType::kF32, hidden_rows_, spec_.width}, rows,
                           {memory->data(), DType::kF32, static_cast<int64_t>(rows.size()), spec_.vocab});
    const absl::Status done = backend_->Synchronize();
    CHECK_MSG(done.ok(), done.ToString().c_str());
    const auto* first = reinterpret_cast<const float*>(memory->data());
    return {first, first + count};
  }

 private:
  PlainEngine(ModelSpec spec, std::unique_ptr<Backend> backend, const PlainOptions& options)
      : spec_(std::move(spec)), backend_(std::move(backend)), kv_(*backend_, spec_, options.block_tokens) {}

  std::unique_ptr<Checkpoint> owned_;
  const ModelSpec spec_;
  const std::unique_ptr<Backend> backend_;
  PlainKv kv_;
  std::vector<ShardSpec> shards_;
  std::vector<std::unique_ptr<LoraSet>> adapters_;  // by stage
  std::vector<std::unique_ptr<ModelArch>> stages_;
  std::map<int, std::string> adapter_of_;  // digests, by sequence
  std::map<int, int32_t> lengths_;
  std::unique_ptr<DeviceBuffer> hidden_;
  int64_t hidden_rows_ = 0;
};

// The first of the largest values.
inline int32_t ArgMax(const float* logits, int32_t vocab) {
  return static_cast<int32_t>(std::max_element(logits, logits + vocab) - logits);
}

}  // namespace interlace
