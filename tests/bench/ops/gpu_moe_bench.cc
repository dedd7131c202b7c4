// Speed of the moe op of a GPU over the experts of known models (--shape: those whose name contains it), weights from
// memory, every token to experts drawn at random.
//
//   bench_gpu_moe [--device cuda] [--peak 4.39] [--dtype bfloat16] [--tokens 1,2,4,8,16,64] [--shape qwen]
//                 [--deterministic 0]
//
// Every case is a recorded graph of calls over several copies of the experts and several draws, launched several times;
// the median counts. TB/s: of the weights of the experts in use, each read once. --peak: TB/s that a plain read
// reaches, for the share.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <map>
#include <memory>
#include <numeric>
#include <random>
#include <sstream>
#include <string>
#include <vector>

#include "backend/registry.h"
#include "core/check.h"

namespace quire::bench {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kRounds = 9;
constexpr int kDraws = 8;
constexpr int64_t kColdBytes = int64_t{400} << 20;

struct Shape {
  std::string name;
  int64_t experts;
  int32_t top_k;
  int64_t width, ffn;
};

const Shape kShapes[] = {{"qwen3-30b", 128, 8, 2048, 768},
                         {"mixtral-8x7b", 8, 2, 4096, 14336},
                         {"deepseek-v2-lite", 64, 6, 2048, 1408},
                         {"gpt-oss-20b", 32, 4, 2880, 2880}};

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

/// Experts and weights of one draw after the other: [kDraws, tokens, top_k].
struct Draws {
  std::vector<int32_t> experts;
  std::vector<float> weights;
  double used = 0.0;  ///< experts in use, in the mean

  Draws(const Shape& shape, int64_t tokens) {
    std::mt19937 random(5);
    std::vector<int32_t> all(static_cast<size_t>(shape.experts));
    std::iota(all.begin(), all.end(), 0);
    for (int draw = 0; draw < kDraws; ++draw) {
      std::vector<bool> seen(all.size());
      for (int64_t token = 0; token < tokens; ++token) {
        for (int32_t j = 0; j < shape.top_k; ++j) {
          const auto at = static_cast<size_t>(j);
          std::swap(all[at], all[at + random() % (all.size() - at)]);
          experts.push_back(all[at]);
          weights.push_back(1.0f / static_cast<float>(shape.top_k));
          seen[static_cast<size_t>(all[at])] = true;
        }
      }
      used += static_cast<double>(std::count(seen.begin(), seen.end(), true)) / kDraws;
    }
  }
};

class Bench {
 public:
  Bench(const std::string& device, DType dtype, bool deterministic, double peak)
      : backend_(create_backend(device, {.num_threads = 0, .deterministic = deterministic})),
        stream_(backend_->create_stream()),
        dtype_(dtype),
        peak_(peak),
        values_(1 << 20) {
    std::printf("%s%s; peak %.2f TB/s\n", backend_->name().c_str(), deterministic ? ", deterministic" : "", peak);
    std::minstd_rand random(7);
    for (float& value : values_) value = (static_cast<float>(random() % 2048) / 1024.0f - 1.0f) * 0.05f;
  }

  void time_shape(const Shape& shape, const std::vector<int64_t>& tokens) {
    const int64_t bytes = 3 * shape.ffn * shape.width * dtype_bytes(dtype_);  // of one expert
    const int64_t copies = 1 + kColdBytes / (shape.experts * bytes);
    std::vector<PackedLinear> ups, downs;
    for (int64_t i = 0; i < copies; ++i) {
      ups.push_back(pack(shape.experts, 2 * shape.ffn, shape.width));
      downs.push_back(pack(shape.experts, shape.width, shape.ffn));
    }
    for (const int64_t count : tokens) {
      const Draws draws(shape, count);
      const auto pairs = static_cast<size_t>(count * shape.top_k);
      const Buffer experts = upload(draws.experts);
      const Buffer weights = upload(draws.weights);
      const Buffer x =
          backend_->allocate(static_cast<size_t>(count * shape.width * dtype_bytes(dtype_)), MemoryKind::kWorkspace);
      fill(Tensor(x.data(), dtype_, {count, shape.width}));
      const Buffer out =
          backend_->allocate(static_cast<size_t>(count * shape.width) * sizeof(float), MemoryKind::kWorkspace);
      fill(Tensor(out.data(), DType::kFloat32, {count, shape.width}));
      const Buffer scratch =
          backend_->allocate(backend_->moe_scratch_bytes({.num_tokens = count,
                                                          .num_experts = static_cast<int32_t>(shape.experts),
                                                          .top_k = shape.top_k,
                                                          .width = shape.width,
                                                          .up_columns = 2 * shape.ffn,
                                                          .ffn_width = shape.ffn}),
                             MemoryKind::kWorkspace);
      MoeArgs args;
      args.x = Tensor(x.data(), dtype_, {count, shape.width});
      args.top_k = shape.top_k;
      args.activation = {.kind = Activation::kSilu, .gated = true};
      args.out = Tensor(out.data(), DType::kFloat32, {count, shape.width});
      args.residual = args.out;
      args.scratch = scratch.data();
      const int calls = count > 512 ? kDraws : 3 * kDraws;
      const double us = time(
          [&](int call) {
            args.experts = static_cast<const int32_t*>(experts.data()) + static_cast<size_t>(call % kDraws) * pairs;
            args.weights = static_cast<const float*>(weights.data()) + static_cast<size_t>(call % kDraws) * pairs;
            args.up = &ups[static_cast<size_t>(call % copies)];
            args.down = &downs[static_cast<size_t>(call % copies)];
            backend_->ops().moe(args, *stream_);
          },
          calls);
      const double rate = draws.used * static_cast<double>(bytes) / us * 1e-6;
      const double flops = 6.0 * static_cast<double>(pairs) * static_cast<double>(shape.ffn * shape.width) / us * 1e-6;
      std::printf("%-16s T %5ld, %5.1f experts: %9.2f us  %5.2f TB/s %3.0f%%  %6.1f TFLOP/s\n", shape.name.c_str(),
                  static_cast<long>(count), draws.used, us, rate, 100.0 * rate / peak_, flops);
      std::fflush(stdout);
    }
  }

