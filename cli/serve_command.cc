#include "cli/serve_command.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <map>
#include <optional>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "checkpoint/model_facts.h"
#include "checkpoint/peft_adapter.h"
#include "cli/child_process.h"
#include "cli/restart_backoff.h"
#include "cli/terminal.h"
#include "common/cluster_security.h"
#include "common/entropy.h"
#include "common/secret_file.h"
#include "common/status_macros.h"
#include "common/thread.h"
#include "model/checkpoint.h"
#include "model/lora.h"
#include "model/shard_spec.h"
#include "worker/draft_model.h"

namespace interlace {
namespace {

constexpr absl::Duration kLastWords = absl::Seconds(30);  // of a coordinator behind its drain

// key=value lines of a ready file; empty while the process has not written it.
std::map<std::string, std::string> ReadReadyFile(const std::string& path) {
  std::map<std::string, std::string> entries;
  std::ifstream file(path);
  std::string line;
  while (std::getline(file, line)) {
    const std::pair<std::string, std::string> entry = absl::StrSplit(line, absl::MaxSplits('=', 1));
    entries.insert(entry);
  }
  return entries;
}

std::string LastLines(const std::string& path, size_t count) {
  std::ifstream file(path);
  std::vector<std::string> lines;
  std::string line;
  while (std::getline(file, line)) {
    lines.push_back("    " + line);
    if (lines.size() > count) lines.erase(lines.begin());
  }
  std::string out;
  for (const std::string& l : lines) out += l + "\n";
  return out;
}

// What a rank's log says of its weights; 0 while it says nothing, as with log.level=warning.
int64_t LoadedPercent(const std::string& log_path) {
  std::ifstream log(log_path);
  std::string line;
  int64_t percent = 0;
  while (std::getline(log, line)) {
    const size_t field = line.find("percent");  // percent=40, or "percent":"40"
    const size_t digits = field == std::string::npos ? field : line.find_first_of("0123456789", field);
    if (digits != std::string::npos) percent = std::atol(line.c_str() + digits);
  }
  return percent;
}

std::string PortOf(const std::string& address) { return address.substr(address.rfind(':') + 1); }

// The processes of one cluster. Thread: one.
class LocalCluster {
 public:
  LocalCluster(const Config& config, const ServeOptions& options, const sigset_t& stop_signals)
      : config_(config), options_(options), stop_signals_(stop_signals) {}

  absl::Status Run() {
    std::error_code error;
    std::filesystem::create_directories(options_.state_folder, error);
    if (error) {
      return absl::PermissionDeniedError(absl::StrCat("the state folder ", options_.state_folder, " cannot be made: ",
                                                      error.message(), "; choose another with --state"));
    }
    absl::Status status = CheckModel();
    if (status.ok()) status = MakeSecret();
    if (status.ok()) status = StartAll();
    if (status.ok()) PrintDoors();
    if (status.ok()) status = Watch();
    StopAll();
    return status;
  }

 private:
  std::string Path(const std::string& name) const { return absl::StrCat(options_.state_folder, "/", name); }

  // What the ranks would refuse once they had started.
  absl::Status CheckModel() const {
    ASSIGN_OR_RETURN(const ModelFacts facts, ReadModelFacts(config_.model.path));
    RETURN_IF_ERROR(CheckLayers(config_, facts.layers));
    RETURN_IF_ERROR(ServedContext(config_, facts.context).status());
    RETURN_IF_ERROR(CheckDraftModel());
    ASSIGN_OR_RETURN(const std::vector<AdapterPlace> adapters, ParseAdapterPlaces(config_.model.adapters));
    if (config_.cluster.tensor_ranks == 1 && adapters.empty()) return absl::OkStatus();
    ASSIGN_OR_RETURN(const std::unique_ptr<Checkpoint> checkpoint, Checkpoint::Open(config_.model.path));
    for (const AdapterPlace& adapter : adapters) {
      ASSIGN_OR_RETURN(const std::unique_ptr<PeftAdapter> file, PeftAdapter::Open(adapter.folder));
      RETURN_IF_ERROR(CheckAdapterFits(*file, checkpoint->spec()));
    }
    return SplitTensors(checkpoint->spec(), 0, static_cast<int32_t>(config_.cluster.tensor_ranks)).status();
  }

