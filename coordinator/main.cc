// interlace-coordinator: the front doors and the scheduler of a cluster.
#include <malloc.h>
#include <signal.h>
#include <sys/resource.h>

#include <CLI/CLI.hpp>
#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <functional>
#include <optional>
#include <sstream>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "checkpoint/model_facts.h"
#include "common/check.h"
#include "common/clock.h"
#include "common/cluster_security.h"
#include "common/config.h"
#include "common/entropy.h"
#include "common/grpc_log.h"
#include "common/log.h"
#include "common/log_sink.h"
#include "common/loopback.h"
#include "common/metrics.h"
#include "common/process.h"
#include "common/state_file.h"
#include "common/status_macros.h"
#include "coordinator/cluster_service.h"
#include "coordinator/cost_file.h"
#include "coordinator/election/candidacy.h"
#include "coordinator/front/api_error.h"
#include "coordinator/front/drain_gate.h"
#include "coordinator/front/generation.h"
#include "coordinator/front/grpc_server.h"
#include "coordinator/front/http_front.h"
#include "coordinator/front/inference_service.h"
#include "coordinator/front/leader_gate.h"
#include "coordinator/front/output_parser.h"
#include "coordinator/front/readiness.h"
#include "coordinator/front/tenants.h"
#include "coordinator/front/tls_files.h"
#include "coordinator/front/tool_syntax.h"
#include "coordinator/front/vllm_engine_service.h"
#include "coordinator/kv_events/kv_events.h"
#include "coordinator/replica_loop.h"
#include "coordinator/response_cache/cached_engine.h"
#include "coordinator/router/replica_set.h"
#include "coordinator/skip_index/skip_keeper.h"
#include "coordinator/skip_index/skip_settings.h"
#include "coordinator/speculation.h"
#include "coordinator/stats_log.h"
#include "coordinator/telemetry/otlp_exporter.h"
#include "text/chat_template.h"
#include "text/model_text.h"
#include "text/tokenizer.h"
#include "transport/ucx_transport.h"

