#include "weights/shard.h"

#include <functional>
#include <string>
#include <vector>

#include "core/refusal.h"
#include "gtest/gtest.h"
#include "weights/elements.h"
#include "weights/loader.h"
#include "weights/model_files.h"
#include "weights/plain_backend.h"

namespace quire {
namespace {

using Values = std::vector<float>;

/// Twelve heads, four of keys and values, and what else a rank has a part of.
ModelSpec whole_spec() {
  ModelSpec spec;
  spec.vocab = 502;
  spec.width = 96;
  spec.layers.resize(2);
  spec.for_attention([](Attention& attention) { attention = {.heads = 12, .kv_heads = 4, .head_dim = 8}; });
  spec.for_ffn([](Ffn& ffn) { ffn.width = 72; });
  return spec;
}

TEST(ShardOf, one_rank_has_the_whole) {
  const ModelSpec local = shard_of(whole_spec(), {});
  EXPECT_EQ(local.layers[0].attention.heads, 12);
  EXPECT_FALSE(local.layers[0].attention.all);
  EXPECT_EQ(local.head_rows(), (Share{0, 502}));
}

TEST(ShardOf, deals_out_heads_columns_and_rows_of_the_head) {
  ModelSpec whole = whole_spec();
  whole.layers[1].ffn.moe = Moe{.num_experts = 5, .top_k = 2, .shared_width = 24};
  const ModelSpec local = shard_of(whole, {2, 4});
  const Attention& attention = local.layers[1].attention;
  EXPECT_EQ(attention.heads, 3);
  EXPECT_EQ(attention.kv_heads, 1);
  ASSERT_TRUE(attention.all);
  EXPECT_EQ(attention.all->heads, 12);
  EXPECT_EQ(attention.all->first, 6);
  EXPECT_EQ(attention.all->first_kv, 2);
  EXPECT_EQ(local.layers[1].ffn.width, 18);
  EXPECT_EQ(local.layers[1].ffn.moe->shared_width, 6);
  EXPECT_EQ(local.layers[1].ffn.moe->num_experts, 5) << "every rank has a part of each";
  EXPECT_EQ(local.vocab, 502);
  EXPECT_EQ(local.width, 96);
  EXPECT_EQ(local.head_rows(), (Share{252, 126}));
  EXPECT_EQ(shard_of(whole, {3, 4}).head_rows(), (Share{378, 124}));
}

TEST(ShardOf, several_ranks_hold_the_same_key_and_value_head_if_there_are_few) {
  const ModelSpec whole = whole_spec();
  for (int32_t rank = 0; rank < 12; ++rank) {
    const Attention attention = shard_of(whole, {rank, 12}).layers[0].attention;
    EXPECT_EQ(attention.heads, 1);
    EXPECT_EQ(attention.kv_heads, 1);
    EXPECT_EQ(attention.all->first, rank);
    EXPECT_EQ(attention.all->first_kv, rank / 3) << "the one that query head " << rank << " reads";
  }
}

TEST(ShardOf, every_rank_computes_all_queries_and_keys_for_a_norm_over_them) {
  ModelSpec whole = whole_spec();
  whole.for_attention([](Attention& attention) { attention.qk_norm = Attention::QkNorm::kFull; });
  const ModelSpec local = shard_of(whole, {1, 2});
  const Attention& attention = local.layers[0].attention;
  EXPECT_EQ(attention.heads, 6);
  EXPECT_EQ(attention.computed_heads(), 12);
  EXPECT_EQ(attention.computed_kv_heads(), 4);
  EXPECT_EQ(attention.first_head(), 6);
  EXPECT_EQ(attention.first_kv_head(), 2);
}

/// The message about a model that has been changed in one place.
Refusal refusal_for(int32_t num_ranks, const std::function<void(ModelSpec&)>& change = [](ModelSpec&) {}) {
  ModelSpec whole = whole_spec();
  change(whole);
  return refusal_of([&] { shard_of(whole, {0, num_ranks}); });
}

TEST(ShardOf, says_what_cannot_be_dealt_out_evenly_and_which_numbers_can) {
  const auto expect = [](const Refusal& refusal, const std::string& text) {
    EXPECT_EQ(refusal.kind, ErrorKind::kInvalidArgument);
    EXPECT_TRUE(refusal.names(text)) << refusal.message;
  };
  expect(refusal_for(5), "num_attention_heads=12, tensor_parallel_size=5: set tensor_parallel_size to 1, 2, 4 or 12");
  expect(refusal_for(6), "num_key_value_heads=4, tensor_parallel_size=6");
  expect(refusal_for(4, [](ModelSpec& spec) { spec.layers[1].ffn.width = 74; }),
         "intermediate_size=74, tensor_parallel_size=4: set tensor_parallel_size to 1 or 2");
  expect(refusal_for(4, [](ModelSpec& spec) { spec.layers[1].ffn.moe = Moe{.num_experts = 2, .shared_width = 6}; }),
         "shared_expert_intermediate_size=6, tensor_parallel_size=4");
  expect(refusal_for(4, [](ModelSpec& spec) { spec.vocab = 3; }), "vocab_size=3, tensor_parallel_size=4");
}

TEST(ShareOf, of_a_sum_over_the_ranks_the_first_has_the_bias_alone) {
  const WantedWeight bias{.is_bias = true, .outputs = {8}, .cut = {Cut::Along::kFirstRank}};
  EXPECT_EQ(share_of(bias, {0, 2}).num_elements(bias), 8);
  EXPECT_EQ(share_of(bias, {1, 2}).num_elements(bias), 0);
  EXPECT_EQ(share_of(bias, {}).num_elements(bias), 8);
}

class ShardLoading : public testing::Test {
 protected:
  ModelWeights load(Rank rank) {
    return load_weights(read_model_folder(folder_.path()), Checkpoint::open(folder_.path()), std::nullopt, backend_,
                        stream_, {}, rank);
  }

