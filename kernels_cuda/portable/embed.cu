// out[t] = table[ids[t] + offset] * scale (+ out[t]). Block: a token and 1024 of its columns; thread: 4 elements.
// The head of a tied model lies in rows, too, so that it is just another table. Limited by latency for few tokens, by
// bandwidth for many.
#include "kernels_cuda/ops.h"
#include "kernels_cuda/portable/rows.cuh"

namespace quire::gpu {
namespace {

struct EmbedRows {
  const void* table;
  int64_t table_stride;
  int64_t table_rows;
  const int32_t* ids;
  int32_t offset;
  float scale;
  bool accumulate;
  void* out;
  int64_t out_stride;
  int64_t width;
};

template <typename T, typename Out, int kCount>
__global__ void __launch_bounds__(kRowThreads) embed_kernel(EmbedRows rows) {
  let_next_start();
  wait_for_previous();
  const int32_t i = row_element<kCount>();
  if (i >= rows.width) return;
  // A padding token's id may be anything.
  const int64_t wanted = int64_t{rows.ids[blockIdx.x]} + rows.offset;
  const int64_t row = wanted >= 0 && wanted < rows.table_rows ? wanted : 0;
  float values[kCount];
  load_floats(static_cast<const T*>(rows.table) + row * rows.table_stride + i, values);
  Out* const place = static_cast<Out*>(rows.out) + blockIdx.x * rows.out_stride + i;
  float before[kCount] = {};
  if (rows.accumulate) load_floats(place, before);
#pragma unroll
  for (int j = 0; j < kCount; ++j) {
    values[j] *= rows.scale;
    if (rows.accumulate) values[j] += before[j];
  }
  store_floats(place, values);
}

}  // namespace

void embed(const EmbedArgs& args, Stream& stream) {
  const Tensor& out = args.out;
  if (out.size() == 0) return;
  const Tensor table = args.packed == nullptr
                           ? args.table
                           : Tensor(args.packed->data.data(), args.packed->dtype, {args.packed->n, args.packed->k});
  const EmbedRows rows{.table = table.data,
                       .table_stride = table.strides[0],
                       .table_rows = table.shape[0],
                       .ids = args.ids,
                       .offset = args.offset,
                       .scale = args.scale,
                       .accumulate = args.accumulate,
                       .out = out.data,
                       .out_stride = out.strides[0],
                       .width = out.shape[1]};
  const bool vectors = hold_vectors({table, out}, 4);
  with_type(table.dtype, [&](auto type) {
    using T = decltype(type);
    with_type(out.dtype, [&](auto out_type) {
      using Out = decltype(out_type);
      launch("embed", vectors ? embed_kernel<T, Out, 4> : embed_kernel<T, Out, 1>,
             row_grid(out.shape[0], rows.width, vectors ? 4 : 1), kRowThreads, 0, as_gpu(stream), rows);
    });
  });
}

}  // namespace quire::gpu
