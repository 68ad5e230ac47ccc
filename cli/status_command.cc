#include "cli/status_command.h"

#include <cstdio>
#include <optional>

#include "cli/cluster_look.h"
#include "cli/status_page.h"
#include "common/status_macros.h"

namespace interlace {

absl::StatusOr<int> StatusCommand(const StatusOptions& options) {
  ASSIGN_OR_RETURN(const HttpDoor door, HttpDoor::At(options.url, options.api_key));
  ASSIGN_OR_RETURN(const ClusterLook look, LookAtCluster(door));
  std::optional<DrainProgress> drain;
  const absl::StatusOr<std::string> told = door.Get("/debug/drain");
  if (told.ok()) {
    ASSIGN_OR_RETURN(drain, ParseDrainProgress(*told));
  }
  std::printf("%s", options.json ? (StatusJson(look, drain) + "\n").c_str() : StatusPage(look, drain).c_str());
  return look.health == "ok" ? 0 : 1;
}

}  // namespace interlace
