// Benches of the ops that are a small share of a step.
#pragma once

#include <benchmark/benchmark.h>

#include <functional>
#include <memory>
#include <string>

#include "kernels/backend.h"

namespace interlace {

using MakeBackendFor = std::function<std::unique_ptr<Backend>(int threads)>;
using RegisterBench = std::function<void(const std::string& name, std::function<void(benchmark::State&)> body)>;

void RegisterSmallOps(const MakeBackendFor& backend_for, const RegisterBench& add);

}  // namespace interlace
