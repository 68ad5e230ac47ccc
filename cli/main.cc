// interlace: the tool.
#include <signal.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <sstream>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "cli/bench_ablation_command.h"
#include "cli/bench_command.h"
#include "cli/bench_compare_command.h"
#include "cli/bench_layerkv_command.h"
#include "cli/bench_page_command.h"
#include "cli/bench_reserve_command.h"
#include "cli/bench_scale_command.h"
#include "cli/bench_serve_flags.h"
#include "cli/bench_skip_command.h"
#include "cli/bench_transfers_command.h"
#include "cli/chat_command.h"
#include "cli/config_command.h"
#include "cli/doctor_command.h"
#include "cli/drain_command.h"
#include "cli/manual_command.h"
#include "cli/run_command.h"
#include "cli/sampling_flags.h"
#include "cli/serve_command.h"
#include "cli/status_command.h"
#include "cli/terminal.h"
#include "cli/top_command.h"
#include "cli/vllm_flags.h"
#include "common/config.h"
#include "common/log_sink.h"
#include "common/process.h"
#include "common/status_macros.h"

namespace interlace {
namespace {

// Settings that several subcommands take; short flags stand for field=value.
struct CommonFlags {
  std::string file;
  std::vector<std::string> settings;
  std::vector<std::pair<std::string, std::string>> shorthands;  // field, value; filled by callbacks

