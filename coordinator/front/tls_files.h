// TlsFiles: what the doors identify themselves with.
#pragma once

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace boost::asio::ssl {
class context;
}  // namespace boost::asio::ssl

namespace interlace {

// PEM files. All empty: the doors speak in the clear.
struct TlsFiles {
  std::string certificate;  // and those between it and its authority
  std::string key;
  std::string client_ca;  // authorities of whose clients one must have a certificate; empty: anybody may connect
  bool on() const { return !certificate.empty() || !key.empty() || !client_ca.empty(); }
};

// What Asio needs to accept TLS 1.2 and later with these files, as they are now. InvalidArgument names the setting, the
// file and what is wrong with it.
absl::StatusOr<std::shared_ptr<boost::asio::ssl::context>> MakeTlsContext(const TlsFiles& files);

}  // namespace interlace