  absl::Status CheckDraftModel() const {
    if (config_.engine.draft_model.empty()) {
      if (config_.sched.speculate != "draft-model") return absl::OkStatus();
      return absl::InvalidArgumentError(
          "sched.speculate=draft-model and no model that guesses; give --draft-model MODEL, a smaller one with "
          "the same vocabulary");
    }
    return CheckDraftSettings(config_);
  }

  // The processes of this run know each other by it, and nobody else knows it. A cluster that has one keeps it.
  absl::Status MakeSecret() {
    secret_file_ = config_.cluster.secret_file;
    if (!secret_file_.empty()) return absl::OkStatus();
    secret_file_ = Path("secret");
    const std::unique_ptr<Entropy> entropy = MakeOsEntropy();
    std::string secret;
    for (int word = 0; word < 4; ++word) absl::StrAppend(&secret, absl::Hex(entropy->Next(), absl::kZeroPad16));
    return WriteSecretFile(secret_file_, secret + "\n");
  }

  absl::Status Start(const std::string& name, const std::string& program, std::vector<std::string> settings,
                     bool ready_file) {
    std::vector<std::string> command = {absl::StrCat(options_.program_folder, "/", program)};
    if (!options_.config_file.empty()) command.insert(command.end(), {"--config", options_.config_file});
    for (const std::string& setting : options_.settings) command.insert(command.end(), {"--set", setting});
    settings.push_back(absl::StrCat("cluster.secret_file=", secret_file_));
    for (const std::string& setting : settings) command.insert(command.end(), {"--set", setting});
    if (ready_file) {
      std::remove(Path(name + ".ready").c_str());
      command.insert(command.end(), {"--ready-file", Path(name + ".ready")});
    }
    if (children_.count(name) == 0) std::remove(Path(name + ".log").c_str());
    ASSIGN_OR_RETURN(ChildProcess child, ChildProcess::Start(name, command, Path(name + ".log")));
    children_[name] = std::move(child);
    backoffs_[name].Started(absl::Now());
    return absl::OkStatus();
  }

  // Waits, looking ten times a second, until `done` or a child ends or a signal comes.
  template <typename Done>
  absl::Status Await(const std::string& what, Done done) {
    while (!done()) {
      RETURN_IF_ERROR(CheckChildren());
      if (Signalled(absl::Milliseconds(100))) return absl::CancelledError(absl::StrCat("stopped while ", what));
    }
    return absl::OkStatus();
  }

  absl::Status CheckChildren() {
    std::string how;
    for (auto& [name, child] : children_) {
      if (!child.Poll(&how)) continue;
      return absl::UnavailableError(absl::StrCat(name, " ended (", how, "); the end of ", child.log_path(), ":\n",
                                                 LastLines(child.log_path(), 5)));
    }
    return absl::OkStatus();
  }

