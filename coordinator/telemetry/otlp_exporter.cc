#include "coordinator/telemetry/otlp_exporter.h"

#include <algorithm>
#include <iterator>
#include <utility>  // before Asio, whose headers of this version need it
//
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/core/tcp_stream.hpp>
#include <boost/beast/http/read.hpp>
#include <boost/beast/http/string_body.hpp>
#include <boost/beast/http/write.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "common/log.h"
#include "coordinator/telemetry/request_spans.h"

namespace interlace {

namespace net = boost::asio;
namespace http = boost::beast::http;

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
  boost::system::error_code error;
  net::io_context loop;
  boost::beast::tcp_stream stream(loop);
  const auto found = net::ip::tcp::resolver(loop).resolve(options_.endpoint.host, options_.endpoint.port, error);
  const std::string url = absl::StrCat("http://", options_.endpoint.authority(), options_.endpoint.path);
  if (error) return absl::UnavailableError(absl::StrCat(url, ": ", error.message()));
  http::request<http::string_body> request(http::verb::post, options_.endpoint.path, 11);
  request.set(http::field::host, options_.endpoint.authority());
  request.set(http::field::content_type, "application/x-protobuf");
  request.keep_alive(false);
  request.body() = body;
  request.prepare_payload();
  boost::beast::flat_buffer buffer;
  http::response<http::string_body> response;
  error = net::error::timed_out;
  stream.expires_after(absl::ToChronoMilliseconds(options_.patience));
  stream.async_connect(found, [&](boost::system::error_code connected, const net::ip::tcp::endpoint&) {
    if ((error = connected)) return;
    http::async_write(stream, request, [&](boost::system::error_code written, size_t) {
      if ((error = written)) return;
      http::async_read(stream, buffer, response, [&](boost::system::error_code read, size_t) { error = read; });
    });
  });
  loop.run();
  if (error) return absl::UnavailableError(absl::StrCat(url, ": ", error.message()));
  if (response.result_int() / 100 == 2) return absl::OkStatus();
  return absl::UnavailableError(absl::StrCat(url, ": HTTP ", response.result_int()));
}

}  // namespace interlace
