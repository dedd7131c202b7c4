// Speed of the linear op over the shapes of two small models, beside what the machine can do, in one run.
//
//   bench_linear [--isa avx512,avx2] [--dtype bfloat16,float16,float32] [--tokens 1,16,512] [--shape smol]
//                [--threads 2]
//
// --shape: those whose name contains it, or any shape, as N x K: 4096x2048.
//
// Every figure is the median of its passes. Weights are read from memory: each pass goes through several copies, more
// than the caches hold. "read" is the share of the bandwidth of a plain read of as many bytes, "peak" the share of the
// rate of multiply-adds from registers, both measured between the passes.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "backend/cpu/stream.h"
#include "backend/registry.h"
#include "core/check.h"
#include "ops/machine_limits.h"
#include "ops/options.h"

namespace quire::bench {
namespace {

struct Shape {
  std::string name;
  int64_t n;
  int64_t k;
};

const Shape kShapes[] = {
    {"smol qkv", 960, 576},       {"smol o", 576, 576},          {"smol gate_up", 3072, 576},
    {"smol down", 576, 1536},     {"smol head", 49152, 576},     {"qwen05 qkv", 1152, 896},
    {"qwen05 o", 896, 896},       {"qwen05 gate_up", 9728, 896}, {"qwen05 down", 896, 4864},
    {"qwen05 head", 151936, 896},
};

/// Several times what the caches of the machines we know hold.
constexpr size_t kColdBytes = 256 << 20;
/// Enough where arithmetic limits.
constexpr size_t kColdBytesOfMany = 96 << 20;

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

/// One weight matrix in as many copies as it takes to defeat the caches.
class Case {
 public:
  Case(const Shape& shape, DType dtype, int64_t tokens, Backend& backend, Stream& stream)
      : shape_(shape), tokens_(tokens), stream_(stream), ops_(backend.ops()) {
    const int64_t bytes = shape.n * shape.k * dtype_bytes(dtype);
    const size_t cold_bytes = tokens >= 64 ? kColdBytesOfMany : kColdBytes;
    const int64_t copies = 2 + static_cast<int64_t>(cold_bytes) / bytes;
    std::vector<float> values(static_cast<size_t>(shape.n * shape.k));
    std::minstd_rand random(7);
    for (float& value : values) value = static_cast<float>(random() % 2048) / 1024.0f - 1.0f;
    LinearSource source;
    source.parts = {Tensor(values.data(), DType::kFloat32, {shape.n, shape.k})};
    source.dtype = dtype;
    weights_.push_back(backend.pack_linear(source, stream));
    for (int64_t i = 1; i < copies; ++i) {
      PackedLinear copy{.n = shape.n, .k = shape.k, .dtype = dtype, .data = {}};
      copy.data = backend.allocate(weights_[0].data.bytes(), MemoryKind::kWeights);
      std::memcpy(copy.data.data(), weights_[0].data.data(), copy.data.bytes());
      weights_.push_back(std::move(copy));
    }
    x_.assign(static_cast<size_t>(tokens * shape.k), 0.25f);
    out_.resize(static_cast<size_t>(tokens * shape.n));
  }

  /// Seconds of one op, over one pass through the copies. The first op is not counted: it brings x and out near, as
  /// they are behind another op.
  double pass() {
    LinearArgs args;
    args.x = Tensor(x_.data(), DType::kFloat32, {tokens_, shape_.k});
    args.out = Tensor(out_.data(), DType::kFloat32, {tokens_, shape_.n});
    Clock::time_point start;
    for (size_t i = 0; i < weights_.size(); ++i) {
      args.weight = &weights_[i];
      ops_.linear(args, stream_);
      if (i == 0) start = Clock::now();
    }
    return seconds_since(start) / static_cast<double>(weights_.size() - 1);
  }

  double bytes() const { return static_cast<double>(weights_[0].data.bytes()); }
  double flops() const { return 2.0 * static_cast<double>(tokens_ * shape_.n * shape_.k); }

 private:
  Shape shape_;
  int64_t tokens_;
  Stream& stream_;
  const Ops& ops_;
  std::vector<PackedLinear> weights_;
  std::vector<float> x_;
  std::vector<float> out_;
};

void run_case(const Shape& shape, const std::string& dtype, int64_t tokens, cpu::Isa isa, Backend& backend) {
  constexpr int kPasses = 9;
  const std::unique_ptr<Stream> stream = backend.create_stream();
  ThreadPool& pool = cpu::as_cpu(*stream).pool();
  Case linear(shape, *dtype_from_name(dtype), tokens, backend, *stream);
  static const Buffer cold = [&backend] {
    Buffer buffer = backend.allocate(kColdBytes, MemoryKind::kWeights);
    std::memset(buffer.data(), 0, buffer.bytes());
    return buffer;
  }();
  linear.pass();
  std::vector<double> times;
  std::vector<double> reads;
  std::vector<double> peaks;
  for (int i = 0; i < kPasses; ++i) {
    times.push_back(linear.pass());
    reads.push_back(read_bandwidth(cold.data(), cold.bytes(), isa, pool));
    if (i % 4 == 0) peaks.push_back(peak_flops(isa, pool));
  }
  const double time = median(times);
  std::printf("%-8s %-9s %-15s T=%-4ld %9.1f us  %6.1f GB/s %4.0f%% read  %7.1f GFLOP/s %4.0f%% peak\n",
              std::string(cpu::isa_name(isa)).c_str(), dtype.c_str(), shape.name.c_str(), static_cast<long>(tokens),
              time * 1e6, linear.bytes() / time * 1e-9, 100 * linear.bytes() / time / median(reads),
              linear.flops() / time * 1e-9, 100 * linear.flops() / time / median(peaks));
  std::fflush(stdout);
}

std::vector<Shape> chosen_shapes(const std::string& wanted) {
  std::vector<Shape> chosen;
  for (const Shape& shape : kShapes) {
    if (shape.name.find(wanted) != std::string::npos) chosen.push_back(shape);
  }
  if (const size_t times = wanted.find('x'); chosen.empty() && times != std::string::npos) {
    chosen.push_back({wanted, std::stoll(wanted), std::stoll(wanted.substr(times + 1))});
  }
  return chosen;
}

void run(const Options& options) {
  for (const std::string& name : options.isas) {
    const std::unique_ptr<Backend> backend = create_backend("cpu:" + name, {.num_threads = options.threads});
    const cpu::Isa isa = name == "avx512" ? cpu::Isa::kAvx512 : name == "avx2" ? cpu::Isa::kAvx2 : cpu::Isa::kPortable;
    ThreadPool pool(options.threads);
    std::printf("%s, %d threads, multiply-adds %.0f GFLOP/s\n", backend->name().c_str(), backend->num_threads(),
                peak_flops(isa, pool) * 1e-9);
    for (const std::string& dtype : options.dtypes) {
      for (const Shape& shape : chosen_shapes(options.shape)) {
        for (const std::string& tokens : options.tokens) run_case(shape, dtype, std::stoll(tokens), isa, *backend);
      }
    }
  }
}

}  // namespace
}  // namespace quire::bench

int main(int argc, char** argv) {
  try {
    quire::bench::run(quire::bench::parse_options(argc, argv,
                                                  {.isas = {"avx512", "avx2"},
                                                   .dtypes = {"bfloat16", "float16", "float32"},
                                                   .tokens = {"1", "2", "4", "8", "16", "64", "512"}}));
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  return 0;
}
