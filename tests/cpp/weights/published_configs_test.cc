#include <algorithm>
#include <cstdint>
#include <limits>
#include <numeric>
#include <set>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <variant>
#include <vector>

#include "core/mapped_file.h"
#include "core/refusal.h"
#include "gtest/gtest.h"
#include "spec/families/table.h"
#include "weights/wanted.h"

// What published models say of themselves, held against what the families make of it. tests/data/configs holds the
// fields of their config.json, written down by hand, less most of those that no reader looks at. Not as published: of
// Phi-3's rope factors only the number is kept, of DeciLM's heads per layer only the sum.
namespace quire {
namespace {

struct Published {
  const char* name;  ///< the file, without ".json"
  /// As the hub counts them, but each tensor once and of LLaVA the language model only. "derived": worked out from the
  /// shapes of the layers, apart from this code.
  int64_t parameters;
  int32_t max_positions;
  int32_t kv_heads;  ///< of the first layer
  int32_t head_dim;
  int num_windows;  ///< layers in which a query does not see all keys
  double base;      ///< of the rope of the layers that see all, or of all; 0: no rope
  int32_t rotated;
  bool tied;
};

// clang-format off
const Published kPublished[] = {
    {"llama_7b_decapoda", 6738415616, 2048, 32, 128, 0, 10000, 128, false},
    {"llama_2_7b", 6738415616, 4096, 32, 128, 0, 10000, 128, false},
    {"llama_2_70b", 68976648192, 4096, 8, 128, 0, 10000, 128, false},
    {"llama_3_8b", 8030261248, 8192, 8, 128, 0, 500000, 128, false},
    {"llama_3_1_8b_instruct", 8030261248, 131072, 8, 128, 0, 500000, 128, false},
    {"llama_3_2_1b", 1235814400, 131072, 8, 64, 0, 500000, 64, true},
    {"tinyllama_1_1b_chat", 1100048384, 2048, 4, 64, 0, 10000, 64, false},
    {"vicuna_7b_v1_5_16k", 6738415616, 16384, 32, 128, 0, 10000, 128, false},
    {"codellama_7b", 6738546688, 16384, 32, 128, 0, 1000000, 128, false},
    {"deepseek_coder_6_7b", 6740512768, 65536, 32, 128, 0, 100000, 128, false},
    {"yi_6b", 6061035520, 4096, 4, 128, 0, 5000000, 128, false},
    // The rope's base stands in `rotary`.
    {"internlm_7b", 7321948160, 2048, 32, 128, 0, 10000, 128, false}, // derived
    {"internlm_20b", 20088714240, 4096, 40, 128, 0, 10000, 128, false}, // derived
    {"internlm2_7b", 7737708544, 65536, 8, 128, 0, 1000000, 128, false},
    {"internlm2_1_8b", 1889110016, 65536, 8, 128, 0, 1000000, 128, false},
    {"aquila_7b", 7295537152, 2048, 32, 128, 0, 10000, 128, false}, // derived
    {"aquilachat2_34b", 33693554688, 4096, 8, 128, 0, 10000, 128, false}, // derived
    {"xverse_13b", 13715031040, 8192, 40, 128, 0, 10000, 128, false}, // derived
    {"decilm_7b", 7043551232, 16384, 1, 128, 0, 10000, 128, false},
    {"orion_14b", 14498703360, 4096, 40, 128, 0, 10000, 128, false}, // derived
    {"granite_3_0_2b", 2533531648, 4096, 8, 64, 0, 10000, 64, true},
    {"granite_3_0_8b", 8170848256, 4096, 8, 128, 0, 10000, 128, true}, // derived
    {"llava_1_5_7b", 6738939904, 4096, 32, 128, 0, 10000, 128, false},
    {"mistral_7b_v0_1", 7241732096, 32768, 8, 128, 32, 10000, 128, false},
    {"mistral_7b_v0_3", 7248023552, 32768, 8, 128, 0, 1000000, 128, false},
    {"mistral_nemo_instruct", 12247782400, 1024000, 8, 128, 0, 1000000, 128, false},
    {"yarn_mistral_7b_128k", 7241732096, 131072, 8, 128, 32, 10000, 128, false},
    {"mixtral_8x7b", 46702792704, 32768, 8, 128, 0, 1000000, 128, false},
    {"mixtral_8x22b", 140620634112, 65536, 8, 128, 0, 1000000, 128, false},
    {"qwen_7b", 7721324544, 32768, 32, 128, 0, 10000, 128, false},
    {"qwen_14b", 14167290880, 8192, 40, 128, 0, 10000, 128, false},
    // use_sliding_window is false beside a window and a first layer for it.
    {"qwen1_5_7b", 7721324544, 32768, 32, 128, 0, 1000000, 128, false},
    {"qwen2_7b", 7615616512, 131072, 4, 128, 0, 1000000, 128, false},
    {"qwen2_0_5b", 494032768, 131072, 2, 64, 0, 1000000, 64, true},
    {"qwen2_5_7b_yarn", 7615616512, 131072, 4, 128, 0, 1000000, 128, false},
    {"qwen1_5_moe_a2_7b", 14315784192, 8192, 16, 128, 0, 1000000, 128, false},
    {"qwen2_57b_a14b", 57408658944, 131072, 4, 128, 0, 1000000, 128, false}, // derived
    {"qwen3_8b", 8190735360, 40960, 8, 128, 0, 1000000, 128, false},
    {"qwen3_0_6b", 596049920, 40960, 8, 128, 0, 1000000, 128, true},
    {"qwen3_30b_a3b", 30532122624, 40960, 4, 128, 0, 1000000, 128, false},
    {"baichuan_7b", 7000559616, 4096, 32, 128, 0, 10000, 128, false},
    {"baichuan_13b", 13264901120, 4096, 40, 128, 0, 0, 0, false},
    {"baichuan2_7b", 7505973248, 4096, 32, 128, 0, 10000, 128, false},
    {"baichuan2_13b", 13896668160, 4096, 40, 128, 0, 0, 0, false},
    // hidden_activation is absent, and hidden_act not what it was trained with.
    {"gemma_2b", 2506172416, 8192, 1, 256, 0, 10000, 256, true},
    {"gemma_7b", 8537680896, 8192, 16, 256, 0, 10000, 256, true},
    {"gemma_2_2b", 2614341888, 8192, 4, 256, 13, 10000, 256, true},
    {"gemma_2_27b", 27227128320, 8192, 16, 128, 23, 10000, 128, true},
    {"gemma_3_1b", 999885952, 32768, 1, 256, 22, 1000000, 256, true},
    {"chatglm2_6b", 6243584000, 32768, 2, 128, 0, 10000, 64, false},
    {"chatglm3_6b", 6243584000, 8192, 2, 128, 0, 10000, 64, false},
    {"chatglm3_6b_32k", 6243584000, 32768, 2, 128, 0, 500000, 64, false},
    {"glm_4_9b_chat", 9399951360, 131072, 2, 128, 0, 5000000, 64, false},
    {"glm_4_9b_chat_1m", 9483857920, 1048576, 4, 128, 0, 100000000, 64, false}, // derived
    {"glm_4_9b_0414", 9400279040, 32768, 2, 128, 0, 10000, 64, false},
    {"glm_4_32b_0414", 32566081536, 32768, 2, 128, 0, 10000, 64, false},
    {"deepseek_moe_16b", 16375728128, 4096, 16, 128, 0, 10000, 128, false},
    {"deepseek_v2_lite", 15706484224, 163840, 16, 192, 0, 10000, 64, false},
    {"deepseek_v2", 235741434880, 163840, 128, 192, 0, 10000, 64, false},
    {"deepseek_v3_bf16", 671026419200, 163840, 128, 192, 0, 10000, 64, false}, // derived
    {"moonlight_16b_a3b", 15960110208, 8192, 16, 192, 0, 50000, 64, false}, // derived
    // max_position_embeddings says 8192, model_max_length what it was trained for.
    {"command_r_v01", 34980831232, 131072, 64, 128, 0, 8000000, 128, true},
    {"command_r_plus", 103810674688, 131072, 8, 128, 0, 75000000, 128, true},
    // Positions are known in layers with a window only.
    {"command_r7b", 8028033024, 132096, 8, 128, 24, 0, 0, true}, // derived
    {"olmo_1b_hf", 1176764416, 2048, 16, 128, 0, 10000, 128, true},
    {"olmo_1_7_7b_hf", 6888095744, 4096, 32, 128, 0, 10000, 128, false},
    {"olmo_7b_original", 6888095744, 2048, 32, 128, 0, 10000, 128, false},
    // mlp_hidden_size is null: mlp_ratio counts both halves.
    {"olmo_1b_original", 1176764416, 2048, 16, 128, 0, 10000, 128, true},
    {"olmo_2_7b", 7298617344, 4096, 32, 128, 0, 500000, 128, false}, // derived
    {"phi_1_5", 1418270720, 2048, 32, 64, 0, 10000, 32, false},
    {"phi_2", 2779683840, 2048, 32, 80, 0, 10000, 32, false},
    {"phi_3_mini_4k", 3821079552, 4096, 32, 96, 32, 10000, 96, false},
    {"phi_3_mini_128k", 3821079552, 131072, 32, 96, 32, 10000, 96, false},
    {"phi_3_medium_128k", 13960238080, 131072, 10, 128, 40, 10000, 128, false},
    {"phi_4_mini", 3836021760, 131072, 8, 128, 32, 10000, 96, true},
    {"phi_4", 14659507200, 16384, 10, 128, 0, 250000, 128, false},
    {"stablelm_3b_4e1t", 2795443200, 4096, 32, 80, 0, 10000, 20, false},
    {"stablelm_zephyr_3b_epoch", 2795443200, 4096, 32, 80, 0, 10000, 20, false},
    {"stablelm_2_1_6b", 1644515328, 4096, 32, 64, 0, 10000, 16, false},
    {"stablelm_2_12b", 12143185920, 4096, 8, 160, 0, 10000, 40, false},
    {"starcoder2_3b", 3030371328, 16384, 2, 128, 30, 999999.4420358813, 128, true},
    // The only one of its family with a head of its own.
    {"starcoder2_15b", 15957889024, 16384, 4, 128, 40, 100000, 128, false},
    {"gpt_oss_20b_bf16", 20914757184, 131072, 8, 64, 12, 150000, 64, false},
    {"gpt_oss_120b_bf16", 116829156672, 131072, 8, 64, 18, 150000, 64, false},
    {"gpt2", 124439808, 1024, 12, 64, 0, 0, 0, true},
    {"gpt2_xl", 1557611200, 1024, 25, 64, 0, 0, 0, true},
    {"santacoder", 1124886528, 2048, 1, 128, 0, 0, 0, true},
    {"starcoder", 15517456384, 8192, 1, 128, 0, 0, 0, true},
    {"jais_13b", 13020811920, 2048, 40, 128, 0, 0, 0, true}, // derived
    // alibi_scaling: slopes would shrink beyond train_seq_len.
    {"jais_30b_chat_v3", 30208489408, 8192, 56, 128, 0, 0, 0, true}, // derived
    {"gpt_j_6b", 6050882784, 2048, 16, 256, 0, 10000, 64, false},
    {"gpt_neox_20b", 20554567680, 2048, 64, 96, 0, 10000, 24, false},
    {"pythia_160m", 162322944, 2048, 12, 64, 0, 10000, 16, false},
    {"redpajama_incite_3b", 2775864320, 2048, 32, 80, 0, 10000, 80, false}, // derived
    {"opt_125m", 125239296, 2048, 12, 64, 0, 0, 0, true},
    {"opt_350m", 331196416, 2048, 16, 64, 0, 0, 0, true},
    {"opt_6_7b", 6658473984, 2048, 32, 128, 0, 0, 0, true},
    {"bloom_560m", 559214592, 2048, 16, 64, 0, 0, 0, true},
    {"bloom_176b", 176247271424, 2048, 112, 128, 0, 0, 0, true},
    {"falcon_7b", 6921720704, 2048, 1, 64, 0, 10000, 64, true},
    {"falcon_7b_refinedweb", 6921720704, 2048, 1, 64, 0, 10000, 64, true},
    {"falcon_40b", 41303293952, 2048, 8, 64, 0, 10000, 64, true},
    // Says neither new_decoder_architecture nor num_kv_heads.
    {"falcon_40b_refinedweb", 41303293952, 2048, 8, 64, 0, 10000, 64, true},
    {"falcon_11b", 11102822400, 8192, 8, 128, 0, 500042, 128, false}, // derived
    {"falcon_rw_1b", 1311625216, 2048, 32, 64, 0, 0, 0, true},
    {"mpt_7b", 6649286656, 2048, 32, 128, 0, 0, 0, true},
    {"mpt_7b_storywriter", 6649286656, 65536, 32, 128, 0, 0, 0, true},
    {"mpt_30b", 29957200896, 8192, 64, 112, 0, 0, 0, true}, // derived
    {"dbrx", 131596523520, 32768, 8, 128, 0, 500000, 128, false},
    // As transformers 5 writes them back.
    // num_experts has become num_local_experts.
    {"qwen3_30b_a3b_resaved", 30532122624, 40960, 4, 128, 0, 1000000, 128, false},
    {"gemma_3_1b_resaved", 999885952, 32768, 1, 256, 22, 1000000, 256, true},
    {"phi_4_mini_resaved", 3836021760, 131072, 8, 128, 32, 10000, 96, true},
    {"pythia_160m_resaved", 162322944, 2048, 12, 64, 0, 10000, 16, false},
    {"deepseek_v2_lite_resaved", 15706484224, 163840, 16, 192, 0, 10000, 64, false},
    {"gpt_oss_20b_bf16_resaved", 20914757184, 131072, 8, 64, 12, 150000, 64, false},
    {"falcon_40b_resaved", 41303293952, 2048, 8, 64, 0, 10000, 64, true},
};
// clang-format on

HfConfig published_config(const std::string& name) {
  return HfConfig(parse_json(read_text_file(data_path("configs/" + name + ".json")), "config.json"), "config.json");
}

ModelSpec published(const std::string& name) {
  return read_spec(published_config(name));
}

/// Elements of the stored tensors that a spec asks for. Two weights may come from one: what is counted is the module.
int64_t num_parameters(const ModelSpec& spec) {
  ModelWeights weights;
  std::set<std::tuple<int32_t, std::string_view, bool>> counted;
  int64_t total = 0;
  for (const WantedWeight& want : wanted_weights(spec, weights)) {
    if (!counted.insert({want.layer, want.module, want.is_bias}).second) continue;
    total += want.groups * want.stored_outputs() * std::max<int64_t>(want.inputs, 1);
  }
  return total;
}

/// Names of the tensors that a spec asks for.
std::set<std::string> source_names(const ModelSpec& spec) {
  const NameMap map = family_named(spec.family).names(spec);
  ModelWeights weights;
  std::set<std::string> names;
  for (const WantedWeight& want : wanted_weights(spec, weights)) {
    const NameRule& rule = map.rule(want.module);
    for (const std::string_view source : rule.sources) {
      const bool by_expert = source.find("{e}") != std::string_view::npos;
      const bool by_head = source.find("{h}") != std::string_view::npos;
      const int64_t count = by_expert ? want.groups : by_head ? static_cast<int64_t>(want.outputs.size()) : 1;
      for (int64_t i = 0; i < count; ++i) {
        const NameValues values{.prefix = map.prefixes.front(), .layer = want.layer, .expert = i, .head = i};
        names.insert(expand_name(source, values) + std::string(want.is_bias ? rule.bias_suffix : rule.weight_suffix));
      }
    }
  }
  return names;
}

bool is_ignored(const ModelSpec& spec, const std::string& name) {
  const NameMap map = family_named(spec.family).names(spec);
  return std::any_of(map.ignored.begin(), map.ignored.end(),
                     [&](std::string_view pattern) { return matches_pattern(pattern, name); });
}

const Attention& widest_attention(const ModelSpec& spec) {
  for (const Layer& layer : spec.layers) {
    if (layer.attention.window == 0) return layer.attention;
  }
  return spec.layers.front().attention;
}

TEST(PublishedConfigs, are_read_as_their_authors_meant) {
  for (const Published& row : kPublished) {
    SCOPED_TRACE(row.name);
    ModelSpec spec;
    EXPECT_NO_THROW(spec = published(row.name));
    if (spec.layers.empty()) continue;
    EXPECT_EQ(num_parameters(spec), row.parameters);
    EXPECT_EQ(spec.max_positions, row.max_positions);
    EXPECT_EQ(spec.layers.front().attention.kv_heads, row.kv_heads);
    EXPECT_EQ(spec.layers.front().attention.head_dim, row.head_dim);
    EXPECT_EQ(std::count_if(spec.layers.begin(), spec.layers.end(),
                            [](const Layer& layer) { return layer.attention.window > 0; }),
              row.num_windows);
    const Rope* rope = std::get_if<Rope>(&widest_attention(spec).positions);
    EXPECT_EQ(rope == nullptr ? 0.0 : rope->base, row.base);
    EXPECT_EQ(rope == nullptr ? 0 : rope->dim, row.rotated);
    EXPECT_EQ(spec.tied, row.tied);
  }
}

TEST(PublishedConfigs, no_weight_is_taken_for_a_buffer) {
  for (const Published& row : kPublished) {
    SCOPED_TRACE(row.name);
    const ModelSpec spec = published(row.name);
    for (const std::string& name : source_names(spec)) EXPECT_FALSE(is_ignored(spec, name)) << name;
  }
}

struct Stored {
  const char* name;
  /// Tensors of the published files: one or two of each kind of name.
  std::vector<std::string> weights;
  /// Tensors of published files that hold no weight.
  std::vector<std::string> buffers;
};

const std::vector<Stored> kStored = {
    {"llama_2_7b",
     {"model.embed_tokens.weight", "model.layers.31.self_attn.k_proj.weight", "model.layers.0.mlp.gate_proj.weight",
      "model.layers.0.input_layernorm.weight", "model.norm.weight", "lm_head.weight"},
     {"model.layers.0.self_attn.rotary_emb.inv_freq"}},
    {"internlm_7b",
     {"model.layers.0.self_attn.q_proj.bias", "model.layers.0.self_attn.o_proj.bias"},
     {"model.layers.31.self_attn.rotary_emb.inv_freq"}},
    {"internlm2_7b",
     {"model.tok_embeddings.weight", "model.layers.0.attention.wqkv.weight", "model.layers.0.attention.wo.weight",
      "model.layers.0.feed_forward.w3.weight", "model.layers.0.ffn_norm.weight", "output.weight"},
     {}},
    {"orion_14b", {"model.layers.0.input_layernorm.bias", "model.norm.bias"}, {}},
    {"llava_1_5_7b",
     {"language_model.model.embed_tokens.weight", "language_model.model.layers.0.mlp.up_proj.weight",
      "language_model.lm_head.weight"},
     {"multi_modal_projector.linear_1.weight", "vision_tower.vision_model.embeddings.class_embedding",
      "language_model.model.layers.0.self_attn.rotary_emb.inv_freq"}},
    {"mixtral_8x7b",
     {"model.layers.0.block_sparse_moe.gate.weight", "model.layers.31.block_sparse_moe.experts.7.w3.weight"},
     {}},
    {"qwen_7b",
     {"transformer.wte.weight", "transformer.h.0.attn.c_attn.bias", "transformer.h.0.attn.c_proj.weight",
      "transformer.h.0.mlp.w2.weight", "transformer.h.0.mlp.c_proj.weight", "transformer.ln_f.weight",
      "lm_head.weight"},
     {"transformer.rotary_emb.inv_freq", "transformer.h.0.attn.masked_bias"}},
    {"qwen2_7b", {"model.layers.0.self_attn.v_proj.bias"}, {}},
    {"qwen1_5_moe_a2_7b",
     {"model.layers.0.mlp.gate.weight", "model.layers.0.mlp.experts.59.down_proj.weight",
      "model.layers.0.mlp.shared_expert.up_proj.weight", "model.layers.0.mlp.shared_expert_gate.weight"},
     {}},
    {"qwen3_8b", {"model.layers.0.self_attn.q_norm.weight", "model.layers.0.self_attn.k_norm.weight"}, {}},
    {"baichuan2_13b",
     {"model.layers.0.self_attn.W_pack.weight", "model.layers.0.self_attn.o_proj.weight", "lm_head.weight"},
     {"model.layers.0.self_attn.rotary_emb.inv_freq"}},
    {"gemma_2_2b",
     {"model.layers.0.pre_feedforward_layernorm.weight", "model.layers.0.post_feedforward_layernorm.weight",
      "model.layers.0.post_attention_layernorm.weight"},
     {}},
    {"chatglm3_6b",
     {"transformer.embedding.word_embeddings.weight",
      "transformer.encoder.layers.0.self_attention.query_key_value.bias",
      "transformer.encoder.layers.0.mlp.dense_4h_to_h.weight", "transformer.encoder.final_layernorm.weight",
      "transformer.output_layer.weight"},
     {"transformer.rotary_pos_emb.inv_freq"}},
    {"glm_4_9b_0414",
     {"model.layers.0.post_self_attn_layernorm.weight", "model.layers.0.post_mlp_layernorm.weight",
      "model.layers.0.mlp.gate_up_proj.weight", "model.layers.0.self_attn.q_proj.bias"},
     {}},
    {"deepseek_moe_16b",
     {"model.layers.0.mlp.gate_proj.weight", "model.layers.1.mlp.gate.weight",
      "model.layers.1.mlp.experts.63.up_proj.weight", "model.layers.1.mlp.shared_experts.down_proj.weight"},
     {}},
    {"deepseek_v2_lite",
     {"model.layers.0.self_attn.q_proj.weight", "model.layers.0.self_attn.kv_a_proj_with_mqa.weight",
      "model.layers.0.self_attn.kv_a_layernorm.weight", "model.layers.0.self_attn.kv_b_proj.weight"},
     {}},
    {"deepseek_v3_bf16",
     {"model.layers.0.self_attn.q_a_proj.weight", "model.layers.0.self_attn.q_b_proj.weight",
      "model.layers.3.mlp.gate.e_score_correction_bias"},
     {}},
    {"command_r_plus", {"model.layers.0.self_attn.q_norm.weight", "model.layers.0.input_layernorm.weight"}, {}},
    {"olmo_7b_original",
     {"model.transformer.wte.weight", "model.transformer.blocks.0.att_proj.weight",
      "model.transformer.blocks.0.ff_proj.weight", "model.transformer.ff_out.weight"},
     {}},
    {"phi_2",
     {"model.layers.0.self_attn.dense.bias", "model.layers.0.mlp.fc1.weight", "model.final_layernorm.bias",
      "lm_head.bias"},
     {"model.layers.0.self_attn.rotary_emb.inv_freq"}},
    {"phi_3_mini_4k", {"model.layers.0.self_attn.qkv_proj.weight", "model.layers.0.mlp.gate_up_proj.weight"}, {}},
    {"stablelm_2_12b",
     {"model.layers.0.self_attn.q_layernorm.norms.31.weight", "model.layers.0.self_attn.k_layernorm.norms.7.weight"},
     {}},
    {"starcoder2_3b", {"model.layers.0.mlp.c_fc.bias", "model.layers.0.mlp.c_proj.weight", "model.norm.bias"}, {}},
    {"gpt_oss_20b_bf16",
     {"model.layers.0.self_attn.sinks", "model.layers.0.mlp.router.bias", "model.layers.0.mlp.experts.gate_up_proj",
      "model.layers.0.mlp.experts.down_proj_bias"},
     {}},
    {"gpt2",
     {"transformer.wpe.weight", "transformer.h.0.attn.c_attn.bias", "transformer.h.11.mlp.c_fc.weight"},
     {"h.0.attn.bias", "transformer.h.0.attn.bias", "transformer.h.0.attn.masked_bias"}},
    {"starcoder",
     {"transformer.h.0.attn.c_attn.weight", "transformer.h.0.mlp.c_proj.bias"},
     {"transformer.h.0.attn.bias"}},
    {"jais_13b", {"transformer.h.0.mlp.c_fc2.bias"}, {"transformer.relative_pe.slopes"}},
    {"gpt_j_6b",
     {"transformer.h.0.attn.q_proj.weight", "transformer.h.0.mlp.fc_in.bias", "lm_head.bias"},
     {"transformer.h.0.attn.bias", "transformer.h.0.attn.masked_bias"}},
    {"gpt_neox_20b",
     {"gpt_neox.embed_in.weight", "gpt_neox.layers.0.attention.query_key_value.bias",
      "gpt_neox.layers.0.attention.dense.bias", "embed_out.weight"},
     {"gpt_neox.layers.0.attention.bias", "gpt_neox.layers.0.attention.masked_bias",
      "gpt_neox.layers.0.attention.rotary_emb.inv_freq"}},
    {"opt_350m",
     {"model.decoder.embed_positions.weight", "model.decoder.project_in.weight", "model.decoder.project_out.weight",
      "model.decoder.layers.0.self_attn.out_proj.bias", "model.decoder.layers.0.final_layer_norm.weight"},
     {}},
    {"bloom_560m",
     {"transformer.word_embeddings_layernorm.bias", "transformer.h.0.self_attention.query_key_value.bias"},
     {}},
    {"falcon_7b", {"transformer.h.0.input_layernorm.bias", "transformer.h.0.self_attention.dense.weight"}, {}},
    {"falcon_40b", {"transformer.h.0.ln_attn.weight", "transformer.h.0.ln_mlp.bias"}, {}},
    {"falcon_11b", {"transformer.h.0.input_layernorm.weight", "lm_head.weight"}, {}},
    {"falcon_rw_1b", {"transformer.h.0.post_attention_layernorm.bias", "transformer.h.0.mlp.dense_h_to_4h.bias"}, {}},
    {"mpt_7b",
     {"transformer.blocks.0.norm_1.weight", "transformer.blocks.0.attn.Wqkv.weight", "transformer.norm_f.weight"},
     {}},
    {"dbrx",
     {"transformer.blocks.0.norm_attn_norm.attn.Wqkv.weight", "transformer.blocks.0.ffn.router.layer.weight",
      "transformer.blocks.0.ffn.experts.mlp.v1", "transformer.blocks.39.norm_attn_norm.norm_2.weight"},
     {}},
};

TEST(PublishedConfigs, weights_are_looked_for_where_they_are_and_buffers_passed_over) {
  for (const Stored& row : kStored) {
    SCOPED_TRACE(row.name);
    const ModelSpec spec = published(row.name);
    const std::set<std::string> names = source_names(spec);
    for (const std::string& name : row.weights) EXPECT_TRUE(names.contains(name)) << name;
    for (const std::string& name : row.buffers) EXPECT_TRUE(is_ignored(spec, name) && !names.contains(name)) << name;
  }
}

TEST(PublishedConfigs, what_a_row_has_no_column_for) {
  const auto first = [](const char* name) { return published(name).layers.front(); };
  EXPECT_EQ(first("gemma_2b").ffn.act, Ffn::Act::kGeluTanh);  // although hidden_act says gelu
  EXPECT_FLOAT_EQ(static_cast<float>(first("gemma_2_27b").attention.scale), 1 / 12.0f);
  EXPECT_EQ(first("gpt_neox_20b").ffn.act, Ffn::Act::kGeluTanh);
  EXPECT_EQ(first("pythia_160m").ffn.act, Ffn::Act::kGelu);
  EXPECT_EQ(first("redpajama_incite_3b").wiring, Wiring::kSequential);
  EXPECT_EQ(first("falcon_7b_refinedweb").wiring, Wiring::kParallel);
  EXPECT_EQ(first("falcon_40b_refinedweb").wiring, Wiring::kParallelTwoNorms);
  EXPECT_EQ(first("falcon_11b").wiring, Wiring::kParallel);
  EXPECT_EQ(first("falcon_rw_1b").wiring, Wiring::kSequential);
  EXPECT_EQ(first("opt_350m").wiring, Wiring::kPost);
  EXPECT_EQ(first("stablelm_2_12b").wiring, Wiring::kParallel);
  EXPECT_EQ(std::get<Alibi>(first("mpt_7b_storywriter").attention.positions).max_bias, 16.0);
  EXPECT_EQ(first("mpt_7b_storywriter").attention.clip_qkv, 6.0);
  EXPECT_EQ(first("olmo_1_7_7b_hf").attention.clip_qkv, 8.0);
  EXPECT_EQ(first("dbrx").attention.clip_qkv, 8.0);
  EXPECT_TRUE(published("baichuan2_7b").head_unit_rows);
  EXPECT_FALSE(published("baichuan_13b").head_unit_rows);
  EXPECT_FLOAT_EQ(published("jais_13b").logit_scale, 0.111f);
  EXPECT_FLOAT_EQ(published("jais_30b_chat_v3").logit_scale, 2.22f * 0.03571428571428571f);
  EXPECT_EQ(first("jais_13b").attention.scale, 1.0 / 128);
  EXPECT_EQ(published("olmo_7b_original").padding_rows, 24);
  EXPECT_FALSE(published("qwen1_5_moe_a2_7b").layers[0].ffn.moe->renormalize);
  EXPECT_EQ(published("deepseek_v2").layers[1].ffn.moe->scale, 16.0);
  EXPECT_EQ(published("moonlight_16b_a3b").layers[1].ffn.moe->scale, 2.446);
  std::vector<int32_t> kv_heads;
  for (const Layer& layer : published("decilm_7b").layers) kv_heads.push_back(layer.attention.kv_heads);
  EXPECT_EQ(std::accumulate(kv_heads.begin(), kv_heads.end(), 0), 67);
}

/// A config with one value replaced: a family reads it, or refuses it in one line; it never gets further than that.
void read_changed(const Json::Object& fields, size_t index, const Json& value) {
  Json::Object changed = fields;
  changed[index].second = value;
  try {
    const ModelSpec spec = read_spec(HfConfig(Json(std::move(changed)), "config.json"));
    ModelWeights places;
    int64_t elements = 0;
    for (const WantedWeight& weight : wanted_weights(spec, places)) {
      // Below, so that no sum of products leaves 63 bits.
      EXPECT_GE(weight.num_elements(), 0) << weight.module;
      elements += weight.num_elements() >> 10;
    }
    EXPECT_GE(elements, 0);
  } catch (const Error& error) {
    EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos) << error.what();
  }
}

TEST(PublishedConfigs, any_value_of_any_field_is_read_or_refused) {
  const std::vector<Json> values = {
      Json(),
      Json(true),
      Json(int64_t{0}),
      Json(int64_t{-1}),
      Json(int64_t{1}),
      Json(int64_t{3}),
      Json(int64_t{1} << 12),
      Json(int64_t{1} << 20),
      Json(int64_t{1} << 31),
      Json(std::numeric_limits<int64_t>::max()),
      Json(1e-30),
      Json(1e300),
      Json(std::string("x")),
      Json(Json::Array{}),
      Json(Json::Object{}),
  };
  std::set<std::string_view> families;
  for (const Published& row : kPublished) {
    if (!families.insert(published(row.name).family).second) continue;
    SCOPED_TRACE(row.name);
    const Json config = parse_json(read_text_file(data_path(std::string("configs/") + row.name + ".json")), row.name);
    const Json::Object& fields = *config.as_object();
    for (size_t i = 0; i < fields.size(); ++i) {
      SCOPED_TRACE(fields[i].first);
      for (const Json& value : values) read_changed(fields, i, value);
    }
  }
}

TEST(PublishedConfigs, quantised_originals_are_refused_by_their_method) {
  for (const auto& [name, method] :
       {std::pair{"gpt_oss_20b_original", "mxfp4"}, std::pair{"deepseek_v3_original", "fp8"}}) {
    const Refusal refusal = refusal_of([name = name] { published(name); });
    EXPECT_EQ(refusal.kind, ErrorKind::kUnsupported);
    EXPECT_TRUE(refusal.names(std::string("quantization_config.quant_method='") + method + "'")) << refusal.message;
  }
}

TEST(PublishedConfigs, every_family_has_a_published_model) {
  std::set<std::string> seen;
  for (const Published& row : kPublished) seen.insert(published(row.name).family);
  for (const Family& family : family_table()) {
    EXPECT_TRUE(seen.contains(std::string(family.name))) << family.name << " has no row here";
  }
}

}  // namespace
}  // namespace quire
