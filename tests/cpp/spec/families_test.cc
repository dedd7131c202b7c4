#include <algorithm>
#include <string>
#include <variant>
#include <vector>

#include "core/refusal.h"
#include "gtest/gtest.h"
#include "spec/families/table.h"

namespace quire {
namespace {

/// A config of the architecture, with more fields behind; a field given twice is an error of the test.
ModelSpec spec_of(const std::string& architecture, const std::string& more = "") {
  const std::string common =
      R"("num_hidden_layers": 4, "hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 80, )";
  const std::string gpt = R"("n_layer": 4, "n_embd": 64, "n_head": 4, "n_positions": 128, )";
  const std::string text = "{\"architectures\": [\"" + architecture + "\"], " +
                           (architecture.starts_with("GPT2") ? gpt : common) + "\"vocab_size\": 256" +
                           (more.empty() ? "" : ", " + more) + "}";
  return read_spec(HfConfig(parse_json(text, "config.json"), "config.json"));
}

const Rope& rope_of(const ModelSpec& model) {
  return std::get<Rope>(model.layers.front().attention.positions);
}

TEST(Llama, defaults_are_those_of_the_first_models) {
  const ModelSpec model = spec_of("LLaMAForCausalLM");
  EXPECT_EQ(model.family, "llama");
  EXPECT_EQ(model.architecture, "LLaMAForCausalLM");
  EXPECT_EQ(model.vocab, 256);
  EXPECT_EQ(model.width, 64);
  ASSERT_EQ(model.layers.size(), 4u);
  const Attention& attention = model.layers[3].attention;
  EXPECT_EQ(attention.heads, 4);
  EXPECT_EQ(attention.kv_heads, 4);
  EXPECT_EQ(attention.head_dim, 16);
  EXPECT_FALSE(attention.qkv_bias || attention.out_bias);
  EXPECT_EQ(attention.window, 0);
  EXPECT_EQ(rope_of(model).dim, 16);
  EXPECT_EQ(rope_of(model).base, 10000.0);
  EXPECT_EQ(model.layers[0].ffn.width, 80);
  EXPECT_TRUE(model.layers[0].ffn.gated);
  EXPECT_FALSE(model.layers[0].ffn.bias);
  EXPECT_EQ(model.layers[0].ffn.act, Ffn::Act::kSilu);
  EXPECT_EQ(model.final_norm.kind, Norm::Kind::kRms);
  EXPECT_FLOAT_EQ(model.final_norm.eps, 1e-6f);
  EXPECT_FALSE(model.tied);
  EXPECT_EQ(model.max_positions, 2048);
}

TEST(Llama, fields_move_every_axis_that_the_family_has) {
  const ModelSpec model = spec_of("LlamaForCausalLM",
                                  R"("num_key_value_heads": 2, "head_dim": 32, "attention_bias": true, "mlp_bias": true,
                                     "rms_norm_eps": 1e-5, "rope_theta": 5e6, "tie_word_embeddings": true,
                                     "hidden_act": "gelu_pytorch_tanh", "max_position_embeddings": 4096)");
  const Attention& attention = model.layers[0].attention;
  EXPECT_EQ(attention.kv_heads, 2);
  EXPECT_EQ(attention.head_dim, 32);
  EXPECT_TRUE(attention.qkv_bias && attention.out_bias);
  EXPECT_TRUE(model.layers[0].ffn.bias);
  EXPECT_EQ(model.layers[0].ffn.act, Ffn::Act::kGeluTanh);
  EXPECT_FLOAT_EQ(model.layers[0].attention_norm.eps, 1e-5f);
  EXPECT_EQ(rope_of(model).base, 5e6);
  EXPECT_TRUE(model.tied);
  EXPECT_EQ(model.max_positions, 4096);
}

TEST(Llama, reads_rope_parameters_of_both_styles) {
  for (const char* fields : {R"("rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 4})",
                             R"("rope_theta": 5e5, "rope_scaling": {"rope_type": "linear", "factor": 4.0})",
                             R"("rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 5e5})"}) {
    const ModelSpec model = spec_of("LlamaForCausalLM", std::string(R"("max_position_embeddings": 256, )") + fields);
    EXPECT_EQ(rope_of(model).scaling.kind, RopeScaling::Kind::kLinear);
    EXPECT_EQ(rope_of(model).scaling.factor, 4.0);
    EXPECT_EQ(rope_of(model).base, 5e5);
    EXPECT_EQ(model.max_positions, 1024);
  }
}

