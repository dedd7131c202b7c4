#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "backend/kv_cache.h"
#include "backend/ops.h"
#include "backend/packed_linear.h"
#include "core/buffer.h"

namespace quire {

/// Raised with every change of this folder's headers; a backend loaded as a shared object must have been built with the
/// same.
constexpr int kBackendInterfaceVersion = 1;

/// An ordered queue of work on one device. Ops on a stream run one after the other; synchronize() waits for all.
class Stream {
 public:
  virtual ~Stream() = default;
  virtual void synchronize() = 0;
};

/// What memory is for, so that a backend can place it.
enum class MemoryKind {
  kWeights,   ///< written once
  kKvCache,   ///< reserved at once, committed as it is touched where the system can
  kWorkspace  ///< activations
};

/// Memory, streams and ops of one device kind.
/// Thread safety: const methods from any thread; a stream and the ops on it from one thread at a time.
class Backend {
 public:
  virtual ~Backend() = default;

  /// As users read it: "cpu (avx512)".
  virtual std::string name() const = 0;

  /// The op table. Valid as long as the backend.
  virtual const Ops& ops() const = 0;

  virtual std::unique_ptr<Stream> create_stream() = 0;

  /// 64-byte aligned or better; kKvCache memory reads as zero.
  /// Raises: kOutOfMemory with the size and what is free.
  virtual Buffer allocate(size_t bytes, MemoryKind kind) = 0;

  /// Host to device memory, and back. Returns when `source` may be reused.
  virtual void copy_to_device(void* destination, const void* source, size_t bytes, Stream& stream) = 0;
  virtual void copy_to_host(void* destination, const void* source, size_t bytes, Stream& stream) = 0;

  /// Lay a weight matrix out for the linear op. Called while loading, from one thread.
  /// Raises: kUnsupported for a type that the backend has no kernel for, kOutOfMemory.
  virtual PackedLinear pack_linear(const LinearSource& source, Stream& stream) = 0;

  /// Bytes of one KV page of one layer.
  virtual int64_t kv_block_bytes(DType dtype, int32_t block_size, int32_t num_kv_heads, int32_t head_dim,
                                 int32_t v_head_dim) const = 0;

  /// Bytes of this device's memory that could be had now.
  virtual int64_t available_memory() const = 0;

  /// Workers that share an op; 1 where that has no meaning.
  virtual int num_threads() const = 0;
};

}  // namespace quire
