#include "tests/gpu/op_timing.h"

#include <algorithm>
#include <functional>
#include <tuple>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/clock.h"
#include "common/status_macros.h"
#include "kernels/cuda/cuda_stream.h"
#include "tests/kernels/random_tensor.h"

namespace interlace {
namespace {

constexpr int kRepeats = 5;

// Median microseconds of one call of `op` among `calls` that are queued together.
absl::StatusOr<double> Time(Backend& device, int calls, const std::function<void()>& op) {
  RealClock clock;
  std::vector<double> times;
  op();  // allocates scratch, chooses algorithms
  RETURN_IF_ERROR(device.Synchronize());
  for (int repeat = 0; repeat < kRepeats; ++repeat) {
    const absl::Time start = clock.Now();
    for (int i = 0; i < calls; ++i) op();
    RETURN_IF_ERROR(device.Synchronize());
    times.push_back(absl::ToDoubleMicroseconds(clock.Now() - start) / calls);
  }
  std::sort(times.begin(), times.end());
  return times[kRepeats / 2];
}

// Memory of the device by rows, all of one value.
class Rows {
 public:
  static absl::StatusOr<Rows> Make(Backend& device, int64_t rows, int64_t cols, float value) {
    Rows made;
    ASSIGN_OR_RETURN(made.memory_, device.Allocate(rows * cols * int64_t{sizeof(float)}));
    made.tensor_ = {made.memory_->data(), DType::kF32, rows, cols};
    std::fill_n(made.tensor_.f32(), rows * cols, value);
    return made;
  }
  const Tensor& tensor() const { return tensor_; }

