// Any bytes as the messages of the native gRPC door: those that parse become requests, or are refused by name.
#include <google/protobuf/stubs/logging.h>

#include <cstdint>

#include "common/executor.h"
#include "coordinator/front/inference_spec.h"
#include "proto/inference.pb.h"
#include "tests/fuzz/fuzz_intake.h"

namespace {

template <typename Message>
void Try(interlace::FuzzIntake& rig, const uint8_t* data, size_t size) {
  Message message;
  if (!message.ParseFromArray(data, static_cast<int>(size))) return;
  interlace::InlineExecutor executor;
  const auto run = rig.intake->Start(interlace::SpecOf(message), executor, [] {});
  if (run.ok()) {
    for (const auto& stream : run->streams()) {
      while (stream->Take()) {
      }
    }
    return;
  }
  CHECK_MSG(absl::IsInvalidArgument(run.status()) || absl::IsNotFound(run.status()) ||
                absl::IsUnimplemented(run.status()) || absl::IsDeadlineExceeded(run.status()),
            run.status().ToString().c_str());
  CHECK(!run.status().message().empty());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static interlace::FuzzIntake* rig = [] {
    google::protobuf::SetLogHandler(nullptr);
    return new interlace::FuzzIntake;
  }();
  Try<interlace::v1::GenerateRequest>(*rig, data, size);
  Try<interlace::v1::ChatRequest>(*rig, data, size);
  return 0;
}
