"""Families with experts, and DeepSeek's latent attention."""

from __future__ import annotations

from collections.abc import Callable

from checkpoints import Config, Draw, variant

from .llama import base, draw_attention, draw_ends, draw_gated, sizes

Layer = Callable[[Draw, str, Config, int], None]


def blocks(attention: Layer, mlp: Layer, draw: Draw, c: Config, tied: bool = False) -> None:
    draw_ends(draw, c, tied)
    for layer in range(c["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        draw.norm(prefix + "input_layernorm", c["hidden_size"])
        attention(draw, prefix + "self_attn.", c, layer)
        draw.norm(prefix + "post_attention_layernorm", c["hidden_size"])
        mlp(draw, prefix, c, layer)


def plain_attention(draw: Draw, prefix: str, c: Config, layer: int) -> None:
    draw_attention(draw, prefix, c)


def biased_attention(draw: Draw, prefix: str, c: Config, layer: int) -> None:
    draw_attention(draw, prefix, c, qkv_bias=True)


def normed_attention(draw: Draw, prefix: str, c: Config, layer: int) -> None:
    draw_attention(draw, prefix, c)
    draw.norm(prefix + "q_norm", sizes(c)[1])
    draw.norm(prefix + "k_norm", sizes(c)[1])


def draw_mixtral(draw: Draw, c: Config) -> None:
    def mlp(draw: Draw, prefix: str, c: Config, layer: int) -> None:
        prefix, width, ffn = prefix + "block_sparse_moe.", c["hidden_size"], c["intermediate_size"]
        draw.linear(prefix + "gate", c["num_local_experts"], width)
        for expert in range(c["num_local_experts"]):
            draw.linear(f"{prefix}experts.{expert}.w1", ffn, width)
            draw.linear(f"{prefix}experts.{expert}.w3", ffn, width)
            draw.linear(f"{prefix}experts.{expert}.w2", width, ffn, scale=2.0)

    blocks(plain_attention, mlp, draw, c)


def draw_qwen_mlp(draw: Draw, prefix: str, c: Config, layer: int) -> None:
    """Dense on some layers; Qwen2 has one more expert for all tokens."""
    prefix, width = prefix + "mlp.", c["hidden_size"]
    if layer in c.get("mlp_only_layers", []) or (layer + 1) % c["decoder_sparse_step"] != 0:
        draw_gated(draw, prefix, width, c["intermediate_size"])
        return
    draw.linear(prefix + "gate", c["num_experts"], width)
    for expert in range(c["num_experts"]):
        draw_gated(draw, f"{prefix}experts.{expert}.", width, c["moe_intermediate_size"])
    if "shared_expert_intermediate_size" in c:
        draw_gated(draw, prefix + "shared_expert.", width, c["shared_expert_intermediate_size"])
        draw.linear(prefix + "shared_expert_gate", 1, width)


def draw_qwen2_moe(draw: Draw, c: Config) -> None:
    blocks(biased_attention, draw_qwen_mlp, draw, c)


def draw_qwen3_moe(draw: Draw, c: Config) -> None:
    blocks(normed_attention, draw_qwen_mlp, draw, c)


def draw_deepseek_mlp(draw: Draw, prefix: str, c: Config, layer: int) -> None:
    prefix, width, ffn = prefix + "mlp.", c["hidden_size"], c["moe_intermediate_size"]
    if layer < c["first_k_dense_replace"] or layer % c["moe_layer_freq"] != 0:
        draw_gated(draw, prefix, width, c["intermediate_size"])
        return
    draw.linear(prefix + "gate", c["n_routed_experts"], width)
    if c.get("topk_method") == "noaux_tc":
        draw.normal(prefix + "gate.e_score_correction_bias", (c["n_routed_experts"],), 0.3)
    for expert in range(c["n_routed_experts"]):
        draw_gated(draw, f"{prefix}experts.{expert}.", width, ffn)
    if c["n_shared_experts"]:
        draw_gated(draw, prefix + "shared_experts.", width, ffn * c["n_shared_experts"])


def draw_deepseek(draw: Draw, c: Config) -> None:
    blocks(plain_attention, draw_deepseek_mlp, draw, c)


def latent_attention(draw: Draw, prefix: str, c: Config, layer: int) -> None:
    width, heads, rank, rope = c["hidden_size"], c["num_attention_heads"], c["kv_lora_rank"], c["qk_rope_head_dim"]
    q_rows = heads * (c["qk_nope_head_dim"] + rope)
    if c["q_lora_rank"] is None:
        draw.linear(prefix + "q_proj", q_rows, width, scale=1.4)
    else:
        draw.linear(prefix + "q_a_proj", c["q_lora_rank"], width)
        draw.norm(prefix + "q_a_layernorm", c["q_lora_rank"])
        draw.linear(prefix + "q_b_proj", q_rows, c["q_lora_rank"], scale=1.4)
    draw.linear(prefix + "kv_a_proj_with_mqa", rank + rope, width, scale=1.4)
    draw.norm(prefix + "kv_a_layernorm", rank)
    draw.linear(prefix + "kv_b_proj", heads * (c["qk_nope_head_dim"] + c["v_head_dim"]), rank, scale=1.2)
    draw.linear(prefix + "o_proj", width, heads * c["v_head_dim"], scale=1.5)


def draw_latent(draw: Draw, c: Config) -> None:
    """V3 checkpoints have one layer more, which predicts the token after the next and is not part of the model."""
    blocks(latent_attention, draw_deepseek_mlp, draw, c)
    width, vocab = c["hidden_size"], c["vocab_size"]
    for layer in range(c["num_hidden_layers"], c["num_hidden_layers"] + c.get("num_nextn_predict_layers", 0)):
        prefix = f"model.layers.{layer}."
        draw.embedding(prefix + "embed_tokens", vocab, width)
        draw.norm(prefix + "enorm", width)
        draw.norm(prefix + "hnorm", width)
        draw.linear(prefix + "eh_proj", width, 2 * width)
        draw.norm(prefix + "input_layernorm", width)
        latent_attention(draw, prefix + "self_attn.", c, layer)
        draw.norm(prefix + "post_attention_layernorm", width)
        draw_deepseek_mlp(draw, prefix, c, layer)
        draw.norm(prefix + "shared_head.norm", width)
        draw.linear(prefix + "shared_head.head", vocab, width)


def draw_dbrx(draw: Draw, c: Config) -> None:
    width, heads, groups = c["d_model"], c["n_heads"], c["attn_config"]["kv_n_heads"]
    experts, ffn = c["ffn_config"]["moe_num_experts"], c["ffn_config"]["ffn_hidden_size"]
    draw.embedding("transformer.wte", c["vocab_size"], width)
    for layer in range(c["n_layers"]):
        prefix = f"transformer.blocks.{layer}."
        attention = prefix + "norm_attn_norm."
        draw.norm(attention + "norm_1", width)
        draw.linear(attention + "attn.Wqkv", (heads + 2 * groups) * (width // heads), width, scale=1.2)
        draw.linear(attention + "attn.out_proj", width, width, scale=2.0)
        draw.norm(attention + "norm_2", width)
        draw.linear(prefix + "ffn.router.layer", experts, width)
        draw.normal(prefix + "ffn.experts.mlp.w1", (experts * ffn, width), width**-0.5)
        draw.normal(prefix + "ffn.experts.mlp.v1", (experts * ffn, width), width**-0.5)
        draw.normal(prefix + "ffn.experts.mlp.w2", (experts * ffn, width), 2.0 * ffn**-0.5)
    draw.norm("transformer.norm_f", width)
    draw.linear("lm_head", c["vocab_size"], width, scale=2.0)


def draw_gpt_oss(draw: Draw, c: Config) -> None:
    """Experts lie [in, out], all of a layer in one tensor; gate and up are interleaved."""

    def attention(draw: Draw, prefix: str, c: Config, layer: int) -> None:
        draw_attention(draw, prefix, c, qkv_bias=True, o_bias=True)
        draw.normal(prefix + "sinks", (c["num_attention_heads"],), 1.0, center=1.0)

    def mlp(draw: Draw, prefix: str, c: Config, layer: int) -> None:
        prefix, width, ffn, experts = prefix + "mlp.", c["hidden_size"], c["intermediate_size"], c["num_local_experts"]
        draw.linear(prefix + "router", experts, width, bias=True)
        draw.normal(prefix + "experts.gate_up_proj", (experts, width, 2 * ffn), 3.0 * width**-0.5)
        draw.normal(prefix + "experts.gate_up_proj_bias", (experts, 2 * ffn), 0.3)
        draw.normal(prefix + "experts.down_proj", (experts, ffn, width), 0.5 * ffn**-0.5)
        draw.normal(prefix + "experts.down_proj_bias", (experts, width), 0.3)

    blocks(attention, mlp, draw, c)


QWEN2_MOE = {
    "model_type": "qwen2_moe",
    "decoder_sparse_step": 1,
    "moe_intermediate_size": 37,
    "norm_topk_prob": False,
    "num_experts": 6,
    "num_experts_per_tok": 3,
    "shared_expert_intermediate_size": 91,
    "output_router_logits": False,
    "router_aux_loss_coef": 0.001,
    "sliding_window": 128,
    "use_sliding_window": False,
    "max_window_layers": 2,
    "tie_word_embeddings": False,
}
QWEN3_MOE = {
    "model_type": "qwen3_moe",
    "attention_bias": False,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
    "moe_intermediate_size": 41,
    "norm_topk_prob": True,
    "num_experts": 7,
    "num_experts_per_tok": 2,
    "sliding_window": None,
    "use_sliding_window": False,
    "tie_word_embeddings": False,
}
DEEPSEEK = {
    "model_type": "deepseek",
    "attention_bias": False,
    "aux_loss_alpha": 0.001,
    "first_k_dense_replace": 1,
    "moe_intermediate_size": 35,
    "moe_layer_freq": 1,
    "n_routed_experts": 7,
    "n_shared_experts": 2,
    "norm_topk_prob": False,
    "num_experts_per_tok": 3,
    "rope_scaling": None,
    "scoring_func": "softmax",
    "seq_aux": True,
    "tie_word_embeddings": False,
}
# With a short original context beta_fast has to be small to have an effect.
DEEPSEEK_YARN = {
    "type": "yarn",
    "factor": 4,
    "original_max_position_embeddings": 32,
    "beta_fast": 3,
    "beta_slow": 1,
}
DEEPSEEK_V2 = {
    **DEEPSEEK,
    "model_type": "deepseek_v2",
    "kv_lora_rank": 48,
    "q_lora_rank": None,
    "qk_nope_head_dim": 32,
    "qk_rope_head_dim": 16,
    "v_head_dim": 24,
    "n_group": 1,
    "topk_group": 1,
    "topk_method": "greedy",
    "n_routed_experts": 8,
    "routed_scaling_factor": 1.0,
}
DEEPSEEK_V3 = {
    **DEEPSEEK_V2,
    "model_type": "deepseek_v3",
    "n_group": 4,
    "topk_group": 2,
    "topk_method": "noaux_tc",
    "scoring_func": "sigmoid",
    "norm_topk_prob": True,
    "routed_scaling_factor": 2.5,
    "n_shared_experts": 1,
    "q_lora_rank": 40,
}
DBRX = {"model_type": "dbrx", "emb_pdrop": 0.0, "resid_pdrop": 0.0, "max_seq_len": 128, "tie_word_embeddings": False}
GPT_OSS = {
    "model_type": "gpt_oss",
    "attention_bias": True,
    "initial_context_length": 32,
    "num_local_experts": 5,
    "num_experts_per_tok": 2,
    "experts_per_token": 2,
    "sliding_window": 13,
    "swiglu_limit": 7.0,
    "output_router_logits": False,
    "router_aux_loss_coef": 0.9,
    "tie_word_embeddings": False,
}
GPT_OSS_YARN = {
    "rope_type": "yarn",
    "factor": 4.0,
    "original_max_position_embeddings": 32,
    "beta_fast": 3.0,
    "beta_slow": 1.0,
    "truncate": False,
}

ROWS = [
    variant(
        "mixtral",
        "MixtralForCausalLM",
        draw_mixtral,
        {
            "model_type": "mixtral",
            **base(96, 3, 61, 257, num_key_value_heads=1, num_local_experts=5, num_experts_per_tok=2),
            "sliding_window": None,
            "rope_theta": 1e6,
            "tie_word_embeddings": False,
        },
    ),
    # mistralai/Mixtral-8x7B-v0.1 was first published with a window
    variant(
        "mixtral_window",
        "MixtralForCausalLM",
        draw_mixtral,
        {
            "model_type": "mixtral",
            **base(128, 4, 48, 257, num_key_value_heads=2, num_local_experts=8, num_experts_per_tok=3),
            "sliding_window": 12,
            "rope_theta": 1e6,
        },
        "float16",
    ),
    # vLLM's own name for it where it was quantised
    variant(
        "mixtral_quant",
        "QuantMixtralForCausalLM",
        draw_mixtral,
        {
            "model_type": "mixtral",
            **base(64, 2, 40, 263, num_key_value_heads=2, num_local_experts=4, num_experts_per_tok=1),
            "rope_theta": 1e6,
        },
    ),
    variant(
        "qwen2_moe",
        "Qwen2MoeForCausalLM",
        draw_qwen2_moe,
        {**QWEN2_MOE, **base(96, 3, 80, 263, num_key_value_heads=3, rope_theta=1e6)},
        "float16",
    ),
    # Qwen2-57B-A14B normalises nothing either; this one does, has dense layers, and a shared expert of its own size
    variant(
        "qwen2_moe_sparse",
        "Qwen2MoeForCausalLM",
        draw_qwen2_moe,
        {
            **QWEN2_MOE,
            **base(112, 7, 83, 257, layers=4, num_key_value_heads=1, rope_theta=1e6),
            "decoder_sparse_step": 2,
            "mlp_only_layers": [3],
            "norm_topk_prob": True,
        },
    ),
    variant(
        "qwen3_moe",
        "Qwen3MoeForCausalLM",
        draw_qwen3_moe,
        {**QWEN3_MOE, **base(80, 2, 64, 257, num_key_value_heads=1, head_dim=128, rope_theta=1e6)},
    ),
    variant(
        "qwen3_moe_dense_first",
        "Qwen3MoeForCausalLM",
        draw_qwen3_moe,
        {
            **QWEN3_MOE,
            **base(96, 6, 71, 257, layers=3, num_key_value_heads=2, head_dim=32),
            "mlp_only_layers": [0],
            "norm_topk_prob": False,
            "num_experts_per_tok": 4,
        },
        "float16",
    ),
    variant(
        "deepseek_moe",
        "DeepseekForCausalLM",
        draw_deepseek,
        {**DEEPSEEK, **base(96, 3, 75, 257, layers=3, num_key_value_heads=3)},
    ),
    variant(
        "deepseek_moe_normalised",
        "DeepseekForCausalLM",
        draw_deepseek,
        {
            **DEEPSEEK,
            **base(128, 4, 75, 257, layers=3, num_key_value_heads=2),
            "norm_topk_prob": True,
            "n_shared_experts": 1,
            "moe_layer_freq": 2,
        },
        "float16",
    ),
    # deepseek-ai/DeepSeek-V2-Lite: no compressed queries, yarn with mscale
    variant(
        "deepseek_v2_lite",
        "DeepseekV2ForCausalLM",
        draw_latent,
        {
            **DEEPSEEK_V2,
            **base(96, 3, 75, 257, num_key_value_heads=3, rms_norm_eps=1e-6),
            "rope_scaling": {**DEEPSEEK_YARN, "mscale": 0.707, "mscale_all_dim": 0.707},
        },
    ),
    # deepseek-ai/DeepSeek-V2: groups of experts, heads of 128 + 64 and 128
    variant(
        "deepseek_v2",
        "DeepseekV2ForCausalLM",
        draw_latent,
        {
            **DEEPSEEK_V2,
            **base(96, 2, 75, 257, num_key_value_heads=2, rms_norm_eps=1e-6),
            "q_lora_rank": 56,
            "qk_nope_head_dim": 128,
            "qk_rope_head_dim": 64,
            "v_head_dim": 128,
            "topk_method": "group_limited_greedy",
            "n_group": 4,
            "topk_group": 2,
            "routed_scaling_factor": 4.0,
            "rope_scaling": {**DEEPSEEK_YARN, "mscale": 1.0, "mscale_all_dim": 0.707},
        },
        "float16",
    ),
    # deepseek-ai/DeepSeek-V3: also the layer that predicts further tokens
    variant(
        "deepseek_v3",
        "DeepseekV3ForCausalLM",
        draw_latent,
        {
            **DEEPSEEK_V3,
            **base(96, 3, 75, 257, num_key_value_heads=3, rms_norm_eps=1e-6),
            "ep_size": 1,
            "num_nextn_predict_layers": 1,
            "rope_scaling": {**DEEPSEEK_YARN, "mscale": 1.0, "mscale_all_dim": 1.0},
        },
    ),
    # moonshotai/Moonlight-16B-A3B: V3 without compressed queries and without groups
    variant(
        "moonlight",
        "DeepseekV3ForCausalLM",
        draw_latent,
        {
            **DEEPSEEK_V3,
            **base(64, 5, 75, 257, layers=3, num_key_value_heads=5, rms_norm_eps=1e-6),
            "q_lora_rank": None,
            "n_group": 1,
            "topk_group": 1,
            "n_routed_experts": 6,
            "n_shared_experts": 2,
            "routed_scaling_factor": 2.446,
            "rope_theta": 50000.0,
        },
        "float16",
    ),
    variant(
        "dbrx",
        "DbrxForCausalLM",
        draw_dbrx,
        {
            **DBRX,
            "d_model": 96,
            "n_heads": 3,
            "n_layers": 2,
            "vocab_size": 259,
            "attn_config": {"clip_qkv": 0.9, "kv_n_heads": 1, "rope_theta": 500000},
            "ffn_config": {
                "ffn_act_fn": {"name": "silu"},
                "ffn_hidden_size": 37,
                "moe_jitter_eps": 0,
                "moe_loss_weight": 0.05,
                "moe_normalize_expert_weights": 1,
                "moe_num_experts": 5,
                "moe_top_k": 3,
            },
        },
    ),
    variant(
        "dbrx_16_experts",
        "DbrxForCausalLM",
        draw_dbrx,
        {
            **DBRX,
            "d_model": 128,
            "n_heads": 1,
            "n_layers": 2,
            "vocab_size": 513,
            "attn_config": {"clip_qkv": 8, "kv_n_heads": 1, "rope_theta": 500000},
            "ffn_config": {"ffn_hidden_size": 24, "moe_num_experts": 16, "moe_top_k": 4},
        },
        "float16",
    ),
    variant(
        "gpt_oss",
        "GptOssForCausalLM",
        draw_gpt_oss,
        {
            **GPT_OSS,
            **base(80, 4, 40, 257, layers=3, num_key_value_heads=1, head_dim=64, rope_theta=150000),
            "rope_scaling": GPT_OSS_YARN,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        },
    ),
    variant(
        "gpt_oss_v5",
        "GptOssForCausalLM",
        draw_gpt_oss,
        {
            **GPT_OSS,
            **base(72, 6, 33, 257, num_key_value_heads=2, head_dim=32),
            "rope_parameters": {**GPT_OSS_YARN, "rope_theta": 150000},
            "layer_types": ["sliding_attention", "full_attention"],
            "num_experts_per_tok": 4,
        },
        "float16",
    ),
]
