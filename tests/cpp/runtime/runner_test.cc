#include "runtime/runner.h"

#include <gtest/gtest.h>

#include <numeric>
#include <vector>

#include "runtime/host_backend.h"

namespace quire {
namespace {

ModelSpec tiny_spec() {
  ModelSpec spec;
  spec.vocab = 40;
  spec.width = 16;
  spec.layers.resize(2);
  spec.for_attention([](Attention& attention) {
    attention = {.heads = 2, .kv_heads = 1, .head_dim = 8, .positions = Rope{.dim = 8}};
  });
  spec.for_ffn([](Ffn& ffn) { ffn.width = 24; });
  return spec;
}

/// A runner on a backend that does nothing, and steps of sequences of their own.
class RunnerTest : public testing::Test {
 protected:
  RunnerTest() : tokens_(64) {
    backend_->records = true;
    backend_->behind = true;
    std::iota(tokens_.begin(), tokens_.end(), 0);
  }

  Runner& runner() {
    if (!runner_) {
      ModelWeights weights;
      weights.layers.resize(spec_.layers.size());
      auto stream = backend_->create_stream();
      runner_ = std::make_unique<Runner>(spec_, std::move(weights), Runner::swap_space(spec_, *owned_, config_),
                                         std::move(owned_), std::move(stream), config_);
    }
    return *runner_;
  }

  /// Each sequence computes `num_tokens` tokens and samples from the last.
  void launch(int32_t num_sequences, int32_t num_tokens = 1, const std::vector<int32_t>& ids = {}) {
    StepPlan plan;
    SampleBatch samples;
    samples.ids = ids;
    for (int32_t i = 0; i < num_sequences; ++i) {
      plan.sequences.push_back({.id = static_cast<SequenceId>(i),
                                .start = 3,
                                .num_tokens = num_tokens,
                                .samples = true,
                                .tokens = tokens_,
                                .blocks = blocks_});
      plan.num_tokens += num_tokens;
      samples.add(plan.num_tokens - 1, {.num_output_ids = static_cast<int32_t>(ids.size())});
    }
    runner().launch(plan, samples);
  }

  void step(int32_t num_sequences, int32_t num_tokens = 1, const std::vector<int32_t>& ids = {}) {
    launch(num_sequences, num_tokens, ids);
    const StepResults results = runner().collect();
    ASSERT_EQ(results.size(), num_sequences);
    for (int32_t r = 0; r < num_sequences; ++r) EXPECT_EQ(results[r].token, 1);
  }

  ModelSpec spec_ = tiny_spec();
  RunnerConfig config_ = {.max_num_batched_tokens = 20,
                          .max_num_seqs = 8,
                          .max_model_len = 64,
                          .max_logprobs = 3,
                          .block_size = 8,
                          .num_blocks = 16};
  std::unique_ptr<HostBackend> owned_ = std::make_unique<HostBackend>();
  HostBackend* backend_ = owned_.get();
  std::unique_ptr<Runner> runner_;
  std::vector<int32_t> tokens_;
  std::vector<int32_t> blocks_ = {0, 1, 2, 3, 4, 5, 6, 7};
};

TEST_F(RunnerTest, takes_the_bytes_that_it_says) {
  const int64_t kv_bytes = kv_bytes_per_block(spec_, *backend_, config_.kv_dtype, config_.block_size) * 16;
  const int64_t expected = Runner::workspace_bytes(spec_, *backend_, config_);
  runner();
  EXPECT_EQ(backend_->num_bytes - backend_->num_host_bytes - kv_bytes, expected);
  const int allocations = backend_->num_allocations;
  for (const int32_t size : {1, 3, 8}) {
    step(size);
    step(size, 2);
    step(size, 1, {5, 6, 7});
  }
  EXPECT_EQ(backend_->num_allocations, allocations) << "steps take none";
}

TEST_F(RunnerTest, keeps_what_is_swapped_out_in_the_hosts_memory) {
  config_.num_swap_blocks = 1000;
  const int64_t block_bytes = kv_bytes_per_block(spec_, *backend_, config_.kv_dtype, config_.block_size);
  const int64_t on_device = 16 * block_bytes + Runner::workspace_bytes(spec_, *backend_, config_);
  runner();
  EXPECT_EQ(backend_->num_bytes - backend_->num_host_bytes, on_device);
  EXPECT_GE(backend_->num_host_bytes, 1000 * block_bytes);
}

TEST_F(RunnerTest, moves_the_inputs_of_a_step_as_one_copy) {
  runner();
  step(8, 2, {1, 2});
  EXPECT_EQ(backend_->num_copies, 1);
}

TEST_F(RunnerTest, records_steps_of_one_token_per_sequence_by_padded_size) {
  step(5);
  EXPECT_EQ(runner().num_recorded_graphs(), 0) << "the first of a size is computed op by op";
  step(6);
  EXPECT_EQ(runner().num_recorded_graphs(), 1) << "5 and 6 are both padded to 8";
  step(7);
  step(8);
  EXPECT_EQ(backend_->num_launches, 3);
  step(1);
  step(1);
  EXPECT_EQ(runner().num_recorded_graphs(), 2);
}

TEST_F(RunnerTest, computes_other_steps_op_by_op) {
  for (int i = 0; i < 3; ++i) step(5, 2);
  EXPECT_EQ(backend_->num_launches, 0);
}

TEST_F(RunnerTest, computes_op_by_op_what_cannot_be_padded) {
  config_.max_num_batched_tokens = 7;
  for (int i = 0; i < 3; ++i) step(6);
  EXPECT_EQ(backend_->num_launches, 0);
  for (int i = 0; i < 3; ++i) step(4);
  EXPECT_EQ(backend_->num_launches, 2);
}

TEST_F(RunnerTest, records_nothing_unless_it_is_told_to) {
  config_.record_graphs = false;
  for (int i = 0; i < 3; ++i) step(6);
  EXPECT_EQ(backend_->num_launches, 0);
}

TEST_F(RunnerTest, records_again_when_long_lists_have_moved_its_memory) {
  for (int i = 0; i < 3; ++i) step(6);
  EXPECT_EQ(runner().num_recorded_graphs(), 1);
  step(6, 1, std::vector<int32_t>(100'000, 3));
  EXPECT_EQ(backend_->num_launches, 2);
  for (int i = 0; i < 2; ++i) step(6);
  EXPECT_EQ(runner().num_recorded_graphs(), 2);
  EXPECT_EQ(backend_->num_launches, 4);
}

TEST_F(RunnerTest, takes_two_steps_at_a_time_where_ops_run_behind_else_one) {
  launch(2);
  launch(3);
  EXPECT_EQ(runner().num_in_flight(), 2);
  EXPECT_THROW(launch(1), Error);
  EXPECT_EQ(runner().collect().size(), 2);
  EXPECT_EQ(runner().collect().size(), 3);
  backend_->behind = false;
  launch(1);
  EXPECT_THROW(launch(1), Error);
}

TEST_F(RunnerTest, a_launch_that_raises_leaves_no_step_on_its_way) {
  launch(2);
  EXPECT_THROW(launch(2, 62), Error) << "more tokens than a step may have";
  EXPECT_EQ(runner().num_in_flight(), 1);
  tokens_.resize(3);
  EXPECT_THROW(launch(2), Error) << "tokens that are not there";
  EXPECT_EQ(runner().num_in_flight(), 1);
  tokens_.resize(64);
  launch(3);
  EXPECT_EQ(runner().collect().size(), 2);
  EXPECT_EQ(runner().collect().size(), 3);
}

}  // namespace
}  // namespace quire
