// Weights as the kernels want them: matrices [groups][N][K], row-major, without padding, of the type that was asked
// for.
//
// Contiguous rows of that type are copied to their place. Whatever else a part is, turned, strided or of another type,
// the stretch of host memory that it covers is brought over as it is, piece by piece if it is long, and taken apart on
// the device: 32 by 32 elements through shared memory, read along the source's denser axis and written along K.
#include <algorithm>
#include <cstdlib>
#include <span>

#include "core/check.h"
#include "kernels_cuda/common/launch.cuh"
#include "kernels_cuda/common/numbers.cuh"
#include "kernels_cuda/layouts.h"

namespace quire::gpu {
namespace {

constexpr int kTile = 32;
constexpr int kTileRows = 8;  ///< threads along a tile's other axis
/// Of host memory brought over at once; a single line that is longer comes whole.
constexpr int64_t kPieceBytes = 64 << 20;

bool has_kernel(DType dtype) {
  return dtype == DType::kFloat32 || dtype == DType::kBFloat16 || dtype == DType::kFloat16;
}

/// Some rows and columns of one part.
struct Piece {
  const void* source;  ///< element [0, 0], on the device
  DType source_dtype;
  int64_t n_stride, k_stride;
  void* out;  ///< element [0, 0]
  DType out_dtype;
  int64_t out_stride;
  int64_t n, k;
};

__device__ inline uint32_t read_element(const void* data, DType dtype, int64_t at) {
  if (dtype == DType::kFloat32) return static_cast<const uint32_t*>(data)[at];
  return static_cast<const uint16_t*>(data)[at];
}

__device__ inline float element_value(uint32_t bits, DType dtype) {
  if (dtype == DType::kFloat32) return __uint_as_float(bits);
  const auto half_bits = static_cast<uint16_t>(bits);
  return dtype == DType::kBFloat16 ? to_float(bfloat_of_bits(half_bits)) : to_float(half_of_bits(half_bits));
}

/// The same type keeps its bits.
__device__ inline void write_element(void* data, DType dtype, int64_t at, uint32_t bits, DType from) {
  if (dtype == DType::kFloat32) {
    static_cast<float*>(data)[at] = element_value(bits, from);
  } else if (dtype == from) {
    static_cast<uint16_t*>(data)[at] = static_cast<uint16_t>(bits);
  } else if (dtype == DType::kBFloat16) {
    static_cast<BFloat*>(data)[at] = from_float<BFloat>(element_value(bits, from));
  } else {
    static_cast<Half*>(data)[at] = from_float<Half>(element_value(bits, from));
  }
}

__global__ void __launch_bounds__(kTile* kTileRows) gather_kernel(const Piece piece, bool along_n) {
  __shared__ uint32_t tile[kTile][kTile + 1];
  wait_for_previous();
  const int64_t first_n = static_cast<int64_t>(blockIdx.y) * kTile;
  const int64_t first_k = static_cast<int64_t>(blockIdx.x) * kTile;
  for (int i = threadIdx.y; i < kTile; i += kTileRows) {
    const int n = along_n ? threadIdx.x : i;
    const int k = along_n ? i : threadIdx.x;
    if (first_n + n >= piece.n || first_k + k >= piece.k) continue;
    tile[n][k] =
        read_element(piece.source, piece.source_dtype, (first_n + n) * piece.n_stride + (first_k + k) * piece.k_stride);
  }
  __syncthreads();
  for (int n = threadIdx.y; n < kTile; n += kTileRows) {
    const int k = threadIdx.x;
    if (first_n + n >= piece.n || first_k + k >= piece.k) continue;
    write_element(piece.out, piece.out_dtype, (first_n + n) * piece.out_stride + first_k + k, tile[n][k],
                  piece.source_dtype);
  }
}

/// A part without regard to `transposed`.
struct Part {
  const std::byte* data;
  DType dtype;
  int64_t n, k, n_stride, k_stride;

