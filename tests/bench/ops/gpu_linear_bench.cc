// Speed of the linear ops of a GPU over the matrices of Llama-3-8B and smaller models (--shape: those whose name
// contains it), weights from memory.
//
//   bench_gpu_linear [--device cuda] [--peak 4.39] [--dtype bfloat16] [--tokens 1,8,64] [--shape down] [--layers 32]
//
// Every case is a recorded graph of calls over several copies of the matrix, more than the second-level cache holds,
// launched several times; the median counts. --peak: TB/s that a plain read reaches, for the share. The last part runs
// the products of whole layers one after the other, as a step does.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <sstream>
#include <string>
#include <vector>

#include "backend/registry.h"
#include "core/check.h"

namespace quire::bench {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int64_t kColdBytes = int64_t{400} << 20;
constexpr int64_t kMaxOutputs = int64_t{1} << 26;
constexpr int kRounds = 9;

struct Shape {
  std::string name;
  int64_t n, k;
};

const Shape kShapes[] = {{"gate_up", 28672, 4096},    {"qkv", 6144, 4096},         {"o", 4096, 4096},
                         {"down", 4096, 14336},       {"lm_head", 128256, 4096},   {"1B qkv", 3072, 2048},
                         {"1B o", 2048, 2048},        {"1B gate_up", 16384, 2048}, {"1B down", 2048, 8192},
                         {"0.5B gate_up", 9728, 896}, {"0.5B down", 896, 4864}};

/// A device with a stream, and what the cases share.
class Machine {
 public:
  Machine(const std::string& device, DType dtype) : backend(create_backend(device, {})), dtype(dtype) {
    stream = backend->create_stream();
    std::minstd_rand random(7);
    values_.resize(1 << 20);
    for (float& value : values_) value = (static_cast<float>(random() % 2048) / 1024.0f - 1.0f) * 0.05f;
  }

  /// Rows that overlap in a small piece of memory: made at once, and random enough.
  PackedLinear weight(int64_t n, int64_t k) {
    LinearSource source;
    Tensor part(values_.data(), DType::kFloat32, {n, k});
    part.strides[0] = (static_cast<int64_t>(values_.size()) - k) / n;
    source.parts = {part};
    source.dtype = dtype;
    return backend->pack_linear(source, *stream);
  }

  /// Device memory of one matrix, of small numbers.
  Tensor matrix(int64_t rows, int64_t columns, DType type) {
    Tensor made(nullptr, type, {rows, columns});
    buffers_.push_back(backend->allocate(static_cast<size_t>(made.bytes()), MemoryKind::kWorkspace));
    made.data = buffers_.back().data();
    std::vector<std::byte> host(static_cast<size_t>(made.bytes()));
    for (int64_t i = 0; i < made.size(); ++i) {
      const float value = values_[static_cast<size_t>(i * 7 % static_cast<int64_t>(values_.size()))] * 10.0f;
      if (type == DType::kFloat32) reinterpret_cast<float*>(host.data())[i] = value;
      if (type == DType::kBFloat16) reinterpret_cast<BFloat16*>(host.data())[i] = to_bfloat16(value);
      if (type == DType::kFloat16) reinterpret_cast<Float16*>(host.data())[i] = to_float16(value);
    }
    backend->copy_to_device(made.data, host.data(), host.size(), *stream);
    return made;
  }
  void free_matrices() { buffers_.clear(); }

  /// Microseconds of what `enqueue` records, the median of several launches.
  double time(const std::function<void()>& enqueue) {
    enqueue();
    stream->synchronize();
    backend->begin_recording(*stream);
    enqueue();
    const auto graph = backend->end_recording(*stream);
    std::vector<double> times;
    for (int round = 0; round < kRounds; ++round) {
      const Clock::time_point start = Clock::now();
      graph->launch(*stream);
      stream->synchronize();
      times.push_back(std::chrono::duration<double, std::micro>(Clock::now() - start).count());
    }
    std::sort(times.begin() + 1, times.end());
    return times[1 + kRounds / 2];
  }

  const std::unique_ptr<Backend> backend;
  const DType dtype;
  std::unique_ptr<Stream> stream;

