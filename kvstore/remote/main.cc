// interlace-kvstore: a KV tier that workers reach over the network.
#include <signal.h>

#include <CLI/CLI.hpp>
#include <csignal>
#include <cstdio>
#include <fstream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/config.h"
#include "common/grpc_log.h"
#include "common/log.h"
#include "common/log_sink.h"
#include "common/process.h"
#include "common/status_macros.h"
#include "kvstore/remote/store_server.h"
#include "transport/ucx_transport.h"

namespace interlace {
namespace {

struct Flags {
  std::string config;
  std::vector<std::string> set;
  std::string ready_file;
};

absl::StatusOr<Config> ReadConfig(const Flags& flags) {
  ConfigBuilder builder;
  if (!flags.config.empty()) RETURN_IF_ERROR(builder.ReadFile(flags.config));
  RETURN_IF_ERROR(builder.ReadEnvironment());
  for (const std::string& assignment : flags.set) RETURN_IF_ERROR(builder.Set(assignment, "command line"));
  return builder.Build();
}

// Whole or not at all: whoever waits for the file never reads half of it.
absl::Status WriteReadyFile(const std::string& path, const std::string& address) {
  const std::string draft = absl::StrCat(path, ".draft");
  std::ofstream file(draft, std::ios::trunc);
  file << "address=" << address << "\n";
  file.close();
  if (!file || std::rename(draft.c_str(), path.c_str()) != 0) {
    return absl::UnavailableError(absl::StrCat("--ready-file '", path, "' cannot be written"));
  }
  return absl::OkStatus();
}

absl::Status Serve(const Flags& flags) {
  // What a former process left says nothing about this one.
  if (!flags.ready_file.empty()) std::remove(flags.ready_file.c_str());
  // Before any thread starts, so that every thread leaves them to sigwait.
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  std::signal(SIGHUP, SIG_IGN);  // "read your files again": certificates are looked at every few seconds
  ASSIGN_OR_RETURN(const Config config, ReadConfig(flags));
  RETURN_IF_ERROR(InstallLogSink("kvstore", config.log.level, config.log.format));
  TakeGrpcLog();
  KeepFreedMemory();
  StoreServerOptions options;
  options.listen = config.kvstore.listen;
  options.transport = {.host = config.transport.host,
                       .mac = config.transport.mac,
                       .tls = config.transport.tls,
                       .devices = config.transport.devices};
  ASSIGN_OR_RETURN(options.security, ClusterSecurity::Make(config));
  options.host_bytes = config.kvstore.host_bytes.value;
  options.rocksdb_dir = config.kvstore.rocksdb_dir;
  options.rocksdb_bytes = config.kvstore.rocksdb_bytes.value;
  ASSIGN_OR_RETURN(std::unique_ptr<StoreServer> server, StoreServer::Start(options));
  if (!flags.ready_file.empty()) RETURN_IF_ERROR(WriteReadyFile(flags.ready_file, server->address()));
  LOG(INFO) << "ready" << Field("address", server->address())
            << Field("host_bytes", PrintBytes(config.kvstore.host_bytes))
            << Field("rocksdb_dir", options.rocksdb_dir.empty() ? "none" : options.rocksdb_dir);
  int signal = 0;
  sigwait(&signals, &signal);
  LOG(INFO) << "stopping" << Field("signal", signal);
  server.reset();
  LOG(INFO) << "stopped";
  return absl::OkStatus();
}

}  // namespace
}  // namespace interlace

int main(int argc, char** argv) {
  interlace::BeginProcess();
  interlace::Flags flags;
  CLI::App app("A KV tier that workers reach over the network: memory over a bounded RocksDB store.",
               "interlace-kvstore");
  app.add_option("--config", flags.config, "file of settings, one 'kvstore.field = value' a line");
  app.add_option("--set", flags.set, "field=value; wins over the file and the environment")->allow_extra_args(false);
  app.add_option("--ready-file", flags.ready_file, "written with 'address=HOST:PORT' once the store serves");
  CLI11_PARSE(app, argc, argv);
  const absl::Status status = interlace::Serve(flags);
  if (status.ok()) return 0;
  std::fprintf(stderr, "interlace-kvstore: %s\n", std::string(status.message()).c_str());
  return 1;
}
