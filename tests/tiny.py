"""Makes tiny checkpoints with random weights in Hugging Face layout, so that tests need no download.

Weights are drawn so that logits have a standard deviation of about 2: greedy texts vary, and sampling has choices.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

SPECIAL_TOKENS = ["<s>", "</s>", "<unk>"]
BOS, EOS = 0, 1
MERGES = [("t", "h"), ("th", "e"), ("i", "n"), ("a", "n"), ("Ġ", "the"), ("e", "r"), ("Ġ", "a"), ("o", "n"), ("Ġ", "w")]

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}[{{ message['role'] }}] {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}"
)


def byte_symbols() -> list[str]:
    """The 256 printable stand-ins for bytes that byte-level BPE (GPT-2) uses, in order of the bytes."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]


def write_tokenizer(folder: Path, chat_template: str | None = CHAT_TEMPLATE) -> int:
    """Write tokenizer.json (byte-level BPE that puts <s> in front) and its config; return the vocabulary's size."""
    tokens = [*SPECIAL_TOKENS, *byte_symbols(), *(left + right for left, right in MERGES)]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": index,
                "content": token,
                "special": True,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
            }
            for index, token in enumerate(SPECIAL_TOKENS)
        ],
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [
                {"SpecialToken": {"id": "<s>", "type_id": 0}},
                {"Sequence": {"id": "A", "type_id": 0}},
                {"Sequence": {"id": "B", "type_id": 1}},
            ],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [BOS], "tokens": ["<s>"]}},
        },
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {token: index for index, token in enumerate(tokens)},
            "merges": [f"{left} {right}" for left, right in MERGES],
        },
    }
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "model_max_length": 256,
        "clean_up_tokenization_spaces": False,
    }
    if chat_template is not None:
        config["chat_template"] = chat_template
    write_json(folder / "tokenizer.json", tokenizer)
    write_json(folder / "tokenizer_config.json", config)
    return len(tokens)


def write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=1), encoding="utf-8")


class Weights:
    """Draws named tensors."""

    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng(seed)
        self.tensors: dict[str, np.ndarray] = {}

    def matrix(self, name: str, rows: int, columns: int, scale: float | None = None) -> None:
        """A matrix of which `columns` is the inner dimension, unless a scale is given."""
        scale = columns**-0.5 if scale is None else scale
        self.tensors[name] = self._random.normal(0.0, scale, (rows, columns)).astype(np.float32)

    def around(self, name: str, center: float, size: int) -> None:
        """A vector of values near one."""
        self.tensors[name] = (center + self._random.normal(0.0, 0.1, size)).astype(np.float32)


def _llama_tensors(config: dict[str, Any], seed: int, qkv_bias: bool) -> dict[str, np.ndarray]:
    width, head_dim = config["hidden_size"], config["hidden_size"] // config["num_attention_heads"]
    kv_width = head_dim * config["num_key_value_heads"]
    weights = Weights(seed)
    weights.matrix("model.embed_tokens.weight", config["vocab_size"], width, 1.0)
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        weights.around(prefix + "input_layernorm.weight", 1.0, width)
        for name, rows in (("q", width), ("k", kv_width), ("v", kv_width)):
            weights.matrix(f"{prefix}self_attn.{name}_proj.weight", rows, width)
            if qkv_bias:
                weights.around(f"{prefix}self_attn.{name}_proj.bias", 0.0, rows)
        weights.matrix(prefix + "self_attn.o_proj.weight", width, width)
        weights.around(prefix + "post_attention_layernorm.weight", 1.0, width)
        weights.matrix(prefix + "mlp.gate_proj.weight", config["intermediate_size"], width)
        weights.matrix(prefix + "mlp.up_proj.weight", config["intermediate_size"], width)
        weights.matrix(prefix + "mlp.down_proj.weight", width, config["intermediate_size"])
    weights.around("model.norm.weight", 1.0, width)
    weights.matrix("lm_head.weight", config["vocab_size"], width, 2.0 * width**-0.5)
    return weights.tensors


def _gpt2_tensors(config: dict[str, Any], seed: int) -> dict[str, np.ndarray]:
    """GPT-2 stores its matrices transposed: [in, out]."""
    width = config["n_embd"]
    weights = Weights(seed)
    weights.matrix("wte.weight", config["vocab_size"], width, 2.0 * width**-0.5)
    weights.matrix("wpe.weight", config["n_positions"], width, 0.1)
    for layer in range(config["n_layer"]):
        prefix = f"h.{layer}."
        for norm in ("ln_1", "ln_2"):
            weights.around(f"{prefix}{norm}.weight", 1.0, width)
            weights.around(f"{prefix}{norm}.bias", 0.0, width)
        for name, inner, outer in (
            ("attn.c_attn", width, 3 * width),
            ("attn.c_proj", width, width),
            ("mlp.c_fc", width, 4 * width),
            ("mlp.c_proj", 4 * width, width),
        ):
            weights.matrix(f"{prefix}{name}.weight", inner, outer, inner**-0.5)
            weights.around(f"{prefix}{name}.bias", 0.0, outer)
    weights.around("ln_f.weight", 1.0, width)
    weights.around("ln_f.bias", 0.0, width)
    return weights.tensors


def _llama_config(architecture: str, vocab_size: int, **changes: Any) -> dict[str, Any]:
    return {
        "architectures": [architecture],
        "model_type": {"LlamaForCausalLM": "llama", "MistralForCausalLM": "mistral", "Qwen2ForCausalLM": "qwen2"}[
            architecture
        ],
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": vocab_size,
        "max_position_embeddings": 256,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "bos_token_id": BOS,
        "eos_token_id": EOS,
        "torch_dtype": "float32",
        **changes,
    }


def make(
    folder: Path,
    architecture: str = "LlamaForCausalLM",
    seed: int = 0,
    tokenizer: bool = True,
    chat_template: str | None = CHAT_TEMPLATE,
    generation_config: dict[str, Any] | None = None,
    **changes: Any,
) -> Path:
    """Write one checkpoint of a few thousand weights and return its folder.

    Args:
        architecture: LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM or GPT2LMHeadModel.
        changes: fields of config.json.
    """
    folder.mkdir(parents=True, exist_ok=True)
    vocab_size = len(SPECIAL_TOKENS) + 256 + len(MERGES)
    if tokenizer:
        write_tokenizer(folder, chat_template)
    if architecture == "GPT2LMHeadModel":
        config = {
            "architectures": [architecture],
            "model_type": "gpt2",
            "n_embd": 32,
            "n_layer": 2,
            "n_head": 4,
            "n_positions": 256,
            "vocab_size": vocab_size,
            "layer_norm_epsilon": 1e-5,
            "activation_function": "gelu_new",
            "bos_token_id": BOS,
            "eos_token_id": EOS,
            "torch_dtype": "float32",
            **changes,
        }
        tensors = _gpt2_tensors(config, seed)
    else:
        config = _llama_config(architecture, vocab_size, **changes)
        tensors = _llama_tensors(config, seed, qkv_bias=architecture == "Qwen2ForCausalLM")
    write_json(folder / "config.json", config)
    write_json(folder / "generation_config.json", generation_config or {"bos_token_id": BOS, "eos_token_id": EOS})
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder
