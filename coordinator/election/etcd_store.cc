// The leader's record under one key of etcd, by transactions that compare its revision. Not etcd's lease: that is kept
// by etcd's clock and ends some time after it has run out, and after each change of etcd's own leader it begins anew.
#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "common/grpc_status.h"
#include "common/secret_file.h"
#include "common/state_file.h"
#include "common/status_macros.h"
#include "coordinator/election/lead_store.h"
#include "proto/compat/etcd_kv.grpc.pb.h"

namespace interlace {
namespace {

namespace wire = etcdserverpb;

constexpr size_t kMostPem = size_t{1} << 20;

gpr_timespec In(absl::Duration time) {
  return gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC),
                      gpr_time_from_micros(absl::ToInt64Microseconds(time), GPR_TIMESPAN));
}

std::string Versioned(int64_t revision) { return absl::StrCat(revision); }

class EtcdStore final : public LeadStore {
 public:
  EtcdStore(std::vector<std::string> endpoints, std::string key, std::shared_ptr<grpc::ChannelCredentials> credentials,
            Clock& clock)
      : endpoints_(std::move(endpoints)), key_(std::move(key)), credentials_(std::move(credentials)), clock_(clock) {}

  absl::StatusOr<std::optional<StoredRecord>> Read(absl::Duration within) override {
    wire::RangeRequest request;  // linearizable: etcd's default
    request.set_key(key_);
    wire::RangeResponse reply;
    RETURN_IF_ERROR(Call(within, [&](wire::KV::Stub& stub, grpc::ClientContext* context) {
      return stub.Range(context, request, &reply);
    }));
    if (reply.kvs().empty()) return std::nullopt;
    absl::StatusOr<LeadRecord> record = DecodeLeadRecord(reply.kvs(0).value());
    if (!record.ok()) {
      return absl::InvalidArgumentError(absl::StrCat("election.key=", key_, ": ", record.status().message(),
                                                     "; choose another key, or delete this one"));
    }
    return StoredRecord{*std::move(record), Versioned(reply.kvs(0).mod_revision())};
  }

  absl::StatusOr<std::string> Write(const LeadRecord& record, const std::string& version,
                                    absl::Duration within) override {
    int64_t revision = 0;  // of a key that is not there
    if (!version.empty() && !absl::SimpleAtoi(version, &revision)) return absl::InternalError("no version of etcd's");
    wire::TxnRequest request;
    wire::Compare* const compare = request.add_compare();
    compare->set_key(key_);
    compare->set_target(wire::Compare::MOD);
    compare->set_result(wire::Compare::EQUAL);
    compare->set_mod_revision(revision);
    wire::PutRequest* const put = request.add_success()->mutable_request_put();
    put->set_key(key_);
    put->set_value(EncodeLeadRecord(record));
    wire::TxnResponse reply;
    RETURN_IF_ERROR(Call(within, [&](wire::KV::Stub& stub, grpc::ClientContext* context) {
      return stub.Txn(context, request, &reply);
    }));
    if (!reply.succeeded()) return absl::AbortedError("another coordinator has written");
    return Versioned(reply.header().revision());
  }

 private:
  // One endpoint after another, beginning with the one that answered last, until one answers. The first that are asked
  // leave time for the others.
  template <typename Ask>
  absl::Status Call(absl::Duration within, Ask ask) {
    const absl::Time end = clock_.Now() + within;
    absl::Status status = absl::DeadlineExceededError("no time was left");
    for (size_t left = endpoints_.size(); left > 0 && clock_.Now() < end; --left) {
      if (stub_ == nullptr) stub_ = wire::KV::NewStub(ChannelTo(endpoints_[at_]));
      grpc::ClientContext context;
      context.set_deadline(In((end - clock_.Now()) / static_cast<double>(left)));
      status = FromGrpcStatus(ask(*stub_, &context));
      if (status.ok()) return status;
      status = absl::Status(status.code(), absl::StrCat("etcd at ", endpoints_[at_], ": ", status.message()));
      stub_ = nullptr;  // a connection that hangs is not waited for a second time
      at_ = (at_ + 1) % endpoints_.size();
    }
    return status;
  }

  std::shared_ptr<grpc::Channel> ChannelTo(const std::string& endpoint) const {
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);  // a fresh connection, without an old one's back-off
    arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
    return grpc::CreateCustomChannel(endpoint, credentials_, arguments);
  }

  const std::vector<std::string> endpoints_;
  const std::string key_;
  const std::shared_ptr<grpc::ChannelCredentials> credentials_;
  Clock& clock_;
  size_t at_ = 0;                         // of endpoints_
  std::unique_ptr<wire::KV::Stub> stub_;  // to endpoints_[at_]; null: not connected yet
};

absl::StatusOr<std::shared_ptr<grpc::ChannelCredentials>> Credentials(const Config& config) {
  const auto& e = config.election;
  if (e.tls_ca.empty()) {
    if (e.tls_cert.empty() && e.tls_key.empty()) return grpc::InsecureChannelCredentials();
    return absl::InvalidArgumentError("election.tls_cert and election.tls_key need election.tls_ca");
  }
  grpc::SslCredentialsOptions options;
  ASSIGN_OR_RETURN(options.pem_root_certs, ReadStateFile(e.tls_ca, kMostPem));
  if (e.tls_cert.empty() != e.tls_key.empty()) {
    return absl::InvalidArgumentError("election.tls_cert and election.tls_key are given together or not at all");
  }
  if (!e.tls_cert.empty()) {
    ASSIGN_OR_RETURN(options.pem_cert_chain, ReadStateFile(e.tls_cert, kMostPem));
    ASSIGN_OR_RETURN(options.pem_private_key, ReadSecretFile("election.tls_key", e.tls_key));
  }
  return grpc::SslCredentials(options);
}

}  // namespace

absl::StatusOr<std::unique_ptr<LeadStore>> MakeEtcdStore(const Config& config, Clock& clock) {
  std::vector<std::string> endpoints;
  for (absl::string_view endpoint : absl::StrSplit(config.election.endpoints, ',')) {
    endpoint = absl::StripAsciiWhitespace(endpoint);
    if (!absl::ConsumePrefix(&endpoint, "http://")) absl::ConsumePrefix(&endpoint, "https://");
    const size_t colon = endpoint.rfind(':');
    int port = 0;
    if (colon == absl::string_view::npos || colon == 0 || !absl::SimpleAtoi(endpoint.substr(colon + 1), &port) ||
        port < 1 || port > 65535) {
      return absl::InvalidArgumentError(absl::StrCat("election.endpoints='", config.election.endpoints,
                                                     "' is no list of HOST:PORT, as in 10.0.0.1:2379,10.0.0.2:2379"));
    }
    endpoints.emplace_back(endpoint);
  }
  if (config.election.key.empty()) return absl::InvalidArgumentError("election.key is empty: name a key of etcd");
  ASSIGN_OR_RETURN(std::shared_ptr<grpc::ChannelCredentials> credentials, Credentials(config));
  return std::make_unique<EtcdStore>(std::move(endpoints), config.election.key, std::move(credentials), clock);
}

}  // namespace interlace
