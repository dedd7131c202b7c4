#include "runtime/step_inputs.h"

#include <algorithm>
#include <cstring>

#include "core/check.h"
#include "kv/layout.h"

namespace quire {
namespace {

/// Block tables of so many bytes have room from the beginning; longer ones make the memory grow.
constexpr int64_t kMostTableBytes = int64_t{4} << 20;
/// Room for lists of ids and biases that is there from the beginning.
constexpr int64_t kListBytes = int64_t{64} << 10;
constexpr size_t kAlignment = 256;

/// Gives out places in a piece of memory, one behind the other.
class Arena {
 public:
  template <typename T>
  size_t take(size_t count, size_t alignment = 64) {
    const size_t offset = (bytes_ + alignment - 1) / alignment * alignment;
    bytes_ = offset + count * sizeof(T);
    return offset;
  }
  size_t bytes() const { return bytes_; }

 private:
  size_t bytes_ = 0;
};

template <typename T>
T* at(std::byte* base, size_t offset) {
  return reinterpret_cast<T*>(base + offset);
}

}  // namespace

/// Byte offsets, equal on host and device. Those up to token_ids depend on the shape alone.
struct StepInputs::Layout {
  StepShape shape;
  size_t num_unresolved = 0, slots = 0, positions = 0, rope_rows = 0, query_start = 0, context_lens = 0;
  size_t block_starts = 0, token_rows = 0, rows = 0, token_ids = 0;
  size_t ids = 0, block_tables = 0, biases = 0;
  size_t bytes = 0;

