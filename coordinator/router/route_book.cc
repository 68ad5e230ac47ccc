#include "coordinator/router/route_book.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "absl/strings/str_cat.h"

namespace interlace {
namespace {

// What bringing a block from the host, and from a tier below, costs of computing it, while that is not known.
constexpr double kUsualHostShare = 0.1, kUsualBelowShare = 0.3;
// What a hand-over takes besides moving blocks: steps in flight end, the tier is asked. In tokens while their time is
// not known.
constexpr double kHandOverSeconds = 0.01, kHandOverTokens = 64;

}  // namespace

RouteBook::RouteBook(const RoutingPolicy& policy, int32_t replicas, absl::Span<const ReplicaRole> roles)
    : policy_(policy), views_(static_cast<size_t>(replicas)) {
  for (size_t r = 0; r < roles.size(); ++r) views_[r].role = roles[r];
  apart_ = Apart(views_);
}

// Not for each request: there may be a thousand replicas, and in a step little fades.
void RouteBook::Fade(absl::Time now) {
  if (now < faded_ + kFadeStep) return;
  if (faded_ != absl::InfinitePast() && now > faded_) {
    const double left = std::exp(-absl::FDivDuration(now - faded_, kOfLate));
    for (ReplicaView& replica : views_) replica.assigned *= left;
  }
  faded_ = std::max(faded_, now);
}

RouteChoice RouteBook::Choose(const RouteAsked& asked, absl::Span<const ReplicaFacts> facts,
                              absl::Span<const HeldPrefix> held, absl::Time now) {
  Fade(now);
  double token = 0, host = 0, below = 0;  // seconds: replicas are alike, so the slowest speaks for all
  for (size_t r = 0; r < views_.size(); ++r) {
    views_[r].ready = facts[r].ready;
    views_[r].held = held[r];
    if (!facts[r].ready) continue;
    token = std::max(token, facts[r].token_seconds);
    host = std::max(host, facts[r].host_block_seconds);
    below = std::max(below, facts[r].below_block_seconds);
  }
  RouteView view{.prompt = asked.prompt, .block_tokens = asked.block_tokens};
  // What would take longer than computing it is computed.
  const auto in_tokens = [&](double seconds, double usual) {
    return asked.block_tokens *
           (token > 0 && seconds > 0 ? std::min(1.0, seconds / token / asked.block_tokens) : usual);
  };
  view.shared = asked.shared;
  view.host_block = in_tokens(host, kUsualHostShare);
  view.below_block = in_tokens(below, kUsualBelowShare);
  view.slack_tokens = std::numeric_limits<double>::infinity();
  if (token > 0 && asked.slack < absl::InfiniteDuration())
    view.slack_tokens = absl::ToDoubleSeconds(asked.slack) / token;
  view.session = asked.session;
  view.tier_shared = asked.tier_shared;
  view.prompt_done = asked.prompt_done;
  view.one_token = asked.one_token;
  view.hand_over = token > 0 ? kHandOverSeconds / token : kHandOverTokens;
  view.replicas = views_;
  const RouteDecision decision = apart_ ? DecideRoute(policy_, view) : RouteDecision{ChooseReplica(policy_, view)};
  RouteChoice choice{.replica = decision.replica, .part = decision.part, .cause = decision.cause};
  if (choice.replica < 0) return choice;
  ReplicaView& chosen = View(choice);
  choice.fresh = static_cast<int32_t>(asked.prompt - HeldTokens(view, chosen));
  choice.held = chosen.held;
  choice.expected = TokensToFirst(view, chosen);
  chosen.queued += choice.fresh;
  chosen.assigned += choice.fresh;
  ++chosen.open;
  chosen.turn = ++turn_;
  return choice;
}

void RouteBook::OnEnd(const RouteChoice& choice, int32_t answer, absl::Time now) {
  Fade(now);
  ReplicaView& replica = View(choice);
  --replica.open;
  replica.assigned += answer;
}

void RouteBook::Undo(const RouteChoice& choice) {
  ReplicaView& replica = View(choice);
  replica.queued -= choice.fresh;
  replica.assigned = std::max(0.0, replica.assigned - choice.fresh);
  --replica.open;
}

std::string RouteText(const RouteChoice& choice, const RouteAsked& asked) {
  std::string text = absl::StrCat("replica ", choice.replica);
  if (choice.part == RoutePart::kPrompt) absl::StrAppend(&text, " for its prompt");
  if (choice.part == RoutePart::kAnswer) absl::StrAppend(&text, " for its answer");
  if (choice.cause != WholeCause::kNone) absl::StrAppend(&text, " for all of it, since ", MeaningOf(choice.cause));
  absl::StrAppend(&text, ": ", asked.prompt - choice.fresh, " of ", asked.prompt, " tokens of its prompt are there");
  if (choice.held.host > 0) {
    absl::StrAppend(&text, ", ", choice.held.host * asked.block_tokens, " of them on the host");
  }
  if (choice.held.coming > 0) {
    absl::StrAppend(&text, ", ", choice.held.coming * asked.block_tokens, " of them on their way");
  }
  absl::StrAppend(&text, "; ", static_cast<int64_t>(choice.expected), " tokens are computed before its first one");
  return text;
}

}  // namespace interlace