  static Values values(const PackedLinear& packed) {
    const auto* data = static_cast<const float*>(packed.data.data());
    return {data, data + packed.groups * packed.n * packed.k};
  }

  /// Rows and columns of a tensor of the tiny model.
  static void append(Values& values, const std::string& name, Share rows, Share columns, int64_t width) {
    for (int64_t row = rows.first; row < rows.first + rows.count; ++row) {
      for (int64_t column = columns.first; column < columns.first + columns.count; ++column) {
        values.push_back(tiny_value(name, row * width + column));
      }
    }
  }

  TemporaryFolder folder_;
  PlainBackend backend_;
  PlainBackend::PlainStream stream_;
};

TEST_F(ShardLoading, a_rank_holds_its_rows_and_columns_and_no_others) {
  // Two heads of four, one of keys and values, twelve feed-forward columns.
  write_model(folder_, tiny_llama_config(), tiny_llama_tensors(DType::kFloat32));
  const std::string layer = "model.layers.1.";
  for (int32_t rank = 0; rank < 2; ++rank) {
    const ModelWeights weights = load({rank, 2});
    const Share all{0, 8}, head{4 * rank, 4}, columns{6 * rank, 6};
    Values qkv, out, up, down, head_rows;
    append(qkv, layer + "self_attn.q_proj.weight", head, all, 8);
    append(qkv, layer + "self_attn.k_proj.weight", {0, 4}, all, 8);
    append(qkv, layer + "self_attn.v_proj.weight", {0, 4}, all, 8);
    append(out, layer + "self_attn.o_proj.weight", all, head, 8);
    append(up, layer + "mlp.gate_proj.weight", columns, all, 8);
    append(up, layer + "mlp.up_proj.weight", columns, all, 8);
    append(down, layer + "mlp.down_proj.weight", all, columns, 12);
    append(head_rows, "lm_head.weight", {5 * rank, 5}, all, 8);
    EXPECT_EQ(values(weights.layers[1].attention.qkv), qkv);
    EXPECT_EQ(values(weights.layers[1].attention.out), out);
    EXPECT_EQ(values(weights.layers[1].ffn.up), up);
    EXPECT_EQ(values(weights.layers[1].ffn.down), down);
    EXPECT_EQ(values(weights.head), head_rows);
    EXPECT_EQ(weights.embedding.shape[0], kTinyVocab) << "every rank looks up all tokens";
    EXPECT_EQ(weights.layers[1].attention_norm.weight.size(), 8);
  }
}

TEST_F(ShardLoading, a_tied_model_has_the_whole_table_and_a_share_of_the_head) {
  ConfigFields config = tiny_llama_config();
  config["tie_word_embeddings"] = "true";
  std::vector<FileTensor> tensors = tiny_llama_tensors(DType::kFloat32);
  std::erase_if(tensors, [](const FileTensor& tensor) { return tensor.name == "lm_head.weight"; });
  write_model(folder_, config, tensors);
  EXPECT_FALSE(load({}).embedding);
  const ModelWeights weights = load({1, 2});
  EXPECT_EQ(weights.embedding.shape[0], kTinyVocab);
  Values rows;
  append(rows, "model.embed_tokens.weight", {5, 5}, {0, 8}, 8);
  EXPECT_EQ(values(weights.head), rows);
}

TEST_F(ShardLoading, the_summary_counts_what_a_rank_holds) {
  write_model(folder_, tiny_llama_config(), tiny_llama_tensors(DType::kFloat32));
  const int64_t matrices = 80 + 40 + 2 * (32 + 32 + 32 + 32 + 3 * 48);
  const int64_t vectors = 8 + 2 * 16;
  const WeightSummary summary =
      check_weights(read_model_folder(folder_.path()), Checkpoint::open(folder_.path()), std::nullopt, {1, 2});
  EXPECT_EQ(summary.bytes, 4 * (matrices + vectors));
}

}  // namespace
}  // namespace quire
