// A file system for RocksDB whose writes fail when a test says so.
#pragma once

#include <rocksdb/env.h>
#include <rocksdb/file_system.h>

#include <atomic>
#include <memory>
#include <string>
#include <utility>

namespace interlace {

// kFull: as a disk without a free byte, on which files can still be made. kNoSpace, kIo: nothing works.
enum class WriteFault { kNone, kNoSpace, kIo, kFull };

class FaultyFiles final : public rocksdb::FileSystemWrapper {
 public:
  FaultyFiles() : FileSystemWrapper(rocksdb::FileSystem::Default()) {}
  static const char* kClassName() { return "FaultyFiles"; }
  const char* Name() const override { return kClassName(); }

  void Fail(WriteFault fault) { fault_ = fault; }
  int64_t failed() const { return failed_; }

  rocksdb::IOStatus NewWritableFile(const std::string& name, const rocksdb::FileOptions& options,
                                    std::unique_ptr<rocksdb::FSWritableFile>* file,
                                    rocksdb::IODebugContext* debug) override {
    if (fault_.load() != WriteFault::kFull) {
      if (rocksdb::IOStatus status = Now(); !status.ok()) return status;
    }
    std::unique_ptr<rocksdb::FSWritableFile> made;
    rocksdb::IOStatus status = FileSystemWrapper::NewWritableFile(name, options, &made, debug);
    if (status.ok()) *file = std::make_unique<File>(std::move(made), *this);
    return status;
  }

  // RocksDB's own log file lies on the same disk.
  rocksdb::IOStatus NewLogger(const std::string& name, const rocksdb::IOOptions& options,
                              std::shared_ptr<rocksdb::Logger>* logger, rocksdb::IODebugContext* debug) override {
    return rocksdb::FileSystem::NewLogger(name, options, logger, debug);
  }

 private:
  class File final : public rocksdb::FSWritableFileOwnerWrapper {
   public:
    File(std::unique_ptr<rocksdb::FSWritableFile> file, FaultyFiles& files)
        : FSWritableFileOwnerWrapper(std::move(file)), files_(files) {}
    rocksdb::IOStatus Append(const rocksdb::Slice& data, const rocksdb::IOOptions& options,
                             rocksdb::IODebugContext* debug) override {
      if (rocksdb::IOStatus status = files_.Now(); !status.ok()) return status;
      return FSWritableFileOwnerWrapper::Append(data, options, debug);
    }
    rocksdb::IOStatus Append(const rocksdb::Slice& data, const rocksdb::IOOptions& options,
                             const rocksdb::DataVerificationInfo& info, rocksdb::IODebugContext* debug) override {
      if (rocksdb::IOStatus status = files_.Now(); !status.ok()) return status;
      return FSWritableFileOwnerWrapper::Append(data, options, info, debug);
    }
    rocksdb::IOStatus Sync(const rocksdb::IOOptions& options, rocksdb::IODebugContext* debug) override {
      if (rocksdb::IOStatus status = files_.Now(); !status.ok()) return status;
      return FSWritableFileOwnerWrapper::Sync(options, debug);
    }

   private:
    FaultyFiles& files_;
  };

  rocksdb::IOStatus Now() {
    switch (fault_.load()) {
      case WriteFault::kNone:
        return rocksdb::IOStatus::OK();
      case WriteFault::kNoSpace:
      case WriteFault::kFull:
        ++failed_;
        return rocksdb::IOStatus::NoSpace("injected");
      case WriteFault::kIo:
        ++failed_;
        return rocksdb::IOStatus::IOError("injected");
    }
    return rocksdb::IOStatus::OK();
  }

  std::atomic<WriteFault> fault_{WriteFault::kNone};
  std::atomic<int64_t> failed_{0};
};

}  // namespace interlace
