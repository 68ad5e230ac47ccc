#include "cli/http_get.h"

#include <algorithm>
#include <utility>  // before Asio, whose headers of this version need it
//
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/core/tcp_stream.hpp>
#include <boost/beast/http/empty_body.hpp>
#include <boost/beast/http/read.hpp>
#include <boost/beast/http/string_body.hpp>
#include <boost/beast/http/write.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

namespace interlace {

namespace net = boost::asio;
namespace http = boost::beast::http;

absl::StatusOr<HttpPage> HttpGet(const std::string& address, const std::string& path, absl::Duration patience,
                                 const std::string& api_key) {
  const size_t colon = address.rfind(':');
  absl::string_view host = absl::string_view(address).substr(0, colon);
  if (absl::ConsumePrefix(&host, "[")) absl::ConsumeSuffix(&host, "]");
  boost::system::error_code error;
  net::io_context loop;
  const auto found = net::ip::tcp::resolver(loop).resolve(std::string(host),
                                                          address.substr(std::min(address.size(), colon + 1)), error);
  if (error) return absl::UnavailableError(absl::StrCat(address, " is not an address: ", error.message()));

  boost::beast::tcp_stream stream(loop);
  http::request<http::empty_body> request(http::verb::get, path, 11);
  request.set(http::field::host, address);
  request.keep_alive(false);
  if (!api_key.empty()) request.set(http::field::authorization, "Bearer " + api_key);
  boost::beast::flat_buffer buffer;
  http::response<http::string_body> response;
  error = net::error::timed_out;
  stream.expires_after(absl::ToChronoMilliseconds(patience));
  stream.async_connect(found, [&](boost::system::error_code connected, const net::ip::tcp::endpoint&) {
    if ((error = connected)) return;
    http::async_write(stream, request, [&](boost::system::error_code written, size_t) {
      if ((error = written)) return;
      http::async_read(stream, buffer, response, [&](boost::system::error_code read, size_t) { error = read; });
    });
  });
  loop.run();
  if (error) return absl::UnavailableError(absl::StrCat("http://", address, path, ": ", error.message()));
  return HttpPage{static_cast<int>(response.result_int()), std::move(response.body())};
}

}  // namespace interlace
