// interlace-worker: one rank of a replica.
#include <signal.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <csignal>
#include <cstdio>

#include "absl/strings/str_cat.h"
#include "common/backoff.h"
#include "common/clock.h"
#include "common/cluster_security.h"
#include "common/config.h"
#include "common/entropy.h"
#include "common/fault.h"
#include "common/grpc_log.h"
#include "common/log.h"
#include "common/log_sink.h"
#include "common/process.h"
#include "common/state_file.h"
#include "common/status_macros.h"
#include "common/thread.h"
#include "transport/tcp_socket.h"
#include "transport/ucx_transport.h"
#include "worker/coordinator_dial.h"
#include "worker/plan_intake.h"
#include "worker/rank.h"

namespace interlace {
namespace {

// Of several coordinators they choose one that leads within a second or two: a rank looks for it more often.
constexpr Backoff::Options kAmongSeveral{.first = absl::Milliseconds(50), .most = absl::Milliseconds(200)};

// That on the way to the first coordinator whose name is known.
absl::StatusOr<std::string> AddressTowardsAny(const std::vector<std::string>& coordinators) {
  absl::StatusOr<std::string> address = absl::InvalidArgumentError("cluster.coordinator is empty: name a coordinator");
  for (const std::string& coordinator : coordinators) {
    address = AddressTowards(coordinator);
    if (address.ok()) break;
  }
  return address;
}

// For probes: there while the rank is attached. What a former process left is gone before weights are read.
void TellAttached(const std::string& path, bool attached) {
  if (path.empty()) return;
  const absl::Status told = attached ? ReplaceStateFile(path, "attached=true\n") : RemoveStateFile(path);
  if (!told.ok()) LOG(WARNING) << "whether the rank is attached is not told" << Field("ready_file", path) << told;
}

absl::Status RunWorker(const Config& config, const std::string& ready_file, const sigset_t& stop_signals) {
  TellAttached(ready_file, false);
  KeepFreedMemory();
  RealClock clock;
  ASSIGN_OR_RETURN(std::unique_ptr<FaultPoints> faults,
                   FaultPoints::Parse(config.fault.points, static_cast<uint64_t>(config.fault.seed)));
  ASSIGN_OR_RETURN(const std::shared_ptr<const ClusterSecurity> security, ClusterSecurity::Make(config));
  const std::vector<std::string> coordinators = CoordinatorAddresses(config.cluster.coordinator);
  UcxOptions transport_options{.host = config.transport.host,
                               .secret = security->link_key(),
                               .mac = config.transport.mac,
                               .tls = config.transport.tls,
                               .devices = config.transport.devices};
  // Where the compute team has every core, a transport that polls would take one from it.
  if (config.engine.threads == 0 || config.engine.threads >= AvailableCores()) {
    transport_options.spin = absl::ZeroDuration();
  }
  if (transport_options.host.empty()) {
    ASSIGN_OR_RETURN(transport_options.host, AddressTowardsAny(coordinators));
  }
  RETURN_IF_ERROR(
      security->CheckListen(absl::StrCat("transport.host=", config.transport.host), transport_options.host));
  ASSIGN_OR_RETURN(std::unique_ptr<Transport> transport, MakeUcxTransport(transport_options));
  const std::unique_ptr<Entropy> entropy = MakeOsEntropy();
  const uint64_t incarnation = entropy->Next();
  int64_t shown = -1;
  ASSIGN_OR_RETURN(std::unique_ptr<Rank> rank,
                   Rank::Create(config, incarnation, clock, *faults, transport.get(), [&](int64_t done, int64_t all) {
                     // One line for each tenth: what `interlace serve` draws its bar from.
                     const int64_t tenth = all > 0 ? done * 10 / all : 10;
                     if (tenth == shown) return;
                     shown = tenth;
                     LOG(INFO) << "loading weights" << Field("percent", tenth * 10) << Field("bytes", done)
                               << Field("of", all);
                   }));
  const RankInfo& info = rank->info();
  LOG(INFO) << "rank ready" << Field("replica", info.replica) << Field("stage", Value(info.stage))
            << Field("stages", info.stages) << Field("layers", absl::StrCat(info.layer_begin, "-", info.layer_end - 1))
            << Field("ops", rank->backend().ops().name) << Field("threads", rank->backend().threads())
            << Field("device_slots", info.device_slots) << Field("host_frames", info.host_frames);
  PlanIntake intake(*rank,
                    {.coordinator = config.cluster.coordinator,
                     .security = security,
                     .backoff = coordinators.size() > 1 ? kAmongSeveral : Backoff::Options()},
                    *transport, clock, entropy->Fork("intake"));
  rank->runner().OnAnswers([&intake] { intake.Report(); });
  Thread signals("signals", [&intake, stop_signals] {
    int signal = 0;
    sigwait(&stop_signals, &signal);
    LOG(INFO) << "stopping" << Field("signal", signal);
    intake.Stop();
  });
  Thread watch("attached", [&intake, &ready_file] {
    for (bool attached = false; intake.AwaitAttachedOtherThan(attached);) {
      attached = !attached;
      TellAttached(ready_file, attached);
    }
    TellAttached(ready_file, false);
  });
  const absl::Status status = intake.Run();
  intake.Stop();  // ends the watch
  watch.Join();
  rank->runner().OnAnswers(nullptr);
  kill(getpid(), SIGTERM);  // lets the signals thread end when the coordinator drained us
  signals.Join();
  return status;
}

}  // namespace
}  // namespace interlace

int main(int argc, char** argv) {
  interlace::BeginProcess();
  CLI::App app("One rank of an Interlace replica: executes the step plans of a coordinator.", "interlace-worker");
  std::string file, ready_file;
  std::vector<std::string> settings;
  app.add_option("--config", file, "configuration file");
  app.add_option("--set", settings, "field=value, see `interlace config`");
  app.add_option("--ready-file", ready_file, "there while the rank is attached to its coordinator, for probes");
  CLI11_PARSE(app, argc, argv);

  sigset_t stop_signals;  // blocked before any thread starts, taken by one thread
  sigemptyset(&stop_signals);
  sigaddset(&stop_signals, SIGINT);
  sigaddset(&stop_signals, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &stop_signals, nullptr);
  std::signal(SIGHUP, SIG_IGN);  // "read your files again": certificates are read at each connection

  const auto run = [&]() -> absl::Status {
    interlace::ConfigBuilder builder;
    if (!file.empty()) RETURN_IF_ERROR(builder.ReadFile(file));
    RETURN_IF_ERROR(builder.ReadEnvironment());
    for (const std::string& setting : settings) RETURN_IF_ERROR(builder.Set(setting, "command line"));
    ASSIGN_OR_RETURN(const interlace::Config config, builder.Build());
    const auto& place = config.cluster;
    const int64_t stage = place.replica * place.stages + place.stage;
    const int64_t rank = stage * RanksOfStage(config) + place.tensor_rank + place.sequence_rank;
    RETURN_IF_ERROR(interlace::InstallLogSink(absl::StrCat("worker-", rank), config.log.level, config.log.format));
    interlace::TakeGrpcLog();
    return interlace::RunWorker(config, ready_file, stop_signals);
  };
  const absl::Status status = run();
  if (!status.ok()) {
    std::fprintf(stderr, "interlace-worker: %s\n", status.ToString().c_str());
    return 1;
  }
  return 0;
}
