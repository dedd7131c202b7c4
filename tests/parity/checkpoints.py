"""Makes tiny checkpoints of every family, with the sizes and quirks that published configurations have.

    for variant in rows():
        write(variant, folder / variant.name)

or `python checkpoints.py FOLDER [NAME ...]`, to look at one by hand.

Weights and prompts are drawn from numpy's RandomState, whose streams never change, by the seed in seeds.json. The seed
is chosen so that greedy tokens are a fair test: along the continuation of each prompt the best logit leads the second
by more than MARGIN. After adding or changing a variant run `python find_seeds.py`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

Array = np.ndarray
Config = dict[str, Any]

SEEDS = Path(__file__).with_name("seeds.json")
PROMPT_LENGTHS = (5, 19, 40)
NUM_GENERATED = 12
MARGIN = 0.02


# Published epsilons are too small to show in the logits; these variants have one that shows where it is read from.
LARGE_EPSILON = 0.02
EPSILON_FIELDS = (
    "rms_norm_eps",
    "layer_norm_eps",
    "layer_norm_epsilon",
    "layernorm_epsilon",
    "norm_eps",
    "norm_epsilon",
)
WITH_LARGE_EPSILON = """
    llama_v5_plain aquila2 internlm_20b xverse orion mistral_nemo decilm baichuan_7b baichuan_13b qwen_logn qwen2_yarn
    qwen3_yarn internlm2_bias phi4 mixtral_window qwen2_moe qwen3_moe deepseek_moe_normalised gpt_oss_v5 gpt2_cerebras
    gpt_bigcode_multi_head jais_first_names bloom falcon_40b pythia gptj_default_rotary phi_2 chatglm3
    chatglm_layer_norm gemma_7b gemma2 gemma3_v5 cohere_command_r_plus stablelm2_epoch stablelm2_12b starcoder2_no_bias
    glm4_32b granite_untied olmo2_7b
""".split()


class Draw:
    """Draws the tensors of one checkpoint. Matrices keep the size of what they multiply, norms lie around one, biases
    are never zero, and all of it is strong enough that a forgotten one shows."""

    def __init__(self, seed: int) -> None:
        self._random = np.random.RandomState(seed)
        self.tensors: dict[str, Array] = {}

    def normal(self, name: str, shape: tuple[int, ...], scale: float, center: float = 0.0) -> None:
        self.tensors[name] = (center + scale * self._random.standard_normal(shape)).astype(np.float32)

    def linear(self, name: str, rows: int, columns: int, bias: bool = False, scale: float = 1.0) -> None:
        """torch.nn.Linear: [out, in]"""
        self.normal(name + ".weight", (rows, columns), scale * columns**-0.5)
        if bias:
            self.normal(name + ".bias", (rows,), 0.2)

    def conv1d(self, name: str, rows: int, columns: int, scale: float = 1.0) -> None:
        """GPT-2's matrices lie the other way round, [in, out], and always have a bias."""
        self.normal(name + ".weight", (columns, rows), scale * columns**-0.5)
        self.normal(name + ".bias", (rows,), 0.2)

    def norm(self, name: str, size: int | tuple[int, ...], bias: bool = False, center: float = 1.0) -> None:
        shape = size if isinstance(size, tuple) else (size,)
        self.normal(name + ".weight", shape, 0.2, center)
        if bias:
            self.normal(name + ".bias", shape, 0.15)

    def embedding(self, name: str, rows: int, width: int, scale: float = 1.0) -> None:
        self.normal(name + ".weight", (rows, width), scale)


@dataclass(frozen=True)
class Variant:
    """One checkpoint to be made.

    Attributes:
        draw: draws all tensors by their names in the checkpoint.
        stored: type of the tensors on disk.
        num_tokens: prompts are drawn from so many token ids.
    """

    name: str
    config: Config
    draw: Callable[[Draw, Config], None]
    stored: str = "float32"
    num_tokens: int = 0

    @property
    def architecture(self) -> str:
        return str(self.config["architectures"][0])

    def tensors(self, seed: int | None = None) -> dict[str, Array]:
        """As they are on disk."""
        draw = Draw(stored_seed(self.name) if seed is None else seed)
        self.draw(draw, self.config)
        return {name: tensor.astype(self.stored) for name, tensor in draw.tensors.items()}

    def prompts(self, seed: int | None = None) -> list[list[int]]:
        random = np.random.RandomState(1000 + (stored_seed(self.name) if seed is None else seed))
        return [random.randint(0, self.num_tokens, length).tolist() for length in PROMPT_LENGTHS]


def stored_seed(name: str) -> int:
    return int(json.loads(SEEDS.read_text())[name])


def variant(
    name: str, architecture: str, draw: Callable[[Draw, Config], None], config: Config, stored: str = "float32"
) -> Variant:
    """A row; the configuration gets the fields that every published one has."""
    names = ("vocab_size", "padded_vocab_size")
    text = config.get("text_config", config)
    num_tokens = next(text[name] for name in names if name in text)
    if name in WITH_LARGE_EPSILON:
        config = {field: LARGE_EPSILON if field in EPSILON_FIELDS else value for field, value in config.items()}
    full = {"architectures": [architecture], "bos_token_id": 1, "eos_token_id": 2, "torch_dtype": stored, **config}
    return Variant(name, full, draw, stored, num_tokens)


def rows() -> list[Variant]:
    """All variants; the folder `variants` has a file for each lineage."""
    from variants import gpt, llama, moe, others

    return [*llama.ROWS, *moe.ROWS, *gpt.ROWS, *others.ROWS]


def write(variant: Variant, folder: Path) -> Path:
    """Write config.json and model.safetensors."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(variant.config, indent=1))
    save_file(variant.tensors(), folder / "model.safetensors", metadata={"format": "pt"})
    return folder


if __name__ == "__main__":
    for row in rows():
        if not sys.argv[2:] or row.name in sys.argv[2:]:
            print(write(row, Path(sys.argv[1]) / row.name))
