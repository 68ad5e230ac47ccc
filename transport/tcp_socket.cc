#include "transport/tcp_socket.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <memory>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "common/status_macros.h"

namespace interlace {
namespace {

constexpr int kBacklog = 128;
constexpr int kUnanswered = 2;  // retransmissions in a row, the first after 200 ms, the second 400 ms later

struct SocketAddress {
  sockaddr_storage storage{};
  socklen_t length = 0;
  const sockaddr* get() const { return reinterpret_cast<const sockaddr*>(&storage); }
};

absl::StatusOr<SocketAddress> Parse(const std::string& host, uint16_t port) {
  SocketAddress address;
  auto* four = reinterpret_cast<sockaddr_in*>(&address.storage);
  auto* six = reinterpret_cast<sockaddr_in6*>(&address.storage);
  if (inet_pton(AF_INET, host.c_str(), &four->sin_addr) == 1) {
    four->sin_family = AF_INET;
    four->sin_port = htons(port);
    address.length = sizeof *four;
    return address;
  }
  if (inet_pton(AF_INET6, host.c_str(), &six->sin6_addr) == 1) {
    six->sin6_family = AF_INET6;
    six->sin6_port = htons(port);
    address.length = sizeof *six;
    return address;
  }
  return absl::InvalidArgumentError(absl::StrCat("host='", host, "' is not a numeric address"));
}

std::string Print(const sockaddr* address) {
  char text[INET6_ADDRSTRLEN] = {};
  const void* bytes = address->sa_family == AF_INET
                          ? static_cast<const void*>(&reinterpret_cast<const sockaddr_in*>(address)->sin_addr)
                          : static_cast<const void*>(&reinterpret_cast<const sockaddr_in6*>(address)->sin6_addr);
  inet_ntop(address->sa_family, bytes, text, sizeof text);
  return text;
}

absl::Status LastError(absl::string_view what) {
  return absl::UnavailableError(absl::StrCat(what, ": ", std::strerror(errno)));
}

void Set(int fd, int level, int option, int value) { setsockopt(fd, level, option, &value, sizeof value); }

// Small messages leave at once. The system itself ends a connection whose other end reads nothing, or answers nothing,
// for 10 s: TCP_USER_TIMEOUT governs the probes of SO_KEEPALIVE too, whatever their number. It cannot be shorter, since
// a process that is only slow to read would be lost by it. A way that is cut is noticed sooner, by AnswersNothing.
void Tune(int fd) {
  Set(fd, IPPROTO_TCP, TCP_NODELAY, 1);
  Set(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
  Set(fd, IPPROTO_TCP, TCP_KEEPIDLE, 2);
  Set(fd, IPPROTO_TCP, TCP_KEEPINTVL, 1);
  Set(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, 10000);
}

struct FreeAddresses {
  void operator()(addrinfo* list) const { freeaddrinfo(list); }
};
using Addresses = std::unique_ptr<addrinfo, FreeAddresses>;

absl::StatusOr<Addresses> Resolve(absl::string_view name, const std::string& port) {
  if (absl::ConsumePrefix(&name, "[")) absl::ConsumeSuffix(&name, "]");
  const std::string host(name);
  addrinfo hints{};
  hints.ai_socktype = SOCK_DGRAM;
  addrinfo* found = nullptr;
  const int error = getaddrinfo(host.c_str(), port.empty() ? nullptr : port.c_str(), &hints, &found);
  if (error != 0) {
    return absl::InvalidArgumentError(absl::StrCat("host '", host, "' cannot be resolved: ", gai_strerror(error)));
  }
  return Addresses(found);
}

}  // namespace

void FileDescriptor::Close() {
  if (fd_ >= 0) close(std::exchange(fd_, -1));
}

absl::StatusOr<FileDescriptor> ListenOn(const std::string& host, uint16_t port) {
  ASSIGN_OR_RETURN(const SocketAddress address, Parse(host, port));
  const std::string what = absl::StrCat("listening on '", host, "' port ", port);
  FileDescriptor fd(socket(address.storage.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!fd.open()) return LastError(what);
  if (port != 0) Set(fd.get(), SOL_SOCKET, SO_REUSEADDR, 1);
  if (bind(fd.get(), address.get(), address.length) != 0 || listen(fd.get(), kBacklog) != 0) return LastError(what);
  return fd;
}

uint16_t PortOf(const FileDescriptor& listener) {
  sockaddr_storage storage{};
  socklen_t length = sizeof storage;
  getsockname(listener.get(), reinterpret_cast<sockaddr*>(&storage), &length);
  return ntohs(storage.ss_family == AF_INET ? reinterpret_cast<const sockaddr_in*>(&storage)->sin_port
                                            : reinterpret_cast<const sockaddr_in6*>(&storage)->sin6_port);
}

absl::StatusOr<FileDescriptor> DialTo(const std::string& host, uint16_t port) {
  ASSIGN_OR_RETURN(const SocketAddress address, Parse(host, port));
  FileDescriptor fd(socket(address.storage.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  const std::string what = absl::StrCat("connecting to ", host, ":", port);
  if (!fd.open()) return LastError(what);
  Tune(fd.get());
  if (connect(fd.get(), address.get(), address.length) != 0 && errno != EINPROGRESS) return LastError(what);
  return fd;
}

absl::StatusOr<FileDescriptor> AcceptFrom(const FileDescriptor& listener) {
  while (true) {
    FileDescriptor fd(accept4(listener.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
    if (fd.open()) {
      Tune(fd.get());
      return fd;
    }
    if (errno == EINTR || errno == ECONNABORTED) continue;
    if (errno == EAGAIN || errno == EWOULDBLOCK) return absl::NotFoundError("nobody waits");
    return absl::ResourceExhaustedError(std::strerror(errno));
  }
}

bool AnswersNothing(const FileDescriptor& connection, absl::Duration silence) {
  tcp_info info{};
  socklen_t length = sizeof info;
  if (getsockopt(connection.get(), IPPROTO_TCP, TCP_INFO, &info, &length) != 0) return false;
  return info.tcpi_retransmits >= kUnanswered && absl::Milliseconds(info.tcpi_last_ack_recv) >= silence;
}

std::string PeerHost(const FileDescriptor& connection) {
  sockaddr_storage storage{};
  socklen_t length = sizeof storage;
  auto* address = reinterpret_cast<sockaddr*>(&storage);
  return getpeername(connection.get(), address, &length) == 0 ? Print(address) : std::string();
}

absl::StatusOr<std::string> AddressTowards(absl::string_view host_port) {
  const size_t colon = host_port.rfind(':');
  if (colon == absl::string_view::npos) {
    return absl::InvalidArgumentError(absl::StrCat("'", host_port, "' is not HOST:PORT"));
  }
  ASSIGN_OR_RETURN(const Addresses found,
                   Resolve(host_port.substr(0, colon), std::string(host_port.substr(colon + 1))));
  for (const addrinfo* at = found.get(); at != nullptr; at = at->ai_next) {
    // Connecting a datagram socket sends nothing: it picks the route, and with it the address on our side.
    const FileDescriptor fd(socket(at->ai_family, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    sockaddr_storage storage{};
    socklen_t length = sizeof storage;
    if (!fd.open() || connect(fd.get(), at->ai_addr, at->ai_addrlen) != 0) continue;
    if (getsockname(fd.get(), reinterpret_cast<sockaddr*>(&storage), &length) != 0) continue;
    return Print(reinterpret_cast<const sockaddr*>(&storage));
  }
  return absl::UnavailableError(absl::StrCat("no route to ", host_port));
}

absl::StatusOr<std::string> NumericHost(const std::string& host) {
  ASSIGN_OR_RETURN(const Addresses found, Resolve(host, ""));
  return Print(found->ai_addr);
}

}  // namespace interlace
