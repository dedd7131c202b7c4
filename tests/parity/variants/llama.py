"""LLaMA and its relatives: the tensors that share LLaMA's names, and one row per size or quirk."""

from __future__ import annotations

from collections.abc import Callable

from checkpoints import Config, Draw, Variant, variant


def sizes(c: Config) -> tuple[int, int, int, int]:
    """Width, head dim, query heads, key/value heads."""
    heads = c["num_attention_heads"]
    return (
        c["hidden_size"],
        c.get("head_dim") or c["hidden_size"] // heads,
        heads,
        c.get("num_key_value_heads") or heads,
    )


def draw_attention(
    draw: Draw,
    prefix: str,
    c: Config,
    qkv_bias: bool = False,
    o_bias: bool = False,
    kv_heads: int | None = None,
    out: float = 1.0,
) -> None:
    """q_proj, k_proj, v_proj and o_proj; scores are a little sharper than by default."""
    width, dim, heads, groups = sizes(c)
    groups = kv_heads or groups
    draw.linear(prefix + "q_proj", heads * dim, width, qkv_bias, 1.4)
    draw.linear(prefix + "k_proj", groups * dim, width, qkv_bias, 1.4)
    draw.linear(prefix + "v_proj", groups * dim, width, qkv_bias)
    draw.linear(prefix + "o_proj", width, heads * dim, o_bias, 1.5 * out)


def draw_gated(draw: Draw, prefix: str, width: int, ffn: int, bias: bool = False, out: float = 1.0) -> None:
    draw.linear(prefix + "gate_proj", ffn, width, bias)
    draw.linear(prefix + "up_proj", ffn, width, bias)
    draw.linear(prefix + "down_proj", width, ffn, bias, 2.0 * out)


def draw_ends(
    draw: Draw,
    c: Config,
    tied: bool,
    norm_bias: bool = False,
    center: float = 1.0,
    head: float = 2.0,
    embed: float = 1.0,
) -> None:
    """Embedding, last norm, head. A tied embedding is as large as the head needs it."""
    width = c["hidden_size"]
    draw.embedding("model.embed_tokens", c["vocab_size"], width, head * width**-0.5 if tied else embed)
    draw.norm("model.norm", width, norm_bias, center)
    if not tied:
        draw.linear("lm_head", c["vocab_size"], width, scale=head)


def llama(
    qkv_bias: bool = False,
    o_bias: bool = False,
    mlp_bias: bool = False,
    tied: bool = False,
    norm_bias: bool = False,
    head_norm: bool = False,
    extra: Callable[[Draw, Config], None] | None = None,
    head: float = 2.0,
    out: float = 1.0,
) -> Callable[[Draw, Config], None]:
    """The tensors of LLaMA's layout."""

    def run(draw: Draw, c: Config) -> None:
        width, dim, _, _ = sizes(c)
        draw_ends(draw, c, tied, norm_bias, head=head)
        for layer in range(c["num_hidden_layers"]):
            prefix = f"model.layers.{layer}."
            draw.norm(prefix + "input_layernorm", width, norm_bias)
            kv_heads = (c.get("num_key_value_heads_per_layer") or {layer: None})[layer]
            draw_attention(draw, prefix + "self_attn.", c, qkv_bias, o_bias, kv_heads, out)
            if head_norm:
                draw.norm(prefix + "self_attn.q_norm", dim)
                draw.norm(prefix + "self_attn.k_norm", dim)
            draw.norm(prefix + "post_attention_layernorm", width, norm_bias)
            draw_gated(draw, prefix + "mlp.", width, c["intermediate_size"], mlp_bias, out)
        if extra is not None:
            extra(draw, c)

    return run


