#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "ops/paged_attention.h"

namespace quire {
namespace {

using test::AttentionShape;
using test::Floats;
using test::OpMachine;
using test::PagedStep;
using test::StepSequence;

using AttentionTest = test::OpTest;
QUIRE_TEST_EVERY_DEVICE(AttentionTest);

/// float32 sums of some hundred products of size 2, and exponentials within 2 units in the last place.
constexpr double kTolerance = 2e-5;

std::string describe(const AttentionShape& shape) {
  return testing::PrintToString(shape.heads) + "/" + testing::PrintToString(shape.kv_heads) + " heads, dims " +
         testing::PrintToString(shape.head_dim) + " and " + testing::PrintToString(shape.v_head_dim) + ", blocks of " +
         testing::PrintToString(shape.block_size) + ", " + std::string(dtype_name(shape.dtype)) + ", window " +
         testing::PrintToString(shape.window);
}

/// Compare some rows, the first and the last of every sequence among them, with the definition.
void expect_right(OpMachine& machine, const AttentionShape& shape, const std::vector<StepSequence>& sequences) {
  SCOPED_TRACE(describe(shape));
  PagedStep step(machine, shape, sequences);
  const Floats out = step.attend();
  for (size_t s = 0; s < sequences.size(); ++s) {
    for (const int32_t query : {0, sequences[s].queries / 2, sequences[s].queries - 1}) {
      const int32_t position = sequences[s].context - sequences[s].queries + query;
      for (const int32_t head : {0, shape.heads - 1}) {
        const std::vector<double> expected = step.expected(s, position, head);
        for (int32_t i = 0; i < shape.v_head_dim; ++i) {
          const float got = out.at(step.first_row(s) + query, int64_t{head} * shape.v_head_dim + i);
          ASSERT_TRUE(test::close(got, expected[static_cast<size_t>(i)], machine.tolerance(kTolerance)))
              << "sequence " << s << ", position " << position << ", head " << head << ", component " << i;
        }
      }
    }
  }
}

const std::vector<StepSequence> kMixedStep = {
    {.seed = 1, .context = 1, .queries = 1},   {.seed = 2, .context = 40, .queries = 40},
    {.seed = 3, .context = 300, .queries = 1}, {.seed = 4, .context = 530, .queries = 29},
    {.seed = 5, .context = 17, .queries = 2},
};

TEST_P(AttentionTest, every_head_dim_gives_the_defined_result) {
  for (const int32_t dim : {64, 80, 96, 112, 120, 128, 160, 192, 256, 8, 24, 33, 1, 260}) {
    AttentionShape shape;
    shape.head_dim = shape.v_head_dim = dim;
    expect_right(machine, shape, kMixedStep);
  }
}

TEST_P(AttentionTest, every_cache_type_and_block_size_gives_the_defined_result) {
  for (const DType dtype : {DType::kFloat32, DType::kBFloat16, DType::kFloat16}) {
    for (const int32_t block_size : {8, 16, 32, 64, 128}) {
      AttentionShape shape;
      shape.dtype = dtype;
      shape.block_size = block_size;
      shape.v_head_dim = 48;
      expect_right(machine, shape, kMixedStep);
    }
  }
}

TEST_P(AttentionTest, every_ratio_of_heads_gives_the_defined_result) {
  for (const auto& [heads, kv_heads] : std::vector<std::pair<int32_t, int32_t>>{
           {1, 1}, {2, 2}, {4, 2}, {9, 3}, {8, 2}, {5, 1}, {6, 1}, {14, 2}, {8, 1}, {11, 1}, {20, 1}, {71, 1}}) {
    AttentionShape shape;
    shape.heads = heads;
    shape.kv_heads = kv_heads;
    shape.head_dim = shape.v_head_dim = 32;
    shape.dtype = DType::kBFloat16;
    expect_right(machine, shape, kMixedStep);
  }
}

TEST_P(AttentionTest, windows_softcap_alibi_and_sinks_give_the_defined_result) {
  for (const int32_t window : {0, 1, 7, 16, 100, 256, 299, 5000}) {
    for (const int features : {0, 1, 2, 4, 7}) {
      AttentionShape shape;
      shape.window = window;
      shape.softcap = (features & 1) != 0 ? 1.5f : 0.0f;
      shape.alibi = (features & 2) != 0;
      shape.sinks = (features & 4) != 0;
      expect_right(machine, shape, kMixedStep);
    }
  }
}

TEST_P(AttentionTest, every_length_around_spans_and_blocks_gives_the_defined_result) {
  for (const int32_t context : {1, 2, 7, 8, 15, 16, 17, 31, 33, 255, 256, 257, 511, 512, 513, 1025, 2100}) {
    for (const int32_t queries : {1, 2, 6, 67}) {
      expect_right(machine, {}, {{.seed = 6, .context = context, .queries = std::min(queries, context)}});
    }
  }
}

// Exact equality from here on: a row's bits depend on its own sequence alone.

/// Shapes that take every path: pages read in place and unpacked, one and several chunks of rows, all score rules.
std::vector<AttentionShape> invariance_shapes() {
  return {
      {.heads = 9, .kv_heads = 3, .dtype = DType::kBFloat16},
      {.heads = 14, .kv_heads = 2, .head_dim = 32, .v_head_dim = 40, .block_size = 32, .dtype = DType::kFloat16},
      {.heads = 3, .kv_heads = 3, .head_dim = 80, .v_head_dim = 80, .block_size = 8, .window = 100},
      {.heads = 4, .kv_heads = 1, .head_dim = 24, .v_head_dim = 24, .softcap = 2.0f, .alibi = true, .sinks = true},
      {.heads = 2, .kv_heads = 1, .head_dim = 16, .v_head_dim = 16, .window = 300, .alibi = true},
  };
}

/// The rows of `part` against those of `whole`, which holds the same sequence from position 0.
void expect_same_rows(const Floats& part, int64_t part_row, const Floats& whole, int64_t position, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    ASSERT_TRUE(part.row_equals(part_row + i, whole, position + i)) << "position " << position + i;
  }
}

TEST_P(AttentionTest, chunks_of_a_prompt_give_the_bits_of_the_whole) {
  constexpr int32_t kLength = 531;
  for (const AttentionShape& shape : invariance_shapes()) {
    SCOPED_TRACE(describe(shape));
    const Floats whole = PagedStep(machine, shape, {{.seed = 11, .context = kLength, .queries = kLength}}).attend();
    for (const int32_t chunk : {1, 7, 64, 256, 500}) {
      // Single tokens take a step each: only some of them.
      const int32_t step = chunk == 1 ? 37 : chunk;
      for (int32_t end = std::min(chunk, kLength);; end = std::min(end + step, kLength)) {
        const int32_t count = std::min(chunk, end);
        PagedStep part(machine, shape, {{.seed = 11, .context = end, .queries = count}});
        expect_same_rows(part.attend(), 0, whole, end - count, count);
        if (end == kLength) break;
      }
    }
  }
}

TEST_P(AttentionTest, neighbours_in_the_batch_change_no_bit) {
  for (const AttentionShape& shape : invariance_shapes()) {
    SCOPED_TRACE(describe(shape));
    const std::vector<StepSequence> sequences = {{.seed = 21, .context = 700, .queries = 1},
                                                 {.seed = 22, .context = 90, .queries = 90},
                                                 {.seed = 23, .context = 1, .queries = 1},
                                                 {.seed = 24, .context = 300, .queries = 44},
                                                 {.seed = 25, .context = 513, .queries = 3}};
    PagedStep together(machine, shape, sequences);
    const Floats all = together.attend();
    for (size_t s = 0; s < sequences.size(); ++s) {
      const Floats alone = PagedStep(machine, shape, {sequences[s]}).attend();
      for (int32_t i = 0; i < sequences[s].queries; ++i) {
        ASSERT_TRUE(alone.row_equals(i, all, together.first_row(s) + i)) << "sequence " << s << ", query " << i;
      }
    }
  }
}

TEST_P(AttentionTest, the_number_of_threads_changes_no_bit) {
  QUIRE_CPU_ONLY(machine, "a GPU has no threads to choose");
  const std::vector<StepSequence> sequences = {{.seed = 31, .context = 2100, .queries = 1},
                                               {.seed = 32, .context = 1400, .queries = 200},
                                               {.seed = 33, .context = 30, .queries = 30}};
  for (const AttentionShape& shape : invariance_shapes()) {
    SCOPED_TRACE(describe(shape));
    const Floats expected = PagedStep(machine, shape, sequences).attend();
    for (const int threads : {1, 2, 13}) {
      OpMachine other(GetParam(), threads);
      const Floats got = PagedStep(other, shape, sequences).attend();
      expect_same_rows(got, 0, expected, 0, expected.rows());
    }
  }
}

TEST_P(AttentionTest, the_block_size_changes_no_bit) {
  const std::vector<StepSequence> sequences = {{.seed = 41, .context = 600, .queries = 1},
                                               {.seed = 42, .context = 290, .queries = 290}};
  AttentionShape shape;
  shape.dtype = DType::kBFloat16;
  const Floats expected = PagedStep(machine, shape, sequences).attend();
  for (const int32_t block_size : {8, 32, 64, 128}) {
    shape.block_size = block_size;
    const Floats got = PagedStep(machine, shape, sequences).attend();
    expect_same_rows(got, 0, expected, 0, expected.rows());
  }
}

TEST_P(AttentionTest, a_query_that_is_not_a_number_spoils_its_own_row_only) {
  const std::vector<StepSequence> sequences = {{.seed = 51, .context = 400, .queries = 100},
                                               {.seed = 52, .context = 50, .queries = 1}};
  for (const AttentionShape& shape : invariance_shapes()) {
    SCOPED_TRACE(describe(shape));
    const Floats expected = PagedStep(machine, shape, sequences).attend();
    PagedStep step(machine, shape, sequences);
    constexpr int64_t kSpoiled = 40;
    step.queries().at(kSpoiled, 3) = test::kNan;
    const Floats got = step.attend();
    for (int64_t row = 0; row < got.rows(); ++row) {
      const bool same = got.row_equals(row, expected, row);
      EXPECT_EQ(same, row != kSpoiled) << row;
    }
    EXPECT_TRUE(std::isnan(got.at(kSpoiled, 0)));
  }
}

}  // namespace
}  // namespace quire