  void AddTo(CLI::App* command) {
    command->add_option("--config", file, "configuration file");
    command->add_option("--set", settings, "field=value; `interlace config` lists the fields");
  }
  void Short(CLI::App* command, const std::string& flag, const std::string& field, const std::string& meaning) {
    command->add_option_function<std::string>(
        flag, [this, field](const std::string& value) { shorthands.emplace_back(field, value); },
        absl::StrCat(meaning, " (", field, ")"));
  }
  void AddDraftModel(CLI::App* command) {
    Short(command, "--draft-model", "engine.draft_model",
          "smaller model with the same vocabulary whose guesses are verified, so that no token changes; "
          "sched.speculate=draft-model unless that says otherwise");
  }
  std::vector<std::string> Assignments() const {
    std::vector<std::string> all;
    for (const auto& [field, value] : shorthands) all.push_back(absl::StrCat(field, "=", value));
    all.insert(all.end(), settings.begin(), settings.end());
    return all;
  }
  // What was given makes others differ from their defaults, unless they were given too.
  absl::Status Complete() {
    ConfigBuilder given;
    RETURN_IF_ERROR(Read(&given));
    const bool drafts = !given.values().engine.draft_model.empty();
    if (drafts && given.OriginOf("sched.speculate") == "default") {
      shorthands.emplace_back("sched.speculate", "draft-model");
    }
    return absl::OkStatus();
  }
  absl::Status Read(ConfigBuilder* builder) const {
    if (!file.empty()) RETURN_IF_ERROR(builder->ReadFile(file));
    RETURN_IF_ERROR(builder->ReadEnvironment());
    for (const std::string& assignment : Assignments()) RETURN_IF_ERROR(builder->Set(assignment, "command line"));
    return absl::OkStatus();
  }
};

std::string ProgramFolder() {
  std::error_code error;
  return std::filesystem::read_symlink("/proc/self/exe", error).parent_path().string();
}

absl::Status Serve(CommonFlags flags, ServeOptions options) {
  if (options.kvstore) {
    ConfigBuilder given;
    RETURN_IF_ERROR(flags.Read(&given));
    if (given.OriginOf("kv.tiers") == "default") flags.shorthands.emplace_back("kv.tiers", "remote");
    // The address is known once the kvstore listens; serve hands it to the ranks.
    flags.shorthands.emplace_back("kv.remote", "started-by-serve");
  }
  RETURN_IF_ERROR(flags.Complete());
  ConfigBuilder builder;
  RETURN_IF_ERROR(flags.Read(&builder));
  ASSIGN_OR_RETURN(const Config config, builder.Build());
  options.settings = flags.Assignments();
  options.config_file = flags.file;
  options.program_folder = ProgramFolder();
  sigset_t stop_signals;
  sigemptyset(&stop_signals);
  sigaddset(&stop_signals, SIGINT);
  sigaddset(&stop_signals, SIGTERM);
  sigaddset(&stop_signals, SIGHUP);
  pthread_sigmask(SIG_BLOCK, &stop_signals, nullptr);
  return ServeCommand(config, options, stop_signals);
}

absl::Status Run(CommonFlags flags, const RunOptions& options) {
  RETURN_IF_ERROR(flags.Complete());
  ConfigBuilder builder;
  RETURN_IF_ERROR(flags.Read(&builder));
  ASSIGN_OR_RETURN(const Config config, builder.Build());
  RETURN_IF_ERROR(InstallLogSink("run", config.log.level == "info" ? "warning" : config.log.level, config.log.format));
  return RunCommand(config, options);
}

// `interlace bench model` as it was typed.
struct BenchFlags {
  CommonFlags common;
  BenchModelOptions options;
  std::string prompt = "512", context = "16", batch = "1", decode, threads, ops;
};

absl::Status BenchModel(const BenchFlags& flags) {
  ConfigBuilder builder;
  RETURN_IF_ERROR(flags.common.Read(&builder));
  ASSIGN_OR_RETURN(const Config config, builder.Build());
  RETURN_IF_ERROR(
      InstallLogSink("bench", config.log.level == "info" ? "warning" : config.log.level, config.log.format));
  BenchModelOptions options = flags.options;
  ASSIGN_OR_RETURN(options.prompts, ParseBenchShapes(flags.prompt));
  ASSIGN_OR_RETURN(options.contexts, ParseBenchShapes(flags.decode));
  if (flags.decode.empty()) {
    ASSIGN_OR_RETURN(const std::vector<BenchShape> batches, ParseBenchShapes(flags.batch));
    ASSIGN_OR_RETURN(const std::vector<BenchShape> contexts, ParseBenchShapes(flags.context));
    for (const BenchShape& batch : batches) {
      for (const BenchShape& context : contexts) options.contexts.push_back({batch.tokens, context.tokens});
    }
  }
  ASSIGN_OR_RETURN(const std::vector<BenchShape> threads, ParseBenchShapes(flags.threads));
  for (const BenchShape& count : threads) options.threads.push_back(count.tokens);
  options.ops = absl::StrSplit(flags.ops, ',', absl::SkipEmpty());
  return BenchModelCommand(config, options);
}

// `interlace bench transfers` as it was typed.
struct TransferFlags {
  CommonFlags common;
  BenchTransfersOptions options;
};

absl::Status BenchTransfers(const TransferFlags& flags) {
  ConfigBuilder builder;
  RETURN_IF_ERROR(flags.common.Read(&builder));
  ASSIGN_OR_RETURN(const Config config, builder.Build());
  RETURN_IF_ERROR(
      InstallLogSink("bench", config.log.level == "info" ? "warning" : config.log.level, config.log.format));
  return BenchTransfersCommand(config, flags.options);
}

absl::Status BenchServe(const BenchServeFlags& flags, int argc, char** argv) {
  ASSIGN_OR_RETURN(BenchServeOptions options, flags.Finish());
  options.command = absl::StrJoin(argv, argv + argc, " ");
  return BenchServeCommand(std::move(options));
}

// A study: the settings that it needs otherwise than a server does, unless they are given.
template <typename Options>
absl::Status BenchStudy(CommonFlags flags, Options options, absl::Status (*run)(const Config&, const Options&),
                        const std::vector<std::pair<std::string, std::string>>& defaults, int argc, char** argv) {
  ConfigBuilder given;
  RETURN_IF_ERROR(flags.Read(&given));
  for (const auto& [field, value] : defaults) {
    if (given.OriginOf(field) == "default") flags.shorthands.emplace_back(field, value);
  }
  ConfigBuilder builder;
  RETURN_IF_ERROR(flags.Read(&builder));
  ASSIGN_OR_RETURN(const Config config, builder.Build());
  RETURN_IF_ERROR(InstallLogSink("bench", config.log.level == "info" ? "error" : config.log.level, config.log.format));
  options.command = absl::StrJoin(argv, argv + argc, " ");
  return run(config, options);
}

absl::Status BenchCompare(const BenchCompareOptions& options, int* exit_status) {
  ASSIGN_OR_RETURN(*exit_status, BenchCompareCommand(options));
  return absl::OkStatus();
}

absl::Status ShowConfig(const CommonFlags& flags) {
  ConfigBuilder builder;
  RETURN_IF_ERROR(flags.Read(&builder));
  ConfigCommand(builder);
  return absl::OkStatus();
}

// What a command that has an exit status of its own answers.
absl::Status Exit(const absl::StatusOr<int>& answer, int* exit_status) {
  if (answer.ok()) *exit_status = *answer;
  return answer.status();
}

absl::Status Doctor(const CommonFlags& flags, DoctorOptions options, int* exit_status) {
  ConfigBuilder builder;
  RETURN_IF_ERROR(flags.Read(&builder));
  ASSIGN_OR_RETURN(const Config config, builder.Build());
  options.version = INTERLACE_VERSION;
  return Exit(DoctorCommand(config, options), exit_status);
}

// The key of a server that wants one, and the authority of its certificate.
void AddAccess(CLI::App* command, ClientAccess* access) {
  command->add_option("--api-key", access->api_key, "key that the server wants")->envname("INTERLACE_API_KEY");
  command->add_option_function<std::string>(
      "--ca",
      [access](const std::string& path) {
        std::ifstream file(path, std::ios::binary);
        std::ostringstream text;
        if (!file.is_open() || !(text << file.rdbuf())) throw CLI::ValidationError("--ca", path + " cannot be read");
        access->tls = true;
        access->root_certificates = text.str();
      },
      "PEM file of the authority of a server that speaks TLS");
}

int Main(int argc, char** argv) {
  CLI::App app("Interlace: LLM serving with a KV cache managed layer by layer.", "interlace");
  app.require_subcommand(1);
  app.set_version_flag("--version", "interlace " INTERLACE_VERSION);
  absl::Status status;

  CommonFlags serve_flags;
  ServeOptions serve_options;
  serve_options.state_folder = "interlace-state";
  CLI::App* serve = app.add_subcommand("serve", "start a whole cluster on this machine");
  serve
      ->add_option_function<std::string>(
          "MODEL", [&](const std::string& path) { serve_flags.shorthands.emplace_back("model.path", path); },
          "GGUF file, or model folder of Hugging Face")
      ->required();
  serve_flags.Short(serve, "--pp,--pipeline-parallel-size", "cluster.stages", "pipeline stages");
  serve_flags.Short(serve, "--tp,--tensor-parallel-size", "cluster.tensor_ranks",
                    "ranks that share each stage's layers");
  serve_flags.Short(serve, "--sp", "cluster.sequence_ranks",
                    "ranks of each stage, all with all of its weights, that divide the rows of long prompts");
  serve_flags.Short(serve, "--replicas,--data-parallel-size", "cluster.replicas",
                    "copies of the model, each of so many stages and ranks");
  serve_flags.Short(
      serve, "--roles", "router.roles",
      "what each replica is for, prefill:1,decode:1; needs a kvstore, by which KV gets from one to another");
  serve_flags.Short(serve, "--device-kv", "kv.device_bytes", "device KV arena of a rank");
  serve_flags.Short(serve, "--host-kv", "kv.host_bytes", "host KV tier of a rank");
  serve_flags.Short(serve, "--keep-layers", "kv.keep_layers", "layers of each request kept on the device, or auto");
  serve_flags.AddDraftModel(serve);
  serve_flags.Short(serve, "--host", "server.host", "address to listen on");
  serve_flags.Short(serve, "--port", "server.http_port", "HTTP port");
  serve_flags.Short(serve, "--grpc-port", "server.grpc_port", "gRPC port");
  serve->add_option_function<std::string>(
      "--api-key", [](const std::string& key) { setenv("INTERLACE_SERVER_API_KEY", key.c_str(), 1); },
      "key that requests must bring (server.api_key); the processes get it by their environment, where no list shows "
      "it");
  serve->add_option_function<std::string>(
      "--rocksdb",
      [&](const std::string& folder) {
        serve_flags.shorthands.emplace_back("kv.rocksdb_dir", folder);
        serve_flags.shorthands.emplace_back("kv.tiers", "rocksdb");
      },
      "folder of a RocksDB tier below the host's (kv.rocksdb_dir)");
  serve->add_flag("--kvstore", serve_options.kvstore, "start a kvstore and use it as the remote tier");
  serve
      ->add_option("--state", serve_options.state_folder,
                   "folder for logs, and for what the coordinator learns of this machine")
      ->capture_default_str();
  AddVllmFlags(serve, &serve_flags.shorthands);
  serve_flags.AddTo(serve);
  serve->callback([&] { status = Serve(serve_flags, serve_options); });

  ChatCommandOptions chat_options;
  SamplingFlags chat_sampling, run_sampling;
  int32_t chat_tokens = 0;
  CLI::App* chat = app.add_subcommand("chat", "talk to a running cluster");
  chat->add_option("--address", chat_options.address, "gRPC door of the cluster")->capture_default_str();
  chat->add_option("-p,--prompt", chat_options.message, "ask one question and stop");
  chat->add_option("--system", chat_options.system, "system message");
  AddAccess(chat, &chat_options.access);
  chat_sampling.AddTo(chat);
  chat->add_option("--stop", chat_options.sampling.stop, "text that ends an answer; may be given several times")
      ->allow_extra_args(false);
  CLI::Option* chat_max = chat->add_option("--max-tokens", chat_tokens, "most tokens of an answer");
  const auto add_target = [&](const char* flag, std::optional<absl::Duration>* target, const char* meaning) {
    chat->add_option_function<double>(
        flag, [target](const double& ms) { *target = absl::Milliseconds(ms); }, meaning);
  };
  add_target("--ttft-ms", &chat_options.sampling.ttft, "target for the first token");
  add_target("--tpot-ms", &chat_options.sampling.tpot, "target for the mean gap between tokens");
  add_target("--largest-gap-ms", &chat_options.sampling.largest_gap, "target for the largest gap between tokens");
  chat->add_option("--priority", chat_options.sampling.priority, "lower is earlier");
  chat->add_option("--tenant", chat_options.sampling.tenant, "who shares fairly with whom");
  chat->add_option("--request-id", chat_options.sampling.request_id, "id of the request, for explain");
  chat->callback([&] {
    if (chat_max->count() > 0) chat_options.sampling.max_tokens = chat_tokens;
    status = chat_sampling.Finish();
    SetSampling(chat_sampling.spec, &chat_options.sampling);
    if (status.ok()) status = ChatCommand(chat_options);
  });

  CommonFlags run_flags;
  RunOptions run_options;
  CLI::App* run = app.add_subcommand("run", "answer one prompt in this process, without a network");
  run->add_option_function<std::string>(
         "MODEL", [&](const std::string& path) { run_flags.shorthands.emplace_back("model.path", path); },
         "GGUF file, or model folder of Hugging Face")
      ->required();
  run->add_option("-p,--prompt", run_options.prompt, "the prompt")->required();
  run->add_flag("--raw", run_options.raw, "no chat template");
  run->add_option("-n,--max-tokens", run_options.max_tokens, "most tokens of the answer")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  run->add_option("--lora", run_options.lora, "folder of a LoRA adapter (PEFT's) that answers");
  run_sampling.AddTo(run);
  run->add_flag("--ids", run_options.ids, "print token ids");
  run->add_flag("--explain", run_options.explain, "print where the KV of each layer lived");
  run_flags.Short(run, "--keep-layers", "kv.keep_layers", "layers kept on the device, or auto");
  run_flags.Short(run, "--device-kv", "kv.device_bytes", "device KV arena");
  run_flags.AddDraftModel(run);
  run_flags.Short(run, "--threads", "engine.threads", "compute threads");
  run_flags.AddTo(run);
  run->callback([&] {
    status = run_sampling.Finish();
    run_options.sampling = run_sampling.spec;
    if (status.ok()) status = Run(run_flags, run_options);
  });

  std::string explain_address = "127.0.0.1:50051", explain_request;
  CLI::App* explain = app.add_subcommand("explain", "where the KV of a request lived, layer by layer");
  explain->add_option("REQUEST", explain_request, "request id")->required();
  explain->add_option("--address", explain_address, "gRPC door of the cluster")->capture_default_str();
  ClientAccess explain_access;
  AddAccess(explain, &explain_access);
  explain->callback([&] { status = ExplainCommand(explain_address, explain_access, explain_request); });

  TopOptions top_options;
  CLI::App* top = app.add_subcommand("top", "a running cluster, live: layers by tier, requests, targets, throughput");
  top->add_option("--url", top_options.url, "HTTP door of the cluster")->capture_default_str();
  top->add_option("--api-key", top_options.api_key, "an operator's key")->envname("INTERLACE_API_KEY");
  top->add_flag("--once", top_options.once, "print one frame and stop");
  top->add_option("--interval", top_options.interval, "seconds between two looks")->capture_default_str();
  top->callback([&] { status = TopCommand(top_options); });

  int exit_status = 0;
  StatusOptions status_options;
  CLI::App* status_of = app.add_subcommand("status", "one page of a running cluster: ranks, requests, KV, rates");
  status_of->add_option("--url", status_options.url, "HTTP door of the cluster")->capture_default_str();
  status_of->add_option("--api-key", status_options.api_key, "an operator's key")->envname("INTERLACE_API_KEY");
  status_of->add_flag("--json", status_options.json, "as JSON");
  status_of->callback([&] { status = Exit(StatusCommand(status_options), &exit_status); });

  DrainOptions drain_options;
  CLI::App* drain = app.add_subcommand(
      "drain", "a running cluster, or a replica of it, takes no new requests, and those that run finish");
  drain->add_option("--url", drain_options.url, "HTTP door of the cluster")->capture_default_str();
  drain->add_option("--api-key", drain_options.api_key, "an operator's key")->envname("INTERLACE_API_KEY");
  drain->add_option_function<std::string>(
      "--timeout",
      [&](const std::string& text) {
        absl::Duration timeout;
        if (!absl::ParseDuration(text, &timeout) || timeout < absl::ZeroDuration()) {
          throw CLI::ValidationError("--timeout", absl::StrCat("'", text, "' is not a duration such as 30s or 5m"));
        }
        if (timeout < absl::InfiniteDuration()) drain_options.timeout = timeout;
      },
      "what runs longer than this ends with an error; without it, all is waited for");
  drain
      ->add_option("--replica", drain_options.replica,
                   "one of several, from 0: it gets nothing new, and what it has goes on at the others")
      ->check(CLI::NonNegativeNumber)
      ->excludes("--timeout");
  drain->add_flag("--resume", drain_options.resume, "takes new requests again, instead");
  drain->add_flag("!--no-wait", drain_options.wait, "does not wait until nothing is left");
  drain->callback([&] { status = Exit(DrainCommand(drain_options), &exit_status); });

  CommonFlags doctor_flags;
  DoctorOptions doctor_options;
  CLI::App* doctor = app.add_subcommand("doctor", "whether this machine, or a running cluster, is as it should be");
  doctor->add_option("--url", doctor_options.url, "HTTP door of a running cluster, which is looked at instead");
  doctor->add_option("--api-key", doctor_options.api_key, "an operator's key")->envname("INTERLACE_API_KEY");
  doctor->add_flag("--json", doctor_options.json, "as JSON");
  doctor->add_flag("--quick", doctor_options.quick, "nothing is measured");
  doctor_flags.Short(doctor, "--rocksdb", "kv.rocksdb_dir", "folder of a RocksDB tier, whose disk is measured");
  doctor_flags.Short(doctor, "--device-kv", "kv.device_bytes", "device KV arena of a rank");
  doctor_flags.Short(doctor, "--host-kv", "kv.host_bytes", "host KV tier of a rank");
  doctor_flags.AddTo(doctor);
  doctor->callback([&] { status = Doctor(doctor_flags, doctor_options, &exit_status); });

  CLI::App* bench = app.add_subcommand("bench", "measure this machine, or a server");
  bench->require_subcommand(1);
  BenchFlags bench_flags;
  CLI::App* bench_model = bench->add_subcommand("model", "prefill and decode speed beside what the machine gives");
  bench_model
      ->add_option_function<std::string>(
          "MODEL", [&](const std::string& path) { bench_flags.common.shorthands.emplace_back("model.path", path); },
          "GGUF file, or model folder of Hugging Face")
      ->required();
  bench_model->add_option("--prompt", bench_flags.prompt, "prefill: TOKENS or SEQUENCESxTOKENS, a list; \"\": none")
      ->capture_default_str();
  bench_model->add_option("--batch", bench_flags.batch, "decode: sequences at once, a list")->capture_default_str();
  bench_model
      ->add_option("--context", bench_flags.context, "decode: positions before, a list; each batch at each; \"\": none")
      ->capture_default_str();
  bench_model->add_option("--decode", bench_flags.decode, "decode: exactly these, SEQUENCESxPOSITIONS, a list");
  bench_model->add_option("--threads", bench_flags.threads, "compute threads, a list (engine.threads)");
  bench_model->add_option("--ops", bench_flags.ops, "op tables, a list (engine.ops)");
  bench_model->add_option("--steps", bench_flags.options.steps, "tokens a sequence decodes in a round")
      ->capture_default_str();
  bench_model->add_option("--rounds", bench_flags.options.rounds, "rounds that count")->capture_default_str();
  bench_flags.common.Short(bench_model, "--chunk", "sched.chunk_tokens", "most prompt tokens of a sequence in a step");
  bench_model->add_flag("--profile", bench_flags.options.profile, "time per op and per layer");
  bench_model->add_option("--json", bench_flags.options.json, "file for all rounds");
  bench_flags.common.AddTo(bench_model);
  bench_model->callback([&] { status = BenchModel(bench_flags); });

  TransferFlags transfer_flags;
  BenchTransfersOptions& transfers = transfer_flags.options;
  CLI::App* bench_transfers =
      bench->add_subcommand("transfers", "how much of the KV traffic over a slow link hides behind computing");
  bench_transfers
      ->add_option_function<std::string>(
          "MODEL", [&](const std::string& path) { transfer_flags.common.shorthands.emplace_back("model.path", path); },
          "GGUF file, or model folder of Hugging Face")
      ->required();
  transfer_flags.common.Short(bench_transfers, "--link", "kv.link_bytes", "bytes a second between device and host");
  transfer_flags.common.Short(bench_transfers, "--threads", "engine.threads", "compute threads");
  bench_transfers->add_option("--prompt", transfers.prompt, "tokens of the prompt that leaves")->capture_default_str();
  bench_transfers->add_option("--streams", transfers.streams, "that decode")->capture_default_str();
  bench_transfers->add_option("--context", transfers.context, "positions before them")->capture_default_str();
  bench_transfers->add_option("--host", transfers.host, "layers on the host, a list; none: 0 to all in 11 steps")
      ->delimiter(',');
  bench_transfers->add_option("--rounds", transfers.rounds, "rounds that count")->capture_default_str();
  bench_transfers->add_option("--json", transfers.json, "file for all rounds");
  transfer_flags.common.AddTo(bench_transfers);
  bench_transfers->callback([&] { status = BenchTransfers(transfer_flags); });

  int ceiling_threads = 0, ceiling_rounds = 5;
  std::string ceiling_ops, ceiling_json;
  CLI::App* ceilings = bench->add_subcommand("ceilings", "memory bandwidth and arithmetic peaks");
  ceilings->add_option("--threads", ceiling_threads, "threads; 0: all cores")->capture_default_str();
  ceilings->add_option("--ops", ceiling_ops, "instructions of this op table; the best of this CPU otherwise");
  ceilings->add_option("--rounds", ceiling_rounds, "rounds")->capture_default_str();
  ceilings->add_option("--json", ceiling_json, "file for all rounds");
  ceilings->callback(
      [&] { status = BenchCeilingsCommand(ceiling_threads, ceiling_ops, ceiling_rounds, ceiling_json); });

  BenchServeFlags load_flags;
  CLI::App* bench_serve = bench->add_subcommand("serve", "load on a server: latencies, throughput, goodput, capacity");
  load_flags.AddTo(bench_serve);
  bench_serve->callback([&] { status = BenchServe(load_flags, argc, argv); });

  BenchCompareOptions compare_options;
  CLI::App* compare = bench->add_subcommand("compare", "two results of bench serve; exit status 1 if B is worse");
  compare->add_option("A", compare_options.a, "JSON of bench serve, or of vLLM's --save-detailed")->required();
  compare->add_option("B", compare_options.b, "the same loads later, or on another server")->required();
  compare->add_option("--tolerance", compare_options.tolerance, "a change within it is none")->capture_default_str();
  compare->add_option("--json", compare_options.json, "file for the comparison; -: standard output, and no table");
  compare->add_option("--html", compare_options.html, "file for a page with the runs of both");
  compare->callback([&] { status = BenchCompare(compare_options, &exit_status); });

  BenchPageOptions page_options;
  CLI::App* page = bench->add_subcommand("page", "results of bench serve as one page, a line per label");
  page->add_option("FILES", page_options.files, "JSON of bench serve, or of vLLM's --save-detailed")->required();
  page->add_option("--html", page_options.html, "file for the page");
  page->add_option("--title", page_options.title, "of the page")->capture_default_str();
  page->add_option("--json", page_options.json, "file for all runs together");
  page->add_option("--csv", page_options.csv, "file: a row per run");
  page->callback([&] { status = BenchPageCommand(page_options); });

  BenchScaleOptions scale_options;
  CLI::App* scale = bench->add_subcommand("scale", "policies on large models and many replicas, in virtual time");
  AddBenchScaleFlags(scale, &scale_options);
  scale->callback([&] {
    scale_options.command = absl::StrJoin(argv, argv + argc, " ");
    status = BenchScaleCommand(scale_options);
  });

  const auto add_study_settings = [](CLI::App* command, CommonFlags* flags) {
    flags->Short(command, "--device-kv", "kv.device_bytes", "device KV arena");
    flags->Short(command, "--host-kv", "kv.host_bytes", "host KV tier");
    flags->Short(command, "--link", "kv.link_bytes", "bytes/s of an emulated link between them");
    flags->AddTo(command);
  };
  const auto add_model = [](CLI::App* command, CommonFlags* flags) {
    return command->add_option_function<std::string>(
        "MODEL", [flags](const std::string& path) { flags->shorthands.emplace_back("model.path", path); },
        "GGUF file, or model folder of Hugging Face");
  };
  // A device that KV fills within a minute, pages of 16 tokens, and the link of an accelerator of that size.
  const std::vector<std::pair<std::string, std::string>> small_device = {
      {"kv.device_bytes", "24MB"}, {"kv.host_bytes", "2GiB"}, {"kv.link_bytes", "2GB"}, {"kv.block_tokens", "16"}};

  CommonFlags layerkv_flags;
  BenchLayerKvOptions layerkv_options;
  CLI::App* layerkv = bench->add_subcommand("layerkv", "first tokens under each policy where KV memory is the limit");
  add_model(layerkv, &layerkv_flags);
  layerkv_options.AddTo(layerkv);
  add_study_settings(layerkv, &layerkv_flags);
  layerkv->callback(
      [&] { status = BenchStudy(layerkv_flags, layerkv_options, &BenchLayerKvCommand, small_device, argc, argv); });

  CommonFlags reserve_flags;
  BenchReserveOptions reserve_options;
  CLI::App* reserve = bench->add_subcommand("reserve", "memory held back at a start: search in virtual time");
  reserve_options.AddTo(reserve);
  add_study_settings(reserve, &reserve_flags);
  reserve->callback([&] {
    status = BenchStudy(reserve_flags, reserve_options, &BenchReserveCommand,
                        {{"kv.device_bytes", "59MB"},
                         {"kv.link_bytes", "2GB"},
                         {"kv.block_tokens", "16"},
                         {"sched.max_running", "256"}},
                        argc, argv);
  });

  CommonFlags ablation_flags;
  BenchAblationOptions ablation_options;
  CLI::App* ablation = bench->add_subcommand("ablation", "what each part of serving buys, row by row");
  add_model(ablation, &ablation_flags)->required();
  ablation_options.AddTo(ablation);
  add_study_settings(ablation, &ablation_flags);
  ablation->callback(
      [&] { status = BenchStudy(ablation_flags, ablation_options, &BenchAblationCommand, small_device, argc, argv); });

  CommonFlags skip_flags;
  BenchSkipOptions skip_options;
  CLI::App* skip = bench->add_subcommand("skip", "what each sublayer is worth, and drafts that pass some over");
  add_model(skip, &skip_flags)->required();
  skip_options.AddTo(skip);
  skip_flags.AddTo(skip);
  skip->callback([&] { status = BenchStudy(skip_flags, skip_options, &BenchSkipCommand, {}, argc, argv); });

  CommonFlags config_flags;
  CLI::App* config = app.add_subcommand("config", "every setting, its value and where it came from");
  config_flags.AddTo(config);
  config->callback([&] { status = ShowConfig(config_flags); });

  std::string completion_shell;
  CLI::App* completion = app.add_subcommand("completion", "what a shell reads to complete commands and flags");
  completion->add_option("SHELL", completion_shell, "bash, zsh or fish")->required();
  completion->callback([&] { status = CompletionCommand(ReadCommandTree(app), completion_shell); });

  ManOptions man_options;
  man_options.version = INTERLACE_VERSION;
  CLI::App* man = app.add_subcommand("man", "the man page of a command: interlace man serve | man -l -");
  man->add_option("COMMAND", man_options.command, "whose page; without one, that of the tool");
  man->add_option("--dir", man_options.folder, "folder into which the pages of it and all below it are written");
  man->callback([&] { status = ManCommand(ReadCommandTree(app), man_options); });

  std::vector<std::string> arguments = WithOurSpelling({argv + 1, argv + argc});
  std::reverse(arguments.begin(), arguments.end());  // as it takes them
  try {
    app.parse(std::move(arguments));
  } catch (const CLI::ParseError& e) {
    return app.exit(e);
  }
  if (!status.ok()) {
    std::fprintf(stderr, "interlace: %s\n", std::string(status.message()).c_str());
    return 1;
  }
  return exit_status;
}

}  // namespace
}  // namespace interlace

int main(int argc, char** argv) {
  interlace::BeginProcess();
  const int status = interlace::Main(argc, argv);
  if (std::fflush(stdout) == 0 && std::ferror(stdout) == 0) return status;
  std::fprintf(stderr, "interlace: what was printed is not all there: standard output cannot be written\n");
  return status == 0 ? 1 : status;
}
