#include "coordinator/skip_index/skip_file.h"

#include <algorithm>

#include "common/log.h"
#include "common/state_file.h"

namespace interlace {

void SkipFile::Read(SkipAdvisor& advisor) {
  if (!used()) return;
  const absl::StatusOr<std::string> text = ReadStateFile(path_, static_cast<size_t>(2 * most_bytes_ + (1 << 20)));
  if (absl::IsNotFound(text.status())) return;
  const bool ours = text.ok() && text->compare(std::min(text->size(), sizeof(uint32_t)), kSkipTitle.size(),
                                               kSkipTitle.data(), kSkipTitle.size()) == 0;
  if (!ours) {
    LOG(WARNING) << "the skip index begins empty and is not kept: skip.file is another program's, or cannot be read"
                 << Field("path", path_) << text.status();
    path_.clear();
    return;
  }
  const absl::Status loaded = advisor.Load(*text);
  if (loaded.ok()) {
    LOG(INFO) << "skip index of earlier runs" << Field("entries", advisor.counts().entries);
    return;
  }
  LOG(WARNING) << "the skip index begins empty: skip.file cannot be used, and will be written anew"
               << Field("path", path_) << loaded;
}

void SkipFile::Keep(const SkipAdvisor& advisor) {
  if (!used()) return;
  const std::string text = advisor.Save();
  if (text.empty()) return;
  const absl::Status written = ReplaceStateFile(path_, text);
  if (!written.ok()) LOG(WARNING) << "the skip index is not kept" << written;
}

}  // namespace interlace
