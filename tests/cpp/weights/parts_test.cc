#include "weights/parts.h"

#include <string>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "weights/elements.h"
#include "weights/model_files.h"

namespace quire {
namespace {

using Values = std::vector<float>;

/// Tensors that count up from a start, and the parts that a weight takes from them.
class PartsTest : public testing::Test {
 protected:
  void add(const std::string& name, const std::vector<int64_t>& shape, float first) {
    int64_t size = 1;
    for (const int64_t count : shape) size *= count;
    Values values;
    for (int64_t i = 0; i < size; ++i) values.push_back(first + static_cast<float>(i));
    tensors_.push_back({name, "F32", shape, encode(values, DType::kFloat32)});
  }

  /// The elements of each part in row-major order.
  std::vector<Values> parts(const MatchedWeight& weight) {
    folder_.write("model.safetensors", safetensors_bytes(tensors_));
    const Checkpoint checkpoint = Checkpoint::open(folder_.path());
    std::vector<Values> result;
    for (const Tensor& part : weight_parts(weight, checkpoint)) append_as_float(part, result.emplace_back());
    return result;
  }

  TemporaryFolder folder_;
  std::vector<FileTensor> tensors_;
};

/// A matrix, or a vector if it has no inputs.
MatchedWeight weight_of(std::vector<int64_t> outputs, int64_t inputs, std::vector<std::string> sources) {
  MatchedWeight weight;
  weight.wanted.outputs = std::move(outputs);
  weight.wanted.inputs = inputs;
  weight.sources = std::move(sources);
  return weight;
}

TEST_F(PartsTest, several_sources_are_the_parts) {
  add("q", {2, 2}, 0);
  add("k", {1, 2}, 10);
  EXPECT_EQ(parts(weight_of({2, 1}, 2, {"q", "k"})), (std::vector<Values>{{0, 1, 2, 3}, {10, 11}}));
}

TEST_F(PartsTest, one_source_holds_them_in_order_or_reversed) {
  add("w", {3, 2}, 0);
  MatchedWeight weight = weight_of({2, 1}, 2, {"w"});
  EXPECT_EQ(parts(weight), (std::vector<Values>{{0, 1, 2, 3}, {4, 5}}));
  weight.split = Split::kReversed;
  EXPECT_EQ(parts(weight), (std::vector<Values>{{2, 3, 4, 5}, {0, 1}}));
}

TEST_F(PartsTest, a_transposed_source_is_cut_along_its_columns) {
  add("w", {2, 4}, 0);
  MatchedWeight weight = weight_of({2, 2}, 2, {"w"});
  weight.transposed = true;
  EXPECT_EQ(parts(weight), (std::vector<Values>{{0, 1, 4, 5}, {2, 3, 6, 7}}));
  weight.split = Split::kAlternating;
  EXPECT_EQ(parts(weight), (std::vector<Values>{{0, 2, 4, 6}, {1, 3, 5, 7}}));
}

TEST_F(PartsTest, kv_heads_keep_their_queries_key_and_value_together) {
  // Two kv heads with two queries each, one component: q q k v, q q k v.
  add("w", {8, 1}, 0);
  add("b", {8}, 20);
  MatchedWeight weight = weight_of({4, 2, 2}, 1, {"w"});
  weight.wanted.kv_heads = 2;
  weight.split = Split::kByKvHead;
  EXPECT_EQ(parts(weight), (std::vector<Values>{{0, 1}, {4, 5}, {2}, {6}, {3}, {7}}));
  weight.wanted.inputs = 0;
  weight.sources = {"b"};
  EXPECT_EQ(parts(weight), (std::vector<Values>{{20, 21}, {24, 25}, {22}, {26}, {23}, {27}}));
}

TEST_F(PartsTest, experts_have_tensors_of_their_own_or_share_one) {
  const std::vector<Values> expected = {{0, 1}, {2, 3}, {4, 5}, {6, 7}};
  for (int expert = 0; expert < 2; ++expert) {
    add("gate" + std::to_string(expert), {1, 2}, static_cast<float>(4 * expert));
    add("up" + std::to_string(expert), {1, 2}, static_cast<float>(4 * expert + 2));
  }
  add("stacked", {2, 2, 2}, 0);
  add("flat", {4, 2}, 0);
  MatchedWeight weight = weight_of({1, 1}, 2, {"stacked"});
  weight.wanted.groups = 2;
  EXPECT_EQ(parts(weight), expected);
  weight.sources = {"flat"};
  EXPECT_EQ(parts(weight), expected);
  weight.sources = {"gate0", "up0", "gate1", "up1"};
  weight.per_group = true;
  EXPECT_EQ(parts(weight), expected);
}

TEST_F(PartsTest, several_sources_may_each_hold_all_experts) {
  add("w1", {2, 2}, 0);  // an expert's row each
  add("v1", {2, 2}, 10);
  MatchedWeight weight = weight_of({1, 1}, 2, {"w1", "v1"});
  weight.wanted.groups = 2;
  EXPECT_EQ(parts(weight), (std::vector<Values>{{0, 1}, {10, 11}, {2, 3}, {12, 13}}));
}

TEST_F(PartsTest, biases_of_experts_alternate_like_their_rows) {
  add("b", {2, 4}, 0);
  MatchedWeight weight = weight_of({2, 2}, 0, {"b"});
  weight.wanted.groups = 2;
  weight.split = Split::kAlternating;
  EXPECT_EQ(parts(weight), (std::vector<Values>{{0, 2}, {1, 3}, {4, 6}, {5, 7}}));
}

TEST_F(PartsTest, one_part_of_every_head_can_be_picked) {
  // Two heads of a key row and two value rows.
  add("kv_b", {6, 1}, 0);
  MatchedWeight weight = weight_of({1, 2}, 1, {"kv_b"});
  weight.wanted.groups = 2;
  weight.wanted.pick = 0;
  EXPECT_EQ(parts(weight), (std::vector<Values>{{0}, {3}}));
  weight.wanted.pick = 1;
  EXPECT_EQ(parts(weight), (std::vector<Values>{{1, 2}, {4, 5}}));
}

TEST_F(PartsTest, weights_per_head_are_rows_of_one_tensor_or_tensors) {
  add("norm", {2, 3}, 0);
  add("norms.0", {3}, 0);
  add("norms.1", {3}, 3);
  const std::vector<Values> expected = {{0, 1, 2}, {3, 4, 5}};
  MatchedWeight weight = weight_of({3, 3}, 0, {"norm"});
  weight.wanted.rows = 2;
  EXPECT_EQ(parts(weight), expected);
  weight.sources = {"norms.0", "norms.1"};
  EXPECT_EQ(parts(weight), expected);
}

TEST_F(PartsTest, a_rank_takes_its_heads_out_of_every_kv_heads_queries) {
  // As above: two kv heads with two queries each, q q k v, q q k v.
  add("w", {8, 1}, 0);
  MatchedWeight weight = weight_of({4, 2, 2}, 1, {"w"});
  weight.wanted.kv_heads = 2;
  weight.wanted.cut = {Cut::Along::kOutputs, {4, 2, 2}};
  weight.split = Split::kByKvHead;
  weight.rank = {1, 2};
  EXPECT_EQ(parts(weight), (std::vector<Values>{{4, 5}, {6}, {7}}));
  weight.rank = {2, 4};  // one of two queries, and a key and a value that the next rank has too
  EXPECT_EQ(parts(weight), (std::vector<Values>{{4}, {6}, {7}}));
  weight.rank = {3, 4};
  EXPECT_EQ(parts(weight), (std::vector<Values>{{5}, {6}, {7}}));
}

TEST_F(PartsTest, a_rank_takes_its_columns_of_every_expert) {
  add("up", {2, 2, 4}, 0);  // per expert two inputs, of gate and up by turns
  add("down", {2, 4, 2}, 20);
  MatchedWeight up = weight_of({2, 2}, 2, {"up"});
  up.wanted.groups = 2;
  up.wanted.cut = {Cut::Along::kOutputs, {2, 2}};
  up.transposed = true;
  up.split = Split::kAlternating;
  up.rank = {1, 2};
  EXPECT_EQ(parts(up), (std::vector<Values>{{2, 6}, {3, 7}, {10, 14}, {11, 15}}));
  MatchedWeight down = weight_of({4}, 2, {"down"});
  down.wanted.groups = 2;
  down.wanted.cut = {Cut::Along::kInputs, {2}};
  down.rank = {1, 2};
  EXPECT_EQ(parts(down), (std::vector<Values>{{21, 23, 25, 27}, {29, 31, 33, 35}}));
}

TEST_F(PartsTest, a_rank_takes_inputs_of_a_transposed_source) {
  add("w", {4, 2}, 0);
  MatchedWeight weight = weight_of({2}, 4, {"w"});
  weight.transposed = true;
  weight.wanted.cut = {Cut::Along::kInputs, {2}};
  weight.rank = {1, 2};
  EXPECT_EQ(parts(weight), (std::vector<Values>{{4, 5, 6, 7}}));
}

TEST_F(PartsTest, a_rank_takes_its_heads_of_matrices_and_norms_per_head) {
  add("kv_b", {6, 1}, 0);
  MatchedWeight weight = weight_of({1, 2}, 1, {"kv_b"});
  weight.wanted.groups = 2;
  weight.wanted.pick = 1;
  weight.wanted.cut = {Cut::Along::kGroups};
  weight.rank = {1, 2};
  EXPECT_EQ(parts(weight), (std::vector<Values>{{4, 5}}));
  add("norm", {2, 3}, 0);
  add("norms.0", {3}, 0);
  add("norms.1", {3}, 3);
  MatchedWeight norm = weight_of({3, 3}, 0, {"norm"});
  norm.wanted.rows = 2;
  norm.wanted.cut = {Cut::Along::kParts};
  norm.rank = {1, 2};
  EXPECT_EQ(parts(norm), (std::vector<Values>{{3, 4, 5}}));
  EXPECT_EQ(norm.share().rows, 1);
  norm.sources = {"norms.0", "norms.1"};
  EXPECT_EQ(parts(norm), (std::vector<Values>{{3, 4, 5}}));
}

}  // namespace
}  // namespace quire
