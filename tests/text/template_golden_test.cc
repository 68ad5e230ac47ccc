// Chat templates against transformers, text for text: templates of real models, and small ones of the language's
// corners.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "tests/status_matchers.h"
#include "text/chat_template.h"

namespace interlace {
namespace {

using Json = nlohmann::ordered_json;

constexpr char kFolder[] = "tests/golden/templates/";
constexpr int64_t kTime = 1767323045;

std::string ReadText(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  EXPECT_TRUE(file.is_open()) << path;
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

absl::StatusOr<ChatTemplate> Make(const std::string& name, const std::string& text, const Json& tokens) {
  ChatTemplateSource source{name, text, "", {}};
  for (const auto& [token, spelled] : tokens.items()) source.tokens.emplace_back(token, spelled.get<std::string>());
  return ChatTemplate::Make(source, [] { return kTime; });
}

ChatInput InputOf(const Json& conversation) {
  ChatInput input;
  input.messages = conversation.at("messages").dump();
  if (conversation.contains("tools")) input.tools = conversation.at("tools").dump();
  if (conversation.contains("variables")) input.variables = conversation.at("variables").dump();
  input.add_generation_prompt = conversation.value("add_generation_prompt", true);
  return input;
}

TEST(TemplateGoldenTest, RealTemplates) {
  const Json expected = Json::parse(ReadText(std::string(kFolder) + "expected.json"));
  ASSERT_EQ(expected.at("time").get<int64_t>(), kTime);
  const Json& conversations = expected.at("conversations");
  size_t rendered = 0, families = 0;
  for (const auto& [name, numbers] : expected.at("rendered").items()) {
    auto chat = Make(name, ReadText(kFolder + name + ".jinja"), expected.at("tokens"));
    bool any = false;
    ASSERT_EQ(numbers.size(), conversations.size());
    for (size_t i = 0; i < conversations.size(); ++i) {
      absl::StatusOr<std::string> text = chat.ok() ? chat->Render(InputOf(conversations[i])) : chat.status();
      if (numbers[i].is_null()) {
        EXPECT_FALSE(text.ok()) << name << " on conversation " << i << ": transformers refuses, here it is\n" << *text;
        continue;
      }
      any = true;
      EXPECT_OK(text) << name << " on conversation " << i;
      if (!text.ok()) continue;
      EXPECT_EQ(*text, expected.at("texts").at(numbers[i].get<size_t>()).get<std::string>())
          << name << " on conversation " << i;
      ++rendered;
    }
    families += any ? 1 : 0;
  }
  EXPECT_GE(families, 70u);
  EXPECT_GE(rendered, 1300u);
  size_t files = 0;
  for (const auto& entry : std::filesystem::directory_iterator(kFolder)) files += entry.path().extension() == ".jinja";
  EXPECT_EQ(files, expected.at("rendered").size());
}

TEST(TemplateGoldenTest, Snippets) {
  const Json all = Json::parse(ReadText(std::string(kFolder) + "snippets.json"));
  ASSERT_GT(all.at("snippets").size(), 70u);
  for (const Json& snippet : all.at("snippets")) {
    const std::string source = snippet.at("template");
    auto chat = Make("snippet", source,
                     Json{{"bos_token", "<s>"}, {"eos_token", "</s>"}, {"unk_token", "<unk>"}, {"pad_token", "<pad>"}});
    ChatInput input = InputOf(all);
    absl::StatusOr<std::string> text = chat.ok() ? chat->Render(input) : chat.status();
    if (snippet.at("rendered").is_null()) {
      EXPECT_FALSE(text.ok()) << source << "\ngives " << (text.ok() ? *text : "");
    } else {
      EXPECT_OK(text) << source;
      EXPECT_EQ(text.ok() ? *text : "", snippet.at("rendered").get<std::string>()) << source;
    }
  }
}

}  // namespace
}  // namespace interlace
