#include "coordinator/front/protocols.h"

#include <utility>

#include "common/check.h"
#include "coordinator/front/embeddings_json.h"
#include "coordinator/front/messages_answer.h"
#include "coordinator/front/messages_json.h"
#include "coordinator/front/openai_answer.h"
#include "coordinator/front/openai_json.h"
#include "coordinator/front/openai_reply.h"
#include "coordinator/front/responses_answer.h"
#include "coordinator/front/responses_json.h"

namespace interlace {
namespace {

std::unique_ptr<Answer> MakeOpenAi(const ApiRequest& request, ReplyHead head) {
  return std::make_unique<OpenAiAnswer>(request.include_usage, request.continuous_usage, std::move(head));
}

std::unique_ptr<Answer> MakeMessages(const ApiRequest&, ReplyHead head) {
  return std::make_unique<MessagesAnswer>(std::move(head));
}

std::unique_ptr<Answer> MakeResponses(const ApiRequest&, ReplyHead head) {
  return std::make_unique<ResponsesAnswer>(std::move(head));
}

std::unique_ptr<Answer> MakeEmbeddings(const ApiRequest& request, ReplyHead head) {
  return std::make_unique<EmbeddingsAnswer>(request.base64, request.normalised, std::move(head));
}

constexpr ProtocolRow kProtocols[] = {
    {Protocol::kChat, "/v1/chat/completions", &ParseChat, &MakeOpenAi, &ErrorBody},
    {Protocol::kCompletion, "/v1/completions", &ParseCompletion, &MakeOpenAi, &ErrorBody},
    {Protocol::kMessages, "/v1/messages", &ParseMessages, &MakeMessages, &MessagesErrorBody},
    {Protocol::kResponses, "/v1/responses", &ParseResponses, &MakeResponses, &ErrorBody},
    {Protocol::kEmbeddings, "/v1/embeddings", &ParseEmbeddings, &MakeEmbeddings, &ErrorBody},
};

}  // namespace

absl::Span<const ProtocolRow> Protocols() { return kProtocols; }

const ProtocolRow& RowOf(Protocol protocol) {
  for (const ProtocolRow& row : kProtocols) {
    if (row.protocol == protocol) return row;
  }
  CHECK_MSG(false, "a protocol without a row");
  return kProtocols[0];
}

std::unique_ptr<Answer> MakeAnswer(const ApiRequest& request, ReplyHead head) {
  return RowOf(request.protocol).answer(request, std::move(head));
}

}  // namespace interlace
