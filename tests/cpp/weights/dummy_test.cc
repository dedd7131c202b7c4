#include "weights/dummy.h"

#include <cmath>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "weights/elements.h"
#include "weights/model_files.h"
#include "weights/plain_backend.h"

namespace quire {
namespace {

class DummyTest : public testing::Test {
 protected:
  /// A folder with a config.json and nothing else.
  ModelFolder folder(const ConfigFields& config) {
    folder_.write("config.json", config_text(config));
    return read_model_folder(folder_.path());
  }

  TemporaryFolder folder_;
  PlainBackend backend_;
  PlainBackend::PlainStream stream_;
};

std::vector<float> values(const PackedLinear& packed) {
  const float* data = static_cast<const float*>(packed.data.data());
  return {data, data + packed.groups * packed.n * packed.k};
}

TEST_F(DummyTest, fills_every_weight_that_a_checkpoint_would_have) {
  ConfigFields config = tiny_llama_config();
  config["attention_bias"] = "true";
  config["torch_dtype"] = "\"float16\"";
  const ModelFolder model = folder(config);
  const ModelWeights weights = load_dummy_weights(model, std::nullopt, backend_, stream_);
  EXPECT_EQ(weights.embedding.dtype, DType::kFloat16);
  EXPECT_EQ(weights.embedding.shape[0], kTinyVocab);
  EXPECT_EQ(weights.head.n, kTinyVocab);
  ASSERT_EQ(weights.layers.size(), static_cast<size_t>(kTinyLayers));
  const LayerWeights& layer = weights.layers[1];
  EXPECT_EQ(layer.attention.qkv.n, 16);
  EXPECT_EQ(layer.ffn.down.k, kTinyFfn);
  std::vector<float> norm, bias;
  append_as_float(layer.attention_norm.weight, norm);
  append_as_float(layer.attention.qkv_bias, bias);
  EXPECT_EQ(norm, std::vector<float>(8, 1.0f));
  EXPECT_EQ(bias, std::vector<float>(16, 0.0f));
  double squares = 0;
  for (const float value : values(layer.ffn.down)) {
    EXPECT_LE(std::abs(value), std::sqrt(3.0 / 12) + 1e-3);
    squares += value * value;
  }
  EXPECT_NEAR(squares / (8 * 12), 1.0 / 12, 0.03);
}

TEST_F(DummyTest, counts_what_it_will_hold) {
  ConfigFields config = tiny_llama_config();
  config["torch_dtype"] = "\"bfloat16\"";
  const ModelFolder model = folder(config);
  // Embedding and head, two layers of attention, feed-forward and norms, the last norm.
  constexpr int64_t kMatrices = 2 * 80 + 2 * (16 * 8 + 8 * 8 + 24 * 8 + 8 * 12);
  constexpr int64_t kVectors = 2 * (8 + 8) + 8;
  const WeightSummary stored = check_dummy_weights(model, std::nullopt);
  EXPECT_EQ(stored.dtype, DType::kBFloat16);
  EXPECT_EQ(stored.num_parameters, kMatrices + kVectors);
  EXPECT_EQ(stored.bytes, 2 * kMatrices + 4 * kVectors);
  EXPECT_EQ(check_dummy_weights(model, DType::kFloat16).dtype, DType::kFloat16);
}

TEST_F(DummyTest, experts_and_latent_attention_are_filled_too) {
  const ModelFolder model = folder({{"architectures", "[\"DeepseekV2ForCausalLM\"]"},
                                    {"vocab_size", "10"},
                                    {"hidden_size", "8"},
                                    {"intermediate_size", "12"},
                                    {"moe_intermediate_size", "6"},
                                    {"num_hidden_layers", "2"},
                                    {"num_attention_heads", "2"},
                                    {"kv_lora_rank", "4"},
                                    {"q_lora_rank", "null"},
                                    {"qk_nope_head_dim", "6"},
                                    {"qk_rope_head_dim", "2"},
                                    {"v_head_dim", "5"},
                                    {"n_routed_experts", "3"},
                                    {"num_experts_per_tok", "2"},
                                    {"n_shared_experts", "1"},
                                    {"first_k_dense_replace", "1"}});
  const ModelWeights weights = load_dummy_weights(model, std::nullopt, backend_, stream_);
  const AttentionWeights& attention = weights.layers[1].attention;
  EXPECT_EQ(attention.key_up.groups, 2);
  EXPECT_EQ(attention.key_up.n, 4);
  EXPECT_EQ(attention.key_up.k, 6);
  EXPECT_EQ(attention.value_up.n, 5);
  EXPECT_EQ(attention.value_up.k, 4);
  const FfnWeights& ffn = weights.layers[1].ffn;
  EXPECT_EQ(ffn.up.groups, 3);
  EXPECT_EQ(ffn.up.n, 12);
  const std::vector<float> up = values(ffn.up);
  const std::vector<float> first(up.begin(), up.begin() + 12 * 8), second(up.begin() + 12 * 8, up.begin() + 2 * 12 * 8);
  EXPECT_NE(first, second);
}

TEST_F(DummyTest, ranks_have_shares_of_the_same_weights) {
  ConfigFields config = tiny_llama_config();
  config["torch_dtype"] = "\"float32\"";
  const ModelFolder model = folder(config);
  const ModelWeights whole = load_dummy_weights(model, std::nullopt, backend_, stream_);
  const std::vector<float> up = values(whole.layers[1].ffn.up), down = values(whole.layers[1].ffn.down);
  for (int32_t rank = 0; rank < 2; ++rank) {
    const ModelWeights own = load_dummy_weights(model, std::nullopt, backend_, stream_, {rank, 2});
    // Six of twelve columns: rows of gate and of up, columns of down.
    std::vector<float> own_up, own_down;
    for (const int64_t first : {6 * rank, 12 + 6 * rank}) {
      own_up.insert(own_up.end(), up.begin() + first * 8, up.begin() + (first + 6) * 8);
    }
    for (int64_t row = 0; row < 8; ++row) {
      const auto first = down.begin() + row * 12 + int64_t{6} * rank;
      own_down.insert(own_down.end(), first, first + 6);
    }
    EXPECT_EQ(values(own.layers[1].ffn.up), own_up);
    EXPECT_EQ(values(own.layers[1].ffn.down), own_down);
    EXPECT_EQ(own.head.n, 5);
  }
}

}  // namespace
}  // namespace quire
