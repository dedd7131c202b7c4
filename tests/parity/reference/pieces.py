"""What the families share: access to weights, norms, activations, attention with all its extras, and ALiBi.

Shapes: L positions, H query heads, G key/value heads, K head dim, D model width, V vocabulary. All arithmetic is in
the type of the weights that are handed in, float64 unless the caller says otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

Array = np.ndarray
Config = dict[str, Any]


class Weights:
    """Tensors by name, below a prefix: `w.at("model.layers.0.")["input_layernorm.weight"]`."""

    def __init__(self, tensors: dict[str, Array], prefix: str = "") -> None:
        self.tensors = tensors
        self.prefix = prefix

    def at(self, prefix: str) -> Weights:
        return Weights(self.tensors, self.prefix + prefix)

    def __contains__(self, name: str) -> bool:
        return self.prefix + name in self.tensors

    def __getitem__(self, name: str) -> Array:
        return self.tensors[self.prefix + name]

    def get(self, name: str) -> Array | None:
        return self.tensors.get(self.prefix + name)

    def linear(self, name: str, x: Array) -> Array:
        """torch.nn.Linear, weight [out, in]; the bias is added if the checkpoint has one."""
        return plus(x @ self[name + ".weight"].T, self.get(name + ".bias"))

    def conv1d(self, name: str, x: Array) -> Array:
        """transformers.pytorch_utils.Conv1D, weight [in, out]."""
        return plus(x @ self[name + ".weight"], self.get(name + ".bias"))

    def rms_norm(self, name: str, x: Array, eps: float) -> Array:
        return rms_norm(x, eps) * self[name + ".weight"]

    def layer_norm(self, name: str, x: Array, eps: float) -> Array:
        """With weight and bias where the checkpoint has them."""
        weight = self.get(name + ".weight")
        return plus(layer_norm(x, eps) * (1.0 if weight is None else weight), self.get(name + ".bias"))


def plus(x: Array, bias: Array | None) -> Array:
    return x if bias is None else x + bias


def field(config: Config, *names: str, default: Any = None) -> Any:
    """The first of several names of the same field that is there and not null."""
    for name in names:
        if config.get(name) is not None:
            return config[name]
    return default


# Norms, without weights.


def rms_norm(x: Array, eps: float) -> Array:
    return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + eps)


def layer_norm(x: Array, eps: float) -> Array:
    centered = x - np.mean(x, axis=-1, keepdims=True)
    return centered / np.sqrt(np.mean(centered * centered, axis=-1, keepdims=True) + eps)


# Activations.


def sigmoid(x: Array) -> Array:
    return 1.0 / (1.0 + np.exp(-x))


def silu(x: Array) -> Array:
    return x * sigmoid(x)


def gelu(x: Array) -> Array:
    """Exact, with the error function."""
    erf = np.frompyfunc(math.erf, 1, 1)(x * math.sqrt(0.5)).astype(x.dtype)
    return 0.5 * x * (1.0 + erf)


def gelu_tanh(x: Array) -> Array:
    return 0.5 * x * (1.0 + np.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)))


def relu(x: Array) -> Array:
    return np.maximum(x, 0.0)


# gelu_fast is the tanh form too, written with rounded constants.
ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "silu": silu,
    "swish": silu,
    "gelu": gelu,
    "gelu_new": gelu_tanh,
    "gelu_fast": gelu_tanh,
    "gelu_pytorch_tanh": gelu_tanh,
    "relu": relu,
}


def softmax(x: Array) -> Array:
    """Over the last axis."""
    powers = np.exp(x - x.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


# Attention.


def heads(x: Array, num_heads: int) -> Array:
    """[L, H * K] -> [L, H, K]"""
    return x.reshape(len(x), num_heads, -1)


def attend(
    q: Array,
    k: Array,
    v: Array,
    scale: float | None = None,
    window: int | None = None,
    bias: Array | None = None,
    softcap: float | None = None,
    sinks: Array | None = None,
) -> Array:
    """Causal attention: q[L,H,K], k[L,G,K], v[L,G,Kv] -> [L, H * Kv]; H/G query heads share a key/value head.

    Args:
        scale: of the products; 1/sqrt(K) if not given.
        window: how many keys a query sees, its own included.
        bias: [H, L, L], added after scaling and soft cap (ALiBi).
        softcap: c in c * tanh(score / c).
        sinks: [H], a score that takes part in the softmax and carries no value.
    """
    length, num_heads, head_dim = q.shape
    scale = head_dim**-0.5 if scale is None else scale
    group = num_heads // k.shape[1]
    k, v = np.repeat(k, group, axis=1), np.repeat(v, group, axis=1)
    scores = np.matmul(q.transpose(1, 0, 2), k.transpose(1, 2, 0)) * scale
    if softcap is not None:
        scores = softcap * np.tanh(scores / softcap)
    if bias is not None:
        scores = scores + bias
    distance = np.arange(length)[:, None] - np.arange(length)[None, :]
    visible = distance >= 0
    if window is not None:
        visible &= distance < window
    scores = np.where(visible, scores, -np.inf)
    if sinks is not None:
        scores = np.concatenate([scores, np.broadcast_to(sinks[:, None, None], (num_heads, length, 1))], axis=-1)
    probabilities = softmax(scores)[..., :length]
    return np.matmul(probabilities, v.transpose(1, 0, 2)).transpose(1, 0, 2).reshape(length, -1)


def alibi_slopes(num_heads: int, max_bias: float = 8.0) -> Array:
    """Geometric for a power of two: 2^(-max_bias * i / n). For other counts the slopes of the power below it, then
    every other slope of the power above it (Press et al., arXiv:2108.12409, and their published code)."""

    def of_power(count: int) -> Array:
        return 2.0 ** (-max_bias * np.arange(1, count + 1) / count)

    below = 2 ** int(math.floor(math.log2(num_heads)))
    return np.concatenate([of_power(below), of_power(2 * below)[::2]])[:num_heads]


def alibi(num_heads: int, length: int, max_bias: float = 8.0) -> Array:
    """[H, L, L]: slope * (key position - query position)."""
    distance = np.arange(length)[None, :] - np.arange(length)[:, None]
    return alibi_slopes(num_heads, max_bias)[:, None, None] * distance


# Feed-forward.


def gated(w: Weights, x: Array, gate: str, up: str, down: str, activation: Callable[[Array], Array] = silu) -> Array:
    """down(activation(gate(x)) * up(x))"""
    return w.linear(down, activation(w.linear(gate, x)) * w.linear(up, x))


def gated_mlp(w: Weights, x: Array, activation: Callable[[Array], Array] = silu) -> Array:
    """Under the names that LLaMA gave the three matrices."""
    return gated(w, x, "gate_proj", "up_proj", "down_proj", activation)


def packed_gated_mlp(w: Weights, x: Array, activation: Callable[[Array], Array] = silu) -> Array:
    """gate and up in one matrix, gate first."""
    gate, up = np.split(w.linear("gate_up_proj", x), 2, axis=-1)
    return w.linear("down_proj", activation(gate) * up)
