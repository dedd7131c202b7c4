// Speed of a GPU's attention op.
//
//   bench_gpu_attention [device: cuda]
//
// A graph of many calls over different layers, more than the caches hold, is launched several times; figures are
// medians of a call. decode: every sequence has one query; GB/s of keys and values. prefill: one prompt or several, the
// FLOPs those of the causal half only: 4 x head_dim per query, head and key. mixed: a prompt's chunk beside single
// queries.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "backend/registry.h"
#include "core/dtype.h"

namespace quire::bench {
namespace {

using Clock = std::chrono::steady_clock;

struct Heads {
  int32_t heads = 32;
  int32_t kv_heads = 8;
  int32_t dim = 128;
  int32_t value_dim = 128;
  bool values_in_keys = false;
};

/// Sequences that are alike.
struct Sequences {
  int32_t count = 0;
  int32_t context = 0;
  int32_t queries = 1;
};

class Case {
 public:
  Case(Backend& backend, const Heads& heads, const std::vector<Sequences>& sequences, int32_t block_size)
      : backend_(backend), stream_(backend.create_stream()), heads_(heads) {
    std::vector<int32_t> starts = {0}, contexts, block_starts;
    int32_t blocks = 0;
    for (const Sequences& alike : sequences) {
      for (int32_t s = 0; s < alike.count; ++s) {
        starts.push_back(starts.back() + alike.queries);
        contexts.push_back(alike.context);
        block_starts.push_back(blocks);
        blocks += (alike.context + block_size - 1) / block_size;
        const double q = alike.queries, hidden = alike.context - alike.queries;
        flops_ += 4.0 * 0.5 * (heads.dim + heads.value_dim) * heads.heads * (q * hidden + q * (q + 1.0) / 2.0);
        keys_ += alike.context;
        batch_.max_query_len = std::max(batch_.max_query_len, alike.queries);
        batch_.num_single_queries += alike.queries == 1;
      }
    }
    KvLayer kv{.dtype = DType::kBFloat16,
               .num_blocks = blocks,
               .block_size = block_size,
               .num_kv_heads = heads.kv_heads,
               .head_dim = heads.dim,
               .v_head_dim = heads.value_dim,
               .values_in_keys = heads.values_in_keys};
    kv.block_bytes = backend.kv_block_bytes(kv);
    const int64_t bytes = blocks * kv.block_bytes;
    constexpr int64_t kColdBytes = 300 << 20;
    const int64_t layers = std::clamp<int64_t>(kColdBytes / bytes, 1, 64);
    pages_ = backend.allocate(static_cast<size_t>(layers * bytes), MemoryKind::kKvCache);
    const std::vector<BFloat16> numbers = random_numbers(16 << 20);
    for (int64_t at = 0; at < layers * bytes; at += static_cast<int64_t>(numbers.size() * sizeof(BFloat16))) {
      const int64_t size =
          std::min<int64_t>(layers * bytes - at, static_cast<int64_t>(numbers.size() * sizeof(BFloat16)));
      backend.copy_to_device(static_cast<std::byte*>(pages_.data()) + at, numbers.data(), static_cast<size_t>(size),
                             *stream_);
    }
    for (int64_t layer = 0; layer < layers; ++layer) {
      kv.data = static_cast<std::byte*>(pages_.data()) + layer * bytes;
      layers_.push_back(kv);
    }
    std::vector<int32_t> tables(static_cast<size_t>(blocks));
    std::iota(tables.begin(), tables.end(), 0);
    std::shuffle(tables.begin(), tables.end(), std::mt19937(1));
    batch_.num_tokens = starts.back();
    batch_.num_sequences = static_cast<int32_t>(contexts.size());
    batch_.query_start = starts.data();
    batch_.context_lens = contexts.data();
    batch_.query_start = upload(starts);
    batch_.context_lens = upload(contexts);
    batch_.block_tables = upload(tables);
    batch_.block_starts = upload(block_starts);
    const int64_t rows = int64_t{batch_.num_tokens} * heads.heads;
    q_ =
        Tensor(upload(random_numbers(rows * heads.dim)), DType::kBFloat16, {batch_.num_tokens, heads.heads, heads.dim});
    out_ = Tensor(upload(random_numbers(rows * heads.value_dim)), DType::kBFloat16,
                  {batch_.num_tokens, heads.heads, heads.value_dim});
  }

  /// Seconds of one call.
  double time() {
    call(layers_[0]);
    stream_->synchronize();
    const int calls = static_cast<int>(std::clamp(2e-3 / once(), 1.0, 64.0));
    backend_.begin_recording(*stream_);
    for (int i = 0; i < calls; ++i) call(layers_[static_cast<size_t>(i) % layers_.size()]);
    const std::unique_ptr<Graph> graph = backend_.end_recording(*stream_);
    std::vector<double> times;
    for (int i = 0; i < 12; ++i) {
      const Clock::time_point start = Clock::now();
      graph->launch(*stream_);
      stream_->synchronize();
      times.push_back(std::chrono::duration<double>(Clock::now() - start).count() / calls);
    }
    std::sort(times.begin(), times.end());
    return times[times.size() / 2];
  }