  // Waits for a stop signal up to `timeout`. SIGHUP is none, but for the one that comes as the terminal goes: the
  // coordinator reads its files of keys and certificates again.
  bool Signalled(absl::Duration timeout) {
    const timespec limit = absl::ToTimespec(timeout);
    const int signal = sigtimedwait(&stop_signals_, nullptr, &limit);
    if (signal != SIGHUP || (had_terminal_ && !HasTerminal())) return signal > 0;
    if (children_.count("coordinator") > 0) children_["coordinator"].Signal(SIGHUP);
    return false;
  }
  static bool HasTerminal() {
    const int terminal = open("/dev/tty", O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (terminal >= 0) close(terminal);
    return terminal >= 0;
  }

  absl::Status StartAll() {
    if (options_.kvstore) {
      RETURN_IF_ERROR(StartKvstore("127.0.0.1:0"));
      RETURN_IF_ERROR(Await("the kvstore starts", [&] {
        kvstore_address_ = ReadReadyFile(Path("kvstore.ready"))["address"];
        return !kvstore_address_.empty();
      }));
    }
    RETURN_IF_ERROR(StartCoordinator());
    RETURN_IF_ERROR(Await("the coordinator starts", [&] {
      doors_ = ReadReadyFile(Path("coordinator.ready"));
      return doors_.count("cluster") > 0;
    }));
    for (int64_t rank = 0; rank < Ranks(); ++rank) RETURN_IF_ERROR(StartRank(rank));
    return AwaitRanks();
  }

  // A coordinator that is started again listens where the former one did: ranks and clients know these doors.
  absl::Status StartCoordinator() {
    std::vector<std::string> settings = {"cluster.listen=127.0.0.1:0"};
    if (!doors_.empty()) {
      settings = {absl::StrCat("cluster.listen=", doors_["cluster"]),
                  absl::StrCat("server.http_port=", PortOf(doors_["http"])),
                  absl::StrCat("server.grpc_port=", PortOf(doors_["grpc"]))};
    }
    // The next one, here or in the next run with this folder, begins with what this one learned of the machine.
    if (config_.coordinator.state.empty()) settings.push_back(absl::StrCat("coordinator.state=", Path("costs")));
    if (StagesShareCores() && config_.sched.turns == 0) settings.push_back("sched.turns=1");
    return Start("coordinator", "interlace-coordinator", settings, true);
  }

  absl::Status StartKvstore(const std::string& address) {
    return Start("kvstore", "interlace-kvstore", {absl::StrCat("kvstore.listen=", address)}, true);
  }

  int64_t Ranks() const { return RanksOfCluster(config_); }

  // Unless the settings say how many threads a rank has, each stage computes with all the cores that its replica has,
  // and the streams go through them one after another: the same work as that of one stage. Ranks of one stage, and
  // replicas, compute at the same time, so they divide the cores.
  bool StagesShareCores() const { return config_.engine.threads == 0 && config_.cluster.stages > 1; }
  int64_t ThreadsOfRank() const {
    return std::max<int64_t>(1, AvailableCores() / (config_.cluster.replicas * RanksOfStage(config_)));
  }

  // Ranks are numbered replica by replica, stage by stage.
  absl::Status StartRank(int64_t rank) {
    const int64_t replica = rank / RanksOfReplica(config_), index = rank % RanksOfReplica(config_);
    const int64_t shared = RanksOfStage(config_), stage = index / shared, stage_rank = index % shared;
    const absl::string_view way = config_.cluster.sequence_ranks > 1 ? "sequence" : "tensor";
    std::vector<std::string> settings = {
        absl::StrCat("cluster.coordinator=", doors_["cluster"]), absl::StrCat("cluster.replica=", replica),
        absl::StrCat("cluster.stage=", stage), absl::StrCat("cluster.", way, "_rank=", stage_rank)};
    if (config_.engine.threads == 0) settings.push_back(absl::StrCat("engine.threads=", ThreadsOfRank()));
    if (!kvstore_address_.empty()) settings.push_back(absl::StrCat("kv.remote=", kvstore_address_));
    if (!config_.kv.rocksdb_dir.empty()) {
      const std::string part = shared == 1 ? "" : absl::StrCat("-", way, "-", stage_rank);
      const std::string of = config_.cluster.replicas == 1 ? "" : absl::StrCat("/replica-", replica);
      settings.push_back(absl::StrCat("kv.rocksdb_dir=", config_.kv.rocksdb_dir, of, "/stage-", stage, part));
    }
    return Start(absl::StrCat("worker-", rank), "interlace-worker", settings, false);
  }

  // The coordinator knows when every rank of a replica is there, which is enough to begin; what the ranks' logs say of
  // the weights only fills the bar.
  absl::Status AwaitRanks() {
    ProgressBar bar("weights");
    return Await("weights load", [&] {
      if (ReadReadyFile(Path("coordinator.ready"))["serving"] == "true") {
        bar.Show(100);
        return true;
      }
      int64_t percent = 0;
      for (int64_t rank = 0; rank < Ranks(); ++rank) {
        percent += LoadedPercent(Path(absl::StrCat("worker-", rank, ".log")));
      }
      bar.Show(static_cast<int>(std::min<int64_t>(99, percent / Ranks())));
      return false;
    });
  }

  void PrintDoors() {
    const std::string http = absl::StrCat(config_.server.tls_cert.empty() ? "http://" : "https://", doors_["http"]);
    std::printf("\n  %s  %s/v1\n  %s  %s/metrics\n  %s  %s\n", Paint(Colour::kGreen, "OpenAI ").c_str(), http.c_str(),
                Paint(Colour::kGreen, "metrics").c_str(), http.c_str(), Paint(Colour::kGreen, "gRPC   ").c_str(),
                doors_["grpc"].c_str());
    if (config_.http.ui) std::printf("  %s  %s/ui\n", Paint(Colour::kGreen, "ui     ").c_str(), http.c_str());
    std::printf("  logs     %s\n  try      interlace chat --address %s\n  stop     Ctrl-C (drains)\n\n",
                options_.state_folder.c_str(), doors_["grpc"].c_str());
    std::fflush(stdout);
  }

  // Until a stop signal. Who ends is started again, and waits longer each time that does not help. Requests wait for
  // ranks and kvstore; a coordinator's clients are cut, and its ranks keep their weights and attach to the next one.
  absl::Status Watch() {
    std::map<std::string, absl::Time> due;
    while (!Signalled(absl::Milliseconds(200))) {
      std::string how;
      for (auto& [name, child] : children_) {
        if (!child.Poll(&how)) continue;
        const absl::Time now = absl::Now();
        due[name] = backoffs_[name].Ended(now);
        std::printf("%s %s ended (%s); it is started again", Paint(Colour::kRed, "!").c_str(), name.c_str(),
                    how.c_str());
        if (due[name] > now) std::printf(" in %s", HumanSeconds(absl::ToDoubleSeconds(due[name] - now)).c_str());
        std::printf("; see %s\n", child.log_path().c_str());
      }
      for (auto it = due.begin(); it != due.end();) {
        if (it->second > absl::Now()) {
          ++it;
          continue;
        }
        RETURN_IF_ERROR(StartAgain(it->first));
        it = due.erase(it);
      }
      std::fflush(stdout);
    }
    return absl::OkStatus();
  }

  absl::Status StartAgain(const std::string& name) {
    if (name == "coordinator") return StartCoordinator();
    if (name == "kvstore") return StartKvstore(kvstore_address_);
    return StartRank(std::atol(name.c_str() + name.find('-') + 1));
  }

  // The coordinator first: it finishes what runs and drains the ranks.
  void StopAll() {
    if (children_.count("coordinator") > 0 && children_["coordinator"].running()) {
      std::printf("draining ...\n");
      std::fflush(stdout);
      children_["coordinator"].Signal(SIGTERM);
      Reap("coordinator", config_.server.drain_timeout + kLastWords);
    }
    for (auto& [name, child] : children_) child.Signal(SIGTERM);
    for (auto& [name, child] : children_) Reap(name, absl::Seconds(10));
    children_.clear();
    std::printf("stopped\n");
  }

  void Reap(const std::string& name, absl::Duration patience) {
    const absl::Time limit = absl::Now() + patience;
    std::string how;
    ChildProcess& child = children_[name];
    while (child.running() && !child.Poll(&how) && absl::Now() < limit) {
      if (Signalled(absl::Milliseconds(50))) return;  // a second Ctrl-C: no more patience
    }
  }

  const Config& config_;
  const ServeOptions& options_;
  const sigset_t& stop_signals_;
  std::map<std::string, ChildProcess> children_;
  std::map<std::string, RestartBackoff> backoffs_;
  std::map<std::string, std::string> doors_;
  std::string kvstore_address_;
  std::string secret_file_;
  const bool had_terminal_ = HasTerminal();
};

}  // namespace

absl::Status ServeCommand(const Config& config, const ServeOptions& options, const sigset_t& stop_signals) {
  RETURN_IF_ERROR(ClusterSecurity::Make(config).status());  // what the processes would refuse
  const auto shape = [](int64_t count, absl::string_view of) {
    return absl::StrCat(count, " ", of, count == 1 ? "" : "s");
  };
  std::string ranks = shape(config.cluster.stages, "stage");
  const int64_t shared = RanksOfStage(config);
  if (shared > 1) absl::StrAppend(&ranks, " of ", shape(shared, "rank"));
  if (config.cluster.replicas > 1) ranks = absl::StrCat(config.cluster.replicas, " replicas of ", ranks);
  std::printf("%s  %s, %s, %s of device KV each\n", Paint(Colour::kBold, "interlace serve").c_str(),
              config.model.path.c_str(), ranks.c_str(), PrintBytes(config.kv.device_bytes).c_str());
  std::fflush(stdout);
  return LocalCluster(config, options, stop_signals).Run();
}

}  // namespace interlace
