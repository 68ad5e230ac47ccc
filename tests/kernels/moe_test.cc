// moe_route and moe_ffn against their definitions, on every table; residual_add.
#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>

#include "kernels/cpu/variants.h"
#include "kernels/moe/moe_cases.h"
#include "kernels/residual_add/residual_add_cases.h"
#include "tests/kernels/guarded_buffer.h"
#include "tests/kernels/op_test.h"
#include "tests/kernels/packed_weight.h"
#include "tests/kernels/random_tensor.h"

namespace interlace {
namespace {

using MoeTest = OpTest;

struct Route {
  std::vector<int32_t> experts;
  std::vector<float> weights;
};

Route RunRoute(const OpTable& ops, ThreadTeam& team, std::vector<float> logits, std::vector<float> shared,
               int64_t experts, int32_t top_k, bool normalise) {
  const auto tokens = static_cast<int64_t>(logits.size()) / experts;
  const int64_t slots = top_k + (shared.empty() ? 0 : 1);
  Route route{std::vector<int32_t>(tokens * slots, -7), std::vector<float>(tokens * slots, -7)};
  ops.moe_route({{route.weights.data(), DType::kF32, tokens, slots},
                 absl::MakeSpan(route.experts),
                 {logits.data(), DType::kF32, tokens, experts},
                 {shared.empty() ? nullptr : shared.data(), DType::kF32, tokens, 1},
                 top_k,
                 normalise},
                team);
  return route;
}

TEST_P(MoeTest, RoutesAsTheDefinitionSays) {
  for (const MoeCase& c : kMoeCases) {
    Random random(3);
    std::vector<float> logits = random.Floats(c.tokens * c.experts, 4);
    if (c.tokens > 2 && c.experts > 2) logits[c.experts + 2] = logits[c.experts];  // a tie
    std::vector<float> shared = c.shared_feed_forward > 0 ? random.Floats(c.tokens, 4) : std::vector<float>();
    const Route route = RunRoute(ops(), two_, logits, shared, c.experts, c.top_k, c.normalise);
    const int64_t slots = c.top_k + (shared.empty() ? 0 : 1);
    for (int64_t t = 0; t < c.tokens; ++t) {
      const float* row = logits.data() + t * c.experts;
      std::vector<int32_t> order(c.experts);
      for (int32_t e = 0; e < c.experts; ++e) order[e] = e;
      std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return row[a] > row[b]; });
      double all = 0, chosen = 0;
      for (int32_t e = 0; e < c.experts; ++e) all += std::exp(double{row[e]});
      for (int32_t s = 0; s < c.top_k; ++s) chosen += std::exp(double{row[order[s]]}) / all;
      for (int32_t s = 0; s < c.top_k; ++s) {
        EXPECT_EQ(route.experts[t * slots + s], order[s]) << c.name;
        const double want = std::exp(double{row[order[s]]}) / all / (c.normalise ? chosen : 1);
        EXPECT_NEAR(route.weights[t * slots + s], want, kMoeRouteTolerance) << c.name;
      }
      if (shared.empty()) continue;
      EXPECT_EQ(route.experts[t * slots + c.top_k], c.experts);
      EXPECT_NEAR(route.weights[t * slots + c.top_k], 1 / (1 + std::exp(-double{shared[t]})), kMoeRouteTolerance);
    }
  }
}

TEST_P(MoeTest, LogitsThatAreNotNumbersStillGiveExpertsThatExist) {
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN(), kInf = std::numeric_limits<float>::infinity();
  for (std::vector<float> logits :
       {std::vector<float>{kNan, kNan, kNan, kNan}, {kInf, -kInf, kInf, 1}, {1, kNan, 2, 3}}) {
    const Route route = RunRoute(ops(), one_, logits, {}, 4, 3, true);
    std::vector<int32_t> experts = route.experts;
    std::sort(experts.begin(), experts.end());
    EXPECT_TRUE(std::unique(experts.begin(), experts.end()) == experts.end());
    EXPECT_GE(experts.front(), 0);
    EXPECT_LT(experts.back(), 4);
  }
}

