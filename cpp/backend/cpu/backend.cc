#include "backend/cpu/backend.h"

#include <cstring>

#include "backend/cpu/kv_layout.h"
#include "backend/cpu/linear_pack.h"
#include "backend/cpu/moe_run.h"
#include "backend/cpu/ops.h"
#include "backend/cpu/stream.h"
#include "comm/communicator.h"
#include "core/check.h"
#include "core/host.h"

namespace quire::cpu {
namespace {

const Ops* checked_ops(Isa isa) {
  QUIRE_REQUIRE(isa_supported(isa), ErrorKind::kUnsupported,
                "[cpu backend] this processor lacks an instruction set: ", "wanted=", isa_name(isa),
                ", best here=", isa_name(best_isa()), "; device \"cpu\" takes the best");
  return &ops_of(isa);
}

/// Ops have run when they return, so every place of a stream has been reached.
class ReachedEvent final : public Event {
 public:
  void record(Stream&) override {}
  void wait() override {}
};

}  // namespace

CpuBackend::CpuBackend(Isa isa, int num_threads) : isa_(isa), ops_(checked_ops(isa)), pool_(num_threads) {}

std::string CpuBackend::name() const {
  return "cpu (" + std::string(isa_name(isa_)) + ")";
}

std::unique_ptr<Stream> CpuBackend::create_stream() {
  return std::make_unique<CpuStream>(pool_);
}

std::unique_ptr<Event> CpuBackend::create_event() {
  return std::make_unique<ReachedEvent>();
}

Buffer CpuBackend::allocate(size_t bytes, MemoryKind kind) {
  return kind == MemoryKind::kWeights ? weights_.allocate(bytes) : allocate_memory(bytes, kind);
}

void CpuBackend::copy_to_device(void* destination, const void* source, size_t bytes, Stream&) {
  if (bytes > 0) std::memcpy(destination, source, bytes);
}

void CpuBackend::copy_to_host(void* destination, const void* source, size_t bytes, Stream&) {
  if (bytes > 0) std::memcpy(destination, source, bytes);
}

void CpuBackend::enqueue_to_device(void* destination, const void* source, size_t bytes, Stream& stream) {
  copy_to_device(destination, source, bytes, stream);
}

void CpuBackend::enqueue_to_host(void* destination, const void* source, size_t bytes, Stream& stream) {
  copy_to_host(destination, source, bytes, stream);
}

void CpuBackend::begin_recording(Stream&) {
  QUIRE_CHECK(false, "the processor records no graphs");
}

std::unique_ptr<Graph> CpuBackend::end_recording(Stream&) {
  QUIRE_CHECK(false, "the processor records no graphs");
  return nullptr;
}

PackedLinear CpuBackend::pack_linear(const LinearSource& source, Stream& stream) {
  const PackedShape shape = packed_shape(source);
  PackedLinear packed{.n = shape.n, .k = shape.k, .groups = source.groups, .dtype = source.dtype, .data = {}};
  packed.data = weights_.allocate(static_cast<size_t>(shape.bytes));
  pack_panels(source, packed, as_cpu(stream).pool());
  return packed;
}

int64_t CpuBackend::kv_block_bytes(const KvLayer& shape) const {
  return kv_page_bytes(shape.dtype, shape.block_size, shape.num_kv_heads, shape.head_dim, shape.v_head_dim);
}

size_t CpuBackend::moe_scratch_bytes(const MoeShape& shape) const {
  return cpu::moe_scratch_bytes(shape);
}

int64_t CpuBackend::available_memory() const {
  return available_host_memory();
}

int64_t CpuBackend::total_memory() const {
  return total_host_memory();
}

std::vector<std::unique_ptr<Communicator>> CpuBackend::connect(std::span<Backend* const>) {
  return {};
}

}  // namespace quire::cpu
