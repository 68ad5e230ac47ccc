#include "coordinator/telemetry/otlp_exporter.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "common/http_client.h"
#include "common/log.h"
#include "coordinator/telemetry/request_spans.h"

namespace interlace {

absl::StatusOr<OtlpEndpoint> ParseOtlpEndpoint(const std::string& url) {
  const auto refuse = [&url](absl::string_view why) {
    return absl::InvalidArgumentError(absl::StrCat("telemetry.otlp_endpoint='", url, "' ", why));
  };
  absl::string_view rest = url;
  if (!absl::ConsumePrefix(&rest, "http://")) return refuse("must begin with http://, as in http://127.0.0.1:4318");
  const size_t slash = rest.find('/');
  absl::string_view authority = rest.substr(0, slash);
  OtlpEndpoint endpoint{"", "4318", slash == absl::string_view::npos ? "" : std::string(rest.substr(slash))};
  if (endpoint.path.empty() || endpoint.path == "/") endpoint.path = "/v1/traces";
  const size_t colon = authority.rfind(':');
  if (colon != absl::string_view::npos && authority.find(']', colon) == absl::string_view::npos) {
    endpoint.port = std::string(authority.substr(colon + 1));
    authority = authority.substr(0, colon);
  }
  if (absl::ConsumePrefix(&authority, "[")) absl::ConsumeSuffix(&authority, "]");
  endpoint.host = std::string(authority);
  const bool digits =
      std::all_of(endpoint.port.begin(), endpoint.port.end(), [](char c) { return c >= '0' && c <= '9'; });
  if (endpoint.host.empty() || endpoint.port.empty() || !digits) return refuse("names no HOST:PORT");
  return endpoint;
}

OtlpExporter::OtlpExporter(Options options, Clock& clock, Metrics& metrics, std::unique_ptr<Entropy> entropy)
    : options_(std::move(options)),
      clock_(clock),
      sent_(metrics.counter("interlace_telemetry_spans_total", {{"result", "sent"}})),
      dropped_(metrics.counter("interlace_telemetry_spans_total", {{"result", "dropped"}})),
      entropy_(std::move(entropy)),
      queue_(options_.queue),
      complaints_(absl::Minutes(1)),
      thread_("otlp", [this] { Run(); }) {}

OtlpExporter::~OtlpExporter() {
  queue_.Close();
  thread_.Join();
}

void OtlpExporter::OnEnded(const EndedRequest& ended) {
  if (!ended.request.trace.any() || !ended.request.trace.sampled) return;
  Spans spans = SpansOf(ended, options_.model, [this] { return std::max<uint64_t>(1, entropy_->Next()); });
  const auto count = static_cast<double>(spans.size());
  if (!queue_.TryPush(std::move(spans))) dropped_.Add(count);
}

void OtlpExporter::Run() {
  bool taken = true;
  while (std::optional<Spans> first = queue_.Pop()) {
    // At the end a collector that takes nothing does not keep the process.
    if (taken || !queue_.closed()) {
      taken = Send(Gather(*std::move(first)));
    } else {
      dropped_.Add(static_cast<double>(first->size()));
    }
  }
}

OtlpExporter::Spans OtlpExporter::Gather(Spans first) {
  const absl::Time until = clock_.Now() + options_.gather;
  for (size_t requests = 1; requests < options_.batch; ++requests) {
    std::optional<Spans> more = queue_.PopWithin(std::max(absl::ZeroDuration(), until - clock_.Now()));
    if (!more) break;
    first.insert(first.end(), std::make_move_iterator(more->begin()), std::make_move_iterator(more->end()));
  }
  return first;
}

bool OtlpExporter::Send(const Spans& spans) {
  const std::string body = EncodeSpans(spans, options_.service, clock_.Now() - (WallTime() - absl::UnixEpoch()));
  absl::Status posted = Post(body);
  if (!posted.ok() && !queue_.closed()) posted = Post(body);
  (posted.ok() ? sent_ : dropped_).Add(static_cast<double>(spans.size()));
  if (posted.ok()) return true;
  if (const std::optional<int64_t> held_back = complaints_.Pass(clock_.Now())) {
    LOG(WARNING) << "spans are dropped: the collector does not take them" << posted << Field("more", *held_back);
  }
  return false;
}

absl::Status OtlpExporter::Post(const std::string& body) const {
  const OtlpEndpoint& at = options_.endpoint;
  const HttpCall call{.host = at.host,
                      .port = at.port,
                      .authority = at.authority(),
                      .method = "POST",
                      .target = at.path,
                      .headers = {{"Content-Type", "application/x-protobuf"}},
                      .body = body};
  const absl::StatusOr<HttpResult> answer = CallHttp(call, options_.patience);
  if (!answer.ok() || answer->status / 100 == 2) return answer.status();
  return absl::UnavailableError(absl::StrCat("http://", at.authority(), at.path, ": HTTP ", answer->status));
}

}  // namespace interlace
