#include "backend/cpu/linear_pack.h"

#include <algorithm>
#include <array>
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

/// Where the columns of one panel lie in the source: element (k, column) at base[column][k * k_stride].
template <typename From>
struct PanelColumns {
  std::array<const From*, kPanelColumns> base{};
  int64_t count = 0;  ///< the others are padding
  int64_t k_stride = 1;
};

template <typename From>
PanelColumns<From> find_columns(const LinearSource& source, int64_t panel) {
  PanelColumns<From> columns;
  int64_t first_of_part = 0;
  const int64_t begin = panel * kPanelColumns;
  for (const Tensor& part : source.parts) {
    const int64_t n = part_n(part, source.transposed);
    const int64_t n_stride = part.strides[source.transposed ? 1 : 0];
    columns.k_stride = part.strides[source.transposed ? 0 : 1];
    for (int64_t i = std::max(begin, first_of_part); i < std::min(begin + kPanelColumns, first_of_part + n); ++i) {
      columns.base[static_cast<size_t>(columns.count++)] = part.as<const From>() + (i - first_of_part) * n_stride;
    }
    first_of_part += n;
  }
  return columns;
}

template <typename From, typename To>
void pack_panel(const PanelColumns<From>& columns, int64_t k, To* panel) {
  // Square tiles, so that both the lines read and those written stay in the first-level cache.
  constexpr int64_t kTile = 32;
  for (int64_t begin = 0; begin < k; begin += kTile) {
    const int64_t end = std::min(k, begin + kTile);
    for (int64_t column = 0; column < columns.count; ++column) {
      const From* const from = columns.base[static_cast<size_t>(column)];
      for (int64_t i = begin; i < end; ++i) panel[i * kPanelColumns + column] = convert<To>(from[i * columns.k_stride]);
    }
    for (int64_t column = columns.count; column < kPanelColumns; ++column) {
      for (int64_t i = begin; i < end; ++i) panel[i * kPanelColumns + column] = To{};
    }
  }
}

template <typename From, typename To>
void pack_as(const LinearSource& source, PackedLinear& packed, ThreadPool& pool) {
  To* const panels = static_cast<To*>(packed.data.data());
  pool.parallel_for(panel_count(packed.n), 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t panel = begin; panel < end; ++panel) {
      pack_panel(find_columns<From>(source, panel), packed.k, panels + panel * packed.k * kPanelColumns);
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
  PackedShape shape;
  shape.k = part_k(source.parts.front(), source.transposed);
  for (const Tensor& part : source.parts) {
    QUIRE_REQUIRE(has_kernel(part.dtype) && has_kernel(source.dtype), ErrorKind::kUnsupported,
                  "[cpu backend] no linear op for this type of weight: dtype=",
                  dtype_name(has_kernel(part.dtype) ? source.dtype : part.dtype),
                  ", expected=float32, bfloat16 or float16");
    QUIRE_CHECK(part.rank == 2 && part.dtype == source.parts.front().dtype, "rank=", part.rank);
    QUIRE_CHECK(part_k(part, source.transposed) == shape.k, "k=", part_k(part, source.transposed), ", k=", shape.k);
    shape.n += part_n(part, source.transposed);
  }
  QUIRE_CHECK(shape.n > 0 && shape.k > 0, "n=", shape.n, ", k=", shape.k);
  shape.bytes = panel_count(shape.n) * kPanelColumns * shape.k * dtype_bytes(source.dtype);
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
