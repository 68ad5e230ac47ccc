// HttpSession: whose request it is, and whether that tenant may ask it now.
#include "absl/strings/ascii.h"
#include "common/status_macros.h"
#include "coordinator/front/api_error.h"
#include "coordinator/front/http_session.h"

namespace interlace {

absl::Status HttpSession::Identify() {
  Tenants* const tenants = context_.options.tenants;
  const RouteAccess access = context_.routes.AccessOf(question_);
  const bool preflight = question_.method == "OPTIONS";
  if (tenants == nullptr || !tenants->on() || access == RouteAccess::kAnybody || preflight) return absl::OkStatus();
  const auto header = [this](absl::string_view name) {
    const auto value = parser_->get()[{name.data(), name.size()}];
    return absl::string_view(value.data(), value.size());
  };
  std::string key(BearerKey(header("authorization")));
  if (key.empty()) key = std::string(absl::StripAsciiWhitespace(header("x-api-key")));
  if (key.empty() && access == RouteAccess::kOperator) key = BasicKey(header("authorization"));
  ASSIGN_OR_RETURN(caller_, tenants->Find(key));
  question_.caller = caller_.get();
  if (access != RouteAccess::kOperator || caller_->is_operator()) return absl::OkStatus();
  return absl::PermissionDeniedError("this tells of everybody's requests: it needs the key of an operator");
}

absl::Status HttpSession::Count() {
  if (caller_ == nullptr) return absl::OkStatus();
  const RouteKind kind = context_.routes.KindOf(question_);
  if (kind == RouteKind::kQuick) return absl::OkStatus();
  if (kind == RouteKind::kSlow || kind == RouteKind::kOperation) return caller_->CountRequest();
  ASSIGN_OR_RETURN(pass_, caller_->Enter());
  return absl::OkStatus();
}

void HttpSession::NoteLimits() {
  if (caller_ == nullptr) return;
  for (auto& header : caller_->LimitHeaders()) writer_.question().headers.push_back(std::move(header));
}

HttpReply HttpSession::Refusal(const absl::Status& status) const {
  HttpReply reply = ErrorReply(status);
  const ProtocolRow* protocol = context_.routes.ProtocolOf(question_);
  if (protocol != nullptr) reply.body = protocol->error(ToApiError(status));
  if (!absl::IsUnauthenticated(status)) return reply;
  const bool page = context_.routes.AccessOf(question_) == RouteAccess::kOperator;  // which browsers ask for
  reply.headers.emplace_back("WWW-Authenticate", page ? "Basic realm=\"interlace\"" : "Bearer");
  return reply;
}

}  // namespace interlace
