#pragma once

#include <memory>
#include <string>

#include "backend/backend.h"
#include "backend/cpu/cpu_features.h"
#include "backend/cpu/memory.h"
#include "comm/communicator.h"
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
  std::unique_ptr<Event> create_event() override;
  Buffer allocate(size_t bytes, MemoryKind kind) override;
  Buffer allocate_host(size_t bytes) override { return allocate(bytes, MemoryKind::kWorkspace); }
  void copy_to_device(void* destination, const void* source, size_t bytes, Stream& stream) override;
  void copy_to_host(void* destination, const void* source, size_t bytes, Stream& stream) override;
  void enqueue_to_device(void* destination, const void* source, size_t bytes, Stream& stream) override;
  void enqueue_to_host(void* destination, const void* source, size_t bytes, Stream& stream) override;
  bool runs_behind() const override { return false; }
  bool records_graphs() const override { return false; }
  void begin_recording(Stream& stream) override;
  std::unique_ptr<Graph> end_recording(Stream& stream) override;
  DType activation_dtype(DType) const override { return DType::kFloat32; }
  PackedLinear pack_linear(const LinearSource& source, Stream& stream) override;
  int64_t kv_block_bytes(const KvLayer& shape) const override;
  size_t moe_scratch_bytes(const MoeShape& shape) const override;
  size_t sample_scratch_bytes(int64_t, int64_t) const override { return 0; }
  int64_t available_memory() const override;
  int64_t total_memory() const override;
  int num_threads() const override { return pool_.size(); }
  Communicators connect(std::span<Backend* const>) override { return {}; }
  int64_t connection_bytes(int) const override { return 0; }

 private:
  Isa isa_;
  const Ops* ops_;
  ThreadPool pool_;
  WeightArena weights_;
};

}  // namespace quire::cpu
