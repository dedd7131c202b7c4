"""Families that descend from GPT-2 and its time: LayerNorm with bias, plain feed-forwards, packed q, k, v; positions
learned, by ALiBi, or rotary on a part of each head."""

from __future__ import annotations

import numpy as np

from .pieces import ACTIVATIONS, Array, Config, Weights, alibi, attend, field, gelu, gelu_tanh, heads, silu
from .rope import Rope, make_rope, plain_frequencies


def per_head(packed: Array, num_heads: int) -> tuple[Array, Array, Array]:
    """[L, H * 3 * K], packed head by head as its query, key, value -> three [L, H, K]"""
    q, k, v = np.split(heads(packed, num_heads), 3, axis=-1)
    return q, k, v


def in_turn(packed: Array, num_heads: int, num_kv_heads: int) -> tuple[Array, Array, Array]:
    """[L, (H + 2 G) * K], packed as all queries, all keys, all values"""
    q, k, v = np.split(heads(packed, num_heads + 2 * num_kv_heads), [num_heads, num_heads + num_kv_heads], axis=1)
    return q, k, v


def without_prefix(w: Weights, prefix: str, probe: str) -> Weights:
    """Some checkpoints were saved from the inner model and lack its prefix."""
    return w.at(prefix) if prefix + probe in w else w


def gpt2(config: Config, w: Weights, ids: Array) -> Array:
    """transformers/models/gpt2/modeling_gpt2.py: learned positions, matrices stored [in, out], tied."""
    w = without_prefix(w, "transformer.", "wte.weight")
    count, eps = config["n_head"], config["layer_norm_epsilon"]
    activation = ACTIVATIONS[config.get("activation_function", "gelu_new")]
    x = w["wte.weight"][ids] + w["wpe.weight"][: len(ids)]
    for layer in range(config["n_layer"]):
        block = w.at(f"h.{layer}.")
        q, k, v = in_turn(block.conv1d("attn.c_attn", block.layer_norm("ln_1", x, eps)), count, count)
        scale = q.shape[-1] ** -0.5 if config.get("scale_attn_weights", True) else 1.0
        if config.get("scale_attn_by_inverse_layer_idx", False):
            scale /= layer + 1
        x = x + block.conv1d("attn.c_proj", attend(q, k, v, scale))
        x = x + block.conv1d("mlp.c_proj", activation(block.conv1d("mlp.c_fc", block.layer_norm("ln_2", x, eps))))
    return w.layer_norm("ln_f", x, eps) @ w["wte.weight"].T


def gpt_bigcode(config: Config, w: Weights, ids: Array) -> Array:
    """transformers/models/gpt_bigcode/modeling_gpt_bigcode.py: GPT-2 with matrices stored [out, in] and one key/value
    head; without multi_query c_attn is packed head by head."""
    w = without_prefix(w, "transformer.", "wte.weight")
    count, eps = config["n_head"], config["layer_norm_epsilon"]
    activation = ACTIVATIONS[config.get("activation_function", "gelu_pytorch_tanh")]
    x = w["wte.weight"][ids] + w["wpe.weight"][: len(ids)]
    for layer in range(config["n_layer"]):
        block = w.at(f"h.{layer}.")
        packed = block.linear("attn.c_attn", block.layer_norm("ln_1", x, eps))
        q, k, v = in_turn(packed, count, 1) if config.get("multi_query", True) else per_head(packed, count)
        x = x + block.linear("attn.c_proj", attend(q, k, v))
        x = x + block.linear("mlp.c_proj", activation(block.linear("mlp.c_fc", block.layer_norm("ln_2", x, eps))))
    return w.layer_norm("ln_f", x, eps) @ w["wte.weight"].T


