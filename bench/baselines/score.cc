// score: next-token distributions of given token sequences, computed by the engine as it serves: a prompt in chunks,
// then a token a step, all sequences of a group together.
//
//   score MODEL encode IN OUT   IN: {"chats": [[{"role", "content"}]], "text": "..."}; OUT: {"chats": [[ids]], "text":
//   [ids]} score MODEL run IN          IN: [{"tokens": [ids], "from": n}]: predict tokens[n ..] from all before each
//     --logits FILE   F32, one row of the vocabulary per predicted token, sequence after sequence
//     --nll FILE      [[negative log-likelihood of each predicted token]], one list per sequence
#include <CLI/CLI.hpp>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "cli/bench_engine.h"
#include "common/status_macros.h"
#include "common/thread.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace interlace {
namespace {

using nlohmann::json;

struct Options {
  std::string model, input, output, logits, nll, ops = "auto";
  std::vector<std::string> settings;
  int threads = 0;
  int group = 32;  // sequences at once
};

struct Sequence {
  std::vector<int32_t> tokens;
  int32_t from = 0;
  int64_t row = 0;  // of its first prediction in the file of logits
};

absl::StatusOr<json> ReadJson(const std::string& path) {
  std::ifstream file(path);
  if (!file) return absl::NotFoundError(absl::StrCat(path, " cannot be read"));
  json value = json::parse(file, nullptr, /*allow_exceptions=*/false);
  if (value.is_discarded()) return absl::InvalidArgumentError(absl::StrCat(path, " is no JSON"));
  return value;
}
absl::Status WriteJson(const json& value, const std::string& path) {
  std::ofstream file(path);
  file << value.dump() << "\n";
  file.close();
  return file ? absl::OkStatus() : absl::PermissionDeniedError(absl::StrCat(path, " cannot be written"));
}

absl::Status Encode(const Options& options) {
  ASSIGN_OR_RETURN(const json input, ReadJson(options.input));
  ASSIGN_OR_RETURN(const std::unique_ptr<GgufFile> file, GgufFile::Open(options.model));
  ASSIGN_OR_RETURN(const std::unique_ptr<Tokenizer> tokenizer, Tokenizer::Load(*file));
  const absl::StatusOr<ChatTemplate> chat_template = ChatTemplate::Load(*file);
  json output = {{"chats", json::array()}, {"text", json::array()}};
  for (const json& chat : input["chats"]) {
    std::vector<ChatMessage> messages;
    for (const json& message : chat) messages.push_back({message["role"], message["content"]});
    if (!chat_template.ok()) {  // a base model continues what the user says
      output["chats"].push_back(tokenizer->Encode(messages.back().content, /*special=*/false));
      continue;
    }
    ASSIGN_OR_RETURN(const std::vector<int32_t> ids, chat_template->Encode(messages, *tokenizer));
    output["chats"].push_back(ids);
  }
  output["text"] = tokenizer->Encode(input["text"].get<std::string>(), /*special=*/false);
  return WriteJson(output, options.output);
}

double NegativeLogLikelihood(const float* logits, int64_t vocab, int32_t token) {
  double largest = logits[0], sum = 0;
  for (int64_t i = 1; i < vocab; ++i) largest = std::max(largest, double{logits[i]});
  for (int64_t i = 0; i < vocab; ++i) sum += std::exp(logits[i] - largest);
  return largest + std::log(sum) - logits[token];
}

class Scorer {
 public:
  explicit Scorer(const Options& options) : options_(options) {}

  absl::Status Run() {
    RETURN_IF_ERROR(ReadSequences());
    ConfigBuilder builder;
    for (const std::string& setting : options_.settings) RETURN_IF_ERROR(builder.Set(setting, "--set"));
    BenchEngine::Options engine;
    ASSIGN_OR_RETURN(engine.config, builder.Build());
    engine.config.model.path = options_.model;
    engine.config.engine.ops = options_.ops;
    engine.config.engine.threads = options_.threads;
    engine.config.sched.step_tokens = longest_;
    engine.kv_tokens = int64_t{longest_} * options_.group;
    engine.sequences = options_.group;
    ASSIGN_OR_RETURN(engine_, BenchEngine::Create(engine, clock_, faults_, [](int64_t, int64_t) {}));
    if (!options_.logits.empty()) logits_.open(options_.logits, std::ios::binary);
    for (size_t begin = 0; begin < sequences_.size(); begin += static_cast<size_t>(options_.group)) {
      RETURN_IF_ERROR(Group(begin, std::min(sequences_.size(), begin + static_cast<size_t>(options_.group))));
      engine_->Reset();
    }
    logits_.close();
    if (!options_.logits.empty() && !logits_) {
      return absl::PermissionDeniedError(absl::StrCat(options_.logits, " cannot be written"));
    }
    return options_.nll.empty() ? absl::OkStatus() : WriteJson(nll_, options_.nll);
  }

