// Which ops become a chain, and what of.
#include "kernels_cuda/chain/chain.h"

#include <algorithm>
#include <cstdlib>
#include <optional>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "core/check.h"
#include "kernels_cuda/attention/kv_layout.h"
#include "kernels_cuda/chain/program.h"
#include "kernels_cuda/ops.h"
#include "kernels_cuda/stream.h"

namespace quire::gpu {
namespace {

/// Products from which on a chain is faster than its ops one by one: each saves some microseconds, while the kernel
/// begins with empty rings.
constexpr int kLeastProducts = 3;

/// Bytes of a chain's products, in the mean, from which on it pays: what is read ahead covers the time between small
/// ones no better than kernels do that overlap. On an H200 a step of one token takes 2 % longer as a chain with
/// Llama-3.2-1B (30 MB), 11 % less with Llama-3-8B (109 MB).
constexpr size_t kLeastMeanBytes = size_t{40} << 20;

/// QUIRE_CHAIN, for measurements and tests: "always" or "never" instead of where it pays.
enum class ChainUse { kAlways, kWherePays, kNever };

ChainUse chain_use() {
  const char* const value = std::getenv("QUIRE_CHAIN");
  const std::string_view use = value == nullptr ? "" : value;
  QUIRE_REQUIRE(use.empty() || use == "always" || use == "never", ErrorKind::kInvalidArgument,
                "[device] QUIRE_CHAIN is neither \"always\" nor \"never\": got=", use);
  return use == "always" ? ChainUse::kAlways : use == "never" ? ChainUse::kNever : ChainUse::kWherePays;
}

/// Arguments that own all that they point to in the host's memory.
struct TakenProduct {
  explicit TakenProduct(const StreamRows& args) : rows(args) {
    if (args.norm != nullptr) norm = *args.norm;
    if (args.activation != nullptr) activation = *args.activation;
  }
  StreamRows args() const {
    StreamRows whole = rows;
    whole.norm = norm ? &*norm : nullptr;
    whole.activation = activation ? &*activation : nullptr;
    return whole;
  }
  StreamRows rows;
  std::optional<NormArgs> norm;
  std::optional<ActivationRule> activation;
};

struct TakenAttention {
  explicit TakenAttention(const AttentionArgs& given) : attention(given), batch(*given.batch) {}
  AttentionArgs args() const {
    AttentionArgs whole = attention;
    whole.batch = &batch;
    return whole;
  }
  AttentionArgs attention;
  RaggedBatch batch;
};

using TakenOp = std::variant<TakenProduct, RopeKvWriteArgs, TakenAttention>;

/// Of a head's keys, what a block leaves of them for others (attention/split.cuh).
constexpr size_t kPartBytes = attention_part(128, kMostGroup) * sizeof(float);

/// Entries of the exchange in whose place launches are counted.
constexpr size_t kExchangeHead = 2;

bool begins_chunk(const void* data) {
  return reinterpret_cast<uintptr_t>(data) % kChunkBytes == 0;
}

/// Heads of one token that lie side by side.
bool are_dense(const Tensor& heads) {
  return heads.shape[0] == 1 && heads.strides[1] == heads.shape[2] && begins_chunk(heads.data);
}

/// Keys and values as the kernel reads them.
bool suits(const KvLayer& kv) {
  return (kv.head_dim == 64 || kv.head_dim == 128) && kv.v_head_dim == kv.head_dim && !kv.values_in_keys &&
         kv.block_size % 8 == 0;
}

/// One op's whole result, which the next one must begin with.
struct Result {
  const void* data = nullptr;
  int64_t count = 0;
  DType dtype = DType::kFloat32;
  bool operator==(const Result&) const = default;
};

class ProgramChain final : public Chain {
 public:
  ProgramChain(const Device& device, ChainUse use) : device_(device), use_(use) {}

