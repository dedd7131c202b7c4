// Which products of several rows become a chain, and how each is cut.
#include "kernels_cuda/chain/rows_chain.h"

#include <algorithm>
#include <bit>
#include <utility>
#include <variant>
#include <vector>

#include "core/check.h"
#include "kernels_cuda/chain/rows_program.h"
#include "kernels_cuda/chain/use.h"
#include "kernels_cuda/gemm/tensor_map.h"
#include "kernels_cuda/ops.h"
#include "kernels_cuda/stream.h"

namespace quire::gpu {
namespace {

/// Products from which on a chain is faster than its ops one by one, and rows up to which. On an H200 a step of
/// Llama-3-8B took 10 % less as chains with 2 rows, 5 and 3 % with 3 and 4, 1 to 2 % with 6 and 8, and more time from
/// 16 on. That was while each product was waited for (rows.cu) and is to be measured again: until then chains of more
/// rows are made only where they are asked for (ChainUse::kAlways).
constexpr size_t kLeastRowsProducts = 2;
constexpr int64_t kMostPayingRows = 8;

/// A product as both ops have it: x is what is normed, if there is a norm.
struct Product {
  Tensor x;
  const NormArgs* norm = nullptr;
  const PackedLinear* weight = nullptr;
  const ActivationRule* activation = nullptr;
  Tensor bias, residual, out;

  explicit Product(const LinearArgs& args)
      : x(args.x), weight(args.weight), bias(args.bias), residual(args.residual), out(args.out) {}
  explicit Product(const NormedLinearArgs& args)
      : x(args.norm.x),
        norm(&args.norm),
        weight(args.weight),
        activation(args.has_activation ? &args.activation : nullptr),
        bias(args.bias),
        out(args.out) {}

