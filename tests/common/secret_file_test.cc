#include "common/secret_file.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>

#include "tests/status_matchers.h"

namespace interlace {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

class SecretFile : public testing::Test {
 protected:
  SecretFile() {
    std::string folder = testing::TempDir() + "/secret-XXXXXX";
    EXPECT_NE(mkdtemp(folder.data()), nullptr);
    folder_ = folder;
  }
  ~SecretFile() override { std::filesystem::remove_all(folder_); }
  std::string path() const { return folder_ + "/secret"; }
  std::string folder_;
};

TEST_F(SecretFile, IsWrittenForItsOwnerAloneAndReadBack) {
  std::ofstream(path()) << "of before";
  chmod(path().c_str(), 0666);
  ASSERT_OK(WriteSecretFile(path(), "four words of chance"));
  struct stat about {};
  ASSERT_EQ(stat(path().c_str(), &about), 0);
  EXPECT_EQ(about.st_mode & 0777, 0600u) << "not that of the file that was there";
  const absl::StatusOr<std::string> read = ReadSecretFile("cluster.secret_file", path());
  ASSERT_OK(read);
  EXPECT_EQ(*read, "four words of chance");
}

TEST_F(SecretFile, OneThatOthersMayReadOrChangeIsRefused) {
  ASSERT_OK(WriteSecretFile(path(), "precious"));
  for (const int mode : {0604, 0602, 0601, 0620, 0666, 0644}) {
    chmod(path().c_str(), static_cast<mode_t>(mode));
    EXPECT_THAT(ReadSecretFile("cluster.secret_file", path()),
                StatusIs(absl::StatusCode::kFailedPrecondition,
                         AllOf(HasSubstr("cluster.secret_file"), HasSubstr("chmod 600"), Not(HasSubstr("precious")))))
        << std::oct << mode;
  }
  for (const int mode : {0600, 0400, 0640, 0440}) {
    chmod(path().c_str(), static_cast<mode_t>(mode));
    EXPECT_OK(ReadSecretFile("cluster.secret_file", path())) << std::oct << mode;
  }
}

TEST_F(SecretFile, WhatIsNoSmallFileIsRefused) {
  EXPECT_THAT(ReadSecretFile("f", path()), StatusIs(absl::StatusCode::kNotFound, HasSubstr("no such file")));
  EXPECT_THAT(ReadSecretFile("f", folder_), StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("not a file")));
  ASSERT_OK(WriteSecretFile(path(), std::string(100, 'x')));
  EXPECT_OK(ReadSecretFile("f", path(), 100));
  EXPECT_THAT(ReadSecretFile("f", path(), 99), StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("larger")));
  EXPECT_THAT(WriteSecretFile(folder_ + "/missing/secret", "x"),
              StatusIs(absl::StatusCode::kPermissionDenied, HasSubstr("missing")));
  ASSERT_EQ(mkfifo((folder_ + "/pipe").c_str(), 0600), 0);
  EXPECT_THAT(ReadSecretFile("f", folder_ + "/pipe"),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("not a file")));
}

}  // namespace
}  // namespace interlace
