#include "spec/rope.h"

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

}  // namespace
}  // namespace quire