namespace interlace {
namespace {

constexpr int64_t kMostRankMessage = int64_t{1} << 20;    // to the port of ranks, whoever sends it
constexpr int64_t kMostLinkMessage = int64_t{256} << 20;  // of plans and results
constexpr absl::Duration kDial = absl::Seconds(2);        // for each address of a rank
constexpr absl::Duration kClosing = absl::Seconds(5);     // for answers on their way to clients
constexpr absl::Duration kStats = absl::Seconds(10);      // between two lines of StatsLog
constexpr absl::Duration kKeepCosts = absl::Minutes(3);   // between two writes of what the cost model has learned

// What the coordinator knows of a model; weights stay with the ranks.
struct ServedModel {
  ModelText text;
  ModelFacts facts;
  std::string name;
  const ChatTemplate* chat_template() const { return text.chat_template.ok() ? &*text.chat_template : nullptr; }
};

// `models`: whose control tokens it takes, if there is one.
absl::StatusOr<ChatTemplate> ReadTemplate(const std::string& path, const absl::StatusOr<ChatTemplate>& models) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  if (!file.is_open() || !(text << file.rdbuf())) {
    return absl::NotFoundError(absl::StrCat("model.chat_template=", path, ": the file cannot be read"));
  }
  return models.ok() ? models->WithText(text.str()) : ChatTemplate::Make({.name = path, .text = text.str()});
}

absl::StatusOr<bool> Thinks(const std::string& setting, const ChatTemplate* chat_template) {
  if (setting == "auto") return chat_template != nullptr && chat_template->Mentions(kThoughtEnd);
  if (setting == "think" || setting == "none") return setting == "think";
  return absl::InvalidArgumentError(absl::StrCat("http.reasoning_parser='", setting, "' is none of auto, think, none"));
}

absl::StatusOr<ServedModel> LoadServedModel(const Config& config) {
  const std::string& path = config.model.path;
  if (path.empty()) {
    return absl::InvalidArgumentError("model.path is empty: --set model.path=FILE.gguf or a model folder");
  }
  ASSIGN_OR_RETURN(ModelText text, LoadModelText(path));
  if (!text.chat_template.ok()) {
    LOG(WARNING) << "chat is off: completions alone are served" << text.chat_template.status();
  }
  if (!config.model.chat_template.empty()) {
    ASSIGN_OR_RETURN(text.chat_template, ReadTemplate(config.model.chat_template, text.chat_template));
  }
  ASSIGN_OR_RETURN(ModelFacts facts, ReadModelFacts(path));
  ASSIGN_OR_RETURN(facts.context, ServedContext(config, facts.context));
  const std::string stem = std::filesystem::path(path).lexically_normal().stem().string();
  return ServedModel{std::move(text), std::move(facts), config.model.name.empty() ? stem : config.model.name};
}

absl::StatusOr<std::pair<std::string, int>> SplitAddress(const std::string& setting, const std::string& address) {
  const size_t colon = address.rfind(':');
  int port = 0;
  if (colon == std::string::npos || colon == 0 || !absl::SimpleAtoi(address.substr(colon + 1), &port) || port < 0 ||
      port > 65535) {
    return absl::InvalidArgumentError(absl::StrCat(setting, "='", address, "' is not HOST:PORT"));
  }
  return std::make_pair(address.substr(0, colon), port);
}

absl::Status WriteReadyFile(const std::string& path, const std::string& text) {
  const absl::Status written = path.empty() ? absl::OkStatus() : ReplaceStateFile(path, text);
  if (written.ok()) return written;
  return absl::PermissionDeniedError(absl::StrCat("--ready-file ", written.message()));
}

// As many descriptors as the system gives; connections take at most all but those that ranks, files and the other door
// need.
size_t ConnectionsFor(int64_t wanted) {
  rlimit limit{};
  getrlimit(RLIMIT_NOFILE, &limit);
  const rlim_t before = limit.rlim_cur;
  limit.rlim_cur = limit.rlim_max;
  if (setrlimit(RLIMIT_NOFILE, &limit) != 0) limit.rlim_cur = before;
  const auto have = static_cast<int64_t>(std::min<rlim_t>(limit.rlim_cur, rlim_t{1} << 30));
  const int64_t most = std::max<int64_t>(1, have - std::max<int64_t>(128, have / 8));
  LOG(INFO) << "descriptors" << Field("limit", have) << Field("http_connections", std::min(wanted, most));
  if (wanted <= most) return static_cast<size_t>(wanted);
  LOG(WARNING) << "fewer HTTP connections than http.max_connections: raise the limit of descriptors (ulimit -Hn)"
               << Field("wanted", wanted) << Field("possible", most);
  return static_cast<size_t>(most);
}

CachedEngine::Options CacheOptions(const Config& config, const std::string& model_digest) {
  CachedEngine::Options options{.semantic = config.cache.responses == "semantic", .model_digest = model_digest};
  options.cache = {.most_bytes = config.cache.bytes.value, .ttl = config.cache.ttl};
  CHECK(absl::SimpleAtod(config.cache.error, &options.cache.error));  // Config has looked at it
  return options;
}

// What follows from the settings and the model alone.
Intake::Options IntakeOptions(const Config& config, const ServedModel& model) {
  Intake::Options options;
  options.model = model.name;
  options.context = model.facts.context;
  options.layers = model.facts.layers;
  options.created = WallSeconds();
  options.default_max_tokens = config.request.max_tokens;
  options.default_deadline = config.request.deadline;
  options.default_targets.ttft = config.slo.ttft;
  options.default_targets.tpot = config.slo.tpot;
  options.default_targets.largest_gap = config.slo.largest_gap;
  options.most_choices = static_cast<size_t>(config.http.max_choices);
  options.request_templates = config.http.request_templates;
  options.sampling = model.text.defaults;
  return options;
}

void KeepCosts(ReplicaSet& replicas, CostFile& file) {
  const absl::StatusOr<LearnedCosts> learned = replicas.Learned();
  if (!learned.ok() || learned->latest() == nullptr) return;
  LOG(INFO) << "a step takes " << learned->latest()->ToString();
  file.Keep(*learned);
}

// Until a signal of the set comes, the log says how busy the replica is, and what was learned is kept every now and
// then, so that a crash loses little of it; `tick` runs about as often. SIGHUP reloads and is no end.
int AwaitSignal(const sigset_t& signals, ReplicaSet& replicas, CostFile& file, StatsLog& stats, Clock& clock,
                const std::function<void()>& reload, const std::function<void()>& tick) {
  const timespec patience{.tv_sec = absl::ToInt64Seconds(kStats), .tv_nsec = 0};
  absl::Time kept = clock.Now();
  for (;;) {
    const int signal = sigtimedwait(&signals, nullptr, &patience);
    if (signal == SIGHUP) {
      reload();
      continue;
    }
    if (signal > 0) return signal;
    if (errno != EAGAIN) continue;
    stats.Tick(clock.Now(), replicas.engine().Load());
    tick();
    if (!file.used() || clock.Now() - kept < kKeepCosts) continue;
    KeepCosts(replicas, file);
    kept = clock.Now();
  }
}

absl::Status RunCoordinator(const Config& config, const std::string& ready_file, const sigset_t& stop_signals) {
  ASSIGN_OR_RETURN(const ServedModel model, LoadServedModel(config));
  ASSIGN_OR_RETURN(const ServedAdapters adapters, ReadServedAdapters(config.model.adapters, model.name));
  RETURN_IF_ERROR(CheckLayers(config, model.facts.layers));
  ASSIGN_OR_RETURN(const auto cluster_at, SplitAddress("cluster.listen", config.cluster.listen));
  ASSIGN_OR_RETURN(const Policy* const policy, FindPolicy(config.sched.policy));
  ASSIGN_OR_RETURN(const RoutingPolicy* const routing, FindRoutingPolicy(config.router.policy));
  ASSIGN_OR_RETURN(const std::vector<ReplicaRole> roles,
                   ParseRoles(config.router.roles, static_cast<int32_t>(config.cluster.replicas)));
  ASSIGN_OR_RETURN(const std::shared_ptr<const ClusterSecurity> security, ClusterSecurity::Make(config));
  RETURN_IF_ERROR(security->CheckListen(absl::StrCat("cluster.listen=", config.cluster.listen), cluster_at.first));
  RealClock clock;
  const std::unique_ptr<Entropy> entropy = MakeOsEntropy();
  Metrics metrics(model.name);

  ASSIGN_OR_RETURN(const std::unique_ptr<Candidacy> candidacy, Candidacy::Make(config, clock, *entropy, metrics));

  // Plans and results travel over sockets. It dials the ranks and opens no port; it does not poll, since on a small
  // machine that would take a core from a rank that computes.
  ASSIGN_OR_RETURN(const std::unique_ptr<Transport> transport, MakeUcxTransport({.host = "",
                                                                                 .secret = security->link_key(),
                                                                                 .mac = config.transport.mac,
                                                                                 .tls = "none",
                                                                                 .connect_timeout = kDial,
                                                                                 .max_body_bytes = kMostLinkMessage,
                                                                                 .spin = absl::ZeroDuration()}));
  AdapterRegistry* registry = nullptr;  // set before ranks come
  // What is declared later dies first: doors, then the gate and the loop they submit to, then the channel the loop
  // sends on.
  ClusterService cluster({.replicas = static_cast<int32_t>(config.cluster.replicas),
                          .stages = static_cast<int32_t>(config.cluster.stages),
                          .tensor_ranks = static_cast<int32_t>(config.cluster.tensor_ranks),
                          .sequence_ranks = static_cast<int32_t>(config.cluster.sequence_ranks),
                          .model_digest = model.facts.digest,
                          .adapters = DigestsOf(adapters),
                          .runtime_adapters = config.model.runtime_adapters,
                          .adapter_failed =
                              [&](const std::string& digest, const absl::Status& why) {
                                if (registry != nullptr) registry->Withdraw(digest, why);
                              },
                          .block_tokens = static_cast<int32_t>(config.kv.block_tokens),
                          .draft_model = ParseSpeculate(config.sched.speculate) == Speculate::kModel,
                          // Else Lead says it: this process may be older or younger than others that lead.
                          .first_epoch = candidacy->alone() ? static_cast<uint64_t>(WallSeconds()) << 20 : 0,
                          .leads = [&] { return candidacy->window().Holds(); }},
                         *transport, clock, metrics);
  AdapterRegistry served_adapters({.model = model.name,
                                   .folder = config.model.runtime_adapters ? config.model.adapter_dir : "",
                                   .most = config.model.max_adapters,
                                   .metrics = &metrics},
                                  adapters, &cluster);
  RETURN_IF_ERROR(served_adapters.Check());
  registry = &served_adapters;
  if (!candidacy->alone()) cluster.Follow(NotLeader(std::nullopt));
  ASSIGN_OR_RETURN(ReplicaLoop::Options loop_options, LoopOptions(config, model.facts.context));
  CostFile cost_file(config.coordinator.state);
  loop_options.scheduler.learned = cost_file.Read();
  // One for all replicas: what streams of one teach serves those of the others. It outlives the loops, which ask it.
  const std::unique_ptr<SkipAdvisor> skips =
      MakeSkipAdvisor(config, model.facts.digest, model.facts.layers, entropy->Fork("skip-advisor"));
  std::optional<SkipKeeper> skip_keeper;
  if (skips != nullptr) skip_keeper.emplace(*skips, SkipFilePath(config), config.skip.index_bytes.value, metrics);
  loop_options.scheduler.skip_advisor = skips.get();
  std::unique_ptr<OtlpExporter> spans;  // outlives the loop, which tells it of requests
  if (!config.telemetry.otlp_endpoint.empty()) {
    ASSIGN_OR_RETURN(OtlpEndpoint endpoint, ParseOtlpEndpoint(config.telemetry.otlp_endpoint));
    spans = std::make_unique<OtlpExporter>(
        OtlpExporter::Options{std::move(endpoint), config.telemetry.service_name, model.name}, clock, metrics,
        entropy->Fork("spans"));
  }
  loop_options.scheduler.observer = spans.get();
  const auto replica_count = static_cast<int32_t>(config.cluster.replicas);
  ASSIGN_OR_RETURN(const std::unique_ptr<KvEvents> kv_events, KvEvents::Open(config, replica_count, metrics));
  std::vector<ReplicaSet::Member> members;  // the loops die before the events that they tell of
  for (int32_t r = 0; r < replica_count; ++r) {
    members.push_back({&cluster.channel(r), kv_events == nullptr ? nullptr : &kv_events->log().observer(r)});
  }
  ReplicaSet replicas({loop_options, policy, routing, roles}, members, clock, metrics);
  for (int32_t r = 0; r < replica_count; ++r) cluster.Connect(r, &replicas.loop(r));
  std::unique_ptr<CachedEngine> cached;
  if (config.cache.responses != "off") {
    cached = std::make_unique<CachedEngine>(CacheOptions(config, model.facts.digest), replicas.engine(), clock,
                                            entropy->Fork("response-cache"), metrics);
  }
  LeaderGate leader(cached == nullptr ? replicas.engine() : *cached, candidacy->window());
  DrainGate gate(leader, clock, metrics);
  ASSIGN_OR_RETURN(const ToolSyntax* const tools, FindToolSyntax(config.http.tool_parser, model.chat_template()));
  ASSIGN_OR_RETURN(const bool thinks, Thinks(config.http.reasoning_parser, model.chat_template()));
  Intake::Options intake_options = IntakeOptions(config, model);
  intake_options.adapters = &served_adapters;
  intake_options.tools = tools;
  intake_options.thinks = thinks;
  intake_options.traces = spans != nullptr;
  intake_options.caches = cached != nullptr;
  intake_options.fidelity =
      RuleOf(config.skip.bounded, config.skip.least_agreement, loop_options.ranks, model.facts.layers);
  intake_options.metrics = &metrics;
  Intake intake(std::move(intake_options), *model.text.tokenizer, model.chat_template(), gate, clock,
                entropy->Fork("intake"));
  Tenants tenants({.file = config.server.api_keys, .key = config.server.api_key}, clock, metrics);
  RETURN_IF_ERROR(tenants.Read());
  const TlsFiles tls{config.server.tls_cert, config.server.tls_key, config.server.tls_client_ca};
  if (!tenants.on() && !IsLoopback(config.server.host)) {
    LOG(WARNING) << "whoever reaches the doors may use them: set server.api_keys or server.api_key"
                 << Field("host", config.server.host);
  }
  InferenceService inference(intake, &tenants);
  VllmEngineService vllm({.model_path = config.model.path,
                          .block_tokens = static_cast<int32_t>(config.kv.block_tokens),
                          .max_running = static_cast<int32_t>(config.sched.max_running),
                          .kv_dtype = config.kv.dtype,
                          .admit = [&](const grpc::CallbackServerContext& call) { return inference.MayRoute(call); },
                          .kv_events = config.kv_events.grpc ? &kv_events->log() : nullptr},
                         intake);

  ASSIGN_OR_RETURN(const std::unique_ptr<GrpcServer> ranks,
                   GrpcServer::Listen({.host = cluster_at.first,
                                       .port = cluster_at.second,
                                       .setting = "cluster.listen=HOST:PORT",
                                       .max_message = kMostRankMessage,
                                       .keepalive = absl::Seconds(1),
                                       .credentials = security->ServerCredentials()},
                                      cluster.service()));
  ASSIGN_OR_RETURN(const std::unique_ptr<GrpcServer> grpc,
                   GrpcServer::Listen({.host = config.server.host,
                                       .port = static_cast<int>(config.server.grpc_port),
                                       .setting = "server.grpc_port=N",
                                       .max_message = config.request.max_body.value,
                                       .tls = tls,
                                       .also = {&vllm}},
                                      &inference));
  ASSIGN_OR_RETURN(const std::unique_ptr<HttpFront> http,
                   HttpFront::Listen({.host = config.server.host,
                                      .port = static_cast<int>(config.server.http_port),
                                      .ui = config.http.ui,
                                      .cors = config.http.cors,
                                      .keyless = config.server.keyless,
                                      .standby = [&] { return !candidacy->window().Holds(); },
                                      .tenants = &tenants,
                                      .gate = &gate,
                                      .tls = tls,
                                      .max_body = config.request.max_body.value,
                                      .all_bodies = static_cast<size_t>(config.http.all_bodies.value),
                                      .max_connections = ConnectionsFor(config.http.max_connections)},
                                     intake, metrics));
  const std::string http_at = HostPort(config.server.host, http->port());
  const std::string grpc_at = HostPort(config.server.host, grpc->port());
  const std::string ranks_at = HostPort(cluster_at.first, ranks->port());
  const std::string doors = absl::StrCat("http=", http_at, "\ngrpc=", grpc_at, "\ncluster=", ranks_at, "\n",
                                         kv_events != nullptr ? kv_events->doors() : "");
  RETURN_IF_ERROR(WriteReadyFile(ready_file, absl::StrCat(doors, "serving=false\n")));
  ReadinessWatch readiness(gate, [&](bool ready) {
    grpc->SetServing("interlace.v1.Inference", ready);
    grpc->SetServing("vllm.grpc.engine.VllmEngine", ready);
    const absl::Status written =
        WriteReadyFile(ready_file, absl::StrCat(doors, "serving=", ready ? "true" : "false", "\n"));
    if (!written.ok()) LOG(WARNING) << "readiness is not told" << written;
  });
  candidacy->Stand(AdvertisedDoor(config.election.host, http_at), AdvertisedDoor(config.election.host, grpc_at),
                   {.lead =
                        [&](uint64_t epoch, const std::vector<int32_t>& drained) {
                          replicas.Lead(drained);
                          cluster.Lead(epoch);
                        },
                    .resume = [&] { cluster.Resume(); },
                    .follow =
                        [&](const std::optional<LeadRecord>& leader) {
                          cluster.Follow(NotLeader(leader));
                          if (!leader) return;
                          replicas.Follow(NotLeader(leader));  // its ranks are the other one's from now on
                          served_adapters.Forget();            // which knows none of those that came meanwhile
                        },
                    .drained = [&] { return replicas.Drained(); }});
  LOG(INFO) << "coordinator ready" << Field("http", http_at) << Field("grpc", grpc_at) << Field("cluster", ranks_at)
            << Field("model", model.name) << Field("context", model.facts.context);

  StatsLog stats(metrics);
  stats.Tick(clock.Now(), gate.Load());
  const auto reload = [&] {
    const absl::Status keys = tenants.Read();  // it says in the log what is wrong with the file
    const absl::Status files = http->ReloadTls();
    metrics.Set("interlace_tls_stale", files.ok() ? 0 : 1);
    if (!files.ok()) LOG(ERROR) << "the files of TLS cannot be used; the old ones stay" << files;
    if (keys.ok() && files.ok()) LOG(INFO) << "API keys and the files of TLS were read again";
  };
  const int signal = AwaitSignal(stop_signals, replicas, cost_file, stats, clock, reload, [&] {
    if (skip_keeper) skip_keeper->Tick(clock.Now(), candidacy->window().Holds());
  });
  pthread_sigmask(SIG_UNBLOCK, &stop_signals, nullptr);  // a second signal ends the process at once
  LOG(INFO) << "draining" << Field("signal", signal)
            << Field("at_most", absl::FormatDuration(config.server.drain_timeout));
  grpc->SetServing("", false);
  gate.CloseForGood(config.server.drain_timeout);
  vllm.EndSubscriptions(absl::UnavailableError("the server stops"));
  KeepCosts(replicas, cost_file);
  if (skip_keeper) skip_keeper->Close(candidacy->window().Holds());
  http->Stop(kClosing);
  grpc->Shutdown(kClosing);
  candidacy->Resign();  // ranks go to the next leader; those of one that leads alone are told to end
  cluster.Drain();
  ranks->Shutdown(kClosing);
  LOG(INFO) << "stopped";
  return absl::OkStatus();
}

}  // namespace
}  // namespace interlace