 private:
  std::vector<float> values_;
  std::vector<Buffer> buffers_;
};

void time_shape(Machine& machine, const Shape& shape, const std::vector<int64_t>& tokens, double peak) {
  const int64_t bytes = shape.n * shape.k * dtype_bytes(machine.dtype);
  const int64_t copies = 1 + kColdBytes / bytes;
  std::vector<PackedLinear> weights;
  for (int64_t i = 0; i < copies; ++i) weights.push_back(machine.weight(shape.n, shape.k));
  std::printf("%-12s %6ld x %-5ld", shape.name.c_str(), static_cast<long>(shape.n), static_cast<long>(shape.k));
  for (const int64_t count : tokens) {
    if (count * shape.n > kMaxOutputs) continue;
    const Tensor x = machine.matrix(count, shape.k, machine.dtype);
    const Tensor out = machine.matrix(count, shape.n, machine.dtype);
    const int64_t calls = std::max<int64_t>(copies, count > 64 ? 8 : 48);
    const double us = machine.time([&] {
      for (int64_t i = 0; i < calls; ++i) {
        machine.backend->ops().linear(
            {.x = x, .weight = &weights[static_cast<size_t>(i % copies)], .bias = {}, .residual = {}, .out = out},
            *machine.stream);
      }
    }) / static_cast<double>(calls);
    const double rate = static_cast<double>(bytes) / us * 1e-6;
    if (count <= 128) {
      std::printf(" | %4ld: %7.2f us %.2f TB/s %3.0f%%", static_cast<long>(count), us, rate, 100.0 * rate / peak);
    } else {
      std::printf(" | %4ld: %7.1f us %.0f TFLOP/s", static_cast<long>(count), us,
                  2.0 * static_cast<double>(count * shape.n * shape.k) / us * 1e-6);
    }
    std::fflush(stdout);
    machine.free_matrices();
  }
  std::printf("\n");
}

struct LayerShape {
  std::string name;
  int64_t width, qkv, attention, ffn;
};

const LayerShape kLayers[] = {{"Llama-3-8B", 4096, 6144, 4096, 14336},
                              {"Llama-3.2-1B", 2048, 3072, 2048, 8192},
                              {"Qwen2.5-0.5B", 896, 1152, 896, 4864}};

void time_layers(Machine& machine, const LayerShape& shape, int64_t layers, const std::vector<int64_t>& tokens,
                 double peak) {
  struct Weights {
    PackedLinear qkv, o, gate_up, down;
  };
  std::vector<Weights> weights;
  for (int64_t i = 0; i < layers; ++i) {
    weights.push_back({machine.weight(shape.qkv, shape.width), machine.weight(shape.width, shape.attention),
                       machine.weight(2 * shape.ffn, shape.width), machine.weight(shape.width, shape.ffn)});
  }
  const double bytes = static_cast<double>((shape.qkv + shape.attention + 3 * shape.ffn) * shape.width) *
                       static_cast<double>(dtype_bytes(machine.dtype));
  std::printf("%-14s layer", shape.name.c_str());
  for (const int64_t count : tokens) {
    const Tensor hidden = machine.matrix(count, shape.width, DType::kFloat32);
    const Tensor room = machine.matrix(count, shape.width, machine.dtype);
    const Tensor norm_weight = machine.matrix(1, shape.width, DType::kFloat32);
    const Tensor qkv = machine.matrix(count, shape.qkv, machine.dtype);
    const Tensor attention = machine.matrix(count, shape.attention, machine.dtype);
    const Tensor up = machine.matrix(count, 2 * shape.ffn, machine.dtype);
    const Tensor activated = machine.matrix(count, shape.ffn, machine.dtype);
    const NormArgs norm{.kind = NormKind::kRms,
                        .eps = 1e-5f,
                        .x = hidden,
                        .weight = Tensor(norm_weight.data, DType::kFloat32, {shape.width}),
                        .bias = {},
                        .out = room};
    const Ops& ops = machine.backend->ops();
    Stream& stream = *machine.stream;
    const double us = machine.time([&] {
      for (const Weights& layer : weights) {
        ops.normed_linear({.norm = norm, .weight = &layer.qkv, .bias = {}, .activation = {}, .up = {}, .out = qkv},
                          stream);
        ops.linear({.x = attention, .weight = &layer.o, .bias = {}, .residual = hidden, .out = hidden}, stream);
        ops.normed_linear({.norm = norm,
                           .weight = &layer.gate_up,
                           .bias = {},
                           .has_activation = true,
                           .activation = {.kind = Activation::kSilu, .gated = true},
                           .up = up,
                           .out = activated},
                          stream);
        ops.linear({.x = activated, .weight = &layer.down, .bias = {}, .residual = hidden, .out = hidden}, stream);
      }
    }) / static_cast<double>(layers);
    const double rate = bytes / us * 1e-6;
    std::printf(" | %4ld: %7.2f us %.2f TB/s %3.0f%%", static_cast<long>(count), us, rate, 100.0 * rate / peak);
    std::fflush(stdout);
    machine.free_matrices();
  }
  std::printf("\n");
}

/// One product with its norm and, for the feed-forward part, its activation, again and again.
void time_fused(Machine& machine, const Shape& shape, bool activates, const std::vector<int64_t>& tokens, double peak) {
  const int64_t bytes = shape.n * shape.k * dtype_bytes(machine.dtype);
  const int64_t copies = 1 + kColdBytes / bytes;
  std::vector<PackedLinear> weights;
  for (int64_t i = 0; i < copies; ++i) weights.push_back(machine.weight(shape.n, shape.k));
  std::printf("normed %-8s%s", shape.name.c_str(), activates ? " and activation" : "");
  for (const int64_t count : tokens) {
    const Tensor x = machine.matrix(count, shape.k, DType::kFloat32);
    const Tensor room = machine.matrix(count, shape.k, machine.dtype);
    const Tensor norm_weight = machine.matrix(1, shape.k, DType::kFloat32);
    const Tensor up = machine.matrix(count, shape.n, machine.dtype);
    const Tensor out = activates ? machine.matrix(count, shape.n / 2, machine.dtype) : up;
    NormedLinearArgs args;
    args.norm = {.kind = NormKind::kRms,
                 .eps = 1e-5f,
                 .x = x,
                 .weight = Tensor(norm_weight.data, DType::kFloat32, {shape.k}),
                 .bias = {},
                 .out = room};
    args.has_activation = activates;
    if (activates) args.activation = {.kind = Activation::kSilu, .gated = true};
    if (activates) args.up = up;
    args.out = out;
    constexpr int64_t kCalls = 48;
    const double us = machine.time([&] {
      for (int64_t i = 0; i < kCalls; ++i) {
        args.weight = &weights[static_cast<size_t>(i % copies)];
        machine.backend->ops().normed_linear(args, *machine.stream);
      }
    }) / static_cast<double>(kCalls);
    const double rate = static_cast<double>(bytes) / us * 1e-6;
    std::printf(" | %4ld: %7.2f us %.2f TB/s %3.0f%%", static_cast<long>(count), us, rate, 100.0 * rate / peak);
    std::fflush(stdout);
    machine.free_matrices();
  }
  std::printf("\n");
}

void time_groups(Machine& machine, const std::vector<int64_t>& tokens) {
  constexpr int64_t kHeads = 128, kWide = 512, kNarrow = 128;
  for (const auto& [n, k] : {std::pair{kWide, kNarrow}, {kNarrow, kWide}}) {
    PackedLinear packed = machine.weight(kHeads * n, k);
    packed.n = n;
    packed.groups = kHeads;
    std::printf("128 heads of %3ld x %3ld", static_cast<long>(n), static_cast<long>(k));
    for (const int64_t count : tokens) {
      const Tensor x = machine.matrix(count, kHeads * k, machine.dtype);
      const Tensor out = machine.matrix(count, kHeads * n, machine.dtype);
      constexpr int kCalls = 20;
      const double us = machine.time([&] {
        for (int i = 0; i < kCalls; ++i) {
          machine.backend->ops().grouped_linear(
              {.x = x.heads(kHeads, k), .weight = &packed, .out = out.heads(kHeads, n)}, *machine.stream);
        }
      }) / kCalls;
      std::printf(" | %4ld: %7.2f us %.1f TFLOP/s", static_cast<long>(count), us,
                  2.0 * static_cast<double>(count * kHeads * n * k) / us * 1e-6);
      machine.free_matrices();
    }
    std::printf("\n");
  }
}

}  // namespace

