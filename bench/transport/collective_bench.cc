// collective_bench: what an exchange of tensor-parallel ranks costs beside the copies that it cannot do without. Two
// processes; each copies a part into shared memory and the other's out of it, once with an exchange between the two
// copies and once without, by turns. collective_bench [ROUNDS]
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "common/clock.h"
#include "common/entropy.h"
#include "transport/shared_collective.h"

namespace interlace {
namespace {

constexpr int64_t kMostBytes = 16 << 20;

[[noreturn]] void Fail(const absl::Status& status) {
  std::fprintf(stderr, "collective_bench: %s\n", status.ToString().c_str());
  std::exit(1);
}

// Each end tells the other its address through a pipe.
std::vector<std::string> SwapAddresses(int rank, const std::string& mine, const int (&to)[2], const int (&from)[2]) {
  if (write(to[1], mine.data(), mine.size()) != static_cast<ssize_t>(mine.size())) std::exit(1);
  char theirs[256];
  const ssize_t got = read(from[0], theirs, sizeof theirs);
  if (got <= 0) std::exit(1);
  std::vector<std::string> addresses{mine, std::string(theirs, static_cast<size_t>(got))};
  if (rank == 1) std::swap(addresses[0], addresses[1]);
  return addresses;
}

double MedianMicroseconds(std::vector<absl::Duration> times) {
  std::sort(times.begin(), times.end());
  return absl::ToDoubleMicroseconds(times[times.size() / 2]);
}

void RunRank(Collective& rank, Clock& clock, int rounds) {
  std::vector<std::byte> in(kMostBytes, std::byte{1}), out(kMostBytes);
  int32_t index = 0;
  const auto exchange = [&](int64_t bytes) {
    absl::StatusOr<Collective::Parts> parts = rank.Exchange({Epoch{1}, PlanId{1}, index++}, bytes, absl::Seconds(30));
    if (!parts.ok()) Fail(parts.status());
    return (*parts)[static_cast<size_t>(1 - rank.rank())];
  };
  if (rank.rank() == 0) std::printf("%10s %14s %14s %9s\n", "bytes", "exchange", "copies alone", "share");
  for (int64_t bytes : {int64_t{0}, int64_t{4} << 10, int64_t{64} << 10, int64_t{256} << 10, int64_t{1} << 20,
                        int64_t{4} << 20, int64_t{16} << 20}) {
    std::vector<absl::Duration> with, without;
    for (int i = 0; i < rounds; ++i) {
      exchange(0);  // both begin together
      absl::Time begin = clock.Now();
      std::memcpy(rank.Part(), in.data(), static_cast<size_t>(bytes));
      const absl::Span<const std::byte> other = exchange(bytes);
      std::memcpy(out.data(), other.data(), static_cast<size_t>(bytes));
      with.push_back(clock.Now() - begin);
      const std::byte* const theirs = other.data();
      exchange(0);
      begin = clock.Now();
      std::memcpy(rank.Part(), in.data(), static_cast<size_t>(bytes));
      std::memcpy(out.data(), theirs, static_cast<size_t>(bytes));
      without.push_back(clock.Now() - begin);
    }
    if (rank.rank() != 0) continue;
    const double a = MedianMicroseconds(with), b = MedianMicroseconds(without);
    std::printf("%10lld %11.1f us %11.1f us %8.0f%%\n", static_cast<long long>(bytes), a, b, 100 * b / a);
  }
}

int Main(int rounds) {
  int to_child[2], to_parent[2];
  if (pipe(to_child) != 0 || pipe(to_parent) != 0) return 1;
  std::fflush(stdout);
  const pid_t child = fork();
  const int me = child == 0 ? 1 : 0;
  RealClock clock;
  const std::unique_ptr<Entropy> entropy = MakeOsEntropy();
  absl::StatusOr<std::unique_ptr<Collective>> rank =
      MakeSharedCollective({.rank = me, .ranks = 2, .max_bytes = kMostBytes}, *entropy, clock);
  if (!rank.ok()) Fail(rank.status());
  const std::vector<std::string> addresses = me == 0 ? SwapAddresses(0, (*rank)->address(), to_child, to_parent)
                                                     : SwapAddresses(1, (*rank)->address(), to_parent, to_child);
  if (absl::Status connected = (*rank)->Connect(addresses, Epoch{1}); !connected.ok()) Fail(connected);
  RunRank(**rank, clock, rounds);
  if (child == 0) return 0;
  int status = 0;
  waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}

}  // namespace
}  // namespace interlace

int main(int argc, char** argv) { return interlace::Main(argc > 1 ? std::max(1, std::atoi(argv[1])) : 200); }
