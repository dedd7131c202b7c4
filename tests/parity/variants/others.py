"""Families beside LLaMA that keep its tensor names but not its block: Gemma, Cohere, StableLM, OLMo, GLM-4 ..."""

from __future__ import annotations

from collections.abc import Callable

from checkpoints import Config, Draw, variant

from .llama import base, draw_attention, draw_ends, draw_gated, llama, sizes


def draw_gemma(draw: Draw, c: Config) -> None:
    """Weights of norms lie around zero. The embedding is tied, and multiplied by sqrt(width) where it enters."""
    width, dim, _, _ = sizes(c)
    sandwich, head_norm = c["model_type"] != "gemma", c["model_type"] == "gemma3_text"
    draw_ends(draw, c, tied=True, center=0.0, head=1.5)
    for layer in range(c["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        names = ["input_layernorm", "post_attention_layernorm"]
        if sandwich:
            names += ["pre_feedforward_layernorm", "post_feedforward_layernorm"]
        for name in names:
            # After attention and feed-forward a larger norm, so that they count beside the embedding.
            behind = sandwich and name.startswith("post_")
            draw.norm(prefix + name, width, center=3.0 if behind else 0.0)
        draw_attention(draw, prefix + "self_attn.", c, out=6.0)
        if head_norm:
            draw.norm(prefix + "self_attn.q_norm", dim, center=0.3)
            draw.norm(prefix + "self_attn.k_norm", dim, center=0.3)
        draw_gated(draw, prefix + "mlp.", width, c["intermediate_size"], out=5.0)


def cohere(out: float = 1.0, head: float = 2.0) -> Callable[[Draw, Config], None]:
    def run(draw: Draw, c: Config) -> None:
        width, dim, heads, groups = sizes(c)
        draw_ends(draw, c, tied=True, head=head)
        for layer in range(c["num_hidden_layers"]):
            prefix = f"model.layers.{layer}."
            draw.norm(prefix + "input_layernorm", width)
            draw_attention(draw, prefix + "self_attn.", c, out=out)
            if c.get("use_qk_norm"):
                draw.norm(prefix + "self_attn.q_norm", (heads, dim))
                draw.norm(prefix + "self_attn.k_norm", (groups, dim))
            draw_gated(draw, prefix + "mlp.", width, c["intermediate_size"], out=out)

    return run


def draw_stablelm(draw: Draw, c: Config) -> None:
    width, dim, heads, groups = sizes(c)
    draw_ends(draw, c, tied=bool(c.get("tie_word_embeddings")), norm_bias=True)
    for layer in range(c["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        draw.norm(prefix + "input_layernorm", width, True)
        draw_attention(draw, prefix + "self_attn.", c, qkv_bias=c.get("use_qkv_bias", False))
        if c.get("qk_layernorm"):
            for name, count in (("q", heads), ("k", groups)):
                for head in range(count):
                    draw.norm(f"{prefix}self_attn.{name}_layernorm.norms.{head}", dim)
        if not c.get("use_parallel_residual"):
            draw.norm(prefix + "post_attention_layernorm", width, True)
        draw_gated(draw, prefix + "mlp.", width, c["intermediate_size"])


def draw_starcoder2(draw: Draw, c: Config) -> None:
    width, ffn, bias = c["hidden_size"], c["intermediate_size"], c["use_bias"]
    draw_ends(draw, c, tied=c.get("tie_word_embeddings", True), norm_bias=True)
    for layer in range(c["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        draw.norm(prefix + "input_layernorm", width, True)
        draw_attention(draw, prefix + "self_attn.", c, bias, bias)
        draw.norm(prefix + "post_attention_layernorm", width, True)
        draw.linear(prefix + "mlp.c_fc", ffn, width, bias)
        draw.linear(prefix + "mlp.c_proj", width, ffn, bias, 1.5)


def draw_glm4(draw: Draw, c: Config) -> None:
    width = c["hidden_size"]
    draw_ends(draw, c, tied=False)
    for layer in range(c["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        for name in ("input_layernorm", "post_self_attn_layernorm", "post_attention_layernorm", "post_mlp_layernorm"):
            draw.norm(prefix + name, width)
        draw_attention(draw, prefix + "self_attn.", c, qkv_bias=c["attention_bias"])
        draw.linear(prefix + "mlp.gate_up_proj", 2 * c["intermediate_size"], width)
        draw.linear(prefix + "mlp.down_proj", width, c["intermediate_size"])


def draw_olmo_original(draw: Draw, c: Config) -> None:
    """The embedding has rows for no token; their logits would be the largest of all."""
    width, heads, prefix = c["d_model"], c["n_heads"], "model.transformer."
    groups = c.get("n_kv_heads") or (1 if c.get("multi_query_attention") else heads)
    ffn = c.get("mlp_hidden_size") or c["mlp_ratio"] * width
    rows, tied = c.get("embedding_size") or c["vocab_size"], c["weight_tying"]
    draw.embedding(prefix + "wte", rows, width, 2.0 * width**-0.5 if tied else 1.0)
    if not tied:
        draw.linear(prefix + "ff_out", rows, width, scale=2.0)
    draw.tensors[prefix + ("wte" if tied else "ff_out") + ".weight"][c["vocab_size"] :] *= 3.0
    for layer in range(c["n_layers"]):
        block = f"{prefix}blocks.{layer}."
        draw.linear(block + "att_proj", (heads + 2 * groups) * (width // heads), width, scale=1.2)
        draw.linear(block + "attn_out", width, width, scale=1.5)
        draw.linear(block + "ff_proj", ffn, width)
        draw.linear(block + "ff_out", width, ffn // 2, scale=2.0)


def draw_olmo(draw: Draw, c: Config) -> None:
    """Norms have no weights."""
    tied = c.get("tie_word_embeddings", False)
    draw_ends(draw, c, tied)
    del draw.tensors["model.norm.weight"]
    for layer in range(c["num_hidden_layers"]):
        draw_attention(draw, f"model.layers.{layer}.self_attn.", c)
        draw_gated(draw, f"model.layers.{layer}.mlp.", c["hidden_size"], c["intermediate_size"])


def draw_olmo2(draw: Draw, c: Config) -> None:
    width, dim, heads, groups = sizes(c)
    draw_ends(draw, c, tied=False)
    for layer in range(c["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        draw_attention(draw, prefix + "self_attn.", c)
        draw.norm(prefix + "self_attn.q_norm", heads * dim)
        draw.norm(prefix + "self_attn.k_norm", groups * dim)
        draw.norm(prefix + "post_attention_layernorm", width)
        draw_gated(draw, prefix + "mlp.", width, c["intermediate_size"])
        draw.norm(prefix + "post_feedforward_layernorm", width)


def draw_llava(draw: Draw, c: Config) -> None:
    """A LLaMA and a little of the vision tower, which text does not need."""
    text = Draw(int(draw._random.randint(1 << 30)))
    llama()(text, c["text_config"])
    draw.tensors |= {"language_model." + name: tensor for name, tensor in text.tensors.items()}
    seen = c["vision_config"]["hidden_size"]
    draw.normal("vision_tower.vision_model.embeddings.class_embedding", (seen,), 1.0)
    draw.normal("vision_tower.vision_model.embeddings.patch_embedding.weight", (seen, 3, 14, 14), 0.1)
    draw.linear("multi_modal_projector.linear_1", c["text_config"]["hidden_size"], seen, True)
    draw.linear(
        "multi_modal_projector.linear_2", c["text_config"]["hidden_size"], c["text_config"]["hidden_size"], True
    )


GEMMA = {"rms_norm_eps": 1e-6, "attention_bias": False, "hidden_act": "gelu_pytorch_tanh"}
GEMMA2 = {**GEMMA, "hidden_activation": "gelu_pytorch_tanh", "model_type": "gemma2", "cache_implementation": "hybrid"}
GEMMA3 = {**GEMMA2, "model_type": "gemma3_text", "attn_logit_softcapping": None, "final_logit_softcapping": None}
del GEMMA3["hidden_act"]

COHERE = {"model_type": "cohere", "attention_bias": False, "model_max_length": 128}
STABLELM = {"model_type": "stablelm", "tie_word_embeddings": False}
EPOCH = {"model_type": "stablelm_epoch", "rotary_scaling_factor": 1.0, "tie_word_embeddings": False}
STARCODER2 = {"model_type": "starcoder2", "mlp_type": "default", "norm_type": "layer_norm"}
STARCODER2_ACT = {"hidden_act": "gelu_pytorch_tanh", "embedding_dropout": 0.0, "residual_dropout": 0.0}
OLMO = {
    "model_type": "olmo",
    "activation_type": "swiglu",
    "alibi": False,
    "attention_layer_norm": False,
    "bias_for_layer_norm": False,
    "block_type": "sequential",
    "clip_qkv": None,
    "include_bias": False,
    "layer_norm_type": "default",
    "layer_norm_with_affine": False,
    "max_sequence_length": 128,
    "rope": True,
    "rope_full_precision": True,
    "scale_logits": False,
    "n_layers": 2,
}

ROWS = [
    # google/gemma-2b: one key/value head of 256
    variant(
        "gemma_2b",
        "GemmaForCausalLM",
        draw_gemma,
        {
            "model_type": "gemma",
            **base(96, 2, 173, 261, num_key_value_heads=1, head_dim=256, rope_theta=10000.0),
            **GEMMA,
        },
    ),
    # google/gemma-7b as first published: hidden_act says gelu, the model computes its tanh form
    variant(
        "gemma_7b",
        "GemmaForCausalLM",
        draw_gemma,
        {
            "model_type": "gemma",
            **base(80, 3, 99, 257, num_key_value_heads=3, head_dim=64),
            **GEMMA,
            "hidden_act": "gelu",
            "hidden_activation": None,
        },
        "float16",
    ),
    # google/gemma-2-27b: query_pre_attn_scalar is hidden_size / heads, not the head dim
    variant(
        "gemma2",
        "Gemma2ForCausalLM",
        draw_gemma,
        {
            **base(108, 3, 95, 257, layers=3, num_key_value_heads=1, head_dim=64),
            **GEMMA2,
            "query_pre_attn_scalar": 36,
            "sliding_window": 14,
            "attn_logit_softcapping": 5.0,
            "final_logit_softcapping": 8.0,
        },
        "float16",
    ),
    variant(
        "gemma2_softcaps_as_published",
        "Gemma2ForCausalLM",
        draw_gemma,
        {
            **base(96, 2, 95, 257, num_key_value_heads=2, head_dim=128),
            **GEMMA2,
            "query_pre_attn_scalar": 128,
            "sliding_window": 21,
            "sliding_window_size": 21,
            "attn_logit_softcapping": 50.0,
            "final_logit_softcapping": 30.0,
        },
    ),
    # google/gemma-3-4b and larger: the base of the layers without a window is scaled
    variant(
        "gemma3_linear",
        "Gemma3ForCausalLM",
        draw_gemma,
        {
            **base(96, 3, 95, 257, layers=3, num_key_value_heads=1, head_dim=64),
            **GEMMA3,
            "query_pre_attn_scalar": 64,
            "sliding_window": 10,
            "sliding_window_pattern": 3,
            "rope_theta": 1000000,
            "rope_local_base_freq": 10000,
            "rope_scaling": {"rope_type": "linear", "factor": 8.0},
        },
    ),
    # transformers 4.5x with layer_types; google/gemma-3-270m: heads of 256
    variant(
        "gemma3_layer_types",
        "Gemma3ForCausalLM",
        draw_gemma,
        {
            **base(80, 2, 95, 257, layers=3, num_key_value_heads=1, head_dim=256),
            **GEMMA3,
            "_sliding_window_pattern": 6,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
            "query_pre_attn_scalar": 256,
            "sliding_window": 12,
            "rope_theta": 1000000.0,
            "rope_local_base_freq": 10000.0,
            "rope_scaling": None,
            "use_bidirectional_attention": False,
        },
        "float16",
    ),
    # transformers 5: base and scaling for each kind of layer
    variant(
        "gemma3_v5",
        "Gemma3ForCausalLM",
        draw_gemma,
        {
            **base(96, 3, 95, 257, layers=3, num_key_value_heads=1, head_dim=64),
            **GEMMA3,
            "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
            "query_pre_attn_scalar": 48,
            "sliding_window": 10,
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 500000.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 20000.0},
            },
        },
    ),
    variant(
        "cohere_grouped",
        "CohereForCausalLM",
        cohere(out=4.0, head=8.0),
        {
            **COHERE,
            **base(
                192, 6, 95, 263, eps="layer_norm_eps", num_key_value_heads=2, logit_scale=0.25, rope_theta=8000000.0
            ),
        },
        "float16",
    ),
    # CohereForAI/c4ai-command-r-v01: heads of 128, and its logit_scale
    variant(
        "cohere_command_r",
        "CohereForCausalLM",
        cohere(out=14.0, head=32.0),
        {
            **COHERE,
            **base(
                256, 2, 95, 263, eps="layer_norm_eps", num_key_value_heads=2, logit_scale=0.0625, rope_theta=8000000.0
            ),
        },
    ),
    variant(
        "cohere_command_r_plus",
        "CohereForCausalLM",
        cohere(head=2.4),
        {
            **COHERE,
            **base(
                160, 5, 95, 263, eps="layer_norm_eps", num_key_value_heads=1, logit_scale=0.8333333, use_qk_norm=True
            ),
            "rope_theta": 75000000.0,
        },
    ),
    # CohereForAI/c4ai-command-r7b-12-2024, and by layer_types as newer folders have it
    variant(
        "cohere2",
        "Cohere2ForCausalLM",
        cohere(out=4.0, head=8.0),
        {
            **COHERE,
            **base(96, 4, 95, 263, eps="layer_norm_eps", num_key_value_heads=2, logit_scale=0.25, rope_theta=50000),
            "model_type": "cohere2",
            "num_hidden_layers": 4,
            "sliding_window": 9,
            "sliding_window_pattern": 4,
        },
    ),
    variant(
        "cohere2_layer_types",
        "Cohere2ForCausalLM",
        cohere(out=4.0, head=8.0),
        {
            **COHERE,
            **base(96, 4, 95, 263, eps="layer_norm_eps", num_key_value_heads=2, logit_scale=0.25, rope_theta=50000),
            "model_type": "cohere2",
            "num_hidden_layers": 3,
            "sliding_window": 12,
            "layer_types": ["full_attention", "sliding_attention", "full_attention"],
        },
        "float16",
    ),
    # stabilityai/stablelm-3b-4e1t: heads of 80, a quarter turns
    variant(
        "stablelm_3b",
        "StableLMEpochForCausalLM",
        draw_stablelm,
        {
            **EPOCH,
            **base(
                240, 3, 85, 257, eps="norm_eps", num_key_value_heads=3, rope_pct=0.25, rope_theta=10000, num_heads=3
            ),
        },
    ),
    # stabilityai/stablelm-2-1_6b under its first name
    variant(
        "stablelm2_epoch",
        "StableLMEpochForCausalLM",
        draw_stablelm,
        {**EPOCH, **base(192, 3, 85, 257, eps="norm_eps", num_key_value_heads=3, rope_pct=0.25, use_qkv_bias=True)},
        "float16",
    ),
    variant(
        "stablelm2_1_6b",
        "StableLmForCausalLM",
        draw_stablelm,
        {
            **STABLELM,
            **base(
                192,
                3,
                85,
                257,
                eps="layer_norm_eps",
                num_key_value_heads=3,
                partial_rotary_factor=0.25,
                use_qkv_bias=True,
            ),
            "use_parallel_residual": False,
            "qk_layernorm": False,
        },
        "float16",
    ),
    # stabilityai/stablelm-2-12b: norms for each head, grouped, in parallel
    variant(
        "stablelm2_12b",
        "StableLmForCausalLM",
        draw_stablelm,
        {
            **STABLELM,
            **base(
                240,
                6,
                85,
                257,
                eps="layer_norm_eps",
                num_key_value_heads=2,
                partial_rotary_factor=0.25,
                use_qkv_bias=False,
            ),
            "use_parallel_residual": True,
            "qk_layernorm": True,
        },
    ),
    # partial_rotary_factor missing: a quarter
    variant(
        "stablelm_defaults",
        "StableLmForCausalLM",
        draw_stablelm,
        {"model_type": "stablelm", **base(128, 2, 85, 257, eps=None, num_key_value_heads=2)},
    ),
    # bigcode/starcoder2-3b: 12 to 1, heads of 128
    variant(
        "starcoder2",
        "Starcoder2ForCausalLM",
        draw_starcoder2,
        {
            **STARCODER2,
            **base(
                224,
                7,
                150,
                1009,
                eps="norm_epsilon",
                num_key_value_heads=1,
                sliding_window=18,
                use_bias=True,
                rope_theta=999999.4420358813,
            ),
            **STARCODER2_ACT,
        },
        "float16",
    ),
    variant(
        "starcoder2_no_bias",
        "Starcoder2ForCausalLM",
        draw_starcoder2,
        {
            **STARCODER2,
            **base(
                96,
                3,
                111,
                257,
                eps="norm_epsilon",
                num_key_value_heads=3,
                sliding_window=None,
                use_bias=False,
                tie_word_embeddings=False,
            ),
            **STARCODER2_ACT,
        },
    ),
    # THUDM/GLM-4-9B-0414 has biases, GLM-4-32B-0414 has none
    variant(
        "glm4_9b",
        "Glm4ForCausalLM",
        draw_glm4,
        {
            "model_type": "glm4",
            **base(96, 3, 95, 257, num_key_value_heads=1, head_dim=64, attention_bias=True, partial_rotary_factor=0.5),
            "tie_word_embeddings": False,
        },
    ),
    variant(
        "glm4_32b",
        "Glm4ForCausalLM",
        draw_glm4,
        {
            "model_type": "glm4",
            **base(
                112, 2, 95, 257, num_key_value_heads=2, head_dim=128, attention_bias=False, partial_rotary_factor=0.5
            ),
            "tie_word_embeddings": False,
        },
        "float16",
    ),
    # ibm-granite/granite-3.1-8b: the multipliers as published, not tied; and tied as the 2B
    variant(
        "granite_untied",
        "GraniteForCausalLM",
        llama(head=20.0, out=3.0),
        {
            "model_type": "granite",
            **base(192, 6, 95, 257, num_key_value_heads=2, attention_bias=False, mlp_bias=False),
            "attention_multiplier": 0.0078125,
            "embedding_multiplier": 12.0,
            "logits_scaling": 16.0,
            "residual_multiplier": 0.22,
            "tie_word_embeddings": False,
        },
        "float16",
    ),
    variant(
        "granite_tied",
        "GraniteForCausalLM",
        llama(head=4.0, out=60.0, tied=True),
        {
            "model_type": "granite",
            **base(128, 2, 95, 257, num_key_value_heads=1, rope_theta=10000000.0),
            "attention_multiplier": 0.015625,
            "embedding_multiplier": 12.0,
            "logits_scaling": 2.0,
            "residual_multiplier": 0.22,
            "tie_word_embeddings": True,
        },
    ),
    # allenai/OLMo-1B: tied, more rows than tokens, the width of the feed-forward by ratio
    variant(
        "olmo_1b",
        "OLMoForCausalLM",
        draw_olmo_original,
        {**OLMO, "d_model": 96, "n_heads": 3, "mlp_ratio": 2, "mlp_hidden_size": None, "vocab_size": 257}
        | {"embedding_size": 320, "weight_tying": True, "multi_query_attention": False},
    ),
    variant(
        "olmo_7b",
        "OLMoForCausalLM",
        draw_olmo_original,
        {**OLMO, "d_model": 128, "n_heads": 1, "mlp_ratio": 4, "mlp_hidden_size": 150, "vocab_size": 259}
        | {"embedding_size": 384, "weight_tying": False, "clip_qkv": 0.8},
        "float16",
    ),
    variant(
        "olmo_multi_query",
        "OLMoForCausalLM",
        draw_olmo_original,
        {**OLMO, "d_model": 160, "n_heads": 5, "mlp_ratio": 2, "mlp_hidden_size": 170, "vocab_size": 257}
        | {"embedding_size": 257, "weight_tying": False, "multi_query_attention": True},
    ),
    variant(
        "olmo_grouped",
        "OLMoForCausalLM",
        draw_olmo_original,
        {
            **OLMO,
            "d_model": 96,
            "n_heads": 6,
            "n_kv_heads": 2,
            "mlp_ratio": 2,
            "mlp_hidden_size": 190,
            "vocab_size": 257,
        }
        | {"embedding_size": 257, "weight_tying": False, "multi_query_attention": None},
    ),
    variant(
        "olmo_hf_tied",
        "OlmoForCausalLM",
        draw_olmo,
        {
            "model_type": "olmo",
            **base(160, 5, 99, 257, eps=None, clip_qkv=None, tie_word_embeddings=True, attention_bias=False),
        },
    ),
    variant(
        "olmo_hf_clip",
        "OlmoForCausalLM",
        draw_olmo,
        {
            "model_type": "olmo",
            **base(96, 6, 99, 257, eps=None, num_key_value_heads=3, clip_qkv=0.8, attention_bias=False),
        },
        "float16",
    ),
    # allenai/OLMo-2-0325-32B: grouped
    variant(
        "olmo2_grouped",
        "Olmo2ForCausalLM",
        draw_olmo2,
        {
            "model_type": "olmo2",
            **base(160, 5, 99, 257, num_key_value_heads=1, rope_theta=500000, attention_bias=False),
            "tie_word_embeddings": False,
        },
    ),
    variant(
        "olmo2_7b",
        "Olmo2ForCausalLM",
        draw_olmo2,
        {"model_type": "olmo2", **base(128, 1, 99, 257, layers=3, num_key_value_heads=1, rope_theta=500000)},
        "float16",
    ),
    # llava-hf/llava-1.5-7b-hf, text only
    variant(
        "llava",
        "LlavaForConditionalGeneration",
        draw_llava,
        {
            "model_type": "llava",
            "ignore_index": -100,
            "image_token_index": 256,
            "projector_hidden_act": "gelu",
            "vision_feature_layer": -2,
            "vision_feature_select_strategy": "default",
            "text_config": {
                "architectures": ["LlamaForCausalLM"],
                "model_type": "llama",
                **base(96, 3, 131, 257, num_key_value_heads=3),
            },
            "vision_config": {
                "hidden_size": 48,
                "image_size": 28,
                "intermediate_size": 64,
                "model_type": "clip_vision_model",
                "num_attention_heads": 3,
                "num_hidden_layers": 2,
                "patch_size": 14,
                "projection_dim": 48,
                "vocab_size": 32000,
            },
        },
    ),
]
