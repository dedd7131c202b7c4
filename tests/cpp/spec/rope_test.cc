#include "spec/rope.h"

#include <cmath>
#include <string>

#include "core/json.h"
#include "core/mapped_file.h"
#include "core/refusal.h"
#include "gtest/gtest.h"
#include "spec/hf_config.h"
#include "spec/hf_fields.h"

namespace quire {
namespace {

// cases.json comes from make_cases.py beside it, which works the formulas out apart from the code under test; its
// numbers agree with transformers 5.23 to the last bits of that library's float32.
TEST(Rope, frequencies_and_attention_factor_are_those_of_the_published_formulas) {
  const Json cases = parse_json(read_text_file(data_path("rope/cases.json")), "cases.json");
  ASSERT_GE(cases.as_array()->size(), 10u);
  for (const Json& item : *cases.as_array()) {
    SCOPED_TRACE(*item.find("name")->as_string());
    const HfConfig config(*item.find("config"), "config.json");
    const Rope parsed = rope(config, static_cast<int32_t>(*item.find("config")->find("head_dim")->as_int()));
    const Json::Array& expected = *item.find("inverse_frequencies")->as_array();
    const std::vector<double> frequencies = rope_inverse_frequencies(parsed, *item.find("length")->as_int());
    ASSERT_EQ(frequencies.size(), expected.size());
    for (size_t i = 0; i < expected.size(); ++i) {
      EXPECT_NEAR(frequencies[i] / *expected[i].number(), 1.0, 1e-13) << "pair " << i;
    }
    EXPECT_DOUBLE_EQ(rope_attention_factor(parsed), *item.find("attention_factor")->number());
  }
}

TEST(Rope, yarn_without_a_ramp_is_a_step) {
  Rope rope{.dim = 8, .base = 10000.0};
  rope.scaling = {.kind = RopeScaling::Kind::kYarn, .factor = 4, .original_max_positions = 6};
  // Less than one turn for every pair over the original length: all but the first are stretched.
  const std::vector<double> frequencies = rope_inverse_frequencies(rope, 1);
  EXPECT_DOUBLE_EQ(frequencies[0], 1.0);
  EXPECT_DOUBLE_EQ(frequencies[1], 0.1 / 4);
  EXPECT_DOUBLE_EQ(frequencies[3], 0.001 / 4);
}

ModelSpec model_with(const RopeScaling& scaling) {
  ModelSpec model;
  model.layers.resize(2);
  model.layers[0].attention.positions = Rope{.dim = 4, .scaling = scaling};
  model.layers[1].attention.positions = Alibi{};
  return model;
}

TEST(RopeSets, longrope_has_two_and_a_sequence_that_grows_into_the_second_starts_again) {
  const ModelSpec model = model_with({.kind = RopeScaling::Kind::kLongRope,
                                      .factor = 4,
                                      .original_max_positions = 48,
                                      .short_factors = {1, 2},
                                      .long_factors = {3, 4}});
  EXPECT_EQ(rope_set(model, 48), 0);
  EXPECT_EQ(rope_set(model, 49), 1);
  EXPECT_EQ(num_rope_sets(model, 48), 1);
  EXPECT_EQ(num_rope_sets(model, 192), 2);
  EXPECT_EQ(rope_recompute_length(model), 48);
  const Rope& rope = std::get<Rope>(model.layers[0].attention.positions);
  EXPECT_DOUBLE_EQ(rope_inverse_frequencies(rope, rope_set_length(rope, 0))[0], 1.0);
  EXPECT_DOUBLE_EQ(rope_inverse_frequencies(rope, rope_set_length(rope, 1))[0], 1.0 / 3);
}

TEST(RopeSets, qwens_dynamic_base_steps_up_at_each_doubling_and_stays_as_the_sequence_grows) {
  const ModelSpec model = model_with({.kind = RopeScaling::Kind::kQwenDynamic, .original_max_positions = 48});
  EXPECT_EQ(rope_set(model, 48), 0);
  EXPECT_EQ(rope_set(model, 49), 1);
  EXPECT_EQ(rope_set(model, 96), 1);
  EXPECT_EQ(rope_set(model, 97), 2);
  EXPECT_EQ(num_rope_sets(model, 256), 4);
  EXPECT_EQ(rope_recompute_length(model), std::nullopt);
  const Rope& rope = std::get<Rope>(model.layers[0].attention.positions);
  for (const int32_t set : {0, 1, 2, 3}) {
    // 1, 3, 7, 15 times the base, to the power of dim / (dim - 2).
    const double base = rope.base * std::pow(std::exp2(set + 1) - 1, 2);
    EXPECT_DOUBLE_EQ(rope_inverse_frequencies(rope, rope_set_length(rope, set))[1], std::pow(base, -0.5)) << set;
  }
}

TEST(RopeSets, other_models_have_one) {
  const ModelSpec model = model_with({.kind = RopeScaling::Kind::kDynamic, .factor = 2, .original_max_positions = 8});
  EXPECT_EQ(num_rope_sets(model, 1000), 1);
  EXPECT_EQ(rope_set(model, 1000), 0);
  EXPECT_EQ(rope_recompute_length(model), std::nullopt);
}

}  // namespace
}  // namespace quire
