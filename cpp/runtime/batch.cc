#include "runtime/batch.h"

#include <algorithm>
#include <cstring>

#include "core/check.h"

namespace quire {
namespace {

constexpr size_t kAlignment = 64;

/// Gives out consecutive aligned arrays of one piece of memory.
class Arena {
 public:
  template <typename T>
  size_t take(size_t count) {
    const size_t offset = bytes_;
    bytes_ += (count * sizeof(T) + kAlignment - 1) / kAlignment * kAlignment;
    return offset;
  }
  size_t bytes() const { return bytes_; }

 private:
  size_t bytes_ = 0;
};

}  // namespace

/// Byte offsets of the arrays, equal on host and device, so that one copy moves them all.
struct BatchBuilder::Layout {
  int32_t num_tokens = 0;
  int32_t max_blocks = 0;
  size_t token_ids = 0, positions = 0, rope_rows = 0, slots = 0, query_start = 0, context_lens = 0, block_tables = 0;
  size_t bytes = 0;

  Layout(std::span<const PlannedSequence> sequences, int32_t block_size) {
    for (const PlannedSequence& sequence : sequences) {
      num_tokens += sequence.num_tokens;
      max_blocks = std::max(max_blocks, (sequence.start + sequence.num_tokens + block_size - 1) / block_size);
    }
    Arena arena;
    token_ids = arena.take<int32_t>(num_tokens);
    positions = arena.take<int32_t>(num_tokens);
    rope_rows = arena.take<int32_t>(num_tokens);
    slots = arena.take<int64_t>(num_tokens);
    query_start = arena.take<int32_t>(sequences.size() + 1);
    context_lens = arena.take<int32_t>(sequences.size());
    block_tables = arena.take<int32_t>(sequences.size() * max_blocks);
    bytes = arena.bytes();
  }
};

void BatchBuilder::grow(size_t bytes) {
  if (device_.bytes() >= bytes) return;
  // Doubling keeps the number of growths small while block tables lengthen token by token.
  const size_t wanted = std::max(bytes, 2 * device_.bytes());
  device_ = Buffer();
  host_.assign(wanted, std::byte{0});
  device_ = backend_.allocate(wanted, MemoryKind::kWorkspace);
}

RaggedBatch BatchBuilder::build(std::span<const PlannedSequence> sequences, Stream& stream) {
  const Layout layout(sequences, block_size_);
  grow(layout.bytes);
  const auto host = [&](size_t offset) { return host_.data() + offset; };
  auto* token_ids = reinterpret_cast<int32_t*>(host(layout.token_ids));
  auto* positions = reinterpret_cast<int32_t*>(host(layout.positions));
  auto* rope_rows = reinterpret_cast<int32_t*>(host(layout.rope_rows));
  auto* slots = reinterpret_cast<int64_t*>(host(layout.slots));
  auto* query_start = reinterpret_cast<int32_t*>(host(layout.query_start));
  auto* context_lens = reinterpret_cast<int32_t*>(host(layout.context_lens));
  auto* block_table = reinterpret_cast<int32_t*>(host(layout.block_tables));

  int32_t token = 0;
  for (const PlannedSequence& sequence : sequences) {
    const int32_t end = sequence.start + sequence.num_tokens;
    const int32_t num_blocks = (end + block_size_ - 1) / block_size_;
    QUIRE_CHECK(sequence.num_tokens > 0 && static_cast<size_t>(end) <= sequence.tokens.size() &&
                    static_cast<size_t>(num_blocks) <= sequence.blocks.size(),
                "start=", sequence.start, ", num_tokens=", sequence.num_tokens, ", tokens=", sequence.tokens.size(),
                ", blocks=", sequence.blocks.size());
    *query_start++ = token;
    *context_lens++ = end;
    std::memcpy(token_ids + token, sequence.tokens.data() + sequence.start, sequence.num_tokens * sizeof(int32_t));
    std::memcpy(block_table, sequence.blocks.data(), num_blocks * sizeof(int32_t));
    block_table += layout.max_blocks;
    for (int32_t position = sequence.start; position < end; ++position, ++token) {
      positions[token] = position;
      rope_rows[token] = sequence.key_set * rows_per_key_set_ + position;
      slots[token] = int64_t{sequence.blocks[position / block_size_]} * block_size_ + position % block_size_;
    }
  }
  *query_start = token;
  backend_.copy_to_device(device_.data(), host_.data(), layout.bytes, stream);

  const auto device = [&](size_t offset) { return static_cast<const std::byte*>(device_.data()) + offset; };
  return {.num_tokens = layout.num_tokens,
          .num_sequences = static_cast<int32_t>(sequences.size()),
          .token_ids = reinterpret_cast<const int32_t*>(device(layout.token_ids)),
          .positions = reinterpret_cast<const int32_t*>(device(layout.positions)),
          .rope_rows = reinterpret_cast<const int32_t*>(device(layout.rope_rows)),
          .slots = reinterpret_cast<const int64_t*>(device(layout.slots)),
          .query_start = reinterpret_cast<const int32_t*>(device(layout.query_start)),
          .context_lens = reinterpret_cast<const int32_t*>(device(layout.context_lens)),
          .block_tables = reinterpret_cast<const int32_t*>(device(layout.block_tables)),
          .max_blocks = layout.max_blocks};
}

}  // namespace quire
