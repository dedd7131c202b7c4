// Speed of the moe and grouped_linear ops beside the linear op on the same weights, in one run.
//
//   bench_moe [--isa avx512] [--dtype bfloat16] [--tokens 1,4,16,512] [--shape qwen3] [--threads 2]
//
// "linear" computes the same weights as one matrix, with as many rows as an expert or group has on average: as many
// bytes and multiply-adds. The ops take turns; every figure is the median of its passes, the percentage linear's time
// over the op's: its median, and that of the quickest passes. At few tokens each call takes other weights, more in all
// than the caches hold.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <functional>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "backend/registry.h"
#include "core/check.h"
#include "ops/options.h"

namespace quire::bench {
namespace {

struct MoeShape {
  std::string name;
  int64_t width;
  int64_t ffn;
  int32_t experts;
  int32_t top_k;
};

/// Of models, with as many experts as fit a small machine.
const MoeShape kMoeShapes[] = {{"moe qwen3", 2048, 768, 32, 8},
                               {"moe granite", 1024, 512, 32, 8},
                               {"moe mixtral-small", 1024, 3584, 8, 2},
                               {"moe deepseek-lite", 2048, 1408, 24, 6}};

struct GroupedShape {
  std::string name;
  int64_t groups;
  int64_t n;
  int64_t k;
};

const GroupedShape kGroupedShapes[] = {{"grouped 16 heads, in", 16, 512, 128},
                                       {"grouped 16 heads, out", 16, 128, 512},
                                       {"grouped 128 heads, in", 128, 512, 128},
                                       {"grouped 128 heads, out", 128, 128, 512},
                                       {"grouped 64 small", 64, 64, 64}};

using Clock = std::chrono::steady_clock;

std::vector<float> random_floats(int64_t size) {
  std::minstd_rand random(7);
  std::vector<float> values(static_cast<size_t>(size));
  for (float& value : values) value = static_cast<float>(random() % 2048) / 1024.0f - 1.0f;
  return values;
}

Tensor matrix_of(std::vector<float>& memory, int64_t rows, int64_t columns) {
  memory.resize(std::max(memory.size(), static_cast<size_t>(rows * columns)), 0.25f);
  return Tensor(memory.data(), DType::kFloat32, {rows, columns});
}

/// The same random matrix in every group.
PackedLinear pack(Backend& backend, Stream& stream, int64_t groups, int64_t n, int64_t k, DType dtype) {
  std::vector<float> values = random_floats(n * k);
  const Tensor matrix(values.data(), DType::kFloat32, {n, k});
  LinearSource source{.parts = {}, .groups = groups, .dtype = dtype};
  source.parts.assign(static_cast<size_t>(groups), matrix);
  return backend.pack_linear(source, stream);
}

/// Groups [first, first + count) as one matrix, which their panels are if n leaves no padding.
PackedLinear stacked(const PackedLinear& weight, int64_t first, int64_t count) {
  const size_t bytes = weight.data.bytes() / static_cast<size_t>(weight.groups);
  char* const data = static_cast<char*>(weight.data.data()) + static_cast<size_t>(first) * bytes;
  return {.n = weight.n * count,
          .k = weight.k,
          .dtype = weight.dtype,
          .data = Buffer(data, bytes * static_cast<size_t>(count), {})};
}

/// What one call does.
struct Load {
  double bytes = 0.0;
  double flops = 0.0;
};

/// Two rivals in turn, for a second or so; `calls` of each make a pass.
void compare(const std::string& label, int calls, const Load& load, const std::function<void(int call)>& op,
             const std::function<void(int call)>& linear) {
  constexpr size_t kMinPasses = 9;
  constexpr double kSeconds = 1.0;
  const auto pass = [&](const std::function<void(int)>& body) {
    const Clock::time_point start = Clock::now();
    for (int call = 0; call < calls; ++call) body(call);
    return std::chrono::duration<double>(Clock::now() - start).count() / calls;
  };
  const auto best = [](const std::vector<double>& times) { return *std::min_element(times.begin(), times.end()); };
  pass(op);
  pass(linear);
  std::vector<double> op_times, linear_times, ratios;
  double total = 0.0;
  while (ratios.size() < kMinPasses || total < kSeconds) {
    op_times.push_back(pass(op));
    linear_times.push_back(pass(linear));
    ratios.push_back(linear_times.back() / op_times.back());
    total += (op_times.back() + linear_times.back()) * calls;
  }
  const auto print = [&](const char* name, double time) {
    std::printf("%s %9.1f us %6.1f GB/s %7.1f GFLOP/s", name, time * 1e6, load.bytes / time * 1e-9,
                load.flops / time * 1e-9);
  };
  std::printf("%s", label.c_str());
  print("", median(op_times));
  print(" | linear", median(linear_times));
  std::printf(" | %4.0f%%, quickest %4.0f%%\n", 100 * median(ratios), 100 * best(linear_times) / best(op_times));
  std::fflush(stdout);
}

std::string label_of(const std::string& name, const std::string& dtype, int64_t tokens) {
  char label[96];
  std::snprintf(label, sizeof(label), "%-24s %-9s T=%-4ld", name.c_str(), dtype.c_str(), static_cast<long>(tokens));
  return label;
}

void run_moe(const MoeShape& shape, const std::string& dtype, int64_t tokens, Backend& backend) {
  const std::unique_ptr<Stream> stream = backend.create_stream();
  const DType type = *dtype_from_name(dtype);
  const PackedLinear up = pack(backend, *stream, shape.experts, 2 * shape.ffn, shape.width, type);
  const PackedLinear down = pack(backend, *stream, shape.experts, shape.width, shape.ffn, type);
  const int64_t rows = tokens * shape.top_k;

  // Few tokens: their experts are others in the next call.
  const int calls = tokens * shape.top_k >= shape.experts ? 1 : static_cast<int>(shape.experts / rows);
  std::vector<std::vector<int32_t>> experts(static_cast<size_t>(calls));
  std::vector<int32_t> ids(static_cast<size_t>(shape.experts));
  std::iota(ids.begin(), ids.end(), 0);
  std::mt19937 random(3);
  std::shuffle(ids.begin(), ids.end(), random);
  for (size_t call = 0; call < experts.size(); ++call) {
    for (int64_t token = 0; token < tokens; ++token) {
      if (calls == 1) std::shuffle(ids.begin(), ids.end(), random);
      const int64_t first = calls == 1 ? 0 : (static_cast<int64_t>(call) * tokens + token) * shape.top_k;
      experts[call].insert(experts[call].end(), ids.begin() + first, ids.begin() + first + shape.top_k);
    }
  }
  std::vector<int32_t> used = experts[0];
  std::sort(used.begin(), used.end());
  const int64_t num_used = std::unique(used.begin(), used.end()) - used.begin();

  const double expert_bytes = static_cast<double>(up.data.bytes() + down.data.bytes()) / shape.experts;
  const double row_flops = 2.0 * 3.0 * static_cast<double>(shape.ffn * shape.width);
  std::vector<float> x, out, up_out, down_out, activated;
  const std::vector<float> weights(static_cast<size_t>(rows), 0.125f);
  MoeArgs args;
  args.x = matrix_of(x, tokens, shape.width);
  args.weights = weights.data();
  args.top_k = shape.top_k;
  args.up = &up;
  args.activation = {.kind = Activation::kSilu, .gated = true};
  args.down = &down;
  args.out = matrix_of(out, tokens, shape.width);
  const Buffer scratch = backend.allocate(backend.moe_scratch_bytes({.num_tokens = tokens,
                                                                     .num_experts = static_cast<int32_t>(shape.experts),
                                                                     .top_k = shape.top_k,
                                                                     .width = shape.width,
                                                                     .up_columns = up.n,
                                                                     .ffn_width = shape.ffn}),
                                          MemoryKind::kWorkspace);
  args.scratch = scratch.data();
  const auto moe = [&](int call) {
    args.experts = experts[static_cast<size_t>(call)].data();
    backend.ops().moe(args, *stream);
  };

  const int64_t linear_rows = std::max<int64_t>(1, (rows + num_used / 2) / num_used);
  std::vector<float> linear_x;
  const Tensor linear_in = matrix_of(linear_x, linear_rows, shape.width);
  const Tensor linear_up = matrix_of(up_out, linear_rows, num_used * up.n);
  const Tensor linear_activated = matrix_of(activated, linear_rows, shape.ffn);
  const Tensor linear_out = matrix_of(down_out, linear_rows, num_used * down.n);
  std::vector<PackedLinear> ups, downs;
  for (int call = 0; call < calls; ++call) {
    ups.push_back(stacked(up, call * num_used, num_used));
    downs.push_back(stacked(down, call * num_used, num_used));
  }
  const auto linear = [&](int call) {
    const size_t index = static_cast<size_t>(call);
    backend.ops().linear({.x = linear_in, .weight = &ups[index], .out = linear_up}, *stream);
    backend.ops().linear({.x = linear_activated, .weight = &downs[index], .out = linear_out}, *stream);
  };
  const double bytes = static_cast<double>(num_used) * expert_bytes;
  compare(label_of(shape.name, dtype, tokens), calls, {bytes, row_flops * static_cast<double>(rows)}, moe, linear);
}

void run_grouped(const GroupedShape& shape, const std::string& dtype, int64_t tokens, Backend& backend) {
  const std::unique_ptr<Stream> stream = backend.create_stream();
  const int64_t bytes = shape.groups * shape.n * shape.k * dtype_bytes(*dtype_from_name(dtype));
  const int calls = tokens >= 64 ? 1 : static_cast<int>(1 + (int64_t{128} << 20) / bytes);
  std::vector<PackedLinear> weights, singles;
  for (int call = 0; call < calls; ++call) {
    weights.push_back(pack(backend, *stream, shape.groups, shape.n, shape.k, *dtype_from_name(dtype)));
    singles.push_back(stacked(weights.back(), 0, shape.groups));
  }
  std::vector<float> x, out;
  const Tensor in = matrix_of(x, tokens, shape.groups * shape.k);
  const Tensor result = matrix_of(out, tokens, shape.groups * shape.n);
  const Load load{static_cast<double>(bytes), 2.0 * static_cast<double>(tokens * shape.groups * shape.n * shape.k)};
  compare(
      label_of(shape.name, dtype, tokens), calls, load,
      [&](int call) {
        backend.ops().grouped_linear({.x = in.heads(shape.groups, shape.k),
                                      .weight = &weights[static_cast<size_t>(call)],
                                      .out = result.heads(shape.groups, shape.n)},
                                     *stream);
      },
      [&](int call) {
        backend.ops().linear(
            {.x = in.columns(0, shape.k), .weight = &singles[static_cast<size_t>(call)], .out = result}, *stream);
      });
}

void run(const Options& options) {
  for (const std::string& isa : options.isas) {
    const std::unique_ptr<Backend> backend = create_backend("cpu:" + isa, {.num_threads = options.threads});
    std::printf("%s, %d threads\n", backend->name().c_str(), backend->num_threads());
    for (const std::string& dtype : options.dtypes) {
      for (const std::string& tokens : options.tokens) {
        for (const MoeShape& shape : kMoeShapes) {
          if (shape.name.find(options.shape) != std::string::npos) run_moe(shape, dtype, std::stoll(tokens), *backend);
        }
        for (const GroupedShape& shape : kGroupedShapes) {
          if (shape.name.find(options.shape) != std::string::npos)
            run_grouped(shape, dtype, std::stoll(tokens), *backend);
        }
      }
    }
  }
}

}  // namespace
}  // namespace quire::bench

int main(int argc, char** argv) {
  try {
    quire::bench::run(quire::bench::parse_options(
        argc, argv, {.isas = {"avx512"}, .dtypes = {"bfloat16"}, .tokens = {"1", "4", "16", "512"}}));
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  return 0;
}
