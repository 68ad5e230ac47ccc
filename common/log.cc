#include "common/log.h"

#include <cstdio>

namespace interlace {
namespace {

struct Destination {
  LogSink sink;
  LogLevel least = LogLevel::kInfo;
};

// The one process-wide registry: every library writes to the same log.
Destination& TheDestination() {
  static Destination* destination = new Destination;
  return *destination;
}

constexpr const char* kLevelNames[] = {"DEBUG", "INFO", "WARN", "ERROR"};

void WriteToStderr(const LogEvent& event) {
  std::string line = absl::StrCat(kLevelNames[static_cast<int>(event.level)], " ", event.text);
  for (const auto& [key, value] : event.fields) absl::StrAppend(&line, " ", key, "=", value);
  line.push_back('\n');
  std::fwrite(line.data(), 1, line.size(), stderr);
}

}  // namespace

void SetLogSink(LogSink sink, LogLevel least) { TheDestination() = {std::move(sink), least}; }

bool LogEnabled(LogLevel level) { return level >= TheDestination().least; }

LogLine::~LogLine() {
  const LogSink& sink = TheDestination().sink;
  sink ? sink(event_) : WriteToStderr(event_);
}

}  // namespace interlace
