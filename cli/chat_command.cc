#include "cli/chat_command.h"

#include <unistd.h>

#include <cstdio>
#include <iostream>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "cli/explain_table.h"
#include "cli/terminal.h"
#include "common/status_macros.h"

namespace interlace {
namespace {

// Streams one answer and appends it to the conversation.
absl::Status Answer(Client& client, const ChatCommandOptions& options, std::vector<ClientMessage>* messages) {
  std::string answer;
  const auto print = [&](absl::string_view text) {
    std::fwrite(text.data(), 1, text.size(), stdout);
    std::fflush(stdout);
    absl::StrAppend(&answer, text);
    return true;
  };
  ASSIGN_OR_RETURN(const ClientResult result, client.Chat(*messages, options.sampling, print));
  const double decode = absl::ToDoubleSeconds(result.total - result.first_token);
  const double rate = decode > 0 ? (result.completion_tokens - 1) / decode : 0;
  std::printf("\n");
  std::fflush(stdout);
  std::fprintf(stderr, "%s\n",
               Paint(Colour::kDim, absl::StrFormat("request %s: %d tokens (%s), first after %s, then %.0f tok/s",
                                                   result.request_id, result.completion_tokens, result.finish_reason,
                                                   HumanSeconds(absl::ToDoubleSeconds(result.first_token)), rate))
                   .c_str());
  messages->push_back({"assistant", answer});
  return absl::OkStatus();
}

}  // namespace

absl::Status ChatCommand(const ChatCommandOptions& options) {
  const std::unique_ptr<Client> client = Client::Connect(options.address, options.access);
  std::vector<ClientMessage> messages;
  if (!options.system.empty()) messages.push_back({"system", options.system});
  if (!options.message.empty()) {
    messages.push_back({"user", options.message});
    return Answer(*client, options, &messages);
  }
  ASSIGN_OR_RETURN(const ClientModel model, client->Model());
  const bool asks = isatty(STDIN_FILENO) == 1;
  if (asks) std::printf("%s, context %d tokens. An empty line or Ctrl-D ends.\n", model.id.c_str(), model.context);
  std::string line;
  while (true) {
    if (asks) {
      std::printf("%s ", Paint(Colour::kBlue, ">").c_str());
      std::fflush(stdout);
    }
    if (!std::getline(std::cin, line) || line.empty()) break;
    messages.push_back({"user", line});
    RETURN_IF_ERROR(Answer(*client, options, &messages));
  }
  return absl::OkStatus();
}

absl::Status ExplainCommand(const std::string& address, const ClientAccess& access, const std::string& request) {
  ASSIGN_OR_RETURN(const RequestReport report, Client::Connect(address, access)->Explain(request));
  std::printf("%s", ExplainTable(report).c_str());
  return absl::OkStatus();
}

}  // namespace interlace
