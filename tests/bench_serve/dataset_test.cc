// Datasets: what files become, and what is said of those that are damaged.
#include "bench/serve/dataset.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <map>
#include <set>
#include <tuple>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "tests/status_matchers.h"

namespace interlace {
namespace {

using ::testing::AllOf;
using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::Ge;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Lt;
using ::testing::SizeIs;

std::unique_ptr<Dataset> Make(const DatasetSpec& spec, uint64_t seed = 1) {
  absl::StatusOr<std::unique_ptr<Dataset>> made = MakeDataset(spec, MakeSeededEntropy(seed));
  EXPECT_TRUE(made.ok()) << made.status();
  return *std::move(made);
}

std::vector<Conversation> Take(Dataset& dataset, int count) {
  std::vector<Conversation> out;
  for (int i = 0; i < count; ++i) out.push_back(*dataset.Next());
  return out;
}

DatasetSpec FileSpec(const std::string& kind, const std::string& text) {
  const std::string path = absl::StrCat(::testing::TempDir(), "/dataset_test_", kind);
  std::ofstream(path) << text;
  DatasetSpec spec;
  EXPECT_OK(ParseDatasetName(absl::StrCat(kind, ":", path), &spec));
  return spec;
}

absl::Status FaultOf(const std::string& kind, const std::string& text) {
  return MakeDataset(FileSpec(kind, text), MakeSeededEntropy(1)).status();
}

TEST(Lengths, HaveTheShapeThatTheyAreAskedFor) {
  Draws draws(MakeSeededEntropy(4));
  const auto sample = [&](const char* text) {
    const absl::StatusOr<LengthSpec> spec = ParseLength("--input-tokens", text);
    EXPECT_OK(spec);
    std::vector<double> lengths;
    for (int i = 0; i < 20000; ++i) lengths.push_back(spec->Draw(draws));
    std::sort(lengths.begin(), lengths.end());
    return lengths;
  };
  EXPECT_THAT(sample("37"), Each(37));
  const std::vector<double> uniform = sample("uniform:10:19");
  EXPECT_EQ(uniform.front(), 10);
  EXPECT_EQ(uniform.back(), 19);
  for (int value = 10; value <= 19; ++value) {
    EXPECT_NEAR(std::count(uniform.begin(), uniform.end(), value), 2000, 200);
  }
  const std::vector<double> lognormal = sample("lognormal:200:0.8");
  EXPECT_NEAR(lognormal[10000], 200, 8);
  EXPECT_NEAR(std::log(lognormal[16827] / 200), 0.8, 0.05) << "one sigma above the median";
  EXPECT_THAT(sample("lognormal:1:9"), Each(AllOf(Ge(1), ::testing::Le(1e9))));
}

TEST(Lengths, ErrorsNameTheFlagAndTheForms) {
  for (const char* text : {"", "0", "-3", "x", "1.5", "uniform:5", "uniform:5:4", "uniform:0:4", "lognormal:0:1",
                           "lognormal:5:-1", "normal:5:1", "uniform:1:2:3", "lognormal:nan:1"}) {
    EXPECT_THAT(
        ParseLength("--input-tokens", text),
        StatusIs(absl::StatusCode::kInvalidArgument, AllOf(HasSubstr("--input-tokens"), HasSubstr("uniform:LOW"))))
        << text;
  }
}

TEST(Synthetic, IdsAreOfTheRangeAndTheLength) {
  DatasetSpec spec;
  spec.input = {.a = 100};
  spec.output = {.a = 9};
  spec.token_low = 50;
  spec.token_high = 60;
  for (const Conversation& conversation : Take(*Make(spec), 50)) {
    ASSERT_THAT(conversation.turns, SizeIs(1));
    const PlannedRequest& request = conversation.turns[0];
    EXPECT_THAT(request.prompt_ids, AllOf(SizeIs(100), Each(AllOf(Ge(50), Lt(60)))));
    EXPECT_EQ(request.expected_prompt_tokens, 100);
    EXPECT_EQ(request.max_tokens, 9);
    EXPECT_TRUE(request.ignore_eos);
  }
}

TEST(Synthetic, SeedsAndSaltsAreReproducible) {
  const auto ids = [](uint64_t seed, const std::string& salt) {
    DatasetSpec spec;
    spec.salt = salt;
    spec.input = *ParseLength("", "uniform:5:50");
    std::vector<std::vector<int32_t>> out;
    for (Conversation& conversation : Take(*Make(spec, seed), 20)) out.push_back(conversation.turns[0].prompt_ids);
    return out;
  };
  const auto first = ids(1, "a"), other_salt = ids(1, "b"), other_seed = ids(2, "a");
  EXPECT_EQ(first, ids(1, "a"));
  EXPECT_NE(first, other_seed);
  for (size_t i = 0; i < first.size(); ++i) {
    EXPECT_EQ(first[i].size(), other_salt[i].size()) << "the salt changes tokens alone";
    EXPECT_NE(first[i], other_salt[i]);
  }
}

TEST(Synthetic, WordsStandForIdsOneByOne) {
  DatasetSpec spec;
  spec.ids = false;
  spec.input = {.a = 20};
  const PlannedRequest request = Take(*Make(spec), 1)[0].turns[0];
  ASSERT_THAT(request.messages, SizeIs(1));
  EXPECT_EQ(std::count(request.messages[0].second.begin(), request.messages[0].second.end(), ' '), 19);
  EXPECT_THAT(request.prompt_ids, IsEmpty());
}

TEST(PrefixShared, PromptsOfAGroupShareExactlyThePrefix) {
  DatasetSpec spec;
  ASSERT_OK(ParseDatasetName("prefix", &spec));
  spec.groups = 3;
  spec.shared_tokens = 40;
  spec.input = {.a = 10};
  std::map<std::vector<int32_t>, int> groups;
  std::set<std::vector<int32_t>> prompts;
  for (const Conversation& conversation : Take(*Make(spec), 300)) {
    const PlannedRequest& request = conversation.turns[0];
    ASSERT_THAT(request.prompt_ids, SizeIs(50));
    const std::vector<int32_t> prefix(request.prompt_ids.begin(), request.prompt_ids.begin() + 40);
    EXPECT_EQ(request.shared_prefix_tokens, groups[prefix] == 0 ? 0 : 40) << "the first of a group finds nothing";
    ++groups[prefix];
    prompts.insert(request.prompt_ids);
  }
  EXPECT_THAT(groups, SizeIs(3));
  EXPECT_THAT(prompts, SizeIs(300));
  for (const auto& [prefix, count] : groups) EXPECT_NEAR(count, 100, 40);
}

constexpr char kMooncake[] =
    R"({"timestamp": 1000, "input_length": 1100, "output_length": 50, "hash_ids": [0, 1, 2]}
{"timestamp": 4000, "input_length": 1536, "output_length": 6, "hash_ids": [0, 1, 7]}

{"timestamp": 2500, "input_length": 600, "output_length": 9, "hash_ids": [0, 9]}
)";

TEST(Mooncake, TimesLengthsAndBlocks) {
  DatasetSpec spec = FileSpec("mooncake", kMooncake);
  auto dataset = Make(spec);
  EXPECT_TRUE(dataset->is_trace());
  const std::vector<Conversation> all = Take(*dataset, 3);
  EXPECT_EQ(dataset->Next(), std::nullopt) << "a trace ends";
  EXPECT_EQ(all[0].due, absl::ZeroDuration());
  EXPECT_EQ(all[1].due, absl::Seconds(1.5)) << "in order of time, from the first on";
  EXPECT_EQ(all[2].due, absl::Seconds(3));
  const std::vector<int32_t>&a = all[0].turns[0].prompt_ids, &b = all[1].turns[0].prompt_ids,
        &c = all[2].turns[0].prompt_ids;
  ASSERT_THAT(a, SizeIs(1100));
  ASSERT_THAT(b, SizeIs(600));
  ASSERT_THAT(c, SizeIs(1536));
  const auto same = [](const std::vector<int32_t>& x, const std::vector<int32_t>& y) {
    return std::mismatch(x.begin(), x.begin() + static_cast<std::ptrdiff_t>(std::min(x.size(), y.size())), y.begin())
               .first -
           x.begin();
  };
  EXPECT_EQ(same(a, b), 512) << "one block in common";
  EXPECT_EQ(same(a, c), 1024) << "two";
  EXPECT_EQ(all[0].turns[0].shared_prefix_tokens, 0);
  EXPECT_EQ(all[1].turns[0].shared_prefix_tokens, 512);
  EXPECT_EQ(all[2].turns[0].shared_prefix_tokens, 1024);
  EXPECT_EQ(all[2].turns[0].max_tokens, 6);
}

TEST(Mooncake, Scales) {
  DatasetSpec spec = FileSpec("mooncake", kMooncake);
  spec.length_scale = 1.0 / 16;
  spec.time_scale = 4;
  const std::vector<Conversation> all = Take(*Make(spec), 3);
  EXPECT_EQ(all[1].due, absl::Seconds(6));
  EXPECT_THAT(all[0].turns[0].prompt_ids, SizeIs(69));
  EXPECT_EQ(all[0].turns[0].max_tokens, 3);
  EXPECT_EQ(all[2].turns[0].shared_prefix_tokens, 64) << "blocks shrink as lengths do";
  EXPECT_EQ(all[2].turns[0].max_tokens, 1) << "an answer has a token at least";
  spec.length_scale = 0;
  EXPECT_THAT(MakeDataset(spec, MakeSeededEntropy(1)).status(),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("--length-scale 0")));
}

