// GgufFile: a GGUF v2/v3 file, whole or in parts, mapped read-only; every count, offset and size is checked before it
// is used.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace interlace {

// Element types by their number in the file; only those the engine computes with have names.
enum class GgufType : uint32_t {
  kF32 = 0,
  kF16 = 1,
  kQ4_0 = 2,
  kQ4_1 = 3,
  kQ5_0 = 6,
  kQ5_1 = 7,
  kQ8_0 = 8,
  kQ2_K = 10,
  kQ3_K = 11,
  kQ4_K = 12,
  kQ5_K = 13,
  kQ6_K = 14,
  kIQ4_NL = 20,
  kIQ4_XS = 23,
  kBF16 = 30,
  kMXFP4 = 39,
};

struct GgufTensor {
  std::string name;
  GgufType type;
  std::vector<int64_t> dims;         // dims[0] is the contiguous one: columns
  absl::Span<const std::byte> data;  // inside the mapping
};

// Owned by whoever loads a model; immutable after Open, any thread. The trap: tensor data points into the mapping, so
// the file must outlive every view of it.
class GgufFile {
 public:
  // NotFound if the file is missing; InvalidArgument naming file and field if it is not sound: magic, version, counts,
  // lengths, types, alignment, tensors that overlap or end past the file. A model that was split (split.count) is
  // opened by the path of any of its parts, "-00001-of-00003.gguf" say, and the others beside it; the metadata are the
  // first's.
  static absl::StatusOr<std::unique_ptr<GgufFile>> Open(const std::string& path);
  // The same checks over bytes in memory, which must outlive the result (tests, fuzzing).
  static absl::StatusOr<std::unique_ptr<GgufFile>> Parse(absl::Span<const std::byte> bytes, const std::string& name);
  ~GgufFile();

  // NotFound names the key; InvalidArgument if it has another type. Unsigned and signed widths are accepted where the
  // value fits.
  absl::StatusOr<std::string> Text(absl::string_view key) const;
  absl::StatusOr<int64_t> Integer(absl::string_view key) const;
  absl::StatusOr<double> Real(absl::string_view key) const;
  absl::StatusOr<bool> Flag(absl::string_view key) const;
  absl::StatusOr<std::vector<std::string>> Texts(absl::string_view key) const;
  absl::StatusOr<std::vector<int64_t>> Integers(absl::string_view key) const;
  absl::StatusOr<std::vector<double>> Reals(absl::string_view key) const;
  bool Has(absl::string_view key) const;

  absl::StatusOr<const GgufTensor*> Tensor(absl::string_view name) const;  // NotFound names the tensor
  const std::map<std::string, GgufTensor, std::less<>>& tensors() const;
  const std::string& name() const;
  // The pages wholly inside `part`, of a tensor's data, leave resident memory until they are read again.
  void Drop(absl::Span<const std::byte> part) const;
  // XXH3-128 over the header (metadata and tensor table), the file size and samples of each tensor, as 32 hex digits:
  // tells two models apart. Of a model that was split: over the digests of all parts.
  const std::string& digest() const;

 private:
  struct Contents;
  explicit GgufFile(std::unique_ptr<Contents> contents);
  static absl::StatusOr<std::unique_ptr<GgufFile>> OpenOne(const std::string& path);
  std::unique_ptr<Contents> contents_;
};

}  // namespace interlace