def inv_freq(draw: Draw, c: Config) -> None:
    """Old checkpoints hold the rotation's frequencies, which nobody reads; here they are wrong on purpose."""
    for layer in range(c["num_hidden_layers"]):
        draw.normal(f"model.layers.{layer}.self_attn.rotary_emb.inv_freq", (sizes(c)[1] // 2,), 1.0)


def packed_baichuan(norm_center: float = 1.0) -> Callable[[Draw, Config], None]:
    def run(draw: Draw, c: Config) -> None:
        width = c["hidden_size"]
        draw_ends(draw, c, tied=False, center=norm_center)
        for layer in range(c["num_hidden_layers"]):
            prefix = f"model.layers.{layer}."
            draw.norm(prefix + "input_layernorm", width)
            draw.linear(prefix + "self_attn.W_pack", 3 * width, width, scale=1.2)
            draw.linear(prefix + "self_attn.o_proj", width, width, scale=1.5)
            draw.norm(prefix + "post_attention_layernorm", width)
            draw_gated(draw, prefix + "mlp.", width, c["intermediate_size"])

    return run


def draw_qwen(draw: Draw, c: Config) -> None:
    """intermediate_size is twice the width of the feed-forward."""
    width, ffn = c["hidden_size"], c["intermediate_size"] // 2
    draw.embedding("transformer.wte", c["vocab_size"], width)
    for layer in range(c["num_hidden_layers"]):
        prefix = f"transformer.h.{layer}."
        draw.norm(prefix + "ln_1", width)
        draw.linear(prefix + "attn.c_attn", 3 * width, width, True, 1.2)
        draw.linear(prefix + "attn.c_proj", width, width, scale=1.5)
        draw.norm(prefix + "ln_2", width)
        draw.linear(prefix + "mlp.w1", ffn, width)
        draw.linear(prefix + "mlp.w2", ffn, width)
        draw.linear(prefix + "mlp.c_proj", width, ffn, scale=2.0)
    draw.norm("transformer.ln_f", width)
    draw.linear("lm_head", c["vocab_size"], width, scale=2.0)


def internlm2(bias: bool = False) -> Callable[[Draw, Config], None]:
    def run(draw: Draw, c: Config) -> None:
        width, dim, heads, groups = sizes(c)
        draw.embedding("model.tok_embeddings", c["vocab_size"], width)
        for layer in range(c["num_hidden_layers"]):
            prefix = f"model.layers.{layer}."
            draw.norm(prefix + "attention_norm", width)
            draw.linear(prefix + "attention.wqkv", (heads + 2 * groups) * dim, width, bias, 1.2)
            draw.linear(prefix + "attention.wo", width, heads * dim, bias, 1.5)
            draw.norm(prefix + "ffn_norm", width)
            draw.linear(prefix + "feed_forward.w1", c["intermediate_size"], width)
            draw.linear(prefix + "feed_forward.w3", c["intermediate_size"], width)
            draw.linear(prefix + "feed_forward.w2", width, c["intermediate_size"], scale=2.0)
        draw.norm("model.norm", width)
        draw.linear("output", c["vocab_size"], width, scale=2.0)

    return run


def phi3(tied: bool = False) -> Callable[[Draw, Config], None]:
    def run(draw: Draw, c: Config) -> None:
        width, dim, heads, groups = sizes(c)
        draw_ends(draw, c, tied)
        for layer in range(c["num_hidden_layers"]):
            prefix = f"model.layers.{layer}."
            draw.norm(prefix + "input_layernorm", width)
            draw.linear(prefix + "self_attn.qkv_proj", (heads + 2 * groups) * dim, width, scale=1.2)
            draw.linear(prefix + "self_attn.o_proj", width, heads * dim, scale=1.5)
            draw.norm(prefix + "post_attention_layernorm", width)
            draw.linear(prefix + "mlp.gate_up_proj", 2 * c["intermediate_size"], width)
            draw.linear(prefix + "mlp.down_proj", width, c["intermediate_size"], scale=2.0)

    return run


def base(
    width: int, heads: int, ffn: int, vocab: int, layers: int = 2, eps: str | None = "rms_norm_eps", **more: object
) -> Config:
    """The fields of LLaMA's configuration that most families share; `eps` is what they call the norms' epsilon."""
    return {
        "hidden_size": width,
        "intermediate_size": ffn,
        "num_attention_heads": heads,
        "num_hidden_layers": layers,
        "vocab_size": vocab,
        "hidden_act": "silu",
        "max_position_embeddings": 128,
        **({} if eps is None else {eps: 1e-5}),
        **more,
    }


LLAMA3 = {
    "rope_type": "llama3",
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 24,
}
YARN = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}


def one(name: str, draw: Callable[[Draw, Config], None], config: Config, stored: str = "float32") -> Variant:
    return variant(name, "LlamaForCausalLM", draw, {"model_type": "llama", **config}, stored)


LLAMA_ROWS = [
    # decapoda-research/llama-7b-hf: the first conversion, before there were most of today's fields
    variant(
        "llama_decapoda",
        "LLaMAForCausalLM",
        llama(extra=inv_freq),
        {
            "model_type": "llama",
            "hidden_size": 96,
            "intermediate_size": 131,
            "num_attention_heads": 3,
            "num_hidden_layers": 2,
            "vocab_size": 257,
            "hidden_act": "silu",
            "rms_norm_eps": 1e-6,
            "max_sequence_length": 128,
            "pad_token_id": -1,
        },
        "float16",
    ),
    # fields present and null, as transformers 4.4x writes them
    one(
        "llama_nulls",
        llama(),
        {
            **base(96, 3, 160, 257, pretraining_tp=1, attention_bias=False, mlp_bias=False, tie_word_embeddings=False),
            "num_key_value_heads": None,
            "head_dim": None,
            "rope_scaling": None,
        },
    ),
    one("llama_7_to_1", llama(), base(224, 7, 203, 1009, num_key_value_heads=1, rope_theta=5e6)),
    # openlm-research/open_llama_3b: heads of 100
    one("llama_head100", llama(), base(200, 2, 117, 257, num_key_value_heads=2), "float16"),
    # HuggingFaceTB/SmolLM: 3 to 1, heads of 64, tied
    one("llama_smol", llama(tied=True), base(192, 3, 129, 769, num_key_value_heads=1, tie_word_embeddings=True)),
    # meta-llama/Llama-3.2-1B: head_dim given, tied, llama3 with factor 32
    one(
        "llama32",
        llama(tied=True),
        base(
            128,
            2,
            192,
            515,
            num_key_value_heads=1,
            head_dim=64,
            rope_theta=500000.0,
            rope_scaling={**LLAMA3, "factor": 32.0},
            tie_word_embeddings=True,
        ),
    ),
    one("llama_linear", llama(), base(160, 5, 96, 257, rope_scaling={"type": "linear", "factor": 4.0})),
    one("llama_dynamic", llama(), base(96, 2, 96, 257, rope_scaling={"type": "dynamic", "factor": 2.0})),
    # NousResearch/Yarn-Llama-2-7b-64k
    one("llama_yarn", llama(), base(128, 4, 96, 257, rope_scaling={**YARN, "finetuned": True, "beta_fast": 2})),
    # transformers 5 saves one field for base and scaling
    one(
        "llama_v5",
        llama(),
        base(
            128,
            2,
            96,
            257,
            num_key_value_heads=1,
            rope_parameters={**LLAMA3, "factor": 8.0, "rope_theta": 500000.0},
            dtype="float32",
        ),
    ),
    one(
        "llama_v5_plain",
        llama(),
        base(64, 4, 96, 257, rope_parameters={"rope_type": "default", "rope_theta": 250000.0}, head_dim=32),
    ),
    one(
        "llama_biases",
        llama(qkv_bias=True, o_bias=True, mlp_bias=True),
        base(96, 6, 77, 257, num_key_value_heads=3, attention_bias=True, mlp_bias=True),
    ),
    one("llama_one_head", llama(), base(128, 1, 64, 131, layers=3)),
    variant("aquila", "AquilaModel", llama(), {"model_type": "aquila", **base(96, 3, 85, 257)}),
    variant(
        "aquila2",
        "AquilaForCausalLM",
        llama(),
        {"model_type": "aquila", **base(160, 5, 90, 515, num_key_value_heads=1, rope_theta=1e5)},
        "float16",
    ),
    # internlm/internlm-chat-7b-8k and internlm-20b
    variant(
        "internlm",
        "InternLMForCausalLM",
        llama(qkv_bias=True, o_bias=True, extra=inv_freq),
        {"model_type": "internlm", **base(160, 5, 93, 257, bias=True, rotary={"base": 10000, "type": "dynamic"})},
    ),
    variant(
        "internlm_20b",
        "InternLMForCausalLM",
        llama(),
        {"model_type": "internlm", **base(128, 1, 93, 257, bias=False, layers=3)},
    ),
    variant("xverse", "XverseForCausalLM", llama(), {"model_type": "xverse", **base(160, 5, 107, 331)}, "float16"),
    variant(
        "orion",
        "OrionForCausalLM",
        llama(norm_bias=True),
        {"model_type": "orion", **base(160, 5, 95, 259, num_key_value_heads=5)},
    ),
    variant(
        "mistral_window",
        "MistralForCausalLM",
        llama(),
        {"model_type": "mistral", **base(128, 4, 112, 259, num_key_value_heads=1, sliding_window=9)},
        "float16",
    ),
    # mistralai/Mistral-Nemo: heads narrower than hidden_size / heads, a large base
    variant(
        "mistral_nemo",
        "MistralForCausalLM",
        llama(),
        {
            "model_type": "mistral",
            **base(160, 4, 112, 1031, num_key_value_heads=2, head_dim=32, sliding_window=None, rope_theta=1e6),
        },
    ),
    # h2oai/h2o-danube: heads of 80 and 120
    variant(
        "mistral_danube",
        "MistralForCausalLM",
        llama(),
        {"model_type": "mistral", **base(240, 2, 90, 257, num_key_value_heads=1, sliding_window=17)},
    ),
    variant(
        "decilm",
        "DeciLMForCausalLM",
        llama(),
        {
            "model_type": "deci",
            **base(160, 4, 96, 257, layers=3, num_key_value_heads_per_layer=[1, 4, 2]),
        },
    ),
    variant(
        "baichuan_7b", "BaiChuanForCausalLM", packed_baichuan(), {"model_type": "baichuan", **base(224, 7, 93, 257)}
    ),
    # ALiBi with heads that are no power of two
    variant(
        "baichuan_13b",
        "BaichuanForCausalLM",
        packed_baichuan(),
        {"model_type": "baichuan", **base(160, 5, 93, 259, model_max_length=128, gradient_checkpointing=[False])},
        "float16",
    ),
    variant(
        "baichuan2",
        "BaichuanForCausalLM",
        packed_baichuan(norm_center=6.0),
        {"model_type": "baichuan", **base(24, 3, 64, 125696, model_max_length=128, z_loss_weight=0)},
        "float16",
    ),
]

QWEN1 = {
    "model_type": "qwen",
    "hidden_size": 192,
    "intermediate_size": 190,
    "kv_channels": 64,
    "layer_norm_epsilon": 1e-6,
    "max_position_embeddings": 256,
    "no_bias": True,
    "num_attention_heads": 3,
    "num_hidden_layers": 2,
    "rotary_emb_base": 10000,
    "rotary_pct": 1.0,
    "scale_attn_weights": True,
    "use_flash_attn": "auto",
    "vocab_size": 263,
}
QWEN2 = {"model_type": "qwen2", "use_sliding_window": False, "sliding_window": 128, "max_window_layers": 2}

QWEN_ROWS = [
    variant(
        "qwen",
        "QWenLMHeadModel",
        draw_qwen,
        {**QWEN1, "seq_length": 256, "use_logn_attn": True, "use_dynamic_ntk": True},
    ),
    # the longest prompt is beyond seq_length, the two others with their continuations stay below
    variant(
        "qwen_logn_ntk",
        "QWenLMHeadModel",
        draw_qwen,
        {**QWEN1, "seq_length": 32, "use_logn_attn": True, "use_dynamic_ntk": True},
    ),
    variant(
        "qwen_logn",
        "QWenLMHeadModel",
        draw_qwen,
        {**QWEN1, "seq_length": 32, "use_logn_attn": True, "use_dynamic_ntk": False},
    ),
    # Qwen/Qwen2-0.5B: 7 to 1, tied
    variant(
        "qwen2_tied",
        "Qwen2ForCausalLM",
        llama(qkv_bias=True, tied=True),
        {**QWEN2, **base(224, 7, 151, 1009, num_key_value_heads=1, rope_theta=1e6, tie_word_embeddings=True)},
    ),
    variant(
        "qwen2_sliding",
        "Qwen2ForCausalLM",
        llama(qkv_bias=True),
        {
            **QWEN2,
            **base(128, 4, 90, 257, layers=3, num_key_value_heads=2, rope_theta=1e6),
            "use_sliding_window": True,
            "sliding_window": 11,
            "max_window_layers": 1,
        },
        "float16",
    ),
    # transformers 4.52 and later name the kind of every layer
    variant(
        "qwen2_layer_types",
        "Qwen2ForCausalLM",
        llama(qkv_bias=True),
        {
            **QWEN2,
            **base(128, 4, 90, 257, layers=3, num_key_value_heads=4),
            "use_sliding_window": True,
            "sliding_window": 7,
            "max_window_layers": 3,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
        },
    ),
    # the long-context setting that Qwen2.5's model card advises
    variant(
        "qwen2_yarn",
        "Qwen2ForCausalLM",
        llama(qkv_bias=True),
        {**QWEN2, **base(128, 2, 90, 257, num_key_value_heads=1, rope_theta=1e6, rope_scaling=YARN)},
    ),
    variant(
        "qwen3",
        "Qwen3ForCausalLM",
        llama(head_norm=True, tied=True),
        {
            **QWEN2,
            "model_type": "qwen3",
            **base(96, 2, 101, 1009, num_key_value_heads=1, head_dim=128, rope_theta=1e6, tie_word_embeddings=True),
            "attention_bias": False,
            "sliding_window": None,
        },
    ),
    variant(
        "qwen3_yarn",
        "Qwen3ForCausalLM",
        llama(head_norm=True),
        {
            **QWEN2,
            "model_type": "qwen3",
            **base(96, 5, 90, 257, num_key_value_heads=1, head_dim=64, rope_theta=1e6),
            "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32},
            "attention_bias": False,
            "sliding_window": None,
        },
        "float16",
    ),
]

PHI3 = {"model_type": "phi3", "embd_pdrop": 0.0, "resid_pdrop": 0.0, "tie_word_embeddings": False}


def factors(count: int, first: float, last: float) -> list[float]:
    return [round(first + (last - first) * i / (count - 1), 4) for i in range(count)]


OTHER_ROWS = [
    # internlm/internlm2-7b with its dynamic scaling, and with biases
    variant(
        "internlm2",
        "InternLM2ForCausalLM",
        internlm2(),
        {
            "model_type": "internlm2",
            **base(192, 6, 90, 257, num_key_value_heads=2, bias=False, rope_theta=1e6, tie_word_embeddings=False),
            "rope_scaling": {"type": "dynamic", "factor": 2.0},
        },
        "float16",
    ),
    variant(
        "internlm2_bias",
        "InternLM2ForCausalLM",
        internlm2(bias=True),
        {"model_type": "internlm2", **base(128, 1, 90, 263, num_key_value_heads=1, bias=True)},
    ),
    # microsoft/Phi-3-mini-4k-instruct: heads of 96, an odd window
    variant(
        "phi3_window",
        "Phi3ForCausalLM",
        phi3(),
        {**PHI3, **base(192, 2, 95, 267, num_key_value_heads=2, sliding_window=15, rope_scaling=None)},
    ),
    # microsoft/Phi-3-mini-128k-instruct as first published: "su". The longest prompt is beyond the original context.
    variant(
        "phi3_su",
        "Phi3ForCausalLM",
        phi3(),
        {
            **PHI3,
            **base(192, 2, 95, 267, num_key_value_heads=2, sliding_window=None),
            "original_max_position_embeddings": 32,
            "rope_scaling": {"type": "su", "short_factor": factors(48, 1.0, 1.9), "long_factor": factors(48, 1.1, 9.0)},
        },
        "float16",
    ),
    # microsoft/Phi-4-mini-instruct: three quarters of each head turn, longrope, tied
    variant(
        "phi4_mini",
        "Phi3ForCausalLM",
        phi3(tied=True),
        {
            **PHI3,
            **base(192, 3, 95, 1009, num_key_value_heads=1, sliding_window=None),
            "tie_word_embeddings": True,
            "partial_rotary_factor": 0.75,
            "original_max_position_embeddings": 32,
            "attention_bias": False,
            "lm_head_bias": False,
            "rope_scaling": {
                "type": "longrope",
                "short_factor": factors(24, 1.0, 1.5),
                "long_factor": factors(24, 1.0, 12.0),
            },
        },
    ),
    # microsoft/phi-4: grouped, a large base
    variant(
        "phi4",
        "Phi3ForCausalLM",
        phi3(),
        {**PHI3, **base(160, 5, 95, 267, num_key_value_heads=1, sliding_window=None, rope_theta=250000)},
    ),
]

ROWS = [*LLAMA_ROWS, *QWEN_ROWS, *OTHER_ROWS]
