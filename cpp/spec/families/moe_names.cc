#include "spec/families/families.h"

// Layouts of models with experts.
namespace quire::names {

// Qwen 2 and 3; DeepSeek's differ in what they share.
NameMap moe(const ModelSpec& spec) {
  NameMap map = llama(spec);
  map.rules.insert(
      map.rules.end(),
      {{"ffn.router", {"{body}layers.{i}.mlp.gate"}},
       {"experts.up", {"{body}layers.{i}.mlp.experts.{e}.gate_proj", "{body}layers.{i}.mlp.experts.{e}.up_proj"}},
       {"experts.down", {"{body}layers.{i}.mlp.experts.{e}.down_proj"}},
       {"shared.up", {"{body}layers.{i}.mlp.shared_expert.gate_proj", "{body}layers.{i}.mlp.shared_expert.up_proj"}},
       {"shared.down", {"{body}layers.{i}.mlp.shared_expert.down_proj"}},
       {"shared.gate", {"{body}layers.{i}.mlp.shared_expert_gate"}}});
  return map;
}

NameMap mixtral(const ModelSpec& spec) {
  NameMap map = moe(spec);
  map.rule("ffn.router").sources = {"{body}layers.{i}.block_sparse_moe.gate"};
  map.rule("experts.up").sources = {"{body}layers.{i}.block_sparse_moe.experts.{e}.w1",
                                    "{body}layers.{i}.block_sparse_moe.experts.{e}.w3"};
  map.rule("experts.down").sources = {"{body}layers.{i}.block_sparse_moe.experts.{e}.w2"};
  return map;
}

// All three generations; from the second on with latent attention.
NameMap deepseek(const ModelSpec& spec) {
  NameMap map = moe(spec);
  map.rule("shared.up").sources = {"{body}layers.{i}.mlp.shared_experts.gate_proj",
                                   "{body}layers.{i}.mlp.shared_experts.up_proj"};
  map.rule("shared.down").sources = {"{body}layers.{i}.mlp.shared_experts.down_proj"};
  map.rules.push_back({.module = "ffn.choice_bias",
                       .sources = {"{body}layers.{i}.mlp.gate.e_score_correction_bias"},
                       .weight_suffix = ""});
  map.ignored.push_back("{body}layers.{extra}.*");
  const Attention& attention = spec.layers.front().attention;
  if (!attention.latent) return map;
  map.rule("attention.qkv").sources = {
      attention.latent->q_rank > 0 ? "{body}layers.{i}.self_attn.q_a_proj" : "{body}layers.{i}.self_attn.q_proj",
      "{body}layers.{i}.self_attn.kv_a_proj_with_mqa"};
  map.rule("attention.q_norm").sources = {"{body}layers.{i}.self_attn.q_a_layernorm"};
  map.rule("attention.k_norm").sources = {"{body}layers.{i}.self_attn.kv_a_layernorm"};
  map.rules.push_back({"attention.q_b", {"{body}layers.{i}.self_attn.q_b_proj"}});
  map.rules.push_back({"attention.kv_b", {"{body}layers.{i}.self_attn.kv_b_proj"}});
  return map;
}

// The experts' matrices are stored for a product from the right, gate and up row by row.
NameMap gpt_oss(const ModelSpec& spec) {
  NameMap map = moe(spec);
  map.rule("ffn.router").sources = {"{body}layers.{i}.mlp.router"};
  map.rules.push_back(
      {.module = "attention.sinks", .sources = {"{body}layers.{i}.self_attn.sinks"}, .weight_suffix = ""});
  map.rule("experts.up") = {.module = "experts.up",
                            .sources = {"{body}layers.{i}.mlp.experts.gate_up_proj"},
                            .transposed = true,
                            .split = Split::kAlternating,
                            .weight_suffix = "",
                            .bias_suffix = "_bias"};
  map.rule("experts.down") = {.module = "experts.down",
                              .sources = {"{body}layers.{i}.mlp.experts.down_proj"},
                              .transposed = true,
                              .weight_suffix = "",
                              .bias_suffix = "_bias"};
  return map;
}

NameMap dbrx(const ModelSpec&) {
  return {.prefixes = {{"transformer."}},
          .rules =
              {
                  {"embedding", {"{body}wte"}},
                  {"attention_norm", {"{body}blocks.{i}.norm_attn_norm.norm_1"}},
                  {"attention.qkv", {"{body}blocks.{i}.norm_attn_norm.attn.Wqkv"}},
                  {"attention.out", {"{body}blocks.{i}.norm_attn_norm.attn.out_proj"}},
                  {"ffn_norm", {"{body}blocks.{i}.norm_attn_norm.norm_2"}},
                  {"ffn.router", {"{body}blocks.{i}.ffn.router.layer"}},
                  {.module = "experts.up",
                   .sources = {"{body}blocks.{i}.ffn.experts.mlp.w1", "{body}blocks.{i}.ffn.experts.mlp.v1"},
                   .weight_suffix = ""},
                  {.module = "experts.down",
                   .sources = {"{body}blocks.{i}.ffn.experts.mlp.w2"},
                   .transposed = true,
                   .weight_suffix = ""},
                  {"final_norm", {"{body}norm_f"}},
                  {"head", {"{root}lm_head"}},
              },
          .ignored = {"*.rotary_emb.inv_freq"}};
}

}  // namespace quire::names
