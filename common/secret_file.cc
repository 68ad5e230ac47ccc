#include "common/secret_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace interlace {
namespace {

class OpenFile {
 public:
  OpenFile(const std::string& path, int flags, mode_t mode = 0) : fd_(open(path.c_str(), flags | O_CLOEXEC, mode)) {}
  ~OpenFile() {
    if (fd_ >= 0) close(fd_);
  }
  OpenFile(const OpenFile&) = delete;
  int get() const { return fd_; }

 private:
  const int fd_;
};

// What is opened is what is looked at: another file may take the name in between.
absl::Status CheckFile(int fd, absl::string_view name, size_t most) {
  struct stat about {};
  if (fstat(fd, &about) != 0) return absl::FailedPreconditionError(absl::StrCat(name, ": ", std::strerror(errno)));
  if (!S_ISREG(about.st_mode)) return absl::FailedPreconditionError(absl::StrCat(name, " is not a file"));
  if ((about.st_mode & (S_IRWXO | S_IWGRP)) != 0) {
    return absl::FailedPreconditionError(
        absl::StrFormat("%s holds a secret, and its mode %03o lets others read or change it; chmod 600 it", name,
                        about.st_mode & 0777));
  }
  if (about.st_size > static_cast<off_t>(most)) {
    return absl::FailedPreconditionError(absl::StrCat(name, " is larger than ", most, " bytes"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::string> ReadSecretFile(absl::string_view setting, const std::string& path, size_t most) {
  const std::string name = absl::StrCat(setting, "=", path);
  const OpenFile file(path, O_RDONLY | O_NONBLOCK);  // a pipe would otherwise be waited for
  if (file.get() < 0 && errno == ENOENT) return absl::NotFoundError(absl::StrCat(name, ": there is no such file"));
  if (file.get() < 0) {
    return absl::FailedPreconditionError(absl::StrCat(name, " cannot be read: ", std::strerror(errno)));
  }
  if (absl::Status status = CheckFile(file.get(), name, most); !status.ok()) return status;
  std::string text(most + 1, '\0');
  size_t have = 0;
  while (have < text.size()) {
    const ssize_t got = read(file.get(), text.data() + have, text.size() - have);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return absl::FailedPreconditionError(absl::StrCat(name, " cannot be read: ", std::strerror(errno)));
    if (got == 0) break;
    have += static_cast<size_t>(got);
  }
  if (have > most) return absl::FailedPreconditionError(absl::StrCat(name, " is larger than ", most, " bytes"));
  text.resize(have);
  return text;
}

absl::Status WriteSecretFile(const std::string& path, absl::string_view text) {
  const auto failed = [&path] {
    return absl::PermissionDeniedError(absl::StrCat(path, " cannot be written: ", std::strerror(errno)));
  };
  if (unlink(path.c_str()) != 0 && errno != ENOENT) return failed();
  const OpenFile file(path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, S_IRUSR | S_IWUSR);
  if (file.get() < 0) return failed();
  for (size_t at = 0; at < text.size();) {
    const ssize_t wrote = write(file.get(), text.data() + at, text.size() - at);
    if (wrote < 0 && errno == EINTR) continue;
    if (wrote < 0) return failed();
    at += static_cast<size_t>(wrote);
  }
  return absl::OkStatus();
}

}  // namespace interlace
