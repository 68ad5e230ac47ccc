#include "coordinator/election/candidacy.h"

#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/status_macros.h"

namespace interlace {

absl::StatusOr<std::unique_ptr<Candidacy>> Candidacy::Make(const Config& config, Clock& clock, Entropy& entropy,
                                                           Metrics& metrics) {
  std::unique_ptr<Candidacy> candidacy(new Candidacy(config, clock, metrics));
  ASSIGN_OR_RETURN(candidacy->store_, MakeLeadStore(config, clock));
  if (candidacy->alone()) candidacy->window_.Open(absl::InfiniteFuture());
  candidacy->holder_ = absl::StrFormat("%016x", entropy.Next());
  return candidacy;
}

void Candidacy::Stand(const std::string& http, const std::string& grpc, Election::Events events) {
  if (alone()) return;
  const ElectionState::Options options{.self = {.holder = holder_, .lease = lease_, .http = http, .grpc = grpc},
                                       .first_epoch = static_cast<uint64_t>(WallSeconds())};
  election_ = std::make_unique<Election>(options, *store_, window_, clock_, metrics_, std::move(events));
}

void Candidacy::Resign() {
  if (election_ != nullptr) election_->Resign(lease_);
  election_ = nullptr;  // whom it tells may end before it
}

std::string AdvertisedDoor(const std::string& advertised, const std::string& door) {
  if (advertised.empty()) return door;
  const bool bare = absl::StrContains(advertised, ":") && !absl::StartsWith(advertised, "[");
  return absl::StrCat(bare ? "[" : "", advertised, bare ? "]" : "", door.substr(door.rfind(':')));
}

}  // namespace interlace
