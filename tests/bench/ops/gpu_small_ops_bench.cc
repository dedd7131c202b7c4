// Speed of a GPU's small ops at the shapes of Llama-3-8B and of models with experts, and of loading.
//
//   bench_gpu_small_ops [--device cuda] [--peak 4.3]
//
// Every case is a recorded graph of calls over several sets of buffers, together more than the second-level cache holds
// where a call moves much; launched several times; the median counts. --peak: TB/s that a plain copy reaches.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "backend/registry.h"
#include "core/check.h"

namespace quire::bench {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int64_t kColdBytes = int64_t{256} << 20;
constexpr int kCalls = 200;
constexpr int kRounds = 7;

class Machine {
 public:
  Machine(const std::string& device, double peak)
      : backend(create_backend(device, {})), stream(backend->create_stream()), peak_(peak) {}

  /// Small numbers, some of them negative; integers are zero.
  Tensor tensor(DType dtype, std::initializer_list<int64_t> sizes) {
    Tensor made(nullptr, dtype, sizes);
    const auto bytes = static_cast<size_t>(made.bytes());
    buffers_.push_back(backend->allocate(bytes, MemoryKind::kKvCache));
    made.data = buffers_.back().data();
    if (dtype != DType::kFloat32 && dtype != DType::kBFloat16) return made;
    while (numbers_.size() * sizeof(uint32_t) < bytes) {
      const auto i = static_cast<uint32_t>(numbers_.size()) * 2654435761U;
      // As float32, and as two of bfloat16: between 0.01 and 2.
      numbers_.push_back(0x3c003c00U | (i & 0x83ff83ffU));
    }
    backend->copy_to_device(made.data, numbers_.data(), bytes, *stream);
    return made;
  }

  /// `make` makes one set of buffers and returns the call over it, which moves `bytes`.
  void time(const char* name, int64_t bytes, const std::function<std::function<void()>()>& make) {
    const int64_t sets = std::min<int64_t>(kCalls, 1 + kColdBytes / std::max<int64_t>(bytes, 1));
    const int64_t calls = bytes > (int64_t{16} << 20) ? std::max<int64_t>(sets, 20) : kCalls;
    std::vector<std::function<void()>> work;
    for (int64_t i = 0; i < sets; ++i) work.push_back(make());
    const auto enqueue = [&] {
      for (int64_t i = 0; i < calls; ++i) work[static_cast<size_t>(i % sets)]();
    };
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
    std::sort(times.begin(), times.end());
    const double us = times[kRounds / 2] / static_cast<double>(calls);
    const double rate = static_cast<double>(bytes) / us * 1e-6;
    std::printf("%-34s %8.2f us %7.3f TB/s %4.0f %%\n", name, us, rate, 100.0 * rate / peak_);
    std::fflush(stdout);
    buffers_.clear();
  }

  const std::unique_ptr<Backend> backend;
  const std::unique_ptr<Stream> stream;

