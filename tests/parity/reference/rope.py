"""Rotary position embedding and the ways in which its frequencies are stretched.

Source: transformers/modeling_rope_utils.py; the names of the scalings are those of `rope_scaling` in config.json.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from .pieces import Array, Config, field


@dataclass(frozen=True)
class Rope:
    """Turns pairs of values by position * frequency.

    `interleaved` tells which values make a pair: neighbours (0,1), (2,3), ... or else value i and i + R/2. Values
    beyond the first R = 2 * len(frequencies) of a head pass unchanged.
    """

    frequencies: Array
    interleaved: bool = False
    magnitude: float = 1.0  # of cosine and sine: the attention factor of yarn and longrope

    def __call__(self, x: Array) -> Array:
        """x[L, H, K], where L counts positions from 0."""
        half = len(self.frequencies)
        angles = np.arange(len(x))[:, None] * self.frequencies
        cos = (np.cos(angles) * self.magnitude).astype(x.dtype)[:, None, :]
        sin = (np.sin(angles) * self.magnitude).astype(x.dtype)[:, None, :]
        out = x.copy()
        first = slice(0, 2 * half, 2) if self.interleaved else slice(0, half)
        second = slice(1, 2 * half, 2) if self.interleaved else slice(half, 2 * half)
        out[..., first] = x[..., first] * cos - x[..., second] * sin
        out[..., second] = x[..., second] * cos + x[..., first] * sin
        return out


def plain_frequencies(dim: int, theta: float) -> Array:
    return theta ** (-np.arange(0, dim, 2, dtype=np.float64) / dim)


def rope_parameters(config: Config, layer_type: str = "full_attention") -> Config:
    """Base and scaling as one dict. transformers 5 writes `rope_parameters`, once or per layer type; before that
    there were `rope_theta` and `rope_scaling`, whose kind was first named `type`."""
    given = config.get("rope_parameters") or {}
    if layer_type in given:
        given = given[layer_type]
    scaling = given or config.get("rope_scaling") or {}
    kind = scaling.get("rope_type") or scaling.get("type") or "default"
    theta = field(given, "rope_theta", default=field(config, "rope_theta", default=10000.0))
    return {**scaling, "rope_type": kind, "rope_theta": theta}


def make_rope(
    config: Config, dim: int, length: int, interleaved: bool = False, layer_type: str = "full_attention"
) -> Rope:
    """The rotation of a whole sequence.

    Args:
        dim: how many values of a head turn.
        length: of the sequence; it decides in `dynamic` and `longrope`.
    """
    p = rope_parameters(config, layer_type)
    theta, kind = p["rope_theta"], p["rope_type"]
    plain = plain_frequencies(dim, theta)
    longest = config.get("max_position_embeddings", 2048)
    if kind in ("default", "mrope"):
        return Rope(plain, interleaved)
    if kind == "linear":
        return Rope(plain / p["factor"], interleaved)
    if kind == "dynamic":
        if length > longest:
            theta *= (p["factor"] * length / longest - (p["factor"] - 1)) ** (dim / (dim - 2))
        return Rope(plain_frequencies(dim, theta), interleaved)
    if kind == "llama3":
        return Rope(llama3_frequencies(plain, p), interleaved)
    if kind == "yarn":
        return Rope(yarn_frequencies(plain, dim, p, longest), interleaved, yarn_magnitude(p))
    if kind in ("longrope", "su"):
        original = field(config, "original_max_position_embeddings", default=p.get("original_max_position_embeddings"))
        factors = np.array(p["long_factor"] if length > original else p["short_factor"])
        return Rope(plain / factors, interleaved, longrope_magnitude(p, longest / original, original))
    raise ValueError(f"rope type {kind}")


def llama3_frequencies(plain: Array, p: Config) -> Array:
    """Long waves are slowed down by the factor, short ones kept, those between blended."""
    original, low, high = p["original_max_position_embeddings"], p["low_freq_factor"], p["high_freq_factor"]
    turns = original * plain / (2 * math.pi)  # within the original context
    blend = np.clip((turns - low) / (high - low), 0.0, 1.0)
    return (1.0 - blend) * plain / p["factor"] + blend * plain


def yarn_mscale(factor: float, mscale: float = 1.0) -> float:
    return 1.0 if factor <= 1.0 else 0.1 * mscale * math.log(factor) + 1.0


def yarn_magnitude(p: Config) -> float:
    """DeepSeek gives a numerator and a denominator, which then stand in the softmax scale instead."""
    if p.get("attention_factor") is not None:
        return p["attention_factor"]
    if p.get("mscale") and p.get("mscale_all_dim"):
        return yarn_mscale(p["factor"], p["mscale"]) / yarn_mscale(p["factor"], p["mscale_all_dim"])
    return yarn_mscale(p["factor"])


def yarn_frequencies(plain: Array, dim: int, p: Config, longest: int) -> Array:
    """Peng et al., arXiv:2309.00071: dimensions that turn more than beta_fast times within the original context
    are kept, those below beta_slow are interpolated, with a linear ramp over the dimensions between."""
    original = field(p, "original_max_position_embeddings", default=longest)

    def dimension_with(turns: float) -> float:
        return dim * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(p["rope_theta"]))

    low = dimension_with(field(p, "beta_fast", default=32.0))
    high = dimension_with(field(p, "beta_slow", default=1.0))
    if p.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    if low == high:
        high += 0.001
    ramp = np.clip((np.arange(dim // 2) - low) / (high - low), 0.0, 1.0)
    return plain / p["factor"] * ramp + plain * (1.0 - ramp)


def longrope_magnitude(p: Config, stretch: float, original: int) -> float:
    if p.get("attention_factor") is not None:
        return p["attention_factor"]
    return 1.0 if stretch <= 1.0 else math.sqrt(1.0 + math.log(stretch) / math.log(original))
