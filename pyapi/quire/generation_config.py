"""Sampling parameters that a model's authors recommend in generation_config.json."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from quire.sampling import SamplingParams
from quire.tokenizer_config import read_object

FILE_NAME = "generation_config.json"

# Its name -> ours. Its other fields concern ways to search that are not offered, or ids, which the engine reads itself.
_RECOMMENDED = {
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "min_p": "min_p",
    "repetition_penalty": "repetition_penalty",
    "max_new_tokens": "max_tokens",
}


def recommended_sampling(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """What generation_config.json of a folder recommends, by our names; empty if there is no such file.

    Raises: ValueError in one line that names file and field.
    """
    path = Path(folder) / FILE_NAME
    config = read_object(path)
    values: dict[str, Any] = {}
    for theirs, ours in _RECOMMENDED.items():
        value = config.get(theirs)
        if value is None:
            continue
        if theirs == "top_k" and value == 0 and not isinstance(value, bool):  # means "all" there
            value = -1
        _check(path, theirs, ours, value)
        values[ours] = value
    sampled = config.get("do_sample")
    if sampled is not None and not isinstance(sampled, bool):
        raise ValueError(_message(path, "do_sample", f"must be true or false, got {sampled!r}."))
    if sampled is False:
        values["temperature"] = 0.0
    return values


def _check(path: Path, theirs: str, ours: str, value: Any) -> None:
    try:
        SamplingParams(**{ours: value})
    except ValueError as error:
        raise ValueError(_message(path, theirs, str(error).removeprefix(ours).lstrip())) from None


def _message(path: Path, name: str, problem: str) -> str:
    return f"[{path}] {name} {problem} Correct the file, or do without it: generation_config='vllm'."
