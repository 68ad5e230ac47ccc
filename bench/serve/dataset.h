// Dataset: what is asked, one conversation after the other, without saying when.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "bench/serve/load_record.h"
#include "bench/serve/random_draws.h"

namespace interlace {

// How many tokens: always the same, or drawn.
struct LengthSpec {
  enum class Shape { kFixed, kUniform, kLogNormal } shape = Shape::kFixed;
  double a = 0, b = 0;               // fixed: a; uniform: from a to b; log-normal: median a, sigma b
  bool given = false;                // by the user
  int32_t Draw(Draws& draws) const;  // at least 1
};
// "256", "uniform:64:512", "lognormal:200:0.8". InvalidArgument names the flag.
absl::StatusOr<LengthSpec> ParseLength(absl::string_view flag, absl::string_view text);
std::string DescribeLength(const LengthSpec& spec);

struct DatasetSpec {
  std::string kind = "synthetic";  // a name of the table in datasets.cc
  std::string path;                // of the file, where the kind reads one
  LengthSpec input{.a = 256}, output{.a = 64};
  int32_t turns = 0;                             // most of a conversation; 0: as the kind has it
  absl::Duration think;                          // mean of the pauses between turns, which are exponential
  int32_t groups = 8;                            // prefix: how many prefixes there are
  int32_t shared_tokens = 1000;                  // prefix: length of each
  double time_scale = 1;                         // trace: its times are multiplied by it; 0.5 is twice as fast
  double length_scale = 1;                       // trace: its lengths and blocks are multiplied by it
  int32_t block_tokens = 512;                    // mooncake: tokens that one hash id stands for
  int32_t token_low = 1000, token_high = 30000;  // synthetic token ids lie in [low, high)
  bool ids = true;                               // synthetic prompts are token ids; else words
  std::optional<bool> ignore_eos;  // answers go on to max_tokens; unset: where the kind gives lengths, not of texts
  std::string salt;                // of the tokens: runs with other salts share no prompt that a cache could know
  bool skip_damaged = false;       // leave out what cannot be read of a file, and say how much that was
  int64_t damaged = 0;             // how much that was; set as the file is read
  bool shuffle = true;             // files that are no trace: in an order drawn from the seed
};

// One session: its turns follow each other; the first is due by the arrivals, or by its own time in a trace. Only
// messages or prompt or ids, lengths, think and shared_prefix_tokens of its requests are set.
struct Conversation {
  std::optional<absl::Duration> due;  // of a trace
  std::vector<PlannedRequest> turns;
};

// Owned by the plan; thread: one.
class Dataset {
 public:
  virtual ~Dataset() = default;
  // Nothing more: a trace has ended. Other datasets begin again when all is used up.
  virtual std::optional<Conversation> Next() = 0;
  virtual std::string description() const = 0;  // "synthetic 256/64"
  virtual bool is_trace() const { return false; }
};

// Reads the file, if there is one. InvalidArgument names flag, or file and line, and the way out.
absl::StatusOr<std::unique_ptr<Dataset>> MakeDataset(const DatasetSpec& spec, std::unique_ptr<Entropy> entropy);
// "KIND" or "KIND:PATH" into a spec.
absl::Status ParseDatasetName(absl::string_view text, DatasetSpec* spec);
// Whether the kind's prompts are texts that people wrote.
bool HasTexts(const DatasetSpec& spec);

// A fault of a file's entry: counted if it may be (`damaged` is not null), else returned.
absl::Status Note(absl::Status fault, int64_t* damaged);

// Parsed files, for the kinds that have them. The text is the file's; `name` is for errors. Without `damaged` the first
// entry that cannot be read ends the reading.
struct TraceRow {
  absl::Duration due;
  int32_t input = 0, output = 0;  // tokens
  std::vector<int64_t> blocks;    // hash ids; empty: none are known
};
absl::StatusOr<std::vector<TraceRow>> ParseMooncake(absl::string_view text, absl::string_view name,
                                                    int64_t* damaged = nullptr);
absl::StatusOr<std::vector<TraceRow>> ParseBurstGpt(absl::string_view text, absl::string_view name,
                                                    int64_t* damaged = nullptr);
absl::StatusOr<std::vector<TraceRow>> ParseAzure(absl::string_view text, absl::string_view name,
                                                 int64_t* damaged = nullptr);

// A dialogue of a file: what users said, and about how long the answers were.
struct Dialogue {
  std::vector<std::string> questions;
  std::vector<int32_t> answer_tokens;  // by question; 0: not known
};
absl::StatusOr<std::vector<Dialogue>> ParseShareGpt(absl::string_view text, absl::string_view name,
                                                    int64_t* damaged = nullptr);
absl::StatusOr<std::vector<Dialogue>> ParseMtBench(absl::string_view text, absl::string_view name,
                                                   int64_t* damaged = nullptr);
absl::StatusOr<std::vector<Dialogue>> ParseGsm8k(absl::string_view text, absl::string_view name,
                                                 int64_t* damaged = nullptr);
// LongBench and InfiniteBench: a context and a question about it.
absl::StatusOr<std::vector<Dialogue>> ParseLongContext(absl::string_view text, absl::string_view name,
                                                       int64_t* damaged = nullptr);

// For the table in datasets.cc.
absl::StatusOr<std::unique_ptr<Dataset>> MakeSynthetic(const DatasetSpec& spec, std::unique_ptr<Entropy> entropy);
absl::StatusOr<std::unique_ptr<Dataset>> MakePrefixShared(const DatasetSpec& spec, std::unique_ptr<Entropy> entropy);
absl::StatusOr<std::unique_ptr<Dataset>> MakeTrace(const DatasetSpec& spec, std::vector<TraceRow> rows,
                                                   std::unique_ptr<Entropy> entropy);
absl::StatusOr<std::unique_ptr<Dataset>> MakeDialogues(const DatasetSpec& spec, std::vector<Dialogue> dialogues,
                                                       std::unique_ptr<Entropy> entropy);

// ", 2 damaged entries left out", or nothing.
std::string DescribeDamage(const DatasetSpec& spec);

// Common words, one for each id; most tokenizers have each as one token, with the blank before it.
std::string WordsOf(const std::vector<int32_t>& ids);
// Sets prompt_ids, or words as the one message of a user and as prompt.
void SetPrompt(const DatasetSpec& spec, std::vector<int32_t> ids, PlannedRequest* request);

}  // namespace interlace
