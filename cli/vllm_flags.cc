#include "cli/vllm_flags.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "checkpoint/peft_adapter.h"
#include "common/config.h"
#include "common/status_macros.h"

namespace interlace {
namespace {

using Value = absl::StatusOr<std::string>;

Value AsItIs(absl::string_view text) { return std::string(text); }

Value Count(absl::string_view text) {
  ASSIGN_OR_RETURN(const int64_t count, ParseCount(text));
  return absl::StrCat(count);
}

Value ContextLength(absl::string_view text) {
  return text == "auto" || text == "-1" ? Value("0") : Count(text);  // the model's
}

Value Gibibytes(absl::string_view text) {
  double size = 0;
  if (!absl::SimpleAtod(text, &size) || !(size >= 0) || size > 0x1p20) {
    return absl::InvalidArgumentError("is no number of GiB");
  }
  return absl::StrCat(static_cast<int64_t>(size * 0x1p30));
}

Value Seconds(absl::string_view text) {
  double seconds = 0;
  if (!absl::SimpleAtod(text, &seconds)) return absl::InvalidArgumentError("is no number of seconds");
  return absl::StrCat(text, "s");
}

// One of `choices`: vLLM's name, then ours.
template <size_t N>
Value Choice(absl::string_view text, const std::pair<absl::string_view, absl::string_view> (&choices)[N]) {
  std::string known;
  for (const auto& [theirs, ours] : choices) {
    if (text == theirs) return std::string(ours);
    absl::StrAppend(&known, known.empty() ? "" : ", ", theirs);
  }
  return absl::InvalidArgumentError(absl::StrCat("is not built in; these are: ", known));
}

Value KvType(absl::string_view text) {
  return Choice(text, {{"auto", ""}, {"bfloat16", "bf16"}, {"float16", "f16"}, {"float32", "f32"}, {"int8", "i8"}});
}

Value Scheduling(absl::string_view text) { return Choice(text, {{"fcfs", "fcfs"}, {"priority", "priority"}}); }

Value ToolParser(absl::string_view text) {
  return Choice(text, {{"hermes", "hermes"}, {"llama3_json", "llama3"}, {"llama3", "llama3"}, {"mistral", "mistral"}});
}

Value ReasoningParser(absl::string_view text) { return Choice(text, {{"qwen3", "think"}, {"deepseek_r1", "think"}}); }

Value LogLevel(absl::string_view text) {
  return Choice(text, {{"debug", "debug"},
                       {"trace", "debug"},
                       {"info", "info"},
                       {"warning", "warning"},
                       {"error", "error"},
                       {"critical", "error"}});
}

// A JSON list of strings, as vLLM's takes it, or one origin.
Value Origins(absl::string_view text) {
  std::string list(text);
  if (absl::ConsumePrefix(&text, "[") && absl::ConsumeSuffix(&text, "]")) {
    list = std::string(text);
    list.erase(std::remove_if(list.begin(), list.end(), [](char c) { return c == '"' || c == '\'' || c == ' '; }),
               list.end());
  }
  return list.empty() ? Value("none") : Value(list);
}

// NAME=FOLDER, or an object of JSON with name and path.
Value Adapter(absl::string_view text) {
  std::string pair(text);
  if (absl::StartsWith(text, "{")) {
    const auto json = nlohmann::json::parse(text.begin(), text.end(), nullptr, /*allow_exceptions=*/false);
    const auto member = [&json](const char* name) {
      const bool there = json.is_object() && json.contains(name) && json[name].is_string();
      return there ? json[name].get<std::string>() : std::string();
    };
    pair = absl::StrCat(member("name"), "=", member("path"));
  }
  const absl::StatusOr<std::vector<AdapterPlace>> places = ParseAdapterPlaces(pair);
  if (places.ok() && places->size() == 1) return pair;
  return absl::InvalidArgumentError("is not NAME=FOLDER");
}

constexpr VllmFlag kFlags[] = {
    {"--max-model-len", "model.max_len", "tokens of a prompt and its answer: 8192, 25.6k, 32K, or auto", ContextLength},
    {"--served-model-name", "model.name", "name under which clients ask for the model", AsItIs},
    {"--lora-modules", "model.adapters", "LoRA adapters, NAME=FOLDER each", Adapter, /*many=*/true},
    {"--max-lora-rank", "model.max_adapter_rank", "largest rank of adapters that come while the server runs", Count},
    {"--max-num-seqs", "sched.max_running", "requests that hold KV at once", Count},
    {"--max-num-batched-tokens", "sched.step_tokens", "tokens of a step over all requests", Count},
    {"--block-size", "kv.block_tokens", "tokens in a KV block", Count},
    {"--kv-cache-dtype", "kv.dtype", "type in which KV is kept: auto, bfloat16, float16, float32 or int8", KvType},
    {"--kv-cache-memory-bytes", "kv.device_bytes", "device KV arena of a rank, such as 8G", AsItIs},
    {"--kv-offloading-size", "kv.host_bytes", "GiB of a rank's host memory for KV", Gibibytes},
    {"--scheduling-policy", "sched.policy", "fcfs or priority; ours are more", Scheduling},
    {"--chat-template", "model.chat_template", "file of a Jinja chat template", AsItIs},
    {"--tool-call-parser", "http.tool_parser", "how the model writes calls of tools", ToolParser},
    {"--reasoning-parser", "http.reasoning_parser", "how the model writes its thought", ReasoningParser},
    {"--allowed-origins", "http.cors", "origins whose pages may ask", Origins},
    {"--ssl-certfile", "server.tls_cert", "PEM file of the doors' certificate", AsItIs},
    {"--ssl-keyfile", "server.tls_key", "PEM file of its key", AsItIs},
    {"--ssl-ca-certs", "server.tls_client_ca", "PEM file of the authorities of clients' certificates", AsItIs},
    {"--otlp-traces-endpoint", "telemetry.otlp_endpoint", "collector of OpenTelemetry, http://HOST:4318", AsItIs},
    {"--shutdown-timeout", "server.drain_timeout", "seconds that running requests have at a stop", Seconds},
    {"--uvicorn-log-level", "log.level", "debug, info, warning or error", LogLevel},
};

constexpr UnbuiltFlag kUnbuilt[] = {
    {"--model", "name it first: interlace serve MODEL"},
    {"--gpu-memory-utilization", "say how much memory KV may take, with --device-kv 8GiB"},
    {"--num-gpu-blocks-override", "say how much memory KV may take, with --device-kv 8GiB"},
    {"--cpu-offload-gb", "weights stay where ranks compute; KV leaves the device, with --host-kv 8GiB"},
    {"--swap-space", "say how much host memory KV may take, with --host-kv 8GiB"},
    {"--dtype", "weights are computed with as the file has them; --set kv.dtype says how KV is kept", "auto"},
    {"--quantization", "how weights are quantised is read from the file or the folder"},
    {"--load-format", "the format is read from the file or the folder", "auto"},
    {"--tokenizer", "the tokenizer is the model's own: put its files into the model's folder"},
    {"--tokenizer-mode", "the tokenizer is the model's own", "auto"},
    {"--revision", "MODEL is a file or a folder of this machine: fetch the revision first"},
    {"--tokenizer-revision", "MODEL is a file or a folder of this machine: fetch the revision first"},
    {"--download-dir", "MODEL is a file or a folder of this machine: fetch it first"},
    {"--hf-token", "MODEL is a file or a folder of this machine: fetch it first"},
    {"--hf-overrides", "change config.json in the model's folder"},
    {"--hf-config-path", "config.json is that of the model's folder"},
    {"--generation-config", "generation_config.json is that of the model's folder", "auto"},
    {"--override-generation-config", "change generation_config.json in the model's folder"},
    {"--rope-scaling", "change config.json in the model's folder"},
    {"--seed", "the seed is a request's own"},
    {"--max-logprobs", "a request may ask for up to 20"},
    {"--enable-expert-parallel", "--tensor-parallel-size splits experts, too"},
    {"--distributed-executor-backend", "serve starts the ranks itself; docs/operations.md tells of several machines"},
    {"--nnodes", "docs/operations.md tells of a cluster on several machines"},
    {"--node-rank", "docs/operations.md tells of a cluster on several machines"},
    {"--master-addr", "docs/operations.md tells of a cluster on several machines"},
    {"--headless", "docs/operations.md tells of a cluster on several machines"},
    {"--api-server-count", "one coordinator parses and tokenises on several threads", "1"},
    {"--lora-dtype", "adapters are computed with as F32", "auto"},
    {"--speculative-config",
     "--draft-model MODEL guesses by a second model, --set sched.speculate=ngram from what a request said before"},
    {"--kv-transfer-config", "use --rocksdb FOLDER, or --kvstore"},
    {"--kv-offloading-backend", "use --host-kv, --rocksdb FOLDER or --kvstore"},
    {"--kv-events-config", "set kv_events.* (docs/kv-events.md)"},
    {"--no-enable-prefix-caching", "prefixes are always shared; cache_salt of a request keeps it apart"},
    {"--no-enable-chunked-prefill", "prompts are always computed in pieces; --set sched.chunk_tokens says how large"},
    {"--structured-outputs-config", "structured outputs need no backend to be chosen"},
    {"--guided-decoding-backend", "structured outputs need no backend to be chosen"},
    {"--limit-mm-per-prompt", "text alone is served"},
    {"--mm-processor-kwargs", "text alone is served"},
    {"--runner", "generations and embeddings are served side by side"},
    {"--task", "generations and embeddings are served side by side"},
    {"--compilation-config", "nothing is compiled when a server starts"},
    {"--attention-backend", "--set engine.ops chooses the instructions"},
    {"--uds", "the doors listen on TCP: --host and --port"},
    {"--root-path", "a proxy takes the path's beginning away before it asks here"},
    {"--middleware", "the doors run no Python"},
    {"--tool-parser-plugin", "the doors run no Python"},
    {"--ssl-cert-reqs", "with --ssl-ca-certs clients need a certificate, without it they need none"},
    {"--chat-template-content-format", "templates get content as they ask for it"},
    {"--response-role", "the role of answers is assistant"},
    {"--return-tokens-as-token-ids", "answers hold text; Generate of gRPC gives the ids of tokens, too"},
};

constexpr absl::string_view kBoundless[] = {"--max-loras", "--max-cpu-loras"};

constexpr absl::string_view kNeedless[] = {"--enable-prefix-caching",
                                           "--enable-lora",
                                           "--fully-sharded-loras",
                                           "--enable-chunked-prefill",
                                           "--enable-auto-tool-choice",
                                           "--async-scheduling",
                                           "--enable-prompt-tokens-details",
                                           "--enable-server-load-tracking",
                                           "--enforce-eager",
                                           "--trust-remote-code",
                                           "--disable-log-requests",
                                           "--no-enable-log-requests"};

}  // namespace

absl::Span<const VllmFlag> VllmFlags() { return kFlags; }
absl::Span<const UnbuiltFlag> UnbuiltVllmFlags() { return kUnbuilt; }
absl::Span<const absl::string_view> NeedlessVllmFlags() { return kNeedless; }
absl::Span<const absl::string_view> BoundlessVllmFlags() { return kBoundless; }

void AddVllmFlags(CLI::App* serve, std::vector<std::pair<std::string, std::string>>* settings) {
  for (const VllmFlag& flag : kFlags) {
    const auto set = [&flag, settings](const std::vector<std::string>& texts) {
      std::vector<std::string> values;
      for (const std::string& text : texts) {
        const absl::StatusOr<std::string> value = flag.value(text);
        if (!value.ok()) {
          throw CLI::ValidationError(std::string(flag.flag), absl::StrCat("'", text, "' ", value.status().message()));
        }
        values.push_back(*value);
      }
      const std::string value = absl::StrJoin(values, ",");
      if (!value.empty()) settings->emplace_back(std::string(flag.field), value);
    };
    const std::string meaning = absl::StrCat(flag.meaning, " (", flag.field, ")");
    if (flag.many) {
      serve->add_option_function<std::vector<std::string>>(std::string(flag.flag), set, meaning);
      continue;
    }
    const auto set_one = [set](const std::string& text) { set({text}); };
    serve->add_option_function<std::string>(std::string(flag.flag), set_one, meaning);
  }
  for (const UnbuiltFlag& flag : kUnbuilt) {
    const auto refuse = [&flag](const std::vector<std::string>& values) {
      if (!flag.usual.empty() && values.size() == 1 && values[0] == flag.usual) return;
      throw CLI::ValidationError(std::string(flag.flag),
                                 absl::StrCat("is a flag of vLLM that is not built in: ", flag.instead));
    };
    serve->add_option_function<std::vector<std::string>>(std::string(flag.flag), refuse)
        ->expected(0, 1)
        ->allow_extra_args(false)
        ->group("");
  }
  for (const absl::string_view flag : kBoundless) {
    serve->add_option_function<std::string>(std::string(flag), [](const std::string&) {})->group("");
  }
  for (const absl::string_view flag : kNeedless) serve->add_flag(std::string(flag))->group("");
}

std::vector<std::string> WithOurSpelling(std::vector<std::string> arguments) {
  if (arguments.empty() || arguments[0] != "serve") return arguments;
  static constexpr std::pair<absl::string_view, absl::string_view> kShort[] = {
      {"-tp", "--tensor-parallel-size"}, {"-pp", "--pipeline-parallel-size"}, {"-dp", "--data-parallel-size"}};
  for (std::string& argument : arguments) {
    if (argument == "--") break;
    const size_t end = std::min(argument.size(), argument.find('='));
    std::string name = argument.substr(0, end);
    for (const auto& [theirs, ours] : kShort) {
      if (name == theirs) name = std::string(ours);
    }
    if (absl::StartsWith(name, "--")) std::replace(name.begin(), name.end(), '_', '-');
    argument.replace(0, end, name);
  }
  return arguments;
}

absl::StatusOr<int64_t> ParseCount(absl::string_view text) {
  static constexpr std::pair<char, double> kUnits[] = {{'k', 1e3},    {'m', 1e6},    {'g', 1e9},
                                                       {'K', 0x1p10}, {'M', 0x1p20}, {'G', 0x1p30}};
  absl::string_view digits = text;
  double factor = 1;
  for (const auto& [unit, times] : kUnits) {
    if (!text.empty() && text.back() == unit) {
      factor = times;
      digits.remove_suffix(1);
    }
  }
  double number = 0;
  const bool plain = !digits.empty() && digits.find_first_not_of("0123456789.") == absl::string_view::npos;
  const bool binary = factor != 1 && absl::ascii_isupper(static_cast<unsigned char>(text.back()));
  if (plain && absl::SimpleAtod(digits, &number) && number * factor <= 0x1p53) {
    const double count = std::round(number * factor);
    const bool whole = binary || factor == 1 ? digits.find('.') == absl::string_view::npos
                                             : std::abs(count - number * factor) < 1e-6 * std::max(1.0, count);
    if (whole) return static_cast<int64_t>(count);
  }
  return absl::InvalidArgumentError("is no whole number such as 8192, 25.6k (25600) or 32K (32768)");
}

}  // namespace interlace