TEST(Llama, longest_sequence_follows_the_kind_of_scaling) {
  const auto longest = [](const std::string& fields) { return spec_of("LlamaForCausalLM", fields).max_positions; };
  const std::string trained = R"("max_position_embeddings": 256, )";
  EXPECT_EQ(longest(trained + R"("rope_scaling": {"type": "dynamic", "factor": 2.5})"), 640);
  EXPECT_EQ(longest(trained + R"("rope_scaling": {"rope_type": "llama3", "factor": 8, "low_freq_factor": 1,
                                 "high_freq_factor": 4, "original_max_position_embeddings": 32})"),
            256);
  EXPECT_EQ(longest(trained + R"("rope_scaling": {"type": "yarn", "factor": 4})"), 1024);
  EXPECT_EQ(longest(trained + R"("rope_scaling": {"type": "yarn", "factor": 4,
                                 "original_max_position_embeddings": 64})"),
            256);
  EXPECT_EQ(longest(trained + R"("rope_scaling": {"rope_type": "default"})"), 256);
  EXPECT_EQ(longest(R"("max_position_embeddings": 4096, "max_sequence_length": 2048)"), 2048);
  EXPECT_EQ(longest(R"("max_position_embeddings": 1000000, "rope_scaling": {"type": "linear", "factor": 1e6})"),
            1 << 30);
}

TEST(Llama, original_length_at_the_top_level_goes_before_the_one_of_the_scaling) {
  const ModelSpec model = spec_of("LlamaForCausalLM",
                                  R"("max_position_embeddings": 512, "original_max_position_embeddings": 64,
                                     "rope_scaling": {"type": "yarn", "original_max_position_embeddings": 32})");
  EXPECT_EQ(rope_of(model).scaling.original_max_positions, 64);
  EXPECT_EQ(rope_of(model).scaling.factor, 8.0);  // of the two lengths, where no factor is given
}

TEST(Mistral, window_is_a_number_null_or_the_default) {
  const auto window = [](const std::string& fields) {
    return spec_of("MistralForCausalLM", fields).layers.back().attention.window;
  };
  EXPECT_EQ(window(R"("sliding_window": 16)"), 16);
  EXPECT_EQ(window(R"("sliding_window": null)"), 0);
  EXPECT_EQ(window(""), 4096);
}

TEST(Qwen2, has_biases_on_q_k_and_v_only) {
  const ModelSpec model = spec_of("Qwen2ForCausalLM", R"("attention_bias": false)");
  EXPECT_TRUE(model.layers[0].attention.qkv_bias);
  EXPECT_FALSE(model.layers[0].attention.out_bias);
}

TEST(Qwen2, layers_from_max_window_layers_on_slide_if_switched_on) {
  const auto windows = [](const std::string& fields) {
    std::vector<int32_t> result;
    for (const Layer& layer : spec_of("Qwen2ForCausalLM", fields).layers) result.push_back(layer.attention.window);
    return result;
  };
  using Windows = std::vector<int32_t>;
  EXPECT_EQ(windows(R"("use_sliding_window": true, "sliding_window": 16, "max_window_layers": 3)"),
            (Windows{0, 0, 0, 16}));
  EXPECT_EQ(windows(R"("use_sliding_window": true, "sliding_window": 16)"), (Windows{0, 0, 0, 0}));
  EXPECT_EQ(windows(R"("use_sliding_window": false, "sliding_window": 16, "max_window_layers": 1)"),
            (Windows{0, 0, 0, 0}));
  EXPECT_EQ(windows(R"("use_sliding_window": true, "sliding_window": null, "max_window_layers": 1)"),
            (Windows{0, 0, 0, 0}));
  EXPECT_EQ(windows(R"("use_sliding_window": true, "sliding_window": 16, "max_window_layers": 1, "layer_types":
                       ["sliding_attention", "full_attention", "full_attention", "sliding_attention"])"),
            (Windows{16, 0, 0, 16}));
}

