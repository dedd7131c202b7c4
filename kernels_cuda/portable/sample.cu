// Logits to tokens, all on the device: two kernels with the same launches whatever the rows ask for, so that a recorded
// graph serves any mix. measure_rows reads all logits once, over the whole device; choose_tokens finishes a row per
// block.
#include <cstddef>

#include "kernels_cuda/layouts.h"
#include "kernels_cuda/ops.h"
#include "kernels_cuda/portable/sample_choose.cuh"
#include "kernels_cuda/portable/sample_measure.cuh"

namespace quire::gpu {
namespace {

/// Hands out pieces of the scratch memory, each 256-byte aligned. Without memory it only counts.
class Carver {
 public:
  explicit Carver(void* memory) : memory_(static_cast<std::byte*>(memory)) {}

  template <typename T>
  void take(T*& pointer, int64_t count) {
    pointer = memory_ == nullptr ? nullptr : reinterpret_cast<T*>(memory_ + used_);
    used_ += (static_cast<size_t>(count) * sizeof(T) + 255) / 256 * 256;
  }

  size_t used() const { return used_; }

 private:
  std::byte* memory_;
  size_t used_ = 0;
};

size_t carve(SampleParams& params, void* memory) {
  Carver carver(memory);
  const int64_t rows = params.num_rows;
  carver.take(params.sums, 2 * rows * span_count(params.vocabulary));
  carver.take(params.group_best, 2 * rows * group_count(params.vocabulary));
  carver.take(params.raw_logits, rows * params.vocabulary);
  return carver.used();
}

}  // namespace

size_t sample_scratch_bytes(int64_t num_rows, int64_t vocabulary) {
  SampleParams params{};
  params.num_rows = static_cast<int32_t>(num_rows);
  params.vocabulary = static_cast<int32_t>(vocabulary);
  return carve(params, nullptr);
}

void sample(const SampleArgs& args, Stream& stream) {
  const int64_t num_rows = args.logits.shape[0];
  const int64_t vocabulary = args.logits.shape[1];
  if (num_rows == 0) return;
  QUIRE_CHECK(args.logits.dtype == DType::kFloat32, "dtype=", dtype_name(args.logits.dtype));
  QUIRE_REQUIRE(vocabulary <= int64_t{kMaxSpans} * kSampleSpan, ErrorKind::kUnsupported,
                "[sample] vocabulary too large for this device: got=", vocabulary);
  SampleParams params{};
  params.logits = args.logits.as<float>();
  params.stride = args.logits.strides[0];
  params.num_rows = static_cast<int32_t>(num_rows);
  params.vocabulary = static_cast<int32_t>(vocabulary);
  params.vectors =
      reinterpret_cast<uintptr_t>(params.logits) % 16 == 0 && params.stride % 4 == 0 && vocabulary % 4 == 0;
  params.rows = args.rows;
  params.ids = args.ids;
  params.biases = args.biases;
  params.tokens = args.tokens;
  params.candidates = args.candidates;
  params.max_candidates = args.max_candidates;
  carve(params, args.scratch);

  GpuStream& gpu = as_gpu(stream);
  const auto chunks = static_cast<unsigned>((vocabulary + kMeasureChunk - 1) / kMeasureChunk);
  launch("measuring logits", measure_rows, dim3(chunks, static_cast<unsigned>(num_rows)), dim3(kMeasureThreads), 0, gpu,
         params);
  launch("choosing tokens", choose_tokens, dim3(static_cast<unsigned>(num_rows)), dim3(kChooseThreads), 0, gpu, params);
}

}  // namespace quire::gpu
