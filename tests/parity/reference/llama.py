"""LLaMA and the families that are LLaMA with other names or one thing changed: a norm before attention and before a
gated feed-forward, rotary positions, grouped key/value heads."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from .pieces import ACTIVATIONS, Array, Config, Weights, alibi, attend, field, gated, gated_mlp, heads, packed_gated_mlp
from .rope import Rope, make_rope, plain_frequencies

Step = Callable[[Weights, Array, int], Array]  # (weights of the layer, [L, D], number of the layer) -> [L, D]


def head_dim(config: Config) -> int:
    return field(config, "head_dim", default=config["hidden_size"] // config["num_attention_heads"])


def kv_heads(config: Config) -> int:
    return field(config, "num_key_value_heads", default=config["num_attention_heads"])


def output_logits(config: Config, w: Weights, x: Array, tied: bool = False) -> Array:
    """By `lm_head`, or by the embedding if the two are tied; `tied` is the family's default."""
    if config.get("tie_word_embeddings", tied):
        return x @ w["model.embed_tokens.weight"].T
    return w.linear("lm_head", x)


def layer_windows(config: Config) -> list[int | None]:
    """The window of every layer, for the Qwen families: as `layer_types` says, else on the layers from
    max_window_layers on, if windows are switched on at all."""
    count, window = config["num_hidden_layers"], config.get("sliding_window")
    if config.get("layer_types"):
        return [window if kind == "sliding_attention" else None for kind in config["layer_types"]]
    if not config.get("use_sliding_window", False):
        return [None] * count
    return [window if layer >= config.get("max_window_layers", 28) else None for layer in range(count)]


def self_attention(
    config: Config,
    w: Weights,
    x: Array,
    rope: Rope,
    window: int | None = None,
    scale: float | None = None,
    num_kv_heads: int | None = None,
    norm_heads: bool = False,
) -> Array:
    """q_proj, k_proj, v_proj, o_proj, with biases where the checkpoint has them."""
    num_kv_heads = num_kv_heads or kv_heads(config)
    q = heads(w.linear("q_proj", x), config["num_attention_heads"])
    k = heads(w.linear("k_proj", x), num_kv_heads)
    v = heads(w.linear("v_proj", x), num_kv_heads)
    if norm_heads:
        q = w.rms_norm("q_norm", q, config["rms_norm_eps"])
        k = w.rms_norm("k_norm", k, config["rms_norm_eps"])
    return w.linear("o_proj", attend(rope(q), rope(k), v, scale, window))


def decoder(
    config: Config,
    w: Weights,
    ids: Array,
    attention: Step,
    mlp: Step | None = None,
    norm: Callable[[Weights, str, Array], Array] | None = None,
    tied: bool = False,
) -> Array:
    """The block of LLaMA under LLaMA's names; `attention` and `mlp` are handed the layer's weights."""
    norm = norm or (lambda w, name, x: w.rms_norm(name, x, config.get("rms_norm_eps", 1e-6)))
    mlp = mlp or (lambda w, x, layer: gated_mlp(w.at("mlp."), x, ACTIVATIONS[config.get("hidden_act", "silu")]))
    x = w["model.embed_tokens.weight"][ids]
    for layer in range(config["num_hidden_layers"]):
        block = w.at(f"model.layers.{layer}.")
        x = x + attention(block, norm(block, "input_layernorm", x), layer)
        x = x + mlp(block, norm(block, "post_attention_layernorm", x), layer)
    return output_logits(config, w, norm(w, "model.norm", x), tied)


def llama(config: Config, w: Weights, ids: Array) -> Array:
    """transformers/models/llama/modeling_llama.py. Also Yi, Vicuna, Aquila (modeling_aquila.py), XVERSE
    (modeling_xverse.py), and InternLM (modeling_internlm.py) with its biases on q, k, v and o."""
    rope = make_rope(config, head_dim(config), len(ids))
    return decoder(config, w, ids, lambda block, x, _: self_attention(config, block.at("self_attn."), x, rope))


def mistral(config: Config, w: Weights, ids: Array) -> Array:
    """transformers/models/mistral/modeling_mistral.py: a window on every layer."""
    rope, window = make_rope(config, head_dim(config), len(ids)), config.get("sliding_window")
    return decoder(config, w, ids, lambda block, x, _: self_attention(config, block.at("self_attn."), x, rope, window))


def deci(config: Config, w: Weights, ids: Array) -> Array:
    """modeling_decilm.py of Deci/DeciLM-7B: each layer has its own number of key/value heads."""
    rope, counts = make_rope(config, head_dim(config), len(ids)), config["num_key_value_heads_per_layer"]
    return decoder(
        config,
        w,
        ids,
        lambda block, x, layer: self_attention(config, block.at("self_attn."), x, rope, num_kv_heads=counts[layer]),
    )


