#include "runtime/step_inputs.h"

#include <gtest/gtest.h>

#include <numeric>
#include <optional>
#include <vector>

#include "quire/error.h"
#include "runtime/host_backend.h"

namespace quire {
namespace {

class StepInputsTest : public testing::Test {
 protected:
  StepArgs load(const std::vector<PlannedSequence>& sequences, const SampleBatch& samples = {}, int32_t padding = 0) {
    plan_.sequences = sequences;
    plan_.num_tokens = 0;
    for (const PlannedSequence& sequence : sequences) plan_.num_tokens += sequence.num_tokens;
    const StepShape shape{plan_.num_tokens + padding, static_cast<int32_t>(sequences.size()) + padding,
                          samples.size() + padding};
    return inputs().load(plan_, samples, shape, *stream_);
  }

  StepInputs& inputs() {
    if (!inputs_) inputs_.emplace(backend_, StepShape{64, 16, 80}, 8, 10, 1000);
    return *inputs_;
  }

  HostBackend backend_;
  std::unique_ptr<Stream> stream_ = backend_.create_stream();
  StepPlan plan_;
  std::optional<StepInputs> inputs_;
};

PlannedSequence planned(const std::vector<int32_t>& tokens, const std::vector<int32_t>& blocks, int32_t start,
                        int32_t num_tokens) {
  return {.start = start, .num_tokens = num_tokens, .tokens = tokens, .blocks = blocks};
}

template <typename T>
std::vector<T> read(const T* data, int64_t count) {
  return {data, data + count};
}

TEST_F(StepInputsTest, packs_a_chunk_and_a_single_token_side_by_side) {
  std::vector<int32_t> prompt(20);
  std::iota(prompt.begin(), prompt.end(), 100);
  const std::vector<int32_t> prompt_blocks = {4, 9, 2};
  const std::vector<int32_t> story = {50, 51, 52};
  const std::vector<int32_t> story_blocks = {7};
  const std::vector<PlannedSequence> sequences = {planned(prompt, prompt_blocks, 6, 4),
                                                  planned(story, story_blocks, 2, 1)};

  const RaggedBatch batch = load(sequences).batch;
  EXPECT_EQ(batch.num_tokens, 5);
  EXPECT_EQ(batch.num_sequences, 2);
  EXPECT_EQ(read(batch.token_ids, 5), (std::vector<int32_t>{106, 107, 108, 109, 52}));
  EXPECT_EQ(read(batch.positions, 5), (std::vector<int32_t>{6, 7, 8, 9, 2}));
  EXPECT_EQ(read(batch.rope_rows, 5), read(batch.positions, 5));
  EXPECT_EQ(read(batch.slots, 5), (std::vector<int64_t>{4 * 8 + 6, 4 * 8 + 7, 9 * 8, 9 * 8 + 1, 7 * 8 + 2}));
  EXPECT_EQ(read(batch.query_start, 3), (std::vector<int32_t>{0, 4, 5}));
  EXPECT_EQ(read(batch.context_lens, 2), (std::vector<int32_t>{10, 3}));
  // The third block of the prompt is not reached yet.
  EXPECT_EQ(read(batch.block_tables + batch.block_starts[0], 2), (std::vector<int32_t>{4, 9}));
  EXPECT_EQ(batch.block_tables[batch.block_starts[1]], 7);
  EXPECT_EQ(batch.max_query_len, 4);
  EXPECT_EQ(batch.num_single_queries, 1);
  EXPECT_EQ(backend_.num_copies, 1);
}

TEST_F(StepInputsTest, a_sequence_of_another_key_set_reads_the_rows_of_that_set) {
  const std::vector<int32_t> tokens = {5, 6, 7};
  const std::vector<int32_t> blocks = {3};
  std::vector<PlannedSequence> sequences = {planned(tokens, blocks, 1, 2), planned(tokens, blocks, 2, 1)};
  sequences[0].key_set = 2;
  const RaggedBatch batch = load(sequences).batch;
  EXPECT_EQ(read(batch.rope_rows, 3), (std::vector<int32_t>{2001, 2002, 2}));
  EXPECT_EQ(read(batch.positions, 3), (std::vector<int32_t>{1, 2, 2}));
}

TEST_F(StepInputsTest, addresses_slots_beyond_32_bits) {
  const std::vector<int32_t> tokens = {1};
  const std::vector<int32_t> blocks = {2000000000};
  EXPECT_EQ(load({planned(tokens, blocks, 0, 1)}).batch.slots[0], int64_t{2000000000} * 8);
}

TEST_F(StepInputsTest, puts_lists_where_the_rows_find_them) {
  const std::vector<int32_t> tokens = {50, -3};
  const std::vector<int32_t> blocks = {7};
  SampleBatch samples;
  samples.ids = {11, 12, -2, 13};
  samples.biases = {{5, 0.5f}, {6, 0.25f}};
  samples.add(0, {.first_id = 1, .num_output_ids = 3, .first_bias = 1, .num_biases = 1});
  const StepArgs args = load({planned(tokens, blocks, 1, 1)}, samples);
  EXPECT_EQ(args.token_rows[0], 0);
  const SampleRow& row = args.rows[0];
  EXPECT_EQ(read(args.ids + row.first_id, row.num_output_ids), (std::vector<int32_t>{12, -2, 13}));
  EXPECT_EQ(args.biases[row.first_bias].token, 6);
  EXPECT_EQ(args.biases[row.first_bias].bias, 0.25f);
  // The tokens of the step, then the lists, in one piece.
  EXPECT_EQ(*args.num_unresolved, 5);
  EXPECT_EQ(read(args.unresolved, 5), (std::vector<int32_t>{-3, 11, 12, -2, 13}));
}

TEST_F(StepInputsTest, pads_with_sequences_that_read_nothing_and_write_nowhere) {
  const std::vector<int32_t> tokens = {50, 51, 52};
  const std::vector<int32_t> blocks = {7};
  SampleBatch samples;
  samples.ids = {9};
  samples.add(0, {.num_output_ids = 1});
  const StepArgs args = load({planned(tokens, blocks, 2, 1)}, samples, 3);
  EXPECT_EQ(args.batch.num_tokens, 4);
  EXPECT_EQ(args.batch.num_sequences, 4);
  EXPECT_EQ(args.batch.max_query_len, 1);
  EXPECT_EQ(read(args.batch.token_ids, 4), (std::vector<int32_t>{52, 0, 0, 0}));
  EXPECT_EQ(read(args.batch.positions, 4), (std::vector<int32_t>{2, 0, 0, 0}));
  EXPECT_EQ(read(args.batch.rope_rows, 4), (std::vector<int32_t>{2, 0, 0, 0}));
  EXPECT_EQ(read(args.batch.slots, 4), (std::vector<int64_t>{7 * 8 + 2, -1, -1, -1}));
  EXPECT_EQ(read(args.batch.query_start, 5), (std::vector<int32_t>{0, 1, 2, 3, 4}));
  EXPECT_EQ(read(args.batch.context_lens, 4), (std::vector<int32_t>{3, 0, 0, 0}));
  EXPECT_EQ(read(args.batch.block_starts + 1, 3), (std::vector<int32_t>{0, 0, 0}));
  EXPECT_EQ(read(args.token_rows, 4), (std::vector<int32_t>{0, 1, 2, 3}));
  for (int32_t r = 1; r < 4; ++r) {
    EXPECT_EQ(args.rows[r].given_token, 0);
    EXPECT_EQ(args.rows[r].num_output_ids + args.rows[r].num_prompt_ids + args.rows[r].num_masked_ids, 0);
  }
  EXPECT_EQ(args.ids[args.rows[0].first_id], 9);
}

TEST_F(StepInputsTest, addresses_depend_on_the_shape_alone) {
  const std::vector<int32_t> tokens(30, 1);
  const std::vector<int32_t> blocks = {7, 8, 9, 10};
  SampleBatch samples;
  samples.add(0, {});
  const StepArgs one = load({planned(tokens, blocks, 2, 1)}, samples, 3);
  samples.ids.assign(100, 5);
  samples.biases.assign(50, {});
  samples.add(1, {});
  const StepArgs two = load({planned(tokens, blocks, 2, 1), planned(tokens, blocks, 29, 1)}, samples, 2);
  EXPECT_EQ(one.batch.token_ids, two.batch.token_ids);
  EXPECT_EQ(one.batch.block_tables, two.batch.block_tables);
  EXPECT_EQ(one.batch.block_starts, two.batch.block_starts);
  EXPECT_EQ(one.rows, two.rows);
  EXPECT_EQ(one.ids, two.ids);
  EXPECT_EQ(one.biases, two.biases);
  EXPECT_EQ(one.unresolved, two.unresolved);
  EXPECT_EQ(one.num_unresolved, two.num_unresolved);
  EXPECT_EQ(inputs().generation(), 0);
}

TEST_F(StepInputsTest, allocates_nothing_but_for_unusually_long_lists) {
  const std::vector<int32_t> tokens(64, 1);
  const std::vector<int32_t> blocks = {0, 1, 2, 3, 4, 5, 6, 7};
  SampleBatch samples;
  for (int32_t r = 0; r < 80; ++r) samples.add(0, {});
  inputs();
  EXPECT_EQ(backend_.num_bytes, 3 * StepInputs::bytes({64, 16, 80}, 10)) << "two of them of the host";
  const int allocations = backend_.num_allocations;
  for (int32_t length = 1; length <= 64; ++length) load({planned(tokens, blocks, 0, length)}, samples);
  EXPECT_EQ(backend_.num_allocations, allocations);
  samples.ids.assign(100'000, 1);
  load({planned(tokens, blocks, 0, 64)}, samples);
  EXPECT_EQ(backend_.num_allocations, allocations + 3);
  EXPECT_EQ(inputs().generation(), 1);
  samples.ids.assign(110'000, 1);
  load({planned(tokens, blocks, 0, 64)}, samples);
  EXPECT_EQ(inputs().generation(), 1) << "it grows by more than was asked for";
}

TEST_F(StepInputsTest, leaves_the_last_steps_memory_of_the_host_alone) {
  const std::vector<int32_t> tokens = {4, 5};
  const std::vector<int32_t> blocks = {0};
  std::vector<const void*> sources;
  for (int32_t i = 0; i < 4; ++i) {
    load({planned(tokens, blocks, i % 2, 1)});
    sources.push_back(backend_.last_source);
  }
  EXPECT_NE(sources[0], sources[1]);
  EXPECT_EQ(sources[0], sources[2]);
  EXPECT_EQ(sources[1], sources[3]);
}

TEST_F(StepInputsTest, refuses_tokens_or_blocks_that_are_not_there) {
  const std::vector<int32_t> tokens(9, 1);
  const std::vector<int32_t> one_block = {0};
  const std::vector<int32_t> two_blocks = {0, 1};
  EXPECT_NO_THROW(load({planned(tokens, two_blocks, 8, 1)}));
  EXPECT_THROW(load({planned(tokens, two_blocks, 8, 2)}), Error);
  EXPECT_THROW(load({planned(tokens, one_block, 8, 1)}), Error);
  EXPECT_THROW(load({planned(tokens, one_block, 0, 0)}), Error);
}

}  // namespace
}  // namespace quire
