// HttpClient: a blocking connection that shows the bytes as they come.
#pragma once

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <map>
#include <string>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "common/check.h"

namespace interlace {

struct HttpAnswer {
  int status = 0;  // 0: the connection ended instead
  std::map<std::string, std::string> headers;
  std::string body;  // without chunk borders
};

// Thread: the test's. A read gives up after 20 s, which only a broken test sees.
class HttpClient {
 public:
  explicit HttpClient(int port, int receive_buffer = 0) {
    socket_ = socket(AF_INET, SOCK_STREAM, 0);
    const timeval limit{20, 0};
    setsockopt(socket_, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    if (receive_buffer > 0) setsockopt(socket_, SOL_SOCKET, SO_RCVBUF, &receive_buffer, sizeof receive_buffer);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<uint16_t>(port));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    connected_ = connect(socket_, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0;
  }
  ~HttpClient() { Close(); }
  HttpClient(const HttpClient&) = delete;
  HttpClient& operator=(const HttpClient&) = delete;

  bool connected() const { return connected_; }
  void Close() {
    if (socket_ >= 0) close(socket_);
    socket_ = -1;
  }
  // Nothing more is sent; what comes can still be read.
  void EndSending() { shutdown(socket_, SHUT_WR); }
  bool ended() const { return ended_; }
  int descriptor() const { return socket_; }
  void Send(absl::string_view bytes) {
    while (!bytes.empty()) {
      const ssize_t sent = send(socket_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (sent <= 0) return;  // the server closed; the answer, if any, can still be read
      bytes.remove_prefix(static_cast<size_t>(sent));
    }
  }
  void Get(absl::string_view path) { Send(absl::StrCat("GET ", path, " HTTP/1.1\r\nHost: x\r\n\r\n")); }
  void Post(absl::string_view path, absl::string_view body, absl::string_view headers = "") {
    Send(absl::StrCat("POST ", path, " HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n", headers,
                      "Content-Length: ", body.size(), "\r\n\r\n", body));
  }

  // What came up to and including `mark`; everything if the connection ended first.
  std::string ReadThrough(absl::string_view mark) {
    size_t at;
    while ((at = held_.find(mark.data(), 0, mark.size())) == std::string::npos) {
      if (!ReadMore()) return std::exchange(held_, "");
    }
    return Cut(at + mark.size());
  }
  std::string ReadBytes(size_t count) {
    while (held_.size() < count && ReadMore()) {
    }
    return Cut(std::min(count, held_.size()));
  }
  bool AwaitEnd() {
    held_.clear();
    while (ReadMore()) held_.clear();
    return ended_;
  }

  HttpAnswer ReadHead() {
    HttpAnswer answer;
    const std::string head = ReadThrough("\r\n\r\n");
    if (head.size() < 12 || !absl::SimpleAtoi(head.substr(9, 3), &answer.status)) return answer;
    for (size_t at = head.find("\r\n") + 2; at + 2 < head.size();) {
      const size_t end = head.find("\r\n", at), colon = head.find(": ", at);
      if (colon < end) {
        answer.headers[absl::AsciiStrToLower(head.substr(at, colon - at))] = head.substr(colon + 2, end - colon - 2);
      }
      at = end + 2;
    }
    return answer;
  }
  // One chunk of the body; empty: the last one.
  std::string ReadChunk() {
    const std::string size = ReadThrough("\r\n");
    const size_t count = std::strtoul(size.c_str(), nullptr, 16);
    const std::string chunk = ReadBytes(count);
    ReadBytes(2);
    return chunk;
  }
  HttpAnswer Read(bool head_only = false) {
    HttpAnswer answer = ReadHead();
    if (answer.status == 0 || head_only) return answer;
    if (answer.headers["transfer-encoding"] == "chunked") {
      for (std::string chunk = ReadChunk(); !chunk.empty(); chunk = ReadChunk()) answer.body += chunk;
    } else {
      size_t count = 0;
      if (absl::SimpleAtoi(answer.headers["content-length"], &count)) answer.body = ReadBytes(count);
    }
    return answer;
  }

 private:
  bool ReadMore() {
    char bytes[65536];
    const ssize_t count = recv(socket_, bytes, sizeof bytes, 0);
    ended_ = count == 0 || (count < 0 && errno == ECONNRESET);
    if (count <= 0) return false;
    held_.append(bytes, static_cast<size_t>(count));
    return true;
  }
  std::string Cut(size_t count) {
    std::string out = held_.substr(0, count);
    held_.erase(0, count);
    return out;
  }

  int socket_ = -1;
  bool connected_ = false;
  bool ended_ = false;
  std::string held_;
};

}  // namespace interlace