  bool take(const StreamRows& args, GpuStream& stream) override {
    const PackedLinear& weight = *args.weight;
    if (args.x.shape[0] != 1 || weight.k % kWarpColumns != 0 || !begins_chunk(weight.data.data())) return false;
    const size_t room = static_cast<size_t>(weight.k) * 2;
    if (stages_beside(room) < kLeastStages) return false;
    const Result row{args.x.data, weight.k, args.norm != nullptr ? DType::kFloat32 : weight.dtype};
    // What does not read all that the link before has computed begins a new chain: chain.cu says why.
    if (!taken_.empty() && (ends_with_rope() || row != result_)) stream.enqueue_put_off();
    const bool gated = args.activation != nullptr && args.activation->gated;
    const Result result{args.out.data, gated ? weight.n / 2 : weight.n, args.out.dtype};
    return add(weight.dtype, 0, room, TakenProduct(args), result, stream);
  }

  bool take(const RopeKvWriteArgs& args, GpuStream& stream) override {
    const KvLayer& kv = args.kv.kv;
    const Tensor& k = args.kv.k;
    const int64_t pairs = args.rope.cos.shape[1];
    if (taken_.empty() || ends_with_rope() || !suits(kv) || k.dtype != kv.dtype) return false;
    if (pairs % (kChunkBytes / 2) != 0 || args.rope.cos.strides[0] != pairs) return false;
    if (!are_dense(args.q) || !are_dense(k) || !are_dense(args.kv.v)) return false;
    if (!begins_chunk(args.rope.cos.data) || !begins_chunk(args.rope.sin.data)) return false;
    const int64_t columns = k.shape[1] * kv.head_dim;
    const auto* const q_end = args.q.as<const uint16_t>() + args.q.shape[1] * kv.head_dim;
    if (k.data != q_end || args.kv.v.data != q_end + columns) return false;
    if (result_ != Result{args.q.data, args.q.shape[1] * kv.head_dim + 2 * columns, kv.dtype}) return false;
    return add(kv.dtype, kv.head_dim, 0, args, result_, stream);
  }

  bool take(const AttentionArgs& args, GpuStream& stream) override {
    const KvLayer& kv = args.kv;
    const auto* const rope = taken_.empty() ? nullptr : std::get_if<RopeKvWriteArgs>(&taken_.back());
    if (rope == nullptr || rope->q.data != args.q.data || rope->kv.kv.data != kv.data) return false;
    if (args.q.dtype != kv.dtype || args.out.dtype != kv.dtype) return false;
    if (args.batch->num_sequences != 1 || args.batch->num_tokens != 1) return false;
    if (args.softcap > 0.0f || args.alibi_slopes != nullptr || args.scale <= 0.0f) return false;
    if (!are_dense(args.out)) return false;
    if (args.q.shape[1] / kv.num_kv_heads > kMostGroup || kv.num_kv_heads > device_.num_multiprocessors) return false;
    const Result result{args.out.data, args.q.shape[1] * kv.head_dim, kv.dtype};
    return add(kv.dtype, kv.head_dim, attention_room(kv.head_dim, static_cast<int>(args.q.shape[1] / kv.num_kv_heads)),
               TakenAttention(args), result, stream);
  }

  void enqueue(GpuStream& stream) override {
    std::vector<TakenOp> ops = std::exchange(taken_, {});
    const int head_dim = std::exchange(head_dim_, 0);
    const size_t room = std::exchange(room_bytes_, 0);
    num_links_ = 0;
    // The kernel has a rope only together with the attention behind it.
    std::optional<RopeKvWriteArgs> last_rope;
    if (auto* const rope = std::get_if<RopeKvWriteArgs>(&ops.back())) {
      last_rope = *rope;
      ops.pop_back();
    }
    if (!pays(ops) || !set_program(ops, room, stream.resources())) {
      enqueue_one_by_one(ops, stream);
    } else {
      run_program(program_, dtype_, head_dim == 0 ? 64 : head_dim, stream);
    }
    if (last_rope) launch_rope_kv_write(*last_rope, stream);
  }

 private:
  /// Of a row, that a warp takes at once.
  static constexpr int64_t kWarpColumns = 64;
  /// With fewer, copies are not far enough ahead.
  static constexpr int kLeastStages = 6;

  bool pays(const std::vector<TakenOp>& ops) const {
    size_t products = 0, bytes = 0;
    for (const TakenOp& op : ops) {
      const auto* const product = std::get_if<TakenProduct>(&op);
      if (product == nullptr) continue;
      ++products;
      bytes += product->rows.weight->data.bytes();
    }
    return products >= kLeastProducts && (use_ == ChainUse::kAlways || bytes >= products * kLeastMeanBytes);
  }

