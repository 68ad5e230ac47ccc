// SkipRecords: what a skip index tells another one, or a file, and its form as bytes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "coordinator/skip_index/acceptance.h"
#include "coordinator/skip_index/hit_threshold.h"
#include "coordinator/skip_index/skip_scope.h"
#include "proto/plan/skip_plan.h"

namespace interlace {

struct SkipEntry {
  uint64_t id = 0;  // never 0
  SkipScope scope;
  SkipPlan plan;
  Acceptance acceptance;
  HitThreshold threshold;
  int64_t hits = 0, false_hits = 0;
  double saved_seconds = 0;
  float reach = 1;  // the least similarity at which it was a hit
  friend bool operator==(const SkipEntry&, const SkipEntry&) = default;
};

struct SkipEntryRecord {
  SkipEntry entry;
  std::vector<float> key;  // [width], of length 1
  friend bool operator==(const SkipEntryRecord&, const SkipEntryRecord&) = default;
};

struct SkipScopeRecord {
  SkipScope scope;
  double seen = 0;         // keys
  std::vector<float> sum;  // [width] of these
  std::optional<std::pair<SkipPlan, Acceptance>> best;
  friend bool operator==(const SkipScopeRecord&, const SkipScopeRecord&) = default;
};

// How far somebody has followed what an index told. By default: not at all.
struct SkipCursor {
  uint64_t change = 0;  // the number of the last change that it got
  uint64_t whole = 0;   // of the last one when it last began with everything, or had caught up: it holds nothing that
                        // was removed up to there
  friend bool operator==(const SkipCursor&, const SkipCursor&) = default;
};

struct SkipRecords {
  SkipCursor until;    // with what is in here
  bool whole = false;  // nothing that the receiver has counts any more
  bool more = false;   // later changes were left out
  std::vector<SkipScopeRecord> scopes;
  std::vector<SkipEntryRecord> entries;
  std::vector<uint64_t> removed;  // entries
  friend bool operator==(const SkipRecords&, const SkipRecords&) = default;
};

// Whose records they are: others mean nothing to this model.
struct SkipOrigin {
  std::string model_digest;
  int32_t layers = 0;
  int32_t width = 0;
};

inline constexpr absl::string_view kSkipTitle = "interlace-skips 1\n";

// Of what EncodeSkips made, unchecked; nullopt: it made none of it.
std::optional<SkipOrigin> OriginOf(absl::string_view bytes);

// Little-endian, behind kSkipTitle and the origin, with a checksum at the end.
std::string EncodeSkips(const SkipRecords& records, const SkipOrigin& origin);
// FailedPrecondition: it is something else's, or of another model, width or number of layers. DataLoss: it is damaged.
// Numbers are checked for what they may be, so what is returned can be taken whatever wrote it.
absl::StatusOr<SkipRecords> DecodeSkips(absl::string_view bytes, const SkipOrigin& origin);

}  // namespace interlace
