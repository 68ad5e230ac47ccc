#include "cli/status_page.h"

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "cli/terminal.h"

namespace interlace {
namespace {

using Json = nlohmann::ordered_json;

constexpr size_t kLately = 10;  // seconds, of rates

struct Rates {
  double generated = 0, computed = 0;  // tokens a second
};

Rates RatesOf(const ReplicaSnapshot& replica) {
  Rates rates;
  const size_t count = std::min(kLately, replica.seconds.size());
  for (size_t i = replica.seconds.size() - count; i < replica.seconds.size(); ++i) {
    rates.generated += static_cast<double>(replica.seconds[i].tokens) / static_cast<double>(count);
    rates.computed += static_cast<double>(replica.seconds[i].positions) / static_cast<double>(count);
  }
  return rates;
}

// KV in one place: a stage's device or host, or a tier of a stage. Unbounded places have no total.
struct Place {
  std::string tier, stage;
  int64_t bytes_held = 0, bytes_cached = 0, bytes_total = 0;
};

std::vector<Place> PlacesOf(const ClusterLook& look) {
  std::vector<Place> places;
  const ReplicaSnapshot& replica = look.state.replica;
  for (const auto& [tier, room] :
       {std::pair<const char*, RoomSnapshot StageSnapshot::*>{"device", &StageSnapshot::device},
        {"host", &StageSnapshot::host}}) {
    for (size_t s = 0; s < replica.stages.size(); ++s) {
      const RoomSnapshot& r = replica.stages[s].*room;
      places.push_back({tier, absl::StrCat(s), (r.held + r.ring) * replica.slot_bytes, r.cached * replica.slot_bytes,
                        r.total * replica.slot_bytes});
    }
  }
  for (const MetricSample& sample : look.metrics.Of("interlace_kv_tier_bytes")) {
    const auto label = [&sample](const char* name) {
      const auto found = sample.labels.find(name);
      return found == sample.labels.end() ? std::string() : found->second;
    };
    places.push_back({label("tier"), label("stage"), 0, static_cast<int64_t>(sample.value), 0});
  }
  return places;
}

std::string Share(int64_t met, int64_t missed) {
  return met + missed == 0
             ? "-"
             : absl::StrFormat("%.1f %%", 100.0 * static_cast<double>(met) / static_cast<double>(met + missed));
}

std::string Uptime(absl::Duration up) {
  return absl::FormatDuration(absl::Trunc(up, up < absl::Hours(1) ? absl::Seconds(1) : absl::Minutes(1)));
}

std::string StateText(const ClusterLook& look, const std::optional<DrainProgress>& drain) {
  if (look.health == "ok") return Paint(Colour::kGreen, "ready");
  if (drain && drain->draining) return Paint(Colour::kYellow, DrainLine(*drain));
  return Paint(look.health == "draining" ? Colour::kYellow : Colour::kRed, look.health);
}

std::string ReplicaText(const ReplicaRow& row) {
  std::string text = row.role == "both" ? "" : absl::StrCat(row.role, ", ");
  if (row.ranks_ready < row.ranks) {
    return text + Paint(Colour::kRed, absl::StrCat(row.ranks_ready, " of ", row.ranks, " ranks ready"));
  }
  absl::StrAppend(&text, row.running, " running, ", row.waiting, " waiting");
  if (!row.draining) return text;
  const bool empty = row.running + row.waiting == 0;
  return absl::StrCat(text, ", ", Paint(Colour::kYellow, empty ? "drained" : "draining"));
}

}  // namespace

std::string StatusPage(const ClusterLook& look, const std::optional<DrainProgress>& drain) {
  const ReplicaSnapshot& replica = look.state.replica;
  std::string page;
  const auto add = [&page](absl::string_view label, absl::string_view text) {
    absl::StrAppend(&page, Paint(Colour::kDim, absl::StrFormat("%-10s", label)), "  ", text, "\n");
  };
  add("cluster", absl::StrCat(look.url, "  interlace ", look.version));
  add("state", StateText(look, drain));
  const std::string model = look.model.empty() ? look.state.model : look.model;
  if (!model.empty()) {
    add("model", look.context > 0 ? absl::StrCat(model, ", context ", look.context, " tokens") : model);
  }
  std::string ranks = absl::StrCat(look.ranks_ready, " of ", look.ranks, " ready");
  if (!replica.stages.empty()) {
    absl::StrAppend(&ranks, ", ", replica.layers, " layers in ", replica.stages.size(),
                    replica.stages.size() == 1 ? " stage" : " stages");
  }
  add("ranks", ranks);
  if (!look.state_known.ok()) {
    add("", Paint(Colour::kYellow, absl::StrCat("the rest is not known: ", look.state_known.message())));
    return page;
  }
  add("policy", absl::StrCat(replica.policy, ", up ", Uptime(replica.uptime)));
  add("requests", absl::StrCat(replica.running, " running, ", replica.streaming, " streaming, ", replica.parked,
                               " parked, ", replica.fetching, " fetching, ", replica.waiting, " waiting; ",
                               replica.slo.finished, " finished, ", replica.slo.failed, " failed"));
  for (size_t r = 0; r < replica.replicas.size(); ++r) {
    add(absl::StrCat("replica ", r), ReplicaText(replica.replicas[r]));
  }
  const Rates rates = RatesOf(replica);
  std::string lately = absl::StrFormat("%.0f tokens/s generated, %.0f computed", rates.generated, rates.computed);
  if (replica.steps > 0) {
    absl::StrAppendFormat(&lately, "; step p50 %.1f ms, p95 %.1f ms", absl::ToDoubleMilliseconds(replica.step_p50),
                          absl::ToDoubleMilliseconds(replica.step_p95));
  }
  add("rates", lately);
  const SloTally& slo = replica.slo;
  add("targets",
      absl::StrCat("TTFT ", Share(slo.ttft.met, slo.ttft.missed), ", TPOT ", Share(slo.tpot.met, slo.tpot.missed),
                   ", largest gap ", Share(slo.largest_gap.met, slo.largest_gap.missed), ", deadline ",
                   Share(slo.deadline.met, slo.deadline.missed)));
  std::vector<std::vector<std::string>> rows = {{"KV", "stage", "held", "cached", "of"}};
  for (const Place& place : PlacesOf(look)) {
    rows.push_back({place.tier, place.stage, HumanBytes(place.bytes_held), HumanBytes(place.bytes_cached),
                    place.bytes_total > 0 ? HumanBytes(place.bytes_total) : "-"});
  }
  if (rows.size() > 1) absl::StrAppend(&page, "\n", FormatTable(rows));
  return page;
}

std::string StatusJson(const ClusterLook& look, const std::optional<DrainProgress>& drain) {
  const ReplicaSnapshot& replica = look.state.replica;
  Json json;
  json["url"] = look.url;
  json["version"] = look.version;
  json["state"] = look.health;
  json["model"] = look.model.empty() ? look.state.model : look.model;
  json["context"] = look.context > 0 ? Json(look.context) : Json();
  json["ranks"] = look.ranks;
  json["ranks_ready"] = look.ranks_ready;
  if (drain) {
    json["drain"] = {{"draining", drain->draining},
                     {"stopping", drain->stopping},
                     {"requests_left", drain->left},
                     {"requests_cut", drain->cut}};
  }
  if (look.state_known.ok()) {
    const Rates rates = RatesOf(replica);
    json["policy"] = replica.policy;
    json["uptime_seconds"] = absl::ToDoubleSeconds(replica.uptime);
    json["layers"] = replica.layers;
    json["stages"] = replica.stages.size();
    json["requests"] = {{"running", replica.running},   {"streaming", replica.streaming},
                        {"parked", replica.parked},     {"fetching", replica.fetching},
                        {"waiting", replica.waiting},   {"finished", replica.slo.finished},
                        {"failed", replica.slo.failed}, {"goodput", replica.slo.goodput}};
    for (const ReplicaRow& row : replica.replicas) {
      json["replicas"].push_back({{"role", row.role},
                                  {"draining", row.draining},
                                  {"ranks", row.ranks},
                                  {"ranks_ready", row.ranks_ready},
                                  {"running", row.running},
                                  {"waiting", row.waiting}});
    }
    json["rates"] = {{"generated_tokens_per_second", rates.generated}, {"computed_tokens_per_second", rates.computed}};
    json["step"] = {{"p50_ms", absl::ToDoubleMilliseconds(replica.step_p50)},
                    {"p95_ms", absl::ToDoubleMilliseconds(replica.step_p95)}};
  }
  json["kv"] = Json::array();
  for (const Place& place : PlacesOf(look)) {
    json["kv"].push_back({{"tier", place.tier},
                          {"stage", place.stage},
                          {"bytes_held", place.bytes_held},
                          {"bytes_cached", place.bytes_cached},
                          {"bytes_total", place.bytes_total > 0 ? Json(place.bytes_total) : Json()}});
  }
  return json.dump(2, ' ', false, Json::error_handler_t::replace);
}

}  // namespace interlace
