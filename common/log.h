// Structured log: one event, one line, stable first words.
//
//   LOG(INFO) << "kv load failed" << Field("layer", 3) << Field("tier", "remote") << status;
#pragma once

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace interlace {

enum class LogLevel { kDebug, kInfo, kWarning, kError };

struct LogEvent {
  LogLevel level;
  std::string text;
  std::vector<std::pair<std::string, std::string>> fields;
};

// Where events go. The default writes "LEVEL text key=value ..." to stderr. Called under no lock of ours; must be
// thread-safe. Set once in main, before other threads start.
using LogSink = std::function<void(const LogEvent&)>;
void SetLogSink(LogSink sink, LogLevel least);
bool LogEnabled(LogLevel level);

struct LogField {
  std::string key, value;
};
template <typename T>
LogField Field(absl::string_view key, const T& value) {
  return {std::string(key), absl::StrCat(value)};
}

// One line under construction; emitted by the destructor.
class LogLine {
 public:
  explicit LogLine(LogLevel level) : event_{level, {}, {}} {}
  ~LogLine();
  LogLine& operator<<(absl::string_view text) {
    event_.text.append(text.data(), text.size());
    return *this;
  }
  LogLine& operator<<(LogField field) {
    event_.fields.emplace_back(std::move(field.key), std::move(field.value));
    return *this;
  }
  LogLine& operator<<(const absl::Status& status) {
    event_.fields.emplace_back("status", status.ToString());
    return *this;
  }

 private:
  LogEvent event_;
};

#define INTERLACE_LOG_DEBUG ::interlace::LogLevel::kDebug
#define INTERLACE_LOG_INFO ::interlace::LogLevel::kInfo
#define INTERLACE_LOG_WARNING ::interlace::LogLevel::kWarning
#define INTERLACE_LOG_ERROR ::interlace::LogLevel::kError
#define LOG(level) \
  if (::interlace::LogEnabled(INTERLACE_LOG_##level)) ::interlace::LogLine(INTERLACE_LOG_##level)

}  // namespace interlace
