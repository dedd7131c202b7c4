#!/usr/bin/env python3
"""Write cases.json: inverse frequencies of every kind of rope scaling, worked out from the published formulas.

Sources: linear (arXiv:2306.15595), dynamic NTK (transformers' modeling_rope_utils.py), llama3 (Llama 3.1's reference
model.py), yarn (arXiv:2309.00071, appendix A.2), longrope (arXiv:2402.13753). Written apart from the C++ code, pair by
pair, so that the two can check each other. Run it to rewrite the file beside it.
"""

import json
import math
from pathlib import Path

TWO_PI = 2 * math.pi


def plain(base: float, dim: int) -> list[float]:
    return [1.0 / base ** (pair * 2 / dim) for pair in range(dim // 2)]


def linear(base: float, dim: int, factor: float) -> list[float]:
    return [frequency / factor for frequency in plain(base, dim)]


def dynamic(base: float, dim: int, factor: float, trained: int, length: int) -> list[float]:
    if length <= trained:
        return plain(base, dim)
    grown = factor * length / trained - factor + 1
    return plain(base * grown ** (dim / (dim - 2)), dim)


def llama3(base: float, dim: int, factor: float, low: float, high: float, trained: int) -> list[float]:
    result = []
    for frequency in plain(base, dim):
        wavelength = TWO_PI / frequency
        if wavelength < trained / high:
            result.append(frequency)
        elif wavelength > trained / low:
            result.append(frequency / factor)
        else:
            smooth = (trained / wavelength - low) / (high - low)
            result.append((1 - smooth) * frequency / factor + smooth * frequency)
    return result


def yarn(
    base: float, dim: int, factor: float, trained: int, fast: float = 32, slow: float = 1, truncate: bool = True
) -> list[float]:
    def pair_of(rotations: float) -> float:
        return dim * math.log(trained / (rotations * TWO_PI)) / (2 * math.log(base))

    low, high = pair_of(fast), pair_of(slow)
    if truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    result = []
    for pair, frequency in enumerate(plain(base, dim)):
        ramp = min(max((pair - low) / (high - low), 0.0), 1.0)
        result.append((1 - ramp) * frequency + ramp * frequency / factor)
    return result


def yarn_attention(factor: float) -> float:
    return 0.1 * math.log(factor) + 1


def longrope(base: float, dim: int, factors: list[float]) -> list[float]:
    return [frequency / factor for frequency, factor in zip(plain(base, dim), factors, strict=True)]


def main() -> None:
    cases = []

    def case(name: str, config: dict, length: int, frequencies: list[float], attention_factor: float = 1.0) -> None:
        cases.append(
            {
                "name": name,
                "config": config,
                "length": length,
                "inverse_frequencies": frequencies,
                "attention_factor": attention_factor,
            }
        )

    case("default", {"head_dim": 16, "rope_theta": 10000.0}, 1, plain(10000.0, 16))
    case("partial", {"head_dim": 16, "partial_rotary_factor": 0.5, "rope_theta": 500000}, 9, plain(500000.0, 8))
    case(
        "new style default",
        {"head_dim": 8, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}},
        1,
        plain(1e6, 8),
    )
    case(
        "linear",
        {"head_dim": 16, "max_position_embeddings": 256, "rope_scaling": {"type": "linear", "factor": 4.0}},
        300,
        linear(10000.0, 16, 4.0),
    )
    dynamic_config = {
        "head_dim": 16,
        "max_position_embeddings": 256,
        "rope_scaling": {"type": "dynamic", "factor": 2.0},
    }
    for length in (1, 256, 257, 400, 512):
        case(f"dynamic {length}", dynamic_config, length, dynamic(10000.0, 16, 2.0, 256, length))
    llama3_fields = {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    case(
        "llama 3.1",
        {"head_dim": 128, "max_position_embeddings": 131072, "rope_theta": 500000.0, "rope_scaling": llama3_fields},
        1,
        llama3(500000.0, 128, 8.0, 1.0, 4.0, 8192),
    )
    yarn_fields = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
    case(
        "yarn of qwen2",
        {"head_dim": 128, "max_position_embeddings": 32768, "rope_theta": 1e6, "rope_scaling": yarn_fields},
        1,
        yarn(1e6, 128, 4.0, 32768),
        yarn_attention(4.0),
    )
    case(
        "yarn with every field",
        {
            "head_dim": 64,
            "max_position_embeddings": 131072,
            "rope_parameters": {
                "rope_type": "yarn",
                "rope_theta": 150000,
                "factor": 32.0,
                "beta_fast": 16.0,
                "beta_slow": 2.0,
                "truncate": False,
                "attention_factor": 1.25,
                "original_max_position_embeddings": 4096,
            },
        },
        1,
        yarn(150000.0, 64, 32.0, 4096, 16.0, 2.0, False),
        1.25,
    )
    case(
        "yarn of deepseek",
        {
            "head_dim": 64,
            "max_position_embeddings": 163840,
            "rope_scaling": {
                "type": "yarn",
                "factor": 40,
                "beta_fast": 32,
                "beta_slow": 1,
                "mscale": 0.707,
                "mscale_all_dim": 1.0,
                "original_max_position_embeddings": 4096,
            },
        },
        1,
        yarn(10000.0, 64, 40.0, 4096),
        (0.1 * 0.707 * math.log(40) + 1) / (0.1 * math.log(40) + 1),
    )
    short, long = [1.0, 1.05, 1.1, 1.2], [1.5, 2.0, 8.0, 30.0]
    longrope_config = {
        "head_dim": 8,
        "max_position_embeddings": 131072,
        "original_max_position_embeddings": 4096,
        "rope_scaling": {"type": "longrope", "short_factor": short, "long_factor": long},
    }
    stretched = math.sqrt(1 + math.log(32) / math.log(4096))
    case("longrope short", longrope_config, 4096, longrope(10000.0, 8, short), stretched)
    case("longrope long", longrope_config, 4097, longrope(10000.0, 8, long), stretched)

    path = Path(__file__).with_name("cases.json")
    path.write_text(json.dumps(cases, indent=1) + "\n")


if __name__ == "__main__":
    main()
