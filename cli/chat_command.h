// interlace chat and interlace explain: clients of a running cluster.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "client/client.h"

namespace interlace {

struct ChatCommandOptions {
  std::string address = "127.0.0.1:50051";
  std::string message;  // one question instead of a conversation
  std::string system;
  ClientOptions sampling;
  ClientAccess access;
};

// A conversation on standard input until it ends, or one question. Prints the request id of each answer to stderr.
absl::Status ChatCommand(const ChatCommandOptions& options);

absl::Status ExplainCommand(const std::string& address, const ClientAccess& access, const std::string& request);

}  // namespace interlace
