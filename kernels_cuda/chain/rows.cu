// A chain of products of 2 to 64 rows as one kernel. What limits it is the read of the weights, as for one row
// (chain.cu): a thread of each block does nothing but ask for weights, as far ahead as its ring in shared memory
// reaches, also over the end of a product, while the blocks wait for each other's results.
//
// The rows are among the 64 rows of the tensor cores' product and the matrix's rows its columns, so that a tile has any
// number of those: every block has about as much to read. A second thread asks for x once it is there. Tiles of few
// columns take their time for each unit of K, whatever comes with it: where all blocks would have such, they compute
// parts of wider tiles' sums, over a part of K each, and leave them in memory for the phase of rows that follows. Whole
// sums wait in shared memory: what becomes of them is said in a loop, since as many copies of it as a thread has sums
// take longer to be fetched than a tile's product.
//
// Phases follow each other: products, and between them what is done row by row, each by a block: parts of sums are
// added up, in the order of K, and the norm is made. Each block counts its arrival behind its part of a phase, and
// whoever reads what a phase has made waits until all have. All blocks must be there at once: the launch is a
// cooperative one.
#include "kernels_cuda/chain/ring.cuh"
#include "kernels_cuda/chain/rows_program.h"
#include "kernels_cuda/common/launch.cuh"
#include "kernels_cuda/gemm/operand.cuh"
#include "kernels_cuda/gemm/row_product.cuh"
#include "kernels_cuda/gemm/warpgroup.cuh"

namespace quire::gpu {
namespace {

constexpr int kBlockThreads = kRowThreads + 64;  // two warpgroups that compute, and two warps that ask for copies

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

/// A block's shared memory.
struct RowsRoom {
  std::byte* weights;
  std::byte* x;
  float* sums;  ///< of a tile, kStagedRows rows at a time
  float* norm_sums;
  Barrier* weights_full;
  Barrier* weights_free;
  Barrier* x_full;
  Barrier* x_free;
  RowsLink* links;  ///< as parameters they would be read at the pace of memory that is busy with weights

  __device__ RowsRoom(std::byte* shared, const RowsProgram& program)
      : weights(shared + (1024 - shared_address(shared) % 1024) % 1024),
        x(weights + program.weight_stages * kRowsWeightStage),
        sums(reinterpret_cast<float*>(x + rows_x_bytes(program.box_rows))),
        norm_sums(sums + rows_tile_sums(program.box_rows)),
        weights_full(reinterpret_cast<Barrier*>(norm_sums + kNormSums)),
        weights_free(weights_full + kMostWeightStages),
        x_full(weights_free + kMostWeightStages),
        x_free(x_full + kXStages),
        links(reinterpret_cast<RowsLink*>(x_free + kXStages)) {}
};

/// Of the threads that compute.
__device__ inline void rows_barrier() {
  named_barrier<kRowThreads>(1);
}

/// The parts of a link that a block computes, one after the other.
class RowsJobs {
 public:
  __device__ explicit RowsJobs(const RowsLink& link)
      : splits_(link.splits),
        num_jobs_(link.tiles * link.splits),
        units_(link.product.k / kRowsUnit),
        units_of_part_((units_ + splits_ - 1) / splits_),
        job_(static_cast<int>(blockIdx.x)) {}

  __device__ bool has_job() const { return job_ < num_jobs_; }
  __device__ void next() { job_ += static_cast<int>(gridDim.x); }
  __device__ int tile() const { return job_ / splits_; }
  __device__ int part() const { return job_ % splits_; }
  __device__ int begin() const { return min(part() * units_of_part_, units_); }
  __device__ int end() const { return min(begin() + units_of_part_, units_); }
  /// Units of K of a stage.
  __device__ static int units_per_stage(const RowsLink& link) {
    return kRowsWeightStage / rows_unit_bytes(link.columns);
  }

