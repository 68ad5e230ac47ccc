// The model that tests run on.
#pragma once

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <string>

namespace interlace {

// SmolLM2-135M-Instruct Q4_1 in the cache folder, where deploy/fetch_model.sh put it (tests/run.sh calls it).
// A missing file fails the test: it is never skipped in silence.
inline std::string TestModelPath() {
  const char* cache = std::getenv("INTERLACE_CACHE");
  const char* xdg = std::getenv("XDG_CACHE_HOME");
  const char* home = std::getenv("HOME");
  const std::string folder =
      cache ? cache : std::string(xdg ? xdg : std::string(home ? home : "") + "/.cache") + "/interlace";
  const std::string path = folder + "/SmolLM2-135M-Instruct.Q4_1.gguf";
  EXPECT_TRUE(std::filesystem::exists(path)) << path << " is missing: run `bash deploy/fetch_model.sh`";
  return path;
}

}  // namespace interlace
