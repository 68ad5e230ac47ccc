#include "cli/machine_probe.h"

#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/thread.h"
#include "transport/tcp_socket.h"

namespace interlace {
namespace {

constexpr size_t kCopyBytes = size_t{256} << 20;  // from, and as many to, of all threads together
constexpr int kCopyRounds = 4;                    // behind one that touches the pages; the best counts
constexpr size_t kPiece = size_t{1} << 20;        // of a file, one call
constexpr size_t kFilePieces = 256;
constexpr absl::Duration kMostOfDisk = absl::Seconds(1);  // each way

// Memory that O_DIRECT takes.
std::unique_ptr<std::byte, decltype(&std::free)> AlignedPiece() {
  void* memory = std::aligned_alloc(4096, kPiece);
  if (memory != nullptr) memset(memory, 0x5a, kPiece);
  return {static_cast<std::byte*>(memory), &std::free};
}

std::string FolderThatIs(const std::string& wanted) {
  std::error_code error;
  std::filesystem::path folder = std::filesystem::absolute(wanted.empty() ? "." : wanted, error);
  while (!std::filesystem::is_directory(folder, error) && folder.has_relative_path()) folder = folder.parent_path();
  return folder.string();
}

// A file without a name. Not every file system has O_TMPFILE, or O_DIRECT.
FileDescriptor NamelessFile(const std::string& folder, bool direct, std::string* error) {
  const int flags = O_RDWR | O_CLOEXEC | (direct ? O_DIRECT : 0);
  FileDescriptor file(open(folder.c_str(), flags | O_TMPFILE, 0600));
  if (file.open()) return file;
  std::string path = absl::StrCat(folder, "/interlace-doctor-XXXXXX");
  file = FileDescriptor(mkostemp(path.data(), flags & ~O_RDWR));
  if (file.open()) unlink(path.c_str());
  if (!file.open()) *error = strerror(errno);
  return file;
}

// Bytes a second of `move(offset)`, which moves a piece and says whether it could, until the pieces are over or a
// second is. `pieces`: how many were moved.
template <typename Move>
double RateOf(Clock& clock, size_t most, size_t* pieces, Move move) {
  const absl::Time begin = clock.Now();
  *pieces = 0;
  while (*pieces < most && clock.Now() - begin < kMostOfDisk && move(static_cast<off_t>(*pieces * kPiece))) ++*pieces;
  return static_cast<double>(*pieces * kPiece) / std::max(1e-9, absl::ToDoubleSeconds(clock.Now() - begin));
}

}  // namespace

double MeasureMemoryCopy(int threads, Clock& clock) {
  const size_t each = kCopyBytes / static_cast<size_t>(std::max(1, threads));
  std::vector<std::unique_ptr<char[]>> from(threads), to(threads);
  for (int t = 0; t < threads; ++t) {
    from[t] = std::make_unique<char[]>(each);  // zeroed, and so touched
    to[t] = std::make_unique<char[]>(each);
  }
  double best = 0;
  for (int round = 0; round <= kCopyRounds; ++round) {
    const absl::Time begin = clock.Now();
    {
      std::vector<Thread> copies;
      for (int t = 0; t < threads; ++t) {
        copies.emplace_back("copy", [&, t] { memcpy(to[t].get(), from[t].get(), each); });
      }
      for (Thread& copy : copies) copy.Join();
    }
    const double seconds = absl::ToDoubleSeconds(clock.Now() - begin);
    if (round > 0) best = std::max(best, static_cast<double>(each) * threads / std::max(1e-9, seconds));
  }
  return best;
}

DiskFacts MeasureDisk(const std::string& folder, Clock& clock) {
  DiskFacts facts;
  facts.folder = FolderThatIs(folder);
  std::error_code error;
  const std::filesystem::space_info space = std::filesystem::space(facts.folder, error);
  if (!error) facts.free = static_cast<int64_t>(space.available);
  std::string why;
  facts.direct = true;
  FileDescriptor file = NamelessFile(facts.folder, /*direct=*/true, &why);
  if (!file.open()) {
    facts.direct = false;
    file = NamelessFile(facts.folder, /*direct=*/false, &why);
  }
  if (!file.open()) {
    facts.usable = absl::PermissionDeniedError(absl::StrCat(facts.folder, " cannot be written: ", why));
    return facts;
  }
  const auto piece = AlignedPiece();
  const size_t room = static_cast<size_t>(facts.free / 2) / kPiece;  // nobody else is to run out of it
  size_t written = 0, read = 0;
  facts.write = RateOf(clock, std::min(kFilePieces, room), &written, [&](off_t at) {
    return pwrite(file.get(), piece.get(), kPiece, at) == static_cast<ssize_t>(kPiece) && fdatasync(file.get()) == 0;
  });
  if (written == 0) {
    facts.usable =
        absl::ResourceExhaustedError(absl::StrCat(facts.folder, " takes no file of a MiB: ", strerror(errno)));
    return facts;
  }
  if (!facts.direct) posix_fadvise(file.get(), 0, 0, POSIX_FADV_DONTNEED);
  facts.read = RateOf(clock, written, &read, [&](off_t at) {
    return pread(file.get(), piece.get(), kPiece, at) == static_cast<ssize_t>(kPiece);
  });
  return facts;
}

}  // namespace interlace
