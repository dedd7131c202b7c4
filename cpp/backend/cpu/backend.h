#pragma once

#include <memory>
#include <string>

#include "backend/backend.h"
#include "backend/cpu/cpu_features.h"
#include "backend/cpu/memory.h"
#include "core/thread_pool.h"

namespace quire::cpu {

/// The processor and its memory. All streams share the backend's threads, so ops of different streams may not run at
/// the same time.
class CpuBackend final : public Backend {
 public:
  /// `num_threads`: 0 for one per physical core.
  /// Raises: kUnsupported if this processor or build lacks `isa`; what ThreadPool raises.
  CpuBackend(Isa isa, int num_threads);

  std::string name() const override;
  const Ops& ops() const override { return *ops_; }
  std::unique_ptr<Stream> create_stream() override;
  Buffer allocate(size_t bytes, MemoryKind kind) override;
  void copy_to_device(void* destination, const void* source, size_t bytes, Stream& stream) override;
  void copy_to_host(void* destination, const void* source, size_t bytes, Stream& stream) override;
  PackedLinear pack_linear(const LinearSource& source, Stream& stream) override;
  int64_t kv_block_bytes(DType dtype, int32_t block_size, int32_t num_kv_heads, int32_t head_dim,
                         int32_t v_head_dim) const override;
  int64_t available_memory() const override;
  int num_threads() const override { return pool_.size(); }

 private:
  Isa isa_;
  const Ops* ops_;
  ThreadPool pool_;
  WeightArena weights_;
};

}  // namespace quire::cpu
