"""Flags from three places: the command line, before environment variables QUIRE_<FLAG>, before a --config file."""

from __future__ import annotations

import argparse
import difflib
import json
import logging
import os
from collections.abc import Mapping
from dataclasses import Field, fields
from typing import Any

from quire.checks import Kind
from quire.cli import UsageError

logger = logging.getLogger("quire")

PREFIX = "QUIRE_"

Entries = dict[str, Field[Any]]


def flag_entries(types: tuple[Any, ...], exclude: tuple[str, ...] = ()) -> Entries:
    """The fields of dataclasses that are flags, by name; of equal names the last one counts."""
    return {
        entry.name: entry
        for arguments_type in types
        for entry in fields(arguments_type)
        if "kind" in entry.metadata and entry.name not in exclude
    }


def settings(options: argparse.Namespace, environ: Mapping[str, str], entries: Entries) -> dict[str, Any]:
    """The values that are set anywhere, checked.

    Args:
        options: parsed flags; those not given are missing. `config` names the file, as QUIRE_CONFIG does.

    Raises: UsageError naming flag, variable, or file and key; OSError if the file cannot be read.
    """
    file = getattr(options, "config", None) or environ.get(PREFIX + "CONFIG")
    from_file = {} if not file else _from_file(file, entries)
    from_words = {name: getattr(options, name) for name in entries if hasattr(options, name)}
    return {**from_file, **_from_environment(environ, entries), **from_words}


def _from_environment(environ: Mapping[str, str], entries: Entries) -> dict[str, Any]:
    values = {}
    for name, entry in entries.items():
        # vLLM's own name for the key is read too; the other one goes before it.
        for variable in (PREFIX + name.upper(), *entry.metadata.get("variables", ())):
            if variable in environ and not _is_kubernetes(variable, environ[variable]):
                values[name] = _of_text(variable, name, entry.metadata["kind"], environ[variable])
                break
    _tell_misspelt(environ, entries)
    return values


def _is_kubernetes(variable: str, text: str) -> bool:
    """Whether this is what Kubernetes tells every container about a service that is called quire."""
    if variable != PREFIX + "PORT" or not text.startswith(("tcp://", "udp://")):
        return False
    logger.warning("%s=%s is about a Kubernetes service, not a flag of the server: ignored", variable, text)
    return True


def _tell_misspelt(environ: Mapping[str, str], entries: Entries) -> None:
    known = [PREFIX + name.upper() for name in entries]
    for variable in environ:
        if variable.startswith(PREFIX) and variable not in known:
            close = difflib.get_close_matches(variable, known, n=1, cutoff=0.9)
            if close:
                logger.warning("%s is no flag and changes nothing, did you mean %s?", variable, close[0])


_WORDS_FOR_BOOL = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False}
_WORDS_FOR_BOOL["off"] = False


def _of_text(variable: str, name: str, kind: Kind, text: str) -> Any:
    try:
        if kind.parse is None:
            value: Any = _WORDS_FOR_BOOL[text.lower()]
        elif kind.repeatable:
            value = [kind.parse(part.strip()) for part in text.split(",")]
        else:
            value = kind.parse(text)
    except (ValueError, OverflowError, KeyError):
        noun = "true or false" if kind.parse is None else kind.noun
        raise UsageError(f"{variable}: expected {noun}, got {text!r}") from None
    return _checked(variable, name, kind, value)


def _checked(place: str, name: str, kind: Kind, value: Any) -> Any:
    try:
        return kind.check(name, value)
    except ValueError as error:
        raise UsageError(f"{place}: {error}") from None


def _from_file(file: str, entries: Entries) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key, value in _read_file(file).items():
        name = str(key).removeprefix("--").replace("-", "_")
        if name not in entries:
            close = difflib.get_close_matches(name, entries, n=1, cutoff=0.5)
            guess = f", did you mean {close[0].replace('_', '-')}?" if close else ""
            raise UsageError(f"{file}: unknown flag {key!r}{guess}")
        if name in values:
            raise UsageError(f"{file}: {key!r} is there twice")
        kind: Kind = entries[name].metadata["kind"]
        if isinstance(value, str) and kind.parse is not None and not kind.repeatable:
            values[name] = _of_text(f"{file}: {key}", name, kind, value)
        else:
            values[name] = _checked(file, name, kind, value)
    return values


def _read_file(file: str) -> dict[Any, Any]:
    """The file's mapping of flags to values; JSON by its name, else YAML."""
    with open(os.path.expanduser(file), "rb") as opened:
        data = opened.read()
    try:
        text = data.decode()
        content = json.loads(text) if file.endswith(".json") else _yaml(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{file}: {error}") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise UsageError(f"{file}: expected flags with their values, as in 'port: 8000', got {content!r:.60}")
    return content


def _yaml(text: str) -> Any:
    try:
        import yaml
    except ImportError:
        raise ValueError("YAML needs the package PyYAML: pip install pyyaml, or write JSON in a .json file.") from None

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"not YAML: {error}") from None
