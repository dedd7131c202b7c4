#include "runtime/decode_graphs.h"

#include <gtest/gtest.h>

#include <set>
#include <stdexcept>

#include "runtime/host_backend.h"

namespace quire {
namespace {

TEST(PaddedSize, grows_in_few_steps_and_pads_little) {
  EXPECT_EQ(padded_size(1), 1);
  EXPECT_EQ(padded_size(3), 4);
  EXPECT_EQ(padded_size(5), 8);
  EXPECT_EQ(padded_size(9), 16);
  EXPECT_EQ(padded_size(64), 64);
  EXPECT_EQ(padded_size(65), 80);
  EXPECT_EQ(padded_size(256), 256);
  EXPECT_EQ(padded_size(257), 288);
  std::set<int32_t> sizes;
  for (int32_t n = 1; n <= 512; ++n) {
    const int32_t size = padded_size(n);
    EXPECT_GE(size, n);
    EXPECT_EQ(padded_size(size), size);
    sizes.insert(size);
  }
  EXPECT_EQ(sizes.size(), 3u + 8u + 12u + 8u);
}

class DecodeGraphsTest : public testing::Test {
 protected:
  void run(int32_t size) {
    RaggedBatch batch;
    batch.num_sequences = size;
    graphs_.run(batch, *stream_, [this] { ++num_enqueued_; });
  }

  HostBackend backend_;
  std::unique_ptr<Stream> stream_ = backend_.create_stream();
  DecodeGraphs graphs_{backend_};
  int num_enqueued_ = 0;
};

TEST_F(DecodeGraphsTest, records_the_second_step_of_a_size_and_repeats_it) {
  run(8);
  EXPECT_EQ(backend_.num_launches, 0);
  run(8);
  EXPECT_EQ(backend_.num_launches, 1);
  EXPECT_EQ(num_enqueued_, 2);
  for (int i = 0; i < 5; ++i) run(8);
  EXPECT_EQ(backend_.num_launches, 6);
  EXPECT_EQ(num_enqueued_, 2);
  run(16);
  EXPECT_EQ(num_enqueued_, 3) << "another size";
  EXPECT_EQ(graphs_.num_recorded(), 1);
}

TEST_F(DecodeGraphsTest, records_again_when_addresses_have_changed) {
  run(8);
  run(8);
  graphs_.clear();
  run(8);
  run(8);
  EXPECT_EQ(num_enqueued_, 4);
  EXPECT_EQ(graphs_.num_recorded(), 2);
}

TEST_F(DecodeGraphsTest, computes_step_by_step_where_recording_fails) {
  backend_.recording_fails = true;
  for (int i = 0; i < 4; ++i) run(8);
  EXPECT_EQ(backend_.num_launches, 0);
  EXPECT_EQ(num_enqueued_, 5) << "once in vain";
  run(16);
  run(16);
  EXPECT_EQ(num_enqueued_, 7) << "and it is not tried again";
}

TEST_F(DecodeGraphsTest, hands_on_what_an_op_raises_while_it_is_recorded) {
  run(8);
  RaggedBatch batch;
  batch.num_sequences = 8;
  EXPECT_THROW(graphs_.run(batch, *stream_, [] { throw std::runtime_error("op"); }), std::runtime_error);
  run(8);
  EXPECT_EQ(backend_.num_launches, 1) << "the next step of that size is recorded";
}

}  // namespace
}  // namespace quire