  double flops() const { return flops_; }
  /// Of the keys and values, once.
  double bytes() const {
    return keys_ * heads_.kv_heads * (heads_.dim + (heads_.values_in_keys ? 0 : heads_.value_dim)) * 2.0;
  }

 private:
  static std::vector<BFloat16> random_numbers(int64_t count) {
    std::vector<BFloat16> numbers(static_cast<size_t>(count));
    std::minstd_rand random(3);
    for (BFloat16& number : numbers) number = to_bfloat16(static_cast<float>(random() % 4096) / 1024.0f - 2.0f);
    return numbers;
  }

  template <typename T>
  T* upload(const std::vector<T>& values) {
    buffers_.push_back(backend_.allocate(values.size() * sizeof(T), MemoryKind::kWorkspace));
    backend_.copy_to_device(buffers_.back().data(), values.data(), values.size() * sizeof(T), *stream_);
    return static_cast<T*>(buffers_.back().data());
  }

  double once() {
    const Clock::time_point start = Clock::now();
    call(layers_[0]);
    stream_->synchronize();
    return std::chrono::duration<double>(Clock::now() - start).count();
  }

  void call(const KvLayer& layer) {
    backend_.ops().attention({.q = q_, .kv = layer, .batch = &batch_, .scale = 0.125f, .out = out_}, *stream_);
  }

  Backend& backend_;
  std::unique_ptr<Stream> stream_;
  Heads heads_;
  Buffer pages_;
  std::vector<Buffer> buffers_;
  std::vector<KvLayer> layers_;
  RaggedBatch batch_;
  Tensor q_, out_;
  double flops_ = 0.0, keys_ = 0.0;
};

void measure(Backend& backend, const Heads& heads, const std::vector<Sequences>& sequences, int32_t block_size = 16) {
  std::string what;
  for (const Sequences& alike : sequences) {
    what += std::to_string(alike.count) + "x" + std::to_string(alike.context);
    if (alike.queries > 1) what += "(" + std::to_string(alike.queries) + " queries)";
    what += " ";
  }
  Case measured(backend, heads, sequences, block_size);
  const double time = measured.time();
  std::printf("%2d/%d heads of %d, blocks of %d  %-36s %9.1f us  %7.1f GB/s  %6.1f TFLOP/s\n", heads.heads,
              heads.kv_heads, heads.dim, block_size, what.c_str(), time * 1e6, measured.bytes() / time * 1e-9,
              measured.flops() / time * 1e-12);
  std::fflush(stdout);
}

void run(const std::string& device) {
  const std::unique_ptr<Backend> backend = create_backend(device, {});
  std::printf("%s\n", backend->name().c_str());
  const Heads wide, narrow{.dim = 64, .value_dim = 64}, small{.heads = 14, .kv_heads = 2, .dim = 64, .value_dim = 64};
  for (const Heads& heads : {wide, narrow}) {
    for (const auto& [count, context] : std::vector<std::pair<int32_t, int32_t>>{{1, 200},
                                                                                 {1, 2048},
                                                                                 {1, 8192},
                                                                                 {1, 32768},
                                                                                 {8, 192},
                                                                                 {8, 2048},
                                                                                 {64, 192},
                                                                                 {64, 1024},
                                                                                 {64, 4096},
                                                                                 {256, 192},
                                                                                 {256, 1024}}) {
      measure(*backend, heads, {{count, context}});
    }
    measure(*backend, heads, {{64, 1024}}, 32);
    measure(*backend, heads, {{64, 1024}}, 8);
    for (const int32_t length : {128, 2048, 8192, 16384}) measure(*backend, heads, {{1, length, length}});
    measure(*backend, heads, {{16, 512, 512}});
    measure(*backend, heads, {{1, 4096, 512}, {64, 1024}});
  }
  measure(*backend, small, {{1, 512}});
  measure(*backend, small, {{64, 1024}});
  measure(*backend, small, {{1, 2048, 2048}});
  const Heads latent{.heads = 16, .kv_heads = 1, .dim = 576, .value_dim = 512, .values_in_keys = true};
  measure(*backend, latent, {{1, 2048}});
  measure(*backend, latent, {{1, 8192}});
  measure(*backend, latent, {{64, 1024}});
  measure(*backend, latent, {{1, 2048, 2048}});
}

}  // namespace
}  // namespace quire::bench

int main(int argc, char** argv) {
  quire::bench::run(argc > 1 ? argv[1] : "cuda");
}
