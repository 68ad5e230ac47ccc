// Where adapters lie that clients name while the server runs.
#pragma once

#include <string>

#include "absl/status/statusor.h"

namespace interlace {

struct AdapterFolder {
  std::string below;  // its path from the root: the same on each machine, whatever links it leads through
  std::string real;   // where it lies here
};

// Where `root` (model.adapter_dir) lies. FailedPrecondition: it is no folder that can be read.
absl::StatusOr<std::string> AdapterRoot(const std::string& root);

// A client's `path` of an adapter: from `root` on, or absolute and below it. Whoever may name adapters
// must not make a process read any other file, so neither the path nor a link, of the folder or of the two files in it,
// may lead out of the root. InvalidArgument: it does, or what is there is no folder with two files; what lies outside
// is not told. NotFound: there is nothing.
absl::StatusOr<AdapterFolder> FindAdapterFolder(const std::string& root, const std::string& path);

}  // namespace interlace
