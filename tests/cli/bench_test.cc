// interlace bench: what it runs is the engine, what it prints adds up.
#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "cli/bench_command.h"
#include "cli/bench_engine.h"
#include "cli/bench_profile.h"
#include "cli/bench_report.h"
#include "tests/status_matchers.h"
#include "tests/worker/tiny_file.h"

namespace interlace {
namespace {

using ::testing::HasSubstr;

TEST(BenchShapesTest, ReadsListsAndRefusesTheRest) {
  const auto shapes = ParseBenchShapes("512,32x256,1x1");
  ASSERT_OK(shapes);
  EXPECT_EQ(*shapes, (std::vector<BenchShape>{{1, 512}, {32, 256}, {1, 1}}));
  EXPECT_TRUE(ParseBenchShapes("")->empty());
  for (const char* bad : {"0", "-1", "x", "4x", "x4", "2x3x4", "0x5", "1.5", "99999999999", "65536x65536"}) {
    EXPECT_THAT(ParseBenchShapes(bad).status(), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(bad))) << bad;
  }
}

TEST(BenchReportTest, QuantilesLieBetweenTheirNeighbours) {
  Random random(1);
  for (int i = 0; i < 500; ++i) {
    std::vector<double> values(random.Between(1, 30));
    for (double& value : values) value = random.Uniform(-5, 5);
    std::vector<double> sorted = values;
    std::sort(sorted.begin(), sorted.end());
    const double q = random.Uniform(0, 1), at = Quantile(values, q);
    const auto low = static_cast<size_t>(q * static_cast<double>(sorted.size() - 1));
    EXPECT_GE(at, sorted[low]);
    EXPECT_LE(at, sorted[std::min(low + 1, sorted.size() - 1)]);
    EXPECT_EQ(Quantile(values, 0), sorted.front());
    EXPECT_EQ(Quantile(values, 1), sorted.back());
  }
}

TEST(BenchReportTest, DisturbedRoundsAreDropped) {
  BenchReport report;
  report.rows.resize(1);
  for (const double read : {100, 101, 85, 99, 102, 91}) report.rows[0].rounds.push_back({1, {read, 1, 1}, 0});
  report.rows[0].rounds.push_back({1, {100, 1, 1}, 0.1});
  DropDisturbedRounds(&report);
  std::vector<bool> kept;
  for (const BenchRound& round : report.rows[0].rounds) kept.push_back(round.kept);
  EXPECT_EQ(kept, (std::vector<bool>{true, true, false, true, true, true, false}));
  for (BenchRound& round : report.rows[0].rounds) round.stolen = 1;
  DropDisturbedRounds(&report);
  for (const BenchRound& round : report.rows[0].rounds) EXPECT_TRUE(round.kept);
}

TEST(BenchProfileTest, EveryCallCountsOnceAndInItsLayer) {
  Random random(2);
  for (int i = 0; i < 200; ++i) {
    const auto layers = static_cast<int32_t>(random.Between(2, 9)), steps = static_cast<int32_t>(random.Between(1, 4));
    const int64_t before = random.Between(1, 4), after = random.Between(0, 4), head = random.Between(1, 3);
    std::vector<OpCall> calls;
    std::vector<absl::Duration> step_times;
    std::vector<absl::Duration> want(static_cast<size_t>(layers));
    absl::Duration kernels, sampler;
    for (int64_t c = random.Below(2) * 5; c > 0; --c) {  // a step that does not count
      calls.push_back({c == 5 ? OpKind::kEmbedding : OpKind::kLinear, absl::Seconds(1)});
    }
    const auto add = [&](OpKind kind) {
      calls.push_back({kind, absl::Nanoseconds(random.Between(1, 1000))});
      kernels += calls.back().time;
      return calls.back().time;
    };
    for (int32_t s = 0; s < steps; ++s) {
      add(OpKind::kEmbedding);
      for (absl::Duration& layer : want) {
        for (int64_t c = 0; c < before; ++c) layer += add(OpKind::kLinear);
        layer += add(OpKind::kPagedAttention);
        for (int64_t c = 0; c < after; ++c) layer += add(OpKind::kRmsNorm);
      }
      for (int64_t c = 0; c < head; ++c) add(OpKind::kLinear);
      sampler += add(OpKind::kSample);
      step_times.push_back(absl::Microseconds(100));
    }
    const StepProfile profile = SummariseCalls(calls, step_times, layers);
    EXPECT_EQ(profile.layers, want);
    EXPECT_EQ(profile.kernels, kernels);
    EXPECT_EQ(profile.sampler, sampler);
    absl::Duration parts = profile.embedding + profile.head + profile.sampler, ops;
    for (const absl::Duration layer : profile.layers) parts += layer;
    for (const StepProfile::Op& op : profile.ops) ops += op.time;
    EXPECT_EQ(parts, kernels);
    EXPECT_EQ(ops, kernels);
    EXPECT_EQ(profile.steps, steps);
    // A step that attends once more has no place in the table, and no time is lost.
    calls.push_back({OpKind::kPagedAttention, absl::Nanoseconds(5)});
    const StepProfile odd = SummariseCalls(calls, step_times, layers);
    EXPECT_TRUE(odd.layers.empty());
    EXPECT_EQ(odd.kernels, kernels + absl::Nanoseconds(5));
  }
}

class BenchEngineTest : public ::testing::Test {
 protected:
  std::unique_ptr<BenchEngine> Engine(int threads, int64_t chunk = 256) {
    BenchEngine::Options options;
    options.config.model.path = file_.path();
    options.config.engine.threads = threads;
    options.config.sched.chunk_tokens = chunk;
    options.config.sched.step_tokens = std::max<int64_t>(chunk, 8);
    options.kv_tokens = 2000;
    options.sequences = 16;
    return *BenchEngine::Create(options, clock_, faults_, [](int64_t, int64_t) {});
  }
  // All logits that `run` sampled from, and OK.
  template <typename Run>
  static std::vector<float> Logits(BenchEngine& engine, Run run) {
    std::vector<float> all;
    engine.backend().WatchLogits(
        [&](const Tensor& logits) { all.insert(all.end(), logits.f32(), logits.f32() + logits.rows * logits.cols); });
    EXPECT_OK(run(engine));
    engine.backend().Off();
    return all;
  }

