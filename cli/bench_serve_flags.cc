#include "cli/bench_serve_flags.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "common/status_macros.h"

namespace interlace {
namespace {

constexpr absl::Duration kDefaultDuration = absl::Seconds(30);

// "30s", "500ms", "1m30s". Empty leaves `out` as it is.
absl::Status ReadDuration(const char* flag, const std::string& text, absl::Duration* out) {
  if (text.empty()) return absl::OkStatus();
  absl::Duration value;
  if (!absl::ParseDuration(text, &value) || value < absl::ZeroDuration() || value == absl::InfiniteDuration()) {
    return absl::InvalidArgumentError(
        absl::StrCat(flag, " ", text, " is no time; give it with its unit: 500ms, 30s, 2m"));
  }
  *out = value;
  return absl::OkStatus();
}

absl::Status ReadTarget(const char* flag, const std::string& text, std::optional<absl::Duration>* out) {
  if (text.empty()) return absl::OkStatus();
  absl::Duration value;
  RETURN_IF_ERROR(ReadDuration(flag, text, &value));
  if (value <= absl::ZeroDuration()) {
    return absl::InvalidArgumentError(
        absl::StrCat(flag, " ", text, " cannot be met; give a time above 0 or leave it out"));
  }
  *out = value;
  return absl::OkStatus();
}

absl::StatusOr<std::vector<double>> ReadRates(const char* flag, const std::string& text) {
  std::vector<double> rates;
  for (absl::string_view part : absl::StrSplit(text, ',', absl::SkipWhitespace())) {
    double rate = 0;
    if (!absl::SimpleAtod(part, &rate) || !(rate > 0) || !std::isfinite(rate)) {
      return absl::InvalidArgumentError(absl::StrCat(
          flag, " ", text, ": ", part, " is no number of requests per second above 0; write it like 4 or 1,2,4"));
    }
    rates.push_back(rate);
  }
  return rates;
}

absl::StatusOr<std::string> ReadKey(const std::string& path) {
  if (path.empty()) {
    const char* key = std::getenv("OPENAI_API_KEY");
    return std::string(key == nullptr ? "" : key);
  }
  std::ifstream file(path);
  std::ostringstream text;
  text << file.rdbuf();
  const std::string key(absl::StripAsciiWhitespace(text.str()));
  if (!file || key.empty()) {
    return absl::NotFoundError(absl::StrCat("--api-key-file ", path, " cannot be read or is empty"));
  }
  return key;
}

}  // namespace

struct BenchServeFlags::Typed {
  BenchServeOptions options;
  std::string rate, rates, dataset = "synthetic", arrivals, input, output, token_ids;
  std::string duration, ramp, think, timeout, deadline, ttft, tpot, gap, e2el, priorities, tenants, key_file;
  std::string prompts;
  bool ignore_eos = false, no_ignore_eos = false, no_shuffle = false, keep_going = false;
  CLI::App* command = nullptr;

