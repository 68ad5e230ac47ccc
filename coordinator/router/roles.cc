#include "coordinator/router/roles.h"

#include <algorithm>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace interlace {
namespace {

constexpr absl::string_view kRoleNames[] = {"both", "prefill", "decode"};

constexpr std::pair<absl::string_view, absl::string_view> kCauses[] = {
    {"none", ""},
    {"short", "its prompt is computed there as soon as it could be brought"},
    {"held", "its prompt is there, or in the tier"},
    {"one_token", "nothing is left to decode behind its prompt"},
    {"not_shared", "replicas share no tier"},
    {"no_prefill", "no replica that computes prompts is there"},
    {"no_decode", "no replica that decodes is there"},
};
static_assert(std::size(kCauses) == kWholeCauses);

// Among those that have not `other`'s role.
int32_t ChooseBut(const RoutingPolicy& policy, RouteView view, ReplicaRole other) {
  std::vector<ReplicaView> side(view.replicas.begin(), view.replicas.end());
  for (ReplicaView& replica : side) replica.ready &= replica.role != other;
  view.replicas = side;
  return ChooseReplica(policy, view);
}

// What a decode replica has to do for a request whose prompt lies in the tier as far as blocks are whole.
double WorkBehindPrefill(const RouteView& view, const ReplicaView& decode) {
  RouteView behind = view;
  behind.shared = std::max(0, view.prompt - 1) / view.block_tokens;
  return OwnWork(behind, decode) + view.hand_over;
}

}  // namespace

absl::string_view NameOf(ReplicaRole role) { return kRoleNames[static_cast<size_t>(role)]; }
absl::string_view NameOf(WholeCause cause) { return kCauses[static_cast<size_t>(cause)].first; }
absl::string_view MeaningOf(WholeCause cause) { return kCauses[static_cast<size_t>(cause)].second; }

absl::StatusOr<std::vector<ReplicaRole>> ParseRoles(absl::string_view text, int32_t replicas) {
  std::vector<ReplicaRole> roles;
  if (text.empty()) return std::vector<ReplicaRole>(static_cast<size_t>(replicas), ReplicaRole::kBoth);
  const auto refuse = [&](absl::string_view why) {
    return absl::InvalidArgumentError(absl::StrCat("router.roles='", text, "' ", why,
                                                   "; write what each replica is for, in the order of their numbers: "
                                                   "prefill:1,decode:2 (prefill, decode or both)"));
  };
  for (absl::string_view part : absl::StrSplit(text, ',')) {
    const std::pair<absl::string_view, absl::string_view> words = absl::StrSplit(part, absl::MaxSplits(':', 1));
    const auto* const name = std::find(std::begin(kRoleNames), std::end(kRoleNames), words.first);
    if (name == std::end(kRoleNames)) return refuse(absl::StrCat("has the role '", words.first, "'"));
    int32_t count = 0;
    if (!absl::SimpleAtoi(words.second, &count) || count < 1 || count > replicas) {
      return refuse(absl::StrCat("has ", words.first, " for '", words.second, "' of cluster.replicas=", replicas));
    }
    roles.insert(roles.end(), static_cast<size_t>(count), static_cast<ReplicaRole>(name - std::begin(kRoleNames)));
  }
  if (roles.size() != static_cast<size_t>(replicas)) {
    return refuse(absl::StrCat("is of ", roles.size(), " replicas, and cluster.replicas=", replicas));
  }
  const auto without = [&](ReplicaRole role) {
    return std::all_of(roles.begin(), roles.end(), [&](ReplicaRole of) { return of == role; });
  };
  if (without(ReplicaRole::kPrefill)) return refuse("leaves nobody to decode");
  if (without(ReplicaRole::kDecode)) return refuse("leaves nobody to compute prompts");
  return roles;
}

bool Apart(absl::Span<const ReplicaView> replicas) {
  return std::any_of(replicas.begin(), replicas.end(),
                     [](const ReplicaView& replica) { return replica.role != ReplicaRole::kBoth; });
}

RouteDecision DecideRoute(const RoutingPolicy& policy, const RouteView& view) {
  if (!Apart(view.replicas)) return {ChooseReplica(policy, view)};
  const int32_t prefill = ChooseBut(policy, view, ReplicaRole::kDecode);
  const int32_t decode = ChooseBut(policy, view, ReplicaRole::kPrefill);
  if (decode < 0) return {prefill, RoutePart::kWhole, prefill < 0 ? WholeCause::kNone : WholeCause::kNoDecode};
  if (view.prompt_done) return {decode, RoutePart::kAnswer};
  if (prefill < 0) return {decode, RoutePart::kWhole, WholeCause::kNoPrefill};
  if (view.one_token) return {prefill, RoutePart::kWhole, WholeCause::kOneToken};
  if (!view.tier_shared) return {ChooseReplica(policy, view), RoutePart::kWhole, WholeCause::kNotShared};
  const ReplicaView& decodes = view.replicas[static_cast<size_t>(decode)];
  const double alone = OwnWork(view, decodes);
  if (alone <= WorkBehindPrefill(view, decodes)) {
    const int64_t there = std::max(HeldTokens(view, decodes), int64_t{view.shared} * view.block_tokens);
    const bool held = there > 0 && view.prompt - there < 2 * view.block_tokens;
    return {decode, RoutePart::kWhole, held ? WholeCause::kHeld : WholeCause::kShort};
  }
  const bool does_both = view.replicas[static_cast<size_t>(prefill)].role == ReplicaRole::kBoth;
  return {prefill, does_both ? RoutePart::kWhole : RoutePart::kPrompt};
}

}  // namespace interlace
