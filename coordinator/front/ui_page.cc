#include "coordinator/front/ui_page.h"

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "coordinator/front/ui_page_text.h"

namespace interlace {

absl::string_view UiPage() { return kUiPage; }

std::string UiPagePolicy() {
  const auto hash = [](absl::string_view hex) {
    return absl::StrCat("'sha256-", absl::Base64Escape(absl::HexStringToBytes(hex)), "'");
  };
  return absl::StrCat("default-src 'none'; script-src ", hash(kUiScriptSha256), "; style-src ", hash(kUiStyleSha256),
                      "; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
                      "frame-ancestors 'none'");
}

}  // namespace interlace
