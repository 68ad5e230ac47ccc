// HttpDoor: the HTTP door of a running cluster, as the commands of the tool ask it.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "common/http_client.h"

namespace interlace {

// Immutable; owned by a command, which waits for each answer on its own thread.
class HttpDoor {
 public:
  static constexpr absl::Duration kPatience = absl::Seconds(5);

  // `url`: http://HOST:PORT[/BASE]. `api_key`: sent as a bearer's; empty: none. InvalidArgument names --url.
  static absl::StatusOr<HttpDoor> At(absl::string_view url, std::string api_key);
  // Any answer, whatever its status. Unavailable: none came in time.
  absl::StatusOr<HttpResult> Ask(absl::string_view method, absl::string_view path, std::string json = "",
                                 absl::Duration patience = kPatience) const;
  // The body of a 200. PermissionDenied names the flag of the key; NotFound: there is no such path; Unavailable and
  // others have the server's own words.
  absl::StatusOr<std::string> Get(absl::string_view path, absl::Duration patience = kPatience) const;
  absl::StatusOr<std::string> Post(absl::string_view path, std::string json) const;
  const std::string& url() const { return url_; }

 private:
  HttpDoor() = default;

  std::string url_;  // without a slash at the end
  std::string base_;
  HttpCall call_;  // what all have in common
};

}  // namespace interlace