 private:
  /// Rows that overlap in a small piece of memory: made at once, and random enough.
  PackedLinear pack(int64_t groups, int64_t n, int64_t k) {
    LinearSource source;
    Tensor part(values_.data(), DType::kFloat32, {n, k});
    part.strides[0] = (static_cast<int64_t>(values_.size()) - k) / n;
    source.parts.assign(static_cast<size_t>(groups), part);
    source.groups = groups;
    source.dtype = dtype_;
    return backend_->pack_linear(source, *stream_);
  }

  template <typename T>
  Buffer upload(const std::vector<T>& values) {
    Buffer buffer = backend_->allocate(values.size() * sizeof(T), MemoryKind::kWorkspace);
    backend_->copy_to_device(buffer.data(), values.data(), values.size() * sizeof(T), *stream_);
    return buffer;
  }

  void fill(const Tensor& tensor) {
    std::vector<std::byte> host(static_cast<size_t>(tensor.bytes()));
    for (int64_t i = 0; i < tensor.size(); ++i) {
      const float value = values_[static_cast<size_t>(i * 7 % static_cast<int64_t>(values_.size()))] * 10.0f;
      if (tensor.dtype == DType::kFloat32) reinterpret_cast<float*>(host.data())[i] = value;
      if (tensor.dtype == DType::kBFloat16) reinterpret_cast<BFloat16*>(host.data())[i] = to_bfloat16(value);
      if (tensor.dtype == DType::kFloat16) reinterpret_cast<Float16*>(host.data())[i] = to_float16(value);
    }
    backend_->copy_to_device(tensor.data, host.data(), host.size(), *stream_);
  }

  /// Microseconds of one call.
  template <typename Enqueue>
  double time(const Enqueue& enqueue, int calls) {
    for (int call = 0; call < calls; ++call) enqueue(call);
    stream_->synchronize();
    backend_->begin_recording(*stream_);
    for (int call = 0; call < calls; ++call) enqueue(call);
    const auto graph = backend_->end_recording(*stream_);
    std::vector<double> times;
    for (int round = 0; round < kRounds; ++round) {
      const Clock::time_point start = Clock::now();
      graph->launch(*stream_);
      stream_->synchronize();
      times.push_back(std::chrono::duration<double, std::micro>(Clock::now() - start).count() / calls);
    }
    return median(times);
  }

  const std::unique_ptr<Backend> backend_;
  const std::unique_ptr<Stream> stream_;
  const DType dtype_;
  const double peak_;
  std::vector<float> values_;
};

}  // namespace

void run(std::map<std::string, std::string> options) {
  const DType dtype = options["--dtype"] == "float32"   ? DType::kFloat32
                      : options["--dtype"] == "float16" ? DType::kFloat16
                                                        : DType::kBFloat16;
  std::vector<int64_t> tokens;
  std::istringstream list(options["--tokens"]);
  for (std::string count; std::getline(list, count, ',');) tokens.push_back(std::stol(count));
  Bench bench(options["--device"], dtype, options["--deterministic"] == "1", std::stod(options["--peak"]));
  for (const Shape& shape : kShapes) {
    if (shape.name.find(options["--shape"]) != std::string::npos) bench.time_shape(shape, tokens);
  }
}

}  // namespace quire::bench

int main(int argc, char** argv) {
  std::map<std::string, std::string> options = {{"--device", "cuda"},    {"--peak", "4.39"},
                                                {"--dtype", "bfloat16"}, {"--tokens", "1,2,4,8,16,64,256,2048,8192"},
                                                {"--shape", ""},         {"--deterministic", "0"}};
  try {
    for (int i = 1; i + 1 < argc; i += 2) {
      QUIRE_REQUIRE(options.contains(argv[i]), quire::ErrorKind::kInvalidArgument, "no such option: ", argv[i]);
      options[argv[i]] = argv[i + 1];
    }
    quire::bench::run(options);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  return 0;
}
