"""LLaMA-like families with several feed-forwards per layer, of which each token takes a few."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .llama import decoder, head_dim, kv_heads, layer_windows, output_logits, self_attention
from .pieces import Array, Config, Weights, attend, field, gated, gated_mlp, heads, sigmoid, silu, softmax
from .rope import make_rope


def top(scores: Array, count: int) -> Array:
    """The columns of the largest scores of each row, largest first: [L, count]."""
    return np.argsort(-scores, axis=-1, kind="stable")[:, :count]


def softmax_router(logits: Array, count: int, normalise: bool) -> tuple[Array, Array]:
    """Experts [L, count] and their shares, out of a softmax over all experts."""
    probabilities = softmax(logits)
    chosen = top(probabilities, count)
    shares = np.take_along_axis(probabilities, chosen, axis=-1)
    return chosen, shares / shares.sum(axis=-1, keepdims=True) if normalise else shares


def mix(x: Array, chosen: Array, shares: Array, expert: Callable[[int, Array], Array]) -> Array:
    """Every token's sum of its experts' answers, weighted."""
    out = np.zeros_like(x)
    for number in np.unique(chosen):
        tokens, places = np.nonzero(chosen == number)
        out[tokens] += shares[tokens, places][:, None] * expert(int(number), x[tokens])
    return out


def mixtral(config: Config, w: Weights, ids: Array) -> Array:
    """transformers/models/mixtral/modeling_mixtral.py"""
    rope, window = make_rope({"rope_theta": 1e6, **config}, head_dim(config), len(ids)), config.get("sliding_window")

    def mlp(block: Weights, x: Array, _: int) -> Array:
        moe = block.at("block_sparse_moe.")
        chosen, shares = softmax_router(moe.linear("gate", x), config.get("num_experts_per_tok", 2), normalise=True)
        return mix(x, chosen, shares, lambda number, x: gated(moe.at(f"experts.{number}."), x, "w1", "w3", "w2"))

    return decoder(
        config, w, ids, lambda block, x, _: self_attention(config, block.at("self_attn."), x, rope, window), mlp
    )


def sparse_layers(config: Config) -> list[bool]:
    """Which layers have experts, for the Qwen families."""
    dense, step = config.get("mlp_only_layers") or [], config.get("decoder_sparse_step", 1)
    return [layer not in dense and (layer + 1) % step == 0 for layer in range(config["num_hidden_layers"])]


def qwen_moe(config: Config, w: Weights, ids: Array, norm_heads: bool, normalise: bool) -> Array:
    rope, windows, sparse = make_rope(config, head_dim(config), len(ids)), layer_windows(config), sparse_layers(config)

    def attention(block: Weights, x: Array, layer: int) -> Array:
        return self_attention(config, block.at("self_attn."), x, rope, windows[layer], norm_heads=norm_heads)

    def mlp(block: Weights, x: Array, layer: int) -> Array:
        moe = block.at("mlp.")
        if not sparse[layer]:
            return gated_mlp(moe, x)
        chosen, shares = softmax_router(moe.linear("gate", x), config["num_experts_per_tok"], normalise)
        out = mix(x, chosen, shares, lambda number, x: gated_mlp(moe.at(f"experts.{number}."), x))
        if "shared_expert_gate.weight" in moe:
            out = out + sigmoid(moe.linear("shared_expert_gate", x)) * gated_mlp(moe.at("shared_expert."), x)
        return out

    return decoder(config, w, ids, attention, mlp)


def qwen2_moe(config: Config, w: Weights, ids: Array) -> Array:
    """transformers/models/qwen2_moe/modeling_qwen2_moe.py: one more expert for all tokens, behind a sigmoid gate."""
    return qwen_moe(config, w, ids, norm_heads=False, normalise=config.get("norm_topk_prob", False))


def qwen3_moe(config: Config, w: Weights, ids: Array) -> Array:
    """transformers/models/qwen3_moe/modeling_qwen3_moe.py"""
    return qwen_moe(config, w, ids, norm_heads=True, normalise=config.get("norm_topk_prob", False))


def deepseek_layer_has_experts(config: Config, layer: int) -> bool:
    experts, first, step = (
        config.get(name) for name in ("n_routed_experts", "first_k_dense_replace", "moe_layer_freq")
    )
    return experts is not None and layer >= (first or 0) and layer % (step or 1) == 0


def deepseek(config: Config, w: Weights, ids: Array) -> Array:
    """modeling_deepseek.py of deepseek-ai/deepseek-moe-16b-base: first layers dense, shared experts without a gate."""
    rope = make_rope(config, head_dim(config), len(ids))

    def mlp(block: Weights, x: Array, layer: int) -> Array:
        moe = block.at("mlp.")
        if not deepseek_layer_has_experts(config, layer):
            return gated_mlp(moe, x)
        chosen, shares = softmax_router(
            moe.linear("gate", x), config["num_experts_per_tok"], config.get("norm_topk_prob", False)
        )
        out = mix(x, chosen, shares, lambda number, x: gated_mlp(moe.at(f"experts.{number}."), x))
        return out + gated_mlp(moe.at("shared_experts."), x) if config.get("n_shared_experts") else out

    return decoder(config, w, ids, lambda block, x, _: self_attention(config, block.at("self_attn."), x, rope), mlp)


def dbrx(config: Config, w: Weights, ids: Array) -> Array:
    """modeling_dbrx.py of databricks/dbrx-base: LayerNorm without bias, packed and clipped q, k, v, all experts of a
    layer in one tensor."""
    attn, ffn = config["attn_config"], config["ffn_config"]
    count, groups, width = config["n_heads"], attn["kv_n_heads"], config["d_model"]
    experts, taken, power = ffn["moe_num_experts"], ffn["moe_top_k"], ffn.get("moe_normalize_expert_weights", 1)
    rope = make_rope({"rope_theta": attn.get("rope_theta", 10000.0)}, width // count, len(ids))
    x = w["transformer.wte.weight"][ids]
    for layer in range(config["n_layers"]):
        block = w.at(f"transformer.blocks.{layer}.")
        packed = block.linear("norm_attn_norm.attn.Wqkv", block.layer_norm("norm_attn_norm.norm_1", x, 1e-5))
        if attn.get("clip_qkv") is not None:
            packed = np.clip(packed, -attn["clip_qkv"], attn["clip_qkv"])
        q, k, v = np.split(heads(packed, count + 2 * groups), [count, count + groups], axis=1)
        x = x + block.linear("norm_attn_norm.attn.out_proj", attend(rope(q), rope(k), v))
        h = block.layer_norm("norm_attn_norm.norm_2", x, 1e-5)
        chosen, shares = softmax_router(block.linear("ffn.router.layer", h), taken, normalise=False)
        if power is not None:
            shares = shares / np.linalg.norm(shares, ord=power, axis=-1, keepdims=True)
        w1, v1, w2 = (block[f"ffn.experts.mlp.{name}"].reshape(experts, -1, width) for name in ("w1", "v1", "w2"))

        def expert(number: int, x: Array, w1: Array = w1, v1: Array = v1, w2: Array = w2) -> Array:
            return (silu(x @ w1[number].T) * (x @ v1[number].T)) @ w2[number]

        x = x + mix(h, chosen, shares, expert)
    return w.linear("lm_head", w.layer_norm("transformer.norm_f", x, 1e-5))


def gpt_oss(config: Config, w: Weights, ids: Array) -> Array:
    """transformers/models/gpt_oss/modeling_gpt_oss.py: every other layer slides, sinks in the softmax, experts with
    biases and a clamped gate, stored [in, out] with gate and up interleaved."""
    count, groups, dim = config["num_attention_heads"], kv_heads(config), head_dim(config)
    rope, limit = make_rope({"rope_theta": 150000.0, **config}, dim, len(ids)), config.get("swiglu_limit", 7.0)
    kinds = config.get("layer_types") or ["sliding_attention", "full_attention"] * config["num_hidden_layers"]
    eps = field(config, "rms_norm_eps", default=1e-5)

    def attention(block: Weights, x: Array, layer: int) -> Array:
        attn = block.at("self_attn.")
        q, k, v = (heads(attn.linear(n, x), m) for n, m in (("q_proj", count), ("k_proj", groups), ("v_proj", groups)))
        window = config["sliding_window"] if kinds[layer] == "sliding_attention" else None
        return attn.linear("o_proj", attend(rope(q), rope(k), v, window=window, sinks=attn["sinks"]))

    def mlp(block: Weights, x: Array, _: int) -> Array:
        moe = block.at("mlp.")
        logits = moe.linear("router", x)
        chosen = top(logits, config["num_experts_per_tok"])
        shares = softmax(np.take_along_axis(logits, chosen, axis=-1))

        def expert(number: int, x: Array) -> Array:
            both = x @ moe["experts.gate_up_proj"][number] + moe["experts.gate_up_proj_bias"][number]
            gate, up = np.minimum(both[:, ::2], limit), np.clip(both[:, 1::2], -limit, limit)
            hidden = (up + 1.0) * gate * sigmoid(1.702 * gate)
            return hidden @ moe["experts.down_proj"][number] + moe["experts.down_proj_bias"][number]

        return mix(x, chosen, shares, expert)

    x = w["model.embed_tokens.weight"][ids]
    for layer in range(config["num_hidden_layers"]):
        block = w.at(f"model.layers.{layer}.")
        x = x + attention(block, block.rms_norm("input_layernorm", x, eps), layer)
        x = x + mlp(block, block.rms_norm("post_attention_layernorm", x, eps), layer)
    return output_logits(config, w, w.rms_norm("model.norm", x, eps))