  bool ends_with_rope() const { return !taken_.empty() && std::holds_alternative<RopeKvWriteArgs>(taken_.back()); }

  /// Stages of the ring for which there is memory beside a room of so many bytes.
  int stages_beside(size_t room) const {
    constexpr size_t kReserved = 1024;
    const size_t taken = kReserved + kSumBytes + kSignalBytes + padded(room);
    if (taken > device_.shared_memory_per_block) return 0;
    return static_cast<int>(std::min<size_t>((device_.shared_memory_per_block - taken) / kStageBytes, kMostStages));
  }
  static size_t padded(size_t room) { return (room + 127) / 128 * 128; }

  /// A chain has one type, heads of one width, and a limit to its length: what does not fit begins a new one.
  template <typename Op>
  bool add(DType dtype, int head_dim, size_t room, const Op& op, const Result& result, GpuStream& stream) {
    const bool other_heads = head_dim_ != 0 && head_dim != 0 && head_dim_ != head_dim;
    // Attention never begins a chain: its rope is there, and left room for it.
    const bool full = !std::is_same_v<Op, TakenAttention> && num_links_ == kMostLinks;
    if (!taken_.empty() && (dtype != dtype_ || other_heads || full)) stream.enqueue_put_off();
    dtype_ = dtype;
    result_ = result;
    if (head_dim != 0) head_dim_ = head_dim;
    room_bytes_ = std::max(room_bytes_, room);
    taken_.emplace_back(op);
    // A rope and the attention behind it are one.
    if (!std::is_same_v<Op, TakenAttention>) ++num_links_;
    return true;
  }

  static void enqueue_one_by_one(const std::vector<TakenOp>& ops, GpuStream& stream) {
    for (const TakenOp& op : ops) {
      if (const auto* const product = std::get_if<TakenProduct>(&op)) {
        stream_rows(product->args(), stream);
      } else if (const auto* const rope = std::get_if<RopeKvWriteArgs>(&op)) {
        rope_kv_write(*rope, stream);
      } else {
        attention(std::get<TakenAttention>(op).args(), stream);
      }
    }
  }

  /// False: links read what others have written in a way that the exchange does not know.
  bool set_program(const std::vector<TakenOp>& ops, size_t room, const Resources& resources) {
    program_.num_links = 0;
    program_.room_bytes = static_cast<int32_t>(padded(room));
    program_.exchange = resources.exchange + kExchangeHead;
    program_.launches = reinterpret_cast<unsigned*>(resources.exchange);
    program_.claims = resources.counters;
    program_.ended = program_.claims + kMostLinks;
    program_.arrivals = program_.ended + 1;
    program_.parts = static_cast<float*>(resources.scratch);
    written_.clear();
    num_entries_ = 0;
    bool known = true;
    for (size_t i = 0; i < ops.size(); ++i) {
      Link& link = program_.links[program_.num_links];
      if (const auto* const product = std::get_if<TakenProduct>(&ops[i])) {
        const RowProduct row = row_product(product->args());
        link.kind = Link::Kind::kProduct;
        link.product = row;
        const DType out = row.out_type == OutType::kFloat32 ? DType::kFloat32 : dtype_;
        known = known && find(row.x, row.k, row.has_norm ? DType::kFloat32 : dtype_, link.x) &&
                find(row.residual, row.residual == nullptr ? 0 : row.units, DType::kFloat32, link.residual);
        write(row.out, row.units, out, link);
      } else {
        const AttentionArgs args = std::get<TakenAttention>(ops[i + 1]).args();
        const AttentionLink attention = attention_link(std::get<RopeKvWriteArgs>(ops[i]), args);
        link.kind = Link::Kind::kAttention;
        link.attention = attention;
        const int64_t dim = args.kv.head_dim;
        const int64_t heads = int64_t{attention.kv_heads} * attention.group;
        known = known && find(attention.q, (heads + 2 * attention.kv_heads) * dim, dtype_, link.x);
        write(attention.out, heads * dim, dtype_, link);
        ++i;
      }
      ++program_.num_links;
    }
    program_.num_stages = stages_beside(room);
    return known && num_entries_ + kExchangeHead <= resources.exchange_entries;
  }

