"""The numpy reference against the golden checkpoints of ../shared/golden: its own proof, without the engine."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from goldens import GOLDEN, corrected_config, golden_folders
from reference import FAMILIES, Reference, read_folder
from safetensors.numpy import load_file

TOLERANCE = 1e-3
FOLDERS = golden_folders()

pytestmark = pytest.mark.skipif(not FOLDERS, reason="no golden checkpoints beside the repository")


def largest_error(model: Reference, golden: dict[str, np.ndarray]) -> float:
    """Over the three prompts and their continuations, each computed in one pass; checks the greedy tokens too."""
    worst = 0.0
    for i in range(3):
        prompt, generated = golden[f"prompt_{i}"].tolist(), golden[f"gen_{i}"].tolist()
        logits = model.logits(prompt)
        continued = model.logits(prompt + generated[:-1])[len(prompt) - 1 :]
        assert continued.argmax(axis=-1).tolist() == generated
        if "columns" in golden:
            logits, continued = logits[:, golden["columns"]], continued[:, golden["columns"]]
        assert logits.shape == golden[f"logits_{i}"].shape
        worst = max(worst, float(np.abs(logits - golden[f"logits_{i}"]).max()))
        worst = max(worst, float(np.abs(continued - golden[f"gen_logits_{i}"]).max()))
    return worst


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_reference_computes_the_golden_logits(folder: Path) -> None:
    golden = load_file(folder / "golden.safetensors")
    _, tensors = read_folder(folder)
    assert largest_error(Reference(corrected_config(folder), tensors), golden) < TOLERANCE


def test_static_ntk_is_one_enlarged_base_for_all_lengths() -> None:
    folder = GOLDEN / "llama_rope_dynamic"
    config, tensors = read_folder(folder)
    theta = json.loads((folder / "meta.json").read_text())["static_ntk_base"]
    model = Reference({**config, "rope_scaling": None, "rope_theta": theta}, tensors)
    assert largest_error(model, load_file(folder / "golden_static_ntk.safetensors")) < TOLERANCE


def test_every_golden_architecture_has_a_reference() -> None:
    names = {json.loads((folder / "config.json").read_text())["architectures"][0] for folder in FOLDERS}
    assert names <= FAMILIES.keys()