def jais(config: Config, w: Weights, ids: Array) -> Array:
    """modeling_jais.py of core42/jais-13b: GPT-2 with ALiBi, c_fc(x) * silu(c_fc2(x)), and the scales of muP for
    embeddings, attention and logits, whose fields have an older and a newer name."""
    w = without_prefix(w, "transformer.", "wte.weight")
    count, eps = config["n_head"], config["layer_norm_epsilon"]
    by_dim = field(config, "scale_qk_dot_by_d", "mup_scale_qk_dot_by_d", default=False)
    output_scale = field(config, "width_scale")
    if output_scale is None:
        output_scale = config.get("mup_output_alpha", 1.0) * config.get("mup_width_scale", 1.0)
    use_alibi = config.get("position_embedding_type", "learned") == "alibi"
    bias = alibi(count, len(ids)) if use_alibi else None
    x = w["wte.weight"][ids]
    if not use_alibi:
        x = x + w["wpe.weight"][: len(ids)]
    x = x * field(config, "embeddings_scale", "mup_embeddings_scale", default=1.0)
    for layer in range(config["n_layer"]):
        block = w.at(f"h.{layer}.")
        q, k, v = in_turn(block.conv1d("attn.c_attn", block.layer_norm("ln_1", x, eps)), count, count)
        scale = q.shape[-1] ** (-1.0 if by_dim else -0.5)
        x = x + block.conv1d("attn.c_proj", attend(q, k, v, scale, bias=bias))
        h = block.layer_norm("ln_2", x, eps)
        if config["activation_function"] == "swiglu":
            h = block.conv1d("mlp.c_fc", h) * silu(block.conv1d("mlp.c_fc2", h))
        else:
            h = ACTIVATIONS[config["activation_function"]](block.conv1d("mlp.c_fc", h))
        x = x + block.conv1d("mlp.c_proj", h)
    return w.layer_norm("ln_f", x, eps) @ w["wte.weight"].T * output_scale


def opt(config: Config, w: Weights, ids: Array) -> Array:
    """transformers/models/opt/modeling_opt.py: learned positions from row 2 on; in the 350M model norms come after
    the residual and the embedding is narrower than the model."""
    w = without_prefix(w, "model.", "decoder.embed_tokens.weight").at("decoder.")
    count, before, eps = config["num_attention_heads"], config.get("do_layer_norm_before", True), 1e-5
    activation = ACTIVATIONS[config.get("activation_function", "relu")]
    x = w["embed_tokens.weight"][ids]
    if "project_in.weight" in w:
        x = w.linear("project_in", x)
    x = x + w["embed_positions.weight"][2 : 2 + len(ids)]
    for layer in range(config["num_hidden_layers"]):
        block = w.at(f"layers.{layer}.")
        h = block.layer_norm("self_attn_layer_norm", x, eps) if before else x
        q, k, v = (heads(block.linear(f"self_attn.{name}_proj", h), count) for name in "qkv")
        x = x + block.linear("self_attn.out_proj", attend(q, k, v))
        x = x if before else block.layer_norm("self_attn_layer_norm", x, eps)
        h = block.layer_norm("final_layer_norm", x, eps) if before else x
        x = x + block.linear("fc2", activation(block.linear("fc1", h)))
        x = x if before else block.layer_norm("final_layer_norm", x, eps)
    if before and not config.get("_remove_final_layer_norm", False):
        x = w.layer_norm("final_layer_norm", x, eps)
    if "project_out.weight" in w:
        x = w.linear("project_out", x)
    return x @ w["embed_tokens.weight"].T