 private:
  std::unique_ptr<DeviceBuffer> memory_;
  Tensor tensor_;
};

absl::Status TimeNorm(Backend& device, int calls, int64_t tokens, int64_t width, std::vector<OpTiming>* out) {
  ASSIGN_OR_RETURN(const Rows x, Rows::Make(device, tokens, width, 1));
  ASSIGN_OR_RETURN(const Rows w, Rows::Make(device, 1, width, 1));
  ASSIGN_OR_RETURN(const double us, Time(device, calls, [&] {
                     device.ops().rms_norm({x.tensor(), x.tensor(), w.tensor()}, device.context());
                   }));
  out->push_back({"rms_norm", absl::StrCat(tokens, " x ", width), us, 8.0 * tokens * width + 4.0 * width, 0});
  return absl::OkStatus();
}

absl::Status TimeRope(Backend& device, int calls, int64_t tokens, int32_t heads, int32_t head_dim,
                      std::vector<OpTiming>* out) {
  ASSIGN_OR_RETURN(const Rows x, Rows::Make(device, tokens, int64_t{heads} * head_dim, 0.5f));
  const std::vector<int32_t> positions(tokens, 1000);
  const std::vector<float> frequencies(head_dim / 2, 0.1f);
  ASSIGN_OR_RETURN(const double us, Time(device, calls, [&] {
                     device.ops().rope({x.tensor(), positions, frequencies, head_dim}, device.context());
                   }));
  out->push_back({"rope", absl::StrCat(tokens, " x ", heads, " x ", head_dim), us, 8.0 * tokens * heads * head_dim, 0});
  return absl::OkStatus();
}

absl::Status TimeLinear(Backend& device, int calls, int64_t tokens, int64_t rows, int64_t k,
                        std::vector<OpTiming>* out) {
  ASSIGN_OR_RETURN(const Rows x, Rows::Make(device, tokens, k, 0.01f));
  ASSIGN_OR_RETURN(const Rows y, Rows::Make(device, tokens, rows, 0));
  ASSIGN_OR_RETURN(const auto memory, device.Allocate(device.ops().weight_bytes(DType::kQ8_0, rows, k)));
  Random random(1);
  std::vector<uint8_t> file = RandomWeights(DType::kQ8_0, rows, k, random);
  device.ops().pack_weight({file.data(), DType::kQ8_0, rows, k}, memory->data(), device.context());
  const LinearWeight w{DType::kQ8_0, rows, k, memory->data()};
  ASSIGN_OR_RETURN(const double us, Time(device, calls, [&] {
                     device.ops().linear({x.tensor(), {{y.tensor(), w}}}, device.context());
                   }));
  out->push_back({"linear", absl::StrCat(tokens, " x ", k, " -> ", rows), us,
                  2.0 * rows * k + 4.0 * tokens * (k + rows), 2.0 * tokens * rows * k});
  return absl::OkStatus();
}

absl::Status TimeAttention(Backend& device, int calls, int64_t sequences, int64_t rows, int32_t start,
                           const KvBlockShape& shape, int32_t heads, std::vector<OpTiming>* out) {
  const int64_t width = int64_t{heads} * shape.head_dim, kv_width = int64_t{shape.kv_heads} * shape.head_dim;
  const int64_t blocks_each = (start + rows + shape.block_tokens - 1) / shape.block_tokens;
  ASSIGN_OR_RETURN(const auto memory, device.Allocate(sequences * blocks_each * shape.bytes()));
  std::vector<std::byte*> blocks(sequences * blocks_each);
  for (size_t i = 0; i < blocks.size(); ++i) blocks[i] = memory->data() + static_cast<int64_t>(i) * shape.bytes();
  Random random(2);
  random.Shuffle(blocks);
  std::vector<SequenceRows> call;
  for (int64_t s = 0; s < sequences; ++s) {
    call.push_back({s * rows, rows, start, absl::MakeSpan(blocks).subspan(s * blocks_each, blocks_each)});
  }
  ASSIGN_OR_RETURN(const Rows q, Rows::Make(device, sequences * rows, width, 0.1f));
  ASSIGN_OR_RETURN(const Rows kv, Rows::Make(device, sequences * rows, kv_width, 0.1f));
  ASSIGN_OR_RETURN(const Rows y, Rows::Make(device, sequences * rows, width, 0));
  const std::string name = absl::StrCat(sequences, " x ", rows, " at ", start, ", ", heads, "/", shape.kv_heads, " x ",
                                        shape.head_dim, " ", TraitsOf(shape.dtype).name);
  ASSIGN_OR_RETURN(const double append_us, Time(device, calls, [&] {
                     device.ops().kv_append({shape, kv.tensor(), kv.tensor(), call}, device.context());
                   }));
  const double tokens = static_cast<double>(sequences * rows);
  const double element = TraitsOf(shape.dtype).block_bytes;
  out->push_back({"kv_append", name, append_us, 2 * tokens * static_cast<double>(kv_width) * (4 + element), 0});
  ASSIGN_OR_RETURN(
      const double us, Time(device, calls, [&] {
        device.ops().paged_attention(
            {.out = y.tensor(), .q = q.tensor(), .shape = shape, .sequences = call, .heads = heads, .scale = 0.1f},
            device.context());
      }));
  const double seen = static_cast<double>(sequences) * static_cast<double>(rows) * (start + (rows + 1) / 2.0);
  out->push_back({"paged_attention", name, us,
                  static_cast<double>(sequences * (start + rows) * kv_width) * 2 * element + 8 * tokens * width,
                  4 * seen * static_cast<double>(width)});
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<double> MeasureBandwidth(CudaDriver& driver, int64_t bytes) {
  constexpr int kCopies = 20;
  void *from = nullptr, *to = nullptr;
  CudaDriver::Stream stream = nullptr;
  absl::Status status = ToStatus(driver.CreateStream(&stream), "stream", 0);
  if (status.ok()) status = ToStatus(driver.Allocate(CudaMemory::kDevice, bytes, &from), "bandwidth", bytes);
  if (status.ok()) status = ToStatus(driver.Allocate(CudaMemory::kDevice, bytes, &to), "bandwidth", bytes);
  RealClock clock;
  double seconds = 0;
  for (int round = 0; round < 2 && status.ok(); ++round) {  // the first warms up
    const absl::Time start = clock.Now();
    for (int i = 0; i < kCopies && status.ok(); ++i) {
      status = ToStatus(driver.Copy(to, from, bytes, stream), "copy", bytes);
    }
    if (status.ok()) status = ToStatus(driver.Synchronize(stream), "copies", bytes);
    seconds = absl::ToDoubleSeconds(clock.Now() - start);
  }
  if (from != nullptr) (void)driver.Free(CudaMemory::kDevice, from);
  if (to != nullptr) (void)driver.Free(CudaMemory::kDevice, to);
  if (stream != nullptr) (void)driver.DestroyStream(stream);
  if (!status.ok()) return status;
  return 2.0 * static_cast<double>(bytes) * kCopies / seconds;
}

absl::StatusOr<std::vector<OpTiming>> TimeOps(Backend& device, int64_t divisor) {
  std::vector<OpTiming> timings;
  const int calls = static_cast<int>(std::max<int64_t>(1, 100 / divisor));
  const auto cut = [divisor](int64_t n) { return n == 1 ? 1 : std::max<int64_t>(8, n / divisor / 8 * 8); };
  for (const auto& [tokens, width] : {std::pair{1, 576}, {4096, 4096}}) {
    RETURN_IF_ERROR(TimeNorm(device, calls, cut(tokens), cut(width), &timings));
  }
  RETURN_IF_ERROR(TimeRope(device, calls, 1, 9, 64, &timings));
  RETURN_IF_ERROR(TimeRope(device, calls, cut(4096), 32, 128, &timings));
  for (const auto& [tokens, rows, k] :
       {std::tuple{1, 576, 576}, {1, 49152, 576}, {1, 14336, 4096}, {32, 14336, 4096}, {2048, 14336, 4096}}) {
    RETURN_IF_ERROR(TimeLinear(device, calls, cut(tokens), cut(rows), cut(k), &timings));
  }
  const KvBlockShape small{16, 3, 64}, large{16, 8, 128, DType::kBF16};
  RETURN_IF_ERROR(TimeAttention(device, calls, 1, 1, static_cast<int32_t>(cut(2000)), small, 9, &timings));
  RETURN_IF_ERROR(TimeAttention(device, calls, cut(32), 1, static_cast<int32_t>(cut(4000)), large, 32, &timings));
  RETURN_IF_ERROR(TimeAttention(device, calls, 1, cut(512), 0, large, 32, &timings));
  return timings;
}

}  // namespace interlace
