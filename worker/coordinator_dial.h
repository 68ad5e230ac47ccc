// CoordinatorDial: which of the cluster's coordinators a rank goes to.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "common/cluster_security.h"

namespace grpc {
class Channel;
}

namespace interlace {

// A coordinator leads in an epoch, which is higher than that of any before it; the rank obeys none that is lower than
// the highest it has obeyed (0: a coordinator that leads alone, and is always obeyed). Owned by PlanIntake. Next is
// called by its thread, MayObey by that of the transport.
class CoordinatorDial {
 public:
  // `addresses`: HOST:PORT, of several with commas. `patience`: how long coordinators may take to say whether they
  // lead.
  CoordinatorDial(absl::string_view addresses, std::shared_ptr<const ClusterSecurity> security,
                  absl::Duration patience = absl::Milliseconds(500));

  struct Dialled {
    std::string address;
    std::shared_ptr<grpc::Channel> channel;
  };
  // The only one; of several, the first that says it leads, in no lower epoch than was obeyed. All are asked at once,
  // so that one which does not answer costs nothing while another leads. Unavailable: none does.
  absl::StatusOr<Dialled> Next();
  // Whether the rank may take orders of a coordinator that leads in this epoch; if so, none of a lower one from now on.
  bool MayObey(uint64_t lead_epoch);
  uint64_t obeyed() const;

 private:
  struct Poll;
  const std::vector<std::string> addresses_;
  const std::shared_ptr<const ClusterSecurity> security_;
  const absl::Duration patience_;
  mutable absl::Mutex mutex_;
  uint64_t obeyed_ = 0;  // protected by mutex_
};

// The addresses of a setting such as "10.0.0.1:7070,10.0.0.2:7070".
std::vector<std::string> CoordinatorAddresses(absl::string_view setting);

}  // namespace interlace
