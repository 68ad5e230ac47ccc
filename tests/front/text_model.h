// The text side of the model that tests run on, loaded once per binary.
#pragma once

#include <memory>

#include "checkpoint/gguf.h"
#include "common/check.h"
#include "common/clock.h"
#include "common/entropy.h"
#include "coordinator/front/generation.h"
#include "tests/front/fake_engine.h"
#include "tests/test_model.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace interlace {

struct TextModel {
  std::unique_ptr<GgufFile> file;
  std::unique_ptr<Tokenizer> tokenizer;
  std::unique_ptr<ChatTemplate> chat_template;
};

inline const TextModel& TestText() {
  static const TextModel* model = [] {
    auto* loaded = new TextModel;
    absl::StatusOr<std::unique_ptr<GgufFile>> file = GgufFile::Open(TestModelPath());
    CHECK(file.ok());
    loaded->file = *std::move(file);
    absl::StatusOr<std::unique_ptr<Tokenizer>> tokenizer = Tokenizer::Load(*loaded->file);
    CHECK(tokenizer.ok());
    loaded->tokenizer = *std::move(tokenizer);
    absl::StatusOr<ChatTemplate> chat_template = ChatTemplate::Load(*loaded->file);
    CHECK(chat_template.ok());
    loaded->chat_template = std::make_unique<ChatTemplate>(*chat_template);
    return loaded;
  }();
  return *model;
}

inline constexpr int32_t kTestContext = 2048;

// An intake on a scripted engine.
struct IntakeRig {
  FakeEngine engine;
  RealClock clock;
  Intake intake{{.model = "tiny", .context = kTestContext, .layers = 30, .created = 1700000000},
                *TestText().tokenizer,
                TestText().chat_template.get(),
                engine,
                clock,
                MakeSeededEntropy(7)};
};

}  // namespace interlace