// A layer of experts, packed for a table; the last is shared where the case has one.
struct Layer {
  Layer(const OpTable& ops, Backend& backend, const MoeCase& c) {
    Random random(11);
    const int64_t count = c.experts + (c.shared_feed_forward > 0 ? 1 : 0);
    for (int64_t e = 0; e < count; ++e) {
      const int64_t ff = e == c.experts ? c.shared_feed_forward : c.feed_forward;
      ExpertWeight expert;
      expert.gate = Make(ops, backend, c.dtype, ff, c.width, random);
      expert.up = Make(ops, backend, c.dtype, ff, c.width, random);
      expert.down = Make(ops, backend, c.dtype, c.width, ff, random);
      table.push_back(expert);
    }
  }
  LinearWeight Make(const OpTable& ops, Backend& backend, DType dtype, int64_t rows, int64_t k, Random& random) {
    rows_.push_back(std::make_unique<std::vector<uint8_t>>(RandomWeights(dtype, rows, k, random)));
    packed_.push_back(std::make_unique<PackedWeight>(ops, backend, Tensor{rows_.back()->data(), dtype, rows, k}));
    return packed_.back()->weight();
  }
  std::vector<ExpertWeight> table;

 private:
  std::vector<std::unique_ptr<std::vector<uint8_t>>> rows_;
  std::vector<std::unique_ptr<PackedWeight>> packed_;
};

using MoeFfn = void (*)(const MoeFfnArgs&, OpContext);

std::vector<float> RunFfn(MoeFfn op, ThreadTeam& team, const MoeCase& c, const std::vector<ExpertWeight>& table,
                          std::vector<float> x, std::vector<float> out, Route route) {
  const auto tokens = static_cast<int64_t>(x.size()) / c.width;
  const int64_t slots = tokens == 0 ? 1 : static_cast<int64_t>(route.experts.size()) / tokens;
  const int64_t ff = std::max(c.feed_forward, c.shared_feed_forward);
  std::vector<float> gathered(tokens * slots * c.width), gated(tokens * slots * ff), products(tokens * slots * c.width);
  GuardedTensor guarded(tokens, c.width, out);
  op({guarded.tensor(),
      {x.data(), DType::kF32, tokens, c.width},
      {route.weights.data(), DType::kF32, tokens, slots},
      route.experts,
      table,
      GateKind::kSilu,
      {gathered.data(), DType::kF32, tokens * slots, c.width},
      {gated.data(), DType::kF32, tokens * slots, ff},
      {products.data(), DType::kF32, tokens * slots, c.width}},
     team);
  EXPECT_TRUE(guarded.Intact()) << c.name;
  return guarded.values();
}

Route RouteFor(const OpTable& ops, ThreadTeam& team, const MoeCase& c, Random& random) {
  std::vector<float> shared = c.shared_feed_forward > 0 ? random.Floats(c.tokens, 2) : std::vector<float>();
  return RunRoute(ops, team, random.Floats(c.tokens * c.experts, 3), shared, c.experts, c.top_k, c.normalise);
}

TEST_P(MoeTest, FfnAgreesWithTheReference) {
  for (const MoeCase& c : kMoeCases) {
    Random random(5);
    const Layer mine(ops(), backend(), c), plain(reference(), backend(), c);
    const std::vector<float> x = random.Floats(c.tokens * c.width), out = random.Floats(c.tokens * c.width);
    const Route route = RouteFor(reference(), one_, c, random);
    const std::vector<float> want = RunFfn(reference().moe_ffn, one_, c, plain.table, x, out, route);
    ExpectNear(RunFfn(ops().moe_ffn, two_, c, mine.table, x, out, route), want, kMoeFfnTolerance * LargestOf(want),
               std::string(c.name));
  }
}

