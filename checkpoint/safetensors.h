// SafetensorsFile: a safetensors file, mapped read-only; every count, offset and size is checked before it is used.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "checkpoint/file_mapping.h"

namespace interlace {

struct SafetensorsTensor {
  std::string dtype;                 // as written: "F32", "BF16", "I64", ...
  std::vector<int64_t> shape;        // the last is the contiguous one; empty: a scalar
  absl::Span<const std::byte> data;  // inside the mapping; of any alignment
};

// Owned by a Checkpoint; immutable after Open, any thread. The trap: tensor data points into the mapping, so the file
// must outlive every view of it.
class SafetensorsFile {
 public:
  // NotFound if the file is missing; InvalidArgument naming file and field if it is not sound: header length, JSON,
  // types, shapes, offsets, tensors that overlap or end past the file.
  static absl::StatusOr<std::unique_ptr<SafetensorsFile>> Open(const std::string& path);
  // The same checks over bytes in memory, which must outlive the result (tests, fuzzing).
  static absl::StatusOr<std::unique_ptr<SafetensorsFile>> Parse(absl::Span<const std::byte> bytes,
                                                                const std::string& name);

  const std::map<std::string, SafetensorsTensor, std::less<>>& tensors() const { return tensors_; }
  const std::string& name() const { return name_; }
  const std::string& digest() const { return digest_; }  // SampledDigest over header and tensors
  bool Contains(absl::Span<const std::byte> part) const;
  void Drop(absl::Span<const std::byte> part) const;  // FileMapping::Drop

 private:
  SafetensorsFile() = default;
  std::string name_;
  std::string digest_;
  std::map<std::string, SafetensorsTensor, std::less<>> tensors_;
  absl::Span<const std::byte> bytes_;
  std::unique_ptr<FileMapping> mapping_;  // null when the bytes are someone else's
};

}  // namespace interlace
