"""GPT-2 and the families of its time, each with tensor names of its own."""

from __future__ import annotations

from collections.abc import Callable

from checkpoints import Config, Draw, variant


def draw_gpt2(prefix: str = "transformer.", out: float = 1.0) -> Callable[[Draw, Config], None]:
    """Also JAIS, with a second input matrix of the feed-forward and positions that may be ALiBi."""

    def run(draw: Draw, c: Config) -> None:
        width, ffn = c["n_embd"], c.get("n_inner") or 4 * c["n_embd"]
        draw.embedding(prefix + "wte", c["vocab_size"], width, 2.0 * width**-0.5)
        if c.get("position_embedding_type", "learned") == "learned":
            draw.embedding(prefix + "wpe", c["n_positions"], width, 0.3)
        for layer in range(c["n_layer"]):
            block = f"{prefix}h.{layer}."
            draw.norm(block + "ln_1", width, True)
            draw.conv1d(block + "attn.c_attn", 3 * width, width, 1.2)
            draw.conv1d(block + "attn.c_proj", width, width, 3.0 * out)
            draw.norm(block + "ln_2", width, True)
            draw.conv1d(block + "mlp.c_fc", ffn, width)
            if c["activation_function"] == "swiglu":
                draw.conv1d(block + "mlp.c_fc2", ffn, width)
            draw.conv1d(block + "mlp.c_proj", width, ffn, 3.0 * out)
        draw.norm(prefix + "ln_f", width, True)

    return run


def draw_bigcode(draw: Draw, c: Config) -> None:
    width, ffn = c["n_embd"], c.get("n_inner") or 4 * c["n_embd"]
    kv_rows = 2 * width // c["n_head"] if c["multi_query"] else 2 * width
    draw.embedding("transformer.wte", c["vocab_size"], width, 2.0 * width**-0.5)
    draw.embedding("transformer.wpe", c["n_positions"], width, 0.3)
    for layer in range(c["n_layer"]):
        block = f"transformer.h.{layer}."
        draw.norm(block + "ln_1", width, True)
        draw.linear(block + "attn.c_attn", width + kv_rows, width, True, 1.2)
        draw.linear(block + "attn.c_proj", width, width, True, 4.0)
        draw.norm(block + "ln_2", width, True)
        draw.linear(block + "mlp.c_fc", ffn, width, True)
        draw.linear(block + "mlp.c_proj", width, ffn, True, 4.0)
    draw.norm("transformer.ln_f", width, True)


def opt(prefix: str) -> Callable[[Draw, Config], None]:
    def run(draw: Draw, c: Config) -> None:
        width, narrow, ffn, bias = c["hidden_size"], c["word_embed_proj_dim"], c["ffn_dim"], c.get("enable_bias", True)
        p = prefix + "decoder."
        draw.embedding(p + "embed_tokens", c["vocab_size"], narrow, 2.0 * narrow**-0.5)
        draw.embedding(p + "embed_positions", c["max_position_embeddings"] + 2, width, 0.5)
        if narrow != width:
            draw.linear(p + "project_in", width, narrow)
            draw.linear(p + "project_out", narrow, width, scale=0.2 if c.get("_remove_final_layer_norm") else 1.0)
        for layer in range(c["num_hidden_layers"]):
            block = f"{p}layers.{layer}."
            draw.norm(block + "self_attn_layer_norm", width, True)
            draw.linear(block + "self_attn.q_proj", width, width, bias, 1.3)
            draw.linear(block + "self_attn.k_proj", width, width, bias, 1.3)
            draw.linear(block + "self_attn.v_proj", width, width, bias)
            draw.linear(block + "self_attn.out_proj", width, width, bias, 4.0)
            draw.norm(block + "final_layer_norm", width, True)
            draw.linear(block + "fc1", ffn, width, bias)
            draw.linear(block + "fc2", width, ffn, bias, 4.0)
        if c["do_layer_norm_before"] and not c.get("_remove_final_layer_norm"):
            draw.norm(p + "final_layer_norm", width, True)

    return run