def orion(config: Config, w: Weights, ids: Array) -> Array:
    """modeling_orion.py of OrionStarAI/Orion-14B: LayerNorm with bias instead of RMSNorm."""
    rope = make_rope(config, head_dim(config), len(ids))
    return decoder(
        config,
        w,
        ids,
        lambda block, x, _: self_attention(config, block.at("self_attn."), x, rope),
        norm=lambda w, name, x: w.layer_norm(name, x, config["rms_norm_eps"]),
    )


def qwen2(config: Config, w: Weights, ids: Array) -> Array:
    """transformers/models/qwen2/modeling_qwen2.py: biases on q, k, v; windows on some layers."""
    rope, windows = make_rope(config, head_dim(config), len(ids)), layer_windows(config)
    return decoder(
        config,
        w,
        ids,
        lambda block, x, layer: self_attention(config, block.at("self_attn."), x, rope, windows[layer]),
    )


def qwen3(config: Config, w: Weights, ids: Array) -> Array:
    """transformers/models/qwen3/modeling_qwen3.py: RMSNorm on each head of q and k before the rotation."""
    rope, windows = make_rope(config, head_dim(config), len(ids)), layer_windows(config)
    return decoder(
        config,
        w,
        ids,
        lambda block, x, layer: self_attention(
            config, block.at("self_attn."), x, rope, windows[layer], norm_heads=True
        ),
    )


def granite(config: Config, w: Weights, ids: Array) -> Array:
    """transformers/models/granite/modeling_granite.py: four multipliers."""
    rope, eps = make_rope(config, head_dim(config), len(ids)), config["rms_norm_eps"]
    residual = config["residual_multiplier"]
    x = w["model.embed_tokens.weight"][ids] * config["embedding_multiplier"]
    for layer in range(config["num_hidden_layers"]):
        block = w.at(f"model.layers.{layer}.")
        h = block.rms_norm("input_layernorm", x, eps)
        x = x + residual * self_attention(config, block.at("self_attn."), h, rope, scale=config["attention_multiplier"])
        x = x + residual * gated_mlp(block.at("mlp."), block.rms_norm("post_attention_layernorm", x, eps))
    return output_logits(config, w, w.rms_norm("model.norm", x, eps)) / config["logits_scaling"]


def baichuan(config: Config, w: Weights, ids: Array) -> Array:
    """modeling_baichuan.py of baichuan-inc/Baichuan-7B, Baichuan-13B-Base and Baichuan2-13B-Base.

    q, k, v are packed in W_pack. 13B models have ALiBi instead of rotation; the class name does not tell, the width
    of the 7B models does. Baichuan2, known by its vocabulary, normalises the rows of lm_head.
    """
    count, eps, activation = config["num_attention_heads"], config["rms_norm_eps"], ACTIVATIONS[config["hidden_act"]]
    rotary = config["architectures"][0] == "BaiChuanForCausalLM" or config["hidden_size"] == 4096
    rope = make_rope(config, head_dim(config), len(ids))
    bias = None if rotary else alibi(count, len(ids))
    x = w["model.embed_tokens.weight"][ids]
    for layer in range(config["num_hidden_layers"]):
        block = w.at(f"model.layers.{layer}.")
        packed = block.linear("self_attn.W_pack", block.rms_norm("input_layernorm", x, eps))
        q, k, v = (heads(part, count) for part in np.split(packed, 3, axis=-1))
        if rotary:
            q, k = rope(q), rope(k)
        x = x + block.linear("self_attn.o_proj", attend(q, k, v, bias=bias))
        x = x + gated_mlp(block.at("mlp."), block.rms_norm("post_attention_layernorm", x, eps), activation)
    x = w.rms_norm("model.norm", x, eps)
    head = w["lm_head.weight"]
    if config["vocab_size"] == 125696:
        head = head / np.maximum(np.linalg.norm(head, axis=-1, keepdims=True), 1e-12)
    return x @ head.T


