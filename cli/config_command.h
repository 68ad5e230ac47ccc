// interlace config: every setting with its value, origin and meaning.
#pragma once

#include "common/config.h"

namespace interlace {

void ConfigCommand(const ConfigBuilder& builder);

}  // namespace interlace
