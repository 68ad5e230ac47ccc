#include "common/config.h"

#include <cmath>
#include <cstdlib>
#include <fstream>
#include <limits>
#include <set>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "common/status_macros.h"

namespace interlace {
namespace {

absl::Status ParseValue(absl::string_view text, std::string* out) {
  *out = std::string(text);
  return absl::OkStatus();
}
absl::Status ParseValue(absl::string_view text, int64_t* out) {
  if (!absl::SimpleAtoi(text, out)) return absl::InvalidArgumentError("is not an integer");
  return absl::OkStatus();
}
absl::Status ParseValue(absl::string_view text, bool* out) {
  if (text != "true" && text != "false")
    return absl::InvalidArgumentError("is no truth value: it must be true or false");
  *out = text == "true";
  return absl::OkStatus();
}
absl::Status ParseValue(absl::string_view text, Bytes* out) { return ParseBytes(text, out); }
absl::Status ParseValue(absl::string_view text, absl::Duration* out) {
  if (!absl::ParseDuration(std::string(text), out) || *out < absl::ZeroDuration()) {
    return absl::InvalidArgumentError("is not a duration such as 250ms or 2s");
  }
  return absl::OkStatus();
}

// Empty: none.
absl::Status ParseValue(absl::string_view text, std::optional<absl::Duration>* out) {
  absl::Duration duration;
  if (text.empty()) {
    out->reset();
    return absl::OkStatus();
  }
  RETURN_IF_ERROR(ParseValue(text, &duration));
  *out = duration;
  return absl::OkStatus();
}

std::string PrintValue(const std::string& value) { return value; }
std::string PrintValue(int64_t value) { return absl::StrCat(value); }
std::string PrintValue(bool value) { return value ? "true" : "false"; }
std::string PrintValue(Bytes value) { return PrintBytes(value); }
std::string PrintValue(absl::Duration value) { return absl::FormatDuration(value); }
std::string PrintValue(std::optional<absl::Duration> value) { return value ? PrintValue(*value) : std::string(); }

constexpr absl::string_view TypeName(const std::string&) { return "text"; }
constexpr absl::string_view TypeName(int64_t) { return "integer"; }
constexpr absl::string_view TypeName(bool) { return "true or false"; }
constexpr absl::string_view TypeName(Bytes) { return "bytes"; }
constexpr absl::string_view TypeName(absl::Duration) { return "duration"; }
constexpr absl::string_view TypeName(std::optional<absl::Duration>) { return "duration"; }

// What a value may be: `low` to `high`, both included. Texts have no bounds.
template <typename T>
struct Bounds {
  T low, high;
};
int64_t Size(int64_t value) { return value; }
int64_t Size(Bytes value) { return value.value; }
absl::Duration Size(absl::Duration value) { return value; }
template <typename T>
absl::Status CheckBounds(const T& value, const Bounds<T>& bounds) {
  if (Size(value) >= Size(bounds.low) && Size(value) <= Size(bounds.high)) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("is out of range: it must be ", PrintValue(bounds.low), " to ", PrintValue(bounds.high)));
}

template <typename T>
absl::Status CheckBounds(const std::optional<T>& value, const Bounds<T>& bounds) {
  return value ? CheckBounds(*value, bounds) : absl::OkStatus();
}

template <typename Get>
ConfigField Field(absl::string_view name, Get get, absl::string_view meaning) {
  Config probe;
  return {name, TypeName(*get(probe)), meaning,
          [get](Config& config, absl::string_view text) { return ParseValue(text, get(config)); },
          [get](const Config& config) { return PrintValue(*get(const_cast<Config&>(config))); }};
}

template <typename Get, typename T>
ConfigField Field(absl::string_view name, Get get, Bounds<T> bounds, absl::string_view meaning) {
  ConfigField field = Field(name, get, meaning);
  field.parse = [get, bounds](Config& config, absl::string_view text) {
    std::decay_t<decltype(*get(config))> value;
    RETURN_IF_ERROR(ParseValue(text, &value));
    RETURN_IF_ERROR(CheckBounds(value, bounds));
    *get(config) = value;
    return absl::OkStatus();
  };
  return field;
}

constexpr size_t kMostConfigBytes = 1 << 20;  // of a file of settings
constexpr Bounds<int64_t> kPort{0, 65535};
constexpr Bounds<int64_t> kStages{1, 1024};  // a model has fewer layers; which it has, serve and the coordinator know
constexpr Bounds<int64_t> kTensorRanks{1, 256};
constexpr Bounds<int64_t> kSequenceRanks{1, 256};
constexpr Bounds<int64_t> kReplicas{1, 1024};
constexpr Bounds<int64_t> kCount{1, std::numeric_limits<int32_t>::max()};
constexpr Bounds<int64_t> kCountOrNone{0, std::numeric_limits<int32_t>::max()};
constexpr Bounds<int64_t> kTokensOfAStep{1, 1 << 20};
constexpr Bounds<int64_t> kAdapterRank{1, 4096};                               // PeftAdapter::kMostRank
constexpr Bounds<Bytes> kMessage{{1}, {std::numeric_limits<int32_t>::max()}};  // gRPC counts in 32 bits
constexpr Bounds<Bytes> kMemory{{1}, {int64_t{1} << 60}};
constexpr Bounds<Bytes> kIndexMemory{{int64_t{1} << 20}, {int64_t{1} << 40}};
// A wait of nothing would be over before it began.
const Bounds<absl::Duration> kWait{absl::Milliseconds(1), absl::Hours(24 * 365)};
const Bounds<absl::Duration> kLease{absl::Milliseconds(200), absl::Hours(1)};
// As the doors take them.
const Bounds<absl::Duration> kTarget{absl::Microseconds(1), absl::Hours(24 * 365)};

#define FIELD(group, field, meaning) \
  Field(                             \
      #group "." #field, [](Config& c) { return &c.group.field; }, meaning)
#define BOUNDED(group, field, bounds, meaning) \
  Field(                                       \
      #group "." #field, [](Config& c) { return &c.group.field; }, bounds, meaning)

}  // namespace

const std::vector<ConfigField>& ConfigSchema() {
  static const std::vector<ConfigField>* schema = new std::vector<ConfigField>{
      FIELD(model, path, "GGUF file of the model, or folder with config.json and model.safetensors"),
      FIELD(model, name, "name under which clients ask for the model; empty: the file's name"),
      FIELD(model, chat_template, "file of a Jinja chat template to use instead of the model's; empty: the model's"),
      FIELD(model, adapters,
            "LoRA adapters that requests may ask for by name, folders as PEFT saves them: NAME=FOLDER,NAME=FOLDER; "
            "empty: none"),
      FIELD(model, runtime_adapters,
            "true: operators load and unload adapters while the server runs (/v1/load_lora_adapter); false: 404 there"),
      FIELD(model, adapter_dir, "folder, the same on each machine, in which adapters lie that come while it runs"),
      BOUNDED(model, max_adapters, kCount, "adapters that are served, those of model.adapters included"),
      BOUNDED(model, max_adapter_rank, kAdapterRank, "largest rank of adapters that come while the server runs"),
      BOUNDED(model, adapter_bytes, kMemory, "bytes that the matrices of all adapters may take on a rank"),
      BOUNDED(model, max_len, kCountOrNone,
              "tokens of a prompt and its answer together, no more than the model's context; 0: all of that"),
      FIELD(server, host, "address on which HTTP and gRPC listen"),
      BOUNDED(server, http_port, kPort, "OpenAI HTTP port; 0 picks a free one"),
      BOUNDED(server, grpc_port, kPort, "gRPC port; 0 picks a free one"),
      FIELD(server, api_keys,
            "file of API keys and limits of tenants, read again on SIGHUP; empty: none (docs/http.md)"),
      FIELD(server, api_key,
            "one API key, of an operator without limits; empty: none. Without either no key is needed"),
      FIELD(server, keyless,
            "what needs no API key besides /health, /ready, /ping, /version: metrics, ui; empty: nothing"),
      FIELD(server, tls_cert, "PEM file of the doors' certificate chain; empty: they speak in the clear"),
      FIELD(server, tls_key, "PEM file of its key"),
      FIELD(server, tls_client_ca, "PEM file of authorities: clients need a certificate of one; empty: they need none"),
      FIELD(server, drain_timeout, "how long requests that run may go on when the server stops"),
      FIELD(http, ui, "true: the page /ui, and /ui/state and /ui/explain, on the HTTP port; false: 404 there"),
      FIELD(http, tool_parser,
            "how the model writes calls of tools: auto (as its chat template shows), hermes, llama3, mistral, none"),
      FIELD(http, reasoning_parser,
            "think: <think>..</think> at the begin of a chat's answer is reasoning; none; auto: as the template shows"),
      BOUNDED(http, max_choices, kCount, "choices of one request: its prompts times n"),
      FIELD(http, request_templates, "true: a request may bring its own chat_template; false: refused"),
      FIELD(http, cors,
            "origins whose pages may ask: a list with commas, * for any, none, or auto: any on loopback, else none"),
      BOUNDED(http, all_bodies, kMemory,
              "bytes of the bodies that are being read, of all connections together; above it 503"),
      BOUNDED(http, max_connections, kCount,
              "connections; above it 503. Fewer if the system gives the process fewer descriptors"),
      FIELD(cluster, listen, "address on which the coordinator takes ranks"),
      FIELD(cluster, coordinator,
            "coordinator address that a rank dials; of several, with commas, it serves the one that leads"),
      BOUNDED(cluster, stages, kStages, "pipeline stages of a replica"),
      BOUNDED(cluster, tensor_ranks, kTensorRanks, "ranks that share the layers of each stage, by heads and columns"),
      BOUNDED(cluster, sequence_ranks, kSequenceRanks,
              "ranks of each stage, all with all of its weights and KV, that divide the rows of long prompts"),
      BOUNDED(cluster, replicas, kReplicas,
              "copies of the model, each of so many stages and ranks; requests are routed to those that are there"),
      FIELD(cluster, replica, "replica that this rank is part of, from 0"),
      FIELD(cluster, stage, "pipeline stage of this rank, from 0"),
      FIELD(cluster, tensor_rank, "which of those that share the stage this rank is, from 0"),
      FIELD(cluster, sequence_rank, "which of those that divide the rows of the stage this rank is, from 0"),
      BOUNDED(cluster, rank_timeout, kWait, "how long a plan may run before its rank counts as lost"),
      FIELD(cluster, reform_timeout,
            "how long requests wait for a lost rank to come back before they end with an error"),
      FIELD(cluster, secret_file,
            "file of at least 32 bytes that all processes of the cluster share (openssl rand -hex 32), by which they "
            "know "
            "each other; needed beyond loopback; serve makes one of its own"),
      FIELD(cluster, tls_ca,
            "PEM file of the authority of the certificates that processes of the cluster show each other over gRPC; "
            "empty: one is made of the secret"),
      FIELD(cluster, tls_cert, "PEM file of this process's certificate, with those between it and the authority"),
      FIELD(cluster, tls_key, "PEM file of its key"),
      FIELD(cluster, tls_name, "name expected in the certificates of coordinator and kvstore; empty: the host dialled"),
      FIELD(cluster, insecure,
            "true: processes may listen beyond loopback although the cluster has no secret: whoever reaches them is a "
            "member"),
      FIELD(coordinator, state,
            "file in which the coordinator keeps what it has learned about the time that steps and transfers take; "
            "empty: nothing is kept"),
      FIELD(
          election, backend,
          "where the coordinators of a cluster agree on which of them leads: etcd, kubernetes, or none: this one leads "
          "alone"),
      FIELD(election, endpoints,
            "addresses of etcd, HOST:PORT with commas; or the URL of Kubernetes' API server, empty: that of the pod's "
            "own "
            "cluster"),
      FIELD(
          election, key,
          "key of the leader's record in etcd, or NAMESPACE/NAME of a Lease of Kubernetes; each cluster has one of its "
          "own"),
      BOUNDED(
          election, lease, kLease,
          "how long the leader's record stays unchanged before another coordinator takes the lead; the same for all "
          "of them"),
      FIELD(election, host, "host under which clients reach this coordinator's doors; empty: server.host"),
      FIELD(election, tls_ca,
            "PEM file of the authority of etcd's certificates, empty: etcd is spoken to in the clear; or of the API "
            "server's, empty: the pod's own"),
      FIELD(election, tls_cert, "PEM file of the certificate that is shown to etcd; empty: none is"),
      FIELD(election, tls_key, "PEM file of its key"),
      FIELD(router, policy, "which of several replicas a request goes to: prefix, load, slack, session or round_robin"),
      FIELD(
          router, roles,
          "what each of several replicas is for, in the order of their numbers: prefill:2,decode:2 (prefill, decode or "
          "both); empty: all do both. Needs a kvstore that all ranks reach (kv.tiers=remote)"),
      FIELD(cache, responses,
            "whether the answers of greedy requests are kept and serve others of the same tenant: off; exact, for the "
            "same prompt; semantic, also for prompts like it, which now and then gives a wrong answer "
            "(docs/response-cache.md)"),
      BOUNDED(cache, bytes, kMemory, "memory of answers that are kept"),
      BOUNDED(cache, ttl, kWait, "how long an answer is kept"),
      FIELD(cache, error, "share of requests that may get the answer to a prompt that only seemed alike, 0.001 to 0.2"),
      FIELD(skip, index,
            "true: streams that draft by passes over some of the model's layers (sched.speculate=self, auto) pass over "
            "what served prompts like theirs best; false: over evenly spread ones"),
      BOUNDED(skip, index_bytes, kIndexMemory, "memory of what is learned for that, of all replicas together"),
      FIELD(
          skip, file,
          "file in which the coordinator keeps it; empty: the name of coordinator.state and .skip, or nothing is kept"),
      FIELD(skip, layer, "layer of the model behind which prompts are compared, from 0"),
      FIELD(skip, explore, "share of the time of all streams that trying plans may cost, 0 to 1"),
      FIELD(skip, bounded,
            "true: requests may ask for fidelity=bounded, whose steps pass over some of the model's layers and are "
            "audited "
            "now and then: their answers may differ from the model's own"),
      FIELD(skip, bounded_share,
            "share of the sublayers that steps of such requests pass over where nothing better is known, above 0 to 1"),
      FIELD(
          skip, least_agreement,
          "share of audited steps that must agree with the whole model, above 0 to 1: the least that a request may ask "
          "for, and what counts if it asks for none; a stream that stays below it is computed whole from then on"),
      BOUNDED(skip, audit_every, (Bounds<int64_t>{1, 65536}), "of so many steps of such a request one is audited"),
      FIELD(engine, backend, "cpu or cuda"),
      BOUNDED(engine, threads, (Bounds<int64_t>{0, 4096}), "compute threads of a rank; 0: one per core"),
      FIELD(engine, ops, "auto, reference, avx2, avx512 or avx512bf16"),
      FIELD(engine, draft_model,
            "GGUF file or model folder of a smaller model with the same vocabulary, whose guesses each rank verifies "
            "(sched.speculate=draft-model, auto); empty: none. Needs replicas of one rank"),
      BOUNDED(engine, draft_kv, kMemory, "device memory of a rank for the KV of engine.draft_model"),
      FIELD(kv, block_tokens, "tokens in a KV block"),
      FIELD(kv, dtype,
            "type in which KV is kept: f32, f16 (more digits, least range), bf16 or i8 (changes what a model says a "
            "little)"),
      FIELD(kv, keep_layers, "layers of each request kept in device memory: a number, or auto"),
      BOUNDED(kv, device_bytes, kMemory, "device KV arena of a rank"),
      FIELD(kv, host_bytes, "host memory of a rank for KV that is not on the device; 0: nothing leaves the device"),
      FIELD(kv, rocksdb_dir, "folder of a rank's RocksDB tier"),
      FIELD(kv, rocksdb_bytes, "bound of a rank's RocksDB tier"),
      FIELD(kv, remote, "control address of the kvstore behind the remote tier"),
      FIELD(kv, secret, "of the cluster; part of the names of blocks, so that nobody can make them up; empty: none"),
      FIELD(kv, tiers, "tiers below the host memory, first choice first: rocksdb, remote; empty: none"),
      FIELD(
          kv, link_bytes,
          "bytes a second of an emulated link between device and host, for experiments on machines where both are the "
          "same memory; 0: none"),
      BOUNDED(kv, read_timeout, kWait, "how long a tier may take to give a block before it counts as not held"),
      FIELD(kv_events, grpc,
            "true: SubscribeKvEvents of VllmEngine tells routers which blocks lie on the device and on the host "
            "(docs/kv-events.md)"),
      FIELD(kv_events, zmq, "HOST:PORT on which the same is published over ZeroMQ as vLLM does; empty: it is not"),
      FIELD(kv_events, zmq_replay, "HOST:PORT on which a ZeroMQ reader may ask for what it missed; empty: none"),
      FIELD(kv_events, topic, "first frame of what is published, such as kv@POD@MODEL"),
      FIELD(transport, host,
            "numeric address on which a rank takes plans and activations, and a kvstore KV; the coordinator and the "
            "other ranks must reach it; 0.0.0.0: all of the machine's; empty: of a rank, the one from which it reaches "
            "cluster.coordinator, of a kvstore, that of kvstore.listen"),
      FIELD(
          transport, tls,
          "transports of UCX that may carry them, such as rc,ud; auto: RDMA where the machine has it; none: TCP alone"),
      FIELD(transport, devices, "network devices that UCX may use, such as mlx5_0:1; all: any"),
      FIELD(transport, mac,
            "which messages between processes carry a keyed check of their body, against changes on the way: control "
            "(all "
            "but activations and KV, whose headers alone do), all, or auto: all, but control on loopback"),
      FIELD(kvstore, listen, "control address of the kvstore"),
      FIELD(kvstore, host_bytes, "memory of the kvstore"),
      FIELD(kvstore, rocksdb_dir, "RocksDB folder of the kvstore; empty: memory alone"),
      FIELD(kvstore, rocksdb_bytes, "bound of the kvstore's RocksDB"),
      FIELD(sched, policy,
            "who is served when, and which layers stay: slack, layerkv, fcfs, swap, stream, priority, edf or fair"),
      FIELD(sched, reserve,
            "blocks left free for those who run when another starts: none, share:NUMBER, cap:NUMBER or quantile"),
      BOUNDED(sched, max_parked, kCountOrNone,
              "requests that may wait on the host after their first token, or run with less than all layers"),
      BOUNDED(sched, chunk_tokens, kTokensOfAStep, "prompt tokens of one request in one step"),
      BOUNDED(sched, step_tokens, kTokensOfAStep, "tokens of one step over all requests"),
      BOUNDED(sched, max_running, kCount, "requests that hold KV at once"),
      BOUNDED(
          sched, turns, kCountOrNone,
          "groups in which streams take turns on the stages of a pipeline; 0: one for each stage; 1: all run together, "
          "which is best where the stages share the same cores"),
      BOUNDED(sched, max_waiting, kCount, "requests that may wait; above it clients get 429"),
      FIELD(sched, max_queue_time,
            "how long the queue may be: until a request that comes would start, by what others took of late; above it "
            "clients get 429 and when to ask again; 0: as long as sched.max_waiting allows"),
      BOUNDED(sched, max_recomputes, kCountOrNone, "times one request may be rolled back for lost KV before it fails"),
      FIELD(sched, speculate,
            "guesses of what a stream says next, verified so that no token changes: off; ngram, from what it said "
            "before; self, by passes over some of the model's layers; draft-model, by engine.draft_model; auto, "
            "whichever pays"),
      BOUNDED(sched, draft_tokens, kCountOrNone, "the most tokens that a stream guesses a step; 0: none"),
      FIELD(sched, release,
            "when clients get tokens: now, or pace: of a request with a TPOT no sooner than that asks, so that what "
            "comes "
            "early lasts through a pause; the last ones with its end"),
      FIELD(sched, shed,
            "whether a request that is predicted to miss its TTFT or deadline is told so at once, with 429: true or "
            "false"),
      BOUNDED(request, max_tokens, kCountOrNone, "tokens generated when the client names none; 0: up to the context"),
      BOUNDED(request, deadline, kWait, "deadline of a request that names none"),
      BOUNDED(request, max_body, kMessage, "largest HTTP body or gRPC message"),
      BOUNDED(slo, ttft, kTarget,
              "arrival to first token that a request aims at if it names nothing else; empty: none"),
      BOUNDED(slo, tpot, kTarget, "mean gap between tokens that a request aims at if it names none; empty: none"),
      BOUNDED(slo, largest_gap, kTarget, "largest gap between tokens, likewise"),
      FIELD(log, level, "debug, info, warning or error"),
      FIELD(log, format, "text or json"),
      FIELD(
          telemetry, otlp_endpoint,
          "collector of OpenTelemetry that takes spans of requests over HTTP, http://HOST:4318; empty: none are sent"),
      FIELD(telemetry, service_name, "name of this service in spans"),
      FIELD(fault, points, "fault points to arm, name:probability,... (tests only)"),
      FIELD(fault, seed, "seed of the fault points"),
  };
  return *schema;
}

absl::Status ConfigBuilder::Set(absl::string_view assignment, absl::string_view origin) {
  std::pair<absl::string_view, absl::string_view> parts = absl::StrSplit(assignment, absl::MaxSplits('=', 1));
  const absl::string_view name = absl::StripAsciiWhitespace(parts.first);
  if (assignment.find('=') == absl::string_view::npos) {
    return absl::InvalidArgumentError(absl::StrCat("'", assignment, "' is not field=value"));
  }
  std::vector<absl::string_view> group;
  const absl::string_view prefix = name.substr(0, name.find('.'));
  for (const ConfigField& field : ConfigSchema()) {
    if (field.name == name) {
      const absl::string_view text = absl::StripAsciiWhitespace(parts.second);
      absl::Status status = field.parse(config_, text);
      if (!status.ok()) {
        return absl::InvalidArgumentError(
            absl::StrCat(name, "='", text, "' ", status.message(), " (", field.meaning, ")"));
      }
      origins_.emplace_back(std::string(name), std::string(origin));
      return absl::OkStatus();
    }
    if (field.name.substr(0, field.name.find('.')) == prefix) group.push_back(field.name);
  }
  return absl::InvalidArgumentError(
      group.empty() ? absl::StrCat("no setting is called '", name, "'; `interlace config` lists them all")
                    : absl::StrCat("no setting is called '", name, "'; its group has ", absl::StrJoin(group, ", ")));
}

absl::Status ConfigBuilder::ReadFile(const std::string& path) {
  std::ifstream file(path);
  if (!file) return absl::NotFoundError(absl::StrCat("configuration file ", path, " cannot be read"));
  std::string text(kMostConfigBytes + 1, '\0');
  file.read(text.data(), static_cast<std::streamsize>(text.size()));
  text.resize(static_cast<size_t>(file.gcount()));
  if (text.size() > kMostConfigBytes) {
    return absl::InvalidArgumentError(absl::StrCat("configuration file ", path, " has more than ", kMostConfigBytes,
                                                   " bytes; it should have a line for each setting"));
  }
  int number = 0;
  for (const absl::string_view line : absl::StrSplit(text, '\n')) {
    ++number;
    const absl::string_view setting = absl::StripAsciiWhitespace(line.substr(0, line.find('#')));
    if (setting.empty()) continue;
    const std::string origin = absl::StrCat("file ", path, ":", number);
    absl::Status status = Set(setting, origin);
    if (!status.ok()) return absl::InvalidArgumentError(absl::StrCat(origin, ": ", status.message()));
  }
  return absl::OkStatus();
}

absl::Status ConfigBuilder::ReadEnvironment() {
  for (const ConfigField& field : ConfigSchema()) {
    const std::string name =
        absl::StrCat("INTERLACE_", absl::AsciiStrToUpper(absl::StrReplaceAll(field.name, {{".", "_"}})));
    const char* value = std::getenv(name.c_str());
    if (value == nullptr || absl::StartsWith(value, "tcp://")) continue;
    RETURN_IF_ERROR(Set(absl::StrCat(field.name, "=", value), absl::StrCat("environment ", name)));
  }
  return absl::OkStatus();
}

absl::StatusOr<Config> ConfigBuilder::Build() const {
  const Config& c = config_;
  const auto refuse = [](absl::string_view field, const auto& value, absl::string_view why) {
    return absl::InvalidArgumentError(absl::StrCat(field, "=", value, " ", why));
  };
  if (c.cluster.stage < 0 || c.cluster.stage >= c.cluster.stages) {
    return refuse("cluster.stage", c.cluster.stage, absl::StrCat("must lie in [0, ", c.cluster.stages, ")"));
  }
  if (c.cluster.tensor_rank < 0 || c.cluster.tensor_rank >= c.cluster.tensor_ranks) {
    return refuse("cluster.tensor_rank", c.cluster.tensor_rank,
                  absl::StrCat("must lie in [0, ", c.cluster.tensor_ranks, ")"));
  }
  if (c.cluster.sequence_rank < 0 || c.cluster.sequence_rank >= c.cluster.sequence_ranks) {
    return refuse("cluster.sequence_rank", c.cluster.sequence_rank,
                  absl::StrCat("must lie in [0, ", c.cluster.sequence_ranks, ")"));
  }
  if (c.cluster.sequence_ranks > 1 && c.cluster.tensor_ranks > 1) {
    return refuse("cluster.sequence_ranks", c.cluster.sequence_ranks,
                  absl::StrCat("with cluster.tensor_ranks=", c.cluster.tensor_ranks,
                               ": ranks share a stage by rows or by heads, not both; set one of them to 1"));
  }
  if (!c.kv_events.zmq_replay.empty() && c.kv_events.zmq.empty()) {
    return refuse("kv_events.zmq_replay", c.kv_events.zmq_replay,
                  "gives again what is published on kv_events.zmq, which is empty; set both");
  }
  if (c.model.runtime_adapters && c.model.adapter_dir.empty()) {
    return refuse("model.runtime_adapters", "true",
                  "needs model.adapter_dir, the folder in which adapters lie that may be loaded while the server runs");
  }
  if (c.cluster.replica < 0 || c.cluster.replica >= c.cluster.replicas) {
    return refuse("cluster.replica", c.cluster.replica,
                  absl::StrCat("must lie in [0, ", c.cluster.replicas, "); raise cluster.replicas"));
  }
  if (c.kv.block_tokens < 8 || c.kv.block_tokens > 256 || c.kv.block_tokens % 8 != 0) {
    return refuse("kv.block_tokens", c.kv.block_tokens, "must be a multiple of 8 from 8 to 256");
  }
  int64_t keep = 0;
  if (c.kv.keep_layers != "auto" && (!absl::SimpleAtoi(c.kv.keep_layers, &keep) || keep < 0)) {
    return refuse("kv.keep_layers", c.kv.keep_layers, "must be auto or a number of layers");
  }
  double error = 0;
  if (c.cache.responses != "off" && c.cache.responses != "exact" && c.cache.responses != "semantic") {
    return refuse("cache.responses", c.cache.responses, "must be off, exact or semantic");
  }
  if (!absl::SimpleAtod(c.cache.error, &error) || !(error >= 0.001 && error <= 0.2)) {
    return refuse("cache.error", c.cache.error, "must be a share from 0.001 to 0.2");
  }
  double explore = 0;
  if (!absl::SimpleAtod(c.skip.explore, &explore) || !(explore >= 0 && explore <= 1)) {
    return refuse("skip.explore", c.skip.explore, "must be a share from 0 to 1");
  }
  for (const auto& [name, value] :
       {std::pair<absl::string_view, const std::string&>("skip.bounded_share", c.skip.bounded_share),
        {"skip.least_agreement", c.skip.least_agreement}}) {
    double share = 0;
    if (absl::SimpleAtod(value, &share) && share > 0 && share <= 1) continue;
    return refuse(name, value, "must be a share above 0 and at most 1");
  }
  if (c.skip.layer < 0 || c.skip.layer >= std::numeric_limits<int32_t>::max()) {
    return refuse("skip.layer", c.skip.layer, "must be a layer of the model, from 0");
  }
  std::set<absl::string_view> tiers;
  const std::vector<absl::string_view> named = absl::StrSplit(c.kv.tiers, ',');
  for (absl::string_view tier : c.kv.tiers.empty() ? std::vector<absl::string_view>() : named) {
    if (tier.empty()) {
      return refuse("kv.tiers", absl::StrCat("'", c.kv.tiers, "'"),
                    "has an empty entry; give names such as rocksdb,remote");
    }
    if (!tiers.insert(tier).second) return refuse("kv.tiers", c.kv.tiers, absl::StrCat("names ", tier, " twice"));
    if (tier == "remote" && c.kv.remote.empty()) {
      return refuse("kv.tiers", c.kv.tiers, "names remote; set kv.remote to the kvstore's control address");
    }
    if (tier == "rocksdb" && c.kv.rocksdb_dir.empty()) {
      return refuse("kv.tiers", c.kv.tiers, "names rocksdb; set kv.rocksdb_dir to its folder");
    }
  }
  return c;
}

absl::Status CheckLayers(const Config& config, int32_t layers) {
  if (config.cluster.stages > layers) {
    return absl::InvalidArgumentError(absl::StrCat("cluster.stages=", config.cluster.stages, " is more than the ",
                                                   layers, " layers of ", config.model.path));
  }
  int64_t keep = 0;
  if (absl::SimpleAtoi(config.kv.keep_layers, &keep) && keep > layers) {
    return absl::InvalidArgumentError(absl::StrCat("kv.keep_layers=", keep, " is more than the ", layers, " layers of ",
                                                   config.model.path, "; give a lower number, or auto"));
  }
  const bool asked = config.skip.index && (config.sched.speculate == "self" || config.sched.speculate == "auto");
  if (asked && layers > 1 && config.skip.layer >= layers) {
    return absl::InvalidArgumentError(absl::StrCat("skip.layer=", config.skip.layer, " is none of the ", layers,
                                                   " layers of ", config.model.path, "; give a lower number, from 0"));
  }
  return absl::OkStatus();
}

absl::StatusOr<int32_t> ServedContext(const Config& config, int32_t context) {
  if (config.model.max_len <= context) {
    return config.model.max_len == 0 ? context : static_cast<int32_t>(config.model.max_len);
  }
  return absl::InvalidArgumentError(absl::StrCat("model.max_len=", config.model.max_len, " is more than the ", context,
                                                 " tokens of the context of ", config.model.path,
                                                 "; give a lower number, or 0 for all of them"));
}

std::string ConfigBuilder::OriginOf(absl::string_view name) const {
  for (auto it = origins_.rbegin(); it != origins_.rend(); ++it) {
    if (it->first == name) return it->second;
  }
  return "default";
}

absl::Status ParseBytes(absl::string_view text, Bytes* out) {
  static constexpr std::pair<absl::string_view, double> kUnits[] = {
      {"KIB", 0x1p10}, {"MIB", 0x1p20}, {"GIB", 0x1p30}, {"TIB", 0x1p40}, {"KB", 1e3},   {"MB", 1e6}, {"GB", 1e9},
      {"TB", 1e12},    {"K", 0x1p10},   {"M", 0x1p20},   {"G", 0x1p30},   {"T", 0x1p40}, {"B", 1},    {"", 1}};
  const std::string upper = absl::AsciiStrToUpper(absl::StripAsciiWhitespace(text));
  for (const auto& [unit, factor] : kUnits) {
    if (!absl::EndsWith(upper, unit)) continue;
    const absl::string_view digits =
        absl::StripAsciiWhitespace(absl::string_view(upper).substr(0, upper.size() - unit.size()));
    double number = 0;
    if (digits.empty() || !absl::SimpleAtod(digits, &number) || !(number >= 0) || number * factor > 0x1p60) break;
    out->value = static_cast<int64_t>(std::llround(number * factor));
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError("is not a size such as 4096, 32MiB or 1.5GiB");
}

std::string PrintBytes(Bytes bytes) {
  static constexpr std::pair<int, absl::string_view> kUnits[] = {{40, "TiB"}, {30, "GiB"}, {20, "MiB"}, {10, "KiB"}};
  for (const auto& [shift, unit] : kUnits) {
    if (bytes.value != 0 && bytes.value % (int64_t{1} << shift) == 0) return absl::StrCat(bytes.value >> shift, unit);
  }
  return absl::StrCat(bytes.value);
}

}  // namespace interlace
