#include "worker/model_drafter.h"

#include <algorithm>
#include <utility>

#include "absl/algorithm/container.h"

namespace interlace {
namespace {

int32_t Common(absl::Span<const int32_t> a, absl::Span<const int32_t> b) {
  return static_cast<int32_t>(std::mismatch(a.begin(), a.end(), b.begin(), b.end()).first - a.begin());
}

}  // namespace

// The draft model's KV to one pass: `rows` say which are whose, and get the blocks of the layer at hand.
class ModelDrafter::Kv final : public LayerKv {
 public:
  Kv(const DraftModel& model, Backend& backend) : model_(model), backend_(backend) {}
  void Add(const Known& known, int64_t row, int64_t rows, int32_t start) {
    rows_.push_back({row, rows, start, {}});
    known_.push_back(&known);
  }
  void Attend(LayerId layer, const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& out) override {
    for (size_t i = 0; i < rows_.size(); ++i) {
      SequenceRows& rows = rows_[i];
      const auto end = rows.start + static_cast<int32_t>(rows.rows);
      const auto blocks = static_cast<size_t>((end + model_.shape.block_tokens - 1) / model_.shape.block_tokens);
      rows.blocks = absl::MakeConstSpan(known_[i]->blocks[Value(layer)]).first(blocks);
    }
    const AttentionSpec& attention = model_.attention[Value(layer)];
    backend_.ops().kv_append({model_.shape, k, v, rows_}, backend_.context());
    backend_.ops().paged_attention({.out = out,
                                    .q = q,
                                    .shape = model_.shape,
                                    .sequences = rows_,
                                    .heads = model_.spec().heads,
                                    .scale = attention.scale,
                                    .window = attention.window,
                                    .soft_cap = attention.soft_cap},
                                   backend_.context());
  }

