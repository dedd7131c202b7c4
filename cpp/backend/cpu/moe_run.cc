// The moe op. Rows, that is pairs of a token and one of its experts, are put in order of their experts, so that the
// rows of an expert are one matrix: x -> up -> activation -> down, each expert's rows at their place in `scratch`; then
// every token joins its rows. Blocks of rows, each of one expert, times panels are shared out as in the linear op, over
// all experts at once: a decode step reads the weights of its experts as one stream and waits for its workers twice.
//
// What limits: memory for few rows per expert, the multiply-add units for many.
#include "backend/cpu/moe_run.h"

#include <algorithm>
#include <cstddef>

#include "backend/cpu/gemm/near_rows.h"
#include "backend/cpu/gemm/share.h"
#include "backend/cpu/rows.h"

namespace quire::cpu {
namespace {

/// Floats of one row's way through its expert.
int64_t row_columns(int64_t width, int64_t up_columns, int64_t ffn_width) {
  return up_columns + ffn_width + width;
}

/// Rows of one expert that use its panels together.
struct Block {
  int32_t expert = 0;
  int32_t row_begin = 0;
  int32_t row_end = 0;

  int64_t rows() const { return row_end - row_begin; }
};

class MoeRun {
 public:
  MoeRun(const MoeArgs& args, CpuStream& cpu, const MoeKernel& kernel)
      : args_(args),
        cpu_(cpu),
        kernel_(kernel),
        num_tokens_(args.x.shape[0]),
        num_rows_(num_tokens_ * args.top_k),
        num_experts_(args.up->groups),
        width_(args.x.shape[1]),
        rows_(args.scratch, DType::kFloat32, {num_rows_, row_columns(width_, args.up->n, args.down->k)}),
        up_(rows_.columns(0, args.up->n)),
        activated_(rows_.columns(args.up->n, args.down->k)),
        outputs_(rows_.columns(args.up->n + args.down->k, width_)) {}

  void run() {
    lay_out_scratch();
    order_rows();
    cut_blocks();
    multiply(*args_.up, args_.up_bias, up_, args_.x.strides[0],
             [&](int64_t row) { return args_.x.as<const float>() + token_of_[row] * args_.x.strides[0]; });
    activate();
    multiply(*args_.down, args_.down_bias, outputs_, activated_.strides[0],
             [&](int64_t row) { return activated_.as<const float>() + row * activated_.strides[0]; });
    join();
  }

 private:
  /// The plan is in the first worker's scratch; behind it, in every worker's, there is room for rows of a block.
  void lay_out_scratch() {
    const size_t rows = static_cast<size_t>(num_rows_);
    const size_t plan_bytes =
        rows * (sizeof(Block) + 2 * sizeof(int32_t)) + static_cast<size_t>(num_experts_ + 1) * sizeof(int32_t);
    near_offset_ = (plan_bytes + 63) / 64 * 64;
    const int64_t columns = moves(*args_.down, activated_.strides[0]) ? std::max(width_, args_.down->k) : width_;
    cpu_.reserve_scratch(near_offset_ + NearRows::bytes(most_block_rows(), columns));
    blocks_ = static_cast<Block*>(cpu_.scratch(0));
    row_of_ = reinterpret_cast<int32_t*>(blocks_ + rows);
    token_of_ = row_of_ + rows;
    expert_begin_ = token_of_ + rows;
  }

  /// Counting sort by expert; the rows of an expert are in order of their tokens.
  void order_rows() {
    std::fill_n(expert_begin_, num_experts_ + 1, 0);
    for (int64_t i = 0; i < num_rows_; ++i) ++expert_begin_[args_.experts[i] + 1];
    for (int64_t e = 0; e < num_experts_; ++e) expert_begin_[e + 1] += expert_begin_[e];
    // Each begin moves on to its end while rows are placed.
    for (int64_t i = 0; i < num_rows_; ++i) {
      row_of_[i] = expert_begin_[args_.experts[i]]++;
      token_of_[row_of_[i]] = static_cast<int32_t>(i / args_.top_k);
    }
    for (int64_t e = num_experts_; e > 0; --e) expert_begin_[e] = expert_begin_[e - 1];
    expert_begin_[0] = 0;
  }

  void cut_blocks() {
    const LinearKernel& linear = kernel_.linear;
    cut_blocks([&](int64_t rows) { return even_block_rows(rows, linear); });
    const int64_t panels = std::min(panel_count(args_.up->n), panel_count(args_.down->n));
    if (num_blocks_ * panels < 2 * cpu_.pool().size()) cut_blocks([&](int64_t) { return linear.rows_per_tile; });
  }

