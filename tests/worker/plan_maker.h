// PlanMaker: a trivial scheduler for one rank of one stage, so that a rank can be tested without a coordinator. It
// names blocks, keeps the table of where they are, and sends one plan at a time.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kvstore/block_id.h"
#include "tests/kernels/random_tensor.h"
#include "tests/status_matchers.h"
#include "worker/model_runner.h"

namespace interlace {

// How the maker treats the requests of one run.
struct MakerOptions {
  LayerSet kept = LayerSet::Range(0, LayerSet::kMaxLayers);
  int32_t chunk = 1000;              // tokens of a prompt in one plan
  bool together = true;              // all requests in one plan, otherwise one after another
  bool adopt = false;                // what earlier requests sealed
  bool last_sample = false;          // tokens are sent as "your own last sample"
  int32_t names_late = 0;            // blocks are named so many plans after they are full
  int32_t drafts = 0;                // guesses in each plan; `guesses` says which
  std::function<SkipPlan()> skip;    // the rank makes the guesses by these plans, drawn for each step, if set
  bool model_drafts = false;         // likewise, by its draft model
  int32_t key_layer = -1;            // behind which keys of prompts are taken; -1: none are
  int32_t key_tokens = 1;            // of the prompt's last positions
  uint64_t moves = 0;                // seed of random parks, promotions and changes of `kept`; 0: none
  std::function<void()> after_plan;  // runs after each plan, if set
  // The tokens of each request's output as the guesses see them; a wrong guess is truncated.
  std::vector<std::vector<int32_t>> guesses;
};

struct MakerRequest {
  std::vector<int32_t> prompt;
  Sampling sampling;
  std::string adapter = {};  // digest; prompts of several adapters begin differently, since names do not tell
};

class PlanMaker {
 public:
  PlanMaker(ModelRunner& runner, const RankInfo& info)
      : runner_(runner), info_(info), chain_(ChainSeed{.model_digest = info.model_digest}) {}

  // The output of each request, `outputs` tokens each. Blocks stay for later runs.
  std::vector<std::vector<int32_t>> Run(const std::vector<MakerRequest>& requests, int32_t outputs,
                                        const MakerOptions& options) {
    Random random(options.moves);
    std::vector<Stream> streams;
    for (size_t i = 0; i < requests.size(); ++i) {
      Stream& s = streams.emplace_back();
      s.id = RequestId{++last_request_};
      s.tokens = requests[i].prompt;
      s.prompt = static_cast<int32_t>(s.tokens.size());
      s.end = s.prompt + outputs;
      s.sampling = requests[i].sampling;
      s.adapter = requests[i].adapter;
      s.kept = options.kept;
      if (!options.guesses.empty()) s.guesses = options.guesses[i];
    }
    const auto open = [](const Stream& s) { return !s.done(); };
    while (std::any_of(streams.begin(), streams.end(), open) && !testing::Test::HasFailure()) {
      StepPlan plan = Next();
      if (options.moves != 0) RandomMoves(random, &plan);
      std::vector<Stream*> running;
      for (Stream& s : streams) {
        if (s.done() || (!options.together && !running.empty())) continue;
        if (options.moves != 0 && s.opened && random.Below(6) == 0) continue;  // it rests
        PlanOne(s, options, random, &plan);
        running.push_back(&s);
      }
      Commit(running, Execute(plan));
      if (options.after_plan) options.after_plan();
    }
    StepPlan plan = Next();
    for (const Stream& s : streams) plan.releases.push_back({s.id, {}});
    Execute(plan);
    std::vector<std::vector<int32_t>> out;
    last_keys_.clear();
    for (const Stream& s : streams) {
      out.emplace_back(s.tokens.begin() + s.prompt, s.tokens.end());
      last_keys_.push_back(keys_[s.id]);
    }
    return out;
  }

