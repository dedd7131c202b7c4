#include "runtime/batch.h"

#include <gtest/gtest.h>

#include <numeric>
#include <vector>

#include "quire/error.h"
#include "runtime/host_backend.h"

namespace quire {
namespace {

class BatchBuilderTest : public testing::Test {
 protected:
  HostBackend backend_;
  std::unique_ptr<Stream> stream_ = backend_.create_stream();
  BatchBuilder builder_{backend_, 8, 1000};
};

PlannedSequence planned(const std::vector<int32_t>& tokens, const std::vector<int32_t>& blocks, int32_t start,
                        int32_t num_tokens) {
  return {.start = start, .num_tokens = num_tokens, .tokens = tokens, .blocks = blocks};
}

template <typename T>
std::vector<T> read(const T* data, int64_t count) {
  return {data, data + count};
}

TEST_F(BatchBuilderTest, packs_a_chunk_and_a_single_token_side_by_side) {
  std::vector<int32_t> prompt(20);
  std::iota(prompt.begin(), prompt.end(), 100);
  const std::vector<int32_t> prompt_blocks = {4, 9, 2};
  const std::vector<int32_t> story = {50, 51, 52};
  const std::vector<int32_t> story_blocks = {7};
  const std::vector<PlannedSequence> sequences = {planned(prompt, prompt_blocks, 6, 4),
                                                  planned(story, story_blocks, 2, 1)};

  const RaggedBatch batch = builder_.build(sequences, *stream_);
  EXPECT_EQ(batch.num_tokens, 5);
  EXPECT_EQ(batch.num_sequences, 2);
  EXPECT_EQ(read(batch.token_ids, 5), (std::vector<int32_t>{106, 107, 108, 109, 52}));
  EXPECT_EQ(read(batch.positions, 5), (std::vector<int32_t>{6, 7, 8, 9, 2}));
  EXPECT_EQ(read(batch.rope_rows, 5), read(batch.positions, 5));
  EXPECT_EQ(read(batch.slots, 5), (std::vector<int64_t>{4 * 8 + 6, 4 * 8 + 7, 9 * 8, 9 * 8 + 1, 7 * 8 + 2}));
  EXPECT_EQ(read(batch.query_start, 3), (std::vector<int32_t>{0, 4, 5}));
  EXPECT_EQ(read(batch.context_lens, 2), (std::vector<int32_t>{10, 3}));
  // The third block of the prompt is not reached yet.
  ASSERT_EQ(batch.max_blocks, 2);
  EXPECT_EQ(read(batch.block_tables, 2), (std::vector<int32_t>{4, 9}));
  EXPECT_EQ(batch.block_tables[2], 7);
}

TEST_F(BatchBuilderTest, a_sequence_of_another_key_set_reads_the_rows_of_that_set) {
  const std::vector<int32_t> tokens = {5, 6, 7};
  const std::vector<int32_t> blocks = {3};
  std::vector<PlannedSequence> sequences = {planned(tokens, blocks, 1, 2), planned(tokens, blocks, 2, 1)};
  sequences[0].key_set = 2;
  const RaggedBatch batch = builder_.build(sequences, *stream_);
  EXPECT_EQ(read(batch.rope_rows, 3), (std::vector<int32_t>{2001, 2002, 2}));
  EXPECT_EQ(read(batch.positions, 3), (std::vector<int32_t>{1, 2, 2}));
}

TEST_F(BatchBuilderTest, addresses_slots_beyond_32_bits) {
  const std::vector<int32_t> tokens = {1};
  const std::vector<int32_t> blocks = {2000000000};
  EXPECT_EQ(builder_.build(std::vector{planned(tokens, blocks, 0, 1)}, *stream_).slots[0], int64_t{2000000000} * 8);
}

TEST_F(BatchBuilderTest, allocates_nothing_once_it_has_seen_the_largest_step) {
  const std::vector<int32_t> tokens(64, 1);
  const std::vector<int32_t> blocks = {0, 1, 2, 3, 4, 5, 6, 7};
  builder_.build(std::vector{planned(tokens, blocks, 0, 64)}, *stream_);
  const int allocations = backend_.num_allocations;
  for (int32_t length = 1; length <= 64; ++length) {
    builder_.build(std::vector{planned(tokens, blocks, 0, length)}, *stream_);
  }
  EXPECT_EQ(backend_.num_allocations, allocations);
}

TEST_F(BatchBuilderTest, refuses_tokens_or_blocks_that_are_not_there) {
  const std::vector<int32_t> tokens(9, 1);
  const std::vector<int32_t> one_block = {0};
  const std::vector<int32_t> two_blocks = {0, 1};
  EXPECT_NO_THROW(builder_.build(std::vector{planned(tokens, two_blocks, 8, 1)}, *stream_));
  EXPECT_THROW(builder_.build(std::vector{planned(tokens, two_blocks, 8, 2)}, *stream_), Error);
  EXPECT_THROW(builder_.build(std::vector{planned(tokens, one_block, 8, 1)}, *stream_), Error);
  EXPECT_THROW(builder_.build(std::vector{planned(tokens, one_block, 0, 0)}, *stream_), Error);
}

}  // namespace
}  // namespace quire