TEST(BurstGpt, SkipsWhatFailed) {
  const DatasetSpec spec = FileSpec("burstgpt",
                                    "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\r\n"
                                    "5,ChatGPT,472,18,490,Conversation log\r\n"
                                    "45,ChatGPT,1087,0,1087,Conversation log\r\n"
                                    "118.5,GPT-4,417,276,693,API log\r\n");
  auto dataset = Make(spec);
  const std::vector<Conversation> all = Take(*dataset, 2);
  EXPECT_EQ(dataset->Next(), std::nullopt);
  EXPECT_EQ(all[1].due, absl::Seconds(113.5));
  EXPECT_EQ(all[1].turns[0].expected_prompt_tokens, 417);
  EXPECT_EQ(all[1].turns[0].max_tokens, 276);
}

TEST(Azure, ReadsItsDates) {
  const DatasetSpec spec = FileSpec("azure",
                                    "TIMESTAMP,ContextTokens,GeneratedTokens\n"
                                    "2023-11-16 18:15:46.6805900,374,44\n"
                                    "2023-11-16 18:15:50.9951690,396,109\n"
                                    "2024-05-10 00:00:00.009930+00:00,2,3\n");
  const std::vector<Conversation> all = Take(*Make(spec), 3);
  EXPECT_EQ(all[1].due, absl::Nanoseconds(4314579000));
  EXPECT_EQ(all[1].turns[0].expected_prompt_tokens, 396);
}