  template <typename BlockRows>
  void cut_blocks(const BlockRows& block_rows) {
    num_blocks_ = 0;
    num_used_ = 0;
    for (int64_t e = 0; e < num_experts_; ++e) {
      const int64_t end = expert_begin_[e + 1];
      if (expert_begin_[e] == end) continue;
      ++num_used_;
      const int64_t step = block_rows(end - expert_begin_[e]);
      for (int64_t row = expert_begin_[e]; row < end; row += step) {
        blocks_[num_blocks_++] = {static_cast<int32_t>(e), static_cast<int32_t>(row),
                                  static_cast<int32_t>(std::min(end, row + step))};
      }
    }
  }

  int64_t most_block_rows() const { return std::min(num_tokens_, kernel_.linear.rows_per_block); }

  /// Whether blocks are copied even if their rows follow each other.
  bool moves(const PackedLinear& weight, int64_t stride) const {
    return worth_moving(stride, most_block_rows(), weight, kernel_.linear);
  }

  /// out[row] = matrix of the row's expert * input_of(row) + bias, for all rows. Inputs of rows that follow each other
  /// mostly lie `stride` floats apart.
  template <typename InputOf>
  void multiply(const PackedLinear& weight, const Tensor& bias, const Tensor& out, int64_t stride,
                const InputOf& input_of) {
    const int workers = useful_workers(num_used_ * group_bytes(weight), num_rows_ * weight.k * weight.n, cpu_);
    const NearRows near(cpu_, workers, near_offset_, weight.k);
    const int64_t most_in_place = moves(weight, stride) ? kernel_.linear.rows_per_tile : num_rows_;
    share_panels(cpu_, workers, num_blocks_, weight, [&](int64_t index, int64_t begin, int64_t end, int worker) {
      const Block& block = blocks_[index];
      LinearArgs linear;
      linear.weight = &weight;
      if (bias) linear.bias = bias.rows(block.expert, 1);
      linear.out = out.rows(block.row_begin, block.rows());
      const float* const first = input_of(block.row_begin);
      if (block.rows() <= most_in_place && input_of(block.row_end - 1) == first + (block.rows() - 1) * stride) {
        linear.x = Tensor(const_cast<float*>(first), DType::kFloat32, {block.rows(), weight.k});
        linear.x.strides[0] = stride;
      } else {
        linear.x = near.get(worker, index, block.rows(), [&](int64_t row) { return input_of(block.row_begin + row); });
      }
      kernel_.linear.compute(
          linear,
          {.group = block.expert, .row_begin = 0, .row_end = block.rows(), .panel_begin = begin, .panel_end = end});
    });
  }

  void activate() {
    const int64_t columns = args_.down->k;
    split_items(cpu_, num_rows_, args_.up->n, [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) {
        const float* const x = up_.rows(row, 1).as<const float>();
        kernel_.activate_row(args_.activation, x, x + columns, activated_.rows(row, 1).as<float>(), columns);
      }
    });
  }

  void join() {
    split_items(cpu_, num_tokens_, args_.top_k * width_, [&](int64_t begin, int64_t end) {
      for (int64_t token = begin; token < end; ++token) {
        kernel_.join_row({.x = outputs_.as<const float>(),
                          .x_stride = outputs_.strides[0],
                          .rows = row_of_ + token * args_.top_k,
                          .weights = args_.weights + token * args_.top_k,
                          .count = args_.top_k,
                          .residual = args_.residual ? args_.residual.rows(token, 1).as<const float>() : nullptr,
                          .out = args_.out.rows(token, 1).as<float>(),
                          .size = width_});
      }
    });
  }

  const MoeArgs& args_;
  CpuStream& cpu_;
  const MoeKernel& kernel_;
  const int64_t num_tokens_;
  const int64_t num_rows_;
  const int64_t num_experts_;
  const int64_t width_;
  // The scratch, [num_rows, ...] float32, and its columns.
  const Tensor rows_;
  const Tensor up_;
  const Tensor activated_;
  const Tensor outputs_;
  // In the stream's scratch.
  Block* blocks_ = nullptr;          ///< [num_blocks], of the experts in use
  int32_t* row_of_ = nullptr;        ///< [T, top_k]
  int32_t* token_of_ = nullptr;      ///< [num_rows]
  int32_t* expert_begin_ = nullptr;  ///< [E + 1], first row
  size_t near_offset_ = 0;
  int64_t num_blocks_ = 0;
  int64_t num_used_ = 0;
};

}  // namespace

size_t moe_scratch_bytes(const MoeShape& shape) {
  return static_cast<size_t>(shape.num_tokens * shape.top_k *
                             row_columns(shape.width, shape.up_columns, shape.ffn_width)) *
         sizeof(float);
}

void run_moe(const MoeArgs& args, Stream& stream, const MoeKernel& kernel) {
  if (args.x.shape[0] > 0) MoeRun(args, as_cpu(stream), kernel).run();
}

}  // namespace quire::cpu
