// Certificates that every holder of one secret makes for itself, and that every other holder accepts.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace interlace {

// The name in such a certificate.
inline constexpr char kDerivedName[] = "interlace-cluster";

// A value, in PEM.
struct DerivedCertificate {
  std::string authority;    // that of the secret: the same key and name wherever it is made
  std::string certificate;  // signed by it
  std::string key;          // of the certificate; drawn anew each time
};

// `seed`: 32 bytes that only holders of the secret can derive. The authority's key is an Ed25519 key made of them.
absl::StatusOr<DerivedCertificate> DeriveCertificate(absl::string_view seed);

// FailedPrecondition unless `certificate` (a chain, its own first) belongs to `key` and `authority` holds certificates.
// Whether one signed the other is found out by those who connect.
absl::Status CheckCertificate(absl::string_view authority, absl::string_view certificate, absl::string_view key);

}  // namespace interlace
