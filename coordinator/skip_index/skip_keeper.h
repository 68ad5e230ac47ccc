// SkipKeeper: what a coordinator does for its skip index beside asking it: its file, and its metrics.
#pragma once

#include <cstdint>
#include <string>

#include "absl/time/time.h"
#include "common/metrics.h"
#include "coordinator/skip_index/skip_advisor.h"
#include "coordinator/skip_index/skip_file.h"

namespace interlace {

// Of several coordinators the one that leads writes the file, and whoever takes the lead reads it: where they share it,
// the next leader goes on with what the last one learned, but for the minutes since it was written.
//
// Owned by main; thread: main's, since files may take long. The advisor and the metrics outlive it.
class SkipKeeper {
 public:
  // `path`: empty: nothing is kept.
  SkipKeeper(SkipAdvisor& advisor, std::string path, int64_t most_bytes, Metrics& metrics);

  // Every now and then; `leads`: this coordinator does. Metrics are as fresh as the last call.
  void Tick(absl::Time now, bool leads);
  // The last call, when no stream is left.
  void Close(bool leads);

 private:
  void Publish();

  SkipAdvisor& advisor_;
  SkipFile file_;
  const Metrics::Gauge entries_, bytes_, mib_worth_;
  const Metrics::Counter refused_;
  int64_t refused_before_ = 0;
  absl::Time kept_ = absl::InfinitePast();  // infinite past: not since it leads
  bool led_ = true;                         // the file was read, or written, by this leader
};

}  // namespace interlace
