#include "coordinator/skip_index/skip_keeper.h"

#include <utility>

namespace interlace {
namespace {

constexpr absl::Duration kKeepEvery = absl::Minutes(3);  // so a crash loses little

}  // namespace

SkipKeeper::SkipKeeper(SkipAdvisor& advisor, std::string path, int64_t most_bytes, Metrics& metrics)
    : advisor_(advisor),
      file_(std::move(path), most_bytes),
      entries_(metrics.gauge("interlace_skip_index_entries")),
      bytes_(metrics.gauge("interlace_skip_index_bytes")),
      mib_worth_(metrics.gauge("interlace_skip_index_mib_worth_seconds")),
      refused_(metrics.counter("interlace_skip_index_refused_total")) {
  file_.Read(advisor_);
  Publish();
}

void SkipKeeper::Tick(absl::Time now, bool leads) {
  if (leads && !led_) file_.Read(advisor_);  // the leader before may have written it
  led_ = leads;
  Publish();
  if (!leads || !file_.used()) return;
  if (kept_ == absl::InfinitePast()) kept_ = now;
  if (now - kept_ < kKeepEvery) return;
  file_.Keep(advisor_);
  kept_ = now;
}

void SkipKeeper::Close(bool leads) {
  Publish();
  if (leads) file_.Keep(advisor_);
}

void SkipKeeper::Publish() {
  const SkipCounts counts = advisor_.counts();
  entries_.Set(static_cast<double>(counts.entries));
  bytes_.Set(static_cast<double>(counts.bytes));
  mib_worth_.Set(counts.saved_by_a_mib);
  refused_.Add(static_cast<double>(counts.refused - std::exchange(refused_before_, counts.refused)));
}

}  // namespace interlace
