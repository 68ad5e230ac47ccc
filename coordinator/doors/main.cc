// interlace-coordinator: front doors, scheduler and the ranks' registry of one replica.
#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/health_check_service_interface.h>
#include <grpcpp/impl/codegen/service_type.h>
#include <signal.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <filesystem>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "common/config.h"
#include "common/log.h"
#include "common/log_sink.h"
#include "common/status_macros.h"
#include "coordinator/cluster_service.h"
#include "coordinator/doors/frontend.h"
#include "coordinator/doors/http_front.h"
#include "coordinator/doors/inference_service.h"
#include "coordinator/replica_loop.h"
#include "model/text/gguf.h"

namespace interlace {
namespace {

// gRPC wants a service's health by name, and its pings answered while streams idle.
absl::StatusOr<std::unique_ptr<grpc::Server>> StartGrpc(const std::string& address, grpc::Service* service,
                                                        int64_t max_message, const char* field, std::string* bound) {
  grpc::ServerBuilder builder;
  int port = 0;
  builder.AddListeningPort(address, grpc::InsecureServerCredentials(), &port);
  builder.RegisterService(service);
  builder.SetMaxReceiveMessageSize(static_cast<int>(max_message));
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 10000);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MAX_PING_STRIKES, 0);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
  if (server == nullptr || port == 0) {
    return absl::FailedPreconditionError(
        absl::StrCat("gRPC cannot listen on ", address, "; choose another with ", field, " (port 0: any free one)"));
  }
  *bound = absl::StrCat(address.substr(0, address.rfind(':')), ":", port);
  return server;
}

// Written whole or not at all: a reader never sees half of it.
absl::Status WriteReadyFile(const std::string& path, const std::string& text) {
  if (path.empty()) return absl::OkStatus();
  const std::string half = path + ".new";
  std::ofstream(half) << text;
  std::error_code error;
  std::filesystem::rename(half, path, error);
  if (error) return absl::PermissionDeniedError(absl::StrCat("--ready-file ", path, ": ", error.message()));
  return absl::OkStatus();
}

