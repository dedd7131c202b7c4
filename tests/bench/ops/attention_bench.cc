// Speed of the attention op, beside what the machine can do, in one run.
//
//   bench_attention [isa: avx512 | avx2 | portable] [threads] [sequences]
//
// decode: every sequence has one query; keys and values are read from memory: each pass goes through several layers,
// more than the caches hold. prefill: one prompt, its keys and values in the cache already. FLOPs are those of the
// causal half only: 4 x head_dim per query, head and key. Figures are medians; "read" and "peak" are the shares of a
// plain read's bandwidth and of the rate of multiply-adds from registers.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "backend/cpu/stream.h"
#include "backend/registry.h"
#include "ops/machine_limits.h"

namespace quire::bench {
namespace {

using Clock = std::chrono::steady_clock;

struct Heads {
  const char* model;
  int32_t heads;
  int32_t kv_heads;
  int32_t dim;
};

const Heads kModels[] = {{"smol", 9, 3, 64}, {"qwen05", 14, 2, 64}, {"llama8b", 32, 8, 128}};

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

/// Some layers of cache filled with small numbers, and a batch over it.
class Case {
 public:
  Case(Backend& backend, Stream& stream, const Heads& heads, DType dtype, int32_t sequences, int32_t context,
       int32_t queries, int64_t least_bytes)
      : backend_(backend), stream_(stream), heads_(heads) {
    constexpr int32_t kBlock = 16;
    const int32_t blocks = (context + kBlock - 1) / kBlock;
    KvLayer kv;
    kv.dtype = dtype;
    kv.block_size = kBlock;
    kv.num_blocks = int64_t{blocks} * sequences;
    kv.num_kv_heads = heads.kv_heads;
    kv.head_dim = kv.v_head_dim = heads.dim;
    kv.block_bytes = backend.kv_block_bytes(kv);
    const int64_t bytes = kv.num_blocks * kv.block_bytes;
    const int64_t layers = std::max<int64_t>(1, least_bytes / bytes);
    memory_ = backend.allocate(static_cast<size_t>(layers * bytes), MemoryKind::kKvCache);
    // 0x3c3c is about 1 in float16, 0.01 in both other types.
    std::memset(memory_.data(), 0x3c, memory_.bytes());
    for (int64_t layer = 0; layer < layers; ++layer) {
      kv.data = static_cast<std::byte*>(memory_.data()) + layer * bytes;
      layers_.push_back(kv);
    }
    tables_.resize(static_cast<size_t>(kv.num_blocks));
    std::iota(tables_.begin(), tables_.end(), 0);
    contexts_.assign(static_cast<size_t>(sequences), context);
    for (int32_t s = 0; s <= sequences; ++s) starts_.push_back(s * queries);
    batch_.num_tokens = sequences * queries;
    batch_.num_sequences = sequences;
    batch_.query_start = starts_.data();
    batch_.context_lens = contexts_.data();
    batch_.block_tables = tables_.data();
    for (int32_t s = 0; s < sequences; ++s) block_starts_.push_back(s * blocks);
    batch_.block_starts = block_starts_.data();
    batch_.max_query_len = queries;
    batch_.num_single_queries = queries == 1 ? sequences : 0;
    q_.resize(static_cast<size_t>(batch_.num_tokens * heads.heads * heads.dim));
    std::minstd_rand random(3);
    for (float& value : q_) value = static_cast<float>(random() % 2048) / 1024.0f - 1.0f;
    out_.resize(q_.size());
  }

  /// Seconds of one layer.
  double pass() {
    AttentionArgs args;
    args.q = Tensor(q_.data(), DType::kFloat32, {batch_.num_tokens, heads_.heads, heads_.dim});
    args.out = Tensor(out_.data(), DType::kFloat32, {batch_.num_tokens, heads_.heads, heads_.dim});
    args.batch = &batch_;
    args.scale = 0.125f;
    const Clock::time_point start = Clock::now();
    for (const KvLayer& layer : layers_) {
      args.kv = layer;
      backend_.ops().attention(args, stream_);
    }
    const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
    return seconds / static_cast<double>(layers_.size());
  }

  double bytes() const { return static_cast<double>(memory_.bytes() / layers_.size()); }

 private:
  Backend& backend_;
  Stream& stream_;
  Heads heads_;
  Buffer memory_;
  std::vector<KvLayer> layers_;
  std::vector<int32_t> tables_, contexts_, starts_, block_starts_;
  std::vector<float> q_, out_;
  RaggedBatch batch_;
};

double time_of(Case& measured, double budget_seconds) {
  const double first = measured.pass();
  const int passes = std::clamp(static_cast<int>(budget_seconds / std::max(first, 1e-6)), 3, 15);
  std::vector<double> times;
  for (int i = 0; i < passes; ++i) times.push_back(measured.pass());
  return median(times);
}

void run(cpu::Isa isa, int threads, int32_t sequences) {
  const std::unique_ptr<Backend> backend =
      create_backend("cpu:" + std::string(cpu::isa_name(isa)), {.num_threads = threads});
  const std::unique_ptr<Stream> stream = backend->create_stream();
  ThreadPool& pool = cpu::as_cpu(*stream).pool();
  constexpr int64_t kColdBytes = 192 << 20;
  const Buffer cold = backend->allocate(kColdBytes, MemoryKind::kWeights);
  std::memset(cold.data(), 1, cold.bytes());
  for (const Heads& model : kModels) {
    for (const DType dtype : {DType::kFloat32, DType::kBFloat16, DType::kFloat16}) {
      for (const int32_t context : {256, 1024, 4096}) {
        Case measured(*backend, *stream, model, dtype, sequences, context, 1, kColdBytes);
        const double read = read_bandwidth(cold.data(), cold.bytes(), isa, pool);
        const double time = time_of(measured, 0.5);
        std::printf("%-8s %-9s decode  %5d  %9.1f us  %6.1f GB/s  %3.0f%% read\n", model.model,
                    std::string(dtype_name(dtype)).c_str(), context, time * 1e6, measured.bytes() / time * 1e-9,
                    100.0 * measured.bytes() / time / read);
      }
      for (const int32_t context : {512, 2048, 8192}) {
        Case measured(*backend, *stream, model, dtype, 1, context, context, 0);
        const double peak = peak_flops(isa, pool);
        const double time = time_of(measured, 0.5);
        const double pairs = 0.5 * context * (context + 1.0) * model.heads;
        const double flops = 4.0 * model.dim * pairs / time;
        std::printf("%-8s %-9s prefill %5d  %9.1f us  %6.1f GFLOP/s  %3.0f%% peak\n", model.model,
                    std::string(dtype_name(dtype)).c_str(), context, time * 1e6, flops * 1e-9, 100.0 * flops / peak);
      }
      std::fflush(stdout);
    }
  }
}

}  // namespace
}  // namespace quire::bench

int main(int argc, char** argv) {
  using quire::cpu::Isa;
  Isa isa = quire::cpu::best_isa();
  for (const Isa candidate : {Isa::kPortable, Isa::kAvx2, Isa::kAvx512}) {
    if (argc > 1 && quire::cpu::isa_name(candidate) == argv[1]) isa = candidate;
  }
  quire::bench::run(isa, argc > 2 ? std::atoi(argv[2]) : 0, argc > 3 ? std::atoi(argv[3]) : 1);
}
