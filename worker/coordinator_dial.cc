#include "worker/coordinator_dial.h"

#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "common/status_macros.h"
#include "proto/cluster.grpc.pb.h"

namespace interlace {
namespace {

absl::StatusOr<std::shared_ptr<grpc::Channel>> ChannelTo(const std::string& address, const ClusterSecurity& security) {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);    // a fresh connection, without an old one's back-off
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 2000);  // how long one attempt may take
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, 1000);         // a machine that vanished is noticed
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 1000);
  arguments.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  ASSIGN_OR_RETURN(const std::shared_ptr<grpc::ChannelCredentials> credentials,
                   security.ChannelCredentials(&arguments));
  return grpc::CreateCustomChannel(address, credentials, arguments);
}

}  // namespace

std::vector<std::string> CoordinatorAddresses(absl::string_view setting) {
  std::vector<std::string> addresses = absl::StrSplit(setting, ',', absl::SkipWhitespace());
  for (std::string& address : addresses) absl::StripAsciiWhitespace(&address);
  return addresses;
}

// Outlives the calls' callbacks: whoever asks waits for all of them, since gRPC's own threads must not be those that
// end a channel.
struct CoordinatorDial::Poll {
  struct Call {
    Dialled to;
    std::unique_ptr<v1::Cluster::Stub> stub;
    grpc::ClientContext context;
    v1::LeadRequest request;
    v1::LeadReply reply;
  };

  void Answered(Call& call, const grpc::Status& status) {
    absl::MutexLock lock(&mutex);
    --left;
    if (!status.ok()) {
      failures.push_back(absl::StrCat(call.to.address, ": ", status.error_message()));
    } else if (!call.reply.leads() || call.reply.lead_epoch() < least) {
      failures.push_back(absl::StrCat(call.to.address, " does not lead"));
    } else if (!leader) {
      leader = call.to;
    }
  }
  bool done() const { return leader.has_value() || over(); }
  bool over() const { return left == 0; }

  uint64_t least = 0;                        // the lowest epoch that may be obeyed
  std::vector<std::unique_ptr<Call>> calls;  // made before the first is begun
  absl::Mutex mutex;
  size_t left = 0;  // protected by mutex, as what follows
  std::optional<Dialled> leader;
  std::vector<std::string> failures;
};

CoordinatorDial::CoordinatorDial(absl::string_view addresses, std::shared_ptr<const ClusterSecurity> security,
                                 absl::Duration patience)
    : addresses_(CoordinatorAddresses(addresses)), security_(std::move(security)), patience_(patience) {}

absl::StatusOr<CoordinatorDial::Dialled> CoordinatorDial::Next() {
  if (addresses_.empty()) return absl::InvalidArgumentError("cluster.coordinator is empty: name a coordinator");
  if (addresses_.size() == 1) {
    ASSIGN_OR_RETURN(std::shared_ptr<grpc::Channel> channel, ChannelTo(addresses_[0], *security_));
    return Dialled{addresses_[0], std::move(channel)};
  }
  const auto poll = std::make_unique<Poll>();
  poll->least = obeyed();
  for (const std::string& address : addresses_) {
    ASSIGN_OR_RETURN(std::shared_ptr<grpc::Channel> channel, ChannelTo(address, *security_));
    auto call = std::make_unique<Poll::Call>();
    call->stub = v1::Cluster::NewStub(channel);
    call->to = {address, std::move(channel)};
    call->context.set_deadline(gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC),
                                            gpr_time_from_millis(absl::ToInt64Milliseconds(patience_), GPR_TIMESPAN)));
    poll->calls.push_back(std::move(call));
  }
  poll->left = poll->calls.size();
  for (const auto& call : poll->calls) {
    call->stub->async()->Lead(
        &call->context, &call->request, &call->reply,
        [poll = poll.get(), of = call.get()](const grpc::Status& status) { poll->Answered(*of, status); });
  }
  {
    absl::MutexLock lock(&poll->mutex);
    poll->mutex.AwaitWithTimeout(absl::Condition(poll.get(), &Poll::done), patience_);
  }
  for (const auto& call : poll->calls) call->context.TryCancel();  // ends at once, whatever the other side does
  absl::MutexLock lock(&poll->mutex);
  poll->mutex.Await(absl::Condition(poll.get(), &Poll::over));
  if (poll->leader) return *poll->leader;
  std::sort(poll->failures.begin(), poll->failures.end());  // the same each time: it is logged when it changes
  return absl::UnavailableError(
      absl::StrCat("none of the coordinators leads, or none is reached: ", absl::StrJoin(poll->failures, "; ")));
}

bool CoordinatorDial::MayObey(uint64_t lead_epoch) {
  absl::MutexLock lock(&mutex_);
  if (lead_epoch == 0) return true;
  if (lead_epoch < obeyed_) return false;
  obeyed_ = lead_epoch;
  return true;
}

uint64_t CoordinatorDial::obeyed() const {
  absl::MutexLock lock(&mutex_);
  return obeyed_;
}

}  // namespace interlace
