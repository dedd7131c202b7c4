"""Makes tiny checkpoints of every family, with the sizes and quirks that published configurations have.

    for variant in rows():
        write(variant, folder / variant.name)

Weights and prompts are drawn from numpy's RandomState, whose streams never change, by the seed in seeds.json. The seed
is chosen so that greedy tokens are a fair test: along the continuation of each prompt the best logit leads the second
by more than MARGIN. After adding or changing a variant run `python find_seeds.py`.
"""

from __future__ import annotations

import json
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
