// Any bytes as a chat template: a status that says where, or a text.
#include <cstdint>

#include "common/check.h"
#include "text/chat_template.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace interlace;
  ChatTemplateSource source{"fuzz",
                            std::string(reinterpret_cast<const char*>(data), size),
                            "",
                            {{"bos_token", "<s>"}, {"eos_token", "</s>"}}};
  auto chat = ChatTemplate::Make(source, [] { return int64_t{1767323045}; });
  if (!chat.ok()) {
    CHECK(chat.status().message().find("line ") != absl::string_view::npos);
    return 0;
  }
  ChatInput input;
  input.messages = R"([{"role":"system","content":"S"},{"role":"user","content":"Hi <|im_end|> 中"},
    {"role":"assistant","content":"","tool_calls":[{"id":"a","type":"function","function":{"name":"f","arguments":{"x":[1,2.5,null]}}}]},
    {"role":"tool","content":[{"type":"text","text":"t"}]}])";
  input.tools =
      R"([{"type":"function","function":{"name":"f","description":"d","parameters":{"type":"object","properties":{"x":{"type":"array"}}}}}])";
  input.variables = R"({"enable_thinking":true})";
  auto text = chat->Render(input);
  if (!text.ok())
    CHECK(text.status().message().find("fuzz: tokenizer.chat_template line ") != absl::string_view::npos ||
          text.status().code() == absl::StatusCode::kUnimplemented);
  return 0;
}
