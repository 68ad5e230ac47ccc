// Config: every setting of every process, typed, with its unit, default and meaning in one place.
//
// Precedence: --set and flags > environment (INTERLACE_KV_KEEP_LAYERS for kv.keep_layers) > --config file > default.
// Unknown fields and unparsable values are refused. main.cc cuts the tree into small Options; no class sees the whole.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace interlace {

// A size in bytes; written 4096, 32MiB, 1.5GiB.
struct Bytes {
  int64_t value = 0;
  friend bool operator==(Bytes, Bytes) = default;
};

struct Config {
  struct {
    std::string path;
    std::string name;
    std::string chat_template;
    std::string adapters;
    bool runtime_adapters = false;
    std::string adapter_dir;
    int64_t max_adapters = 64;
    int64_t max_adapter_rank = 64;
    Bytes adapter_bytes{int64_t{4} << 30};
    int64_t max_len = 0;
  } model;
  struct {
    std::string host = "127.0.0.1";
    int64_t http_port = 8000;
    int64_t grpc_port = 50051;
    std::string api_keys;
    std::string api_key;
    std::string keyless = "metrics";
    std::string tls_cert, tls_key, tls_client_ca;
    absl::Duration drain_timeout = absl::Seconds(30);
  } server;
  struct {
    bool ui = true;
    std::string tool_parser = "auto";
    std::string reasoning_parser = "auto";
    int64_t max_choices = 1024;
    bool request_templates = false;
    std::string cors = "auto";
    Bytes all_bodies{int64_t{256} << 20};
    int64_t max_connections = 16384;
  } http;
  struct {
    std::string listen = "127.0.0.1:7070";
    std::string coordinator = "127.0.0.1:7070";
    int64_t stages = 1;
    int64_t tensor_ranks = 1;
    int64_t sequence_ranks = 1;
    int64_t replicas = 1;
    int64_t replica = 0;
    int64_t tensor_rank = 0;
    int64_t sequence_rank = 0;
    int64_t stage = 0;
    absl::Duration rank_timeout = absl::Seconds(60);
    absl::Duration reform_timeout = absl::Seconds(15);
    std::string secret_file;
    std::string tls_ca;
    std::string tls_cert;
    std::string tls_key;
    std::string tls_name;
    bool insecure = false;
  } cluster;
  struct {
    std::string policy = "prefix";
    std::string roles;
  } router;
  struct {
    std::string responses = "off";
    Bytes bytes{int64_t{64} << 20};
    absl::Duration ttl = absl::Hours(1);
    std::string error = "0.01";
  } cache;
  struct {
    bool index = true;
    Bytes index_bytes{int64_t{64} << 20};
    std::string file;
    int64_t layer = 1;
    std::string explore = "0.02";
    bool bounded = false;
    std::string bounded_share = "0.2";
    std::string least_agreement = "0.9";
    int64_t audit_every = 16;
  } skip;
  struct {
    std::string state;
  } coordinator;
  struct {
    std::string backend = "none";
    std::string endpoints;
    std::string key = "interlace/leader";
    absl::Duration lease = absl::Milliseconds(1500);
    std::string host;
    std::string tls_ca, tls_cert, tls_key;
  } election;
  struct {
    std::string backend = "cpu";
    int64_t threads = 0;
    std::string ops = "auto";
    std::string draft_model;
    Bytes draft_kv{int64_t{256} << 20};
  } engine;
  struct {
    int64_t block_tokens = 32;
    std::string dtype = "bf16";
    std::string keep_layers = "auto";
    Bytes device_bytes{int64_t{256} << 20};
    Bytes host_bytes{int64_t{1} << 30};
    std::string rocksdb_dir;
    Bytes rocksdb_bytes{int64_t{4} << 30};
    std::string remote;
    std::string secret;
    std::string tiers;
    absl::Duration read_timeout = absl::Seconds(2);
    Bytes link_bytes;
  } kv;
  struct {
    std::string host;
    std::string tls = "auto";
    std::string devices = "all";
    std::string mac = "auto";
  } transport;
  struct {
    std::string listen = "127.0.0.1:7071";
    Bytes host_bytes{int64_t{1} << 30};
    std::string rocksdb_dir;
    Bytes rocksdb_bytes{int64_t{4} << 30};
  } kvstore;
  struct {
    bool grpc = false;
    std::string zmq;
    std::string zmq_replay;
    std::string topic;
  } kv_events;
  struct {
    std::string policy = "slack";
    std::string reserve = "quantile";
    int64_t max_parked = 16;
    int64_t chunk_tokens = 256;
    int64_t step_tokens = 512;
    int64_t max_running = 64;
    int64_t turns = 0;
    int64_t max_waiting = 16384;
    absl::Duration max_queue_time = absl::Seconds(300);
    int64_t max_recomputes = 8;
    std::string speculate = "off";
    int64_t draft_tokens = 8;
    std::string release = "now";
    bool shed = false;
  } sched;
  struct {
    int64_t max_tokens = 0;
    absl::Duration deadline = absl::Seconds(600);
    Bytes max_body{int64_t{16} << 20};
  } request;
  struct {
    std::optional<absl::Duration> ttft, tpot, largest_gap;
  } slo;
  struct {
    std::string level = "info";
    std::string format = "text";
  } log;
  struct {
    std::string otlp_endpoint;
    std::string service_name = "interlace";
  } telemetry;
  struct {
    std::string points;
    int64_t seed = 1;
  } fault;
};

