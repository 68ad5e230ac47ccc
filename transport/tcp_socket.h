// TCP sockets: what the transport asks of the system, as file descriptors that close themselves.
#pragma once

#include <cstdint>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace interlace {

// Closes with the object. A value that moves.
class FileDescriptor {
 public:
  FileDescriptor() = default;
  explicit FileDescriptor(int fd) : fd_(fd) {}
  ~FileDescriptor() { Close(); }
  FileDescriptor(FileDescriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  FileDescriptor& operator=(FileDescriptor&& other) noexcept {
    Close();
    fd_ = std::exchange(other.fd_, -1);
    return *this;
  }
  int get() const { return fd_; }
  bool open() const { return fd_ >= 0; }
  void Close();

 private:
  int fd_ = -1;
};

// All sockets are non-blocking. Hosts are numeric, IPv4 or IPv6; errors name host and port.
absl::StatusOr<FileDescriptor> ListenOn(const std::string& host, uint16_t port);
uint16_t PortOf(const FileDescriptor& listener);
// Begins a connection, which is made once the socket can be written.
absl::StatusOr<FileDescriptor> DialTo(const std::string& host, uint16_t port);
// NotFound: nobody waits. ResourceExhausted: this process has no descriptor left.
absl::StatusOr<FileDescriptor> AcceptFrom(const FileDescriptor& listener);

// Whether the machine at the other end has said nothing for `silence`, although it was sent something, and that again,
// and again: it is gone, or the way there or back is cut. Systems answer each other whether or not their processes run,
// so a process that is slow, stopped or reads nothing is not told from others by this.
bool AnswersNothing(const FileDescriptor& connection, absl::Duration silence);

// The numeric address of the other end of a connection that is made; empty if it is gone.
std::string PeerHost(const FileDescriptor& connection);

// The numeric address that this machine has on the way to "host:port" (or "[v6]:port"): where to listen for those who
// are reached there. InvalidArgument if the name cannot be resolved.
absl::StatusOr<std::string> AddressTowards(absl::string_view host_port);
// A name, or a numeric address, as a numeric address.
absl::StatusOr<std::string> NumericHost(const std::string& host);

}  // namespace interlace