TEST(Gpt2, is_a_layer_norm_model_with_learned_positions) {
  const ModelSpec model = spec_of("GPT2LMHeadModel");
  const Layer& layer = model.layers[0];
  EXPECT_EQ(std::get<LearnedPositions>(layer.attention.positions).num_positions, 128);
  EXPECT_TRUE(layer.attention.qkv_bias && layer.attention.out_bias && layer.ffn.bias);
  EXPECT_EQ(layer.ffn.width, 256);
  EXPECT_FALSE(layer.ffn.gated);
  EXPECT_EQ(layer.ffn.act, Ffn::Act::kGeluTanh);
  EXPECT_EQ(layer.ffn_norm.kind, Norm::Kind::kLayer);
  EXPECT_TRUE(layer.ffn_norm.bias);
  EXPECT_FLOAT_EQ(layer.ffn_norm.eps, 1e-5f);
  EXPECT_DOUBLE_EQ(layer.attention.scale, 0.25);
  EXPECT_TRUE(model.tied);
  EXPECT_EQ(model.max_positions, 128);
}

TEST(Gpt2, longest_sequence_is_what_the_table_of_positions_holds) {
  const auto longest = [](const std::string& fields) {
    const std::string text = R"({"architectures": ["GPT2LMHeadModel"], "vocab_size": 256, "n_layer": 1, "n_embd": 64,
                                 "n_head": 4, )" +
                             fields + "}";
    return read_spec(HfConfig(parse_json(text, "config.json"), "config.json")).max_positions;
  };
  EXPECT_EQ(longest(R"("n_ctx": 4096)"), 4096);
  EXPECT_EQ(longest(R"("n_positions": 64, "n_ctx": 4096)"), 64);
  EXPECT_EQ(longest(R"("n_positions": 64, "model_max_length": 32)"), 32);
}

TEST(Gpt2, scale_of_the_scores_follows_the_config) {
  EXPECT_DOUBLE_EQ(spec_of("GPT2LMHeadModel", R"("scale_attn_weights": false)").layers[2].attention.scale, 1.0);
  EXPECT_DOUBLE_EQ(spec_of("GPT2LMHeadModel", R"("scale_attn_by_inverse_layer_idx": true)").layers[2].attention.scale,
                   0.25 / 3);
}

TEST(FamilyTable, unknown_architectures_are_told_the_known_ones) {
  const Refusal refusal = refusal_of([] { spec_of("NoSuchForCausalLM"); });
  EXPECT_EQ(refusal.kind, ErrorKind::kUnsupported);
  EXPECT_TRUE(refusal.names("NoSuchForCausalLM") && refusal.names("LLaMAForCausalLM") &&
              refusal.names("GPT2LMHeadModel"));
  EXPECT_FALSE(refusal.names(std::string(kNeedsFolderCode)));
}

TEST(FamilyTable, code_in_the_folder_is_refused_for_unknown_architectures_and_ignored_for_known_ones) {
  const std::string auto_map = R"("auto_map": {"AutoModelForCausalLM": "modeling.Model"})";
  const Refusal refusal = refusal_of([&] { spec_of("NoSuchForCausalLM", auto_map); });
  EXPECT_EQ(refusal.kind, ErrorKind::kUnsupported);
  EXPECT_TRUE(refusal.names(std::string(kNeedsFolderCode)));
  EXPECT_EQ(spec_of("LlamaForCausalLM", auto_map).family, "llama");
}

TEST(FamilyTable, architecture_names_are_unique) {
  std::vector<std::string_view> seen;
  for (const Family& row : family_table()) {
    for (const std::string_view architecture : row.architectures) {
      EXPECT_EQ(std::count(seen.begin(), seen.end(), architecture), 0) << architecture;
      seen.push_back(architecture);
    }
  }
}

struct Broken {
  const char* architecture;
  std::string fields;
  ErrorKind kind;
  const char* named;
};

void expect_refused(const std::vector<Broken>& cases) {
  for (const Broken& broken : cases) {
    SCOPED_TRACE(std::string(broken.architecture) + " " + broken.fields);
    const Refusal refusal = refusal_of([&] { spec_of(broken.architecture, broken.fields); });
    EXPECT_EQ(refusal.kind, broken.kind) << refusal.message;
    EXPECT_TRUE(refusal.message.starts_with("[config.json] ")) << refusal.message;
    EXPECT_TRUE(refusal.names(broken.named)) << refusal.message;
  }
}

