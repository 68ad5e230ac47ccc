#include "coordinator/front/tls_files.h"

#include <openssl/ssl.h>

#include <utility>  // before Asio, whose headers of this version need it
//
#include <boost/asio/ssl/context.hpp>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"

namespace interlace {
namespace {

namespace ssl = boost::asio::ssl;

absl::Status Check(const char* setting, const std::string& file, const boost::system::error_code& error) {
  if (!error) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(setting, "=", file, " cannot be used: ", error.message()));
}

// Of the protocols that a client offers, HTTP/1.1; a client that offers others alone is answered in HTTP/1.1 all the
// same.
int ChooseProtocol(SSL*, const unsigned char** out, unsigned char* bytes, const unsigned char* in, unsigned int size,
                   void*) {
  static constexpr unsigned char kOurs[] = "\x08http/1.1";
  unsigned char* chosen = nullptr;
  if (SSL_select_next_proto(&chosen, bytes, kOurs, sizeof kOurs - 1, in, size) != OPENSSL_NPN_NEGOTIATED) {
    return SSL_TLSEXT_ERR_NOACK;
  }
  *out = chosen;
  return SSL_TLSEXT_ERR_OK;
}

}  // namespace

absl::StatusOr<std::shared_ptr<ssl::context>> MakeTlsContext(const TlsFiles& files) {
  if (files.certificate.empty() || files.key.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(files.certificate.empty() ? "server.tls_cert" : "server.tls_key",
                                                   " is empty: TLS needs a certificate and its key"));
  }
  auto context = std::make_shared<ssl::context>(ssl::context::tls_server);
  SSL_CTX* const raw = context->native_handle();
  SSL_CTX_set_min_proto_version(raw, TLS1_2_VERSION);
  SSL_CTX_set_options(raw, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION | SSL_OP_CIPHER_SERVER_PREFERENCE);
  SSL_CTX_set_mode(raw, SSL_MODE_RELEASE_BUFFERS);  // an idle stream keeps none
  SSL_CTX_set_alpn_select_cb(raw, &ChooseProtocol, nullptr);
  boost::system::error_code error;
  context->use_certificate_chain_file(files.certificate, error);
  RETURN_IF_ERROR(Check("server.tls_cert", files.certificate, error));
  context->use_private_key_file(files.key, ssl::context::pem, error);
  RETURN_IF_ERROR(Check("server.tls_key", files.key, error));
  if (files.client_ca.empty()) return context;
  context->load_verify_file(files.client_ca, error);
  RETURN_IF_ERROR(Check("server.tls_client_ca", files.client_ca, error));
  context->set_verify_mode(ssl::verify_peer | ssl::verify_fail_if_no_peer_cert, error);
  return context;
}

}  // namespace interlace
