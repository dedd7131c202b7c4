"""DeepSeek V2 and V3: keys and values are stored as one latent vector per token (multi-head latent attention)."""

from __future__ import annotations

import numpy as np

from .llama import decoder
from .moe import deepseek_layer_has_experts, mix, top
from .pieces import Array, Config, Weights, attend, gated_mlp, heads, sigmoid, softmax
from .rope import make_rope, rope_parameters, yarn_mscale


def latent_attention(config: Config, w: Weights, x: Array) -> Array:
    """Per head, `nope` values of q and k carry content and `rope` values carry position; the position part of the
    key is one vector for all heads. The norms inside have an epsilon of their own."""
    length, count, eps = len(x), config["num_attention_heads"], 1e-6
    nope, turning, rank = config["qk_nope_head_dim"], config["qk_rope_head_dim"], config["kv_lora_rank"]
    rope = make_rope(config, turning, length, interleaved=True)
    if config.get("q_lora_rank") is None:
        q = w.linear("q_proj", x)
    else:
        q = w.linear("q_b_proj", w.rms_norm("q_a_layernorm", w.linear("q_a_proj", x), eps))
    q = heads(q, count)
    q = np.concatenate([q[..., :nope], rope(q[..., nope:])], axis=-1)
    latent = w.linear("kv_a_proj_with_mqa", x)
    position = rope(heads(latent[:, rank:], 1))
    kv = heads(w.linear("kv_b_proj", w.rms_norm("kv_a_layernorm", latent[:, :rank], eps)), count)
    k = np.concatenate([kv[..., :nope], np.broadcast_to(position, (length, count, turning))], axis=-1)
    return w.linear("o_proj", attend(q, k, kv[..., nope:], softmax_scale(config)))


def softmax_scale(config: Config) -> float:
    """With yarn, the temperature that other families put into the rotation stands here."""
    scale = (config["qk_nope_head_dim"] + config["qk_rope_head_dim"]) ** -0.5
    p = rope_parameters(config)
    if p["rope_type"] == "yarn" and p.get("mscale_all_dim"):
        scale *= yarn_mscale(p["factor"], p["mscale_all_dim"]) ** 2
    return scale


def in_best_groups(scores: Array, num_groups: int, num_best: int, of_group: int) -> Array:
    """[L, E] bool: whether an expert's group is among the best, judged by the sum of its `of_group` best scores."""
    grouped = scores.reshape(len(scores), num_groups, -1)
    value = np.sort(grouped, axis=-1)[..., -of_group:].sum(axis=-1)
    mask = np.zeros_like(value, dtype=bool)
    np.put_along_axis(mask, top(value, num_best), True, axis=-1)
    return np.repeat(mask, grouped.shape[-1], axis=-1)


def route(config: Config, moe: Weights, x: Array, version: int) -> tuple[Array, Array]:
    """Experts and shares. V3 chooses by sigmoid plus a correction that takes no part in the shares."""
    logits = x @ moe["gate.weight"].T
    count, groups, best = config["num_experts_per_tok"], config.get("n_group") or 1, config.get("topk_group") or 1
    if version == 2:
        scores = choice = softmax(logits)
        if config.get("topk_method") == "group_limited_greedy":
            choice = np.where(in_best_groups(scores, groups, best, 1), scores, 0.0)
    else:
        scores = sigmoid(logits)
        choice = scores + moe["gate.e_score_correction_bias"]
        choice = np.where(in_best_groups(choice, groups, best, 2), choice, -np.inf)
    chosen = top(choice, count)
    shares = np.take_along_axis(scores, chosen, axis=-1)
    if config.get("norm_topk_prob", version == 3):
        shares = shares / (shares.sum(axis=-1, keepdims=True) + 1e-20)
    return chosen, shares * config.get("routed_scaling_factor", 1.0)


def deepseek_latent(config: Config, w: Weights, ids: Array, version: int) -> Array:
    def mlp(block: Weights, x: Array, layer: int) -> Array:
        moe = block.at("mlp.")
        if not deepseek_layer_has_experts(config, layer):
            return gated_mlp(moe, x)
        chosen, shares = route(config, moe, x, version)
        out = mix(x, chosen, shares, lambda number, x: gated_mlp(moe.at(f"experts.{number}."), x))
        return out + gated_mlp(moe.at("shared_experts."), x) if config.get("n_shared_experts") else out

    return decoder(config, w, ids, lambda block, x, _: latent_attention(config, block.at("self_attn."), x), mlp)


def deepseek_v2(config: Config, w: Weights, ids: Array) -> Array:
    """modeling_deepseek.py of deepseek-ai/DeepSeek-V2 and transformers/models/deepseek_v2/modeling_deepseek_v2.py"""
    return deepseek_latent(config, w, ids, version=2)


def deepseek_v3(config: Config, w: Weights, ids: Array) -> Array:
    """transformers/models/deepseek_v3/modeling_deepseek_v3.py. Layers beyond num_hidden_layers, which predict
    further tokens, are not part of the model proper."""
    return deepseek_latent(config, w, ids, version=3)
