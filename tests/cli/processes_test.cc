// The processes that `interlace serve` starts: how they begin and end, and when one is started again.
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <string>

#include "cli/child_process.h"
#include "cli/restart_backoff.h"
#include "common/entropy.h"
#include "tests/status_matchers.h"

namespace interlace {
namespace {

using ::testing::HasSubstr;

std::string LogPath() { return ::testing::TempDir() + "/interlace_processes_test.log"; }

TEST(RestartBackoffTest, TheFirstEndIsAnsweredAtOnceAndTheNextOnesLater) {
  RestartBackoff backoff;
  absl::Time now = absl::UnixEpoch();
  absl::Duration before;
  for (int death = 0; death < 50; ++death) {
    backoff.Started(now);
    const absl::Duration wait = backoff.Ended(now) - now;
    EXPECT_EQ(wait == absl::ZeroDuration(), death == 0);
    EXPECT_GE(wait, before);
    EXPECT_LE(wait, absl::Seconds(30));
    before = wait;
    now += wait;
  }
  EXPECT_EQ(before, absl::Seconds(30));  // and it is still started again
}

TEST(RestartBackoffTest, EndsThatLieFarApartAreForgiven) {
  RestartBackoff backoff;
  absl::Time now = absl::UnixEpoch();
  for (int death = 0; death < 1000; ++death) {  // one every six seconds, for ever
    backoff.Started(now);
    now += absl::Seconds(6);
    EXPECT_EQ(backoff.Ended(now), now);
  }
}

// What runs longer is never started later.
TEST(RestartBackoffTest, RunningNeverMakesTheNextWaitLonger) {
  const std::unique_ptr<Entropy> entropy = MakeSeededEntropy(4);
  for (int round = 0; round < 300; ++round) {
    RestartBackoff shorter, longer;
    absl::Time now = absl::UnixEpoch();
    for (int death = 0; death < 20; ++death) {
      shorter.Started(now);
      longer.Started(now - absl::Seconds(entropy->Next() % 20));
      now += absl::Seconds(entropy->Next() % 20);
      EXPECT_LE(longer.Ended(now), shorter.Ended(now));
    }
  }
}

TEST(ChildProcessTest, TellsHowItEnded) {
  for (const auto& [script, how] :
       {std::pair<const char*, const char*>{"exit 3", "exit 3"}, {"kill -9 $$", "signal 9"}}) {
    absl::StatusOr<ChildProcess> child = ChildProcess::Start("shell", {"/bin/sh", "-c", script}, LogPath());
    ASSERT_OK(child);
    siginfo_t info;
    waitid(P_PID, static_cast<id_t>(child->pid()), &info, WEXITED | WNOWAIT);
    std::string ended;
    EXPECT_TRUE(child->Poll(&ended));
    EXPECT_EQ(ended, how);
    EXPECT_FALSE(child->running());
  }
}

TEST(ChildProcessTest, AMissingProgramIsAnErrorOfTheStart) {
  EXPECT_THAT(ChildProcess::Start("none", {"/nowhere/interlace-worker"}, LogPath()),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("/nowhere/interlace-worker")));
}

// The write end of a pipe is held by a process that stands for `serve`, and by its child; no sooner than both are dead
// does the read end see the end.
TEST(ChildProcessTest, DiesWithItsParentEvenBySigkill) {
  int alive[2], started[2];
  ASSERT_EQ(pipe(alive), 0);
  ASSERT_EQ(pipe(started), 0);
  const pid_t serve = fork();
  if (serve == 0) {
    absl::StatusOr<ChildProcess> child = ChildProcess::Start("sleeper", {"/bin/sleep", "600"}, LogPath());
    const pid_t pid = child.ok() ? child->pid() : -1;
    if (write(started[1], &pid, sizeof pid) != sizeof pid) _exit(1);
    pause();
    _exit(0);
  }
  close(alive[1]);
  pid_t child = -1;
  ASSERT_EQ(read(started[0], &child, sizeof child), static_cast<ssize_t>(sizeof child));
  ASSERT_GT(child, 0);
  EXPECT_EQ(kill(child, 0), 0);
  kill(serve, SIGKILL);
  waitpid(serve, nullptr, 0);
  pollfd end{alive[0], POLLIN, 0};
  const bool ended = poll(&end, 1, 20000) == 1;
  EXPECT_TRUE(ended) << "the child outlived its parent";
  if (!ended) kill(child, SIGKILL);
  char byte;
  EXPECT_EQ(read(alive[0], &byte, 1), 0);
  for (int fd : {alive[0], started[0], started[1]}) close(fd);
}

}  // namespace
}  // namespace interlace
