// SkipFile: the file in which a coordinator keeps its skip index.
#pragma once

#include <cstdint>
#include <string>
#include <utility>

#include "coordinator/skip_index/skip_advisor.h"

namespace interlace {

// Setting skip.file; an empty path keeps nothing. Owned by main; thread: main's, since files may take long.
class SkipFile {
 public:
  // `most_bytes`: of the index; a file is not larger than twice as much and a MiB.
  SkipFile(std::string path, int64_t most_bytes) : path_(std::move(path)), most_bytes_(most_bytes) {}

  bool used() const { return !path_.empty(); }
  // A file that is damaged, or of another model, is logged and counted, the index begins empty, and the file is written
  // anew. One that is something else's, or cannot be read, is never written.
  void Read(SkipAdvisor& advisor);
  // A failure is logged.
  void Keep(const SkipAdvisor& advisor);

 private:
  std::string path_;
  const int64_t most_bytes_;
};

}  // namespace interlace
