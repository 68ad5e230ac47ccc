// Certificates for tests: an authority, and what it signs.
#pragma once

#include <openssl/pem.h>
#include <openssl/x509v3.h>

#include <fstream>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "common/check.h"

namespace interlace {

// A key and its certificate in files.
struct TestCertificate {
  std::string certificate, key;
};

// Signs as an authority that is made anew each time. Files lie under a folder of the test's.
class TestAuthority {
 public:
  explicit TestAuthority(std::string prefix) : prefix_(std::move(prefix)), key_(NewKey()) {
    certificate_ = NewCertificate("test authority", key_.get(), "CA:TRUE", 1);
    Write(absl::StrCat(prefix_, "-ca.pem"), nullptr, certificate_.get());
  }
  std::string file() const { return absl::StrCat(prefix_, "-ca.pem"); }
  // For the address 127.0.0.1 and the name localhost. Files of the same name are replaced.
  TestCertificate Sign(const std::string& name) {
    const auto key = NewKey();
    const auto certificate = NewCertificate(name.c_str(), key.get(), "CA:FALSE", ++serial_);
    const TestCertificate files{absl::StrCat(prefix_, "-", name, ".pem"), absl::StrCat(prefix_, "-", name, ".key")};
    Write(files.certificate, nullptr, certificate.get());
    Write(files.key, key.get(), nullptr);
    return files;
  }

 private:
  using Key = std::unique_ptr<EVP_PKEY, decltype(&EVP_PKEY_free)>;
  using Certificate = std::unique_ptr<X509, decltype(&X509_free)>;

  static Key NewKey() { return {EVP_EC_gen("P-256"), &EVP_PKEY_free}; }

  Certificate NewCertificate(const char* name, EVP_PKEY* key, const char* constraints, long serial) {
    Certificate made(X509_new(), &X509_free);
    X509* x = made.get();
    X509_set_version(x, 2);
    ASN1_INTEGER_set(X509_get_serialNumber(x), serial);
    X509_gmtime_adj(X509_getm_notBefore(x), -3600);
    X509_gmtime_adj(X509_getm_notAfter(x), 3600);
    X509_set_pubkey(x, key);
    X509_NAME_add_entry_by_txt(X509_get_subject_name(x), "CN", MBSTRING_ASC,
                               reinterpret_cast<const unsigned char*>(name), -1, -1, 0);
    X509* issuer = certificate_ == nullptr ? x : certificate_.get();
    X509_set_issuer_name(x, X509_get_subject_name(issuer));
    for (const auto& [nid, value] : {std::pair<int, const char*>{NID_basic_constraints, constraints},
                                     {NID_subject_alt_name, "IP:127.0.0.1,DNS:localhost"}}) {
      X509V3_CTX context;
      X509V3_set_ctx_nodb(&context);
      X509V3_set_ctx(&context, issuer, x, nullptr, nullptr, 0);
      X509_EXTENSION* extension = X509V3_EXT_conf_nid(nullptr, &context, nid, value);
      CHECK(extension != nullptr && X509_add_ext(x, extension, -1) == 1);
      X509_EXTENSION_free(extension);
    }
    CHECK(X509_sign(x, key_.get(), EVP_sha256()) > 0);
    return made;
  }

  static void Write(const std::string& path, EVP_PKEY* key, X509* certificate) {
    BIO* bio = BIO_new_file(path.c_str(), "w");
    CHECK(bio != nullptr);
    if (key != nullptr) PEM_write_bio_PrivateKey(bio, key, nullptr, nullptr, 0, nullptr, nullptr);
    if (certificate != nullptr) PEM_write_bio_X509(bio, certificate);
    BIO_free(bio);
  }

  const std::string prefix_;
  const Key key_;
  Certificate certificate_{nullptr, &X509_free};
  long serial_ = 1;
};

}  // namespace interlace