 private:
  int splits_, num_jobs_, units_, units_of_part_, job_;
};

/// How blocks know what others have done.
class Phases {
 public:
  __device__ explicit Phases(const RowsProgram& program)
      : program_(program), before_(load_acquire(program.arrivals + 1)) {}

  /// By one thread: until all blocks have done phase `phase`.
  __device__ void wait_for(int phase) const {
    const unsigned last = before_ + static_cast<unsigned>(phase + 1) * gridDim.x;
    while (static_cast<int>(load_acquire(program_.arrivals) - last) < 0) pause_between_polls();
  }

  /// By all threads that compute, behind each phase in turn. Nobody may be counted for a phase before all were for the
  /// one before: `waited`: what the block has done needed that.
  __device__ void arrive(bool waited) {
    fence_for_copies_of_memory();
    rows_barrier();
    ++done_;
    if (threadIdx.x != 0) return;
    if (!waited && done_ > 1) wait_for(done_ - 2);
    const unsigned now = count_arrival(program_.arrivals) + 1;
    const unsigned all = static_cast<unsigned>(program_.num_phases) * gridDim.x;
    if (done_ == program_.num_phases && now - before_ == all) program_.arrivals[1] = now;
  }

 private:
  const RowsProgram& program_;
  const unsigned before_;
  int done_ = 0;
};

/// By one thread: all weights that the block multiplies, as fast as there is room for them. What a stage holds behind
/// the end of a job, or of K, is not looked at.
__device__ void bring_weights(const RowsProgram& program, const RowsRoom& room) {
  const uint64_t policy = read_once_policy();
  Position at, arriving;  // the latter: the oldest stage that has been asked for and has not been seen to be there
  int num_arriving = 0;
  for (int i = 0; i < program.num_links; ++i) {
    const RowsLink& link = room.links[i];
    const bool gated = link.product.rule.gated;
    const int per_stage = RowsJobs::units_per_stage(link);
    for (RowsJobs jobs(link); jobs.has_job(); jobs.next()) {
      for (int unit = jobs.begin(); unit < jobs.end(); unit += per_stage) {
        Barrier* const full = room.weights_full + at.stage;
        wait(room.weights_free + at.stage, static_cast<int>(at.parity ^ 1));  // at the first round passed at once
        if (++num_arriving > kMostWeightsArriving) {
          wait(room.weights_full + arriving.stage, static_cast<int>(arriving.parity));
          arriving.advance(program.weight_stages);
        }
        arrive_and_expect(full, per_stage * rows_unit_bytes(link.columns));
        copy_box(room.weights + at.stage * kRowsWeightStage, program.maps[i].weights, full, 0,
                 gated ? 0 : jobs.tile() * link.columns, 0, gated ? jobs.tile() * (link.columns / 16) : 0, unit,
                 policy);
        at.advance(program.weight_stages);
      }
    }
  }
}

/// By one thread: x of all products, once it is there.
__device__ void bring_x(const RowsProgram& program, const RowsRoom& room) {
  wait_for_previous();
  const Phases phases(program);
  const int per_stage = rows_x_units(program.box_rows), stage_bytes = rows_x_stage(program.box_rows);
  Position at;
  int phase = 0;
  for (int i = 0; i < program.num_links; ++i) {
    const RowsLink& link = room.links[i];
    if (link.begins_with_rows) ++phase;
    RowsJobs jobs(link);
    if (jobs.has_job() && phase > 0) {
      phases.wait_for(phase - 1);
      fence_for_copies_of_memory();
    }
    for (; jobs.has_job(); jobs.next()) {
      for (int unit = jobs.begin(); unit < jobs.end(); unit += per_stage) {
        Barrier* const full = room.x_full + at.stage;
        wait(room.x_free + at.stage, static_cast<int>(at.parity ^ 1));
        arrive_and_expect(full, stage_bytes);
        copy_box(room.x + at.stage * stage_bytes, program.maps[i].x, full, 0, 0, 0, 0, unit);
        at.advance(kXStages);
      }
    }
    ++phase;
  }
}

/// sums += x * weights^T of 16 columns of both. There are only products of 16, 32, 64 and 128 columns.
template <typename T, int kColumns>
__device__ void multiply_step(float* sums, uint64_t x, uint64_t weights) {
  constexpr int kPiece = kColumns >= 128 ? 128 : kColumns >= 64 ? 64 : kColumns >= 32 ? 32 : 16;
  WarpgroupProduct<T, kPiece>::run(*reinterpret_cast<float(*)[kPiece / 2]>(sums), x, weights);
  if constexpr (kColumns > kPiece) {
    multiply_step<T, kColumns - kPiece>(sums + kPiece / 2, x, weights + rows_unit_bytes(kPiece) / 16);
  }
}

/// Where those who compute are in the rings.
struct Reading {
  Position weights, x;
};

/// A job's sums: of a warpgroup, kColumns of the tile's columns, as its products leave them.
template <typename T, int kColumns>
__device__ void sum_job(const RowsProgram& program, const RowsRoom& room, const RowsLink& link, const RowsJobs& jobs,
                        Reading& at, float (&sums)[kColumns / 2]) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int per_stage = RowsJobs::units_per_stage(link), per_x_stage = rows_x_units(program.box_rows);
  const int x_stage_bytes = rows_x_stage(program.box_rows), x_unit_bytes = rows_unit_bytes(program.box_rows);
  const int own = static_cast<int>(threadIdx.x) / 128 * rows_unit_bytes(kColumns);
#pragma unroll
  for (float& sum : sums) sum = 0.0f;
  const int begin = jobs.begin(), end = jobs.end();
  int in_stage = 0, in_x = 0;
  for (int unit = begin; unit < end; ++unit) {
    if (in_stage == 0) wait(room.weights_full + at.weights.stage, static_cast<int>(at.weights.parity));
    if (in_x == 0) wait(room.x_full + at.x.stage, static_cast<int>(at.x.parity));
    const uint64_t x = operand(room.x + at.x.stage * x_stage_bytes + in_x * x_unit_bytes);
    const uint64_t weights =
        operand(room.weights + at.weights.stage * kRowsWeightStage + in_stage * rows_unit_bytes(link.columns) + own);
    begin_products();
#pragma unroll
    for (int step = 0; step < kRowsUnit / 16; ++step) {
      multiply_step<T, kColumns>(sums, x + step * 2, weights + step * 2);
    }
    commit_products();
    // Not later: with tiles of so many widths the compiler lacks registers for products that are still under way at
    // the next unit, and has each of all products waited for.
    wait_products<0>();
    if (++in_x == per_x_stage || unit + 1 == end) {
      if (lane == 0) arrive(room.x_free + at.x.stage);
      in_x = 0;
      at.x.advance(kXStages);
    }
    if (++in_stage == per_stage || unit + 1 == end) {
      if (lane == 0) arrive(room.weights_free + at.weights.stage);
      in_stage = 0;
      at.weights.advance(program.weight_stages);
    }
  }
  hold(sums);
}

/// Four results that lie side by side.
template <typename T>
__device__ void store_columns(const RowProduct& product, int row, int unit, float4 values) {
  const int64_t to = row * product.out_stride + unit;
  if (product.out_type == OutType::kFloat32) {
    *reinterpret_cast<float4*>(static_cast<float*>(product.out) + to) = values;
  } else {
    *reinterpret_cast<uint2*>(static_cast<T*>(product.out) + to) =
        make_uint2(pack_pair<T>(values.x, values.y), pack_pair<T>(values.z, values.w));
  }
}

__device__ inline void add_to(float4& sums, float4 more) {
  sums.x += more.x;
  sums.y += more.y;
  sums.z += more.z;
  sums.w += more.w;
}

/// Four numbers of a vector of the model's, of any alignment.
__device__ inline float4 four_of(const float* vector, int first) {
  return make_float4(vector[first], vector[first + 1], vector[first + 2], vector[first + 3]);
}

__device__ inline float4 residuals_of(const RowProduct& product, int row, int unit) {
  return __ldcg(reinterpret_cast<const float4*>(product.residual + row * product.residual_stride + unit));
}

/// What becomes of the sums of four neighbouring columns of a row; `others`: gated, of their partners.
template <typename T>
__device__ void finish_columns(const RowProduct& product, int row, int unit, float4 values, float4 others) {
  if (product.bias != nullptr) {
    add_to(values, four_of(product.bias, unit));
    if (product.rule.gated) add_to(others, four_of(product.bias, product.units + unit));
  }
  if (product.has_activation) {
    values = make_float4(
        activate_roughly(product.rule, values.x, others.x), activate_roughly(product.rule, values.y, others.y),
        activate_roughly(product.rule, values.z, others.z), activate_roughly(product.rule, values.w, others.w));
  }
  if (product.residual != nullptr) add_to(values, residuals_of(product, row, unit));
  store_columns<T>(product, row, unit, values);
}

/// Where the sum of a tile's row and column waits, counted in floats.
__device__ inline int place_of_sum(int row, int column) {
  return row * kTileSumStride + column;
}

/// The first of the rows of x whose sums a warp has.
__device__ inline int first_row_of_warp() {
  static_assert(kStagedRows == 16);
  return static_cast<int>(threadIdx.x) % 128 / 32 * kStagedRows;
}

/// Do something with all sums of rows that are there: `use(row, column, sums)`, two columns, counted in the tile.
template <int kColumns, typename Use>
__device__ void for_sums(int tokens, const float (&sums)[kColumns / 2], Use&& use) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int first = static_cast<int>(threadIdx.x) / 128 * kColumns + lane % 4 * 2;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = first_row_of_warp() + lane / 4 + half * 8;
    if (row >= tokens) return;
#pragma unroll
    for (int j = 0; j < kColumns / 8; ++j) {
      use(row, first + j * 8, make_float2(sums[4 * j + 2 * half], sums[4 * j + 2 * half + 1]));
    }
  }
}