// One row of the schema.
struct ConfigField {
  absl::string_view name;     // "kv.device_bytes"
  absl::string_view type;     // "bytes", "integer", "duration", "text", "true or false"
  absl::string_view meaning;  // one line; for a choice, the choices
  std::function<absl::Status(Config&, absl::string_view)> parse;
  std::function<std::string(const Config&)> print;
};
const std::vector<ConfigField>& ConfigSchema();

// Ranks of a stage, which share its layers by heads or divide the rows of its steps; of a replica; of the cluster.
inline int64_t RanksOfStage(const Config& c) { return c.cluster.tensor_ranks * c.cluster.sequence_ranks; }
inline int64_t RanksOfReplica(const Config& c) { return c.cluster.stages * RanksOfStage(c); }
inline int64_t RanksOfCluster(const Config& c) { return c.cluster.replicas * RanksOfReplica(c); }

// A Config and where each value came from.
// Thread: one, at start. Owned by main.
class ConfigBuilder {
 public:
  // "a.b=c" from the command line. InvalidArgument names the field and the known ones of its group.
  absl::Status Set(absl::string_view assignment, absl::string_view origin);
  // Lines "a.b = c", '#' starts a comment; NotFound if the file is missing.
  absl::Status ReadFile(const std::string& path);
  // INTERLACE_A_B=value for each field a.b; values that begin with tcp:// are ignored (Kubernetes service links).
  absl::Status ReadEnvironment();
  // Cross-field checks; then the configuration. What only the model can tell is checked by CheckLayers.
  absl::StatusOr<Config> Build() const;
  // "default", "file x:3", "environment INTERLACE_X", "command line".
  std::string OriginOf(absl::string_view name) const;
  const Config& values() const { return config_; }

 private:
  Config config_;
  std::vector<std::pair<std::string, std::string>> origins_;  // field, origin; the last entry of a field counts
};

// InvalidArgument if the configuration asks for more of a model than its `layers`: stages, or layers kept.
absl::Status CheckLayers(const Config& config, int32_t layers);

// Tokens of a prompt and its answer together: model.max_len, else the model's `context`, beyond which it may not go.
absl::StatusOr<int32_t> ServedContext(const Config& config, int32_t context);

// "32MiB" -> 33554432; plain digits are bytes. K, M, G, T and KiB.. are powers of 1024; KB.. are powers of 1000.
absl::Status ParseBytes(absl::string_view text, Bytes* out);
std::string PrintBytes(Bytes bytes);

}  // namespace interlace
