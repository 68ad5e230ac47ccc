#include "bench/serve/sse.h"

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "common/status_macros.h"

namespace interlace {
namespace {

constexpr size_t kLongestLine = 16 << 20;  // bytes; beyond it a server sends something else

}  // namespace

absl::Status SseParser::Feed(absl::string_view bytes, OnData on_data) {
  for (;;) {
    const size_t end = bytes.find('\n');
    if (end == absl::string_view::npos) break;
    if (line_.empty()) {
      RETURN_IF_ERROR(Line(bytes.substr(0, end), on_data));
    } else {
      line_.append(bytes.data(), end);
      const std::string line = std::move(line_);
      line_.clear();
      RETURN_IF_ERROR(Line(line, on_data));
    }
    bytes.remove_prefix(end + 1);
  }
  line_.append(bytes.data(), bytes.size());
  if (line_.size() > kLongestLine) return absl::InvalidArgumentError("a line of the event stream has no end");
  return absl::OkStatus();
}

absl::Status SseParser::End(OnData on_data) {
  if (!line_.empty()) return absl::InvalidArgumentError("the event stream ends within a line");
  return Line("", on_data);
}

absl::Status SseParser::Line(absl::string_view line, OnData on_data) {
  absl::ConsumeSuffix(&line, "\r");
  if (line.empty()) {
    if (has_data_) on_data(data_);
    data_.clear();
    has_data_ = false;
    return absl::OkStatus();
  }
  if (line[0] == ':') return absl::OkStatus();
  const size_t colon = line.find(':');
  const absl::string_view field = line.substr(0, colon);
  absl::string_view value = colon == absl::string_view::npos ? "" : line.substr(colon + 1);
  absl::ConsumePrefix(&value, " ");
  if (field == "data") {
    if (has_data_) data_ += '\n';
    data_.append(value.data(), value.size());
    has_data_ = true;
    return absl::OkStatus();
  }
  if (field == "event" || field == "id" || field == "retry") return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("a line of the event stream is no event: ", absl::CHexEscape(line.substr(0, 60))));
}

}  // namespace interlace