def bloom(config: Config, w: Weights, ids: Array) -> Array:
    """transformers/models/bloom/modeling_bloom.py: ALiBi, a LayerNorm on the embedding, residuals that may start
    behind the norm, tied."""
    w = without_prefix(w, "transformer.", "word_embeddings.weight")
    count, eps = field(config, "n_head", "num_attention_heads"), config["layer_norm_epsilon"]
    after_norm = config.get("apply_residual_connection_post_layernorm", False)
    bias = alibi(count, len(ids))
    x = w.layer_norm("word_embeddings_layernorm", w["word_embeddings.weight"][ids], eps)
    for layer in range(field(config, "n_layer", "num_hidden_layers")):
        block = w.at(f"h.{layer}.")
        h = block.layer_norm("input_layernorm", x, eps)
        q, k, v = per_head(block.linear("self_attention.query_key_value", h), count)
        x = (h if after_norm else x) + block.linear("self_attention.dense", attend(q, k, v, bias=bias))
        h = block.layer_norm("post_attention_layernorm", x, eps)
        x = (h if after_norm else x) + block.linear(
            "mlp.dense_4h_to_h", gelu_tanh(block.linear("mlp.dense_h_to_4h", h))
        )
    return w.layer_norm("ln_f", x, eps) @ w["word_embeddings.weight"].T


def mpt_norm(w: Weights, name: str, x: Array) -> Array:
    return w.layer_norm(name, x, 1e-5)


def mpt(config: Config, w: Weights, ids: Array) -> Array:
    """modeling_mpt.py of mosaicml/mpt-7b and llm-foundry: ALiBi or learned positions, clipped or normalised q and k,
    no biases unless no_bias is false, tied, logits perhaps scaled.

    transformers' own modeling_mpt.py does not read alibi_bias_max; mpt-7b-storywriter has 16 there.
    """
    attn, count, width = config.get("attn_config") or {}, config["n_heads"], config["d_model"]
    groups = attn.get("kv_n_heads") or {"multiquery_attention": 1}.get(attn.get("attn_type", ""), count)
    clip, dim = attn.get("clip_qkv"), width // count
    bias = alibi(count, len(ids), attn.get("alibi_bias_max", 8)) if attn.get("alibi", False) else None
    x = w["transformer.wte.weight"][ids]
    if bias is None and config.get("learned_pos_emb", True):
        x = x + w["transformer.wpe.weight"][: len(ids)]
    for layer in range(config["n_layers"]):
        block = w.at(f"transformer.blocks.{layer}.")
        packed = block.linear("attn.Wqkv", mpt_norm(block, "norm_1", x))
        if clip is not None:
            packed = np.clip(packed, -clip, clip)
        q, k, v = np.split(packed, [width, width + groups * dim], axis=-1)
        if attn.get("qk_ln", False):
            q, k = mpt_norm(block, "attn.q_ln", q), mpt_norm(block, "attn.k_ln", k)
        attended = attend(heads(q, count), heads(k, groups), heads(v, groups), attn.get("softmax_scale"), bias=bias)
        x = x + block.linear("attn.out_proj", attended)
        x = x + block.linear("ffn.down_proj", gelu(block.linear("ffn.up_proj", mpt_norm(block, "norm_2", x))))
    logits = mpt_norm(w, "transformer.norm_f", x) @ w["transformer.wte.weight"].T
    scale = config.get("logit_scale")
    return logits * (1.0 if scale is None else width**-0.5 if scale == "inv_sqrt_d_model" else float(scale))


