#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "quire/config.h"
#include "quire/request.h"
#include "quire/vocabulary.h"

namespace quire {

/// What a model folder says, read without its weights.
struct ModelInfo {
  std::string architecture;  ///< as in config.json
  std::string family;        ///< the row of the family table
  std::string dtype;         ///< of the stored weights: "float32", "bfloat16", "float16"
  int64_t num_parameters = 0;
  int64_t weight_bytes = 0;
  int32_t vocab_size = 0;
  int32_t num_layers = 0;
  int32_t hidden_size = 0;
  int32_t num_heads = 0;
  int32_t num_kv_heads = 0;
  int32_t head_dim = 0;
  /// Longest sequence the config allows, rope scaling included.
  int32_t max_position_embeddings = 0;
  /// Tokens that end a text: generation_config.json's and config.json's.
  std::vector<int32_t> eos_token_ids;
  std::optional<int32_t> bos_token_id;
};

/// Where the memory of each rank goes (EngineConfig::tensor_parallel_size); all in bytes unless named otherwise.
struct MemoryPlan {
  int32_t num_ranks = 1;
  int64_t weight_bytes = 0;
  int64_t kv_cache_bytes = 0;
  int64_t kv_bytes_per_token = 0;
  int64_t workspace_bytes = 0;  ///< and, between several ranks, what they send each other by
  /// Page-locked memory of the host for what is swapped out, and the blocks that it holds; 0 on the CPU.
  int64_t swap_space_bytes = 0;
  int32_t num_swap_blocks = 0;
  int32_t num_blocks = 0;
  int32_t block_size = 0;
  int32_t max_model_len = 0;
  /// Memory of the device, a GPU's own or the host's: what was free when the plan was made, and all there is. Of
  /// several GPUs the one with least; of the host the rank's part.
  int64_t available_bytes = 0;
  int64_t total_bytes = 0;
};

/// A folder looked at without reading weights: what `quire info` prints.
struct ModelDescription {
  ModelInfo model;
  MemoryPlan memory;
  /// The backend that would run it, e.g. "cpu (avx512)" or "cuda:0 (NVIDIA H200, sm_90)"; of several ranks the first
  /// one's, followed by ", 2 ranks".
  std::string backend;
  int32_t num_threads = 0;
};

/// A kind of device that quire knows, and what is to be had of it here: what `quire info --devices` prints.
struct DeviceKind {
  std::string name;         ///< as in EngineConfig::device: "cpu", "cuda", "hip"
  int32_t num_devices = 0;  ///< that can be used
  std::string why_none;     ///< what is missing, and what to do
  std::string targets;      ///< the chips that this build's code is for; empty if it has none
  std::string standing;     ///< on which of them it has been run, and measured
};

/// Counters of a running engine. Consistent with each other: taken between two steps.
struct EngineStats {
  // Sequences, of which a request has as many as it asks for once its prompt is computed.
  int64_t num_running = 0;
  int64_t num_waiting = 0;
  int64_t num_swapped = 0;  ///< preempted, their keys and values being in the host's memory
  int64_t num_blocks = 0;
  int64_t num_free_blocks = 0;  ///< cached but unused blocks count as free
  int64_t num_swap_blocks = 0;  ///< of the host
  int64_t num_free_swap_blocks = 0;
  int64_t num_steps = 0;
  int64_t num_preemptions = 0;       ///< of sequences
  int64_t num_swap_preemptions = 0;  ///< of them, by swapping out
  int64_t num_prompt_tokens = 0;     ///< computed, not found in the cache; again after a preemption
  int64_t num_cached_tokens = 0;     ///< found in the prefix cache
  int64_t num_generated_tokens = 0;
  int64_t num_finished_requests = 0;
};

/// Called by the thread that opens a model, with the share of the weights that has been read, in [0, 1].
using LoadProgress = std::function<void(double share)>;

/// Runs one model: an engine thread that schedules and computes, and a queue in front of it.
/// Thread safety: every method may be called from any thread, also from within a callback, close() excepted.
class Engine {
 public:
  /// Read the model and start the engine thread. `progress` is called while weights are read.
  /// Raises: kNotFound, kInvalidArgument, kUnsupported, kOutOfMemory; see Error. What leaves `progress`.
  static std::unique_ptr<Engine> create(const EngineConfig& config, const LoadProgress& progress = {});

  /// Read what can be known about a folder without its weights.
  /// Raises: as create().
  static ModelDescription describe(const EngineConfig& config);

  /// The rows of the family table: a family's name, and the architecture names in config.json that it serves.
  static std::vector<std::pair<std::string, std::vector<std::string>>> families();

  /// All kinds of devices. Asks the drivers.
  static std::vector<DeviceKind> devices();

  virtual ~Engine() = default;

  /// Queue a request; its callback is called from the engine thread until Output::finished.
  /// Raises: kInvalidArgument for parameters, ids or lengths out of range, a full queue or a closed engine; the engine
  /// and its other requests are untouched by a refused one. kInternal with the stored message after the engine has
  /// failed.
  virtual RequestId submit(Request request, OutputCallback callback) = 0;

  /// End a request within one step; its callback is called with kAbort. Returns false if it is unknown or has ended.
  virtual bool cancel(RequestId id) = 0;

  /// Cancel what runs, stop the thread and give all memory back. Called by the destructor; a second call does nothing.
  virtual void close() = 0;

  /// Why the engine takes no requests any more, if it has failed. Set before the outputs of the requests that fail with
  /// it are handed out.
  virtual std::optional<std::string> failure() const = 0;

  virtual EngineStats stats() const = 0;
  virtual const ModelDescription& description() const = 0;
  /// The configuration with every "auto" resolved.
  virtual const EngineConfig& config() const = 0;
  /// Null if EngineConfig::with_vocabulary was false.
  virtual std::shared_ptr<const Vocabulary> vocabulary() const = 0;

  /// Seconds on the steady clock that RequestMetrics uses.
  static double now();
};

}  // namespace quire