/// What becomes of the sums of a tile that wait: of rows from `first_row` on.
template <typename T>
__device__ void finish_tile(const RowsLink& link, int tile, int first_row, const float* sums) {
  const RowProduct& product = link.product;
  const bool gated = product.rule.gated;
  const int per_row = link.columns / (gated ? 8 : 4);
  const int first_unit = tile * (gated ? link.columns / 2 : link.columns);
#pragma unroll 1
  for (int i = static_cast<int>(threadIdx.x); i < min(product.tokens - first_row, kStagedRows) * per_row;
       i += kRowThreads) {
    const int row = i / per_row;
    const int column = i % per_row * 4;
    const int unit = first_unit + column;
    if (unit >= product.units) continue;
    const auto sums_at = [&](int place) { return *reinterpret_cast<const float4*>(sums + place_of_sum(row, place)); };
    // Gated, eight gates lie before their partners.
    const int place = gated ? column / 8 * 16 + column % 8 : column;
    finish_columns<T>(product, first_row + row, unit, sums_at(place), gated ? sums_at(place + 8) : float4{});
  }
}

/// A product whose tiles have 2 * kColumns columns.
template <typename T, int kColumns>
__device__ void run_product(const RowsProgram& program, const RowsRoom& room, const RowsLink& link, Reading& at) {
  const int tokens = link.product.tokens, units = link.product.units;
  for (RowsJobs jobs(link); jobs.has_job(); jobs.next()) {
    float sums[kColumns / 2];
    sum_job<T, kColumns>(program, room, link, jobs, at, sums);
    if (link.splits > 1) {
      float* const part = link.parts + int64_t{jobs.part()} * tokens * units;
      for_sums<kColumns>(tokens, sums, [&](int row, int column, float2 two) {
        const int unit = jobs.tile() * link.columns + column;
        if (unit < units) *reinterpret_cast<float2*>(part + row * units + unit) = two;
      });
    } else {
#pragma unroll 1
      for (int first = 0; first < tokens; first += kStagedRows) {
        rows_barrier();  // nobody reads those before
        if (first_row_of_warp() == first) {
          for_sums<kColumns>(tokens, sums, [&](int row, int column, float2 two) {
            *reinterpret_cast<float2*>(room.sums + place_of_sum(row - first, column)) = two;
          });
        }
        rows_barrier();
        finish_tile<T>(link, jobs.tile(), first, room.sums);
      }
    }
  }
}

