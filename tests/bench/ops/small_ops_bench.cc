// Time of the ops beside linear and attention: those of a decode step, one token wide, and sampling.
//
//   bench_small_ops [isa: avx512 | avx2 | portable] [threads]
//
// Everything is in the caches, as it is in a decode step. Medians of 31 runs.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "backend/cpu/cpu_features.h"
#include "backend/registry.h"

namespace quire::bench {
namespace {

using Clock = std::chrono::steady_clock;

double time_of(int repeats, const std::function<void()>& body) {
  std::vector<double> times;
  for (int run = 0; run < 31; ++run) {
    const Clock::time_point start = Clock::now();
    for (int i = 0; i < repeats; ++i) body();
    times.push_back(std::chrono::duration<double>(Clock::now() - start).count() / repeats);
  }
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

void print(const std::string& name, double seconds) {
  std::printf("  %-34s %9.2f us\n", name.c_str(), seconds * 1e6);
  std::fflush(stdout);
}

std::vector<float> random_floats(int64_t size, uint32_t seed, float scale) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal(0.0f, scale);
  std::vector<float> values(static_cast<size_t>(size));
  for (float& value : values) value = normal(generator);
  return values;
}

struct Model {
  const char* name;
  int64_t width;
  int64_t heads;
  int64_t kv_heads;
  int64_t ffn;
};

void bench_step(Backend& backend, Stream& stream, const Model& model, int64_t tokens) {
  constexpr int64_t kDim = 64;
  const Ops& ops = backend.ops();
  std::printf("%s, %ld token(s)\n", model.name, static_cast<long>(tokens));
  std::vector<float> x = random_floats(tokens * 2 * model.ffn, 1, 1.0f);
  std::vector<float> out(x.size());
  const std::vector<float> weight(static_cast<size_t>(model.width), 1.0f);
  std::vector<int32_t> ids(static_cast<size_t>(tokens), 3);
  std::vector<uint16_t> table(static_cast<size_t>(8 * model.width), 0x3c3c);

  EmbedArgs embed;
  embed.table = Tensor(table.data(), DType::kBFloat16, {8, model.width});
  embed.ids = ids.data();
  embed.out = Tensor(out.data(), DType::kFloat32, {tokens, model.width});
  print("embed", time_of(200, [&] { ops.embed(embed, stream); }));

  NormArgs norm;
  norm.x = Tensor(x.data(), DType::kFloat32, {tokens, model.width});
  norm.weight = Tensor(const_cast<float*>(weight.data()), DType::kFloat32, {model.width});
  norm.out = Tensor(out.data(), DType::kFloat32, {tokens, model.width});
  print("norm rms", time_of(200, [&] { ops.norm(norm, stream); }));
  norm.kind = NormKind::kLayer;
  print("norm layer", time_of(200, [&] { ops.norm(norm, stream); }));

  std::vector<float> angles(64 * kDim / 2, 0.5f);
  RopeArgs rope;
  rope.x = Tensor(x.data(), DType::kFloat32, {tokens, model.heads + model.kv_heads, kDim});
  rope.rows = ids.data();
  rope.cos = rope.sin = Tensor(angles.data(), DType::kFloat32, {64, kDim / 2});
  rope.out = rope.x;
  print("rope half", time_of(200, [&] { ops.rope(rope, stream); }));
  rope.layout = RopeLayout::kInterleaved;
  print("rope interleaved", time_of(200, [&] { ops.rope(rope, stream); }));

  KvWriteArgs write;
  const int64_t blocks = (tokens + 15) / 16;
  write.kv = {.dtype = DType::kBFloat16,
              .num_blocks = blocks,
              .block_size = 16,
              .num_kv_heads = static_cast<int32_t>(model.kv_heads),
              .head_dim = kDim,
              .v_head_dim = kDim};
  write.kv.block_bytes = backend.kv_block_bytes(write.kv);
  const Buffer pages = backend.allocate(static_cast<size_t>(blocks * write.kv.block_bytes), MemoryKind::kKvCache);
  write.kv.data = pages.data();
  std::vector<int64_t> slots(static_cast<size_t>(tokens));
  std::iota(slots.begin(), slots.end(), 0);
  write.k = write.v = Tensor(x.data(), DType::kFloat32, {tokens, model.kv_heads, kDim});
  write.slots = slots.data();
  print("kv_write bfloat16", time_of(200, [&] { ops.kv_write(write, stream); }));

  ActivationArgs act;
  act.rule.gated = true;
  act.x = Tensor(x.data(), DType::kFloat32, {tokens, 2 * model.ffn});
  act.out = Tensor(out.data(), DType::kFloat32, {tokens, model.ffn});
  for (const auto& [kind, name] : {std::pair{Activation::kSilu, "silu, gated"},
                                   {Activation::kGelu, "gelu, gated"},
                                   {Activation::kGeluTanh, "gelu_tanh, gated"}}) {
    act.rule.kind = kind;
    print(name, time_of(100, [&] { ops.activation(act, stream); }));
  }

  const Tensor width(x.data(), DType::kFloat32, {tokens, model.width});
  const Tensor sums(out.data(), DType::kFloat32, {tokens, model.width});
  print("add", time_of(200, [&] { ops.add({.x = width, .out = sums}, stream); }));
  print("clip", time_of(200, [&] { ops.clip({.x = sums, .limit = 8.0f}, stream); }));
}

void bench_route(Backend& backend, Stream& stream, int64_t tokens) {
  std::vector<float> logits = random_floats(tokens * 256, 8, 1.0f);
  std::vector<int32_t> experts(static_cast<size_t>(tokens * 8));
  std::vector<float> weights(experts.size());
  RouteArgs args;
  args.logits = Tensor(logits.data(), DType::kFloat32, {tokens, 256});
  args.renormalize = true;
  args.top_k = 8;
  args.experts = experts.data();
  args.weights = weights.data();
  std::printf("route, %ld token(s) to 8 of 256 experts\n", static_cast<long>(tokens));
  print("softmax", time_of(20, [&] { backend.ops().route(args, stream); }));
  args.scoring = RouterScoring::kSigmoid;
  args.num_groups = 8;
  args.top_groups = 4;
  args.group_scoring = GroupScoring::kSumOfBestTwo;
  print("sigmoid, 4 of 8 groups", time_of(20, [&] { backend.ops().route(args, stream); }));
}

void bench_sample(Backend& backend, Stream& stream, int64_t vocabulary, int64_t rows) {
  std::printf("sample, %ld row(s) of %ld\n", static_cast<long>(rows), static_cast<long>(vocabulary));
  // Peaked as a language model's are: some tokens far above the many.
  std::vector<float> logits = random_floats(rows * vocabulary, 5, 2.0f);
  std::mt19937 generator(6);
  for (int i = 0; i < 40 * rows; ++i) logits[generator() % logits.size()] += 12.0f;
  std::vector<SampleRow> choices(static_cast<size_t>(rows));
  constexpr int32_t kMaxCandidates = 6;
  std::vector<SampledToken> tokens(choices.size());
  std::vector<SampledCandidate> candidates(choices.size() * kMaxCandidates);
  SampleArgs args;
  args.logits = Tensor(logits.data(), DType::kFloat32, {rows, vocabulary});
  args.rows = choices.data();
  args.tokens = tokens.data();
  args.candidates = candidates.data();
  args.max_candidates = kMaxCandidates;
  const auto measure = [&](const char* name, const SampleRow& choice) {
    std::fill(choices.begin(), choices.end(), choice);
    uint64_t position = 0;
    print(name, time_of(20, [&] {
            for (SampleRow& row : choices) row.position = ++position;
            backend.ops().sample(args, stream);
          }));
  };
  measure("greedy", {.temperature = 0.0f});
  measure("temperature", {.temperature = 0.8f});
  measure("top_k 40", {.temperature = 0.8f, .top_k = 40});
  measure("top_p 0.9", {.temperature = 0.8f, .top_p = 0.9f});
  measure("top_k 40, top_p 0.9, min_p 0.05", {.temperature = 0.8f, .top_p = 0.9f, .min_p = 0.05f, .top_k = 40});
  measure("top_p 0.9, temperature 10: flat", {.temperature = 10.0f, .top_p = 0.9f});
  measure("greedy, 5 logprobs", {.temperature = 0.0f, .num_logprobs = 5});
}

}  // namespace
}  // namespace quire::bench

int main(int argc, char** argv) {
  using quire::cpu::Isa;
  const std::string isa = argc > 1 ? argv[1] : std::string(quire::cpu::isa_name(quire::cpu::best_isa()));
  const auto backend = quire::create_backend("cpu:" + isa, {.num_threads = argc > 2 ? std::atoi(argv[2]) : 0});
  const auto stream = backend->create_stream();
  std::printf("%s, %d threads\n", backend->name().c_str(), backend->num_threads());
  for (const int64_t tokens : {1, 16, 512}) {
    quire::bench::bench_step(*backend, *stream, {"smol", 576, 9, 3, 1536}, tokens);
    quire::bench::bench_step(*backend, *stream, {"qwen05", 896, 14, 2, 4864}, tokens);
    quire::bench::bench_route(*backend, *stream, tokens);
  }
  for (const int64_t rows : {1, 16}) {
    quire::bench::bench_sample(*backend, *stream, 49152, rows);
    quire::bench::bench_sample(*backend, *stream, 151936, rows);
  }
}
