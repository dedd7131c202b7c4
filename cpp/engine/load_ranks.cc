#include "engine/load_ranks.h"

#include <atomic>
#include <exception>
#include <future>
#include <mutex>
#include <utility>
#include <vector>

#include "comm/connect.h"
#include "core/check.h"
#include "core/log.h"
#include "engine/memory_plan.h"
#include "weights/dummy.h"
#include "weights/loader.h"
#include "weights/shard.h"

namespace quire {
namespace {

RunnerConfig runner_config(const OpenModel& model) {
  return {.max_num_batched_tokens = *model.config.max_num_batched_tokens,
          .max_num_seqs = model.config.max_num_seqs,
          .max_model_len = model.description.memory.max_model_len,
          .max_logprobs = model.config.max_logprobs,
          .block_size = model.config.block_size,
          .num_blocks = model.description.memory.num_blocks,
          .num_swap_blocks = model.description.memory.num_swap_blocks,
          .dtype = model.dtype,
          .kv_dtype = model.kv_dtype,
          .rows_per_slice = model.rows_per_slice,
          .record_graphs = !model.config.enforce_eager};
}

ModelWeights load_share(const OpenModel& model, Rank rank, Backend& backend, Stream& stream,
                        const LoadProgress& progress) {
  if (!model.checkpoint) return load_dummy_weights(model.folder, model.weight_dtype, backend, stream, rank);
  return load_weights(model.folder, *model.checkpoint, model.weight_dtype, backend, stream, progress, rank);
}

/// Takes backend and communicator if all goes well.
std::unique_ptr<Runner> load_runner(const OpenModel& model, Rank rank, std::unique_ptr<Backend>& backend,
                                    std::unique_ptr<Communicator>& ranks, const LoadProgress& progress) {
  const ModelSpec spec = shard_of(model.folder.spec, rank);
  const RunnerConfig config = runner_config(model);
  std::unique_ptr<Stream> stream = backend->create_stream();
  // Locking gigabytes of the host's memory takes as long as reading a small model.
  std::future<KvMemory> swap_space =
      std::async(config.num_swap_blocks > 0 ? std::launch::async : std::launch::deferred,
                 [&spec, &config, &backend = *backend] { return Runner::swap_space(spec, backend, config); });
  ModelWeights weights = load_share(model, rank, *backend, *stream, progress);
  return std::make_unique<Runner>(spec, std::move(weights), swap_space.get(), std::move(backend), std::move(stream),
                                  config, std::move(ranks));
}

Communicators connect_ranks(const OpenModel& model) {
  std::vector<Backend*> backends;
  for (const auto& backend : model.backends) backends.push_back(backend.get());
  if (backends.size() > 1) return connect(backends);
  Communicators none;
  none.emplace_back();
  return none;
}

}  // namespace

std::unique_ptr<Ranks> load_ranks(OpenModel& model, const LoadProgress& progress) {
  log(LogLevel::kInfo, describe_plan(model.description.memory, model.description.backend));
  Communicators communicators = connect_ranks(model);
  std::vector<std::unique_ptr<Runner>> runners(model.backends.size());
  std::mutex mutex;
  std::exception_ptr failure;
  std::atomic<bool> failed{false};
  const auto load = [&](size_t index) {
    const Rank rank{static_cast<int32_t>(index), static_cast<int32_t>(runners.size())};
    const LoadProgress watched = [&](double share) {
      // No rank reads on for minutes when another one has failed.
      QUIRE_REQUIRE(!failed.load(), ErrorKind::kInternal, "[engine] another rank has failed");
      if (index == 0 && progress) progress(share);
    };
    try {
      runners[index] = load_runner(model, rank, model.backends[index], communicators[index], watched);
    } catch (...) {
      const std::lock_guard lock(mutex);
      if (failure == nullptr) failure = std::current_exception();
      failed.store(true);
    }
  };
  std::vector<std::future<void>> others;
  for (size_t index = 1; index < runners.size(); ++index) others.push_back(std::async(std::launch::async, load, index));
  load(0);
  for (std::future<void>& other : others) other.get();
  if (failure != nullptr) {
    // Their ends wait for nobody.
    for (const auto& runner : runners) {
      if (runner != nullptr) runner->abort();
    }
    for (const auto& communicator : communicators) {
      if (communicator != nullptr) communicator->abort();
    }
    std::rethrow_exception(failure);
  }
  return std::make_unique<Ranks>(std::move(runners));
}

}  // namespace quire