template <typename T>
__device__ void run_product(const RowsProgram& program, const RowsRoom& room, const RowsLink& link, Reading& at) {
  switch (link.columns) {
    case 32: return run_product<T, 16>(program, room, link, at);
    case 64: return run_product<T, 32>(program, room, link, at);
    case 96: return run_product<T, 48>(program, room, link, at);
    case 128: return run_product<T, 64>(program, room, link, at);
    case 160: return run_product<T, 80>(program, room, link, at);
    case 192: return run_product<T, 96>(program, room, link, at);
    default: return run_product<T, 112>(program, room, link, at);
  }
}

/// Columns that a thread has of a row in RowNorm.
__device__ inline int row_column(int i) {
  return (i * kRowThreads + static_cast<int>(threadIdx.x)) * 4;
}

/// Add up the parts of a row's sums. `held`: those that the thread holds in RowNorm.
template <typename T>
__device__ void add_parts(const RowsLink& link, int row, float4 (&held)[kRowHeld]) {
  const RowProduct& product = link.product;
  const int64_t part_stride = int64_t{product.tokens} * product.units;
  const float* const parts = link.parts + int64_t{row} * product.units;
  for (int first = 0; row_column(first) < product.units; first += kRowHeld) {
    float4 sums[kRowHeld];
#pragma unroll
    for (int i = 0; i < kRowHeld; ++i) {
      const int unit = row_column(first + i);
      sums[i] = {};
      if (unit >= product.units) continue;
#pragma unroll
      for (int part = 0; part < kRowsSplits; ++part) {
        add_to(sums[i], __ldcg(reinterpret_cast<const float4*>(parts + part * part_stride + unit)));
      }
      if (product.bias != nullptr) add_to(sums[i], four_of(product.bias, unit));
      if (product.residual != nullptr) add_to(sums[i], residuals_of(product, row, unit));
    }
#pragma unroll
    for (int i = 0; i < kRowHeld; ++i) {
      const int unit = row_column(first + i);
      if (unit < product.units) store_columns<T>(product, row, unit, sums[i]);
      if (first == 0) held[i] = sums[i];
    }
  }
}

