// SseParser: server-sent events out of bytes, however they were cut.
#pragma once

#include <string>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace interlace {

// Pure. Owned by one answer; thread: one. Lines end with \n or \r\n; an event ends with an empty line. Comments and the
// fields event, id and retry are skipped.
class SseParser {
 public:
  using OnData = absl::FunctionRef<void(absl::string_view data)>;
  // `on_data` gets the data of each event that is complete. InvalidArgument: a line is none of the protocol; what came
  // before it was handed over.
  absl::Status Feed(absl::string_view bytes, OnData on_data);
  // No more bytes come. An event whose lines are whole but whose empty line is missing is handed over.
  absl::Status End(OnData on_data);

 private:
  absl::Status Line(absl::string_view line, OnData on_data);

  std::string line_;  // begun, without its end
  std::string data_;  // of the present event
  bool has_data_ = false;
};

}  // namespace interlace
