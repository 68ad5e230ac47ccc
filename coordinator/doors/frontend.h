// Frontend: what HTTP and gRPC share: the model's text side, defaults, admission of one request.
#pragma once

#include <atomic>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "common/clock.h"
#include "common/entropy.h"
#include "common/metrics.h"
#include "coordinator/engine.h"
#include "coordinator/doors/text_stream.h"
#include "model/text/chat_template.h"
#include "model/text/tokenizer.h"

namespace interlace {

// A request as a client meant it; unset fields take the server's defaults.
struct GenerationSpec {
  std::string name;             // client's request id; empty: drawn
  std::vector<int32_t> prompt;  // tokens
  std::optional<float> temperature, top_p;
  std::optional<int32_t> top_k, max_tokens;
  std::optional<uint64_t> seed;
  std::vector<std::string> stop;
  std::vector<int32_t> stop_token_ids;
  bool ignore_eos = false;
  absl::Duration deadline;  // from now; infinite: the server's default
};

// A request under way.
struct OpenRequest {
  RequestId id{};
  std::string name;
  int32_t prompt_tokens = 0;
};

// Owned by main; any thread.
class Frontend {
 public:
  struct Options {
    std::string model_name;
    int32_t context = 0;
    int32_t layers = 0;
    int32_t default_max_tokens = 0;  // 0: up to the context
    absl::Duration default_deadline;
  };
  Frontend(const Options& options, const Tokenizer& tokenizer, std::optional<ChatTemplate> chat_template,
           Engine& engine, Metrics& metrics, Clock& clock, std::unique_ptr<Entropy> entropy);

  const Options& options() const { return options_; }
  const Tokenizer& tokenizer() const { return tokenizer_; }
  Engine& engine() { return engine_; }
  Metrics& metrics() { return metrics_; }

  // NotFound unless `model` is empty or the one that is served.
  absl::Status CheckModel(absl::string_view model) const;
  std::vector<int32_t> EncodeText(absl::string_view text) const;
  absl::StatusOr<std::vector<int32_t>> EncodeChat(const std::vector<ChatMessage>& messages) const;
  // InvalidArgument names the first id outside the vocabulary.
  absl::Status CheckTokens(absl::Span<const int32_t> tokens) const;

  // Checks ranges, fills in defaults, submits. The listener gets events until one has `end`, from the scheduler's
  // thread.
  absl::StatusOr<OpenRequest> Start(GenerationSpec spec, TextStream::Listener listener);

  std::string DrawName();

 private:
  const Options options_;
  const Tokenizer& tokenizer_;
  const std::optional<ChatTemplate> chat_template_;
  Engine& engine_;
  Metrics& metrics_;
  Clock& clock_;
  absl::Mutex mutex_;
  const std::unique_ptr<Entropy> entropy_;  // protected by mutex_
  std::atomic<uint64_t> next_id_{1};
};

}  // namespace interlace
