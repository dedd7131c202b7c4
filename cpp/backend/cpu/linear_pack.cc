#include "backend/cpu/linear_pack.h"

#include <algorithm>
#include <array>
#include <span>
#include <type_traits>

#include "backend/cpu/gemm/panels.h"
#include "core/check.h"

namespace quire::cpu {
namespace {

bool has_kernel(DType dtype) {
  return dtype == DType::kFloat32 || dtype == DType::kBFloat16 || dtype == DType::kFloat16;
}

int64_t part_n(const Tensor& part, bool transposed) {
  return part.shape[transposed ? 1 : 0];
}

int64_t part_k(const Tensor& part, bool transposed) {
  return part.shape[transposed ? 0 : 1];
}

template <typename To, typename From>
To convert(From value) {
  if constexpr (std::is_same_v<To, From>) {
    return value;
  } else if constexpr (std::is_same_v<To, BFloat16>) {
    return to_bfloat16(to_float(value));
  } else if constexpr (std::is_same_v<To, Float16>) {
    return to_float16(to_float(value));
  } else {
    return to_float(value);
  }
}

/// The parts that make up one matrix.
std::span<const Tensor> parts_of(const LinearSource& source, int64_t group) {
  const size_t count = source.parts.size() / static_cast<size_t>(source.groups);
  return std::span(source.parts).subspan(static_cast<size_t>(group) * count, count);
}

int64_t stacked_n(const LinearSource& source, int64_t group) {
  int64_t n = 0;
  for (const Tensor& part : parts_of(source, group)) n += part_n(part, source.transposed);
  return n;
}

/// Element k of an output feature lies at base[k * k_stride].
template <typename From>
struct SourceColumn {
  const From* base = nullptr;
  int64_t k_stride = 1;
};

/// Where the columns of one panel lie in the source.
template <typename From>
struct PanelSource {
  std::array<SourceColumn<From>, kPanelColumns> columns{};
  int64_t count = 0;  ///< the others are padding
};

template <typename From>
PanelSource<From> find_columns(const LinearSource& source, int64_t group, int64_t panel) {
  PanelSource<From> found;
  int64_t first_of_part = 0;
  const int64_t begin = panel * kPanelColumns;
  for (const Tensor& part : parts_of(source, group)) {
    const int64_t n = part_n(part, source.transposed);
    const int64_t n_stride = part.strides[source.transposed ? 1 : 0];
    const int64_t k_stride = part.strides[source.transposed ? 0 : 1];
    for (int64_t i = std::max(begin, first_of_part); i < std::min(begin + kPanelColumns, first_of_part + n); ++i) {
      found.columns[static_cast<size_t>(found.count++)] = {part.as<const From>() + (i - first_of_part) * n_stride,
                                                           k_stride};
    }
    first_of_part += n;
  }
  return found;
}

template <typename From, typename To>
void pack_panel(const PanelSource<From>& source, int64_t k, To* panel) {
  // Square tiles, so that both the lines read and those written stay in the first-level cache.
  constexpr int64_t kTile = 32;
  for (int64_t begin = 0; begin < k; begin += kTile) {
    const int64_t end = std::min(k, begin + kTile);
    for (int64_t column = 0; column < source.count; ++column) {
      const SourceColumn<From> from = source.columns[static_cast<size_t>(column)];
      for (int64_t i = begin; i < end; ++i) {
        panel[i * kPanelColumns + column] = convert<To>(from.base[i * from.k_stride]);
      }
    }
    for (int64_t column = source.count; column < kPanelColumns; ++column) {
      for (int64_t i = begin; i < end; ++i) panel[i * kPanelColumns + column] = To{};
    }
  }
}

template <typename From, typename To>
void pack_as(const LinearSource& source, PackedLinear& packed, ThreadPool& pool) {
  To* const panels = static_cast<To*>(packed.data.data());
  const int64_t per_group = panel_count(packed.n);
  pool.parallel_for(packed.groups * per_group, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t panel = begin; panel < end; ++panel) {
      pack_panel(find_columns<From>(source, panel / per_group, panel % per_group), packed.k,
                 panels + panel * packed.k * kPanelColumns);
    }
  });
}

template <typename From>
void pack_from(const LinearSource& source, PackedLinear& packed, ThreadPool& pool) {
  switch (packed.dtype) {
    case DType::kBFloat16: return pack_as<From, BFloat16>(source, packed, pool);
    case DType::kFloat16: return pack_as<From, Float16>(source, packed, pool);
    default: return pack_as<From, float>(source, packed, pool);
  }
}

}  // namespace

PackedShape packed_shape(const LinearSource& source) {
  QUIRE_CHECK(!source.parts.empty(), "nothing to pack");
  const int64_t num_parts = static_cast<int64_t>(source.parts.size());
  QUIRE_CHECK(source.groups > 0 && num_parts % source.groups == 0, "parts=", num_parts, ", groups=", source.groups);
  PackedShape shape;
  shape.k = part_k(source.parts.front(), source.transposed);
  for (const Tensor& part : source.parts) {
    QUIRE_REQUIRE(has_kernel(part.dtype) && has_kernel(source.dtype), ErrorKind::kUnsupported,
                  "[cpu backend] no linear op for this type of weight: dtype=",
                  dtype_name(has_kernel(part.dtype) ? source.dtype : part.dtype),
                  ", expected=float32, bfloat16 or float16");
    QUIRE_CHECK(part.rank == 2 && part.dtype == source.parts.front().dtype, "rank=", part.rank);
    QUIRE_CHECK(part_k(part, source.transposed) == shape.k, "k=", part_k(part, source.transposed), ", k=", shape.k);
  }
  shape.n = stacked_n(source, 0);
  for (int64_t group = 1; group < source.groups; ++group) {
    QUIRE_CHECK(stacked_n(source, group) == shape.n, "group=", group, ", n=", stacked_n(source, group),
                ", n=", shape.n);
  }
  QUIRE_CHECK(shape.n > 0 && shape.k > 0, "n=", shape.n, ", k=", shape.k);
  shape.bytes = source.groups * panel_count(shape.n) * kPanelColumns * shape.k * dtype_bytes(source.dtype);
  return shape;
}

void pack_panels(const LinearSource& source, PackedLinear& packed, ThreadPool& pool) {
  switch (source.parts.front().dtype) {
    case DType::kBFloat16: return pack_from<BFloat16>(source, packed, pool);
    case DType::kFloat16: return pack_from<Float16>(source, packed, pool);
    default: return pack_from<float>(source, packed, pool);
  }
}

}  // namespace quire::cpu
