// gpu_check: the cuda backend on a real GPU: every op against the reference, a whole model against the CPU, timings.
//   gpu_check [--model FILE] [--golden FOLDER] [--threads N]
// Exits 0 with a line "skipped: why" where there is no GPU, 1 if there is one that cannot be used or anything disagrees.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>

#include "absl/strings/str_format.h"
#include "common/clock.h"
#include "common/thread.h"
#include "kernels/cuda/cuda_backend.h"
#include "tests/gpu/model_check.h"
#include "tests/gpu/op_timing.h"
#include "tests/kernels/op_checks.h"

namespace interlace {
namespace {

struct Flags {
  std::string model;
  std::string golden = "tests/golden/model";
  int threads = AvailableCores();
};

// Each op in one line: cases, those that disagree, the largest error as a share of the tolerance.
int CheckOps(Backend& device) {
  int faults = 0;
  absl::PrintF("%-16s %6s %8s %10s %9s\n", "op", "cases", "faults", "error/tol", "seconds");
  RealClock clock;
  for (const OpCheckGroup& group : kOpChecks) {
    const absl::Time start = clock.Now();
    const std::vector<OpCheck> checks = group.run(device);
    double worst = 0;
    int wrong = 0;
    for (const OpCheck& check : checks) {
      worst = std::max(worst, check.worst);
      wrong += check.fault.empty() ? 0 : 1;
    }
    absl::PrintF("%-16s %6d %8d %10.3f %9.1f\n", group.op, checks.size(), wrong, worst,
                 absl::ToDoubleSeconds(clock.Now() - start));
    for (const OpCheck& check : checks) {
      if (!check.fault.empty()) absl::PrintF("  FAULT %s %s: %s\n", check.op, check.name, check.fault);
    }
    std::fflush(stdout);
    faults += wrong;
  }
  return faults;
}

int PrintTimings(Backend& device, double bandwidth) {
  const auto timings = TimeOps(device);
  if (!timings.ok()) {
    std::cout << "FAULT timings: " << timings.status() << "\n";
    return 1;
  }
  absl::PrintF("\n%-16s %-34s %11s %9s %8s %9s\n", "op", "shape", "us", "GB/s", "of copy", "TFLOP/s");
  for (const OpTiming& t : *timings) {
    const double gbps = t.bytes / t.microseconds / 1e3;
    absl::PrintF("%-16s %-34s %11.2f %9.1f %7.1f%% %9.2f\n", t.op, t.shape, t.microseconds, gbps,
                 100 * gbps * 1e9 / bandwidth, t.flops / t.microseconds / 1e6);
  }
  std::fflush(stdout);
  return 0;
}

std::vector<std::vector<int32_t>> Windows(const nlohmann::json& golden) {
  const std::vector<int32_t> tokens = golden["tokens"];
  const int64_t window = golden["window"];
  std::vector<std::vector<int32_t>> windows;
  for (int64_t begin = 0; begin + window <= static_cast<int64_t>(tokens.size()); begin += window) {
    windows.emplace_back(tokens.begin() + begin, tokens.begin() + begin + window);
  }
  return windows;
}

int CheckWholeModel(const Flags& flags, std::unique_ptr<Backend> device) {
  auto file = GgufFile::Open(flags.model);
  if (!file.ok()) {
    std::cout << "FAULT model: " << file.status() << "\n";
    return 1;
  }
  std::ifstream greedy(flags.golden + "/greedy.json"), perplexity(flags.golden + "/perplexity.json");
  if (!greedy || !perplexity) {
    std::cout << "FAULT model: " << flags.golden << " lacks greedy.json or perplexity.json; run in the repository\n";
    return 1;
  }
  ModelCheckOptions options;
  for (const nlohmann::json& chat : nlohmann::json::parse(greedy)["chats"]) options.prompts.push_back(chat["prompt"]);
  options.prompts.resize(std::min<size_t>(options.prompts.size(), 8));  // the reference ops take 0.2 s a token
  options.greedy_steps = 12;
  const nlohmann::json golden = nlohmann::json::parse(perplexity);
  options.windows = Windows(golden);
  options.window_nll = golden["nll"].get<std::vector<double>>();
  const auto check = CheckModel(**file, std::move(device), options);
  if (!check.ok()) {
    std::cout << "FAULT model: " << check.status() << "\n";
    return 1;
  }
  absl::PrintF("\nmodel %s, %d streams\n", (*file)->name(), options.prompts.size());
  absl::PrintF("  logits against the CPU   worst %.4f, mean %.5f\n", check->worst_logit, check->mean_logit);
  absl::PrintF("  greedy tokens            %d of %d agree; largest margin of one that does not: %.4f\n", check->agreed,
               check->compared, check->worst_margin);
  absl::PrintF("  perplexity               %.5f, PyTorch in float32 %.5f\n", std::exp(check->nll_device),
               std::exp(check->nll_expected));
  absl::PrintF("  decode, all streams      %.0f tokens/s\n", check->device_decode_tokens_per_second);
  absl::PrintF("  prefill, 512 tokens      %.0f tokens/s\n", check->device_prefill_tokens_per_second);
  const std::string fault = FaultOf(*check);
  if (!fault.empty()) std::cout << "  FAULT " << fault << "\n";
  return fault.empty() ? 0 : 1;
}

absl::StatusOr<std::unique_ptr<Backend>> MakeDevice(const Flags& flags) {
  return CreateBackend("cuda", {.threads = flags.threads});
}

// A device file of NVIDIA's driver, or whoever runs this says that there is one.
bool GpuIsThere() {
  const char* said = std::getenv("INTERLACE_EXPECT_GPU");
  if (said != nullptr && *said != '\0') return std::strcmp(said, "0") != 0;
  std::error_code error;
  return std::filesystem::exists("/dev/nvidia0", error) || std::filesystem::exists("/dev/nvidiactl", error);
}

int Run(const Flags& flags) {
  auto driver = MakeRuntimeDriver();
  if (!driver.ok()) {
    // A machine with a GPU whose driver, libraries or build do not fit must not pass for one without.
    const bool expected = GpuIsThere();
    std::cout << (expected ? "FAULT a GPU is there, but: " : "skipped: ") << driver.status().message() << "\n";
    return expected ? 1 : 0;
  }
  const CudaFacts facts = (*driver)->facts();
  const auto bandwidth = MeasureBandwidth(**driver);
  driver->reset();
  if (!bandwidth.ok()) {
    std::cout << "FAULT bandwidth: " << bandwidth.status() << "\n";
    return 1;
  }
  absl::PrintF("%s, %d multiprocessors, %.1f GiB, %s\n", facts.name, facts.multiprocessors,
               static_cast<double>(facts.memory_bytes) / (1 << 30), facts.libraries);
  absl::PrintF("copies within the device: %.0f GB/s read and written\n\n", *bandwidth / 1e9);
  int faults = 0;
  {
    auto device = MakeDevice(flags);
    if (!device.ok()) {
      std::cout << "FAULT backend: " << device.status() << "\n";
      return 1;
    }
    faults += CheckOps(**device);
    faults += PrintTimings(**device, *bandwidth);
  }
  if (flags.model.empty()) {
    std::cout << "\nno --model: the whole model was not checked\n";
  } else {
    auto device = MakeDevice(flags);
    faults += device.ok() ? CheckWholeModel(flags, *std::move(device)) : 1;
  }
  std::cout << (faults == 0 ? "\ngpu_check: all agree\n" : "\ngpu_check: FAULTS\n");
  return faults == 0 ? 0 : 1;
}

}  // namespace
}  // namespace interlace

int main(int argc, char** argv) {
  interlace::Flags flags;
  for (int i = 1; i < argc; ++i) {
    const bool has_value = i + 1 < argc;
    if (std::strcmp(argv[i], "--model") == 0 && has_value) {
      flags.model = argv[++i];
    } else if (std::strcmp(argv[i], "--golden") == 0 && has_value) {
      flags.golden = argv[++i];
    } else if (std::strcmp(argv[i], "--threads") == 0 && has_value) {
      flags.threads = std::clamp(std::atoi(argv[++i]), 1, 256);
    } else {
      std::cerr << "usage: gpu_check [--model FILE] [--golden FOLDER] [--threads N]\n";
      return 2;
    }
  }
  return interlace::Run(flags);
}
