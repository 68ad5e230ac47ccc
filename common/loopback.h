// Whether an address is this machine's to itself.
#pragma once

#include "absl/strings/string_view.h"

namespace interlace {

// Of "localhost", or a numeric address, with brackets around an IPv6 one or without. Anything else is not: a name such
// as 127.example.org may lead anywhere.
bool IsLoopback(absl::string_view host);

}  // namespace interlace