constexpr char kShareGpt[] = R"([
 {"id": "a", "conversations": [{"from": "human", "value": "a, [b] {c} \"d\\"}, {"from": "gpt", "value": "0123456789abcdef"},
   {"from": "human", "value": "two"}, {"from": "gpt", "value": "ok"}]},
 {"id": "none", "conversations": [{"from": "gpt", "value": "nobody asked"}]},
 {"id": "b", "conversations": [{"from": "human", "value": "three"}]}
])";

TEST(ShareGpt, ReadsTurnsAndAboutHowLongAnswersWere) {
  DatasetSpec spec = FileSpec("sharegpt", kShareGpt);
  spec.shuffle = false;
  spec.turns = 5;
  const std::vector<Conversation> all = Take(*Make(spec), 3);
  ASSERT_THAT(all[0].turns, SizeIs(2));
  EXPECT_EQ(all[0].turns[0].messages[0].second, "a, [b] {c} \"d\\");
  EXPECT_EQ(all[0].turns[0].max_tokens, 4) << "16 bytes";
  EXPECT_FALSE(all[0].turns[0].ignore_eos);
  EXPECT_EQ(all[0].turns[1].messages[0].second, "two");
  EXPECT_EQ(all[1].turns[0].messages[0].second, "three");
  EXPECT_EQ(all[1].turns[0].max_tokens, 64) << "no answer in the file: --output-tokens";
  EXPECT_EQ(all[2].turns[0].messages, all[0].turns[0].messages) << "from the begin again";
  spec.turns = 0;
  EXPECT_THAT(Take(*Make(spec), 1)[0].turns, SizeIs(1)) << "as other benchmarks do";
}