/// A row for RowNorm of which a thread has its first columns.
struct HeldRow {
  const float4 (&held)[kRowHeld];
  PlainRow rest;
  __device__ void operator()(float4 (&values)[kRowHeld], const int (&)[kRowHeld]) const {
#pragma unroll
    for (int i = 0; i < kRowHeld; ++i) values[i] = held[i];
  }
  __device__ void operator()(float4 (&values)[1], const int (&columns)[1]) const { rest(values, columns); }
};

/// What is done row by row, some of them by this block (false: none): parts of the sums of `summed` are added up, if it
/// is not null, and the norm in front of `normed` is made, if that is not null.
template <typename T>
__device__ bool run_rows(const RowsRoom& room, const RowsLink* summed, const RowsLink* normed, int tokens,
                         const Phases& phases, int phase) {
  int row = static_cast<int>(blockIdx.x);
  if (row >= tokens) return false;
  const RowNorm norm(normed != nullptr ? normed->product : summed->product);
  if (threadIdx.x == 0 && phase > 0) phases.wait_for(phase - 1);
  rows_barrier();
  for (; row < tokens; row += static_cast<int>(gridDim.x)) {
    float4 held[kRowHeld] = {};
    if (summed != nullptr) add_parts<T>(*summed, row, held);
    if (normed == nullptr) continue;
    const RowProduct& product = normed->product;
    const PlainRow x{static_cast<const float*>(product.x) + row * product.x_stride, product.k};
    if (summed == nullptr || summed->product.out != product.x) {
#pragma unroll
      for (int i = 0; i < kRowHeld; ++i) {
        float4 value[1];
        x(value, {row_column(i)});
        held[i] = value[0];
      }
    }
    norm.make(static_cast<T*>(normed->normed) + row * normed->normed_stride, room.norm_sums, rows_barrier,
              HeldRow{held, x});
    rows_barrier();
  }
  return true;
}