int main(int argc, char** argv) {
  interlace::BeginProcess();
  CLI::App app("The coordinator of an Interlace cluster: front doors and scheduler.", "interlace-coordinator");
  std::string file, ready_file;
  std::vector<std::string> settings;
  app.add_option("--config", file, "configuration file");
  app.add_option("--set", settings, "field=value, see `interlace config`");
  app.add_option(
      "--ready-file", ready_file,
      "written once the doors are open: http=, grpc=, cluster= HOST:PORT, and serving=true while all ranks are there");
  CLI11_PARSE(app, argc, argv);
  mallopt(M_MMAP_THRESHOLD, 1 << 20);  // else the allocator learns to keep the memory of large bodies for itself

  sigset_t stop_signals;  // blocked before any thread starts, taken by this one
  sigemptyset(&stop_signals);
  sigaddset(&stop_signals, SIGINT);
  sigaddset(&stop_signals, SIGTERM);
  sigaddset(&stop_signals, SIGHUP);  // stops nothing: files are read again
  pthread_sigmask(SIG_BLOCK, &stop_signals, nullptr);

  const auto run = [&]() -> absl::Status {
    interlace::ConfigBuilder builder;
    if (!file.empty()) RETURN_IF_ERROR(builder.ReadFile(file));
    RETURN_IF_ERROR(builder.ReadEnvironment());
    for (const std::string& setting : settings) RETURN_IF_ERROR(builder.Set(setting, "command line"));
    ASSIGN_OR_RETURN(const interlace::Config config, builder.Build());
    RETURN_IF_ERROR(interlace::InstallLogSink("coordinator", config.log.level, config.log.format));
    interlace::TakeGrpcLog();
    return interlace::RunCoordinator(config, ready_file, stop_signals);
  };
  const absl::Status status = run();
  if (!status.ok()) {
    std::fprintf(stderr, "interlace-coordinator: %s\n", std::string(status.message()).c_str());
    return 1;
  }
  return 0;
}
