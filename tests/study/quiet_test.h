// Hundreds of replicas are formed in a test of studies: their lines in the log would hide what fails.
#pragma once

#include <gtest/gtest.h>

#include "common/log.h"

namespace interlace {

class QuietTest : public ::testing::Test {
 protected:
  QuietTest() { SetLogSink(nullptr, LogLevel::kError); }
  ~QuietTest() override { SetLogSink(nullptr, LogLevel::kInfo); }
};

}  // namespace interlace