/// What the threads that compute do.
template <typename T>
__device__ void compute(const RowsProgram& program, const RowsRoom& room) {
  wait_for_previous();
  Phases phases(program);
  Reading at;
  int phase = 0;
  const RowsLink* summed = nullptr;  // whose sums lie about in parts
#pragma unroll 1
  for (int i = 0; i < program.num_links; ++i) {
    const RowsLink& link = room.links[i];
    if (link.begins_with_rows) {
      const RowsLink* const normed = link.product.has_norm ? &link : nullptr;
      phases.arrive(run_rows<T>(room, summed, normed, link.product.tokens, phases, phase++));
    }
    run_product<T>(program, room, link, at);
    phases.arrive(RowsJobs(link).has_job());
    ++phase;
    summed = link.splits > 1 ? &link : nullptr;
  }
  if (summed != nullptr) phases.arrive(run_rows<T>(room, summed, nullptr, summed->product.tokens, phases, phase));
}

#endif

template <typename T>
__global__ void __launch_bounds__(kBlockThreads, 1) rows_kernel(const __grid_constant__ RowsProgram program) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  QUIRE_DYNAMIC_SHARED(std::byte, shared);
  const RowsRoom room(shared, program);
  const int thread = static_cast<int>(threadIdx.x);
  if (thread < program.weight_stages) {
    init_barrier(room.weights_full + thread, 1);
    init_barrier(room.weights_free + thread, kRowWarps);
  }
  if (thread < kXStages) {
    init_barrier(room.x_full + thread, 1);
    init_barrier(room.x_free + thread, kRowWarps);
  }
  publish_barriers();
  static_assert(sizeof(RowsLink) % 8 == 0 && offsetof(RowsProgram, links) % 8 == 0);
  const auto* const from = reinterpret_cast<const uint64_t*>(&program.links);
  for (int i = thread; i < program.num_links * static_cast<int>(sizeof(RowsLink) / 8); i += kBlockThreads) {
    reinterpret_cast<uint64_t*>(room.links)[i] = load_parameter(from + i);
  }
  if (thread < program.num_links) {
    prefetch_map(program.maps[thread].weights);
    prefetch_map(program.maps[thread].x);
  }
  let_next_start();
  __syncthreads();
  if (thread < kRowThreads) {
    compute<T>(program, room);
  } else if (thread == kRowThreads) {
    bring_weights(program, room);
  } else if (thread == kRowThreads + 32) {
    bring_x(program, room);
  }
#endif
}

template <typename T>
void run(const RowsProgram& program, GpuStream& stream) {
  const auto kernel = rows_kernel<T>;
  static OncePerDevice prepare;
  prepare([&] { allow_shared_memory(kernel, stream.device().shared_memory_per_block); });
  check(vendor::launch_together(
            kernel, dim3(static_cast<unsigned>(stream.device().num_multiprocessors)), dim3(kBlockThreads),
            rows_shared_bytes(program.weight_stages, program.box_rows, program.num_links), stream.handle(), program),
        "a chain of products");
}

}  // namespace

void run_rows_program(const RowsProgram& program, DType dtype, GpuStream& stream) {
  dtype == DType::kBFloat16 ? run<BFloat>(program, stream) : run<Half>(program, stream);
}

}  // namespace quire::gpu