TEST(Dialogues, AreShuffledBySeedAndEachComesOnce) {
  std::string text;
  for (int i = 0; i < 50; ++i) absl::StrAppend(&text, R"({"question": "q)", i, R"(", "answer": "a"})", "\n");
  const DatasetSpec spec = FileSpec("gsm8k", text);
  const auto order = [&](uint64_t seed) {
    std::vector<std::string> asked;
    for (const Conversation& c : Take(*Make(spec, seed), 50)) asked.push_back(c.turns[0].messages[0].second);
    return asked;
  };
  EXPECT_EQ(order(1), order(1));
  EXPECT_NE(order(1), order(2));
  const std::vector<std::string> asked = order(1);
  EXPECT_THAT(std::set<std::string>(asked.begin(), asked.end()), SizeIs(50));
}

TEST(Dialogues, MtBenchHasTwoTurnsAndLongBenchAContext) {
  const DatasetSpec mt = FileSpec("mt-bench", R"({"question_id": 81, "turns": ["one", "two"]})");
  ASSERT_THAT(Take(*Make(mt), 1)[0].turns, SizeIs(2));
  EXPECT_EQ(Take(*Make(mt), 1)[0].turns[1].messages[0].second, "two");
  for (const char* kind : {"longbench", "infinitebench"}) {
    const DatasetSpec spec = FileSpec(kind, R"({"context": "long text", "input": "who?", "answers": ["x"]})");
    EXPECT_EQ(Take(*Make(spec), 1)[0].turns[0].messages[0].second, "long text\n\nwho?");
  }
}

TEST(Datasets, DamageIsNamedByFileAndLine) {
  const auto names = [](const std::string& kind, int line, const char* part) {
    return StatusIs(absl::StatusCode::kInvalidArgument,
                    AllOf(HasSubstr(absl::StrCat("dataset_test_", kind, ":", line, ": ")), HasSubstr(part)));
  };
  const std::string good = R"({"timestamp": 0, "input_length": 1, "output_length": 1, "hash_ids": [0]})";
  EXPECT_THAT(FaultOf("mooncake", good + "\n{\"timestamp\": 0, \"inp"), names("mooncake", 2, "JSON"));
  EXPECT_THAT(FaultOf("mooncake", good + "\n\n" + R"({"timestamp": 0, "output_length": 1})"),
              names("mooncake", 3, "input_length"));
  EXPECT_THAT(FaultOf("mooncake", R"({"timestamp": -1, "input_length": 1, "output_length": 1})"),
              names("mooncake", 1, "timestamp"));
  EXPECT_THAT(FaultOf("mooncake", R"({"timestamp": 0, "input_length": 1, "output_length": 1, "hash_ids": ["x"]})"),
              names("mooncake", 1, "hash_ids"));
  EXPECT_THAT(FaultOf("burstgpt", "Timestamp,Model\n1,2\n"), names("burstgpt", 1, "request tokens"));
  EXPECT_THAT(FaultOf("burstgpt", "Timestamp,Request tokens,Response tokens\n1,2,3\n1,2\n"),
              names("burstgpt", 3, "cut off"));
  EXPECT_THAT(FaultOf("azure", "TIMESTAMP,ContextTokens,GeneratedTokens\nyesterday,1,2\n"),
              names("azure", 2, "yesterday"));
  EXPECT_THAT(FaultOf("azure", "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46,1,many\n"),
              names("azure", 2, "many"));
  EXPECT_THAT(FaultOf("gsm8k", "{\"question\": \"q\"}\n[1]\n"), names("gsm8k", 2, "JSON object"));
  EXPECT_THAT(FaultOf("gsm8k", "{\"question\": 4}\n"), names("gsm8k", 1, "question"));
  EXPECT_THAT(FaultOf("mt-bench", "{\"turns\": []}\n"), names("mt-bench", 1, "turns"));
  EXPECT_THAT(FaultOf("longbench", "{\"context\": \"c\"}\n"), names("longbench", 1, "input"));
  EXPECT_THAT(FaultOf("sharegpt", "[\n{\"conversations\": []},\n{\"id\": 3}\n]"),
              names("sharegpt", 3, "conversations"));
  EXPECT_THAT(FaultOf("sharegpt", std::string(kShareGpt).substr(0, 150)), names("sharegpt", 2, "JSON object"));
  EXPECT_THAT(FaultOf("sharegpt", "{\"conversations\": []}"), names("sharegpt", 1, "list"));
  EXPECT_THAT(FaultOf("sharegpt", "[{\"conversations\": []}"), names("sharegpt", 1, "cut off"));
  EXPECT_THAT(FaultOf("sharegpt", "[{\"conversations\": [{\"from\": \"human\"}]}]"), names("sharegpt", 1, "value"));
}