TEST(FamilyTable, values_that_no_kernel_or_family_knows_are_refused_by_name) {
  constexpr ErrorKind kUnsupported = ErrorKind::kUnsupported;
  constexpr ErrorKind kInvalid = ErrorKind::kInvalidArgument;
  const char* const llama = "LlamaForCausalLM";
  const std::vector<Broken> cases = {
      {llama, R"("hidden_act": "mish")", kUnsupported, "hidden_act='mish'"},
      {llama, R"("max_position_embeddings": 64, "rope_scaling": {"type": "mrope", "factor": 2})", kUnsupported,
       "rope_scaling.type='mrope'"},
      {llama, R"("rope_parameters": {"full_attention": {"rope_theta": 1e6}})", kUnsupported, "rope_parameters"},
      {llama, R"("quantization_config": {"quant_method": "awq"})", kUnsupported,
       "quantization_config.quant_method='awq'"},
      {llama, R"("compression_config": {"format": "x"})", kUnsupported, "compression_config"},
      {llama, R"("rope_scaling": {"type": "linear", "factor": 2})", kInvalid, "max_position_embeddings"},
      {llama, R"("max_position_embeddings": 64, "rope_scaling": {"type": "linear"})", kInvalid, "rope_scaling.factor"},
      {llama, R"("max_position_embeddings": 64, "rope_scaling": {"type": "linear", "factor": 0.5})", kInvalid,
       "rope_scaling.factor=0.5"},
      {llama, R"("max_position_embeddings": 64, "rope_scaling": {"type": "llama3", "factor": 8, "low_freq_factor": 4,
                 "high_freq_factor": 4})",
       kInvalid, "rope_scaling.low_freq_factor=4"},
      {llama, R"("max_position_embeddings": 64, "rope_scaling": {"type": "longrope", "short_factor": [1, 1],
                 "long_factor": [1]})",
       kInvalid, "rope_scaling.short_factor"},
      {llama, R"("max_position_embeddings": 1, "rope_scaling": {"type": "longrope"})", kInvalid,
       "original_max_position_embeddings"},
      {llama, R"("head_dim": 2, "max_position_embeddings": 64, "rope_scaling": {"type": "dynamic", "factor": 2})",
       kInvalid, "rope_scaling.type='dynamic'"},
      {llama, R"("head_dim": 7)", kInvalid, "head_dim=7"},
      {llama, R"("partial_rotary_factor": 0.0)", kInvalid, "rotary dimension 0"},
      {llama, R"("num_key_value_heads": 3)", kInvalid, "num_key_value_heads=3"},
      {"Qwen2ForCausalLM", R"("use_sliding_window": true, "layer_types": ["full_attention"])", kInvalid, "layer_types"},
      {"Qwen2ForCausalLM", R"("use_sliding_window": true, "layer_types": ["linear_attention"])", kUnsupported,
       "linear_attention"},
      {"GPT2LMHeadModel", R"("activation_function": "tanh")", kUnsupported, "activation_function='tanh'"},
      {"GPT2LMHeadModel", R"("add_cross_attention": true)", kUnsupported, "add_cross_attention=true"},
  };
  expect_refused(cases);
}

