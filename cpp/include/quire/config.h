#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace quire {

/// Which distribution Output's log-probabilities are taken from.
enum class LogprobsMode {
  kProcessed,  ///< after bias, penalties, temperature and truncation, as vLLM 0.4.0
  kRaw,        ///< of the model's own logits, as vLLM since 0.11
};

/// What an engine is built from. Everything but `model` has a working default.
struct EngineConfig {
  /// Folder in Hugging Face layout: config.json, weights, tokenizer files.
  std::string model;
  /// Folder of the tokenizer, if it is not the model's. Empty: `model`.
  std::string tokenizer;
  /// Where weights come from: "auto", the folder's safetensors or, without them, its pytorch_model.bin; "dummy", random
  /// ones of the shapes that config.json gives, to measure with.
  std::string load_format = "auto";
  /// Read the vocabulary from the tokenizer's folder, so that outputs carry text and stop strings work.
  bool with_vocabulary = true;
  /// "auto": a GPU if there is one, else the CPU. "cuda" or "cuda:1": that one of NVIDIA's, "hip" or "hip:1": of AMD's.
  /// "cpu"; "cpu:portable", "cpu:avx2" and "cpu:avx512" force one instruction set.
  std::string device = "auto";
  /// Devices that compute the model together, each with a share of every layer (tensor parallelism): from `device` on,
  /// GPUs of one kind; on the CPU, whose threads they share, for tests. All numbers of memory below are of each. It
  /// must divide the model's attention heads and feed-forward widths, and divide or be divided by its key and value
  /// heads. Range: 1 to 64.
  int32_t tensor_parallel_size = 1;
  /// Type of weights and KV cache, and on a GPU of what passes between its operations: "auto" (as stored), "float32",
  /// "bfloat16" ("bf16"), "float16" ("half"). Arithmetic on the CPU is float32 always; "float32" keeps 16-bit weights
  /// as stored, which is exact, and makes the KV cache float32.
  std::string dtype = "auto";
  /// Longest prompt plus output in tokens; unset: what the model's config allows. If the KV cache does not hold that,
  /// the CPU takes what it holds, and says so in the log; on a GPU it is an error. Range: >= 2.
  std::optional<int32_t> max_model_len;
  /// With max_model_len unset: take what the KV cache holds, on a GPU as well.
  bool fit_max_model_len = false;
  /// Tokens per KV block. One of 8, 16, 32, 64, 128.
  int32_t block_size = 16;
  /// Most sequences in one step. Range: >= 1.
  int32_t max_num_seqs = 256;
  /// Most tokens computed in one step; longer prompts are computed in chunks. Unset: 512 on the CPU, 8192 on a GPU.
  /// Range: >= 1.
  std::optional<int32_t> max_num_batched_tokens;
  /// Share of a GPU's memory that may be in use once the engine has all of its own, other programs included: what
  /// weights and workspace leave of it becomes the KV cache. Without effect on the CPU. Range: (0, 1].
  double gpu_memory_utilization = 0.9;
  /// Bytes of the KV cache, over gpu_memory_utilization. Unset: see cpp/README.md, "Memory plan".
  std::optional<int64_t> kv_cache_memory_bytes;
  /// Bytes of the host's memory, page-locked, for keys and values of preempted requests with several sequences (n > 1),
  /// which are swapped out where there is room and computed again where there is not; 0: always computed again. No more
  /// is taken than max_num_seqs sequences of max_model_len fill. Without effect on the CPU, whose KV cache lies in the
  /// host's memory already. Range: >= 0.
  int64_t swap_space_bytes = int64_t{4} << 30;
  /// Number of KV blocks, over any other setting; for tests of preemption.
  std::optional<int32_t> num_blocks_override;
  /// Reuse KV blocks of equal prompt beginnings between requests.
  bool enable_prefix_caching = true;
  /// Enqueue every operation of every step on a GPU, rather than record a step once and repeat the record.
  bool enforce_eager = false;
  /// On a GPU: what a request gets depends to the last bit on the request alone, not on what else runs, on the cache or
  /// on preemption, at some cost of speed. The CPU, and a GPU with float32, are always so.
  bool deterministic = false;
  /// Threads of the CPU that compute, of all devices together, with at least one for each. 0: one per physical core of
  /// this process's affinity mask.
  int32_t num_threads = 0;
  /// Seed of the requests that bring none.
  int64_t seed = 0;
  /// Upper bound of SamplingParams::logprobs and prompt_logprobs.
  int32_t max_logprobs = 20;
  LogprobsMode logprobs_mode = LogprobsMode::kProcessed;
  /// Requests that may wait or run at a time; submit beyond it is refused with kInvalidArgument. Range: >= 1.
  int64_t max_queued_requests = 1 << 20;

  /// Check all that can be checked without reading the model.
  /// Raises: kInvalidArgument naming field and value.
  void validate() const;
};

}  // namespace quire
