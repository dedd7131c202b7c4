#include "backend/cpu/backend.h"

#include <cstring>

#include "backend/cpu/kv_layout.h"
#include "backend/cpu/linear_pack.h"
#include "backend/cpu/ops.h"
#include "backend/cpu/stream.h"
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

}  // namespace

CpuBackend::CpuBackend(Isa isa, int num_threads) : isa_(isa), ops_(checked_ops(isa)), pool_(num_threads) {}

std::string CpuBackend::name() const {
  return "cpu (" + std::string(isa_name(isa_)) + ")";
}

std::unique_ptr<Stream> CpuBackend::create_stream() {
  return std::make_unique<CpuStream>(pool_);
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

PackedLinear CpuBackend::pack_linear(const LinearSource& source, Stream& stream) {
  const PackedShape shape = packed_shape(source);
  PackedLinear packed{.n = shape.n, .k = shape.k, .groups = source.groups, .dtype = source.dtype, .data = {}};
  packed.data = weights_.allocate(static_cast<size_t>(shape.bytes));
  pack_panels(source, packed, as_cpu(stream).pool());
  return packed;
}

int64_t CpuBackend::kv_block_bytes(DType dtype, int32_t block_size, int32_t num_kv_heads, int32_t head_dim,
                                   int32_t v_head_dim) const {
  return kv_page_bytes(dtype, block_size, num_kv_heads, head_dim, v_head_dim);
}

int64_t CpuBackend::available_memory() const {
  return available_host_memory();
}

}  // namespace quire::cpu
