#include "kvstore/layer_set.h"

#include "absl/strings/str_cat.h"

namespace interlace {

std::string LayerSet::ToString() const {
  std::string text;
  for (int32_t l = 0; l < kMaxLayers; ++l) {
    if (!Has(LayerId{l})) continue;
    int32_t last = l;
    while (last + 1 < kMaxLayers && Has(LayerId{last + 1})) ++last;
    absl::StrAppend(&text, text.empty() ? "" : ",", l, last > l ? absl::StrCat("-", last) : "");
    l = last;
  }
  return text.empty() ? "none" : text;
}

std::string LayerSet::Encode() const {
  std::string bytes;
  for (uint64_t word : words_) {
    for (int i = 0; i < 8; ++i) bytes.push_back(static_cast<char>(word >> (8 * i)));
  }
  while (!bytes.empty() && bytes.back() == '\0') bytes.pop_back();
  return bytes;
}

bool LayerSet::Decode(absl::string_view bytes, LayerSet* set) {
  if (bytes.size() > kMaxLayers / 8) return false;
  *set = LayerSet();
  for (size_t i = 0; i < bytes.size(); ++i) {
    set->words_[i / 8] |= uint64_t{static_cast<unsigned char>(bytes[i])} << (8 * (i % 8));
  }
  return true;
}

}  // namespace interlace
