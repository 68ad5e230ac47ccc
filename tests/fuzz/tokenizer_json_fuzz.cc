// Any bytes as a tokenizer.json: a status, or a tokenizer whose ids are within its vocabulary.
#include <cstdint>

#include "common/check.h"
#include "text/tokenizer.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace interlace;
  if (size == 0) return 0;  // no file at all
  const std::string json(reinterpret_cast<const char*>(data), size);
  auto tokenizer = Tokenizer::Load(TokenizerFiles{"fuzz", json, "", ""});
  if (!tokenizer.ok()) {
    CHECK(tokenizer.status().code() == absl::StatusCode::kInvalidArgument ||
          tokenizer.status().code() == absl::StatusCode::kUnimplemented);
    CHECK(tokenizer.status().message().find("fuzz/tokenizer.json") != absl::string_view::npos);
    return 0;
  }
  std::string texts[] = {"the cat\n\n  中文 WORD <l> <|im_end|>\xff 123 don't",
                         std::string(300, 'a') + std::string(300, ' '), json.substr(0, 500)};
  for (const std::string& text : texts) {
    const std::vector<int32_t> ids = (*tokenizer)->Encode(text, true);
    for (int32_t id : ids) CHECK(id >= 0 && id < (*tokenizer)->vocab_size());
    (void)(*tokenizer)->Decode(ids);
  }
  return 0;
}
