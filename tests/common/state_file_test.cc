#include "common/state_file.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <string>

#include "tests/kvstore/folder.h"
#include "tests/status_matchers.h"

namespace interlace {
namespace {

using ::testing::HasSubstr;

TEST(StateFile, IsReadAsItWasWritten) {
  const Folder folder;
  std::filesystem::create_directories(folder.path());
  const std::string path = folder.path() + "/state";
  EXPECT_THAT(ReadStateFile(path, 100).status(), StatusIs(absl::StatusCode::kNotFound, HasSubstr(path)));
  for (const std::string& text :
       {std::string("one\ntwo"), std::string(), std::string("\0\xff\r\n", 4), std::string(100, 'x')}) {
    ASSERT_OK(ReplaceStateFile(path, text));
    const absl::StatusOr<std::string> read = ReadStateFile(path, 100);
    ASSERT_OK(read);
    EXPECT_EQ(*read, text);
  }
  EXPECT_THAT(ReadStateFile(path, 99).status(), StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("99 bytes")));
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder.path()), {}), 1) << "something else is left there";
}

TEST(StateFile, IsRemovedAlsoIfThereIsNone) {
  const Folder folder;
  std::filesystem::create_directories(folder.path() + "/inner/full");
  const std::string path = folder.path() + "/state";
  ASSERT_OK(ReplaceStateFile(path, "x"));
  EXPECT_OK(RemoveStateFile(path));
  EXPECT_FALSE(std::filesystem::exists(path));
  EXPECT_OK(RemoveStateFile(path));
  EXPECT_THAT(RemoveStateFile(folder.path() + "/inner"),
              StatusIs(absl::StatusCode::kPermissionDenied, HasSubstr("/inner cannot be removed")));
}

TEST(StateFile, WhatIsNoFileIsLeftAlone) {
  const Folder folder;
  std::filesystem::create_directories(folder.path() + "/inner");
  EXPECT_THAT(ReadStateFile(folder.path(), 100).status(),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("")));
  EXPECT_FALSE(ReplaceStateFile(folder.path() + "/inner", "x").ok());
  EXPECT_TRUE(std::filesystem::is_directory(folder.path() + "/inner"));
  EXPECT_FALSE(ReplaceStateFile(folder.path() + "/none/state", "x").ok());
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder.path()), {}), 1) << "something else is left there";
}

}  // namespace
}  // namespace interlace
