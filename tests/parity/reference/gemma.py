"""Gemma: embeddings times sqrt(width), norms that store their weight minus one, GeGLU, tied head."""

from __future__ import annotations

import math

import numpy as np

from .llama import head_dim, kv_heads
from .pieces import Array, Config, Weights, attend, field, gated_mlp, gelu_tanh, heads, rms_norm
from .rope import Rope, make_rope, plain_frequencies


def norm(w: Weights, name: str, x: Array, eps: float) -> Array:
    return rms_norm(x, eps) * (1.0 + w[name + ".weight"])


def qkv(config: Config, w: Weights, x: Array) -> tuple[Array, Array, Array]:
    counts = (config["num_attention_heads"], kv_heads(config), kv_heads(config))
    q, k, v = (
        heads(w.linear(name, x), count) for name, count in zip(("q_proj", "k_proj", "v_proj"), counts, strict=True)
    )
    return q, k, v


def gemma(config: Config, w: Weights, ids: Array) -> Array:
    """transformers/models/gemma/modeling_gemma.py. The tanh form of GELU, whatever `hidden_act` says."""
    eps = config["rms_norm_eps"]
    rope = make_rope(config, head_dim(config), len(ids))
    embedding = w["model.embed_tokens.weight"]
    x = embedding[ids] * math.sqrt(config["hidden_size"])
    for layer in range(config["num_hidden_layers"]):
        block = w.at(f"model.layers.{layer}.")
        q, k, v = qkv(config, block.at("self_attn."), norm(block, "input_layernorm", x, eps))
        x = x + block.linear("self_attn.o_proj", attend(rope(q), rope(k), v))
        x = x + gated_mlp(block.at("mlp."), norm(block, "post_attention_layernorm", x, eps), gelu_tanh)
    return norm(w, "model.norm", x, eps) @ embedding.T


def sandwich(config: Config, w: Weights, ids: Array, sliding: list[bool], ropes: list[Rope], norm_heads: bool) -> Array:
    """Gemma 2 and 3: norms before and after attention and feed-forward."""
    eps, scale = config["rms_norm_eps"], config["query_pre_attn_scalar"] ** -0.5
    embedding = w["model.embed_tokens.weight"]
    x = embedding[ids] * math.sqrt(config["hidden_size"])
    for layer in range(config["num_hidden_layers"]):
        block = w.at(f"model.layers.{layer}.")
        attn = block.at("self_attn.")
        q, k, v = qkv(config, attn, norm(block, "input_layernorm", x, eps))
        if norm_heads:
            q, k = norm(attn, "q_norm", q, eps), norm(attn, "k_norm", k, eps)
        q, k = ropes[layer](q), ropes[layer](k)
        window = config["sliding_window"] if sliding[layer] else None
        h = attn.linear("o_proj", attend(q, k, v, scale, window, softcap=config.get("attn_logit_softcapping")))
        x = x + norm(block, "post_attention_layernorm", h, eps)
        h = gated_mlp(block.at("mlp."), norm(block, "pre_feedforward_layernorm", x, eps), gelu_tanh)
        x = x + norm(block, "post_feedforward_layernorm", h, eps)
    logits = norm(w, "model.norm", x, eps) @ embedding.T
    cap = config.get("final_logit_softcapping")
    return logits if cap is None else cap * np.tanh(logits / cap)


def layer_kinds(config: Config, pattern: int) -> list[bool]:
    """Which layers slide: as `layer_types` says, else all but every pattern-th."""
    if config.get("layer_types"):
        return [kind == "sliding_attention" for kind in config["layer_types"]]
    return [(layer + 1) % pattern != 0 for layer in range(config["num_hidden_layers"])]


def gemma2(config: Config, w: Weights, ids: Array) -> Array:
    """transformers/models/gemma2/modeling_gemma2.py: every other layer slides, the first one does; soft caps."""
    rope = make_rope(config, head_dim(config), len(ids))
    sliding = layer_kinds(config, 2)
    return sandwich(config, w, ids, sliding, [rope] * len(sliding), norm_heads=False)


def gemma3(config: Config, w: Weights, ids: Array) -> Array:
    """transformers/models/gemma3/modeling_gemma3.py, the text model: five layers of six slide and turn by a base of
    their own without scaling; q and k are normalised per head."""
    pattern = field(config, "sliding_window_pattern", "_sliding_window_pattern", default=6)
    sliding, dim = layer_kinds(config, pattern), head_dim(config)
    full = make_rope({"rope_theta": 1e6, **config}, dim, len(ids))
    if config.get("rope_parameters"):
        local = make_rope(config, dim, len(ids), layer_type="sliding_attention")
    else:
        local = Rope(plain_frequencies(dim, config.get("rope_local_base_freq", 10000.0)))
    return sandwich(config, w, ids, sliding, [local if slides else full for slides in sliding], norm_heads=True)