def qwen(config: Config, w: Weights, ids: Array) -> Array:
    """modeling_qwen.py of Qwen/Qwen-7B.

    c_attn packs q, k, v and alone has a bias. The feed-forward is w1(x) * silu(w2(x)) and half as wide as
    intermediate_size. Beyond seq_length the rotation's base grows (use_dynamic_ntk) and the query at position p is
    multiplied by log(p + 1) / log(seq_length) (use_logn_attn).
    """
    length, count, eps = len(ids), config["num_attention_heads"], config["layer_norm_epsilon"]
    dim, trained = config["kv_channels"], config["seq_length"]
    theta = config.get("rotary_emb_base", 10000)
    if config.get("use_dynamic_ntk") and length > trained:
        alpha = max(2 ** math.ceil(math.log2(length / trained) + 1) - 1, 1)
        theta *= alpha ** (dim / (dim - 2))
    rope = Rope(plain_frequencies(int(dim * config.get("rotary_pct", 1.0)), theta))
    places = np.arange(1, length + 1)
    stretch = np.maximum(np.log(places) / math.log(trained), 1.0) if config.get("use_logn_attn") else np.ones(length)
    x = w["transformer.wte.weight"][ids]
    for layer in range(config["num_hidden_layers"]):
        block = w.at(f"transformer.h.{layer}.")
        packed = block.linear("attn.c_attn", block.rms_norm("ln_1", x, eps))
        q, k, v = (heads(part, count) for part in np.split(packed, 3, axis=-1))
        q = rope(q) * stretch.astype(x.dtype)[:, None, None]
        x = x + block.linear("attn.c_proj", attend(q, rope(k), v))
        x = x + gated(block.at("mlp."), block.rms_norm("ln_2", x, eps), "w2", "w1", "c_proj")
    return w.linear("lm_head", w.rms_norm("transformer.ln_f", x, eps))


def internlm2(config: Config, w: Weights, ids: Array) -> Array:
    """modeling_internlm2.py of internlm/internlm2-7b: wqkv is packed per key/value head as its queries, key, value."""
    groups, eps, dim = kv_heads(config), config["rms_norm_eps"], head_dim(config)
    rope = make_rope(config, dim, len(ids))
    x = w["model.tok_embeddings.weight"][ids]
    for layer in range(config["num_hidden_layers"]):
        block = w.at(f"model.layers.{layer}.")
        packed = block.linear("attention.wqkv", block.rms_norm("attention_norm", x, eps))
        packed = packed.reshape(len(ids), groups, -1, dim)
        q = packed[:, :, :-2].reshape(len(ids), -1, dim)
        k, v = packed[:, :, -2], packed[:, :, -1]
        x = x + block.linear("attention.wo", attend(rope(q), rope(k), v))
        x = x + gated(block.at("feed_forward."), block.rms_norm("ffn_norm", x, eps), "w1", "w3", "w2")
    x = w.rms_norm("model.norm", x, eps)
    return x @ w["model.tok_embeddings.weight"].T if config.get("tie_word_embeddings") else w.linear("output", x)


def phi3(config: Config, w: Weights, ids: Array) -> Array:
    """transformers/models/phi3/modeling_phi3.py: qkv_proj = [q; k; v], gate_up_proj = [gate; up], windows, longrope;
    Phi-4-mini turns only a part of each head."""
    count, groups, dim = config["num_attention_heads"], kv_heads(config), head_dim(config)
    partial = field(config, "partial_rotary_factor", default=1.0)
    rope = make_rope(config, int(dim * partial), len(ids))

    def attention(block: Weights, x: Array, _: int) -> Array:
        packed = heads(block.linear("self_attn.qkv_proj", x), count + 2 * groups)
        q, k, v = np.split(packed, [count, count + groups], axis=1)
        return block.linear("self_attn.o_proj", attend(rope(q), rope(k), v, window=config.get("sliding_window")))

    return decoder(config, w, ids, attention, lambda block, x, _: packed_gated_mlp(block.at("mlp."), x))


def glm4(config: Config, w: Weights, ids: Array) -> Array:
    """transformers/models/glm4/modeling_glm4.py (GLM-4-0414): norms also after attention and feed-forward, the
    first half of each head turns, neighbours in pairs."""
    eps, dim = config["rms_norm_eps"], head_dim(config)
    rope = make_rope(config, int(dim * config.get("partial_rotary_factor", 0.5)), len(ids), interleaved=True)
    x = w["model.embed_tokens.weight"][ids]
    for layer in range(config["num_hidden_layers"]):
        block = w.at(f"model.layers.{layer}.")
        h = self_attention(config, block.at("self_attn."), block.rms_norm("input_layernorm", x, eps), rope)
        x = x + block.rms_norm("post_self_attn_layernorm", h, eps)
        h = packed_gated_mlp(block.at("mlp."), block.rms_norm("post_attention_layernorm", x, eps))
        x = x + block.rms_norm("post_mlp_layernorm", h, eps)
    return output_logits(config, w, w.rms_norm("model.norm", x, eps))


