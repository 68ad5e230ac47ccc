// TextStream: the tokens of one request as text, for whichever door it came through.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "coordinator/request.h"
#include "model/text/tokenizer.h"

namespace interlace {

// One step of a stream. With `end`, the last one.
struct TextEvent {
  std::vector<int32_t> tokens;  // as they were accepted
  std::string text;             // complete code points, stop strings taken out; may lag behind the tokens
  std::optional<RequestEnd> end;
  bool cancel = false;  // a stop string ended the stream: the door must cancel the request in the engine
};

// Holds back unfinished code points and whatever may begin a stop string; flushes at the end. Owned by the engine until
// OnEnd; thread: the scheduler's. `listener` must not block and hands the event to the door's own thread.
class TextStream final : public TokenSink {
 public:
  using Listener = std::function<void(TextEvent)>;
  TextStream(const Tokenizer& tokenizer, std::vector<std::string> stop, Listener listener)
      : detokenizer_(tokenizer), stop_(std::move(stop)), listener_(std::move(listener)) {}

  void OnTokens(absl::Span<const int32_t> tokens) override;
  void OnEnd(const RequestEnd& end) override;

 private:
  // Takes what may be sent out of held_; true iff a stop string was found (what follows it is dropped).
  bool Release(bool all, std::string* text);

  Detokenizer detokenizer_;
  const std::vector<std::string> stop_;
  Listener listener_;
  std::string held_;
  int32_t completion_tokens_ = 0;
  bool ended_ = false;
};

}  // namespace interlace
