#include "coordinator/front/http_writer.h"

#include <boost/asio/write.hpp>
#include <boost/beast/http/chunk_encode.hpp>
#include <boost/beast/http/empty_body.hpp>
#include <boost/beast/http/message.hpp>
#include <boost/beast/http/serializer.hpp>
#include <boost/beast/http/string_body.hpp>
#include <boost/beast/http/write.hpp>

#include "absl/strings/str_cat.h"
#include "common/clock.h"
#include "coordinator/front/http_context.h"

namespace interlace {

namespace net = boost::asio;
namespace http = boost::beast::http;
using boost::system::error_code;

namespace {

// As RFC 9110 wants it of every answer of a server that has a clock.
std::string HttpDate() { return absl::FormatTime("%a, %d %b %Y %H:%M:%S GMT", WallTime(), absl::UTCTimeZone()); }

}  // namespace

void HttpWriter::BeginWrite() { stream_.ExpireAfter(absl::ToChronoMilliseconds(write_timeout_)); }

void HttpWriter::EndWrite(bool failed) {
  stream_.ExpireNever();
  if (failed) gone_ = true;
}

net::awaitable<void> HttpWriter::Reply(HttpReply reply) {
  if (gone_) co_return;
  http::response<http::string_body> response(static_cast<http::status>(reply.status), question_.version);
  response.set(http::field::date, HttpDate());
  response.set(http::field::content_type, reply.content_type);
  response.set("x-request-id", question_.name);
  response.set("request-id", question_.name);
  for (const auto& [key, value] : question_.headers) response.set(key, value);
  for (const auto& [key, value] : reply.headers) response.set(key, value);
  response.keep_alive(question_.keep_alive);
  response.body() = std::move(reply.body);
  response.prepare_payload();
  http::response_serializer<http::string_body> serializer(response);
  error_code error;
  BeginWrite();
  if (question_.head) {
    co_await http::async_write_header(stream_, serializer, Into(error));
  } else {
    co_await http::async_write(stream_, serializer, Into(error));
  }
  EndWrite(error.failed());
}

net::awaitable<void> HttpWriter::StartStream() {
  if (gone_) co_return;
  http::response<http::empty_body> response(http::status::ok, question_.version);
  response.set(http::field::date, HttpDate());
  response.set(http::field::content_type, "text/event-stream");
  response.set(http::field::cache_control, "no-cache");
  response.set("x-request-id", question_.name);
  response.set("request-id", question_.name);
  for (const auto& [key, value] : question_.headers) response.set(key, value);
  if (question_.version < 11) question_.keep_alive = false;  // only the end of the connection ends such a body
  response.keep_alive(question_.keep_alive);
  if (question_.version >= 11) response.chunked(true);
  http::response_serializer<http::empty_body> serializer(response);
  error_code error;
  BeginWrite();
  co_await http::async_write_header(stream_, serializer, Into(error));
  EndWrite(error.failed());
}

net::awaitable<void> HttpWriter::Event(std::string bytes) { co_await WriteBody(std::move(bytes)); }

net::awaitable<void> HttpWriter::Ping() { co_await WriteBody(": ping\n\n"); }

net::awaitable<void> HttpWriter::WriteBody(std::string bytes) {
  if (gone_) co_return;
  if (question_.version >= 11) bytes = absl::StrCat(absl::Hex(bytes.size()), "\r\n", bytes, "\r\n");
  error_code error;
  size_t taken = 0;
  if (!stream_.secure()) {
    // Nearly always the system takes it at once; then no timer is set and nobody is suspended, of which a token each
    // time would cost more than its bytes.
    if (!stream_.socket().non_blocking()) stream_.socket().non_blocking(true, error);
    taken = error ? 0 : stream_.socket().write_some(net::buffer(bytes), error);
    if (taken == bytes.size()) co_return;
  }
  BeginWrite();
  co_await net::async_write(stream_, net::buffer(bytes) + taken, Into(error));
  EndWrite(error.failed());
}

net::awaitable<void> HttpWriter::EndStream() {
  if (question_.version < 11 || gone_) co_return;
  error_code error;
  BeginWrite();
  co_await net::async_write(stream_, http::make_chunk_last(), Into(error));
  EndWrite(error.failed());
}

}  // namespace interlace
