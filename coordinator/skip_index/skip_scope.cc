#include "coordinator/skip_index/skip_scope.h"

#include <sodium.h>

#include <array>
#include <cstring>

#include "absl/strings/str_cat.h"

namespace interlace {

SkipScope ScopeOf(const SkipScopeFields& fields) {
  std::string text = absl::StrCat("skip scope 1,", fields.layer);
  for (const std::string* field :
       {&fields.model_digest, &fields.numerics, &fields.adapter, &fields.chat_template, &fields.tenant, &fields.salt}) {
    absl::StrAppend(&text, ",", field->size(), ":", *field);
  }
  std::array<unsigned char, 16> digest{};
  crypto_generichash(digest.data(), digest.size(), reinterpret_cast<const unsigned char*>(text.data()), text.size(),
                     nullptr, 0);
  SkipScope scope;
  std::memcpy(&scope.high, digest.data(), 8);
  std::memcpy(&scope.low, digest.data() + 8, 8);
  return scope;
}

}  // namespace interlace
