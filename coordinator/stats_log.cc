#include "coordinator/stats_log.h"

#include "absl/strings/str_format.h"
#include "common/log.h"

namespace interlace {
namespace {

std::string Tenths(double value) { return absl::StrFormat("%.1f", value); }

}  // namespace

bool StatsLog::Tick(absl::Time now, const EngineLoad& load) {
  const Totals totals{metrics_.Total("vllm:prompt_tokens_total"), metrics_.Total("vllm:generation_tokens_total"),
                      metrics_.Total("vllm:prefix_cache_queries_total"),
                      metrics_.Total("vllm:prefix_cache_hits_total")};
  const double seconds = last_ == absl::InfinitePast() ? 0 : absl::ToDoubleSeconds(now - last_);
  const Totals before = before_;
  last_ = now;
  before_ = totals;
  const double tokens = totals.prompt - before.prompt + totals.generation - before.generation;
  if (seconds <= 0 || (tokens <= 0 && load.running + load.waiting == 0)) return false;
  const double queries = totals.queries - before.queries;
  LOG(INFO) << "stats" << Field("prompt_tokens_per_s", Tenths((totals.prompt - before.prompt) / seconds))
            << Field("generation_tokens_per_s", Tenths((totals.generation - before.generation) / seconds))
            << Field("running", load.running) << Field("waiting", load.waiting - load.parked)
            << Field("parked", load.parked)
            << Field("kv_usage_percent", Tenths(load.blocks > 0 ? 100.0 * load.blocks_held / load.blocks : 0))
            << Field("prefix_hit_percent", Tenths(queries > 0 ? 100 * (totals.hits - before.hits) / queries : 0));
  return true;
}

}  // namespace interlace
