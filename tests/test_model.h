// The model that tests run on.
#pragma once

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <string>

namespace interlace {

// A file in the cache folder, where `command` puts it (tests/run.sh calls it).
// A missing file fails the test: it is never skipped in silence.
inline std::string CachedModelPath(const std::string& file, const std::string& command) {
  const char* cache = std::getenv("INTERLACE_CACHE");
  const char* xdg = std::getenv("XDG_CACHE_HOME");
  const char* home = std::getenv("HOME");
  const std::string folder =
      cache ? cache : std::string(xdg ? xdg : std::string(home ? home : "") + "/.cache") + "/interlace";
  const std::string path = folder + "/" + file;
  EXPECT_TRUE(std::filesystem::exists(path)) << path << " is missing: run `" << command << "`";
  return path;
}

// SmolLM2-135M-Instruct Q4_1.
inline std::string TestModelPath() {
  return CachedModelPath("SmolLM2-135M-Instruct.Q4_1.gguf", "bash deploy/fetch_model.sh");
}

// Gemma 3 270M Q4_K_M.
inline std::string GemmaModelPath() {
  return CachedModelPath("gemma-3-270m-q4_k_m.gguf", "bash deploy/fetch_model.sh gemma3-270m");
}

}  // namespace interlace
