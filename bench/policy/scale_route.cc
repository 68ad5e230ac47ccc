#include "bench/policy/scale_route.h"

#include <algorithm>
#include <tuple>

#include "absl/strings/str_cat.h"

namespace interlace {
namespace {

constexpr RouteRule kRules[] = {RouteRule::kRoundRobin, RouteRule::kLeastLoaded, RouteRule::kPrefix};

}  // namespace

absl::string_view RouteRuleName(RouteRule rule) {
  switch (rule) {
    case RouteRule::kRoundRobin:
      return "round-robin";
    case RouteRule::kLeastLoaded:
      return "least-loaded";
    case RouteRule::kPrefix:
      return "prefix";
  }
  return "";
}

absl::StatusOr<RouteRule> ParseRouteRule(absl::string_view text) {
  std::string known;
  for (RouteRule rule : kRules) {
    if (text == RouteRuleName(rule)) return rule;
    absl::StrAppend(&known, known.empty() ? "" : ", ", RouteRuleName(rule));
  }
  return absl::InvalidArgumentError(absl::StrCat("--routes ", text, " is not known; one of ", known));
}

void ScaleRouter::Match(absl::Span<const int64_t> blocks, int32_t tokens) {
  matched_.assign(load_.size(), 0);
  for (size_t b = 0; b < blocks.size(); ++b) {
    const auto before = static_cast<int32_t>(b) * block_tokens_;
    const auto it = holders_.find(blocks[b]);
    if (it == holders_.end()) return;
    bool any = false;
    for (int32_t replica : it->second) {
      int32_t& matched = matched_[static_cast<size_t>(replica)];
      if (matched != before) continue;  // an earlier block is missing there
      matched = std::min(before + block_tokens_, tokens);
      any = true;
    }
    if (!any) return;
  }
}

int32_t ScaleRouter::Choose(absl::Span<const int64_t> blocks, int32_t tokens, int32_t* fresh) {
  Match(blocks, tokens);
  size_t best = 0;
  if (rule_ == RouteRule::kRoundRobin) {
    best = static_cast<size_t>(turn_) % load_.size();
  } else {
    const auto cost = [&](size_t r) {
      const int64_t own = rule_ == RouteRule::kPrefix ? tokens - matched_[r] : 0;
      return std::tuple(load_[r].queued + own, load_[r].open, load_[r].chosen);
    };
    for (size_t r = 1; r < load_.size(); ++r) {
      if (cost(r) < cost(best)) best = r;
    }
  }
  *fresh = tokens - matched_[best];
  load_[best].queued += *fresh;
  ++load_[best].open;
  load_[best].chosen = ++turn_;
  for (int64_t block : blocks) {
    std::vector<int32_t>& holders = holders_[block];
    const auto replica = static_cast<int32_t>(best);
    if (std::find(holders.begin(), holders.end(), replica) == holders.end()) holders.push_back(replica);
  }
  return static_cast<int32_t>(best);
}

}  // namespace interlace
