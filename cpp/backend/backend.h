#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "backend/kv_cache.h"
#include "backend/ops.h"
#include "backend/packed_linear.h"
#include "core/buffer.h"

namespace quire {

class Communicator;

/// Raised with every change of this folder's headers; a backend loaded as a shared object must have been built with the
/// same.
constexpr int kBackendInterfaceVersion = 7;

/// An ordered queue of work on one device. Ops on a stream run one after the other; synchronize() waits for all.
class Stream {
 public:
  virtual ~Stream() = default;
  /// Raises: kDevice if the device has failed.
  virtual void synchronize() = 0;
};

/// A place in a stream's work.
class Event {
 public:
  virtual ~Event() = default;
  /// The place behind all that has been enqueued so far.
  virtual void record(Stream& stream) = 0;
  /// Wait until the recorded place has been reached. Raises: kDevice if the device has failed.
  virtual void wait() = 0;
};

/// Work of a stream that has been recorded, with its arguments, and can be enqueued again at once.
class Graph {
 public:
  virtual ~Graph() = default;
  virtual void launch(Stream& stream) = 0;
};

/// What memory is for, so that a backend can place it.
enum class MemoryKind {
  kWeights,   ///< written once
  kKvCache,   ///< reserved at once, committed as it is touched where the system can
  kWorkspace  ///< activations
};

/// What the user has asked of a backend.
struct BackendOptions {
  /// Of the processor; 0 for one per physical core.
  int num_threads = 0;
  /// A row's result depends on nothing but the row: not on the batch, the cut of a prompt into steps, or the cache. The
  /// CPU always keeps to it.
  bool deterministic = false;
};

/// Memory, streams and ops of one device kind.
/// Thread safety: const methods from any thread; a stream and the ops on it from one thread at a time.
class Backend {
 public:
  virtual ~Backend() = default;

  /// As users read it: "cpu (avx512)", "cuda:0 (NVIDIA H200, sm_90)".
  virtual std::string name() const = 0;

  /// The op table. Valid as long as the backend.
  virtual const Ops& ops() const = 0;

  virtual std::unique_ptr<Stream> create_stream() = 0;
  virtual std::unique_ptr<Event> create_event() = 0;

  /// 64-byte aligned or better (256 on a GPU); kKvCache memory reads as zero.
  /// Raises: kOutOfMemory with the size and what is free.
  virtual Buffer allocate(size_t bytes, MemoryKind kind) = 0;

  /// Memory of the host that this device copies from and to at full speed, and that its copy_blocks op reaches:
  /// page-locked, where there is such a thing. From any thread: locking takes long enough to be done beside other work.
  /// Raises: kOutOfMemory.
  virtual Buffer allocate_host(size_t bytes) = 0;

  /// Host to device memory, and back. Returns when `source` may be reused, or `destination` read.
  virtual void copy_to_device(void* destination, const void* source, size_t bytes, Stream& stream) = 0;
  virtual void copy_to_host(void* destination, const void* source, size_t bytes, Stream& stream) = 0;

  /// The same as a part of the stream's work. The host side, from allocate_host(), belongs to the copy until the stream
  /// has passed it.
  virtual void enqueue_to_device(void* destination, const void* source, size_t bytes, Stream& stream) = 0;
  virtual void enqueue_to_host(void* destination, const void* source, size_t bytes, Stream& stream) = 0;

  /// Whether ops return before they have run. Then it pays to plan and enqueue a step before the last one's results are
  /// there.
  virtual bool runs_behind() const = 0;

  /// Whether begin_recording() works.
  virtual bool records_graphs() const = 0;
  /// From here to end_recording() ops on the stream are noted and not run. Nothing may be allocated or waited for.
  virtual void begin_recording(Stream& stream) = 0;
  /// Raises: kDevice if something was done that cannot be recorded. The stream is usable afterwards in any case.
  virtual std::unique_ptr<Graph> end_recording(Stream& stream) = 0;

  /// Type of the activations between ops for a model that computes in `dtype`. The residual stream, logits and what
  /// routes experts are float32 everywhere.
  virtual DType activation_dtype(DType dtype) const = 0;

  /// Lay a weight matrix out for the linear op. Called while loading, from one thread.
  /// Raises: kUnsupported for a type that the backend has no kernel for, kOutOfMemory.
  virtual PackedLinear pack_linear(const LinearSource& source, Stream& stream) = 0;

  /// Bytes of one KV page of one layer. `shape`: what it holds; its memory and counts are not looked at.
  virtual int64_t kv_block_bytes(const KvLayer& shape) const = 0;

  /// Bytes of MoeArgs::scratch and SampleArgs::scratch.
  virtual size_t moe_scratch_bytes(const MoeShape& shape) const = 0;
  virtual size_t sample_scratch_bytes(int64_t num_rows, int64_t vocabulary) const = 0;

  /// Bytes of this device's memory that could be had now, and all that it has.
  virtual int64_t available_memory() const = 0;
  virtual int64_t total_memory() const = 0;

  /// Workers that share an op; 1 where that has no meaning.
  virtual int num_threads() const = 0;

  /// Connect backends of this kind, one for each rank of a model, all in this process (comm/communicator.h). None if
  /// the ranks' memory is the host's, which needs nothing of a backend (comm/connect.h).
  /// Raises: kUnsupported with what is missing and what to do, kOutOfMemory.
  virtual std::vector<std::unique_ptr<Communicator>> connect(std::span<Backend* const> ranks) = 0;

  /// Bytes of a rank's device memory that connect() allocates, at most; what a library takes for itself is not known.
  virtual int64_t connection_bytes(int num_ranks) const = 0;
};

}  // namespace quire
