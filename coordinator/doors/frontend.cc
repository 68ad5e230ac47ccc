#include "coordinator/doors/frontend.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/status_macros.h"

namespace interlace {

Frontend::Frontend(const Options& options, const Tokenizer& tokenizer, std::optional<ChatTemplate> chat_template,
                   Engine& engine, Metrics& metrics, Clock& clock, std::unique_ptr<Entropy> entropy)
    : options_(options),
      tokenizer_(tokenizer),
      chat_template_(std::move(chat_template)),
      engine_(engine),
      metrics_(metrics),
      clock_(clock),
      entropy_(std::move(entropy)) {}

absl::Status Frontend::CheckModel(absl::string_view model) const {
  if (model.empty() || model == options_.model_name) return absl::OkStatus();
  return absl::NotFoundError(
      absl::StrCat("model '", model, "' is not served here; this server has '", options_.model_name, "'"));
}

std::vector<int32_t> Frontend::EncodeText(absl::string_view text) const {
  std::vector<int32_t> ids = tokenizer_.Encode(text, /*special=*/false);
  if (tokenizer_.add_bos() && tokenizer_.bos() >= 0) ids.insert(ids.begin(), tokenizer_.bos());
  return ids;
}

absl::StatusOr<std::vector<int32_t>> Frontend::EncodeChat(const std::vector<ChatMessage>& messages) const {
  if (!chat_template_) return absl::UnimplementedError("the model file has no chat template; use /v1/completions");
  return chat_template_->Encode(messages, tokenizer_);
}

absl::Status Frontend::CheckTokens(absl::Span<const int32_t> tokens) const {
  for (int32_t token : tokens) {
    if (token >= 0 && token < tokenizer_.vocab_size()) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("token id ", token, " is outside the vocabulary of ", tokenizer_.vocab_size()));
  }
  return absl::OkStatus();
}

std::string Frontend::DrawName() {
  absl::MutexLock lock(&mutex_);
  return absl::StrFormat("%016x", entropy_->Next());
}

absl::StatusOr<OpenRequest> Frontend::Start(GenerationSpec spec, TextStream::Listener listener) {
  const auto refuse = [](absl::string_view field, const auto& value, absl::string_view range) {
    return absl::InvalidArgumentError(absl::StrCat(field, "=", value, " must be ", range));
  };
  const float temperature = spec.temperature.value_or(1), top_p = spec.top_p.value_or(1);
  if (!(temperature >= 0 && temperature <= 100)) return refuse("temperature", temperature, "from 0 to 100");
  if (!(top_p > 0 && top_p <= 1)) return refuse("top_p", top_p, "above 0 and at most 1");
  if (spec.top_k.value_or(0) < -1) return refuse("top_k", *spec.top_k, "0 or -1 (off), or positive");
  if (spec.max_tokens && *spec.max_tokens < 1) return refuse("max_tokens", *spec.max_tokens, "at least 1");
  if (spec.stop.size() > 16) return refuse("stop", spec.stop.size(), "at most 16 texts");
  for (const std::string& stop : spec.stop) {
    if (stop.empty() || stop.size() > 1024) return refuse("stop", stop.size(), "texts of 1 to 1024 bytes");
  }
  if (spec.name.size() > 256) return refuse("request_id", spec.name.size(), "at most 256 bytes");
  if (spec.prompt.empty()) return absl::InvalidArgumentError("the prompt is empty");

  Request request;
  request.id = RequestId{next_id_++};
  request.name = spec.name.empty() ? DrawName() : spec.name;
  request.prompt = std::move(spec.prompt);
  request.sampling = {temperature, std::max(0, spec.top_k.value_or(0)), top_p, 0};
  if (spec.seed) {
    request.sampling.seed = *spec.seed;
  } else {
    absl::MutexLock lock(&mutex_);
    request.sampling.seed = entropy_->Next();
  }
  request.max_tokens_given = spec.max_tokens.has_value();
  request.max_tokens =
      spec.max_tokens.value_or(options_.default_max_tokens > 0 ? options_.default_max_tokens : options_.context);
  if (!spec.ignore_eos) request.stop_tokens = tokenizer_.stop_tokens();
  request.stop_tokens.insert(request.stop_tokens.end(), spec.stop_token_ids.begin(), spec.stop_token_ids.end());
  request.arrival = clock_.Now();
  request.deadline = request.arrival + std::min(spec.deadline, options_.default_deadline);
  request.sink = std::make_shared<TextStream>(tokenizer_, std::move(spec.stop), std::move(listener));
  const OpenRequest generation{request.id, request.name, static_cast<int32_t>(request.prompt.size())};
  RETURN_IF_ERROR(engine_.Submit(std::move(request)));
  return generation;
}

}  // namespace interlace