  bool Given(const char* flag) const { return command->get_option(flag)->count() > 0; }
  absl::Status FinishLoad(BenchServeOptions* out) const;
  absl::Status FinishDataset(const std::string& protocol, DatasetSpec* out) const;
  absl::Status FinishTargets(LoadPlanSpec* out) const;
};

BenchServeFlags::BenchServeFlags() : typed_(std::make_unique<Typed>()) {}
BenchServeFlags::~BenchServeFlags() = default;

void BenchServeFlags::AddTo(CLI::App* command) {
  Typed& t = *typed_;
  BenchServeOptions& o = t.options;
  t.command = command;
  o.plan.seed = 1;
  CLI::Option_group* group = nullptr;
  const auto begin = [&](const char* name) { group = command->add_option_group(name); };

  begin("Server");
  group->add_option("--url", o.client.url, "http://HOST:PORT[/BASE], or HOST:PORT for gRPC")
      ->default_str("http://127.0.0.1:8000, or 127.0.0.1:50051 for gRPC");
  group->add_option("--protocol", o.protocol, absl::StrJoin(LoadProtocols(), ", "))
      ->default_str("openai-chat for texts and sessions, else openai-completions");
  group->add_option("--model", o.client.model, "name of the model in requests; else the first that the server lists");
  group->add_option("--api-key-file", t.key_file, "file with the API key; else the environment's OPENAI_API_KEY");
  group->add_option("--timeout", t.timeout, "of one request, from sent to its end")->default_str("600s");
  group->add_option("--temperature", o.client.temperature, "0 is greedy")->capture_default_str();
  group->add_flag("--continuous-usage", o.client.continuous_usage,
                  "ask for the count of tokens on each delivery (stream_options.continuous_usage_stats)");

  begin("Arrivals");
  group->add_option(
      "--arrivals", t.arrivals,
      "poisson, gamma, constant, ramp, burst (all at once), trace (the dataset's own times), closed (each "
      "when a former one ends; needs --concurrency)");
  group->add_option("--rate", t.rate, "requests per second");
  group->add_option("--rates", t.rates, "several, one run for each: 1,2,4");
  group
      ->add_option("--burstiness", o.plan.arrivals.burstiness,
                   "gamma: shape of the gaps; 1 is Poisson, below it bursts, above it evener")
      ->capture_default_str();
  group->add_option("--rate-end", o.plan.arrivals.rate_end, "ramp: requests per second after --ramp");
  group->add_option("--ramp", t.ramp, "ramp: how long the rate takes from --rate to --rate-end");
  group
      ->add_option("--time-scale", o.plan.dataset.time_scale, "trace: times are multiplied by it; 0.5 is twice as fast")
      ->capture_default_str();
  group
      ->add_option("--concurrency", o.concurrency, "most sessions open at once; 0: no bound, as an open loop should be")
      ->capture_default_str();

  begin("Extent");
  group->add_option("--duration", t.duration, "how long to send")->default_str("30s, if --requests is not given");
  group->add_option("--requests", o.plan.requests, "how many to send");
  group->add_option("--seed", o.plan.seed, "of lengths, tokens and arrivals")->capture_default_str();
  group->add_option("--seeds", o.seeds, "runs per rate, with this seed and those after it")->capture_default_str();
  group->add_option("--warmup", o.warmup, "requests before the first run that count for nothing")
      ->capture_default_str();
  group->add_flag("--keep-going", t.keep_going, "do not stop a run when the server's queue grows without end");
  group->add_flag("--find-capacity", o.find_capacity,
                  "search for the largest rate at which --attainment of the requests meet all of their targets");
  group->add_option("--attainment", o.capacity.attainment, "share of requests that must, for --find-capacity")
      ->capture_default_str();
  group->add_option("--resolution", o.capacity.resolution, "how near --find-capacity comes, as a share")
      ->capture_default_str();

  begin("Requests");
  group
      ->add_option("--dataset", t.dataset,
                   "synthetic, prefix, sharegpt:FILE, mt-bench:FILE, gsm8k:FILE, longbench:FILE, infinitebench:FILE, "
                   "mooncake:FILE, burstgpt:FILE, azure:FILE")
      ->capture_default_str();
  group->add_option("--input-tokens", t.input, "synthetic, prefix: N, uniform:LOW:HIGH or lognormal:MEDIAN:SIGMA")
      ->default_str("256");
  group->add_option("--output-tokens", t.output, "of answers, likewise; else the file's, where it has any")
      ->default_str("64");
  group
      ->add_option("--length-scale", o.plan.dataset.length_scale,
                   "trace: lengths and prefix blocks are multiplied by it")
      ->capture_default_str();
  group->add_option("--block-tokens", o.plan.dataset.block_tokens, "mooncake: tokens of one hash id, before scaling")
      ->capture_default_str();
  group->add_option("--groups", o.plan.dataset.groups, "prefix: how many shared prefixes")->capture_default_str();
  group->add_option("--shared-tokens", o.plan.dataset.shared_tokens, "prefix: length of each")->capture_default_str();
  group->add_option("--turns", o.plan.dataset.turns, "most turns of a session")->default_str("1; of mt-bench 2");
  group->add_option("--think", t.think, "mean pause between turns, exponential")->default_str("0s");
  group->add_option("--prompts", t.prompts, "synthetic prompts as ids or words")
      ->default_str("ids where the protocol takes them");
  group->add_option("--token-ids", t.token_ids, "range of synthetic token ids, LOW:HIGH")->default_str("1000:30000");
  CLI::Option* ignore =
      group->add_flag("--ignore-eos", t.ignore_eos, "answers go on to their full length; default where that is given");
  group->add_flag("--no-ignore-eos", t.no_ignore_eos, "answers end where the model ends them; default for texts")
      ->excludes(ignore);
  group->add_flag("--skip-damaged", o.plan.dataset.skip_damaged,
                  "leave out what cannot be read of the file, and count it");
  group->add_flag("--no-shuffle", t.no_shuffle, "texts in the order of the file");
  group->add_option("--cancel-percent", o.plan.cancel_percent, "of the requests are hung up on while they answer")
      ->capture_default_str();

  begin("Targets");
  group->add_option("--ttft-slo", t.ttft, "sent to first token, such as 1s; sent along with each request");
  group->add_option("--tpot-slo", t.tpot, "time per output token after the first, such as 50ms");
  group->add_option("--gap-slo", t.gap, "largest gap between two deliveries");
  group->add_option("--e2el-slo", t.e2el, "sent to last token");
  group->add_option("--deadline", t.deadline, "after which the server may give a request up");
  group->add_option("--priorities", t.priorities, "drawn for each request, with weights: 0:9,5:1; lower is earlier");
  group->add_option("--tenants", t.tenants, "likewise: free:3,paid:1");

  begin("Results");
  group->add_option("--label", o.label, "of the runs, for tables and comparisons");
  group->add_option("--json", o.json, "file: everything, with the keys of vLLM's benchmark");
  group->add_option("--jsonl", o.jsonl, "file: a line per request");
  group->add_option("--csv", o.csv, "file: a row per run");
  group->add_option("--html", o.html, "file: one page with pictures");
  group->add_flag("--save-texts", o.client.save_texts, "keep the answers");
  command->footer(
      "Example: 4 requests per second for a minute, three seeds, with targets and a page:\n"
      "  interlace bench serve --url http://127.0.0.1:8000 --rate 4 --duration 60s --seeds 3 \\\n"
      "      --input-tokens 256 --output-tokens 64 --ttft-slo 1s --tpot-slo 50ms --json run.json --html run.html");
}

absl::Status BenchServeFlags::Typed::FinishDataset(const std::string& protocol, DatasetSpec* out) const {
  if (!input.empty()) {
    ASSIGN_OR_RETURN(out->input, ParseLength("--input-tokens", input));
  }
  if (!output.empty()) {
    ASSIGN_OR_RETURN(out->output, ParseLength("--output-tokens", output));
  }
  RETURN_IF_ERROR(ReadDuration("--think", think, &out->think));
  if (out->turns < 0) return absl::InvalidArgumentError(absl::StrCat("--turns ", out->turns, " is below 0"));
  if (!token_ids.empty()) {
    const std::vector<std::string> parts = absl::StrSplit(token_ids, ':');
    if (parts.size() != 2 || !absl::SimpleAtoi(parts[0], &out->token_low) ||
        !absl::SimpleAtoi(parts[1], &out->token_high)) {
      return absl::InvalidArgumentError(absl::StrCat("--token-ids ", token_ids, " is no range; write LOW:HIGH"));
    }
  }
  const bool takes_ids = TakesTokenIds(protocol);
  if (!prompts.empty() && prompts != "ids" && prompts != "words") {
    return absl::InvalidArgumentError(absl::StrCat("--prompts ", prompts, " is neither ids nor words"));
  }
  if (prompts == "ids" && !takes_ids) {
    return absl::InvalidArgumentError(
        absl::StrCat("--prompts ids: ", protocol, " takes text alone; use --protocol openai-completions"));
  }
  out->ids = prompts.empty() ? takes_ids : prompts == "ids";
  if (ignore_eos) out->ignore_eos = true;
  if (no_ignore_eos) out->ignore_eos = false;
  out->shuffle = !no_shuffle;
  return absl::OkStatus();
}

absl::Status BenchServeFlags::Typed::FinishTargets(LoadPlanSpec* out) const {
  RETURN_IF_ERROR(ReadTarget("--ttft-slo", ttft, &out->targets.ttft));
  RETURN_IF_ERROR(ReadTarget("--tpot-slo", tpot, &out->targets.tpot));
  RETURN_IF_ERROR(ReadTarget("--gap-slo", gap, &out->targets.largest_gap));
  RETURN_IF_ERROR(ReadTarget("--e2el-slo", e2el, &out->targets.e2el));
  RETURN_IF_ERROR(ReadTarget("--deadline", deadline, &out->deadline));
  ASSIGN_OR_RETURN(out->priorities, ParseWeightedNumbers("--priorities", priorities));
  ASSIGN_OR_RETURN(out->tenants, ParseWeighted("--tenants", tenants));
  return absl::OkStatus();
}

absl::Status BenchServeFlags::Typed::FinishLoad(BenchServeOptions* out) const {
  LoadPlanSpec& plan = out->plan;
  RETURN_IF_ERROR(ReadDuration("--duration", duration, &plan.duration));
  RETURN_IF_ERROR(ReadDuration("--ramp", ramp, &plan.arrivals.ramp));
  ASSIGN_OR_RETURN(out->rates, ReadRates(rates.empty() ? "--rate" : "--rates", rates.empty() ? rate : rates));
  const std::string& kind = plan.dataset.kind;
  const bool trace = kind == "mooncake" || kind == "burstgpt" || kind == "azure";
  std::string& process = plan.arrivals.process;
  process = arrivals;
  if (process.empty()) {
    process = Given("--rate-end")                         ? "ramp"
              : Given("--burstiness")                     ? "gamma"
              : !out->rates.empty() || out->find_capacity ? "poisson"
              : trace                                     ? "trace"
              : out->concurrency > 0                      ? "closed"
                                                          : "poisson";
  }
  const bool rated = process != "trace" && process != "closed" && process != "burst";
  if (rated && out->rates.empty() && !out->find_capacity) {
    return absl::InvalidArgumentError(
        "how much load: give --rate (requests per second), --rates, --concurrency, --find-capacity or a trace");
  }
  if (!rated && (!out->rates.empty() || out->find_capacity)) {
    return absl::InvalidArgumentError(absl::StrCat("--arrivals ", process,
                                                   " has no rate; leave out --rate, --rates and "
                                                   "--find-capacity, or take another process, such as poisson"));
  }
  if (process == "closed" && out->concurrency < 1) {
    return absl::InvalidArgumentError("--arrivals closed needs --concurrency: how many sessions are open at once");
  }
  if (process == "burst" && plan.requests <= 0) {
    return absl::InvalidArgumentError("--arrivals burst needs --requests: how many are sent at once");
  }
  if (out->concurrency < 0 || out->seeds < 1 || out->warmup < 0 || plan.requests < 0) {
    return absl::InvalidArgumentError(absl::StrCat("--concurrency ", out->concurrency, " --seeds ", out->seeds,
                                                   " --warmup ", out->warmup, " --requests ", plan.requests,
                                                   ": none may be below 0, and --seeds is at least 1"));
  }
  if (plan.requests == 0 && plan.duration == absl::ZeroDuration() && !trace) plan.duration = kDefaultDuration;
  const LoadTargets& targets = plan.targets;
  if (out->find_capacity && !targets.ttft && !targets.tpot && !targets.largest_gap && !targets.e2el) {
    return absl::InvalidArgumentError("--find-capacity needs targets to hold: give --ttft-slo, --tpot-slo or another");
  }
  return absl::OkStatus();
}

absl::StatusOr<BenchServeOptions> BenchServeFlags::Finish() const {
  BenchServeOptions out = typed_->options;
  RETURN_IF_ERROR(ParseDatasetName(typed_->dataset, &out.plan.dataset));
  if (out.protocol.empty()) {
    const bool words = HasTexts(out.plan.dataset) || out.plan.dataset.turns > 1 || typed_->prompts == "words";
    out.protocol = words ? "openai-chat" : "openai-completions";
  }
  if (out.client.url.empty()) {
    out.client.url = out.protocol == "interlace-grpc" ? "127.0.0.1:50051" : "http://127.0.0.1:8000";
  }
  ASSIGN_OR_RETURN(out.client.api_key, ReadKey(typed_->key_file));
  const std::string& key = out.client.api_key;
  if (!std::all_of(key.begin(), key.end(), [](unsigned char c) { return absl::ascii_isgraph(c); })) {
    return absl::InvalidArgumentError(
        "the API key (--api-key-file or OPENAI_API_KEY) has blanks or control characters");
  }
  RETURN_IF_ERROR(ReadDuration("--timeout", typed_->timeout, &out.client.timeout));
  if (out.client.timeout <= absl::ZeroDuration()) {
    return absl::InvalidArgumentError("--timeout 0: no request could end; give a time above 0");
  }
  RETURN_IF_ERROR(typed_->FinishDataset(out.protocol, &out.plan.dataset));
  RETURN_IF_ERROR(typed_->FinishTargets(&out.plan));
  RETURN_IF_ERROR(typed_->FinishLoad(&out));
  out.stop_when_saturated = !typed_->keep_going;
  return out;
}

}  // namespace interlace
