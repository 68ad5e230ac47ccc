#include "common/log_sink.h"

#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>

#include <memory>
#include <nlohmann/json.hpp>

#include "absl/strings/match.h"
#include "common/log.h"

namespace interlace {
namespace {

spdlog::level::level_enum ToSpdlog(LogLevel level) {
  switch (level) {
    case LogLevel::kDebug:
      return spdlog::level::debug;
    case LogLevel::kInfo:
      return spdlog::level::info;
    case LogLevel::kWarning:
      return spdlog::level::warn;
    case LogLevel::kError:
      return spdlog::level::err;
  }
  return spdlog::level::err;
}

std::string TextLine(const LogEvent& event) {
  std::string line = event.text;
  for (const auto& [key, value] : event.fields) {
    const bool quote = absl::StrContains(value, ' ');
    absl::StrAppend(&line, " ", key, "=", quote ? "\"" : "", value, quote ? "\"" : "");
  }
  return line;
}

std::string JsonFields(const LogEvent& event) {
  nlohmann::ordered_json fields;
  fields["msg"] = event.text;
  for (const auto& [key, value] : event.fields) fields[key] = value;
  const std::string text = fields.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  return text.substr(1, text.size() - 2);  // without the braces: the pattern supplies them
}

}  // namespace

absl::Status InstallLogSink(const std::string& process, const std::string& level, const std::string& format) {
  LogLevel least;
  if (level == "debug")
    least = LogLevel::kDebug;
  else if (level == "info")
    least = LogLevel::kInfo;
  else if (level == "warning")
    least = LogLevel::kWarning;
  else if (level == "error")
    least = LogLevel::kError;
  else
    return absl::InvalidArgumentError("log.level='" + level + "' is not debug, info, warning or error");
  if (format != "text" && format != "json") {
    return absl::InvalidArgumentError("log.format='" + format + "' is not text or json");
  }
  auto logger = std::make_shared<spdlog::logger>(process, std::make_shared<spdlog::sinks::stderr_color_sink_mt>());
  logger->set_level(spdlog::level::trace);
  logger->flush_on(spdlog::level::trace);
  const bool json = format == "json";
  logger->set_pattern(json ? R"({"ts":"%Y-%m-%dT%H:%M:%S.%f%z","level":"%l","process":"%n",%v})"
                           : "%H:%M:%S.%e %^%L%$ %n  %v");
  SetLogSink(
      [logger, json](const LogEvent& event) {
        logger->log(ToSpdlog(event.level), "{}", json ? JsonFields(event) : TextLine(event));
      },
      least);
  return absl::OkStatus();
}

}  // namespace interlace