  Part(const Tensor& tensor, bool transposed)
      : data(tensor.as<const std::byte>()),
        dtype(tensor.dtype),
        n(tensor.shape[transposed ? 1 : 0]),
        k(tensor.shape[transposed ? 0 : 1]),
        n_stride(tensor.strides[transposed ? 1 : 0]),
        k_stride(tensor.strides[transposed ? 0 : 1]) {}

  bool contiguous() const { return (k_stride == 1 || k == 1) && (n_stride == k || n == 1); }
  /// Its memory, in elements.
  int64_t span() const { return n == 0 ? 0 : (n - 1) * std::abs(n_stride) + (k - 1) * std::abs(k_stride) + 1; }
  /// Of the first element in memory, relative to element [0, 0].
  int64_t lowest() const { return std::min<int64_t>(0, (n - 1) * n_stride) + std::min<int64_t>(0, (k - 1) * k_stride); }

  Part rows(int64_t first, int64_t count) const {
    Part part = *this;
    part.data += first * n_stride * dtype_bytes(dtype);
    part.n = count;
    return part;
  }
  Part columns(int64_t first, int64_t count) const {
    Part part = *this;
    part.data += first * k_stride * dtype_bytes(dtype);
    part.k = count;
    return part;
  }

  bool by_rows() const { return std::abs(n_stride) >= std::abs(k_stride); }
  /// How many of its rows, or columns if they lie further apart, are brought over at once.
  int64_t lines_per_piece() const {
    const int64_t lines = by_rows() ? n : k;
    const int64_t line_span = by_rows() ? rows(0, 1).span() : columns(0, 1).span();
    const int64_t stride = std::max<int64_t>(1, std::abs(by_rows() ? n_stride : k_stride));
    const int64_t room = kPieceBytes / dtype_bytes(dtype) - line_span;
    return std::clamp<int64_t>(room / stride + 1, 1, std::max<int64_t>(1, lines));
  }
  Part piece(int64_t first, int64_t count) const { return by_rows() ? rows(first, count) : columns(first, count); }
};

/// The loads of a pack, and the room on the device that they go through.
class Packer {
 public:
  Packer(Backend& backend, Stream& stream, PackedLinear& packed)
      : backend_(backend), stream_(stream), packed_(packed) {}

  /// Bytes that a part needs of the room.
  static int64_t room_bytes(const Part& part, DType dtype) {
    if (part.contiguous() && part.dtype == dtype) return 0;
    return part.piece(0, part.lines_per_piece()).span() * dtype_bytes(part.dtype);
  }

  void reserve(int64_t bytes) {
    if (bytes > 0) room_ = backend_.allocate(static_cast<size_t>(bytes), MemoryKind::kWorkspace);
  }

  /// To row `first_row` of all groups' rows.
  void pack(const Part& part, int64_t first_row) {
    std::byte* const out = place(first_row, 0);
    if (part.n == 0) return;
    if (part.contiguous() && part.dtype == packed_.dtype) {
      const auto bytes = static_cast<size_t>(part.n * part.k * dtype_bytes(part.dtype));
      backend_.copy_to_device(out, part.data, bytes, stream_);
      return;
    }
    const int64_t lines = part.by_rows() ? part.n : part.k;
    const int64_t at_once = part.lines_per_piece();
    for (int64_t first = 0; first < lines; first += at_once) {
      const Part piece = part.piece(first, std::min(at_once, lines - first));
      gather(piece, part.by_rows() ? place(first_row + first, 0) : place(first_row, first));
    }
  }

 private:
  std::byte* place(int64_t row, int64_t column) const {
    return static_cast<std::byte*>(packed_.data.data()) + (row * packed_.k + column) * dtype_bytes(packed_.dtype);
  }