def falcon(config: Config, w: Weights, ids: Array) -> Array:
    """transformers/models/falcon/modeling_falcon.py, and modelling_RW.py of the first Falcon checkpoints, whose
    model_type is RefinedWebModel (7B, one key/value head) or RefinedWeb (40B, groups).

    ALiBi is added before the division by sqrt(K).
    """
    count = field(config, "num_attention_heads", "n_head")
    dim, eps = config["hidden_size"] // count, config.get("layer_norm_epsilon", 1e-5)
    grouped = config.get("new_decoder_architecture", config.get("model_type") == "RefinedWeb")
    parallel = config.get("parallel_attn", True)
    bias = alibi(count, len(ids)) * dim**-0.5 if config.get("alibi", False) else None
    rope = make_rope(config, dim, len(ids))
    activation = ACTIVATIONS[config.get("activation", "gelu")]
    two_norms = grouped and field(config, "num_ln_in_parallel_attn", default=2) == 2
    x = w["transformer.word_embeddings.weight"][ids]
    for layer in range(field(config, "num_hidden_layers", "n_layer")):
        block = w.at(f"transformer.h.{layer}.")
        h = block.layer_norm("ln_attn" if two_norms else "input_layernorm", x, eps)
        packed = block.linear("self_attention.query_key_value", h)
        if grouped:
            packed = packed.reshape(len(ids), field(config, "num_kv_heads", "n_head_kv", default=count), -1, dim)
            q, k, v = packed[:, :, :-2].reshape(len(ids), count, dim), packed[:, :, -2], packed[:, :, -1]
        elif config.get("multi_query", True):
            q, k, v = in_turn(packed, count, 1)
        else:
            q, k, v = per_head(packed, count)
        if bias is None:
            q, k = rope(q), rope(k)
        attended = block.linear("self_attention.dense", attend(q, k, v, bias=bias))
        if two_norms:
            h = block.layer_norm("ln_mlp", x, eps)
        elif not parallel:
            x, attended = x + attended, 0.0
            h = block.layer_norm("post_attention_layernorm", x, eps)
        x = x + attended + block.linear("mlp.dense_4h_to_h", activation(block.linear("mlp.dense_h_to_4h", h)))
    x = w.layer_norm("transformer.ln_f", x, eps)
    return (
        x @ w["transformer.word_embeddings.weight"].T
        if config.get("tie_word_embeddings", True)
        else w.linear("lm_head", x)
    )


def gpt_neox(config: Config, w: Weights, ids: Array) -> Array:
    """transformers/models/gpt_neox/modeling_gpt_neox.py: q, k, v packed head by head, a part of each head turns,
    attention and feed-forward side by side."""
    count, eps = config["num_attention_heads"], config["layer_norm_eps"]
    dim = config["hidden_size"] // count
    theta = field(config, "rotary_emb_base", "rope_theta", default=10000)
    rope = make_rope({**config, "rope_theta": theta}, int(dim * config.get("rotary_pct", 0.25)), len(ids))
    activation = ACTIVATIONS[config["hidden_act"]]
    x = w["gpt_neox.embed_in.weight"][ids]
    for layer in range(config["num_hidden_layers"]):
        block = w.at(f"gpt_neox.layers.{layer}.")
        packed = block.linear("attention.query_key_value", block.layer_norm("input_layernorm", x, eps))
        q, k, v = per_head(packed, count)
        attended = block.linear("attention.dense", attend(rope(q), rope(k), v))
        h = x if config.get("use_parallel_residual", True) else x + attended
        h = block.layer_norm("post_attention_layernorm", h, eps)
        x = x + attended + block.linear("mlp.dense_4h_to_h", activation(block.linear("mlp.dense_h_to_4h", h)))
    x = w.layer_norm("gpt_neox.final_layer_norm", x, eps)
    return x @ w["gpt_neox.embed_in.weight"].T if config.get("tie_word_embeddings") else w.linear("embed_out", x)


def gptj(config: Config, w: Weights, ids: Array) -> Array:
    """transformers/models/gptj/modeling_gptj.py: neighbours turn in pairs in the first rotary_dim values (64 if the
    field is missing); one LayerNorm feeds attention and feed-forward; the head has a bias."""
    count, eps = config["n_head"], config.get("layer_norm_epsilon", 1e-5)
    rope = Rope(plain_frequencies(config.get("rotary_dim", 64), 10000.0), interleaved=True)
    activation = ACTIVATIONS[config.get("activation_function", "gelu_new")]
    x = w["transformer.wte.weight"][ids]
    for layer in range(config["n_layer"]):
        block = w.at(f"transformer.h.{layer}.")
        h = block.layer_norm("ln_1", x, eps)
        q, k, v = (heads(block.linear(f"attn.{name}_proj", h), count) for name in "qkv")
        attended = block.linear("attn.out_proj", attend(rope(q), rope(k), v))
        x = x + attended + block.linear("mlp.fc_out", activation(block.linear("mlp.fc_in", h)))
    return w.linear("lm_head", w.layer_norm("transformer.ln_f", x, eps))


