#include <algorithm>
#include <cmath>
#include <limits>

#include "backend/cpu/kernels.h"
#include "backend/cpu/sample_passes.h"

namespace quire::cpu::portable {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

ChunkSum sum_chunk(const float* x, int64_t size, float scale, float* group_best) {
  ChunkSum chunk{.best = -kInfinity, .sum = 0.0f, .finite = true};
  for (int64_t begin = 0; begin < size; begin += kSampleGroup) {
    const int64_t end = std::min(size, begin + kSampleGroup);
    float best = -kInfinity;
    for (int64_t i = begin; i < end; ++i) {
      best = std::max(best, x[i]);
      if (!(x[i] < kInfinity)) chunk.finite = false;
    }
    group_best[begin / kSampleGroup] = best;
    chunk.best = std::max(chunk.best, best);
  }
  if (chunk.best == -kInfinity) return chunk;
  double sum = 0.0;
  for (int64_t i = 0; i < size; ++i) sum += std::exp((x[i] - chunk.best) * scale);
  chunk.sum = static_cast<float>(sum);
  return chunk;
}

void weigh(const float* x, int64_t size, float scale, float best, float* out) {
  for (int64_t i = 0; i < size; ++i) out[i] = std::exp((x[i] - best) * scale);
}

int64_t collect(const float* x, int64_t size, float least, int32_t* ids) {
  int64_t count = 0;
  for (int64_t i = 0; i < size; ++i) {
    if (x[i] >= least) ids[count++] = static_cast<int32_t>(i);
  }
  return count;
}

int64_t count_larger(const float* x, int64_t size, float value) {
  return std::count_if(x, x + size, [value](float other) { return other > value; });
}

}  // namespace

void sample(const SampleArgs& args, Stream& stream) {
  run_sample(args, stream, {.sum = sum_chunk, .weigh = weigh, .collect = collect, .count_larger = count_larger});
}

}  // namespace quire::cpu::portable
