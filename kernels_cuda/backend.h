#pragma once

#include <memory>
#include <string>

#include "backend/backend.h"
#include "comm/communicator.h"
#include "kernels_cuda/gemm/blas.h"
#include "kernels_cuda/memory.h"
#include "kernels_cuda/stream.h"

namespace quire::gpu {

/// GPUs that this process can use; 0 with the reason in `why_none`: no driver, an old one, no device.
int count_devices(std::string& why_none);

/// One GPU.
class GpuBackend final : public Backend {
 public:
  /// Raises: kUnsupported without a usable device, with what to do; kInvalidArgument for an ordinal that is not there;
  /// kOutOfMemory.
  GpuBackend(int ordinal, const BackendOptions& options);
  ~GpuBackend() override;

  std::string name() const override;
  const Ops& ops() const override;
  std::unique_ptr<Stream> create_stream() override;
  std::unique_ptr<Event> create_event() override;
  Buffer allocate(size_t bytes, MemoryKind kind) override;
  Buffer allocate_host(size_t bytes) override;
  void copy_to_device(void* destination, const void* source, size_t bytes, Stream& stream) override;
  void copy_to_host(void* destination, const void* source, size_t bytes, Stream& stream) override;
  void enqueue_to_device(void* destination, const void* source, size_t bytes, Stream& stream) override;
  void enqueue_to_host(void* destination, const void* source, size_t bytes, Stream& stream) override;
  bool runs_behind() const override { return true; }
  bool records_graphs() const override { return true; }
  void begin_recording(Stream& stream) override;
  std::unique_ptr<Graph> end_recording(Stream& stream) override;
  DType activation_dtype(DType dtype) const override { return dtype; }
  PackedLinear pack_linear(const LinearSource& source, Stream& stream) override;
  int64_t kv_block_bytes(const KvLayer& shape) const override;
  size_t moe_scratch_bytes(const MoeShape& shape) const override;
  size_t sample_scratch_bytes(int64_t num_rows, int64_t vocabulary) const override;
  int64_t available_memory() const override;
  int64_t total_memory() const override;
  int num_threads() const override { return 1; }
  Communicators connect(std::span<Backend* const> ranks) override;
  int64_t connection_bytes(int num_ranks) const override;

 private:
  void use_device() const;
  Buffer allocate_zeroed(size_t bytes);

  Resources resources_;
  WeightArena weights_;
  Uploader uploader_;
  Buffer scratch_;
  Buffer counters_;
  Buffer exchange_;
  Buffer blas_workspace_;
  std::unique_ptr<Blas> blas_;
  std::string why_no_blas_;
};

}  // namespace quire::gpu