absl::Status RunCoordinator(const Config& config, const std::string& ready_file, const sigset_t& stop_signals) {
  ASSIGN_OR_RETURN(const std::unique_ptr<GgufFile> file, GgufFile::Open(config.model.path));
  ASSIGN_OR_RETURN(const std::unique_ptr<Tokenizer> tokenizer, Tokenizer::Load(*file));
  std::optional<ChatTemplate> chat_template;
  if (file->Has("tokenizer.chat_template")) {
    ASSIGN_OR_RETURN(chat_template, ChatTemplate::Load(*file));
  }
  ASSIGN_OR_RETURN(const std::string architecture, file->Text("general.architecture"));
  ASSIGN_OR_RETURN(const int64_t context, file->Integer(architecture + ".context_length"));
  ASSIGN_OR_RETURN(const int64_t layers, file->Integer(architecture + ".block_count"));
  const std::string name =
      config.model.name.empty() ? std::filesystem::path(config.model.path).stem().string() : config.model.name;

  RealClock clock;
  Metrics metrics(name);
  const std::unique_ptr<Entropy> entropy = MakeOsEntropy();
  ASSIGN_OR_RETURN(std::unique_ptr<SchedulingPolicy> policy, MakePolicy(config.sched.policy));
  ClusterService cluster({.stages = static_cast<int32_t>(config.cluster.stages),
                          .model_digest = file->digest(),
                          .block_tokens = static_cast<int32_t>(config.kv.block_tokens)});
  ReplicaLoop loop(LoopOptions(config, static_cast<int32_t>(context)), std::move(policy), clock,
                   entropy->Fork("generations"), metrics, cluster);
  cluster.Connect(&loop);
  Frontend frontend({.model_name = name,
                     .context = static_cast<int32_t>(context),
                     .layers = static_cast<int32_t>(layers),
                     .default_max_tokens = static_cast<int32_t>(config.request.max_tokens),
                     .default_deadline = config.request.deadline},
                    *tokenizer, chat_template, loop, metrics, clock, entropy->Fork("frontend"));
  const std::unique_ptr<grpc::Service> inference = MakeInferenceService(frontend);

  grpc::EnableDefaultHealthCheckService(true);
  grpc::reflection::InitProtoReflectionServerBuilderPlugin();
  std::string grpc_address, cluster_address;
  ASSIGN_OR_RETURN(const std::unique_ptr<grpc::Server> cluster_server,
                   StartGrpc(config.cluster.listen, cluster.service(), -1, "cluster.listen", &cluster_address));
  ASSIGN_OR_RETURN(const std::unique_ptr<grpc::Server> server,
                   StartGrpc(absl::StrCat(config.server.host, ":", config.server.grpc_port), inference.get(),
                             config.request.max_body.value, "server.grpc_port", &grpc_address));
  ASSIGN_OR_RETURN(const std::unique_ptr<HttpFront> http,
                   HttpFront::Start({.host = config.server.host,
                                     .port = static_cast<int>(config.server.http_port),
                                     .max_body = config.request.max_body.value},
                                    frontend));
  const std::string http_address = absl::StrCat(config.server.host, ":", http->port());
  RETURN_IF_ERROR(WriteReadyFile(
      ready_file, absl::StrCat("http=", http_address, "\ngrpc=", grpc_address, "\ncluster=", cluster_address, "\n")));
  LOG(INFO) << "coordinator ready" << KV("http", http_address) << KV("grpc", grpc_address)
            << KV("cluster", cluster_address) << KV("model", name);

  int signal = 0;
  sigwait(&stop_signals, &signal);
  LOG(INFO) << "draining" << KV("signal", signal);
  server->GetHealthCheckService()->SetServingStatus(false);
  const bool finished = loop.Drain(absl::Seconds(30));
  if (!finished) LOG(WARNING) << "requests still running at the end of the drain are cancelled";
  http->Drain();
  server->Shutdown(std::chrono::system_clock::now() + std::chrono::seconds(2));
  cluster.Drain();
  cluster_server->Shutdown(std::chrono::system_clock::now() + std::chrono::seconds(2));
  http->Stop();
  LOG(INFO) << "stopped";
  return absl::OkStatus();
}

}  // namespace
}  // namespace interlace

int main(int argc, char** argv) {
  CLI::App app("The coordinator of an Interlace cluster: front doors and scheduler.", "interlace-coordinator");
  std::string file, ready_file;
  std::vector<std::string> settings;
  app.add_option("--config", file, "configuration file");
  app.add_option("--set", settings, "field=value, see `interlace config`");
  app.add_option("--ready-file", ready_file, "written once the doors are open: http=, grpc=, cluster= addresses");
  CLI11_PARSE(app, argc, argv);

  sigset_t stop_signals;  // blocked before any thread starts, taken by this one
  sigemptyset(&stop_signals);
  sigaddset(&stop_signals, SIGINT);
  sigaddset(&stop_signals, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &stop_signals, nullptr);

  const auto run = [&]() -> absl::Status {
    interlace::ConfigBuilder builder;
    if (!file.empty()) RETURN_IF_ERROR(builder.ReadFile(file));
    RETURN_IF_ERROR(builder.ReadEnvironment());
    for (const std::string& setting : settings) RETURN_IF_ERROR(builder.Set(setting, "command line"));
    ASSIGN_OR_RETURN(const interlace::Config config, builder.Build());
    RETURN_IF_ERROR(interlace::InstallLogSink("coordinator", config.log.level, config.log.format));
    return interlace::RunCoordinator(config, ready_file, stop_signals);
  };
  const absl::Status status = run();
  if (!status.ok()) {
    std::fprintf(stderr, "interlace-coordinator: %s\n", std::string(status.message()).c_str());
    return 1;
  }
  return 0;
}