  /// Where a link finds `count` numbers that another one may have written.
  bool find(const void* data, int64_t count, DType dtype, Source& source) const {
    source = {};
    const auto* const begin = static_cast<const std::byte*>(data);
    const auto* const end = begin + count * dtype_bytes(dtype);
    for (size_t i = written_.size(); i-- > 0;) {
      const Written& last = written_[i];
      if (end <= last.begin || begin >= last.end) continue;
      const int64_t first = (begin - last.begin) / dtype_bytes(dtype);
      if (dtype != last.dtype || begin < last.begin || end > last.end || first % 4 != 0) return false;
      source = {.entry = last.entry + static_cast<uint32_t>(dtype == DType::kFloat32 ? first : first / 2),
                .link = last.link};
      return true;
    }
    return true;
  }

  /// Note what a link writes. What has been written to the same place before keeps its entries.
  void write(const void* data, int64_t count, DType dtype, Link& link) {
    const auto* const begin = static_cast<const std::byte*>(data);
    const auto* const end = begin + count * dtype_bytes(dtype);
    const auto same = std::find_if(written_.begin(), written_.end(), [&](const Written& other) {
      return other.begin == begin && other.end == end && other.dtype == dtype;
    });
    Written made{begin, end, dtype, 0, static_cast<int16_t>(program_.num_links)};
    if (same != written_.end()) {
      made.entry = same->entry;
      written_.erase(same);
    } else {
      made.entry = static_cast<uint32_t>(num_entries_);
      // A reader takes four entries at a time.
      const int64_t entries = dtype == DType::kFloat32 ? count : (count + 1) / 2;
      num_entries_ += static_cast<size_t>((entries + 3) / 4 * 4);
    }
    written_.push_back(made);
    link.out = made.entry;
  }

  static AttentionLink attention_link(const RopeKvWriteArgs& rope, const AttentionArgs& args) {
    const KvLayer& kv = args.kv;
    return {.q = args.q.data,
            .out = args.out.data,
            .rope_rows = rope.rope.rows,
            .cos = rope.rope.cos.as<const float>(),
            .sin = rope.rope.sin.as<const float>(),
            .slots = rope.kv.slots,
            .pages = static_cast<std::byte*>(kv.data),
            .context_lens = args.batch->context_lens,
            .block_tables = args.batch->block_tables,
            .block_starts = args.batch->block_starts,
            .sinks = args.sinks,
            .block_bytes = kv.block_bytes,
            .block_size = kv.block_size,
            .kv_heads = static_cast<int16_t>(kv.num_kv_heads),
            .group = static_cast<int16_t>(args.q.shape[1] / kv.num_kv_heads),
            .window = args.window,
            .scale = args.scale,
            .pairs = static_cast<int16_t>(rope.rope.cos.shape[1]),
            .interleaved = rope.rope.layout == RopeLayout::kInterleaved};
  }

  /// Memory that a link writes, and where in the exchange that is.
  struct Written {
    const std::byte* begin;
    const std::byte* end;
    DType dtype;
    uint32_t entry;
    int16_t link;
  };

  const Device& device_;
  const ChainUse use_;
  std::vector<Written> written_;
  size_t num_entries_ = 0;
  std::vector<TakenOp> taken_;
  DType dtype_ = DType::kBFloat16;
  int head_dim_ = 0;
  Result result_;  ///< of the last op
  size_t room_bytes_ = 0;
  int num_links_ = 0;
  Program program_;
};

}  // namespace

std::unique_ptr<Chain> make_chain(const Device& device) {
  const ChainUse use = chain_use();
  if (device.compute_capability < 90 || use == ChainUse::kNever) return nullptr;
  return std::make_unique<ProgramChain>(device, use);
}

size_t chain_scratch_bytes(const Device& device) {
  if (device.compute_capability < 90) return 0;
  // A part for every block; with more kv heads than half of the blocks there are none.
  return static_cast<size_t>(device.num_multiprocessors) * kPartBytes;
}

size_t chain_exchange_entries(const Device& device) {
  return device.compute_capability < 90 ? 0 : size_t{1} << 18;
}

size_t chain_counters(const Device& device) {
  if (device.compute_capability < 90) return 0;
  return kMostLinks + 1 + static_cast<size_t>(device.num_multiprocessors);
}

}  // namespace quire::gpu