def bloom(prefix: str) -> Callable[[Draw, Config], None]:
    def run(draw: Draw, c: Config) -> None:
        width = c.get("hidden_size") or c["n_embed"]
        draw.embedding(prefix + "word_embeddings", c["vocab_size"], width, 2.0 * width**-0.5)
        draw.norm(prefix + "word_embeddings_layernorm", width, True, center=0.5)
        for layer in range(c["n_layer"]):
            block = f"{prefix}h.{layer}."
            draw.norm(block + "input_layernorm", width, True)
            draw.linear(block + "self_attention.query_key_value", 3 * width, width, True, 1.2)
            draw.linear(block + "self_attention.dense", width, width, True, 4.0)
            draw.norm(block + "post_attention_layernorm", width, True)
            draw.linear(block + "mlp.dense_h_to_4h", 4 * width, width, True)
            draw.linear(block + "mlp.dense_4h_to_h", width, 4 * width, True, 5.0)
        draw.norm(prefix + "ln_f", width, True)

    return run


def draw_mpt(draw: Draw, c: Config) -> None:
    width, heads, attn, bias = c["d_model"], c["n_heads"], c["attn_config"], not c["no_bias"]
    groups = attn.get("kv_n_heads") or (1 if attn["attn_type"] == "multiquery_attention" else heads)
    scale = 2.0 if c.get("logit_scale") else 2.0 * width**-0.5
    draw.embedding("transformer.wte", c["vocab_size"], width, scale)
    if not attn["alibi"]:
        draw.embedding("transformer.wpe", c["max_seq_len"], width, 0.3)
    for layer in range(c["n_layers"]):
        block = f"transformer.blocks.{layer}."
        draw.norm(block + "norm_1", width, bias)
        draw.linear(block + "attn.Wqkv", width + 2 * groups * (width // heads), width, bias, 1.2)
        if attn["qk_ln"]:
            draw.norm(block + "attn.q_ln", width, bias)
            draw.norm(block + "attn.k_ln", groups * (width // heads), bias)
        draw.linear(block + "attn.out_proj", width, width, bias, 4.0 if scale < 1.0 else 10.0)
        draw.norm(block + "norm_2", width, bias)
        draw.linear(block + "ffn.up_proj", c["expansion_ratio"] * width, width, bias)
        draw.linear(block + "ffn.down_proj", width, c["expansion_ratio"] * width, bias, 5.0 if scale < 1.0 else 12.0)
    draw.norm("transformer.norm_f", width, bias)


def falcon(
    groups: int | None = None, norms: tuple[str, ...] = ("input_layernorm",), bias: bool = False, untied: bool = False
) -> Callable[[Draw, Config], None]:
    """`groups` key/value heads, or as many as query heads."""

    def run(draw: Draw, c: Config) -> None:
        width, heads = c["hidden_size"], c.get("num_attention_heads") or c["n_head"]
        ffn = c.get("ffn_hidden_size") or 4 * width
        draw.embedding("transformer.word_embeddings", c["vocab_size"], width, 1.0 if untied else 2.0 * width**-0.5)
        for layer in range(c.get("num_hidden_layers") or c["n_layer"]):
            block = f"transformer.h.{layer}."
            for name in norms:
                draw.norm(block + name, width, True)
            rows = width + 2 * (groups or heads) * (width // heads)
            draw.linear(block + "self_attention.query_key_value", rows, width, bias, 1.3)
            draw.linear(block + "self_attention.dense", width, width, bias, 4.0)
            draw.linear(block + "mlp.dense_h_to_4h", ffn, width, bias)
            draw.linear(block + "mlp.dense_4h_to_h", width, ffn, bias, 5.0)
        draw.norm("transformer.ln_f", width, True)
        if untied:
            draw.linear("lm_head", c["vocab_size"], width, scale=2.0)
        else:
            # Published Falcons hold the tied head a second time.
            draw.tensors["lm_head.weight"] = draw.tensors["transformer.word_embeddings.weight"].copy()

    return run


def draw_neox(draw: Draw, c: Config) -> None:
    width, ffn, bias = c["hidden_size"], c["intermediate_size"], c.get("attention_bias", True)
    draw.embedding("gpt_neox.embed_in", c["vocab_size"], width)
    for layer in range(c["num_hidden_layers"]):
        block = f"gpt_neox.layers.{layer}."
        draw.norm(block + "input_layernorm", width, True)
        draw.linear(block + "attention.query_key_value", 3 * width, width, bias, 1.3)
        draw.linear(block + "attention.dense", width, width, bias, 1.5)
        draw.norm(block + "post_attention_layernorm", width, True)
        draw.linear(block + "mlp.dense_h_to_4h", ffn, width, True)
        draw.linear(block + "mlp.dense_4h_to_h", width, ffn, True, 2.0)
    draw.norm("gpt_neox.final_layer_norm", width, True)
    draw.linear("embed_out", c["vocab_size"], width, scale=2.0)


def draw_gptj(draw: Draw, c: Config) -> None:
    width, ffn = c["n_embd"], c.get("n_inner") or 4 * c["n_embd"]
    draw.embedding("transformer.wte", c["vocab_size"], width)
    for layer in range(c["n_layer"]):
        block = f"transformer.h.{layer}."
        draw.norm(block + "ln_1", width, True)
        for name, scale in (("q_proj", 1.4), ("k_proj", 1.4), ("v_proj", 1.0), ("out_proj", 1.5)):
            draw.linear(f"{block}attn.{name}", width, width, scale=scale)
        draw.linear(block + "mlp.fc_in", ffn, width, True)
        draw.linear(block + "mlp.fc_out", width, ffn, True, 2.0)
    draw.norm("transformer.ln_f", width, True)
    draw.linear("lm_head", c["vocab_size"], width, True, 2.0)


def draw_phi(draw: Draw, c: Config) -> None:
    width, heads, ffn = c["hidden_size"], c["num_attention_heads"], c["intermediate_size"]
    dim, groups = width // heads, c.get("num_key_value_heads") or heads
    draw.embedding("model.embed_tokens", c["vocab_size"], width)
    for layer in range(c["num_hidden_layers"]):
        block = f"model.layers.{layer}."
        draw.norm(block + "input_layernorm", width, True)
        draw.linear(block + "self_attn.q_proj", width, width, True, 1.4)
        draw.linear(block + "self_attn.k_proj", groups * dim, width, True, 1.4)
        draw.linear(block + "self_attn.v_proj", groups * dim, width, True)
        draw.linear(block + "self_attn.dense", width, width, True, 1.5)
        if c.get("qk_layernorm"):
            draw.norm(block + "self_attn.q_layernorm", dim, True)
            draw.norm(block + "self_attn.k_layernorm", dim, True)
        draw.linear(block + "mlp.fc1", ffn, width, True)
        draw.linear(block + "mlp.fc2", width, ffn, True, 2.0)
    draw.norm("model.final_layernorm", width, True)
    draw.linear("lm_head", c["vocab_size"], width, True, 2.0)


def draw_chatglm(draw: Draw, c: Config) -> None:
    width, heads, dim, ffn = c["hidden_size"], c["num_attention_heads"], c["kv_channels"], c["ffn_hidden_size"]
    groups = c["multi_query_group_num"] if c["multi_query_attention"] else heads
    norm_bias, bias = not c["rmsnorm"], c["add_bias_linear"]
    draw.embedding("transformer.embedding.word_embeddings", c["padded_vocab_size"], width)
    draw.normal("transformer.rotary_pos_emb.inv_freq", (dim // 4,), 1.0)
    for layer in range(c["num_layers"]):
        block = f"transformer.encoder.layers.{layer}."
        draw.norm(block + "input_layernorm", width, norm_bias)
        qkv_bias = bias or c["add_qkv_bias"]
        draw.linear(block + "self_attention.query_key_value", (heads + 2 * groups) * dim, width, qkv_bias, 1.3)
        draw.linear(block + "self_attention.dense", width, heads * dim, bias, 1.5)
        draw.norm(block + "post_attention_layernorm", width, norm_bias)
        draw.linear(block + "mlp.dense_h_to_4h", 2 * ffn, width, bias)
        draw.linear(block + "mlp.dense_4h_to_h", width, ffn, bias, 2.0)
    if c["post_layer_norm"]:
        draw.norm("transformer.encoder.final_layernorm", width, norm_bias)
    draw.linear("transformer.output_layer", c["padded_vocab_size"], width, scale=2.0)


def gpt2(width: int, heads: int, vocab: int, **more: object) -> Config:
    return {
        "model_type": "gpt2",
        "n_embd": width,
        "n_head": heads,
        "n_layer": 2,
        "n_positions": 128,
        "vocab_size": vocab,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": 1e-5,
        **more,
    }


def mpt(width: int, heads: int, vocab: int, attn: Config, **more: object) -> Config:
    attention = {
        "alibi": True,
        "alibi_bias_max": 8,
        "attn_impl": "torch",
        "attn_pdrop": 0,
        "attn_type": "multihead_attention",
        "attn_uses_sequence_id": False,
        "clip_qkv": None,
        "prefix_lm": False,
        "qk_ln": False,
        "softmax_scale": None,
    }
    return {
        "model_type": "mpt",
        "attn_config": {**attention, **attn},
        "d_model": width,
        "emb_pdrop": 0,
        "embedding_fraction": 1.0,
        "expansion_ratio": 4,
        "learned_pos_emb": True,
        "logit_scale": None,
        "max_seq_len": 128,
        "n_heads": heads,
        "n_layers": 2,
        "no_bias": True,
        "norm_type": "low_precision_layernorm",
        "resid_pdrop": 0,
        "vocab_size": vocab,
        **more,
    }


OPT = {
    "model_type": "opt",
    "activation_function": "relu",
    "max_position_embeddings": 128,
    "num_hidden_layers": 2,
    "prefix": "</s>",
    "vocab_size": 259,
}
FALCON = {"layer_norm_epsilon": 1e-5, "alibi": False, "bias": False, "parallel_attn": True, "vocab_size": 257}
FALCON_NEW = {**FALCON, "model_type": "falcon", "num_hidden_layers": 2, "activation": "gelu"}
RW = {**FALCON, "n_layer": 2, "apply_residual_connection_post_layernorm": False}
TWO_NORMS = ("ln_attn", "ln_mlp")
NEOX = {
    "model_type": "gpt_neox",
    "layer_norm_eps": 1e-5,
    "max_position_embeddings": 128,
    "num_hidden_layers": 2,
    "tie_word_embeddings": False,
    "vocab_size": 257,
    "use_parallel_residual": True,
}
PHI = {
    "model_type": "phi",
    "hidden_act": "gelu_new",
    "layer_norm_eps": 1e-5,
    "max_position_embeddings": 128,
    "num_hidden_layers": 2,
    "rope_theta": 10000.0,
    "rope_scaling": None,
    "tie_word_embeddings": False,
    "vocab_size": 259,
    "num_key_value_heads": None,
}
GLM = {
    "model_type": "chatglm",
    "add_bias_linear": False,
    "add_qkv_bias": True,
    "apply_query_key_layer_scaling": True,
    "apply_residual_connection_post_layernorm": False,
    "layernorm_epsilon": 1e-5,
    "multi_query_attention": True,
    "multi_query_group_num": 2,
    "num_layers": 2,
    "original_rope": True,
    "padded_vocab_size": 259,
    "post_layer_norm": True,
    "rmsnorm": True,
    "seq_length": 128,
    "tie_word_embeddings": False,
}
JAIS = {"model_type": "jais", "scale_attn_weights": True}
BLOOM = {"model_type": "bloom", "layer_norm_epsilon": 1e-5, "n_layer": 2, "vocab_size": 257, "seq_length": 128}

ROWS = [
    variant("gpt2", "GPT2LMHeadModel", draw_gpt2(""), gpt2(192, 3, 503, n_ctx=128)),
    # cerebras/Cerebras-GPT: exact gelu, n_inner given
    variant(
        "gpt2_cerebras",
        "GPT2LMHeadModel",
        draw_gpt2(),
        gpt2(160, 5, 257, n_inner=231, activation_function="gelu", scale_attn_weights=True),
        "float16",
    ),
    # stanford-crfm/alias-gpt2-small-x21: scores of deeper layers are divided by the layer's number
    variant(
        "gpt2_inverse_layer",
        "GPT2LMHeadModel",
        draw_gpt2(),
        gpt2(128, 2, 257, scale_attn_by_inverse_layer_idx=True, reorder_and_upcast_attn=True),
    ),
    variant(
        "gpt_bigcode",
        "GPTBigCodeForCausalLM",
        draw_bigcode,
        gpt2(256, 2, 257, activation_function="gelu_pytorch_tanh", multi_query=True, n_inner=300)
        | {"model_type": "gpt_bigcode"},
        "float16",
    ),
    variant(
        "gpt_bigcode_multi_head",
        "GPTBigCodeForCausalLM",
        draw_bigcode,
        gpt2(96, 3, 257, activation_function="gelu_pytorch_tanh", multi_query=False) | {"model_type": "gpt_bigcode"},
    ),
    # core42/jais-13b: heads that are no power of two
    variant(
        "jais",
        "JAISLMHeadModel",
        draw_gpt2(out=2.5),
        gpt2(160, 5, 257, n_inner=131, activation_function="swiglu")
        | JAIS
        | {
            "position_embedding_type": "alibi",
            "mup_embeddings_scale": 6.0,
            "mup_output_alpha": 2.2,
            "mup_width_scale": 0.5,
            "mup_scale_qk_dot_by_d": True,
        },
    ),
    # the field names of the first published configuration
    variant(
        "jais_first_names",
        "JAISLMHeadModel",
        draw_gpt2(out=2.5),
        gpt2(96, 3, 257, n_inner=100, activation_function="swiglu")
        | JAIS
        | {"position_embedding_type": "alibi", "embeddings_scale": 5.0, "width_scale": 0.8, "scale_qk_dot_by_d": True},
        "float16",
    ),
    variant(
        "jais_learned",
        "JAISLMHeadModel",
        draw_gpt2(),
        gpt2(128, 4, 257, n_inner=96, activation_function="gelu")
        | JAIS
        | {
            "position_embedding_type": "learned",
            "mup_embeddings_scale": 1.5,
            "mup_output_alpha": 1.0,
            "mup_width_scale": 0.9,
            "mup_scale_qk_dot_by_d": False,
        },
    ),
    # facebook/opt-2.7b: heads of 80
    variant(
        "opt",
        "OPTForCausalLM",
        opt("model."),
        {**OPT, "hidden_size": 240, "num_attention_heads": 3, "ffn_dim": 203, "word_embed_proj_dim": 240}
        | {"do_layer_norm_before": True, "_remove_final_layer_norm": False},
        "float16",
    ),
    # facebook/opt-350m
    variant(
        "opt_350m",
        "OPTForCausalLM",
        opt("model."),
        {**OPT, "hidden_size": 96, "num_attention_heads": 3, "ffn_dim": 131, "word_embed_proj_dim": 40}
        | {"do_layer_norm_before": False},
    ),
    variant(
        "opt_no_bias",
        "OPTForCausalLM",
        opt(""),
        {**OPT, "hidden_size": 96, "num_attention_heads": 2, "ffn_dim": 131, "word_embed_proj_dim": 96}
        | {"do_layer_norm_before": True, "enable_bias": False, "layer_norm_elementwise_affine": True},
    ),
    variant(
        "opt_no_final_norm",
        "OPTForCausalLM",
        opt(""),
        {**OPT, "hidden_size": 128, "num_attention_heads": 1, "ffn_dim": 131, "word_embed_proj_dim": 64}
        | {"do_layer_norm_before": True, "_remove_final_layer_norm": True, "activation_function": "gelu"},
        "float16",
    ),
    variant(
        "bloom",
        "BloomForCausalLM",
        bloom(""),
        {**BLOOM, "n_embed": 160, "num_attention_heads": 5, "apply_residual_connection_post_layernorm": False}
        | {"offset_alibi": 100, "pretraining_tp": 4, "slow_but_exact": False, "skip_bias_add": True},
        "float16",
    ),
    variant(
        "bloom_residual_after_norm",
        "BloomForCausalLM",
        bloom("transformer."),
        {**BLOOM, "hidden_size": 224, "n_head": 7, "apply_residual_connection_post_layernorm": True},
    ),
    # mosaicml/mpt-7b, with heads that are no power of two
    variant("mpt", "MPTForCausalLM", draw_mpt, mpt(112, 7, 257, {})),
    # mosaicml/mpt-30b: heads of 112, clipped
    variant("mpt_30b", "MPTForCausalLM", draw_mpt, mpt(224, 2, 257, {"clip_qkv": 0.9}, expansion_ratio=2), "float16"),
    # mosaicml/mpt-7b-storywriter: slopes for long texts
    variant("mpt_storywriter", "MPTForCausalLM", draw_mpt, mpt(96, 3, 257, {"alibi_bias_max": 16, "clip_qkv": 1.5})),
    variant("mpt_learned", "MPTForCausalLM", draw_mpt, mpt(96, 3, 257, {"alibi": False}, expansion_ratio=3)),
    # replit/replit-code-v1-3b and mosaicml's 1B models: normalised q and k
    variant("mpt_qk_ln", "MPTForCausalLM", draw_mpt, mpt(128, 4, 257, {"qk_ln": True, "clip_qkv": 1.1})),
    variant(
        "mpt_biases",
        "MptForCausalLM",
        draw_mpt,
        mpt(96, 3, 257, {"attn_type": "multiquery_attention"}, no_bias=False, expansion_ratio=2),
    ),
    variant(
        "mpt_grouped",
        "MPTForCausalLM",
        draw_mpt,
        mpt(192, 6, 257, {"attn_type": "grouped_query_attention", "kv_n_heads": 2}, expansion_ratio=2)
        | {"logit_scale": "inv_sqrt_d_model"},
        "float16",
    ),
    # tiiuae/falcon-7b: 71 heads of 64, one key/value head
    variant(
        "falcon_7b",
        "FalconForCausalLM",
        falcon(groups=1),
        {**FALCON_NEW, "hidden_size": 224, "num_attention_heads": 7, "multi_query": True}
        | {"new_decoder_architecture": False, "ffn_hidden_size": 301},
    ),
    variant(
        "falcon_40b",
        "FalconForCausalLM",
        falcon(groups=2, norms=TWO_NORMS),
        {**FALCON_NEW, "hidden_size": 192, "num_attention_heads": 6, "num_kv_heads": 2, "multi_query": True}
        | {"new_decoder_architecture": True},
        "float16",
    ),
    # tiiuae/falcon-11B: the new block with one norm, not tied
    variant(
        "falcon_11b",
        "FalconForCausalLM",
        falcon(groups=2, untied=True),
        {**FALCON_NEW, "hidden_size": 128, "num_attention_heads": 4, "num_kv_heads": 2, "multi_query": True}
        | {"new_decoder_architecture": True, "num_ln_in_parallel_attn": 1, "rope_theta": 500042.0}
        | {"ffn_hidden_size": 300, "ff_factor": 4, "max_position_embeddings": 128, "tie_word_embeddings": False},
    ),
    # tiiuae/falcon-rw-1b under its own name: ALiBi, biases, one after the other
    variant(
        "falcon_rw",
        "FalconForCausalLM",
        falcon(norms=("input_layernorm", "post_attention_layernorm"), bias=True),
        {**FALCON_NEW, "hidden_size": 128, "num_attention_heads": 8, "multi_query": False}
        | {"alibi": True, "bias": True, "parallel_attn": False, "new_decoder_architecture": False},
    ),
    # the first configurations: RefinedWebModel (7B, and RW with ALiBi) and RefinedWeb (40B)
    variant(
        "refined_web_7b",
        "RWForCausalLM",
        falcon(groups=1),
        {**RW, "model_type": "RefinedWebModel", "hidden_size": 160, "n_head": 5, "multi_query": True},
        "float16",
    ),
    variant(
        "refined_web_40b",
        "RWForCausalLM",
        falcon(groups=3, norms=TWO_NORMS),
        {**RW, "model_type": "RefinedWeb", "hidden_size": 192, "n_head": 6, "n_head_kv": 3},
    ),
    variant(
        "refined_web_alibi",
        "RWForCausalLM",
        falcon(norms=("input_layernorm", "post_attention_layernorm"), bias=True),
        {**RW, "model_type": "RefinedWebModel", "hidden_size": 128, "n_head": 4, "multi_query": False}
        | {"alibi": True, "bias": True, "parallel_attn": False},
    ),
    # EleutherAI/gpt-neox-20b: heads of 96, a quarter turns, gelu_fast
    variant(
        "gpt_neox_20b",
        "GPTNeoXForCausalLM",
        draw_neox,
        {**NEOX, "hidden_size": 192, "intermediate_size": 210, "num_attention_heads": 2, "hidden_act": "gelu_fast"}
        | {"rotary_emb_base": 10000, "rotary_pct": 0.25},
        "float16",
    ),
    # EleutherAI/pythia-2.8b: heads of 80
    variant(
        "pythia",
        "GPTNeoXForCausalLM",
        draw_neox,
        {**NEOX, "hidden_size": 240, "intermediate_size": 150, "num_attention_heads": 3, "hidden_act": "gelu"}
        | {"rotary_emb_base": 10000, "rotary_pct": 0.25},
    ),
    variant(
        "gpt_neox_no_bias",
        "GPTNeoXForCausalLM",
        draw_neox,
        {**NEOX, "hidden_size": 160, "intermediate_size": 131, "num_attention_heads": 5, "hidden_act": "relu"}
        | {"rotary_pct": 0.25, "attention_bias": False, "use_parallel_residual": False},
    ),
    # EleutherAI/gpt-j-6b: heads of 256, of which 64 turn
    variant(
        "gptj_6b", "GPTJForCausalLM", draw_gptj, gpt2(256, 1, 257, n_inner=190, rotary_dim=64) | {"model_type": "gptj"}
    ),
    # rotary_dim missing: 64 turn
    variant(
        "gptj_default_rotary",
        "GPTJForCausalLM",
        draw_gptj,
        gpt2(240, 3, 257, n_inner=None) | {"model_type": "gptj", "tie_word_embeddings": False},
        "float16",
    ),
    # microsoft/phi-1_5 and phi-2
    variant(
        "phi_1_5",
        "PhiForCausalLM",
        draw_phi,
        {**PHI, "hidden_size": 192, "intermediate_size": 207, "num_attention_heads": 3, "partial_rotary_factor": 0.5},
        "float16",
    ),
    variant(
        "phi_2",
        "PhiForCausalLM",
        draw_phi,
        {**PHI, "hidden_size": 240, "intermediate_size": 155, "num_attention_heads": 3, "partial_rotary_factor": 0.4},
    ),
    variant(
        "phi_qk_layernorm",
        "PhiForCausalLM",
        draw_phi,
        {**PHI, "hidden_size": 192, "intermediate_size": 155, "num_attention_heads": 6, "partial_rotary_factor": 0.5}
        | {"qk_layernorm": True, "num_key_value_heads": 2},
    ),
    variant(
        "chatglm3",
        "ChatGLMModel",
        draw_chatglm,
        {**GLM, "hidden_size": 192, "kv_channels": 32, "num_attention_heads": 6, "ffn_hidden_size": 131},
        "float16",
    ),
    # THUDM/glm-4-9b: heads of 128, a larger base
    variant(
        "glm_4_9b",
        "ChatGLMModel",
        draw_chatglm,
        {**GLM, "hidden_size": 256, "kv_channels": 128, "num_attention_heads": 2, "ffn_hidden_size": 100}
        | {"rope_ratio": 50, "multi_query_group_num": 1},
    ),
    variant(
        "chatglm_halves",
        "ChatGLMModel",
        draw_chatglm,
        {**GLM, "hidden_size": 96, "kv_channels": 32, "num_attention_heads": 3, "ffn_hidden_size": 77}
        | {"original_rope": False, "multi_query_group_num": 1},
    ),
    variant(
        "chatglm_layer_norm",
        "ChatGLMForConditionalGeneration",
        draw_chatglm,
        {**GLM, "hidden_size": 160, "kv_channels": 32, "num_attention_heads": 5, "ffn_hidden_size": 131}
        | {"rmsnorm": False, "add_bias_linear": True, "multi_query_group_num": 1}
        | {"apply_residual_connection_post_layernorm": True},
    ),
    variant(
        "chatglm_multi_head",
        "ChatGLMModel",
        draw_chatglm,
        {**GLM, "hidden_size": 96, "kv_channels": 32, "num_attention_heads": 3, "ffn_hidden_size": 131}
        | {"multi_query_attention": False, "add_qkv_bias": False},
        "float16",
    ),
]
