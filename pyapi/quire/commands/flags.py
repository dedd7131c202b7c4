"""Flags made from the fields of SamplingParams and EngineArgs, so that names, defaults and help exist once."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import Field, fields
from typing import Any

from quire.arguments import EngineArgs
from quire.checks import Kind
from quire.sampling import LOGITS_PROCESSORS, SamplingParams


def add_sampling_flags(parser: argparse.ArgumentParser, defaults: dict[str, Any]) -> None:
    """One flag for every field of SamplingParams; those not given are left out of the result.

    Args:
        defaults: the command's own, to be shown.
    """
    group = parser.add_argument_group(
        "sampling", "What the model's generation_config.json recommends goes before these defaults."
    )
    for entry in fields(SamplingParams):
        if entry.metadata["kind"] is not LOGITS_PROCESSORS:
            _add_flag(group, entry, argparse.SUPPRESS, defaults.get(entry.name, entry.default))


def add_engine_flags(
    parser: argparse.ArgumentParser, exclude: tuple[str, ...] = (), keep_defaults: bool = True
) -> None:
    """One flag for every field of EngineArgs, by vLLM's names.

    Args:
        keep_defaults: flags that are not given get the field's default; else they are left out of the result.
    """
    group = parser.add_argument_group("engine", "The other flags of vLLM are accepted too, where they change nothing.")
    for entry in fields(EngineArgs):
        if entry.name not in exclude:
            _add_flag(group, entry, entry.default if keep_defaults else argparse.SUPPRESS, entry.default)


def given(options: argparse.Namespace, arguments_type: Any, exclude: tuple[str, ...] = ()) -> dict[str, Any]:
    """The fields of a dataclass that were given as flags."""
    names = [entry.name for entry in fields(arguments_type) if entry.name not in exclude]
    return {name: getattr(options, name) for name in names if hasattr(options, name)}


def _add_flag(group: argparse._ArgumentGroup, entry: Field[Any], default: Any, shown: Any) -> None:
    kind: Kind = entry.metadata["kind"]
    names = ["--" + entry.name.replace("_", "-"), *entry.metadata.get("flags", ())]
    hidden = entry.metadata.get("hidden", False)
    text = argparse.SUPPRESS if hidden else entry.metadata["help"] + _default_text(shown)
    if kind.parse is None:
        group.add_argument(*names, action=argparse.BooleanOptionalAction, default=default, dest=entry.name, help=text)
        return
    group.add_argument(
        *names,
        action="append" if kind.repeatable else "store",
        default=default,
        dest=entry.name,
        help=text,
        metavar=kind.metavar,
        type=_parser(kind),
    )


def _default_text(default: Any) -> str:
    if default is None:
        return ""
    return f" (default: { ({True: 'yes', False: 'no'}[default] if isinstance(default, bool) else default) })"


def _parser(kind: Kind) -> Callable[[str], Any]:
    def parse(text: str) -> Any:
        try:
            return kind.parse(text) if kind.parse else None
        except (ValueError, OverflowError):
            raise argparse.ArgumentTypeError(f"expected {kind.noun}, got {text!r}") from None

    return parse
