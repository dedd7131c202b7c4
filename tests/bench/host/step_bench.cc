// What a step costs the host: an engine loop on a backend whose ops do nothing, so that all that is left is planning,
// packing, launching, reading results and making outputs.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <vector>

#include "engine/loop.h"
#include "quire/output_queue.h"
#include "runtime/host_backend.h"

namespace quire {
namespace {

struct Case {
  const char* name;
  int32_t num_sequences;
  int32_t prompt_length;
  bool penalties = false;
  bool deltas = false;
};

ModelSpec spec_of_no_layers(int32_t max_positions) {
  ModelSpec spec;
  spec.vocab = 1000;
  spec.width = 16;
  spec.max_positions = max_positions;
  return spec;
}

void measure(const Case& one) {
  constexpr int32_t kBlockSize = 16;
  const int32_t num_steps = std::clamp(200'000 / one.num_sequences, 1000, 20'000);
  const int32_t length = one.prompt_length + num_steps + 1;
  const int32_t num_blocks = one.num_sequences * (length / kBlockSize + 2);
  auto backend = std::make_unique<HostBackend>();
  backend->records = backend->behind = true;
  auto stream = backend->create_stream();
  const ModelSpec spec = spec_of_no_layers(length);
  const RunnerConfig config{.max_num_batched_tokens = 8192,
                            .max_num_seqs = one.num_sequences,
                            .max_model_len = length,
                            .block_size = kBlockSize,
                            .num_blocks = num_blocks};
  KvMemory swap_space = Runner::swap_space(spec, *backend, config);
  auto runner = std::make_unique<Runner>(spec, ModelWeights{}, std::move(swap_space), std::move(backend),
                                         std::move(stream), config);
  Loop loop(std::make_unique<Ranks>(std::move(runner)),
            {.block_size = kBlockSize,
             .num_blocks = num_blocks,
             .max_num_seqs = one.num_sequences,
             .max_num_batched_tokens = 8192,
             .max_model_len = length},
            {.max_model_len = length}, 10'000);
  const auto queue = OutputQueue::create();
  for (int32_t i = 0; i < one.num_sequences; ++i) {
    Request request;
    for (int32_t t = 0; t < one.prompt_length; ++t) request.prompt_token_ids.push_back((t * 7 + i) % 1000);
    request.sampling.max_tokens = num_steps;
    request.sampling.temperature = 0.8f;
    request.sampling.top_p = 0.9f;
    if (one.penalties) request.sampling.frequency_penalty = 0.5f;
    request.output_kind = one.deltas ? OutputKind::kDelta : OutputKind::kFinalOnly;
    loop.queue().submit(std::move(request), queue->callback());
  }
  std::thread thread([&] { loop.run(); });
  // From when all decode until some end.
  while (loop.stats().num_running < one.num_sequences || loop.stats().num_generated_tokens < one.num_sequences * 50) {
    std::this_thread::yield();
  }
  const auto begin = std::chrono::steady_clock::now();
  const int64_t first = loop.stats().num_steps;
  while (loop.stats().num_generated_tokens < int64_t{one.num_sequences} * (num_steps - 50)) {
    std::this_thread::sleep_for(std::chrono::microseconds(200));
  }
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  std::printf("%-44s %7.1f us a step\n", one.name, seconds * 1e6 / static_cast<double>(loop.stats().num_steps - first));
  loop.queue().close();
  thread.join();
}

}  // namespace
}  // namespace quire

int main() {
  for (const quire::Case& one :
       {quire::Case{"1 sequence", 1, 100}, quire::Case{"16 sequences", 16, 100}, quire::Case{"64 sequences", 64, 100},
        quire::Case{"256 sequences", 256, 100}, quire::Case{"256 sequences of 2000 tokens", 256, 2000},
        quire::Case{"256 sequences, frequency penalty", 256, 100, true},
        quire::Case{"256 sequences, outputs as deltas", 256, 100, false, true}}) {
    quire::measure(one);
  }
}
