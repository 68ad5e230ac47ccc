// An HTTP front on a scripted engine.
#pragma once

#include <gtest/gtest.h>

#include <memory>

#include "common/metrics.h"
#include "coordinator/front/http_front.h"
#include "tests/front/http_client.h"
#include "tests/front/text_model.h"
#include "tests/status_matchers.h"

namespace interlace {

struct HttpRig : IntakeRig {
  explicit HttpRig(HttpFront::Options options = {}) {
    options.gate = &gate;
    absl::StatusOr<std::unique_ptr<HttpFront>> listening = HttpFront::Listen(options, intake, metrics);
    CHECK(listening.ok());
    front = *std::move(listening);
  }
  int port() const { return front->port(); }
  // Feeds the tokens of `text`, one by one.
  void Say(const Request& request, absl::string_view text) {
    for (int32_t token : TestText().tokenizer->Encode(text, false)) request.sink->OnTokens({token});
  }
  static int32_t TokensOf(absl::string_view text) {
    return static_cast<int32_t>(TestText().tokenizer->Encode(text, false).size());
  }

  Metrics metrics{"tiny"};
  DrainGate gate{engine, clock, metrics};  // beside the way of requests: what closes it refuses none here
  std::unique_ptr<HttpFront> front;
};

}  // namespace interlace
