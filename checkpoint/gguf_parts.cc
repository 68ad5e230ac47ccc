#include "checkpoint/gguf_parts.h"

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/status_macros.h"

namespace interlace {
namespace {

constexpr int64_t kMostParts = 99999;  // five digits

std::string Ending(int64_t number, int64_t count) { return absl::StrFormat("-%05d-of-%05d.gguf", number + 1, count); }

}  // namespace

absl::StatusOr<GgufPart> ReadGgufPart(const GgufFile& file) {
  GgufPart part;
  if (!file.Has("split.count")) return part;
  const auto refuse = [&](absl::string_view key, int64_t value) {
    return absl::InvalidArgumentError(absl::StrCat(file.name(), ": ", key, " ", value, " is out of range"));
  };
  ASSIGN_OR_RETURN(part.count, file.Integer("split.count"));
  if (part.count == 0) return GgufPart();  // how a file says that it was joined again
  if (part.count < 0 || part.count > kMostParts) return refuse("split.count", part.count);
  if (part.count == 1) return part;
  for (const auto& [key, to] : {std::pair{"split.no", &part.number}, {"split.tensors.count", &part.tensors}}) {
    if (!file.Has(key)) {
      return absl::InvalidArgumentError(absl::StrCat(file.name(), ": this is one of ", part.count,
                                                     " parts of a model, but metadata has no '", key, "'"));
    }
    ASSIGN_OR_RETURN(*to, file.Integer(key));
  }
  if (part.number < 0 || part.number >= part.count) return refuse("split.no", part.number);
  if (part.tensors < 0) return refuse("split.tensors.count", part.tensors);
  return part;
}

absl::StatusOr<std::string> PathOfGgufPart(const std::string& path, const GgufPart& of, int64_t number) {
  const std::string ending = Ending(of.number, of.count);
  if (!absl::EndsWith(path, ending)) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": this is part ", of.number + 1, " of ", of.count,
                                                   " of a model; its name must end in ", ending,
                                                   ", so that the other parts are found beside it"));
  }
  return path.substr(0, path.size() - ending.size()) + Ending(number, of.count);
}

}  // namespace interlace
