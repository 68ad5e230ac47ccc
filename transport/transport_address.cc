#include "transport/transport_address.h"

#include <arpa/inet.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <unistd.h>
#include <xxhash.h>

#include <algorithm>
#include <fstream>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"

namespace interlace {
namespace {

constexpr absl::string_view kFormat = "ucx2";
constexpr size_t kMachineDigits = 16;
constexpr size_t kNonceDigits = 32;
constexpr size_t kMostHosts = 64;

bool IsHex(absl::string_view text, size_t digits) {
  return text.size() == digits && std::all_of(text.begin(), text.end(), absl::ascii_isxdigit);
}

bool IsNumericHost(const std::string& host) {
  unsigned char scratch[sizeof(in6_addr)];
  return inet_pton(AF_INET, host.c_str(), scratch) == 1 || inet_pton(AF_INET6, host.c_str(), scratch) == 1;
}

}  // namespace

std::string TransportAddress::Encode() const {
  return absl::StrCat(kFormat, ";", machine, ";", nonce, ";", port, ";", loopback ? "1" : "0", ";",
                      absl::StrJoin(hosts, ","));
}

absl::StatusOr<TransportAddress> TransportAddress::Decode(absl::string_view bytes) {
  const std::vector<absl::string_view> fields = absl::StrSplit(bytes, ';');
  TransportAddress address;
  int port = 0;
  if (fields.size() != 6 || fields[0] != kFormat) {
    return absl::InvalidArgumentError(absl::StrCat("not a transport address (", bytes.size(), " bytes)"));
  }
  if (!IsHex(fields[1], kMachineDigits) || !IsHex(fields[2], kNonceDigits)) {
    return absl::InvalidArgumentError("transport address: machine or nonce is not hexadecimal");
  }
  if (!absl::SimpleAtoi(fields[3], &port) || port < 1 || port > 65535) {
    return absl::InvalidArgumentError("transport address: the port is not in [1, 65535]");
  }
  address.machine = std::string(fields[1]);
  address.nonce = std::string(fields[2]);
  address.port = static_cast<uint16_t>(port);
  address.loopback = fields[4] == "1";
  for (absl::string_view host : absl::StrSplit(fields[5], ',', absl::SkipEmpty())) {
    address.hosts.emplace_back(host);
    if (!IsNumericHost(address.hosts.back()) || address.hosts.size() > kMostHosts) {
      return absl::InvalidArgumentError("transport address: a host is not a numeric address");
    }
  }
  return address;
}

std::vector<std::string> TransportAddress::Candidates(absl::string_view from) const {
  std::vector<std::string> candidates;
  if (loopback && machine == from) candidates.push_back("127.0.0.1");
  candidates.insert(candidates.end(), hosts.begin(), hosts.end());
  return candidates;
}

std::string ThisMachine() {
  std::string boot;
  std::ifstream("/proc/sys/kernel/random/boot_id") >> boot;
  char name[128] = {};
  const ssize_t length = readlink("/proc/self/ns/net", name, sizeof name - 1);
  if (length > 0) absl::StrAppend(&boot, absl::string_view(name, static_cast<size_t>(length)));
  return absl::StrFormat("%016x", XXH3_64bits(boot.data(), boot.size()));  // equal on every process of the machine
}

std::vector<std::string> LocalHosts() {
  std::vector<std::string> hosts;
  ifaddrs* first = nullptr;
  if (getifaddrs(&first) != 0) return hosts;
  for (const ifaddrs* at = first; at != nullptr; at = at->ifa_next) {
    if (at->ifa_addr == nullptr || at->ifa_addr->sa_family != AF_INET) continue;
    if ((at->ifa_flags & IFF_UP) == 0 || (at->ifa_flags & IFF_LOOPBACK) != 0) continue;
    char text[INET_ADDRSTRLEN] = {};
    const auto* address = reinterpret_cast<const sockaddr_in*>(at->ifa_addr);
    if (inet_ntop(AF_INET, &address->sin_addr, text, sizeof text) != nullptr) hosts.emplace_back(text);
  }
  freeifaddrs(first);
  return hosts;
}

}  // namespace interlace
