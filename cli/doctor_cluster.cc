#include "cli/doctor_cluster.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "cli/terminal.h"

namespace interlace {
namespace {

constexpr absl::Duration kMostSkew = absl::Seconds(2);  // a date has whole seconds
constexpr double kMostStall = 0.2;                      // of the time of steps
constexpr double kFewSteps = 100;                       // before which ratios say little
constexpr int64_t kFewRequests = 20;                    // likewise
constexpr double kUneven = 1.1;                         // most over least

Finding Version(const ClusterLook& look, const std::string& version) {
  Finding finding{"version", Verdict::kOk, absl::StrCat("server ", look.version, ", tool ", version), ""};
  if (look.version != version) {
    finding.verdict = Verdict::kWarn;
    finding.cure = "the tool of the server's version: fields may differ";
  }
  return finding;
}

Finding Ranks(const ClusterLook& look) {
  Finding finding{"ranks", Verdict::kOk, absl::StrCat(look.ranks_ready, " of ", look.ranks, " ready"), ""};
  if (look.ranks_ready < look.ranks || look.ranks == 0) {
    finding.verdict = Verdict::kFail;
    finding.cure =
        "the logs of the ranks and the coordinator say why: another model, cut, block size, KV type or op table is "
        "refused by name";
  } else if (look.health == "draining") {
    finding.verdict = Verdict::kWarn;
    absl::StrAppend(&finding.found, ", draining");
    finding.cure = "interlace drain --resume takes requests again";
  }
  return finding;
}

Finding ClockSkew(const ClusterLook& look) {
  if (!look.clock_skew) {
    return {"clock", Verdict::kWarn, "the server's answers have no date", "no proxy that takes the header Date away"};
  }
  Finding finding{"clock", Verdict::kOk,
                  absl::StrFormat("server's minus this machine's: %+.0f s", absl::ToDoubleSeconds(*look.clock_skew)),
                  ""};
  if (absl::AbsDuration(*look.clock_skew) > kMostSkew) {
    finding.verdict = Verdict::kWarn;
    finding.cure = "NTP on both: logs, traces and certificates go by the clock";
  }
  return finding;
}

// Whether the largest is much more than the smallest.
bool Uneven(const std::vector<double>& amounts) {
  const auto [least, most] = std::minmax_element(amounts.begin(), amounts.end());
  return !amounts.empty() && *most > kUneven * *least;
}

// Ranks that were started with other memory than the rest: a block takes a slot on each of them, so the least counts.
// The same bytes for each rank are as good as bytes in proportion to each stage's layers.
Finding Rooms(const ReplicaSnapshot& replica) {
  std::vector<std::string> shown;
  std::vector<double> slots, frames, slots_of_layer, frames_of_layer;
  for (const StageSnapshot& stage : replica.stages) {
    const double layers = std::max(1, stage.layer_end - stage.layer_begin);
    slots.push_back(static_cast<double>(stage.device.total));
    frames.push_back(static_cast<double>(stage.host.total));
    slots_of_layer.push_back(slots.back() / layers);
    frames_of_layer.push_back(frames.back() / layers);
    shown.push_back(absl::StrFormat("%.0f+%.0f", slots_of_layer.back(), frames_of_layer.back()));
  }
  Finding finding{"room of stages", Verdict::kOk,
                  absl::StrCat("blocks of all layers on device+host: ", absl::StrJoin(shown, ", ")), ""};
  if ((Uneven(slots) && Uneven(slots_of_layer)) || (Uneven(frames) && Uneven(frames_of_layer))) {
    finding.verdict = Verdict::kWarn;
    finding.cure = "the same kv.device_bytes and kv.host_bytes for each rank, or in proportion to its stage's layers";
  }
  return finding;
}

// Tiers that some ranks have and others have not, or hold much less in: a block is found if every rank has it.
Finding Tiers(const ClusterLook& look) {
  std::map<std::string, std::map<std::string, double>> blocks;  // by tier, then stage
  std::set<std::string> stages;
  for (const MetricSample& sample : look.metrics.Of("interlace_kv_tier_blocks")) {
    const auto tier = sample.labels.find("tier"), stage = sample.labels.find("stage");
    if (tier == sample.labels.end() || stage == sample.labels.end()) continue;
    blocks[tier->second][stage->second] = sample.value;
    stages.insert(stage->second);
  }
  if (blocks.empty()) return {"tiers", Verdict::kOk, "none below the host, or nothing stored yet", ""};
  std::vector<std::string> shown, missing;
  for (const auto& [tier, by_stage] : blocks) {
    double sum = 0;
    for (const auto& [stage, count] : by_stage) sum += count;
    shown.push_back(absl::StrFormat("%s: %.0f blocks", tier, sum));
    if (by_stage.size() < stages.size()) missing.push_back(tier);
  }
  Finding finding{"tiers", Verdict::kOk, absl::StrJoin(shown, ", "), ""};
  if (!missing.empty()) {
    finding.verdict = Verdict::kWarn;
    absl::StrAppend(&finding.found, "; not on every stage: ", absl::StrJoin(missing, ", "));
    finding.cure = "the same kv.tiers on every rank: a block is found if all of them have it";
  }
  return finding;
}

Finding Damage(const MetricSamples& metrics) {
  const double corrupt = metrics.Sum("interlace_kv_block_corrupt_total");
  const double missing = metrics.Sum("interlace_kv_block_missing_total");
  Finding finding{"blocks of tiers", Verdict::kOk,
                  absl::StrFormat("%.0f corrupt, %.0f not given back", corrupt, missing), ""};
  if (corrupt > 0) {
    finding.verdict = Verdict::kFail;
    finding.cure = "memory, disk and network of the ranks: the blocks were computed again, so that no answer is wrong";
  } else if (missing > 0) {
    finding.verdict = Verdict::kWarn;
    finding.cure = "a tier that forgets or is too slow: kv.read_timeout, its size, the kvstore's log";
  }
  return finding;
}

Finding Losses(const MetricSamples& metrics) {
  const double losses = metrics.Sum("interlace_replica_losses_total");
  Finding finding{"losses", Verdict::kOk, absl::StrFormat("%.0f times a rank was lost", losses), ""};
  if (losses > 0) {
    finding.verdict = Verdict::kWarn;
    finding.cure = "the logs of ranks say how they ended: out of memory (dmesg), or silent for 2 s on a busy machine";
  }
  return finding;
}

Finding Strangers(const MetricSamples& metrics) {
  std::map<std::string, double> causes;
  for (const MetricSample& sample : metrics.Of("interlace_refused_peers_total")) {
    const auto cause = sample.labels.find("cause");
    if (cause != sample.labels.end() && sample.value > 0) causes[cause->second] += sample.value;
  }
  std::vector<std::string> shown;
  for (const auto& [cause, count] : causes) shown.push_back(absl::StrFormat("%.0f %s", count, cause));
  Finding finding{"refused peers", Verdict::kOk, shown.empty() ? "none" : absl::StrJoin(shown, ", "), ""};
  if (causes.count("wrong_key") > 0 || causes.count("tampered") > 0 || causes.count("order") > 0) {
    finding.verdict = Verdict::kWarn;
    finding.cure = "the same cluster.secret_file on every machine; docs/operations.md, Who was refused";
  }
  return finding;
}

// Steps take as long as the slowest rank does; who waits for the others, and how long nobody computes between steps.
Finding Steps(const MetricSamples& metrics) {
  const double steps = metrics.Sum("interlace_step_seconds_count");
  const double step = metrics.Mean("interlace_step_seconds"), compute = metrics.Mean("interlace_step_compute_seconds");
  const double gap = metrics.Mean("interlace_rank_gap_seconds");
  if (steps == 0) return {"steps", Verdict::kOk, "none yet", ""};
  Finding finding{"steps", Verdict::kOk,
                  absl::StrFormat("mean %.1f ms, slowest stage computes %.1f ms of it, ranks idle %.2f ms between two",
                                  step * 1e3, compute * 1e3, gap * 1e3),
                  ""};
  if (steps >= kFewSteps && gap > compute && gap > 1e-3) {
    finding.verdict = Verdict::kWarn;
    finding.cure = "ranks wait for plans longer than they compute: cores for the coordinator, or a nearer one";
  }
  return finding;
}

Finding Predictions(const MetricSamples& metrics) {
  const double steps = metrics.Sum("interlace_step_prediction_ratio_count");
  const double ratio = metrics.Mean("interlace_step_prediction_ratio");
  if (steps < kFewSteps) return {"predictions", Verdict::kOk, "too few steps to tell", ""};
  Finding finding{"predictions", Verdict::kOk, absl::StrFormat("steps take %.2f of what is predicted", ratio), ""};
  if (ratio > 1.5 || ratio < 0.67) {
    finding.verdict = Verdict::kWarn;
    finding.cure = "ranks whose speed changes (other processes, throttling): targets are planned by these predictions";
  }
  return finding;
}

Finding Stalls(const MetricSamples& metrics) {
  const double steps = metrics.Sum("interlace_step_seconds_sum");
  const double stall = metrics.Sum("interlace_layer_stall_seconds_total");
  const double share = steps > 0 ? stall / steps : 0;
  Finding finding{"waits for KV", Verdict::kOk, absl::StrFormat("%.1f %% of the time of steps", share * 100), ""};
  if (share > kMostStall) {
    finding.verdict = Verdict::kWarn;
    finding.cure = "more --device-kv, or --keep-layers: layers are read from the host more slowly than they compute";
  }
  return finding;
}

Finding Requests(const ClusterLook& look) {
  const SloTally& slo = look.state.replica.slo;
  Finding finding{
      "requests", Verdict::kOk,
      absl::StrCat(slo.finished, " finished, ", slo.failed, " failed, ", look.state.replica.waiting, " wait"), ""};
  if (slo.failed * 10 > slo.finished + slo.failed && slo.finished + slo.failed >= kFewRequests) {
    finding.verdict = Verdict::kWarn;
    finding.cure = "interlace_requests_failed_total by its code, and /ui, say why";
  }
  return finding;
}

Finding Files(const MetricSamples& metrics) {
  std::vector<std::string> stale;
  if (metrics.Sum("interlace_api_keys_stale") > 0) stale.push_back("server.api_keys");
  if (metrics.Sum("interlace_tls_stale") > 0) stale.push_back("server.tls_*");
  if (stale.empty()) return {"files", Verdict::kOk, "keys and certificates are those last read", ""};
  return {"files", Verdict::kWarn, absl::StrCat("could not be used when last read: ", absl::StrJoin(stale, ", ")),
          "the coordinator's log says why; mend them, then kill -HUP"};
}

}  // namespace

std::vector<Finding> JudgeCluster(const ClusterLook& look, const std::string& version) {
  std::vector<Finding> findings = {Version(look, version), Ranks(look), ClockSkew(look)};
  if (look.state_known.ok()) {
    if (!look.state.replica.stages.empty()) findings.push_back(Rooms(look.state.replica));
    findings.push_back(Requests(look));
  } else {
    findings.push_back({"state", Verdict::kWarn, std::string(look.state_known.message()),
                        "an operator's key (--api-key), or http.ui=true"});
  }
  if (!look.metrics_known.ok()) {
    findings.push_back({"metrics", Verdict::kWarn, std::string(look.metrics_known.message()),
                        "an operator's key (--api-key), or server.keyless=metrics"});
    return findings;
  }
  for (Finding& finding : std::vector<Finding>{Tiers(look), Damage(look.metrics), Losses(look.metrics),
                                               Strangers(look.metrics), Steps(look.metrics), Predictions(look.metrics),
                                               Stalls(look.metrics), Files(look.metrics)}) {
    findings.push_back(std::move(finding));
  }
  return findings;
}

}  // namespace interlace