  bool gated() const { return activation != nullptr && activation->gated; }
  /// The rows that are multiplied.
  const Tensor& rows() const { return norm != nullptr ? norm->out : x; }
};

using TakenProduct = std::variant<LinearArgs, NormedLinearArgs>;

Product product_of(const TakenProduct& taken) {
  return std::visit([](const auto& args) { return Product(args); }, taken);
}

/// Begins, as do all its rows, where 16 bytes do.
bool is_aligned(const Tensor& matrix) {
  return reinterpret_cast<uintptr_t>(matrix.data) % 16 == 0 && matrix.strides[0] * dtype_bytes(matrix.dtype) % 16 == 0;
}

bool fits(const Product& product) {
  const PackedLinear& weight = *product.weight;
  const int64_t rows = product.x.shape[0];
  if (rows < 2 || rows > kMostRows || weight.groups != 1) return false;
  if (weight.dtype != DType::kBFloat16 && weight.dtype != DType::kFloat16) return false;
  if (weight.k % kRowsUnit != 0 || weight.n % (product.gated() ? 16 : 8) != 0) return false;
  if (product.rows().dtype != weight.dtype || !is_aligned(product.rows())) return false;
  if (product.out.dtype != weight.dtype && product.out.dtype != DType::kFloat32) return false;
  if (!is_aligned(product.out) || (product.residual && !is_aligned(product.residual))) return false;
  if (product.norm == nullptr) return true;
  const auto begins = [](const Tensor& vector) { return reinterpret_cast<uintptr_t>(vector.data) % 16 == 0; };
  return is_aligned(product.x) && begins(product.norm->weight) && begins(product.norm->bias);
}

/// How a product is cut into tiles of `columns` rows of the matrix, whose sums `splits` blocks share.
struct Cut {
  int columns = kMostRowsColumns;
  int splits = 1;
};

/// Of boxes of x.
int box_rows_for(int64_t rows) {
  return static_cast<int>(std::bit_ceil(static_cast<uint64_t>(std::max<int64_t>(rows, 8))));
}

/// An estimate of the time that a product takes with a cut, in ns, from what is read: the matrix from memory, once, and
/// x from the second-level cache, by each block. Figures of an H200.
double estimate_ns(const Product& product, const Cut& cut, int num_blocks) {
  constexpr double kMemory = 4300, kCache = 5500, kBlock = 60;  // bytes per ns; of all, of all, and of one block
  constexpr double kUnitNs = 210;   // that a unit took at least when its products waited for each other
  constexpr double kPartNs = 1500;  // that leaving parts, and adding them up, take
  const int64_t tiles = (product.weight->n + cut.columns - 1) / cut.columns;
  const int64_t jobs = tiles * cut.splits;
  const int64_t units = product.weight->k / kRowsUnit;
  const auto units_of_job = static_cast<double>((units + cut.splits - 1) / cut.splits);
  const double weights = units_of_job * rows_unit_bytes(cut.columns);
  const double bytes = weights + units_of_job * rows_unit_bytes(box_rows_for(product.x.shape[0]));
  double ns = 0;
  for (int64_t done = 0; done < jobs; done += num_blocks) {
    const auto running = static_cast<double>(std::min<int64_t>(jobs - done, num_blocks));
    ns += std::max({running * weights / kMemory, running * bytes / kCache, bytes / kBlock, units_of_job * kUnitNs});
    if (cut.splits > 1) ns += kPartNs;
  }
  return ns;
}

Cut choose_cut(const Product& product, int num_blocks) {
  constexpr int64_t kLeastUnitsOfPart = 4;  // so that no part is empty, too: who has none would not wait for x
  const int64_t units = product.weight->k / kRowsUnit;
  Cut best;
  double least = estimate_ns(product, best, num_blocks);
  for (int columns = 32; columns <= kMostRowsColumns; columns += 32) {
    for (const int splits : {1, kRowsSplits}) {
      if (splits > 1 && (product.activation != nullptr || units < splits * kLeastUnitsOfPart)) continue;
      const Cut cut{columns, splits};
      const double ns = estimate_ns(product, cut, num_blocks);
      if (ns < least) best = cut, least = ns;
    }
  }
  return best;
}

RowProduct row_product_of(const Product& product) {
  StreamRows args;
  args.x = product.x;
  args.norm = product.norm;
  args.weight = product.weight;
  args.bias = product.bias;
  args.residual = product.residual;
  args.activation = product.activation;
  args.out = product.out;
  return row_product(args);
}

/// K as units of it, the outermost dimension: all of a stage comes by one copy, of which each takes its time.
RowsMaps maps_of(const Product& product, const Cut& cut) {
  const DType dtype = product.weight->dtype;
  const int64_t n = product.weight->n, k = product.weight->k, half = n / 2;
  const void* const weights = product.weight->data.data();
  const auto columns = static_cast<uint32_t>(cut.columns);
  const auto units = static_cast<uint32_t>(kRowsWeightStage / rows_unit_bytes(cut.columns));
  const Tensor& rows = product.rows();
  const int64_t stride = rows.strides[0];
  RowsMaps maps;
  maps.weights = product.gated()
                     ? make_tensor_map<5>(dtype, weights, {kRowsUnit, 8, 2, half / 8, k / kRowsUnit},
                                          {k, half * k, 8 * k, kRowsUnit}, {kRowsUnit, 8, 2, columns / 16, units})
                     : make_tensor_map<5>(dtype, weights, {kRowsUnit, n, 1, 1, k / kRowsUnit},
                                          {k, n * k, n * k, kRowsUnit}, {kRowsUnit, columns, 1, 1, units});
  const int box_rows = box_rows_for(rows.shape[0]);
  maps.x = make_tensor_map<5>(
      dtype, rows.data, {kRowsUnit, rows.shape[0], 1, 1, k / kRowsUnit},
      {stride, rows.shape[0] * stride, rows.shape[0] * stride, kRowsUnit},
      {kRowsUnit, static_cast<uint32_t>(box_rows), 1, 1, static_cast<uint32_t>(rows_x_units(box_rows))});
  return maps;
}

class ProgramRowsChain final : public RowsChain {
 public:
  ProgramRowsChain(const Device& device, ChainUse use) : device_(device), use_(use) {}

  bool take(const LinearArgs& args, GpuStream& stream) override { return add(args, stream); }
  bool take(const NormedLinearArgs& args, GpuStream& stream) override { return add(args, stream); }

