#include "runtime/step_outputs.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <memory>

#include "quire/error.h"
#include "runtime/host_backend.h"

namespace quire {
namespace {

class StepOutputsTest : public testing::Test {
 protected:
  void compute(int32_t token) {
    outputs_.tokens()[0] = {.token = token, .logprob = -1.0f, .num_candidates = 1};
    outputs_.tokens()[1] = {.token = token + 1, .logprob = -2.0f, .finite = 0, .num_candidates = 2};
    std::fill_n(outputs_.candidates() + 3, 2, SampledCandidate{.token = token + 1, .rank = 4, .logprob = -2.0f});
  }

  HostBackend backend_;
  std::unique_ptr<Stream> stream_ = backend_.create_stream();
  StepOutputs outputs_{backend_, 5, 3};
};

TEST_F(StepOutputsTest, hands_out_two_steps_in_their_order) {
  compute(10);
  outputs_.fetch(2, true, *stream_);
  compute(20);
  outputs_.fetch(2, false, *stream_);
  EXPECT_EQ(outputs_.num_in_flight(), 2);
  const StepResults first = outputs_.wait();
  EXPECT_EQ(first.size(), 2);
  EXPECT_EQ(first[0].token, 10);
  EXPECT_TRUE(first[0].finite);
  EXPECT_FALSE(first[1].finite);
  ASSERT_EQ(first[1].candidates.size(), 2u);
  EXPECT_EQ(first[1].candidates[1].token, 11);
  EXPECT_EQ(first[1].candidates[1].rank, 4);
  const StepResults second = outputs_.wait();
  EXPECT_EQ(second[1].token, 21);
  EXPECT_TRUE(second[1].candidates.empty()) << "nobody has asked";
  EXPECT_EQ(outputs_.num_in_flight(), 0);
}

TEST_F(StepOutputsTest, keeps_a_steps_results_while_the_next_one_is_fetched) {
  compute(10);
  outputs_.fetch(2, false, *stream_);
  const StepResults first = outputs_.wait();
  compute(20);
  outputs_.fetch(2, false, *stream_);
  EXPECT_EQ(first[0].token, 10);
}

TEST_F(StepOutputsTest, takes_the_bytes_that_it_says) {
  EXPECT_EQ(backend_.num_bytes, 3 * StepOutputs::bytes(5, 3)) << "two of them of the host";
}

TEST_F(StepOutputsTest, refuses_a_third_step_and_waiting_for_none) {
  EXPECT_THROW(outputs_.wait(), Error);
  outputs_.fetch(1, false, *stream_);
  outputs_.fetch(1, false, *stream_);
  EXPECT_THROW(outputs_.fetch(1, false, *stream_), Error);
  EXPECT_THROW(StepOutputs(backend_, 2, 1).fetch(3, false, *stream_), Error);
}

}  // namespace
}  // namespace quire