TEST(Datasets, DamageCanBeLeftOutAndIsCounted) {
  const std::string good = R"({"timestamp": 0, "input_length": 9, "output_length": 1, "hash_ids": [0]})";
  for (const auto& [kind, text, entries, left_out] :
       std::vector<std::tuple<const char*, std::string, int, const char*>>{
           {"mooncake", good + "\nbroken\n" + good + "\n{\"timestamp\": 0, \"input_len", 2,
            "2 damaged entries left out"},
           {"gsm8k", "{\"question\": \"q\"}\n{\"question\": 3}\n", 1, "1 damaged entry left out"},
           {"sharegpt", std::string(kShareGpt).substr(0, std::string(kShareGpt).find("three")), 1, "2 damaged entries"},
           {"azure", "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46,1,many\n2023-11-16 18:15:47,1,2\n",
            1, "1 damaged entry"}}) {
    DatasetSpec spec = FileSpec(kind, text);
    spec.skip_damaged = true;
    auto dataset = Make(spec);
    EXPECT_THAT(dataset->description(), HasSubstr(left_out)) << kind;
    for (int i = 0; i < entries; ++i) EXPECT_NE(dataset->Next(), std::nullopt) << kind;
    EXPECT_TRUE(!dataset->is_trace() || dataset->Next() == std::nullopt) << kind;
  }
  DatasetSpec spec = FileSpec("gsm8k", "nothing at all");
  spec.skip_damaged = true;
  EXPECT_THAT(MakeDataset(spec, MakeSeededEntropy(1)).status(),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("no questions")));
}

TEST(Datasets, CutOrSpoiledFilesNeverCrash) {
  for (const auto& [kind, text] : std::map<std::string, std::string>{
           {"sharegpt", kShareGpt}, {"mooncake", kMooncake}, {"gsm8k", "{\"question\": \"q\", \"answer\": \"a\"}\n"}}) {
    Draws draws(MakeSeededEntropy(9));
    for (int round = 0; round < 400; ++round) {
      std::string damaged = text.substr(0, static_cast<size_t>(draws.Below(static_cast<int64_t>(text.size()) + 1)));
      for (int i = 0; i < 3 && !damaged.empty(); ++i) {
        damaged[static_cast<size_t>(draws.Below(static_cast<int64_t>(damaged.size())))] =
            static_cast<char>(draws.Below(256));
      }
      const absl::Status status = kind == "sharegpt"   ? ParseShareGpt(damaged, "f").status()
                                  : kind == "mooncake" ? ParseMooncake(damaged, "f").status()
                                                       : ParseGsm8k(damaged, "f").status();
      EXPECT_TRUE(status.ok() || absl::StartsWith(status.message(), "f:")) << status;
    }
  }
}

TEST(Datasets, NamesAreChecked) {
  DatasetSpec spec;
  const auto refuses = [](const char* part) { return StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(part)); };
  EXPECT_THAT(ParseDatasetName("wikipedia", &spec), refuses("sharegpt:FILE"));
  EXPECT_THAT(ParseDatasetName("sharegpt", &spec), refuses("--dataset sharegpt:FILE"));
  EXPECT_THAT(ParseDatasetName("synthetic:x", &spec), refuses("takes no file"));
  ASSERT_OK(ParseDatasetName("gsm8k:/no/such/file", &spec));
  EXPECT_THAT(MakeDataset(spec, MakeSeededEntropy(1)).status(),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("/no/such/file")));
  ASSERT_OK(ParseDatasetName(absl::StrCat("gsm8k:", ::testing::TempDir()), &spec));
  EXPECT_THAT(MakeDataset(spec, MakeSeededEntropy(1)).status(),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("path")));
}

}  // namespace
}  // namespace interlace
