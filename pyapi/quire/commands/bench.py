"""What the commands `quire bench ...` share: flags, random prompts, numbers and where they go."""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import time
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from quire.checks import TEXT, Kind, described, optional
from quire.cli import UsageError
from quire.commands import console

HELP = """\
usage: quire bench COMMAND ...

Measure how fast models run. Names of flags and of results are those of vLLM.

  latency       seconds that a batch of prompts takes, again and again
  throughput    tokens per second over many prompts at once
  serve         a server under load: times to the first token, between tokens, and to the end

  quire bench COMMAND --help    the flags of a command

examples:
  quire bench latency --model ./model --batch-size 1 --input-len 128 --output-len 32
  quire bench throughput --model ./model --num-prompts 200 --output-json result.json
  quire bench serve --url http://127.0.0.1:8000 --num-prompts 200 --request-rate 10 --plot result.svg
"""


def _svg_file(name: str, value: Any) -> str:
    text = str(TEXT.check(name, value))
    if not text.endswith(".svg"):
        raise ValueError(f"{name} must end in .svg, got {value!r}.")
    return text


PLOT = described(None, optional(Kind(_svg_file, str, "FILE.svg")), "draw the results into this file", group="results")
OUTPUT_JSON = described(None, optional(Kind(TEXT.check, str, "FILE")), "write the results there", group="results")

PERCENTILES = (10, 25, 50, 75, 90, 99)


def flags_of(flags_type: Any, options: argparse.Namespace) -> Any:
    """The dataclass filled from the flags that were given.

    Raises: UsageError naming field and value.
    """
    given = {entry.name: getattr(options, entry.name) for entry in fields(flags_type) if hasattr(options, entry.name)}
    try:
        return flags_type(**given)
    except ValueError as error:
        raise UsageError(str(error)) from None


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which `share` percent lie, between neighbours in proportion; NaN of nothing."""
    ordered = sorted(values)
    if not ordered:
        return math.nan
    place = (len(ordered) - 1) * share / 100
    below, above = ordered[math.floor(place)], ordered[math.ceil(place)]
    return below + (above - below) * (place - math.floor(place))


def distribution(name: str, seconds: Sequence[float], percentiles: Sequence[float]) -> dict[str, float]:
    """mean_NAME_ms, median_NAME_ms, std_NAME_ms, p99_NAME_ms ...; zeros where nothing was measured."""
    ms = [value * 1000 for value in seconds] or [0.0]
    values = {"mean": statistics.fmean(ms), "median": statistics.median(ms), "std": statistics.pstdev(ms)}
    values |= {f"p{share:g}": percentile(ms, share) for share in percentiles}
    return {f"{key}_{name}_ms": value for key, value in values.items()}


def origin(model: str, seed: int) -> dict[str, Any]:
    """What every result file begins with."""
    from quire._version import __version__

    return {"date": time.strftime("%Y%m%d-%H%M%S"), "quire_version": __version__, "model_id": model, "seed": seed}


def write_json(path: str | None, result: dict[str, Any]) -> None:
    """Write results, if a file was named."""
    if path is None:
        return
    with open(os.path.expanduser(path), "w", encoding="utf-8") as file:
        json.dump(result, file, indent=2)
        file.write("\n")
    console.note(f"results are in {path}")


def table(title: str, rows: Sequence[tuple[str, float | int | str]]) -> str:
    """Rows of name and value for people, as vLLM prints them."""
    lines = [f"{f' {title} ':=^50}"]
    for name, value in rows:
        shown = f"{value:.2f}" if isinstance(value, float) else str(value)
        lines.append(f"{name:<40} {shown}" if name else "")
    return "\n".join([*lines, "=" * 50, ""])