  void gather(const Part& part, std::byte* out) {
    const int64_t size = dtype_bytes(part.dtype);
    const int64_t lowest = part.lowest();
    auto* const room = static_cast<std::byte*>(room_.data());
    backend_.copy_to_device(room, part.data + lowest * size, static_cast<size_t>(part.span() * size), stream_);
    Piece piece{
        room - lowest * size, part.dtype, part.n_stride, part.k_stride, out, packed_.dtype, packed_.k, 0, part.k};
    // The grid's second axis is short.
    constexpr int64_t kRowsAtOnce = int64_t{65535} * kTile;
    for (int64_t first = 0; first < part.n; first += kRowsAtOnce) {
      const Part rows = part.rows(first, std::min(kRowsAtOnce, part.n - first));
      piece.n = rows.n;
      const dim3 grid(static_cast<unsigned>((rows.k + kTile - 1) / kTile),
                      static_cast<unsigned>((rows.n + kTile - 1) / kTile));
      launch("packing weights", gather_kernel, grid, dim3(kTile, kTileRows), 0, as_gpu(stream_), piece,
             !part.by_rows());
      piece.source = static_cast<const std::byte*>(piece.source) + rows.n * rows.n_stride * size;
      piece.out = static_cast<std::byte*>(piece.out) + rows.n * packed_.k * dtype_bytes(packed_.dtype);
    }
  }

  Backend& backend_;
  Stream& stream_;
  PackedLinear& packed_;
  Buffer room_;
};

/// N, K and the type; no memory yet.
PackedLinear packed_shape(const LinearSource& source) {
  QUIRE_CHECK(!source.parts.empty(), "nothing to pack");
  const int64_t num_parts = static_cast<int64_t>(source.parts.size());
  QUIRE_CHECK(source.groups > 0 && num_parts % source.groups == 0, "parts=", num_parts, ", groups=", source.groups);
  PackedLinear packed{.groups = source.groups, .dtype = source.dtype, .data = {}};
  packed.k = Part(source.parts.front(), source.transposed).k;
  const int64_t parts_per_group = num_parts / source.groups;
  for (int64_t group = 0; group < source.groups; ++group) {
    int64_t n = 0;
    for (const Tensor& part : std::span(source.parts).subspan(group * parts_per_group, parts_per_group)) {
      QUIRE_REQUIRE(has_kernel(part.dtype) && has_kernel(source.dtype), ErrorKind::kUnsupported,
                    "[device] no linear op for this type of weight: dtype=",
                    dtype_name(has_kernel(part.dtype) ? source.dtype : part.dtype),
                    ", expected=float32, bfloat16 or float16");
      QUIRE_CHECK(part.rank == 2 && part.dtype == source.parts.front().dtype, "rank=", part.rank);
      const Part seen(part, source.transposed);
      QUIRE_CHECK(seen.k == packed.k, "k=", seen.k, ", k=", packed.k);
      n += seen.n;
    }
    if (group == 0) packed.n = n;
    QUIRE_CHECK(n == packed.n, "group=", group, ", n=", n, ", n=", packed.n);
  }
  QUIRE_CHECK(packed.n > 0 && packed.k > 0, "n=", packed.n, ", k=", packed.k);
  return packed;
}

}  // namespace

PackedLinear pack_linear(const LinearSource& source, Backend& backend, Stream& stream) {
  PackedLinear packed = packed_shape(source);
  packed.data = backend.allocate(static_cast<size_t>(packed.groups * packed.n * packed.k * dtype_bytes(packed.dtype)),
                                 MemoryKind::kWeights);
  Packer packer(backend, stream, packed);
  int64_t room = 0;
  for (const Tensor& tensor : source.parts) {
    room = std::max(room, Packer::room_bytes(Part(tensor, source.transposed), packed.dtype));
  }
  packer.reserve(room);
  int64_t row = 0;
  for (const Tensor& tensor : source.parts) {
    const Part part(tensor, source.transposed);
    packer.pack(part, row);
    row += part.n;
  }
  // Kernels read weights before they wait for what ran before them.
  stream.synchronize();
  return packed;
}

}  // namespace quire::gpu