 private:
  const double peak_;
  std::vector<Buffer> buffers_;
  std::vector<uint32_t> numbers_;
};

void time_norms(Machine& m) {
  const Ops& ops = m.backend->ops();
  for (const int64_t tokens : {1, 64, 8192}) {
    for (const NormKind kind : {NormKind::kRms, NormKind::kLayer}) {
      const std::string name =
          std::string(kind == NormKind::kRms ? "rms norm" : "layer norm") + " 4096, T=" + std::to_string(tokens);
      m.time(name.c_str(), tokens * 4096 * 6, [&, kind, tokens] {
        const Tensor x = m.tensor(DType::kFloat32, {tokens, 4096});
        const Tensor out = m.tensor(DType::kBFloat16, {tokens, 4096});
        const Tensor weight = m.tensor(DType::kFloat32, {4096});
        return [&ops, &m, kind, x, out, weight] {
          ops.norm({.kind = kind, .x = x, .weight = weight, .out = out}, *m.stream);
        };
      });
    }
    m.time(("head norm 32 x 128, T=" + std::to_string(tokens)).c_str(), tokens * 4096 * 4, [&, tokens] {
      const Tensor x = m.tensor(DType::kBFloat16, {tokens, 32, 128});
      const Tensor weight = m.tensor(DType::kFloat32, {128});
      return [&ops, &m, x, weight] { ops.norm({.x = x, .weight = weight, .out = x}, *m.stream); };
    });
  }
}

void time_elementwise(Machine& m) {
  const Ops& ops = m.backend->ops();
  for (const int64_t tokens : {1, 64, 8192}) {
    const std::string suffix = ", T=" + std::to_string(tokens);
    for (const Activation kind : {Activation::kSilu, Activation::kGelu, Activation::kGeluTanh}) {
      const char* const names[] = {"silu", "gelu", "gelu_tanh"};
      m.time((names[static_cast<int>(kind)] + (" gated 14336" + suffix)).c_str(), tokens * 14336 * 6,
             [&, kind, tokens] {
               const Tensor x = m.tensor(DType::kBFloat16, {tokens, 28672});
               const Tensor out = m.tensor(DType::kBFloat16, {tokens, 14336});
               return [&ops, &m, kind, x, out] {
                 ops.activation({.rule = {.kind = kind, .gated = true}, .x = x, .out = out}, *m.stream);
               };
             });
    }
    m.time(("add 4096" + suffix).c_str(), tokens * 4096 * 10, [&, tokens] {
      const Tensor x = m.tensor(DType::kBFloat16, {tokens, 4096});
      const Tensor out = m.tensor(DType::kFloat32, {tokens, 4096});
      return [&ops, &m, x, out] { ops.add({.x = x, .out = out}, *m.stream); };
    });
    m.time(("rope 32 x 128" + suffix).c_str(), tokens * 4096 * 4, [&, tokens] {
      const Tensor x = m.tensor(DType::kBFloat16, {tokens, 32, 128});
      const Tensor table = m.tensor(DType::kFloat32, {64, 64});
      const Tensor rows = m.tensor(DType::kInt32, {tokens});
      return [&ops, &m, x, table, rows] {
        ops.rope({.x = x, .rows = rows.as<const int32_t>(), .cos = table, .sin = table, .out = x}, *m.stream);
      };
    });
    m.time(("embed 4096" + suffix).c_str(), tokens * 4096 * 6, [&, tokens] {
      const Tensor table = m.tensor(DType::kBFloat16, {64, 4096});
      const Tensor ids = m.tensor(DType::kInt32, {tokens});
      const Tensor out = m.tensor(DType::kFloat32, {tokens, 4096});
      return [&ops, &m, table, ids, out] {
        ops.embed({.table = table, .ids = ids.as<const int32_t>(), .out = out}, *m.stream);
      };
    });
  }
  m.time("logit_scale 128256, R=64", int64_t{64} * 128256 * 8, [&] {
    const Tensor x = m.tensor(DType::kFloat32, {64, 128256});
    return [&ops, &m, x] { ops.logit_scale({.x = x, .softcap = 30.0f}, *m.stream); };
  });
}

void time_route(Machine& m) {
  const Ops& ops = m.backend->ops();
  for (const int64_t tokens : {1, 64, 8192}) {
    for (const auto& [experts, top_k, groups] : {std::tuple{8, 2, 1}, {128, 8, 1}, {256, 8, 8}}) {
      const std::string name = "route " + std::to_string(top_k) + " of " + std::to_string(experts) +
                               (groups > 1 ? " in groups" : "") + ", T=" + std::to_string(tokens);
      m.time(name.c_str(), tokens * (experts * 4 + top_k * 8), [&, experts, top_k, groups, tokens] {
        const Tensor logits = m.tensor(DType::kFloat32, {tokens, experts});
        const Tensor chosen = m.tensor(DType::kInt32, {tokens, top_k});
        const Tensor weights = m.tensor(DType::kFloat32, {tokens, top_k});
        const RouteArgs args{.logits = logits,
                             .num_groups = groups,
                             .top_groups = std::max(1, groups / 2),
                             .top_k = top_k,
                             .experts = chosen.as<int32_t>(),
                             .weights = weights.as<float>()};
        return [&ops, &m, args] { ops.route(args, *m.stream); };
      });
    }
  }
}

void time_copies(Machine& m) {
  const Ops& ops = m.backend->ops();
  constexpr int64_t kBlockBytes = 64 << 10;
  for (const int32_t pairs : {1, 16}) {
    m.time(("copy_blocks 32 layers, pairs=" + std::to_string(pairs)).c_str(), 64 * kBlockBytes * pairs, [&, pairs] {
      const Tensor memory = m.tensor(DType::kInt8, {32, 2 * pairs * kBlockBytes});
      std::vector<KvLayer> layers(32);
      for (int64_t layer = 0; layer < 32; ++layer) {
        layers[static_cast<size_t>(layer)] = {.data = memory.rows(layer, 1).data, .block_bytes = kBlockBytes};
      }
      std::vector<int32_t> from, to;
      for (int32_t i = 0; i < pairs; ++i) {
        from.push_back(i);
        to.push_back(pairs + i);
      }
      return [&ops, &m, layers, from, to] { ops.copy_blocks({.layers = layers, .from = from, .to = to}, *m.stream); };
    });
  }
  for (const bool out : {true, false}) {
    constexpr int32_t kPairs = 256;
    const std::string name = out ? "to the host" : "from the host";
    m.time(("copy_blocks " + name + ", 32 layers, pairs=256").c_str(), 32 * kBlockBytes * kPairs, [&, out] {
      const Tensor device = m.tensor(DType::kInt8, {32, kPairs * kBlockBytes});
      const auto host = std::make_shared<const Buffer>(m.backend->allocate_host(32 * kPairs * kBlockBytes));
      std::vector<KvLayer> on_device(32), on_host(32);
      for (int64_t layer = 0; layer < 32; ++layer) {
        auto* const pages = static_cast<std::byte*>(host->data()) + layer * kPairs * kBlockBytes;
        on_device[static_cast<size_t>(layer)] = {.data = device.rows(layer, 1).data, .block_bytes = kBlockBytes};
        on_host[static_cast<size_t>(layer)] = {.data = pages, .block_bytes = kBlockBytes};
      }
      std::vector<int32_t> from, to;  // in no order
      for (int32_t i = 0; i < kPairs; ++i) {
        from.push_back(i * 101 % kPairs);
        to.push_back(i * 37 % kPairs);
      }
      if (!out) std::swap(on_device, on_host);
      return [&ops, &m, host, from_layers = on_device, to_layers = on_host, from, to] {
        ops.copy_blocks({.layers = from_layers, .from = from, .to = to, .to_layers = to_layers}, *m.stream);
      };
    });
  }
  constexpr size_t kUpload = size_t{1} << 30;
  const std::vector<std::byte> source(kUpload, std::byte{1});
  const Buffer memory = m.backend->allocate(kUpload, MemoryKind::kWorkspace);
  for (int round = 0; round < 3; ++round) {
    const Clock::time_point start = Clock::now();
    m.backend->copy_to_device(memory.data(), source.data(), kUpload, *m.stream);
    m.stream->synchronize();
    const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
    std::printf("copy_to_device of 1 GiB %.1f GB/s\n", static_cast<double>(kUpload) / seconds * 1e-9);
  }
}

int run(int count, char** arguments) {
  std::string device = "cuda";
  double peak = 4.3;
  for (int i = 1; i + 1 < count; i += 2) {
    if (std::string(arguments[i]) == "--device") device = arguments[i + 1];
    if (std::string(arguments[i]) == "--peak") peak = std::stod(arguments[i + 1]);
  }
  const Clock::time_point start = Clock::now();
  Machine machine(device, peak);
  std::printf("%s, opened in %.2f s\n", machine.backend->name().c_str(),
              std::chrono::duration<double>(Clock::now() - start).count());
  time_norms(machine);
  time_elementwise(machine);
  time_route(machine);
  time_copies(machine);
  return 0;
}

}  // namespace
}  // namespace quire::bench

int main(int count, char** arguments) {
  try {
    return quire::bench::run(count, arguments);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
