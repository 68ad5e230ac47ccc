#include "cli/run_command.h"

#include <cstdio>
#include <memory>
#include <optional>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/synchronization/notification.h"
#include "cli/explain_table.h"
#include "cli/in_process_replica.h"
#include "cli/terminal.h"
#include "common/cluster_security.h"
#include "common/status_macros.h"
#include "coordinator/front/served_adapters.h"
#include "transport/ucx_transport.h"

namespace interlace {
namespace {

constexpr absl::string_view kLora = "lora";  // what --lora's adapter is called here

// Prints tokens as they come.
class Printer final : public TokenSink {
 public:
  Printer(const Tokenizer& tokenizer, bool ids) : detokenizer_(tokenizer), ids_(ids) {}
  void OnTokens(absl::Span<const int32_t> tokens) override {
    for (int32_t token : tokens) {
      const std::string text = ids_ ? absl::StrCat(token, " ") : detokenizer_.Push(token);
      std::fwrite(text.data(), 1, text.size(), stdout);
    }
    std::fflush(stdout);
  }
  void OnEnd(const RequestEnd& end) override {
    std::printf("%s\n", detokenizer_.Flush().c_str());
    end_ = end;
    ended_.Notify();
  }
  const RequestEnd& Wait() {
    ended_.WaitForNotification();
    return end_;
  }

 private:
  Detokenizer detokenizer_;
  const bool ids_;
  RequestEnd end_;
  absl::Notification ended_;
};

}  // namespace

absl::Status RunCommand(const Config& given, const RunOptions& options) {
  Config config = given;
  if (!options.lora.empty()) config.model.adapters = absl::StrCat(kLora, "=", options.lora);
  RealClock clock;
  ASSIGN_OR_RETURN(std::unique_ptr<FaultPoints> faults,
                   FaultPoints::Parse(config.fault.points, static_cast<uint64_t>(config.fault.seed)));
  std::unique_ptr<Transport> transport;
  if (!config.kv.remote.empty()) {
    ASSIGN_OR_RETURN(const auto security, ClusterSecurity::Make(config));
    ASSIGN_OR_RETURN(transport, MakeUcxTransport({.secret = security->link_key(), .mac = config.transport.mac}));
  }
  std::optional<ProgressBar> bar;
  if (StdoutIsTerminal()) bar.emplace("weights");
  ASSIGN_OR_RETURN(std::unique_ptr<InProcessReplica> replica,
                   InProcessReplica::Create(config, clock, *faults, transport.get(), [&](int64_t done, int64_t all) {
                     if (bar && all > 0) bar->Show(static_cast<int>(done * 100 / all));
                   }));
  bar.reset();

  Request request;
  request.id = RequestId{1};
  request.name = "run";
  if (options.raw) {
    request.prompt = replica->tokenizer().EncodePrompt(options.prompt);
    if (request.prompt.empty()) return absl::InvalidArgumentError("the prompt is empty");
  } else {
    const ChatMessage message{"user", options.prompt};
    const absl::StatusOr<ChatTemplate>& chat = replica->chat_template();
    if (!chat.ok()) {
      return absl::FailedPreconditionError(
          absl::StrCat(chat.status().message(), "; --raw continues a prompt without one"));
    }
    ASSIGN_OR_RETURN(request.prompt, chat->Encode({&message, 1}, replica->tokenizer()));
  }
  if (!options.lora.empty()) {
    ASSIGN_OR_RETURN(const ServedAdapters adapters, ReadServedAdapters(config.model.adapters, ""));
    request.adapter = FindAdapter(adapters, kLora);
  }
  request.max_tokens = options.max_tokens;
  request.stop_tokens = replica->tokenizer().stop_tokens();
  SamplingSpec sampling = options.sampling;
  if (!sampling.temperature) sampling.temperature = 0;
  RETURN_IF_ERROR(CheckSampling(sampling, replica->tokenizer()));
  ASSIGN_OR_RETURN(request.sampling,
                   SamplingOf(sampling, replica->tokenizer(), request.stop_tokens, sampling.seed.value_or(0)));
  request.arrival = clock.Now();
  request.deadline = request.arrival + config.request.deadline;
  request.targets = {.ttft = config.slo.ttft, .tpot = config.slo.tpot, .largest_gap = config.slo.largest_gap};
  auto printer = std::make_shared<Printer>(replica->tokenizer(), options.ids);
  request.sink = printer;
  RETURN_IF_ERROR(replica->engine().Submit(std::move(request)));
  const RequestEnd& end = printer->Wait();
  RETURN_IF_ERROR(end.status);

  ASSIGN_OR_RETURN(const Explanation explanation, replica->engine().Explain("run"));
  if (options.explain) std::printf("%s", ExplainTable(ToReport(explanation)).c_str());
  const double decode = absl::ToDoubleSeconds(end.timing.total - end.timing.first_token);
  const double prefill = absl::ToDoubleSeconds(end.timing.first_token - end.timing.queue);
  const auto rate = [](int32_t tokens, double seconds) {  // none is told of what took no time
    return tokens > 0 && seconds > 1e-6 ? absl::StrFormat(" at %.0f tok/s", tokens / seconds) : std::string();
  };
  std::fprintf(
      stderr, "%s\n",
      Paint(Colour::kDim, absl::StrCat(end.prompt_tokens, " prompt tokens", rate(end.prompt_tokens, prefill), ", ",
                                       end.completion_tokens, " generated", rate(end.completion_tokens - 1, decode),
                                       ", ", explanation.keep_layers, "/", explanation.layers.size(), " layers kept"))
          .c_str());
  return absl::OkStatus();
}

}  // namespace interlace
