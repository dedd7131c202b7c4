#include "spec/families/families.h"

// Layouts in the manner of Llama.
namespace quire::names {

NameMap llama(const ModelSpec&) {
  return {.prefixes = {{"model."}},
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
                  {"head", {"{root}lm_head"}},
              },
          .ignored = {"*.rotary_emb.inv_freq"}};
}

NameMap llava(const ModelSpec& spec) {
  NameMap map = llama(spec);
  map.prefixes = {{"language_model.model.", "language_model."}, {"model.language_model."}};
  map.ignored.insert(map.ignored.end(), {"vision_tower.*", "multi_modal_projector.*", "model.vision_tower.*",
                                         "model.multi_modal_projector.*", "image_newline", "model.image_newline"});
  return map;
}

NameMap baichuan(const ModelSpec& spec) {
  NameMap map = llama(spec);
  map.rule("attention.qkv").sources = {"{body}layers.{i}.self_attn.W_pack"};
  return map;
}

NameMap internlm2(const ModelSpec& spec) {
  NameMap map = llama(spec);
  map.rule("embedding").sources = {"{body}tok_embeddings"};
  map.rule("attention_norm").sources = {"{body}layers.{i}.attention_norm"};
  map.rule("attention.qkv").sources = {"{body}layers.{i}.attention.wqkv"};
  map.rule("attention.qkv").split = Split::kByKvHead;
  map.rule("attention.out").sources = {"{body}layers.{i}.attention.wo"};
  map.rule("ffn_norm").sources = {"{body}layers.{i}.ffn_norm"};
  map.rule("ffn.up").sources = {"{body}layers.{i}.feed_forward.w1", "{body}layers.{i}.feed_forward.w3"};
  map.rule("ffn.down").sources = {"{body}layers.{i}.feed_forward.w2"};
  map.rule("head").sources = {"{root}output"};
  return map;
}

NameMap qwen(const ModelSpec&) {
  return {.prefixes = {{"transformer."}},
          .rules =
              {
                  {"embedding", {"{body}wte"}},
                  {"attention_norm", {"{body}h.{i}.ln_1"}},
                  {"attention.qkv", {"{body}h.{i}.attn.c_attn"}},
                  {"attention.out", {"{body}h.{i}.attn.c_proj"}},
                  {"ffn_norm", {"{body}h.{i}.ln_2"}},
                  {"ffn.up", {"{body}h.{i}.mlp.w2", "{body}h.{i}.mlp.w1"}},
                  {"ffn.down", {"{body}h.{i}.mlp.c_proj"}},
                  {"final_norm", {"{body}ln_f"}},
                  {"head", {"{root}lm_head"}},
              },
          .ignored = {"*.rotary_emb.inv_freq", "*.attn.masked_bias"}};
}

// OLMo 2 as well. A norm behind each part: what Llama calls the norm after attention is one of them.
NameMap gemma2(const ModelSpec& spec) {
  NameMap map = llama(spec);
  map.rule("ffn_norm").sources = {"{body}layers.{i}.pre_feedforward_layernorm"};
  map.rules.push_back({"attention_out_norm", {"{body}layers.{i}.post_attention_layernorm"}});
  map.rules.push_back({"ffn_out_norm", {"{body}layers.{i}.post_feedforward_layernorm"}});
  return map;
}

NameMap glm4(const ModelSpec& spec) {
  NameMap map = llama(spec);
  map.rule("ffn.up").sources = {"{body}layers.{i}.mlp.gate_up_proj"};
  map.rules.push_back({"attention_out_norm", {"{body}layers.{i}.post_self_attn_layernorm"}});
  map.rules.push_back({"ffn_out_norm", {"{body}layers.{i}.post_mlp_layernorm"}});
  return map;
}

NameMap chatglm(const ModelSpec& spec) {
  // Without groups each head's query, key and value lie together.
  const Attention& attention = spec.layers.front().attention;
  const Split split = attention.kv_heads == attention.heads ? Split::kByKvHead : Split::kInOrder;
  return {.prefixes = {{"transformer.", "transformer."}},
          .rules =
              {
                  {"embedding", {"{body}embedding.word_embeddings"}},
                  {"attention_norm", {"{body}encoder.layers.{i}.input_layernorm"}},
                  {"attention.qkv", {"{body}encoder.layers.{i}.self_attention.query_key_value"}, false, split},
                  {"attention.out", {"{body}encoder.layers.{i}.self_attention.dense"}},
                  {"ffn_norm", {"{body}encoder.layers.{i}.post_attention_layernorm"}},
                  {"ffn.up", {"{body}encoder.layers.{i}.mlp.dense_h_to_4h"}},
                  {"ffn.down", {"{body}encoder.layers.{i}.mlp.dense_4h_to_h"}},
                  {"final_norm", {"{body}encoder.final_layernorm"}},
                  {"head", {"{root}output_layer"}},
              },
          .ignored = {"*.rotary_pos_emb.inv_freq", "*prefix_encoder.*"}};
}

// ai2-olmo's own names; its gated part has the gate behind.
NameMap olmo_original(const ModelSpec&) {
  return {.prefixes = {{"model.transformer."}, {"transformer."}},
          .rules =
              {
                  {"embedding", {"{body}wte"}},
                  {"position_embedding", {"{body}wpe"}},
                  {"attention_norm", {"{body}blocks.{i}.attn_norm"}},
                  {"attention.qkv", {"{body}blocks.{i}.att_proj"}},
                  {"attention.out", {"{body}blocks.{i}.attn_out"}},
                  {"ffn_norm", {"{body}blocks.{i}.ff_norm"}},
                  {"ffn.up", {"{body}blocks.{i}.ff_proj"}, false, Split::kReversed},
                  {"ffn.down", {"{body}blocks.{i}.ff_out"}},
                  {"final_norm", {"{body}ln_f"}},
                  {"head", {"{body}ff_out"}},
              },
          .ignored = {}};
}

NameMap phi(const ModelSpec& spec) {
  NameMap map = llama(spec);
  map.rule("attention.q_norm").sources = {"{body}layers.{i}.self_attn.q_layernorm"};
  map.rule("attention.k_norm").sources = {"{body}layers.{i}.self_attn.k_layernorm"};
  map.rule("attention.out").sources = {"{body}layers.{i}.self_attn.dense"};
  map.rule("ffn.up").sources = {"{body}layers.{i}.mlp.fc1"};
  map.rule("ffn.down").sources = {"{body}layers.{i}.mlp.fc2"};
  map.rule("final_norm").sources = {"{body}final_layernorm"};
  return map;
}

NameMap phi3(const ModelSpec& spec) {
  NameMap map = llama(spec);
  map.rule("attention.qkv").sources = {"{body}layers.{i}.self_attn.qkv_proj"};
  map.rule("ffn.up").sources = {"{body}layers.{i}.mlp.gate_up_proj"};
  return map;
}

NameMap stablelm(const ModelSpec& spec) {
  NameMap map = llama(spec);
  map.rule("attention.q_norm").sources = {"{body}layers.{i}.self_attn.q_layernorm.norms.{h}"};
  map.rule("attention.k_norm").sources = {"{body}layers.{i}.self_attn.k_layernorm.norms.{h}"};
  return map;
}

NameMap starcoder2(const ModelSpec& spec) {
  NameMap map = llama(spec);
  map.rule("ffn.up").sources = {"{body}layers.{i}.mlp.c_fc"};
  map.rule("ffn.down").sources = {"{body}layers.{i}.mlp.c_proj"};
  return map;
}

}  // namespace quire::names
