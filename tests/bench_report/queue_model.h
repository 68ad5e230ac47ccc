// A server that exists only in numbers, for runs with known properties: first come first served, a bounded number of
// streams, one prefill at a time. Its capacity is slots / (prefill + tokens * pace) requests/s.
#pragma once

#include <algorithm>
#include <functional>
#include <queue>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "bench/serve/load_record.h"

namespace interlace {

struct QueueModel {
  std::string label = "model";
  int slots = 8;
  double prefill = 0.05;  // seconds
  double pace = 0.02;     // seconds per token
  int tokens = 32;
  double stall_chance = 0.002, stall = 0.4;  // of a token; seconds
  double shed_after = 0;                     // seconds of predicted waiting; 0: never
  double fail_chance = 0, cancel_chance = 0;
  LoadTargets targets = {.ttft = absl::Seconds(1), .tpot = absl::Milliseconds(40), .largest_gap = absl::Seconds(1)};

  double Capacity() const { return slots / (prefill + tokens * pace); }

  LoadRun Run(double rate, uint64_t seed, int requests) const {
    std::mt19937_64 random(seed);
    std::exponential_distribution<double> gap(1);
    std::uniform_real_distribution<double> uniform(0, 1);
    std::priority_queue<double, std::vector<double>, std::greater<double>> free;  // when each slot is
    for (int i = 0; i < slots; ++i) free.push(0);
    LoadRun run;
    run.label = label;
    run.server = "http://127.0.0.1:8080";
    run.model = "SmolLM2-135M-Q4_1";
    run.dataset = absl::StrCat("fixed 256/", tokens);
    run.arrivals = "poisson";
    run.offered_rate = rate;
    run.seed = seed;
    run.began = absl::FromUnixSeconds(1795860000);
    double time = 0, prefill_free = 0;
    for (int i = 0; i < requests; ++i) {
      time += gap(random) / rate;
      RequestRecord r;
      r.index = i;
      r.request_id = absl::StrCat("req-", i);
      r.targets = targets;
      r.due = absl::Nanoseconds(static_cast<int64_t>(time * 1e9));
      r.sent = r.due + absl::Microseconds(20 + static_cast<int64_t>(60 * uniform(random)));
      r.prompt_tokens = 256;
      r.shared_prefix_tokens = i % 2 == 0 ? 0 : 128;
      r.cached_tokens = i % 4 == 3 ? 128 : 0;
      r.http_status = 200;
      const double begin = std::max({time, free.top(), prefill_free});
      const double fate = uniform(random);
      if (shed_after > 0 && begin - time > shed_after) {
        r.outcome = LoadOutcome::kShed;
        r.http_status = 429;
        r.error = "predicted to miss its TTFT";
        r.retry_after = absl::Seconds(1);
        r.ended = r.sent + absl::Milliseconds(1);
      } else {
        free.pop();
        double at = begin + prefill * (0.9 + 0.2 * uniform(random));
        prefill_free = begin + prefill / slots;
        const int stop = fate < fail_chance + cancel_chance ? std::max(1, tokens / 3) : tokens;
        for (int t = 0; t < stop; ++t) {
          if (t > 0) at += pace * (0.8 + 0.4 * uniform(random)) + (uniform(random) < stall_chance ? stall : 0);
          r.chunks.push_back(absl::Nanoseconds(static_cast<int64_t>(at * 1e9)));
          r.chunk_tokens.push_back(1);
        }
        r.completion_tokens = stop;
        r.ended = r.chunks.back() + absl::Microseconds(200);
        r.outcome = fate < fail_chance                   ? LoadOutcome::kTruncated
                    : fate < fail_chance + cancel_chance ? LoadOutcome::kCancelled
                                                         : LoadOutcome::kOk;
        r.finish_reason = r.outcome == LoadOutcome::kOk ? "length" : "";
        if (r.outcome == LoadOutcome::kTruncated) r.error = "the connection ended before the answer did";
        free.push(at);
      }
      run.elapsed = std::max(run.elapsed, r.ended);
      run.duration = r.due;
      run.records.push_back(std::move(r));
    }
    run.client_cpu = absl::Milliseconds(3 * requests);
    return run;
  }
};

}  // namespace interlace
