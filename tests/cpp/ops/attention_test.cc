#include <gtest/gtest.h>

#include <algorithm>
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
QUIRE_TEST_EVERY_ISA(AttentionTest);

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
          ASSERT_TRUE(test::close(got, expected[static_cast<size_t>(i)], kTolerance))
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
  for (const int32_t dim : {64, 80, 96, 112, 120, 128, 192, 256, 8, 24, 33, 1, 260}) {
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

}  // namespace
}  // namespace quire
