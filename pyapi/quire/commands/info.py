"""Show what a model is and needs, without loading it: family, size, memory plan, and what would run it.

  quire info ./model                    a model folder
  quire info org/name                   a model of the hub, whose weights are not fetched
  quire info ./model --device cuda:1    the plan for another device
  quire info --families                 what can be loaded
  quire info --devices                  what can compute here, and what has been run and measured where

The engine flags are those of the other commands, and change the plan as they change the engine.
"""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from quire.cli import UsageError
from quire.commands import console
from quire.commands.flags import add_engine_flags
from quire.commands.generate import ENGINE_FLAGS_LEFT_OUT, engine_arguments

if TYPE_CHECKING:
    from quire import _core

USAGE = "[MODEL] [FLAG ...]"


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `quire info`."""
    parser.add_argument(
        "folder", nargs="?", metavar="MODEL", help="model folder or name on the hub; default: the built-in model"
    )
    parser.add_argument(
        "--families", action="store_true", help="list the families that can be loaded, with their names in config.json"
    )
    parser.add_argument(
        "--devices", action="store_true", help="list the kinds of devices, and what of each has been run and measured"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_engine_flags(parser, exclude=ENGINE_FLAGS_LEFT_OUT, keep_defaults=False)


def run(options: argparse.Namespace) -> int:
    """Run `quire info`."""
    console.prepare_output()
    if options.families:
        _print_families(options.json)
        return 0
    if options.devices:
        _print_devices(options.json)
        return 0
    if options.folder is not None:
        if hasattr(options, "model"):
            raise UsageError("give the model as an argument or with --model, not both")
        options.model = options.folder
    from quire import _core

    arguments = engine_arguments(options)
    if arguments.is_on_hub():
        # To know what a model is takes no weights, which may be large: they are not fetched.
        arguments.load_format = "dummy"
    config = arguments.core_config()
    facts = _facts(arguments.model or config.model, _core.Engine.describe(config))
    console.write(json.dumps(facts, indent=2) + "\n" if options.json else _table(facts))
    return 0


def _print_families(as_json: bool) -> None:
    from quire import _core

    rows = dict(_core.Engine.families())
    lines = (f"{family:<15}{', '.join(architectures)}\n" for family, architectures in rows.items())
    console.write(json.dumps(rows, indent=2) + "\n" if as_json else "".join(lines))


def _print_devices(as_json: bool) -> None:
    from quire import _core

    fields = ("name", "num_devices", "why_none", "targets", "standing")
    rows = [{field: getattr(kind, field) for field in fields} for kind in _core.Engine.devices()]
    if as_json:
        console.write(json.dumps(rows, indent=2) + "\n")
        return
    for row in rows:
        here = f"{row['num_devices']} here" if row["num_devices"] else f"none here: {row['why_none']}"
        code = f"code for {row['targets']}; " if row["targets"] else ""
        console.write(f"{row['name']:<6}{here}\n      {code}{row['standing']}\n")


def _facts(folder: str, description: _core.ModelDescription) -> dict[str, Any]:
    model, memory = description.model, description.memory
    return {
        "model": folder,
        "architecture": model.architecture,
        "family": model.family,
        "num_parameters": model.num_parameters,
        "dtype": model.dtype,
        "vocab_size": model.vocab_size,
        "num_layers": model.num_layers,
        "hidden_size": model.hidden_size,
        "num_heads": model.num_heads,
        "num_kv_heads": model.num_kv_heads,
        "head_dim": model.head_dim,
        "max_position_embeddings": model.max_position_embeddings,
        "eos_token_ids": list(model.eos_token_ids),
        "bos_token_id": model.bos_token_id,
        "tensor_parallel_size": memory.num_ranks,
        "max_model_len": memory.max_model_len,
        "weight_bytes": memory.weight_bytes,
        "kv_cache_bytes": memory.kv_cache_bytes,
        "kv_bytes_per_token": memory.kv_bytes_per_token,
        "num_blocks": memory.num_blocks,
        "block_size": memory.block_size,
        "workspace_bytes": memory.workspace_bytes,
        "swap_space_bytes": memory.swap_space_bytes,
        "num_swap_blocks": memory.num_swap_blocks,
        "available_bytes": memory.available_bytes,
        "total_bytes": memory.total_bytes,
        "backend": description.backend,
        "num_threads": description.num_threads,
    }


def _ranks_row(facts: dict[str, Any]) -> list[tuple[str, str]]:
    ranks = facts["tensor_parallel_size"]
    return [("ranks", f"{ranks}, of which each has what follows")] if ranks > 1 else []


def _swap_space_row(facts: dict[str, Any]) -> list[tuple[str, str]]:
    blocks, size = facts["num_swap_blocks"], console.size(facts["swap_space_bytes"])
    return [("swap space", f"{size} of the host's memory: {blocks} blocks")] if blocks else []


def _table(facts: dict[str, Any]) -> str:
    kv_tokens = facts["num_blocks"] * facts["block_size"]
    on_cpu = facts["backend"].startswith("cpu")
    needed = facts["weight_bytes"] + facts["kv_cache_bytes"] + facts["workspace_bytes"]
    rows = [
        ("model", facts["model"]),
        ("architecture", f"{facts['architecture']} (family {facts['family']})"),
        ("parameters", f"{console.count(facts['num_parameters'])}, stored as {facts['dtype']}"),
        (
            "shape",
            f"{facts['num_layers']} layers, width {facts['hidden_size']}, {facts['num_heads']} heads "
            f"({facts['num_kv_heads']} for keys and values) of {facts['head_dim']}, vocabulary {facts['vocab_size']}",
        ),
        ("context", f"{facts['max_model_len']} tokens (the model allows {facts['max_position_embeddings']})"),
        *_ranks_row(facts),
        ("weights", console.size(facts["weight_bytes"])),
        (
            "KV cache",
            f"{console.size(facts['kv_cache_bytes'])}: {kv_tokens} tokens of "
            f"{console.size(facts['kv_bytes_per_token'])} in {facts['num_blocks']} blocks",
        ),
        ("workspace", console.size(facts["workspace_bytes"])),
        (
            "memory",
            f"{console.size(needed)} needed, {console.size(facts['available_bytes'])} available of "
            f"{console.size(facts['total_bytes'])}",
        ),
        *_swap_space_row(facts),
        ("runs on", facts["backend"] + (f", {facts['num_threads']} threads" if on_cpu else "")),
    ]
    return "".join(f"{name:<13}{value}\n" for name, value in rows)
