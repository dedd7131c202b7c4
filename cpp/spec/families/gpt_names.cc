#include "spec/families/families.h"

// Layouts in the manner of GPT-2 and of the models between it and Llama.
namespace quire::names {

// The original folders hold the bare GPT2Model, without "transformer.".
NameMap gpt2(const ModelSpec&) {
  return {.prefixes = {{"transformer."}, {""}},
          .rules =
              {
                  {"embedding", {"{body}wte"}},
                  {"position_embedding", {"{body}wpe"}},
                  {"attention_norm", {"{body}h.{i}.ln_1"}},
                  {"attention.qkv", {"{body}h.{i}.attn.c_attn"}, true},
                  {"attention.out", {"{body}h.{i}.attn.c_proj"}, true},
                  {"ffn_norm", {"{body}h.{i}.ln_2"}},
                  {"ffn.up", {"{body}h.{i}.mlp.c_fc"}, true},
                  {"ffn.down", {"{body}h.{i}.mlp.c_proj"}, true},
                  {"final_norm", {"{body}ln_f"}},
                  {"head", {"{root}lm_head"}},
              },
          .ignored = {"*h.*.attn.bias", "*h.*.attn.masked_bias"}};
}

NameMap gpt_bigcode(const ModelSpec& spec) {
  NameMap map = gpt2(spec);
  for (NameRule& rule : map.rules) rule.transposed = false;
  // Several kv heads are stored head by head.
  map.rule("attention.qkv").split = Split::kByKvHead;
  return map;
}

NameMap jais(const ModelSpec& spec) {
  NameMap map = gpt2(spec);
  if (spec.layers.front().ffn.gated) {
    map.rule("ffn.up").sources = {"{body}h.{i}.mlp.c_fc2", "{body}h.{i}.mlp.c_fc"};
  }
  map.ignored.push_back("*relative_pe.slopes");
  return map;
}

NameMap gptj(const ModelSpec& spec) {
  NameMap map = gpt2(spec);
  for (NameRule& rule : map.rules) rule.transposed = false;
  map.rule("attention.qkv").sources = {"{body}h.{i}.attn.q_proj", "{body}h.{i}.attn.k_proj", "{body}h.{i}.attn.v_proj"};
  map.rule("attention.out").sources = {"{body}h.{i}.attn.out_proj"};
  map.rule("ffn.up").sources = {"{body}h.{i}.mlp.fc_in"};
  map.rule("ffn.down").sources = {"{body}h.{i}.mlp.fc_out"};
  return map;
}

NameMap gpt_neox(const ModelSpec&) {
  return {.prefixes = {{"gpt_neox."}},
          .rules =
              {
                  {"embedding", {"{body}embed_in"}},
                  {"attention_norm", {"{body}layers.{i}.input_layernorm"}},
                  {"attention.qkv", {"{body}layers.{i}.attention.query_key_value"}, false, Split::kByKvHead},
                  {"attention.out", {"{body}layers.{i}.attention.dense"}},
                  {"ffn_norm", {"{body}layers.{i}.post_attention_layernorm"}},
                  {"ffn.up", {"{body}layers.{i}.mlp.dense_h_to_4h"}},
                  {"ffn.down", {"{body}layers.{i}.mlp.dense_4h_to_h"}},
                  {"final_norm", {"{body}final_layer_norm"}},
                  {"head", {"{root}embed_out"}},
              },
          .ignored = {"*.rotary_emb.inv_freq", "*.attention.bias", "*.attention.masked_bias"}};
}

NameMap opt(const ModelSpec&) {
  return {.prefixes = {{"model.decoder."}, {"decoder."}},
          .rules =
              {
                  {"embedding", {"{body}embed_tokens"}},
                  {"position_embedding", {"{body}embed_positions"}},
                  {"project_in", {"{body}project_in"}},
                  {"project_out", {"{body}project_out"}},
                  {"attention_norm", {"{body}layers.{i}.self_attn_layer_norm"}},
                  {"attention.qkv",
                   {"{body}layers.{i}.self_attn.q_proj", "{body}layers.{i}.self_attn.k_proj",
                    "{body}layers.{i}.self_attn.v_proj"}},
                  {"attention.out", {"{body}layers.{i}.self_attn.out_proj"}},
                  {"ffn_norm", {"{body}layers.{i}.final_layer_norm"}},
                  {"ffn.up", {"{body}layers.{i}.fc1"}},
                  {"ffn.down", {"{body}layers.{i}.fc2"}},
                  {"final_norm", {"{body}final_layer_norm"}},
                  {"head", {"{root}lm_head"}},
              },
          .ignored = {}};
}

NameMap bloom(const ModelSpec&) {
  return {.prefixes = {{"transformer."}, {""}},
          .rules =
              {
                  {"embedding", {"{body}word_embeddings"}},
                  {"embedding_norm", {"{body}word_embeddings_layernorm"}},
                  {"attention_norm", {"{body}h.{i}.input_layernorm"}},
                  {"attention.qkv", {"{body}h.{i}.self_attention.query_key_value"}, false, Split::kByKvHead},
                  {"attention.out", {"{body}h.{i}.self_attention.dense"}},
                  {"ffn_norm", {"{body}h.{i}.post_attention_layernorm"}},
                  {"ffn.up", {"{body}h.{i}.mlp.dense_h_to_4h"}},
                  {"ffn.down", {"{body}h.{i}.mlp.dense_4h_to_h"}},
                  {"final_norm", {"{body}ln_f"}},
                  {"head", {"{root}lm_head"}},
              },
          .ignored = {}};
}

NameMap falcon(const ModelSpec& spec) {
  NameMap map = bloom(spec);
  map.prefixes = {{"transformer."}};
  if (spec.layers.front().wiring == Wiring::kParallelTwoNorms) {
    map.rule("attention_norm").sources = {"{body}h.{i}.ln_attn"};
    map.rule("ffn_norm").sources = {"{body}h.{i}.ln_mlp"};
  }
  map.ignored = {"*.rotary_emb.inv_freq", "*.maybe_rotary.inv_freq"};
  return map;
}

NameMap mpt(const ModelSpec&) {
  return {.prefixes = {{"transformer."}},
          .rules =
              {
                  {"embedding", {"{body}wte"}},
                  {"position_embedding", {"{body}wpe"}},
                  {"attention_norm", {"{body}blocks.{i}.norm_1"}},
                  {"attention.qkv", {"{body}blocks.{i}.attn.Wqkv"}},
                  {"attention.q_norm", {"{body}blocks.{i}.attn.q_ln"}},
                  {"attention.k_norm", {"{body}blocks.{i}.attn.k_ln"}},
                  {"attention.out", {"{body}blocks.{i}.attn.out_proj"}},
                  {"ffn_norm", {"{body}blocks.{i}.norm_2"}},
                  {"ffn.up", {"{body}blocks.{i}.ffn.up_proj"}},
                  {"ffn.down", {"{body}blocks.{i}.ffn.down_proj"}},
                  {"final_norm", {"{body}norm_f"}},
                  {"head", {"{root}lm_head"}},
              },
          .ignored = {}};
}

}  // namespace quire::names