void run(std::map<std::string, std::string> options) {
  const double peak = std::stod(options["--peak"]);
  const DType dtype = options["--dtype"] == "float32"   ? DType::kFloat32
                      : options["--dtype"] == "float16" ? DType::kFloat16
                                                        : DType::kBFloat16;
  Machine machine(options["--device"], dtype);
  std::vector<int64_t> tokens;
  std::istringstream list(options["--tokens"]);
  for (std::string count; std::getline(list, count, ',');) tokens.push_back(std::stol(count));
  const std::string wanted = options["--shape"];
  std::printf("%s; peak %.2f TB/s\n", machine.backend->name().c_str(), peak);
  for (const Shape& shape : kShapes) {
    if (shape.name.find(wanted) != std::string::npos) time_shape(machine, shape, tokens, peak);
  }
  if (!wanted.empty() && wanted != "layers") return;
  const int64_t layers = std::stol(options["--layers"]);
  for (const LayerShape& shape : kLayers) time_layers(machine, shape, layers, {1, 4, 8, 16, 32, 64, 128, 256}, peak);
  time_fused(machine, kShapes[1], false, {1, 4, 8, 16, 64, 256}, peak);
  time_fused(machine, kShapes[0], true, {1, 4, 8, 16, 64, 256}, peak);
  time_groups(machine, {1, 8, 64, 2048});
}

}  // namespace quire::bench

int main(int argc, char** argv) {
  std::map<std::string, std::string> options = {{"--device", "cuda"},    {"--peak", "4.39"},
                                                {"--dtype", "bfloat16"}, {"--tokens", "1,2,4,8,16,64,256,2048"},
                                                {"--shape", ""},         {"--layers", "32"}};
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
