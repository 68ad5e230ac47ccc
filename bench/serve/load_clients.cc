#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "bench/serve/load_client.h"

namespace interlace {
namespace {

struct Row {
  const char* name;
  absl::StatusOr<std::unique_ptr<LoadClient>> (*make)(const LoadClientOptions& options, AsioLoop& loop);
  bool takes_ids;
};
constexpr Row kProtocols[] = {
    {"openai-completions", &MakeCompletionsClient, true},
    {"openai-chat", &MakeChatClient, false},
    {"interlace-grpc", &MakeGrpcClient, true},
};

}  // namespace

absl::StatusOr<std::unique_ptr<LoadClient>> MakeLoadClient(const std::string& protocol,
                                                           const LoadClientOptions& options, AsioLoop& loop) {
  for (const Row& row : kProtocols) {
    if (protocol == row.name) return row.make(options, loop);
  }
  return absl::InvalidArgumentError(
      absl::StrCat("--protocol ", protocol, " is not known; one of ", absl::StrJoin(LoadProtocols(), ", ")));
}

bool TakesTokenIds(const std::string& protocol) {
  for (const Row& row : kProtocols) {
    if (protocol == row.name) return row.takes_ids;
  }
  return false;
}

std::vector<std::string> LoadProtocols() {
  std::vector<std::string> names;
  for (const Row& row : kProtocols) names.push_back(row.name);
  return names;
}

RequestRecord RecordOf(const PlannedRequest& request, const LoadClientOptions& options) {
  RequestRecord record;
  record.index = request.index;
  record.request_id = absl::StrCat(options.name, "-", request.index);
  record.session = request.session;
  record.turn = request.turn;
  record.tenant = request.tenant;
  record.priority = request.priority;
  record.targets = request.targets;
  record.due = request.due;
  record.prompt_tokens = request.expected_prompt_tokens;
  record.shared_prefix_tokens = request.shared_prefix_tokens;
  return record;
}

}  // namespace interlace