  StepPlan Next() { return {.epoch = Epoch{1}, .id = PlanId{++last_plan_}}; }
  StepResult Execute(const StepPlan& plan) {
    StepResult result = runner_.Execute(plan);
    EXPECT_OK(result.status);
    EXPECT_TRUE(result.lost.empty()) << result.ToString() << ": " << (result.lost.empty() ? "" : result.lost[0].detail);
    for (const PromptKey& key : result.keys) {
      EXPECT_TRUE(keys_.emplace(key.request, key.mean).second) << "a key is given twice";
    }
    drafted_.insert(drafted_.end(), result.drafted.begin(), result.drafted.end());
    bytes_in_ += result.bytes_in;
    bytes_out_ += result.bytes_out;
    return result;
  }
  // Drops every block that is known.
  void DropAll() {
    StepPlan plan = Next();
    const LayerSet all = LayerSet::Range(0, info_.layers);
    for (const auto& [id, place] : known_) {
      plan.moves.push_back({id, MoveKind::kDropDevice, all});
      plan.moves.push_back({id, MoveKind::kDropHost, all});
    }
    known_.clear();
    Execute(plan);
  }
  std::vector<BlockId> known() const {
    std::vector<BlockId> ids;
    for (const auto& [id, place] : known_) ids.push_back(id);
    return ids;
  }
  BlockId IdOf(const std::vector<int32_t>& tokens, int32_t block) const {
    BlockId id;
    for (int32_t b = 0; b <= block; ++b) {
      id = chain_.Next(id, absl::MakeSpan(tokens).subspan(int64_t{b} * info_.block_tokens, info_.block_tokens));
    }
    return id;
  }
  // After everything of a place was thrown away behind the maker's back.
  void Forget() { known_.clear(); }
  int64_t bytes_in() const { return bytes_in_; }
  int64_t bytes_out() const { return bytes_out_; }
  int64_t adopted() const { return adopted_; }
  int64_t accepted_drafts() const { return accepted_drafts_; }
  // Where draft models did less than was asked for.
  const std::vector<ModelDrafted>& drafted() const { return drafted_; }
  // Of the prompts of the last run, in their order; of one that has none: empty.
  const std::vector<std::vector<float>>& keys() const { return last_keys_; }

 private:
  struct Stream {
    RequestId id{};
    std::vector<int32_t> tokens;  // prompt and output
    int32_t prompt = 0, end = 0;
    Sampling sampling;
    std::string adapter;
    LayerSet kept;
    std::vector<int32_t> guesses;
    int32_t computed = 0;         // positions
    int32_t adopted = 0;          // of them
    int32_t named = 0;            // blocks
    std::vector<int32_t> drafts;  // of the plan under way
    bool opened = false;
    bool done() const { return static_cast<int32_t>(tokens.size()) == end; }
  };
  struct Place {
    LayerSet device, host;
    uint64_t since = 0;  // the plan that named it: only later ones may adopt it
  };

