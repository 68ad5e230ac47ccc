// Any bytes as a GGUF file, and what is made of its metadata: a status, or something that can be used.
#include <cstdint>

#include "checkpoint/gguf.h"
#include "common/check.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace interlace;
  auto file = GgufFile::Parse(absl::MakeSpan(reinterpret_cast<const std::byte*>(data), size), "fuzz.gguf");
  if (!file.ok()) {
    CHECK(file.status().code() == absl::StatusCode::kInvalidArgument);
    CHECK(file.status().message().find("fuzz.gguf") != absl::string_view::npos);
    return 0;
  }
  unsigned sum = 0;
  for (const auto& [name, tensor] : (*file)->tensors()) {
    for (std::byte byte : tensor.data) sum += static_cast<unsigned>(byte);
  }
  (void)ChatTemplate::Load(**file);
  auto tokenizer = Tokenizer::Load(**file);
  if (!tokenizer.ok()) return static_cast<int>(sum & 0);
  const absl::string_view text("the cat\n\n  中文 <|im_end|>\xff 123");
  for (int32_t id : (*tokenizer)->Encode(text, true)) (void)(*tokenizer)->Piece(id);
  return 0;
}
