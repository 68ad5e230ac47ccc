// World: what all parts of one simulation share.
#pragma once

#include <cstdio>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "tests/sim/chance.h"
#include "tests/sim/digest_model.h"
#include "tests/sim/event_loop.h"
#include "tests/sim/ledger.h"
#include "tests/sim/scenario.h"

namespace interlace::sim {

// Owned by the Simulation, outlives its parts. Thread: one.
struct World {
  World(const Scenario& s, Canary c, bool v)
      : scenario(s), canary(c), verbose(v), model(s.shape.windows, s.shape.block_tokens, s.shape.vocab) {}

  const Scenario& scenario;
  const Canary canary;
  const bool verbose;
  EventLoop loop;
  const absl::Time begin = loop.now();
  const DigestModel model;
  Ledger ledger;

  // The same name gives the same stream, whatever else was forked.
  std::unique_ptr<Entropy> Fork(absl::string_view name) const {
    return MakeSeededEntropy(scenario.seed ^ 0x51a1)->Fork(name);
  }
  template <typename... Parts>
  void Say(const Parts&... parts) const {
    if (!verbose) return;
    std::printf("%12.3f ms  %s\n", absl::ToDoubleMilliseconds(loop.now() - begin), absl::StrCat(parts...).c_str());
  }
};

}  // namespace interlace::sim
