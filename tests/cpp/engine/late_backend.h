#pragma once

#include <atomic>
#include <memory>
#include <utility>

#include "engine/forwarding_backend.h"

namespace quire {

/// Another backend as a device with a mind of its own: what is enqueued runs when somebody waits for it, and no sooner.
/// So who looks at results too early, changes what the device has still to read, or gives back what it still needs,
/// gets wrong numbers, or is caught by a sanitizer. Records graphs.
class LateBackend final : public ForwardingBackend {
 public:
  explicit LateBackend(std::unique_ptr<Backend> real);

  std::unique_ptr<Stream> create_stream() override;
  std::unique_ptr<Event> create_event() override;
  void copy_to_device(void* destination, const void* source, size_t bytes, Stream& stream) override;
  void copy_to_host(void* destination, const void* source, size_t bytes, Stream& stream) override;
  void enqueue_to_device(void* destination, const void* source, size_t bytes, Stream& stream) override;
  void enqueue_to_host(void* destination, const void* source, size_t bytes, Stream& stream) override;
  bool runs_behind() const override { return true; }
  bool records_graphs() const override { return true; }
  void begin_recording(Stream& stream) override;
  std::unique_ptr<Graph> end_recording(Stream& stream) override;
  PackedLinear pack_linear(const LinearSource& source, Stream& stream) override;
  Communicators connect(std::span<Backend* const> ranks) override;

  /// Over all such backends of the process.
  static std::atomic<int64_t> num_graph_launches;
  /// So many of the next waits for an event raise kOutOfMemory, once the work has run.
  static std::atomic<int> num_failing_waits;
};

}  // namespace quire
