// The leader's record in a Lease of Kubernetes (coordination.k8s.io/v1), whose resourceVersion is compared by the API
// server. The record is an annotation; the Lease's own fields are for people, and for tools that show who holds it.
#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "common/clock.h"
#include "common/http_client.h"
#include "common/state_file.h"
#include "common/status_macros.h"
#include "coordinator/election/lead_store.h"

namespace interlace {
namespace {

using Json = nlohmann::ordered_json;

constexpr char kAnnotation[] = "interlace/leader";
constexpr char kServer[] = "https://kubernetes.default.svc";
// Where Kubernetes puts what a pod's service account has.
constexpr char kToken[] = "/var/run/secrets/kubernetes.io/serviceaccount/token";
constexpr char kAuthority[] = "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt";
constexpr size_t kMostFile = size_t{1} << 20;

std::string TextOf(const Json& json, std::initializer_list<const char*> path) {
  const Json* at = &json;
  for (const char* name : path) {
    const auto found = at->is_object() ? at->find(name) : at->end();
    if (!at->is_object() || found == at->end()) return "";
    at = &*found;
  }
  return at->is_string() ? at->get<std::string>() : "";
}

class KubernetesStore final : public LeadStore {
 public:
  // `server`: a call to it, to be filled in.
  KubernetesStore(HttpCall server, std::string space, std::string name)
      : server_(std::move(server)), space_(std::move(space)), name_(std::move(name)) {}

  absl::StatusOr<std::optional<StoredRecord>> Read(absl::Duration within) override {
    // Without a resourceVersion the answer is the newest there is.
    ASSIGN_OR_RETURN(const HttpResult answer, Ask("GET", Collection() + "/" + name_, "", within));
    if (answer.status == 404) return std::nullopt;
    if (answer.status != 200) return Refused(answer);
    ASSIGN_OR_RETURN(StoredRecord stored, Parse(answer.body));
    return stored;
  }

  absl::StatusOr<std::string> Write(const LeadRecord& record, const std::string& version,
                                    absl::Duration within) override {
    const bool made = version.empty();
    const std::string body = Lease(record, version);
    ASSIGN_OR_RETURN(const HttpResult answer, made ? Ask("POST", Collection(), body, within)
                                                   : Ask("PUT", Collection() + "/" + name_, body, within));
    if (answer.status == 409 || (answer.status == 404 && !made)) return absl::AbortedError("another one has written");
    if (answer.status != 200 && answer.status != 201) return Refused(answer);
    ASSIGN_OR_RETURN(const StoredRecord stored, Parse(answer.body));
    return stored.version;
  }

 private:
  std::string Collection() const { return absl::StrCat("/apis/coordination.k8s.io/v1/namespaces/", space_, "/leases"); }
  std::string Named() const { return absl::StrCat("the Lease election.key=", space_, "/", name_); }

  absl::StatusOr<HttpResult> Ask(const char* method, const std::string& path, const std::string& body,
                                 absl::Duration within) {
    HttpCall call = server_;
    call.method = method;
    call.target = path;
    call.body = body;
    call.headers = {{"Accept", "application/json"}};
    if (!body.empty()) call.headers.emplace_back("Content-Type", "application/json");
    // Read each time: Kubernetes replaces it every hour or so. It goes over TLS alone.
    const absl::StatusOr<std::string> token = ReadStateFile(kToken, kMostFile);
    if (token.ok() && call.authorities) {
      call.headers.emplace_back("Authorization", absl::StrCat("Bearer ", absl::StripAsciiWhitespace(*token)));
    }
    return CallHttp(call, within, kMostFile);
  }
  absl::Status Refused(const HttpResult& answer) const {
    const std::string text = absl::StrCat(Named(), ": HTTP ", answer.status, " ",
                                          TextOf(Json::parse(answer.body, nullptr, false), {"message"}));
    if (answer.status != 401 && answer.status != 403) return absl::UnavailableError(text);
    return absl::PermissionDeniedError(
        absl::StrCat(text, "; the service account needs get, create and update of leases"));
  }
  absl::StatusOr<StoredRecord> Parse(const std::string& body) const {
    const Json json = Json::parse(body, nullptr, /*allow_exceptions=*/false);
    const std::string version = TextOf(json, {"metadata", "resourceVersion"});
    if (version.empty()) return absl::UnavailableError(absl::StrCat(Named(), ": the answer is no Lease"));
    absl::StatusOr<LeadRecord> record = DecodeLeadRecord(TextOf(json, {"metadata", "annotations", kAnnotation}));
    if (record.ok()) return StoredRecord{*std::move(record), version};
    return absl::InvalidArgumentError(absl::StrCat(Named(), ", annotation ", kAnnotation, ": ",
                                                   record.status().message(),
                                                   "; choose another Lease, or delete this one"));
  }
  std::string Lease(const LeadRecord& record, const std::string& version) const {
    Json json;
    json["apiVersion"] = "coordination.k8s.io/v1";
    json["kind"] = "Lease";
    json["metadata"]["name"] = name_;
    json["metadata"]["namespace"] = space_;
    json["metadata"]["annotations"][kAnnotation] = EncodeLeadRecord(record);
    if (!version.empty()) json["metadata"]["resourceVersion"] = version;
    json["spec"]["holderIdentity"] = record.holder.empty() ? "" : record.http;
    json["spec"]["leaseDurationSeconds"] = absl::ToInt64Seconds(absl::Ceil(record.lease, absl::Seconds(1)));
    json["spec"]["renewTime"] = absl::FormatTime("%Y-%m-%dT%H:%M:%E6SZ", WallTime(), absl::UTCTimeZone());
    return json.dump(-1, ' ', false, Json::error_handler_t::replace);
  }

