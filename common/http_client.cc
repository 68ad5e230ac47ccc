#include "common/http_client.h"

#include <utility>  // before Asio, whose headers of this version need it
//
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/ssl/context.hpp>
#include <boost/asio/ssl/host_name_verification.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/core/tcp_stream.hpp>
#include <boost/beast/http/error.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/read.hpp>
#include <boost/beast/http/string_body.hpp>
#include <boost/beast/http/write.hpp>
#include <boost/beast/ssl/ssl_stream.hpp>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace interlace {

namespace net = boost::asio;
namespace http = boost::beast::http;
using boost::system::error_code;

namespace {

// What goes over a connection, plain or TLS, once it is there. `error` is what became of it.
struct Exchange {
  template <typename Stream>
  void On(Stream& stream) {
    http::async_write(stream, request, [this, &stream](error_code written, size_t) {
      if ((error = written)) return;
      // The head by itself: with its body behind it in one piece, this version of the parser forgets the limit.
      http::async_read_header(stream, buffer, parser, [this, &stream](error_code read, size_t) {
        if ((error = read)) return;
        http::async_read(stream, buffer, parser, [this](error_code whole, size_t) { error = whole; });
      });
    });
  }

  http::request<http::string_body> request;
  boost::beast::flat_buffer buffer;
  http::response_parser<http::string_body> parser;
  error_code error = net::error::timed_out;
};

}  // namespace

absl::string_view HttpResult::header(absl::string_view name) const {
  for (const auto& [key, value] : headers) {
    if (absl::EqualsIgnoreCase(key, name)) return value;
  }
  return "";
}

absl::StatusOr<HttpResult> CallHttp(const HttpCall& call, absl::Duration patience, size_t most) {
  const std::string url = absl::StrCat(call.authorities ? "https://" : "http://", call.authority, call.target);
  error_code error;
  net::ssl::context tls(net::ssl::context::tls_client);
  if (call.authorities) {
    tls.set_verify_mode(net::ssl::verify_peer, error);
    if (!error) tls.add_certificate_authority(net::buffer(*call.authorities), error);
    if (error) return absl::InvalidArgumentError(absl::StrCat("no certificates of authorities: ", error.message()));
  }
  net::io_context loop;
  const auto found = net::ip::tcp::resolver(loop).resolve(call.host, call.port, error);
  if (error) return absl::UnavailableError(absl::StrCat(url, ": ", error.message()));

  Exchange exchange;
  http::request<http::string_body>& request = exchange.request;
  request.method_string({call.method.data(), call.method.size()});
  request.target({call.target.data(), call.target.size()});
  request.set(http::field::host, call.authority);
  for (const auto& [key, value] : call.headers) request.set(key, value);
  request.keep_alive(false);
  request.body() = call.body;
  request.prepare_payload();
  http::response_parser<http::string_body>& parser = exchange.parser;
  parser.body_limit(most);
  parser.skip(call.method == "HEAD");  // whose answer tells the length of a body that does not come
  boost::beast::ssl_stream<boost::beast::tcp_stream> stream(loop, tls);
  SSL_set_tlsext_host_name(stream.native_handle(), call.host.c_str());
  stream.set_verify_callback(net::ssl::host_name_verification(call.host));
  boost::beast::tcp_stream& tcp = stream.next_layer();
  tcp.expires_after(absl::ToChronoMilliseconds(patience));
  tcp.async_connect(found, [&](error_code connected, const net::ip::tcp::endpoint&) {
    if ((exchange.error = connected)) return;
    if (!call.authorities) return exchange.On(tcp);
    stream.async_handshake(net::ssl::stream_base::client, [&](error_code shaken) {
      if (!(exchange.error = shaken)) exchange.On(stream);
    });
  });
  loop.run();
  error = exchange.error;
  if (error == http::error::body_limit) {
    return absl::ResourceExhaustedError(absl::StrCat(url, ": the answer is larger than ", most, " bytes"));
  }
  if (error) return absl::UnavailableError(absl::StrCat(url, ": ", error.message()));
  HttpResult result{.status = static_cast<int>(parser.get().result_int())};
  for (const auto& field : parser.get()) {
    const auto name = field.name_string(), value = field.value();
    result.headers.emplace_back(std::string(name.data(), name.size()), std::string(value.data(), value.size()));
  }
  result.body = std::move(parser.get().body());
  return result;
}

}  // namespace interlace