TEST_P(MoeTest, EachTokenIsARowOfItsOwn) {
  for (const MoeCase& c : kMoeCases) {
    Random random(6);
    const Layer layer(ops(), backend(), c);
    const std::vector<float> x = random.Floats(c.tokens * c.width), out = random.Floats(c.tokens * c.width);
    const Route route = RouteFor(reference(), one_, c, random);
    const std::vector<float> together = RunFfn(ops().moe_ffn, two_, c, layer.table, x, out, route);
    const int64_t slots = c.tokens == 0 ? 0 : static_cast<int64_t>(route.experts.size()) / c.tokens;
    for (int64_t t = 0; t < c.tokens; ++t) {
      const auto row = [&](const auto& all, int64_t width) {
        return std::decay_t<decltype(all)>(all.begin() + t * width, all.begin() + (t + 1) * width);
      };
      const std::vector<float> alone = RunFfn(ops().moe_ffn, one_, c, layer.table, row(x, c.width), row(out, c.width),
                                              {row(route.experts, slots), row(route.weights, slots)});
      EXPECT_TRUE(SameBits(alone, row(together, c.width))) << c.name << " token " << t;
    }
  }
}

// Ranks that hold some experts each: their parts add up to the whole.
TEST_P(MoeTest, ExpertsElsewhereAddNothing) {
  const MoeCase c{"split", DType::kF32, 9, 6, 3, 40, 24, 0, true};
  Random random(7);
  const Layer layer(ops(), backend(), c);
  const std::vector<float> x = random.Floats(c.tokens * c.width), zero(c.tokens * c.width, 0.0f);
  const Route route = RouteFor(reference(), one_, c, random);
  const std::vector<float> whole = RunFfn(ops().moe_ffn, one_, c, layer.table, x, zero, route);
  std::vector<float> sum = zero;
  for (int rank = 0; rank < 3; ++rank) {
    std::vector<ExpertWeight> mine(layer.table.size());
    for (int e = 2 * rank; e < 2 * rank + 2; ++e) mine[e] = layer.table[e];
    sum = RunFfn(ops().moe_ffn, one_, c, mine, x, sum, route);
  }
  ExpectNear(sum, whole, kMoeFfnTolerance * LargestOf(whole), "sum over ranks");
}

// Grouping changes no bit.
TEST(MoeGroupedTest, GroupingIsTheReferenceBitForBit) {
  auto backend = CreateBackend("cpu", {.ops = "reference"}).value();
  ThreadTeam team(2);
  for (const MoeCase& c : kMoeCases) {
    Random random(8);
    const Layer layer(backend->ops(), *backend, c);
    const std::vector<float> x = random.Floats(c.tokens * c.width), out = random.Floats(c.tokens * c.width);
    const Route route = RouteFor(backend->ops(), team, c, random);
    const MoeFfn grouped = [](const MoeFfnArgs& args, OpContext on) {
      GroupedMoeFfn(args, on, &reference::GatedLinear, &reference::Linear);
    };
    EXPECT_TRUE(SameBits(RunFfn(grouped, team, c, layer.table, x, out, route),
                         RunFfn(&reference::MoeFfn, team, c, layer.table, x, out, route)))
        << c.name;
  }
}

TEST_P(MoeTest, ResidualAddAdds) {
  for (const ResidualAddCase& c : kResidualAddCases) {
    Random random(9);
    const std::vector<float> before = random.Floats(c.tokens * c.width);
    std::vector<float> y = random.Floats(c.tokens * c.width), want = before;
    for (const float scale : {1.0f, 0.22f}) {
      want = before;
      for (size_t i = 0; i < want.size(); ++i) {
        const float product = scale * y[i];
        want[i] += product;
      }
      GuardedTensor x(c.tokens, c.width, before);
      ops().residual_add({x.tensor(), {y.data(), DType::kF32, c.tokens, c.width}, scale}, two_);
      EXPECT_TRUE(SameBits(x.values(), want)) << c.name;
      EXPECT_TRUE(x.Intact()) << c.name;
    }
  }
}

INTERLACE_OP_TEST(MoeTest);

}  // namespace
}  // namespace interlace