def phi(config: Config, w: Weights, ids: Array) -> Array:
    """transformers/models/phi/modeling_phi.py: a part of each head turns, one LayerNorm feeds attention and
    feed-forward, biases everywhere, the head included; q and k may be normalised per head."""
    count, eps = config["num_attention_heads"], config.get("layer_norm_eps", 1e-5)
    groups = field(config, "num_key_value_heads", default=count)
    dim = config["hidden_size"] // count
    rope = make_rope(config, int(dim * config.get("partial_rotary_factor", 0.5)), len(ids))
    activation = ACTIVATIONS[config.get("hidden_act", "gelu_new")]
    x = w["model.embed_tokens.weight"][ids]
    for layer in range(config["num_hidden_layers"]):
        block = w.at(f"model.layers.{layer}.")
        attn = block.at("self_attn.")
        h = block.layer_norm("input_layernorm", x, eps)
        q, k, v = (heads(attn.linear(n, h), m) for n, m in (("q_proj", count), ("k_proj", groups), ("v_proj", groups)))
        if config.get("qk_layernorm", False):
            q, k = attn.layer_norm("q_layernorm", q, eps), attn.layer_norm("k_layernorm", k, eps)
        attended = attn.linear("dense", attend(rope(q), rope(k), v))
        x = x + attended + block.linear("mlp.fc2", activation(block.linear("mlp.fc1", h)))
    return w.linear("lm_head", w.layer_norm("model.final_layernorm", x, eps))


def chatglm(config: Config, w: Weights, ids: Array) -> Array:
    """modeling_chatglm.py of THUDM/chatglm2-6b, chatglm3-6b and glm-4-9b.

    Half of each head turns by a base of 10000 * rope_ratio, neighbours in pairs unless original_rope is false
    (cogagent-9b). Without multi_query_attention query_key_value is packed head by head. RMSNorm, or LayerNorm if
    `rmsnorm` is false.
    """
    count, eps, dim = config["num_attention_heads"], config["layernorm_epsilon"], config["kv_channels"]
    frequencies = plain_frequencies(dim // 2, 10000.0 * field(config, "rope_ratio", default=1))
    rope = Rope(frequencies, interleaved=config.get("original_rope", True))
    after_norm = config.get("apply_residual_connection_post_layernorm", False)

    def norm(w: Weights, name: str, x: Array) -> Array:
        return w.rms_norm(name, x, eps) if config.get("rmsnorm", True) else w.layer_norm(name, x, eps)

    w = w.at("transformer.")
    x = w["embedding.word_embeddings.weight"][ids]
    for layer in range(config["num_layers"]):
        block = w.at(f"encoder.layers.{layer}.")
        h = norm(block, "input_layernorm", x)
        packed = block.linear("self_attention.query_key_value", h)
        if config.get("multi_query_attention", False):
            q, k, v = in_turn(packed, count, config["multi_query_group_num"])
        else:
            q, k, v = per_head(packed, count)
        x = (h if after_norm else x) + block.linear("self_attention.dense", attend(rope(q), rope(k), v))
        h = norm(block, "post_attention_layernorm", x)
        gate, up = np.split(block.linear("mlp.dense_h_to_4h", h), 2, axis=-1)
        x = (h if after_norm else x) + block.linear("mlp.dense_4h_to_h", silu(gate) * up)
    if config.get("post_layer_norm", True):
        x = norm(w, "encoder.final_layernorm", x)
    tied = config.get("tie_word_embeddings", False)
    return x @ w["embedding.word_embeddings.weight"].T if tied else w.linear("output_layer", x)
