// Every architecture through whole ranks: from a model folder and from the GGUF file converted from it, on one rank and
// on two, with all layers kept and with none, a request's stream is the same.
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "cli/in_process_replica.h"
#include "tests/model/tiny_checkpoints.h"
#include "tests/status_matchers.h"
#include "tests/worker/pipeline_replica.h"
#include "tests/worker/streams.h"
#include "tests/worker/tiny_file.h"

namespace interlace {
namespace {

constexpr int32_t kVocab = 96;

// The checkpoint's folder with a tokenizer of as many pieces as it has rows of embeddings.
std::string FolderWithTokenizer(const TinyCheckpoint& checkpoint) {
  const std::string folder = TestPath(checkpoint.name);
  std::filesystem::remove_all(folder);
  std::filesystem::copy(checkpoint.Hf(), folder);
  std::string pieces = R"(["<unk>", 0], ["<s>", 0], ["</s>", 0])";
  for (int32_t i = 3; i < kVocab; ++i) absl::StrAppend(&pieces, ", [\"w", i, "\", -", i, "]");
  std::ofstream(folder + "/tokenizer.json")
      << R"({"pre_tokenizer": {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always"},
             "decoder": {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always"},
             "model": {"type": "Unigram", "unk_id": 0, "byte_fallback": false, "vocab": [)"
      << pieces << "]}}";
  return folder;
}

class WorkerArchitecturesTest : public ::testing::TestWithParam<TinyCheckpoint> {
 protected:
  void SetUp() override {
    folder_ = FolderWithTokenizer(GetParam());
    config_.model.path = folder_;
    config_.engine.threads = 1;
    config_.kv.block_tokens = 8;
    config_.kv.keep_layers = "auto";  // the device holds them all
    config_.kv.device_bytes.value = int64_t{64} << 20;
    config_.sched.chunk_tokens = 16;
    config_.sched.step_tokens = 32;
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  static const std::vector<Ask>& Asks() {
    static const auto* asks = new std::vector<Ask>(RandomAsks(6, 3, 90, 16, kVocab, 4));
    return *asks;
  }
  // On config_.cluster.stages ranks.
  std::vector<Answer> Run(const std::vector<Ask>& asks = Asks()) {
    if (config_.cluster.stages > 1) {
      auto replica = PipelineReplica::Create(config_, clock_, faults_);
      EXPECT_OK(replica);
      return Clients((*replica)->engine(), clock_).Run(asks, true);
    }
    auto replica = InProcessReplica::Create(config_, clock_, faults_, nullptr, [](int64_t, int64_t) {});
    EXPECT_OK(replica);
    return Clients((*replica)->engine(), clock_).Run(asks, true);
  }

  Config config_;

 private:
  RealClock clock_;
  FaultPoints faults_;
  std::string folder_;
};

TEST_P(WorkerArchitecturesTest, StreamsAreTheSameHoweverTheyRun) {
  const std::vector<Answer> expected = Run();
  for (const Answer& answer : expected) EXPECT_OK(answer.status);
  EXPECT_NE(expected[0].tokens, expected[1].tokens) << "streams that are alike show nothing";
  for (const char* keep : {"0", "1", "auto"}) {
    for (const int stages : {1, 2}) {
      for (const int chunk : {1, 7, 512}) {
        config_.kv.keep_layers = keep;
        config_.cluster.stages = stages;
        config_.engine.threads = chunk == 7 ? 2 : 1;
        config_.sched.chunk_tokens = chunk;
        config_.sched.step_tokens = std::max(chunk, 16);
        ExpectSameStreams(expected, Run(), absl::StrCat("keep=", keep, " stages=", stages, " chunk=", chunk));
      }
    }
  }
}

// What transformers holds of the tokens of a prompt, and the mean of its last hidden states.
TEST_P(WorkerArchitecturesTest, ScoresAndPoolingAreThoseOfTransformers) {
  std::ifstream tokens_file(GetParam().Folder() + "/logits.json"), golden_file(GetParam().Folder() + "/prompt.json");
  const nlohmann::json golden = nlohmann::json::parse(golden_file);
  Ask scores;
  scores.prompt = nlohmann::json::parse(tokens_file)["tokens"].get<std::vector<int32_t>>();
  scores.max_tokens = 0;
  Ask pooled = scores;
  scores.prompt_logprobs = 1;
  pooled.pooled = true;
  config_.engine.ops = "reference";
  config_.kv.dtype = "f32";
  for (const int stages : {1, 2}) {
    config_.cluster.stages = stages;
    const std::vector<Answer> answers = Run({scores, pooled});
    ASSERT_OK(answers[0].status);
    ASSERT_OK(answers[1].status);
    const std::vector<double> want = golden["logprobs"], mean = golden["mean"];
    ASSERT_EQ(answers[0].prompt_scores.size(), 2 * want.size());
    for (size_t i = 0; i < want.size(); ++i) {
      const TokenScore &own = answers[0].prompt_scores[2 * i], &best = answers[0].prompt_scores[2 * i + 1];
      EXPECT_EQ(own.token, scores.prompt[i + 1]);
      EXPECT_NEAR(own.logprob, want[i], 1e-3);
      EXPECT_EQ(answers[0].ranks[i] == 1, own == best);
    }
    ASSERT_EQ(answers[1].pooled.size(), mean.size());
    for (size_t d = 0; d < mean.size(); ++d) EXPECT_NEAR(answers[1].pooled[d], mean[d], 1e-3) << d;
  }
}

INSTANTIATE_TEST_SUITE_P(All, WorkerArchitecturesTest, ::testing::ValuesIn(kTinyCheckpoints),
                         [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace interlace
