// A tiny model in a file of this process's own, which goes away with it.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <string>

#include "absl/strings/str_cat.h"
#include "common/config.h"
#include "tests/model/tiny_gguf.h"

namespace interlace {

// Unique among processes, so that several may run the same tests at once.
inline std::string TestPath(absl::string_view name) {
  return absl::StrCat(testing::TempDir(), "/interlace_worker_", getpid(), "_", name);
}

class TinyFile {
 public:
  explicit TinyFile(const TinyGgufOptions& options)
      : path_(WriteTinyGguf(TestPath(absl::StrCat(++count_, ".gguf")), options)) {}
  ~TinyFile() { std::filesystem::remove(path_); }
  TinyFile(const TinyFile&) = delete;
  TinyFile& operator=(const TinyFile&) = delete;
  const std::string& path() const { return path_; }

 private:
  static inline int count_ = 0;
  const std::string path_;
};

// The model of a file on one thread, with KV that loses nothing.
inline Config OneThreadConfig(const std::string& path, int32_t block_tokens) {
  Config config;
  config.model.path = path;
  config.engine.threads = 1;
  config.kv.block_tokens = block_tokens;
  config.kv.dtype = "f32";
  return config;
}

}  // namespace interlace