TEST(FamilyTable, heads_and_positions_that_a_family_cannot_have_are_refused_by_name) {
  constexpr ErrorKind kUnsupported = ErrorKind::kUnsupported;
  constexpr ErrorKind kInvalid = ErrorKind::kInvalidArgument;
  const std::string jais = R"("n_positions": 64, "position_embedding_type": )";
  const std::string mpt = R"("d_model": 64, "n_layers": 4, "n_heads": 4, )";
  expect_refused({
      {"DeciLMForCausalLM", "", kInvalid, "num_key_value_heads_per_layer"},
      {"DeciLMForCausalLM", R"("num_key_value_heads_per_layer": [4, 4])", kInvalid, "wrong length 2"},
      {"DeciLMForCausalLM", R"("num_key_value_heads_per_layer": [4, 4, 3, 4])", kInvalid, "out of range: 3"},
      {"DeciLMForCausalLM", R"("block_configs": [{}])", kUnsupported, "block_configs"},
      {"FalconForCausalLM", R"("new_decoder_architecture": true, "num_kv_heads": 3)", kInvalid, "num_kv_heads=3"},
      {"RWForCausalLM", R"("model_type": "RefinedWeb", "n_head_kv": 3)", kInvalid, "n_head_kv=3"},
      {"FalconForCausalLM", R"("new_decoder_architecture": true, "num_ln_in_parallel_attn": 3)", kInvalid,
       "num_ln_in_parallel_attn=3"},
      {"ChatGLMModel", R"("ffn_hidden_size": 80, "multi_query_attention": true, "multi_query_group_num": 3)", kInvalid,
       "multi_query_group_num=3"},
      {"ChatGLMModel", R"("position_encoding_2d": true)", kUnsupported, "position_encoding_2d=true"},
      {"GPTJForCausalLM", R"("n_positions": 64, "rotary_dim": 7)", kInvalid, "rotary_dim=7"},
      {"GPTJForCausalLM", R"("n_positions": 64, "rotary_dim": 18)", kInvalid, "rotary_dim=18"},
      {"GPTNeoXForCausalLM", R"("rotary_pct": 0.2)", kInvalid, "rotary dimension 3"},
      {"InternLMForCausalLM", R"("rotary": {"base": 10000, "type": "xpos"})", kUnsupported, "rotary.type='xpos'"},
      {"InternLMForCausalLM", R"("rotary": {"base": 10000, "type": "dynamic", "scaling_factor": 2.0})", kInvalid,
       "rotary.scaling_factor=2"},
      {"JAISLMHeadModel", jais + R"("rotary")", kUnsupported, "position_embedding_type='rotary'"},
      {"JAISLMHeadModel", jais + R"("alibi", "alibi_scaling": {"type": "linear", "factor": 2.0})", kInvalid,
       "alibi_scaling.factor=2"},
      {"Gemma2ForCausalLM", R"("layer_types": ["full_attention"])", kInvalid, "layer_types"},
      {"GptOssForCausalLM", R"("layer_types": ["chunked_attention", "full_attention"])", kUnsupported,
       "chunked_attention"},
      {"LlavaForConditionalGeneration", "", kInvalid, "text_config"},
      {"LlavaForConditionalGeneration", R"("text_config": {"model_type": "mistral"})", kUnsupported,
       "text_config.model_type='mistral'"},
      {"LlavaForConditionalGeneration", R"("text_config": {"num_attention_heads": 5})", kInvalid,
       "text_config.num_attention_heads=5"},
      {"MPTForCausalLM", mpt + R"("attn_config": {"attn_type": "linear_attention"})", kUnsupported,
       "attn_config.attn_type='linear_attention'"},
      {"MPTForCausalLM", mpt + R"("attn_config": {"attn_type": "grouped_query_attention", "kv_n_heads": 3})", kInvalid,
       "attn_config.kv_n_heads=3"},
      {"MPTForCausalLM", mpt + R"("attn_config": {"rope": true})", kUnsupported, "attn_config.rope=true"},
      {"MPTForCausalLM", mpt + R"("attn_config": {"sliding_window_size": 512})", kInvalid,
       "attn_config.sliding_window_size=512"},
      {"DbrxForCausalLM", mpt + R"("attn_config": {"kv_n_heads": 3})", kInvalid, "attn_config.kv_n_heads=3"},
      {"QWenLMHeadModel", R"("seq_length": 64, "rotary_pct": 0.5)", kUnsupported, "rotary_pct=0.5"},
  });
}