  void enqueue(GpuStream& stream) override {
    const std::vector<TakenProduct> products = std::exchange(taken_, {});
    if (pays(products)) {
      set_program(products, stream);
      run_rows_program(program_, product_of(products.front()).weight->dtype, stream);
    } else {
      for (const TakenProduct& taken : products) enqueue_alone(taken, stream);
    }
  }

 private:
  template <typename Args>
  bool add(const Args& args, GpuStream& stream) {
    const Product product(args);
    if (!fits(product) || (use_ == ChainUse::kWherePays && product.x.shape[0] > kMostPayingRows)) return false;
    if (!taken_.empty()) {
      // A chain has one type, so many rows, and a limit to its length: what does not fit begins a new one.
      const Product first = product_of(taken_.front());
      const bool goes_on = taken_.size() < kMostRowsLinks && first.weight->dtype == args.weight->dtype &&
                           first.x.shape[0] == product.x.shape[0];
      if (!goes_on) stream.enqueue_put_off();
    }
    taken_.emplace_back(args);
    return true;
  }

  bool pays(const std::vector<TakenProduct>& products) const {
    size_t bytes = 0;
    for (const TakenProduct& taken : products) bytes += product_of(taken).weight->data.bytes();
    return products.size() >= kLeastRowsProducts &&
           (use_ == ChainUse::kAlways || bytes >= products.size() * kLeastMeanBytes);
  }

  static void enqueue_alone(const TakenProduct& taken, GpuStream& stream) {
    if (const auto* const normed = std::get_if<NormedLinearArgs>(&taken)) {
      normed_linear(*normed, stream);
    } else {
      linear(std::get<LinearArgs>(taken), stream);
    }
  }

  void set_program(const std::vector<TakenProduct>& products, GpuStream& stream) {
    const Product first = product_of(products.front());
    const int64_t rows = first.x.shape[0];
    const int num_blocks = device_.num_multiprocessors;
    program_.num_links = program_.num_phases = 0;
    bool has_parts = false;  // of the link before
    for (const TakenProduct& taken : products) {
      const Product product = product_of(taken);
      Cut cut = choose_cut(product, num_blocks);
      const auto part_bytes = static_cast<size_t>(rows * product.weight->n) * sizeof(float);
      if (cut.splits > 1 && static_cast<size_t>(cut.splits) * part_bytes > stream.resources().scratch_bytes) cut = {};
      RowsLink& link = program_.links[program_.num_links];
      link.product = row_product_of(product);
      link.normed = product.rows().data;
      link.normed_stride = product.rows().strides[0];
      link.parts = static_cast<float*>(stream.resources().scratch);
      link.begins_with_rows = product.norm != nullptr || has_parts;
      has_parts = cut.splits > 1;
      link.tiles = static_cast<int32_t>((product.weight->n + cut.columns - 1) / cut.columns);
      link.splits = static_cast<int16_t>(cut.splits);
      link.columns = static_cast<int16_t>(cut.columns);
      program_.maps[program_.num_links] = maps_of(product, cut);
      ++program_.num_links;
      program_.num_phases += link.begins_with_rows ? 2 : 1;
    }
    if (has_parts) ++program_.num_phases;
    program_.box_rows = box_rows_for(rows);
    const size_t beside = rows_shared_bytes(0, program_.box_rows, program_.num_links);
    program_.weight_stages =
        std::min(static_cast<int>((device_.shared_memory_per_block - beside) / kRowsWeightStage), kMostWeightStages);
    // Behind the counter of a Chain's launches.
    program_.arrivals = reinterpret_cast<unsigned*>(stream.resources().exchange + 1);
  }

  const Device& device_;
  const ChainUse use_;
  std::vector<TakenProduct> taken_;
  RowsProgram program_;
};

}  // namespace

std::unique_ptr<RowsChain> make_rows_chain(const Device& device, bool deterministic) {
  const ChainUse use = chain_use();
  if (device.compute_capability != 90 || deterministic || use == ChainUse::kNever) return nullptr;
  return std::make_unique<ProgramRowsChain>(device, use);
}

}  // namespace quire::gpu