 private:
  absl::Status ReadSequences() {
    ASSIGN_OR_RETURN(const json input, ReadJson(options_.input));
    int64_t row = 0;
    for (const json& j : input) {
      Sequence sequence{j["tokens"], j["from"], row};
      const auto size = static_cast<int32_t>(sequence.tokens.size());
      if (sequence.from < 1 || sequence.from >= size) {
        return absl::InvalidArgumentError(absl::StrCat("from=", sequence.from, " of a sequence of ", size, " tokens"));
      }
      row += size - sequence.from;
      longest_ = std::max(longest_, size);
      sequences_.push_back(std::move(sequence));
      nll_.push_back(json::array());
    }
    return sequences_.empty() ? absl::InvalidArgumentError("no sequences") : absl::OkStatus();
  }

  // Predictions of row i are those of sequence owners[i], for its token at[i].
  absl::Status Feed(const std::vector<std::vector<int32_t>>& parts, const std::vector<int32_t>& starts,
                    const std::vector<std::pair<size_t, int32_t>>& owners) {
    engine_->backend().WatchLogits([&](const Tensor& logits) {
      for (size_t i = 0; i < owners.size(); ++i) {
        const auto& [index, at] = owners[i];
        const Sequence& sequence = sequences_[index];
        const float* row = logits.f32_row(static_cast<int64_t>(i));
        nll_[index].push_back(NegativeLogLikelihood(row, logits.cols, sequence.tokens[at]));
        if (options_.logits.empty()) continue;
        const int64_t bytes = logits.cols * int64_t{sizeof(float)};
        logits_.seekp((sequence.row + at - sequence.from) * bytes);
        logits_.write(reinterpret_cast<const char*>(row), bytes);
      }
    });
    const absl::Status status = engine_->Feed(parts, starts, true).status();
    engine_->backend().Off();
    return status;
  }

  // Sequences [begin, end): each prompt alone, then all together.
  absl::Status Group(size_t begin, size_t end) {
    const size_t count = end - begin;
    std::vector<int32_t> next(count);  // the token that is fed next
    for (size_t i = 0; i < count; ++i) {
      const Sequence& sequence = sequences_[begin + i];
      std::vector<std::vector<int32_t>> parts(count);
      parts[i].assign(sequence.tokens.begin(), sequence.tokens.begin() + sequence.from);
      RETURN_IF_ERROR(Feed(parts, std::vector<int32_t>(count), {{begin + i, sequence.from}}));
      next[i] = sequence.from;
    }
    while (true) {
      std::vector<std::vector<int32_t>> parts(count);
      std::vector<std::pair<size_t, int32_t>> owners;
      const std::vector<int32_t> starts = next;
      for (size_t i = 0; i < count; ++i) {
        const Sequence& sequence = sequences_[begin + i];
        if (next[i] + 1 >= static_cast<int32_t>(sequence.tokens.size())) continue;
        parts[i] = {sequence.tokens[next[i]]};
        owners.emplace_back(begin + i, ++next[i]);
      }
      if (owners.empty()) return absl::OkStatus();
      RETURN_IF_ERROR(Feed(parts, starts, owners));
    }
  }

  const Options& options_;
  RealClock clock_;
  FaultPoints faults_;
  std::unique_ptr<BenchEngine> engine_;
  std::vector<Sequence> sequences_;
  int32_t longest_ = 0;
  std::ofstream logits_;
  json nll_ = json::array();
};

int Main(int argc, char** argv) {
  CLI::App app("Next-token distributions of given sequences.", "score");
  Options options;
  absl::Status status;
  app.add_option("MODEL", options.model, "GGUF file")->required();
  app.require_subcommand(1);
  CLI::App* encode = app.add_subcommand("encode", "chats and a text to token ids");
  encode->add_option("IN", options.input)->required();
  encode->add_option("OUT", options.output)->required();
  encode->callback([&] { status = Encode(options); });
  CLI::App* run = app.add_subcommand("run", "predict");
  run->add_option("IN", options.input)->required();
  run->add_option("--logits", options.logits);
  run->add_option("--nll", options.nll);
  run->add_option("--ops", options.ops)->capture_default_str();
  run->add_option("--threads", options.threads, "0: all cores")->capture_default_str();
  run->add_option("--group", options.group, "sequences at once")->check(CLI::Range(1, 1024))->capture_default_str();
  run->add_option("--set", options.settings, "field=value");
  run->callback([&] { status = Scorer(options).Run(); });
  CLI11_PARSE(app, argc, argv);
  if (!status.ok()) std::fprintf(stderr, "score: %s\n", std::string(status.message()).c_str());
  return status.ok() ? 0 : 1;
}

}  // namespace
}  // namespace interlace

int main(int argc, char** argv) { return interlace::Main(argc, argv); }
