#include "common/derived_certificate.h"

#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>

#include <memory>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"

namespace interlace {
namespace {

template <auto kFree>
struct Freed {
  template <typename T>
  void operator()(T* object) const {
    kFree(object);
  }
};
using Key = std::unique_ptr<EVP_PKEY, Freed<EVP_PKEY_free>>;
using Certificate = std::unique_ptr<X509, Freed<X509_free>>;
using Memory = std::unique_ptr<BIO, Freed<BIO_free>>;

constexpr size_t kSeedBytes = 32;
// Not a matter of time: a secret that has served its time is replaced, and its certificates with it.
constexpr char kNotBefore[] = "20200101000000Z";
constexpr char kNotAfter[] = "99991231235959Z";
constexpr char kAuthorityName[] = "interlace-cluster-authority";

absl::Status OpenSslError(absl::string_view what) {
  char text[256] = {};
  ERR_error_string_n(ERR_get_error(), text, sizeof text);
  ERR_clear_error();
  return absl::InternalError(absl::StrCat(what, ": ", text));
}

bool AddExtension(X509* certificate, X509* issuer, int nid, const char* value) {
  X509V3_CTX context;
  X509V3_set_ctx(&context, issuer, certificate, nullptr, nullptr, 0);
  const std::unique_ptr<X509_EXTENSION, Freed<X509_EXTENSION_free>> extension(
      X509V3_EXT_conf_nid(nullptr, &context, nid, value));
  return extension != nullptr && X509_add_ext(certificate, extension.get(), -1) == 1;
}

struct Extension {
  int nid;
  const char* value;
};

// `issuer` null: signed by itself.
absl::StatusOr<Certificate> Sign(const char* name, EVP_PKEY* key, X509* issuer, EVP_PKEY* issuer_key,
                                 std::initializer_list<Extension> extensions) {
  Certificate made(X509_new());
  X509* const certificate = made.get();
  if (certificate == nullptr || X509_set_version(certificate, X509_VERSION_3) != 1 ||
      ASN1_INTEGER_set(X509_get_serialNumber(certificate), issuer == nullptr ? 1 : 2) != 1 ||
      ASN1_TIME_set_string_X509(X509_getm_notBefore(certificate), kNotBefore) != 1 ||
      ASN1_TIME_set_string_X509(X509_getm_notAfter(certificate), kNotAfter) != 1 ||
      X509_set_pubkey(certificate, key) != 1) {
    return OpenSslError("making a certificate");
  }
  X509_NAME* const subject = X509_get_subject_name(certificate);
  const auto* text = reinterpret_cast<const unsigned char*>(name);
  if (X509_NAME_add_entry_by_txt(subject, "CN", MBSTRING_ASC, text, -1, -1, 0) != 1 ||
      X509_set_issuer_name(certificate, issuer == nullptr ? subject : X509_get_subject_name(issuer)) != 1) {
    return OpenSslError("naming a certificate");
  }
  for (const Extension& extension : extensions) {
    if (!AddExtension(certificate, issuer == nullptr ? certificate : issuer, extension.nid, extension.value)) {
      return OpenSslError("extending a certificate");
    }
  }
  if (X509_sign(certificate, issuer_key, nullptr) == 0) return OpenSslError("signing a certificate");
  return made;
}

template <typename Write>
absl::StatusOr<std::string> ToPem(Write write) {
  const Memory memory(BIO_new(BIO_s_mem()));
  if (memory == nullptr || write(memory.get()) != 1) return OpenSslError("writing PEM");
  char* bytes = nullptr;
  const long size = BIO_get_mem_data(memory.get(), &bytes);
  return std::string(bytes, static_cast<size_t>(size));
}

absl::StatusOr<std::string> PemOf(X509* certificate) {
  return ToPem([certificate](BIO* to) { return PEM_write_bio_X509(to, certificate); });
}

Memory Reading(absl::string_view pem) { return Memory(BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size()))); }

Certificate ReadCertificate(absl::string_view pem) {
  return Certificate(PEM_read_bio_X509(Reading(pem).get(), nullptr, nullptr, nullptr));
}

// A key that is locked by a password is not asked for one on the terminal.
int NoPassword(char*, int, int, void*) { return 0; }

}  // namespace

absl::StatusOr<DerivedCertificate> DeriveCertificate(absl::string_view seed) {
  if (seed.size() != kSeedBytes) return absl::InvalidArgumentError("a certificate is derived from 32 bytes");
  const Key authority_key(EVP_PKEY_new_raw_private_key(
      EVP_PKEY_ED25519, nullptr, reinterpret_cast<const unsigned char*>(seed.data()), seed.size()));
  const Key key(EVP_PKEY_Q_keygen(nullptr, nullptr, "ED25519"));
  if (authority_key == nullptr || key == nullptr) return OpenSslError("making a key");
  ASSIGN_OR_RETURN(const Certificate authority, Sign(kAuthorityName, authority_key.get(), nullptr, authority_key.get(),
                                                     {{NID_basic_constraints, "critical,CA:TRUE,pathlen:0"},
                                                      {NID_key_usage, "critical,keyCertSign"},
                                                      {NID_subject_key_identifier, "hash"}}));
  ASSIGN_OR_RETURN(const Certificate certificate,
                   Sign(kDerivedName, key.get(), authority.get(), authority_key.get(),
                        {{NID_basic_constraints, "critical,CA:FALSE"},
                         {NID_key_usage, "critical,digitalSignature"},
                         {NID_ext_key_usage, "serverAuth,clientAuth"},
                         {NID_authority_key_identifier, "keyid"},
                         {NID_subject_alt_name, absl::StrCat("DNS:", kDerivedName).c_str()}}));
  DerivedCertificate derived;
  ASSIGN_OR_RETURN(derived.authority, PemOf(authority.get()));
  ASSIGN_OR_RETURN(derived.certificate, PemOf(certificate.get()));
  ASSIGN_OR_RETURN(derived.key, ToPem([&key](BIO* to) {
                     return PEM_write_bio_PKCS8PrivateKey(to, key.get(), nullptr, nullptr, 0, nullptr, nullptr);
                   }));
  return derived;
}

absl::Status CheckCertificate(absl::string_view authority, absl::string_view certificate, absl::string_view key) {
  const auto unfit = [](absl::string_view what) {
    ERR_clear_error();
    return absl::FailedPreconditionError(what);
  };
  if (ReadCertificate(authority) == nullptr) return unfit("cluster.tls_ca holds no certificate in PEM");
  const Certificate own = ReadCertificate(certificate);
  if (own == nullptr) return unfit("cluster.tls_cert holds no certificate in PEM");
  const Key own_key(PEM_read_bio_PrivateKey(Reading(key).get(), nullptr, &NoPassword, nullptr));
  if (own_key == nullptr) return unfit("cluster.tls_key holds no private key in PEM, or one under a password");
  if (X509_check_private_key(own.get(), own_key.get()) != 1) return unfit("cluster.tls_key is not of cluster.tls_cert");
  return absl::OkStatus();
}

}  // namespace interlace
