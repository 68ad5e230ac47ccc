// Any bytes as what a client sends to the HTTP door: an answer of HTTP or the end of the connection. What follows the
// first empty line is read as each kind of body too.
#include <cstdint>
#include <string>

#include "absl/strings/match.h"
#include "common/metrics.h"
#include "coordinator/front/http_front.h"
#include "coordinator/front/protocols.h"
#include "coordinator/front/tokenize_json.h"
#include "tests/front/http_client.h"
#include "tests/fuzz/fuzz_intake.h"

namespace {

struct Door {
  interlace::FuzzIntake intake;
  interlace::Metrics metrics{"m"};
  std::unique_ptr<interlace::HttpFront> front;
};

void CheckRefusal(const absl::Status& status) {
  CHECK_MSG(status.ok() || absl::IsInvalidArgument(status), status.ToString().c_str());
}

void ReadBody(absl::string_view body) {
  for (const interlace::ProtocolRow& protocol : interlace::Protocols()) CheckRefusal(protocol.parse(body).status());
  CheckRefusal(interlace::ParseTokenize(body).status());
  CheckRefusal(interlace::ParseDetokenize(body).status());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static Door* door = [] {
    auto* made = new Door;
    auto front = interlace::HttpFront::Listen({.max_body = 1 << 16}, *made->intake.intake, made->metrics);
    CHECK(front.ok());
    made->front = *std::move(front);
    return made;
  }();
  const std::string input(reinterpret_cast<const char*>(data), size);
  const size_t head = input.find("\r\n\r\n");
  ReadBody(head == std::string::npos ? input : input.substr(head + 4));
  interlace::HttpClient client(door->front->port());
  CHECK(client.connected());
  client.Send(input);
  client.EndSending();
  const std::string answer = client.ReadThrough(std::string(1, '\0') + "never");  // to the end of the connection
  CHECK_MSG(client.ended(), "neither an answer nor an end within 20 s");
  CHECK_MSG(answer.empty() || absl::StartsWith(answer, "HTTP/1."), answer.c_str());
  return 0;
}