  const HttpCall server_;
  const std::string space_, name_;
};

// Of "http://HOST:PORT" or "https://HOST" (port 443).
absl::StatusOr<HttpCall> ParseServer(absl::string_view url) {
  HttpCall server;
  absl::string_view rest = url;
  const bool tls = absl::ConsumePrefix(&rest, "https://");
  bool good = tls || absl::ConsumePrefix(&rest, "http://");
  absl::ConsumeSuffix(&rest, "/");
  server.authority = std::string(rest);
  server.port = tls ? "443" : "80";
  if (tls) server.authorities.emplace();
  const size_t colon = rest.rfind(':');
  int port = 0;
  if (colon != absl::string_view::npos && rest.find(']', colon) == absl::string_view::npos) {
    server.port = std::string(rest.substr(colon + 1));
    rest = rest.substr(0, colon);
    good = good && absl::SimpleAtoi(server.port, &port) && port > 0 && port < 65536;
  }
  if (absl::ConsumePrefix(&rest, "[")) good = absl::ConsumeSuffix(&rest, "]") && good;
  server.host = std::string(rest);
  if (good && !rest.empty() && rest.find_first_of("/?#@ ,") == absl::string_view::npos) return server;
  return absl::InvalidArgumentError(
      absl::StrCat("election.endpoints='", url, "' is no address such as https://10.0.0.1:6443"));
}

// As Kubernetes allows them.
bool IsName(absl::string_view name) {
  return !name.empty() && name.size() <= 253 && std::all_of(name.begin(), name.end(), [](char c) {
    return absl::ascii_islower(c) || absl::ascii_isdigit(c) || c == '-' || c == '.';
  });
}

}  // namespace

absl::StatusOr<std::unique_ptr<LeadStore>> MakeKubernetesStore(const Config& config, Clock&) {
  const std::string& url = config.election.endpoints;
  ASSIGN_OR_RETURN(HttpCall server, ParseServer(url.empty() ? kServer : url));
  const std::vector<std::string> key = absl::StrSplit(config.election.key, '/');
  if (key.size() != 2 || !IsName(key[0]) || !IsName(key[1])) {
    return absl::InvalidArgumentError(
        absl::StrCat("election.key='", config.election.key, "' is not NAMESPACE/NAME of a Lease"));
  }
  if (server.authorities) {
    const std::string path = config.election.tls_ca.empty() ? kAuthority : config.election.tls_ca;
    ASSIGN_OR_RETURN(server.authorities, ReadStateFile(path, kMostFile));
    if (!absl::StrContains(*server.authorities, "-----BEGIN CERTIFICATE-----")) {
      return absl::InvalidArgumentError(absl::StrCat("election.tls_ca: ", path, " holds no certificate in PEM"));
    }
  }
  return std::make_unique<KubernetesStore>(std::move(server), key[0], key[1]);
}

}  // namespace interlace
