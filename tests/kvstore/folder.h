// A folder that goes with the test.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <string>

namespace interlace {

class Folder {
 public:
  Folder() {
    static int made = 0;
    path_ = testing::TempDir() + "interlace_tier_" + std::to_string(::getpid()) + "_" + std::to_string(made++);
    std::filesystem::remove_all(path_);
  }
  ~Folder() { std::filesystem::remove_all(path_); }
  const std::string& path() const { return path_; }
  int64_t Bytes() const {
    int64_t bytes = 0;
    std::error_code error;  // files come and go under RocksDB, and a folder may not be there yet
    for (std::filesystem::recursive_directory_iterator at(path_, error), end; !error && at != end;
         at.increment(error)) {
      std::error_code gone;
      const auto size = at->is_regular_file(gone) ? at->file_size(gone) : 0;
      if (!gone) bytes += static_cast<int64_t>(size);
    }
    return bytes;
  }

 private:
  std::string path_;
};

}  // namespace interlace