  void PlanOne(Stream& s, const MakerOptions& options, Random& random, StepPlan* plan) {
    PlanSequence& p = plan->sequences.emplace_back();
    p.request = s.id;
    p.attempt = 1;
    if (!s.opened) {
      s.opened = true;
      p.opening = Opening{s.sampling, {}, {}, s.adapter};
      p.kept = s.kept;
      if (options.adopt) Adopt(s, &*p.opening);
    } else if (options.moves != 0 && random.Below(4) == 0) {
      p.kept = s.kept = RandomLayers(random);
    }
    const auto size = static_cast<int32_t>(s.tokens.size());
    const int32_t count = std::min(options.chunk, size - s.computed);
    p.start = s.computed;
    p.tokens.assign(s.tokens.begin() + s.computed, s.tokens.begin() + s.computed + count);
    if (options.last_sample && s.computed >= s.prompt) p.tokens[0] = kLastSample;
    p.sample = s.computed + count == size;
    p.sample_index = size - s.prompt;
    if (options.key_layer >= 0 && p.start < s.prompt) {
      const int32_t first = std::max(s.prompt - options.key_tokens, s.adopted);
      if (p.start + count > first) p.key = KeyAsk{LayerId{options.key_layer}, first, p.start + count == s.prompt};
    }
    s.drafts.clear();
    const bool by_rank = options.skip || options.model_drafts;
    if (p.sample && by_rank && count == 1) {
      s.drafts.assign(std::max(0, std::min(options.drafts, s.end - size - 1)), kOwnDraft);
      if (!s.drafts.empty() && options.skip) p.own_drafts = options.skip();
      p.model_drafts = options.model_drafts;
      p.tokens.insert(p.tokens.end(), s.drafts.begin(), s.drafts.end());
      p.drafts = static_cast<int32_t>(s.drafts.size());
    } else if (p.sample && !by_rank) {
      for (int32_t d = 0; d < options.drafts && size + d + 1 < s.end; ++d) {
        s.drafts.push_back(s.guesses.at(size - s.prompt + d));
      }
      p.tokens.insert(p.tokens.end(), s.drafts.begin(), s.drafts.end());
      p.drafts = static_cast<int32_t>(s.drafts.size());
    }
    s.computed += count;
    const int32_t to = std::max(0, s.computed / info_.block_tokens - options.names_late);
    if (to > s.named) {
      p.names = SealedNames{.first = s.named};
      for (; s.named < to; ++s.named) Seal(s, IdOf(s.tokens, s.named), &*p.names);
    }
  }
  void Seal(const Stream& s, const BlockId& id, SealedNames* names) {
    names->ids.push_back(id);
    Place& place = known_.try_emplace(id, Place{{}, {}, last_plan_}).first->second;
    const LayerSet all = LayerSet::Range(0, info_.layers);
    place.device |= s.kept & all;
    place.host |= (all - place.device) - s.kept;
  }
  void Adopt(Stream& s, Opening* opening) {
    while ((s.named + 1) * info_.block_tokens < s.prompt) {
      const BlockId id = IdOf(s.tokens, s.named);
      const auto known = known_.find(id);
      if (known == known_.end() || known->second.since == last_plan_) break;
      opening->adopted.push_back(id);
      ++s.named;
    }
    s.computed = s.adopted = s.named * info_.block_tokens;
    opening->prefix.assign(s.tokens.begin(), s.tokens.begin() + s.computed);
    adopted_ += s.named;
  }
  LayerSet RandomLayers(Random& random) const {
    LayerSet layers;
    for (int32_t l = 0; l < info_.layers; ++l) {
      if (random.Below(2) == 0) layers.Add(LayerId{l});
    }
    return layers;
  }
  void RandomMoves(Random& random, StepPlan* plan) {
    for (auto& [id, place] : known_) {
      const LayerSet some = RandomLayers(random);
      const int64_t roll = random.Below(16);
      if (roll == 0) {
        plan->moves.push_back({id, MoveKind::kCopyOut, some & place.device});
        place.host |= some & place.device;
        plan->moves.push_back({id, MoveKind::kDropDevice, some});
        place.device -= some;
      } else if (roll == 1) {
        plan->moves.push_back({id, MoveKind::kCopyIn, some & place.host});
        place.device |= some & place.host;
        plan->moves.push_back({id, MoveKind::kDropHost, some});
        place.host -= some;
      }
    }
  }

  void Commit(const std::vector<Stream*>& running, const StepResult& result) {
    std::map<uint64_t, std::vector<SampledToken>> sampled;
    for (const SampledToken& t : result.sampled) sampled[Value(t.request)].push_back(t);
    for (Stream* s : running) {
      const std::vector<SampledToken>& rows = sampled[Value(s->id)];
      if (rows.empty()) continue;
      const bool own = !s->drafts.empty() && s->drafts[0] == kOwnDraft;
      ASSERT_LE(rows.size(), s->drafts.size() + 1);
      ASSERT_TRUE(own || rows.size() == s->drafts.size() + 1);
      for (size_t i = 0; i < rows.size(); ++i) {
        ASSERT_EQ(rows[i].index, static_cast<int32_t>(s->tokens.size()) - s->prompt);
        s->tokens.push_back(rows[i].token);
        if (i + 1 == rows.size() || (!own && rows[i].token != s->drafts[i])) break;
        ++s->computed;
        ++accepted_drafts_;
      }
    }
  }

  ModelRunner& runner_;
  const RankInfo info_;
  const BlockChain chain_;
  std::map<BlockId, Place> known_;
  uint64_t last_request_ = 0, last_plan_ = 0;
  int64_t bytes_in_ = 0, bytes_out_ = 0, adopted_ = 0, accepted_drafts_ = 0;
  std::vector<ModelDrafted> drafted_;
  std::map<RequestId, std::vector<float>> keys_;
  std::vector<std::vector<float>> last_keys_;
};

}  // namespace interlace
