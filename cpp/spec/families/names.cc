#include "spec/families/families.h"

namespace quire::names {

NameMap llama() {
  return {.bodies = {"model."},
          .rules =
              {
                  {"embedding", {"{body}embed_tokens"}},
                  {"attention_norm", {"{body}layers.{i}.input_layernorm"}},
                  {"attention.qkv",
                   {"{body}layers.{i}.self_attn.q_proj", "{body}layers.{i}.self_attn.k_proj",
                    "{body}layers.{i}.self_attn.v_proj"}},
                  {"attention.q_norm", {"{body}layers.{i}.self_attn.q_norm"}},
                  {"attention.k_norm", {"{body}layers.{i}.self_attn.k_norm"}},
                  {"attention.out", {"{body}layers.{i}.self_attn.o_proj"}},
                  {"ffn_norm", {"{body}layers.{i}.post_attention_layernorm"}},
                  {"ffn.up", {"{body}layers.{i}.mlp.gate_proj", "{body}layers.{i}.mlp.up_proj"}},
                  {"ffn.down", {"{body}layers.{i}.mlp.down_proj"}},
                  {"final_norm", {"{body}norm"}},
                  {"head", {"lm_head"}},
              },
          .ignored = {"*.rotary_emb.inv_freq"}};
}

// The original folders hold the bare GPT2Model, without "transformer.".
NameMap gpt2() {
  return {.bodies = {"transformer.", ""},
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
                  {"head", {"lm_head"}},
              },
          .ignored = {"*h.*.attn.bias", "*h.*.attn.masked_bias"}};
}

}  // namespace quire::names
