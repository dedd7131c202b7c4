"""Flags made from the fields of SamplingParams and EngineArgs, so that names, defaults and help exist once."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import Field, fields
from typing import Any

from quire.arguments import EngineArgs
from quire.checks import Kind
from quire.sampling import LOGITS_PROCESSORS, SamplingParams

GROUPS = {
    "engine": "The other flags of vLLM are accepted too, where they change nothing.",
    "limits": "What is beyond them is refused at once (429, 413, 431), so that what was accepted is served well.",
    "access": "Who may use the server, and from which web pages.",
}
"""What --help says below the title of a group."""


def add_prompt_flags(parser: argparse.ArgumentParser) -> None:
    """The text to complete, where it comes from, and whether it is shown."""
    parser.add_argument("prompt", nargs="?", metavar="PROMPT", help="text to complete; - for stdin")
    parser.add_argument("--file", metavar="FILE", help="read the prompt from a file")
    parser.add_argument(
        "--echo",
        action=argparse.BooleanOptionalAction,
        default=sys.stdout.isatty(),
        help="print the prompt before the text (default: on a terminal)",
    )


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
    add_field_flags(parser, EngineArgs, exclude, keep_defaults)


def add_field_flags(
    parser: argparse.ArgumentParser, arguments_type: Any, exclude: tuple[str, ...] = (), keep_defaults: bool = False
) -> None:
    """One flag for every described field of a dataclass, in the groups that the fields name."""
    for entry in fields(arguments_type):
        if entry.name in exclude or "kind" not in entry.metadata:
            continue
        group = flag_group(parser, entry.metadata.get("group", "engine"))
        _add_flag(group, entry, entry.default if keep_defaults else argparse.SUPPRESS, entry.default)


def flag_group(parser: argparse.ArgumentParser, title: str) -> argparse._ArgumentGroup:
    """The group of that title; --help shows groups in the order in which they were first asked for."""
    existing = {group.title: group for group in parser._action_groups}
    return existing.get(title) or parser.add_argument_group(title, GROUPS.get(title))


def given(options: argparse.Namespace, arguments_type: Any, exclude: tuple[str, ...] = ()) -> dict[str, Any]:
    """The fields of a dataclass that were given as flags."""
    names = [entry.name for entry in fields(arguments_type) if entry.name not in exclude]
    return {name: getattr(options, name) for name in names if hasattr(options, name)}


def _add_flag(group: argparse._ArgumentGroup, entry: Field[Any], default: Any, shown: Any) -> None:
    kind: Kind = entry.metadata["kind"]
    names = ["--" + entry.name.replace("_", "-"), *entry.metadata.get("flags", ())]
    hidden = entry.metadata.get("hidden", False)
    text = argparse.SUPPRESS if hidden else entry.metadata["help"] + _default_text(entry.metadata.get("shown", shown))
    if kind.parse is None:
        group.add_argument(*names, action=argparse.BooleanOptionalAction, default=default, dest=entry.name, help=text)
        return
    group.add_argument(
        *names,
        action=("extend" if kind.several else "append") if kind.repeatable else "store",
        default=default,
        dest=entry.name,
        help=text,
        metavar=kind.metavar,
        nargs="+" if kind.several else None,
        type=_parser(kind),
    )


def _default_text(default: Any) -> str:
    if default is None or default == ():
        return ""
    if isinstance(default, bool):
        return f" (default: {'yes' if default else 'no'})"
    return f" (default: {json.dumps(default) if isinstance(default, tuple) else default})"


def _parser(kind: Kind) -> Callable[[str], Any]:
    def parse(text: str) -> Any:
        try:
            return kind.parse(text) if kind.parse else None
        except (ValueError, OverflowError):
            raise argparse.ArgumentTypeError(f"expected {kind.noun}, got {text!r}") from None

    return parse
