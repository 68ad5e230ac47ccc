// What recording one value costs: through a handle, as hot paths do, and by name, as cold paths may.
#include <benchmark/benchmark.h>

#include "common/metrics.h"

namespace interlace {
namespace {

void CounterByHandle(benchmark::State& state) {
  Metrics metrics("bench");
  const Metrics::Counter counter = metrics.counter("interlace_transfer_bytes_total", {{"direction", "in"}});
  for (auto _ : state) counter.Add(3);
}
BENCHMARK(CounterByHandle);

void HistogramByHandle(benchmark::State& state) {
  Metrics metrics("bench");
  const Metrics::Histogram histogram = metrics.histogram("vllm:inter_token_latency_seconds");
  for (auto _ : state) histogram.Observe(0.02);
}
BENCHMARK(HistogramByHandle);

void CounterByName(benchmark::State& state) {
  Metrics metrics("bench");
  for (auto _ : state) metrics.Add("interlace_transfer_bytes_total", 3, {{"direction", "in"}});
}
BENCHMARK(CounterByName);

void HistogramByName(benchmark::State& state) {
  Metrics metrics("bench");
  for (auto _ : state) metrics.Observe("vllm:inter_token_latency_seconds", 0.02);
}
BENCHMARK(HistogramByName);

}  // namespace
}  // namespace interlace

BENCHMARK_MAIN();