  Layout(const StepShape& size, size_t num_ids, size_t num_biases, size_t num_blocks) : shape(size) {
    const auto num_tokens = static_cast<size_t>(shape.num_tokens);
    const auto num_sequences = static_cast<size_t>(shape.num_sequences);
    const auto num_rows = static_cast<size_t>(shape.num_rows);
    Arena arena;
    num_unresolved = arena.take<int32_t>(1);
    slots = arena.take<int64_t>(num_tokens);
    positions = arena.take<int32_t>(num_tokens);
    rope_rows = arena.take<int32_t>(num_tokens);
    query_start = arena.take<int32_t>(num_sequences + 1);
    context_lens = arena.take<int32_t>(num_sequences);
    block_starts = arena.take<int32_t>(num_sequences);
    token_rows = arena.take<int32_t>(num_rows);
    rows = arena.take<SampleRow>(num_rows);
    // The lists stand right behind the tokens, so that one op resolves both.
    token_ids = arena.take<int32_t>(num_tokens);
    ids = arena.take<int32_t>(num_ids, sizeof(int32_t));
    block_tables = arena.take<int32_t>(num_blocks, sizeof(int32_t));
    biases = arena.take<TokenBias>(num_biases, sizeof(TokenBias));
    bytes = arena.bytes();
  }
};

StepInputs::StepInputs(Backend& backend, const StepShape& largest, int32_t block_size, int32_t blocks_per_sequence,
                       int32_t rows_per_key_set)
    : backend_(backend), block_size_(block_size), rows_per_key_set_(rows_per_key_set) {
  const auto size = static_cast<size_t>(bytes(largest, blocks_per_sequence));
  for (Buffer& host : host_) host = backend_.allocate_host(size);
  device_ = backend_.allocate(size, MemoryKind::kWorkspace);
}

int64_t StepInputs::bytes(const StepShape& largest, int32_t blocks_per_sequence) {
  const int64_t tables = int64_t{largest.num_sequences} * blocks_per_sequence * static_cast<int64_t>(sizeof(int32_t));
  const Layout layout(largest, 0, 0, 0);
  return static_cast<int64_t>(layout.bytes) + std::min(tables, kMostTableBytes) + kListBytes;
}

StepInputs::Layout StepInputs::layout_of(const StepPlan& plan, const SampleBatch& samples,
                                         const StepShape& shape) const {
  size_t num_blocks = 0;
  for (const PlannedSequence& planned : plan.sequences) {
    num_blocks += static_cast<size_t>(blocks_for_tokens(planned.start + planned.num_tokens, block_size_));
  }
  return {shape, samples.ids.size(), samples.biases.size(), num_blocks};
}

bool StepInputs::has_room(const StepPlan& plan, const SampleBatch& samples, const StepShape& shape) const {
  return layout_of(plan, samples, shape).bytes <= device_.bytes();
}

void StepInputs::make_room(const StepPlan& plan, const SampleBatch& samples, const StepShape& shape, Stream& stream) {
  const size_t bytes = layout_of(plan, samples, shape).bytes;
  if (bytes <= device_.bytes()) return;
  const size_t wanted = bytes + bytes / 2;
  stream.synchronize();  // steps before this one still read what is given back
  device_ = Buffer();
  ++generation_;
  for (Buffer& host : host_) {
    host = Buffer();
    host = backend_.allocate_host(wanted);
  }
  device_ = backend_.allocate(wanted, MemoryKind::kWorkspace);
}

StepArgs StepInputs::args_at(std::byte* base, const Layout& layout) const {
  return {.batch = {.num_tokens = layout.shape.num_tokens,
                    .num_sequences = layout.shape.num_sequences,
                    .token_ids = at<int32_t>(base, layout.token_ids),
                    .positions = at<int32_t>(base, layout.positions),
                    .rope_rows = at<int32_t>(base, layout.rope_rows),
                    .slots = at<int64_t>(base, layout.slots),
                    .query_start = at<int32_t>(base, layout.query_start),
                    .context_lens = at<int32_t>(base, layout.context_lens),
                    .block_tables = at<int32_t>(base, 0),
                    .block_starts = at<int32_t>(base, layout.block_starts)},
          .token_rows = at<int32_t>(base, layout.token_rows),
          .rows = at<SampleRow>(base, layout.rows),
          .ids = at<int32_t>(base, 0),
          .biases = at<TokenBias>(base, 0),
          .unresolved = at<int32_t>(base, layout.token_ids),
          .num_unresolved = at<int32_t>(base, layout.num_unresolved)};
}

StepArgs StepInputs::load(const StepPlan& plan, const SampleBatch& samples, const StepShape& shape, Stream& stream) {
  const int32_t num_padding = shape.num_tokens - plan.num_tokens;
  int32_t max_query_len = std::min(num_padding, 1), num_single_queries = num_padding;
  for (const PlannedSequence& planned : plan.sequences) {
    max_query_len = std::max(max_query_len, planned.num_tokens);
    num_single_queries += planned.num_tokens == 1;
  }
  const Layout layout = layout_of(plan, samples, shape);
  make_room(plan, samples, shape, stream);
  auto* const host = static_cast<std::byte*>(host_[next_host_].data());
  auto* const device = static_cast<std::byte*>(device_.data());
  *at<int32_t>(host, layout.num_unresolved) = shape.num_tokens + static_cast<int32_t>(samples.ids.size());
  pack_sequences(plan, layout, host);
  pack_padding(plan, layout, host);
  pack_samples(samples, layout, host);

  StepArgs args = args_at(device, layout);
  args.batch.max_query_len = max_query_len;
  args.batch.num_single_queries = num_single_queries;
  backend_.enqueue_to_device(device, host, layout.bytes, stream);
  next_host_ = 1 - next_host_;
  return args;
}

void StepInputs::pack_sequences(const StepPlan& plan, const Layout& layout, std::byte* host) const {
  auto* const token_ids = at<int32_t>(host, layout.token_ids);
  auto* const positions = at<int32_t>(host, layout.positions);
  auto* const rope_rows = at<int32_t>(host, layout.rope_rows);
  auto* const slots = at<int64_t>(host, layout.slots);
  auto* query_start = at<int32_t>(host, layout.query_start);
  auto* context_lens = at<int32_t>(host, layout.context_lens);
  auto* block_starts = at<int32_t>(host, layout.block_starts);
  auto block_start = static_cast<int32_t>(layout.block_tables / sizeof(int32_t));
  int32_t token = 0;
  for (const PlannedSequence& sequence : plan.sequences) {
    const int32_t end = sequence.start + sequence.num_tokens;
    const int32_t num_blocks = blocks_for_tokens(end, block_size_);
    QUIRE_CHECK(sequence.num_tokens > 0 && static_cast<size_t>(end) <= sequence.tokens.size() &&
                    static_cast<size_t>(num_blocks) <= sequence.blocks.size() &&
                    token + sequence.num_tokens <= layout.shape.num_tokens,
                "start=", sequence.start, ", num_tokens=", sequence.num_tokens, ", tokens=", sequence.tokens.size(),
                ", blocks=", sequence.blocks.size(), ", tokens of the step=", layout.shape.num_tokens);
    *query_start++ = token;
    *context_lens++ = end;
    *block_starts++ = block_start;
    std::memcpy(at<int32_t>(host, 0) + block_start, sequence.blocks.data(), num_blocks * sizeof(int32_t));
    block_start += num_blocks;
    std::memcpy(token_ids + token, sequence.tokens.data() + sequence.start, sequence.num_tokens * sizeof(int32_t));
    for (int32_t position = sequence.start; position < end; ++position, ++token) {
      positions[token] = position;
      rope_rows[token] = sequence.key_set * rows_per_key_set_ + position;
      slots[token] = int64_t{sequence.blocks[position / block_size_]} * block_size_ + position % block_size_;
    }
  }
  *query_start = token;
}

/// Sequences of one token that read nothing and write nowhere, up to the shape's size.
void StepInputs::pack_padding(const StepPlan& plan, const Layout& layout, std::byte* host) const {
  const auto num_sequences = static_cast<int32_t>(plan.sequences.size());
  const int32_t num_more = layout.shape.num_sequences - num_sequences;
  QUIRE_CHECK(num_more >= 0 && layout.shape.num_tokens - plan.num_tokens == num_more, "tokens=", plan.num_tokens,
              ", sequences=", num_sequences, ", padded to ", layout.shape.num_tokens, " and ",
              layout.shape.num_sequences);
  if (num_more == 0) return;
  const auto fill = [&](auto* array, int32_t first, auto value) { std::fill_n(array + first, num_more, value); };
  fill(at<int32_t>(host, layout.token_ids), plan.num_tokens, 0);
  fill(at<int32_t>(host, layout.positions), plan.num_tokens, 0);
  fill(at<int32_t>(host, layout.rope_rows), plan.num_tokens, 0);
  fill(at<int64_t>(host, layout.slots), plan.num_tokens, int64_t{-1});
  fill(at<int32_t>(host, layout.context_lens), num_sequences, 0);
  fill(at<int32_t>(host, layout.block_starts), num_sequences, 0);
  auto* const query_start = at<int32_t>(host, layout.query_start);
  for (int32_t i = num_sequences; i < layout.shape.num_sequences; ++i) query_start[i + 1] = query_start[i] + 1;
}

void StepInputs::pack_samples(const SampleBatch& samples, const Layout& layout, std::byte* host) const {
  auto* const token_rows = at<int32_t>(host, layout.token_rows);
  auto* const rows = at<SampleRow>(host, layout.rows);
  const auto first_id = static_cast<int32_t>(layout.ids / sizeof(int32_t));
  const auto first_bias = static_cast<int32_t>(layout.biases / sizeof(TokenBias));
  for (int32_t r = 0; r < samples.size(); ++r) {
    token_rows[r] = samples.token_rows[r];
    rows[r] = samples.rows[r];
    rows[r].first_id += first_id;
    rows[r].first_bias += first_bias;
  }
  const SampleRow nothing = finiteness_row();
  for (int32_t r = samples.size(); r < layout.shape.num_rows; ++r) {
    token_rows[r] = r;
    rows[r] = nothing;
  }
  if (!samples.ids.empty()) {
    std::memcpy(at<int32_t>(host, layout.ids), samples.ids.data(), samples.ids.size() * sizeof(int32_t));
  }
  if (!samples.biases.empty()) {
    std::memcpy(at<TokenBias>(host, layout.biases), samples.biases.data(), samples.biases.size() * sizeof(TokenBias));
  }
}

}  // namespace quire
