#include "model/position_tables.h"

#include <gtest/gtest.h>

#include <cmath>

#include "quire/error.h"
#include "runtime/host_backend.h"
#include "spec/alibi.h"
#include "spec/rope.h"

namespace quire {
namespace {

class PositionTablesTest : public testing::Test {
 protected:
  /// Layers with these positions, four heads of eight components each.
  static ModelSpec model_of(const std::vector<Positions>& positions) {
    ModelSpec spec;
    for (const Positions& own : positions) {
      Layer layer;
      layer.attention.heads = layer.attention.kv_heads = 4;
      layer.attention.head_dim = 8;
      layer.attention.positions = own;
      spec.layers.push_back(layer);
    }
    return spec;
  }

  static float at(const Tensor& table, int64_t row, int64_t pair) {
    return table.as<float>()[row * table.shape[1] + pair];
  }

  HostBackend backend_;
  std::unique_ptr<Stream> stream_ = backend_.create_stream();
};

TEST_F(PositionTablesTest, equal_ropes_share_a_table_and_other_positions_have_none) {
  const ModelSpec spec =
      model_of({Rope{.dim = 8}, NoPositions{}, Rope{.dim = 8}, Rope{.dim = 4, .base = 500.0}, LearnedPositions{}});
  const PositionTables tables(spec, 10, backend_, *stream_);
  EXPECT_EQ(tables.of_layer(0).rope, tables.of_layer(2).rope);
  EXPECT_NE(tables.of_layer(0).rope, tables.of_layer(3).rope);
  EXPECT_EQ(tables.of_layer(1).rope, nullptr);
  EXPECT_EQ(tables.of_layer(4).rope, nullptr);
  EXPECT_EQ(tables.of_layer(0).alibi_slopes, nullptr);
  EXPECT_EQ(backend_.num_allocations, 4);
  EXPECT_EQ(PositionTables::bytes(spec, 10), 2 * 10 * (4 + 2) * 4);
  const RopeTable& table = *tables.of_layer(3).rope;
  EXPECT_NEAR(at(table.cos, 7, 1), std::cos(7 * std::pow(500.0, -0.5)), 1e-6);
  EXPECT_NEAR(at(table.sin, 7, 1), std::sin(7 * std::pow(500.0, -0.5)), 1e-6);
}

TEST_F(PositionTablesTest, a_ranks_heads_have_the_slopes_of_the_whole_models) {
  ModelSpec spec = model_of({Alibi{}});
  spec.layers[0].attention.all = AllHeads{.heads = 6, .kv_heads = 6, .first = 2, .first_kv = 2};
  const PositionTables tables(spec, 10, backend_, *stream_);
  const std::vector<double> expected = alibi_slopes(Alibi{}, 6);
  for (int head = 0; head < 4; ++head) {
    EXPECT_EQ(tables.of_layer(0).alibi_slopes[head], static_cast<float>(expected[2 + head]));
  }
}

TEST_F(PositionTablesTest, the_rows_of_every_set_of_angles_stand_one_behind_the_other) {
  Rope rope{.dim = 8};
  rope.scaling = {.kind = RopeScaling::Kind::kLongRope,
                  .factor = 1,
                  .original_max_positions = 6,
                  .short_factors = {1, 1, 1, 1},
                  .long_factors = {2, 2, 2, 2}};
  const ModelSpec spec = model_of({rope});
  const PositionTables tables(spec, 10, backend_, *stream_);
  const RopeTable& table = *tables.of_layer(0).rope;
  ASSERT_EQ(table.cos.shape[0], 20);
  EXPECT_NEAR(at(table.sin, 3, 0), std::sin(3.0), 1e-6);
  EXPECT_NEAR(at(table.sin, 10 + 3, 0), std::sin(1.5), 1e-6);
  EXPECT_EQ(PositionTables::bytes(spec, 10), 2 * 20 * 4 * 4);
}

TEST_F(PositionTablesTest, log_n_attention_scales_queries_beyond_the_trained_length_only) {
  Rope rope{.dim = 8, .log_scale_base = 4};
  const ModelSpec spec = model_of({rope});
  const PositionTables tables(spec, 20, backend_, *stream_);
  const RopeTable& table = *tables.of_layer(0).rope;
  for (const int64_t position : {0, 3}) EXPECT_EQ(at(table.q_cos, position, 1), at(table.cos, position, 1));
  // The sixteenth token: log 16 to the base 4.
  EXPECT_FLOAT_EQ(at(table.q_cos, 15, 1), 2 * at(table.cos, 15, 1));
  EXPECT_FLOAT_EQ(at(table.q_sin, 15, 1), 2 * at(table.sin, 15, 1));
  EXPECT_EQ(PositionTables::bytes(spec, 20), 4 * 20 * 4 * 4);
}

TEST_F(PositionTablesTest, slopes_are_scaled_where_the_family_scales_them_with_the_scores) {
  const ModelSpec spec = model_of({Alibi{}, Alibi{.scaled = true}, Alibi{}});
  const PositionTables tables(spec, 10, backend_, *stream_);
  EXPECT_EQ(tables.of_layer(0).alibi_slopes, tables.of_layer(2).alibi_slopes);
  for (size_t head = 0; head < 4; ++head) {
    const double slope = alibi_slopes({}, 4)[head];
    EXPECT_FLOAT_EQ(tables.of_layer(0).alibi_slopes[head], static_cast<float>(slope));
    EXPECT_FLOAT_EQ(tables.of_layer(1).alibi_slopes[head], static_cast<float>(slope / std::sqrt(8.0)));
  }
}

TEST_F(PositionTablesTest, more_rows_than_can_be_numbered_are_refused) {
  Rope rope{.dim = 8};
  rope.scaling = {.kind = RopeScaling::Kind::kQwenDynamic, .original_max_positions = 2};
  EXPECT_THROW(PositionTables(model_of({rope}), 1 << 30, backend_, *stream_), Error);
}

}  // namespace
}  // namespace quire
