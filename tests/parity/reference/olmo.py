"""OLMo: the first one with norms without weights, in two layouts, and the second with norms after each sub-layer."""

from __future__ import annotations

import math

import numpy as np

from .gpt import in_turn
from .llama import decoder, head_dim, kv_heads, output_logits
from .pieces import ACTIVATIONS, Array, Config, Weights, alibi, attend, field, gated_mlp, heads, layer_norm, silu
from .rope import make_rope

EPSILON = 1e-5  # of every norm of the first OLMo


def olmo_original(config: Config, w: Weights, ids: Array) -> Array:
    """hf_olmo and olmo/model.py of ai2-olmo 0.3: att_proj = [q; k; v], ff_proj = [x; gate], silu on the gate.

    The embedding may have more rows than there are tokens (embedding_size); the logits of the rest are dropped.
    """
    w, count, width = w.at("model.transformer."), config["n_heads"], config["d_model"]
    groups = field(config, "n_kv_heads", default=1 if config.get("multi_query_attention") else count)
    clip, dim = config.get("clip_qkv"), width // count
    bias = alibi(count, len(ids), config.get("alibi_bias_max", 8.0)) if config.get("alibi", False) else None
    rope = make_rope(config, dim, len(ids))
    x = w["wte.weight"][ids]
    for layer in range(config["n_layers"]):
        block = w.at(f"blocks.{layer}.")
        packed = block.linear("att_proj", block.layer_norm("attn_norm", x, EPSILON))
        if clip is not None:
            packed = np.clip(packed, -clip, clip)
        q, k, v = in_turn(packed, count, groups)
        if bias is None:
            q, k = rope(q), rope(k)
        x = x + block.linear("attn_out", attend(q, k, v, bias=bias))
        up, gate = np.split(block.linear("ff_proj", block.layer_norm("ff_norm", x, EPSILON)), 2, axis=-1)
        x = x + block.linear("ff_out", silu(gate) * up)
    x = w.layer_norm("ln_f", x, EPSILON)
    logits = x @ w["wte.weight"].T if config.get("weight_tying", True) else w.linear("ff_out", x)
    if config.get("scale_logits", False):
        logits = logits / math.sqrt(width)
    return logits[:, : config["vocab_size"]]


def olmo(config: Config, w: Weights, ids: Array) -> Array:
    """transformers/models/olmo/modeling_olmo.py: LLaMA's names, norms without weights, clipped q, k, v."""
    count, groups, clip = config["num_attention_heads"], kv_heads(config), config.get("clip_qkv")
    rope = make_rope(config, head_dim(config), len(ids))

    def attention(block: Weights, x: Array, _: int) -> Array:
        q, k, v = (block.linear(f"self_attn.{name}_proj", x) for name in "qkv")
        if clip is not None:
            q, k, v = (np.clip(part, -clip, clip) for part in (q, k, v))
        q, k, v = heads(q, count), heads(k, groups), heads(v, groups)
        return block.linear("self_attn.o_proj", attend(rope(q), rope(k), v))

    return decoder(config, w, ids, attention, norm=lambda w, name, x: layer_norm(x, EPSILON))


def olmo2(config: Config, w: Weights, ids: Array) -> Array:
    """transformers/models/olmo2/modeling_olmo2.py: the norms stand behind attention and feed-forward; q and k are
    normalised over all heads together."""
    count, groups, eps = config["num_attention_heads"], kv_heads(config), config["rms_norm_eps"]
    rope = make_rope(config, head_dim(config), len(ids))
    x = w["model.embed_tokens.weight"][ids]
    for layer in range(config["num_hidden_layers"]):
        block = w.at(f"model.layers.{layer}.")
        attn = block.at("self_attn.")
        q = heads(attn.rms_norm("q_norm", attn.linear("q_proj", x), eps), count)
        k = heads(attn.rms_norm("k_norm", attn.linear("k_proj", x), eps), groups)
        v = heads(attn.linear("v_proj", x), groups)
        h = attn.linear("o_proj", attend(rope(q), rope(k), v))
        x = x + block.rms_norm("post_attention_layernorm", h, eps)
        h = gated_mlp(block.at("mlp."), x, ACTIVATIONS[config.get("hidden_act", "silu")])
        x = x + block.rms_norm("post_feedforward_layernorm", h, eps)
    return output_logits(config, w, w.rms_norm("model.norm", x, eps))