TEST(FamilyTable, norms_routers_and_multipliers_that_no_kernel_knows_are_refused_by_name) {
  constexpr ErrorKind kUnsupported = ErrorKind::kUnsupported;
  constexpr ErrorKind kInvalid = ErrorKind::kInvalidArgument;
  const std::string mpt = R"("d_model": 64, "n_layers": 4, "n_heads": 4, )";
  const std::string olmo = R"("d_model": 64, "n_layers": 4, "n_heads": 4, )";
  const std::string moe = R"("moe_intermediate_size": 16, "n_routed_experts": 8, "num_experts_per_tok": 2, )";
  const std::string latent = moe + R"("kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8,
                                      "v_head_dim": 8, )";
  expect_refused({
      {"LlamaForCausalLM", R"("tie_word_embeddings": "true")", kInvalid, "tie_word_embeddings='true'"},
      {"MPTForCausalLM", mpt + R"("norm_type": "batchnorm")", kUnsupported, "norm_type='batchnorm'"},
      {"MPTForCausalLM", mpt + R"("logit_scale": "sqrt_d_model")", kUnsupported, "logit_scale='sqrt_d_model'"},
      {"MPTForCausalLM", mpt + R"("expansion_ratio": 0.001)", kInvalid, "expansion_ratio=0.001"},
      {"OLMoForCausalLM", olmo + R"("layer_norm_type": "amd_compatible")", kUnsupported,
       "layer_norm_type='amd_compatible'"},
      {"OLMoForCausalLM", olmo + R"("block_type": "parallel")", kUnsupported, "block_type='parallel'"},
      {"Starcoder2ForCausalLM", R"("norm_type": "rms_norm")", kUnsupported, "norm_type='rms_norm'"},
      {"Starcoder2ForCausalLM", R"("mlp_type": "gated")", kUnsupported, "mlp_type='gated'"},
      {"CohereForCausalLM", R"("logit_scale": 0)", kInvalid, "logit_scale=0"},
      {"GraniteForCausalLM", R"("logits_scaling": 0)", kInvalid, "logits_scaling=0"},
      {"QWenLMHeadModel", R"("seq_length": 64, "no_bias": false)", kUnsupported, "no_bias=false"},
      {"MixtralForCausalLM", R"("num_local_experts": 8, "num_experts_per_tok": 9)", kInvalid, "num_experts_per_tok=9"},
      {"Qwen3MoeForCausalLM", R"("num_experts": 8, "num_experts_per_tok": 9)", kInvalid, "num_experts_per_tok=9"},
      {"DbrxForCausalLM", mpt + R"("ffn_config": {"moe_num_experts": 8, "moe_top_k": 9})", kInvalid,
       "ffn_config.moe_top_k=9"},
      {"DbrxForCausalLM",
       mpt + R"("ffn_config": {"moe_num_experts": 8, "moe_top_k": 2, "moe_normalize_expert_weights": 2})", kInvalid,
       "ffn_config.moe_normalize_expert_weights=2"},
      {"DbrxForCausalLM",
       mpt + R"("ffn_config": {"moe_num_experts": 8, "moe_top_k": 2, "ffn_act_fn": {"name": "elu"}})", kUnsupported,
       "ffn_config.ffn_act_fn.name='elu'"},
      {"DeepseekForCausalLM", moe + R"("scoring_func": "sigmoid")", kUnsupported, "scoring_func='sigmoid'"},
      {"DeepseekV2ForCausalLM", latent + R"("topk_method": "random")", kUnsupported, "topk_method='random'"},
      {"DeepseekV2ForCausalLM", latent + R"("topk_method": "group_limited_greedy", "n_group": 3)", kInvalid,
       "n_group=3"},
      {"DeepseekV2ForCausalLM", R"("kv_lora_rank": 0)", kInvalid, "kv_lora_rank=0"},
      {"DeepseekV3ForCausalLM", latent + R"("scoring_func": "softmax")", kUnsupported, "scoring_func='softmax'"},
      {"DeepseekV3ForCausalLM", latent + R"("topk_method": "greedy")", kUnsupported, "topk_method='greedy'"},
      {"DeepseekV3ForCausalLM", latent + R"("n_group": 4, "topk_group": 5)", kInvalid, "topk_group=5"},
      {"DeepseekV3ForCausalLM", latent + R"("n_group": 8, "topk_group": 2)", kInvalid, "n_group=8"},
  });
}

TEST(Jais, is_no_longer_than_its_slopes_hold) {
  const auto longest = [](const std::string& fields) {
    return spec_of("JAISLMHeadModel", R"("n_positions": 128, "position_embedding_type": "alibi")" + fields)
        .max_positions;
  };
  EXPECT_EQ(longest(""), 128);
  EXPECT_EQ(longest(R"(, "alibi_scaling": null)"), 128);
  EXPECT_EQ(longest(R"(, "alibi_scaling": {"type": "linear", "train_seq_len": 64})"), 64);
  EXPECT_EQ(longest(R"(, "alibi_scaling": {"type": "linear", "train_seq_len": 256})"), 128);
}

TEST(InternLM, the_first_generation_has_its_rope_base_in_a_section_of_its_own) {
  EXPECT_EQ(rope_of(spec_of("InternLMForCausalLM", R"("rotary": {"base": 500000, "type": "origin"})")).base, 5e5);
  EXPECT_EQ(rope_of(spec_of("InternLMForCausalLM", R"("rotary": {"base": 20000.0, "type": "dynamic"})")).base, 2e4);
  EXPECT_EQ(rope_of(spec_of("InternLMForCausalLM", R"("rotary": null)")).base, 1e4);
}

TEST(Qwen3Moe, reads_the_number_of_experts_by_the_names_of_both_generations_of_the_library) {
  for (const char* field : {"num_experts", "num_local_experts"}) {
    const ModelSpec model = spec_of("Qwen3MoeForCausalLM", std::string("\"") + field + R"(": 8,
                                       "num_experts_per_tok": 2, "moe_intermediate_size": 16)");
    EXPECT_EQ(model.layers.back().ffn.moe->num_experts, 8);
  }
}

}  // namespace
}  // namespace quire