 private:
  const DraftModel& model_;
  Backend& backend_;
  std::vector<SequenceRows> rows_;
  std::vector<const Known*> known_;
};

bool ModelDrafter::Run(const StepPlan& plan, std::byte* logits, std::vector<ModelDrafted>* drafted) {
  for (const Release& release : plan.releases) known_.erase(release.request);
  Gather(plan);
  if (asked_.empty()) return false;
  bool any = false;
  const auto computes = [](const Asked& asked) { return asked.rows > 0; };
  for (; absl::c_any_of(asked_, computes); any = true) Pass(plan, logits);
  for (const Asked& asked : asked_) {
    const PlanSequence& s = plan.sequences[asked.sequence];
    if (s.drafts > 0 && asked.made == s.drafts) continue;
    drafted->push_back(
        {s.request, s.attempt, asked.made, static_cast<int32_t>(asked.known->tokens.size()), asked.room});
  }
  return any;
}

void ModelDrafter::Gather(const StepPlan& plan) {
  asked_.clear();
  for (size_t i = 0; i < plan.sequences.size(); ++i) {
    if (!plan.sequences[i].model_drafts || pager_.IsLost(i)) continue;
    std::unique_ptr<Known>& known = known_[plan.sequences[i].request];
    if (known == nullptr) known = std::make_unique<Known>();
    asked_.push_back({.sequence = i, .known = known.get()});
  }
  if (asked_.empty()) return;
  ++run_;
  for (const Asked& asked : asked_) asked.known->drafted_in = run_;
  absl::c_stable_partition(asked_, [&](const Asked& asked) { return plan.sequences[asked.sequence].drafts > 0; });
  int32_t left = model_.rows;
  for (Asked& asked : asked_) {
    Admit(plan.sequences[asked.sequence], left, &asked);
    left -= asked.rows;
  }
}

void ModelDrafter::Admit(const PlanSequence& planned, int32_t left, Asked* asked) {
  Known& known = *asked->known;
  const absl::Span<const int32_t> tokens = pager_.sequence(asked->sequence).tokens().first(planned.start + 1);
  // The newest token is computed whether it was or not: its row is the one that guesses.
  known.tokens.resize(std::min(Common(known.tokens, tokens), planned.start));
  const auto seen = static_cast<int32_t>(known.tokens.size());
  const int32_t rows = std::min(planned.start + 1 - seen, left);
  const bool all = seen + rows == planned.start + 1;
  const int32_t end = all ? planned.start + std::max(1, planned.drafts) : seen + rows;  // positions with KV at last
  asked->room = planned.start + std::max(1, planned.drafts) <= model_.spec().context && Reserve(&known, end);
  if (!asked->room) return;
  asked->rows = rows;
  asked->guesses = all && planned.drafts > 0;
}

bool ModelDrafter::Reserve(Known* known, int32_t positions) {
  const size_t blocks = BlocksOf(static_cast<size_t>(positions));
  if (known->blocks.empty()) known->blocks.resize(model_.attention.size());
  while (known->slots.size() < blocks) {
    ArenaSlot slot = model_.arena->TryTake();
    if (!slot) {
      if (GiveWay()) continue;
      KeepBlocks(known, BlocksOf(known->tokens.size()));
      return false;
    }
    for (size_t l = 0; l < known->blocks.size(); ++l) {
      known->blocks[l].push_back(slot.data() + static_cast<int64_t>(l) * model_.shape.bytes());
    }
    known->slots.push_back(std::move(slot));
  }
  return true;
}

void ModelDrafter::KeepBlocks(Known* known, size_t count) {
  known->slots.resize(std::min(count, known->slots.size()));
  for (std::vector<std::byte*>& layer : known->blocks) layer.resize(known->slots.size());
}

// What queued ops of the device still read is written over by ops behind them alone.
bool ModelDrafter::GiveWay() {
  auto oldest = known_.end();
  for (auto it = known_.begin(); it != known_.end(); ++it) {
    if (it->second->slots.empty() || it->second->drafted_in + kKeptRuns >= run_) continue;
    if (oldest == known_.end() || it->second->drafted_in < oldest->second->drafted_in) oldest = it;
  }
  if (oldest == known_.end()) return false;
  known_.erase(oldest);
  return true;
}

void ModelDrafter::Pass(const StepPlan& plan, std::byte* logits) {
  tokens_.clear();
  positions_.clear();
  last_rows_.clear();
  places_.clear();
  Kv kv(model_, backend_);
  for (Asked& asked : asked_) {
    if (asked.rows == 0) continue;
    Known& known = *asked.known;
    const auto start = static_cast<int32_t>(known.tokens.size());
    const absl::Span<const int32_t> tokens = pager_.sequence(asked.sequence).tokens().subspan(start, asked.rows);
    kv.Add(known, static_cast<int64_t>(tokens_.size()), asked.rows, start);
    tokens_.insert(tokens_.end(), tokens.begin(), tokens.end());
    for (int32_t r = 0; r < asked.rows; ++r) positions_.push_back(start + r);
    known.tokens.insert(known.tokens.end(), tokens.begin(), tokens.end());
    if (asked.guesses) {
      last_rows_.push_back(static_cast<int32_t>(tokens_.size()) - 1);
      places_.push_back({asked.sequence, positions_.back()});
      ++asked.made;
      asked.guesses = asked.made < plan.sequences[asked.sequence].drafts;
    }
    asked.rows = asked.guesses ? 1 : 0;
  }
  const StepInput in{tokens_, positions_};
  const Tensor x{model_.hidden->data(), DType::kF32, static_cast<int64_t>(tokens_.size()), model_.spec().width};
  model_.arch->Embed(in, x);
  for (size_t l = 0; l < model_.attention.size(); ++l) {
    const LayerId layer{static_cast<int32_t>(l)};
    model_.arch->Attention(layer, in, kv, x);
    model_.arch->FeedForward(layer, in, x);
  }
  if (!places_.empty()) guesses_.Make(plan, places_, last_rows_, *model_.arch, x, logits);
}

}  // namespace interlace