def stablelm(config: Config, w: Weights, ids: Array) -> Array:
    """transformers/models/stablelm/modeling_stablelm.py, and modeling_stablelm_epoch.py of
    stabilityai/stablelm-3b-4e1t with the older field names rope_pct and norm_eps.

    LayerNorm with bias, a part of each head turns. The 12B model normalises each head of q and k with weights of
    its own and adds attention and feed-forward of the same input.
    """
    count, groups, dim = config["num_attention_heads"], kv_heads(config), head_dim(config)
    eps = field(config, "layer_norm_eps", "norm_eps", default=1e-5)
    rope = make_rope(config, int(dim * field(config, "partial_rotary_factor", "rope_pct", default=0.25)), len(ids))

    def norm_each_head(w: Weights, name: str, x: Array) -> Array:
        each = [w.layer_norm(f"{name}.norms.{i}", x[:, i], eps) for i in range(x.shape[1])]
        return np.stack(each, axis=1)

    x = w["model.embed_tokens.weight"][ids]
    for layer in range(config["num_hidden_layers"]):
        block = w.at(f"model.layers.{layer}.")
        attn = block.at("self_attn.")
        h = block.layer_norm("input_layernorm", x, eps)
        q, k, v = (heads(attn.linear(n, h), m) for n, m in (("q_proj", count), ("k_proj", groups), ("v_proj", groups)))
        if config.get("qk_layernorm", False):
            q, k = norm_each_head(attn, "q_layernorm", q), norm_each_head(attn, "k_layernorm", k)
        attended = attn.linear("o_proj", attend(rope(q), rope(k), v))
        if config.get("use_parallel_residual", False):
            x = x + attended + gated_mlp(block.at("mlp."), h)
        else:
            x = x + attended
            x = x + gated_mlp(block.at("mlp."), block.layer_norm("post_attention_layernorm", x, eps))
    return output_logits(config, w, w.layer_norm("model.norm", x, eps))


def starcoder2(config: Config, w: Weights, ids: Array) -> Array:
    """transformers/models/starcoder2/modeling_starcoder2.py: LayerNorm, a plain feed-forward, a window, tied."""
    rope, eps = make_rope(config, head_dim(config), len(ids)), config["norm_epsilon"]
    activation = ACTIVATIONS[config["hidden_act"]]
    return decoder(
        config,
        w,
        ids,
        lambda block, x, _: self_attention(config, block.at("self_attn."), x, rope, config.get("sliding_window")),
        lambda block, x, _: block.linear("mlp.c_proj", activation(block.linear("mlp.c_fc", x))),
        norm=lambda w, name, x: w.layer_norm(name, x, eps),
        tied=True,
    )


def cohere(config: Config, w: Weights, ids: Array) -> Array:
    """transformers/models/cohere/modeling_cohere.py: one LayerNorm without bias feeds attention and feed-forward,
    neighbours turn in pairs, logits are scaled, tied. Command-R+ normalises q and k per head."""
    count, groups, eps = config["num_attention_heads"], kv_heads(config), config["layer_norm_eps"]
    rope = make_rope(config, head_dim(config), len(ids), interleaved=True)
    x = w["model.embed_tokens.weight"][ids]
    for layer in range(config["num_hidden_layers"]):
        block = w.at(f"model.layers.{layer}.")
        attn = block.at("self_attn.")
        h = block.layer_norm("input_layernorm", x, eps)
        q, k, v = (heads(attn.linear(n, h), m) for n, m in (("q_proj", count), ("k_proj", groups), ("v_proj", groups)))
        if config.get("use_qk_norm", False):
            q, k = attn.layer_norm("q_norm", q, eps), attn.layer_norm("k_norm", k, eps)
        x = x + attn.linear("o_proj", attend(rope(q), rope(k), v)) + gated_mlp(block.at("mlp."), h)
    return output_logits(config, w, w.layer_norm("model.norm", x, eps), tied=True) * config.get("logit_scale", 0.0625)


def cohere2(config: Config, w: Weights, ids: Array) -> Array:
    """transformers/models/cohere2/modeling_cohere2.py: Cohere with a window in all layers but each fourth; only layers
    with a window know positions."""
    count, groups, eps = config["num_attention_heads"], kv_heads(config), config["layer_norm_eps"]
    rope = make_rope(config, head_dim(config), len(ids), interleaved=True)
    x = w["model.embed_tokens.weight"][ids]
    for layer in range(config["num_hidden_layers"]):
        block = w.at(f"model.layers.{layer}.")
        attn = block.at("self_attn.")
        types = config.get("layer_types")
        slides = types[layer] == "sliding_attention" if types else (layer + 1) % config["sliding_window_pattern"] != 0
        h = block.layer_norm("input_layernorm", x, eps)
        q, k, v = (heads(attn.linear(n, h), m) for n, m in (("q_proj", count), ("k_proj", groups), ("v_proj", groups)))
        if slides:
            attended = attend(rope(q), rope(k), v, window=config["sliding_window"])
        else:
            attended = attend(q, k, v)
        x = x + attn.linear("o_proj", attended) + gated_mlp(block.at("mlp."), h)
    return output_logits(config, w, w.layer_norm("model.norm", x, eps), tied=True) * config["logit_scale"]


def llava(config: Config, w: Weights, ids: Array) -> Array:
    """transformers/models/llava/modeling_llava.py, text only: a LLaMA under `language_model.`."""
    return llama(config["text_config"], w.at("language_model."), ids)