  RealClock clock_;
  FaultPoints faults_;
  TinyFile file_{{.layers = 3}};
};

TEST_F(BenchEngineTest, TheSameWorkWhateverTheRoundChunkAndThreads) {
  const auto prefill = [](BenchEngine& e) { return e.Prefill(3, 45).status(); };
  const auto decode = [](BenchEngine& e) { return e.Decode(4, 20, 6).status(); };
  const std::unique_ptr<BenchEngine> first = Engine(1);
  std::vector<float> prompts, steps;
  ASSERT_OK(first->Decode(4, 20, 1));  // fills
  for (int round = 0; round < 3; ++round) {
    const std::vector<float> p = Logits(*first, prefill), s = Logits(*first, decode);
    if (round == 0) {
      prompts = p;
      steps = s;
      EXPECT_EQ(prompts.size(), size_t{3} * first->spec().vocab);
      EXPECT_EQ(steps.size(), size_t{24} * first->spec().vocab);
      EXPECT_NE(std::vector(steps.begin(), steps.begin() + first->spec().vocab),
                std::vector(steps.begin() + first->spec().vocab, steps.begin() + 2 * first->spec().vocab));
    }
    EXPECT_TRUE(p == prompts) << "round " << round;
    EXPECT_TRUE(s == steps) << "round " << round;
  }
  for (const int64_t chunk : {1, 7, 512}) {
    const std::unique_ptr<BenchEngine> engine = Engine(2, chunk);
    ASSERT_OK(engine->Decode(4, 20, 1));
    std::vector<float> p = Logits(*engine, prefill);
    EXPECT_TRUE(Logits(*engine, decode) == steps) << "chunk " << chunk;
    EXPECT_EQ(p.size(), prompts.size());  // in the order in which prompts end
  }
}

// Tokens fed one by one give what the whole prompt gives, at any grouping.
TEST_F(BenchEngineTest, FedTokensAreScoredAsPrompts) {
  const std::unique_ptr<BenchEngine> engine = Engine(1);
  const std::vector<int32_t> a = {5, 9, 200, 31, 77, 12, 5, 100}, b = {44, 3, 8};
  const std::vector<float> whole = Logits(*engine, [&](BenchEngine& e) {
    return e.Feed({a, {}}, {0, 0}, true).status();
  });
  engine->Reset();
  ASSERT_OK(engine->Feed({{a[0]}, b}, {0, 0}, true));
  for (int32_t i = 1; i + 1 < 8; ++i) ASSERT_OK(engine->Feed({{a[i]}, {i + 40}}, {i, i + 2}, true));
  const std::vector<float> last = Logits(*engine, [&](BenchEngine& e) {
    return e.Feed({{a[7]}, {}}, {7, 0}, true).status();
  });
  EXPECT_TRUE(whole == last);
}

TEST_F(BenchEngineTest, TimingSeesEveryOpAndChangesNothing) {
  const std::unique_ptr<BenchEngine> engine = Engine(1);
  const auto decode = [](BenchEngine& e) { return e.Decode(2, 32, 3).status(); };  // from a border of blocks
  ASSERT_OK(decode(*engine));
  const std::vector<float> plain = Logits(*engine, decode);
  std::vector<OpCall> calls;
  engine->backend().Time(clock_, &calls);
  ASSERT_OK(decode(*engine));
  engine->backend().Off();
  EXPECT_TRUE(Logits(*engine, decode) == plain);
  std::map<OpKind, int> counts;
  for (const OpCall& call : calls) ++counts[call.kind];
  EXPECT_EQ(counts.size(), 8u) << "a dense Llama runs all ops but residual_add, soft_cap and those of experts";
  EXPECT_EQ(counts[OpKind::kEmbedding], 3);
  EXPECT_EQ(counts[OpKind::kPagedAttention], 3 * 3);
  EXPECT_EQ(counts[OpKind::kSample], 3);
  const size_t seen = calls.size();
  ASSERT_OK(decode(*engine));
  EXPECT_EQ(calls.size(), seen);
  EXPECT_EQ(SummariseCalls(calls, engine->step_times(), 3).layers.size(), 3u);
}

TEST_F(BenchEngineTest, WorkIsTheFilesOwn) {
  const std::unique_ptr<BenchEngine> engine = Engine(1);
  const auto file = GgufFile::Open(file_.path());
  ASSERT_OK(file);
  double bytes = 0, products = 0;
  for (const auto& [name, tensor] : (*file)->tensors()) {
    if (name == "token_embd.weight" || name == "output_norm.weight") continue;  // the head is not tied
    bytes += static_cast<double>(tensor.data.size());
    if (tensor.dims.size() == 2) products += 2.0 * static_cast<double>(tensor.dims[0] * tensor.dims[1]);
  }
  const Work one = engine->DecodeWork(1, 16, 1);
  const ModelSpec& spec = engine->spec();
  const double kv = engine->work().kv_bytes * spec.layers;
  EXPECT_GT(kv, 0);
  EXPECT_DOUBLE_EQ(one.bytes, bytes + 17 * kv);
  EXPECT_DOUBLE_EQ(one.int8_ops + one.float_ops, products + 17.0 * 4 * spec.layers * spec.heads * spec.head_dim);
  const Work many = engine->DecodeWork(8, 16, 3);
  EXPECT_EQ(many.tokens, 24);
  EXPECT_DOUBLE_EQ(many.bytes, 3 * bytes + 24 * 18 * kv);
}

// Layers with a window read no more than it.
TEST(BenchWorkTest, WindowsBoundWhatIsRead) {
  RealClock clock;
  FaultPoints faults;
  BenchEngine::Options options{.kv_tokens = 400, .sequences = 1};
  options.config.model.path = "tests/golden/archs/gemma3/hf";
  options.config.engine.threads = 1;
  options.config.sched.chunk_tokens = 50;
  const auto engine = BenchEngine::Create(options, clock, faults, [](int64_t, int64_t) {});
  ASSERT_OK(engine);
  double seen = 0, prompt = 0, chunks = 0;
  int bounded = 0;
  for (const LayerSpec& layer : (*engine)->spec().layer) {
    const int window = layer.attention.window;
    bounded += window > 0 && window < 100 ? 1 : 0;
    seen += window > 0 ? std::min(100, window) : 100;
    for (int t = 1; t <= 100; ++t) prompt += window > 0 ? std::min(t, window) : t;
    chunks += 50 + (window > 0 ? std::min(100, window + 50) : 100);
  }
  ASSERT_GT(bounded, 0);
  const ModelWork& of = (*engine)->work();
  const Work step = (*engine)->DecodeWork(1, 99, 1);
  EXPECT_DOUBLE_EQ(step.bytes, of.layer_bytes + of.head_bytes + seen * of.kv_bytes);
  EXPECT_DOUBLE_EQ(step.float_ops, of.layer_float + of.head_float + seen * of.attention);
  const Work prefill = (*engine)->PrefillWork(1, 100);
  EXPECT_DOUBLE_EQ(prefill.float_ops, 100 * of.layer_float + of.head_float + prompt * of.attention);
  EXPECT_NEAR(prefill.bytes, of.layer_bytes + of.head_bytes + chunks * of.kv_bytes, 1);
}

TEST(BenchCommandTest, WritesEveryRoundOfEveryCase) {
  const TinyFile file({.layers = 2});
  Config config;
  config.model.path = file.path();
  config.engine.threads = 1;
  BenchModelOptions options;
  options.prompts = *ParseBenchShapes("40,2x16");
  options.contexts = *ParseBenchShapes("1x8,3x12");
  options.threads = {1, 2};
  options.ops = {"reference", "auto"};
  options.rounds = 2;
  options.steps = 3;
  options.profile = true;
  options.json = TestPath("bench.json");
  testing::internal::CaptureStdout();
  ASSERT_OK(BenchModelCommand(config, options));
  const std::string table = testing::internal::GetCapturedStdout();
  for (const char* word : {"prefill 40", "prefill 2x16", "decode 1 at 8", "decode 3 at 12", "of limit", "layer 1"}) {
    EXPECT_THAT(table, HasSubstr(word));
  }
  EXPECT_EQ(table.find('\x1b'), std::string::npos) << "colour where nobody looks";
  std::ifstream in(options.json);
  const nlohmann::json report = nlohmann::json::parse(in);
  std::filesystem::remove(options.json);
  ASSERT_EQ(report["rows"].size(), 16u);
  std::map<std::string, std::string> hashes;  // by case and ops
  for (const nlohmann::json& row : report["rows"]) {
    ASSERT_EQ(row["rounds"].size(), 2u);
    EXPECT_GT(row["tokens_per_s"], 0);
    EXPECT_EQ(row["profile"]["layers_us"].size(), 2u);
    EXPECT_GE(row["profile"]["us_per_step"], row["profile"]["kernels_us"]);
    for (const nlohmann::json& round : row["rounds"]) EXPECT_GT(round["read_bytes_per_s"], 0);
    const std::string key = absl::StrCat(row["name"].get<std::string>(), row["ops"].get<std::string>());
    const std::string hash = row["logits_hash"];
    EXPECT_EQ(hashes.emplace(key, hash).first->second, hash) << key << " depends on the threads";
  }
}

TEST(BenchCommandTest, BadInputIsRefused) {
  Config config;
  config.model.path = "/nowhere.gguf";
  BenchModelOptions options;
  EXPECT_THAT(BenchModelCommand(config, options), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("--prompt")));
  options.prompts = {{1, 4}};
  options.rounds = 0;
  EXPECT_THAT(BenchModelCommand(config, options), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("--rounds")));
  options.rounds = 1;
  EXPECT_THAT(BenchModelCommand(config, options), StatusIs(absl::StatusCode::kNotFound, HasSubstr("nowhere.gguf")));
}

}  // namespace
}  // namespace interlace
