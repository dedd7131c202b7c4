"""Kinds of values that come from users: how each is checked, and how it is read from a command line.

Every message names the field and the value.
"""

import math
import numbers
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

INT32_MAX = 2**31 - 1
INT64_MAX = 2**63 - 1
FLOAT32_MAX = 3.4028234663852886e38


def as_bool(name: str, value: Any) -> bool:
    """A bool, and only that: 0 and "false" are more often mistakes than wishes."""
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be True or False, got {value!r}.")
    return value


def as_int(name: str, value: Any, largest: int = INT32_MAX) -> int:
    """An integer of any kind, numpy's included, but no bool; by default one that fits 32 bits."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise ValueError(f"{name} must be an integer, got {value!r}.")
    number = int(value)
    if not -largest - 1 <= number <= largest:
        raise ValueError(f"{name} must be between {-largest - 1} and {largest}, got {number}.")
    return number


def as_int64(name: str, value: Any) -> int:
    """An integer that fits 64 bits."""
    return as_int(name, value, INT64_MAX)


def as_float(name: str, value: Any) -> float:
    """A finite number of any kind, numpy's included, but no bool and no text."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise ValueError(f"{name} must be a number, got {value!r}.")
    try:
        number = float(value)
    except OverflowError:  # an integer of hundreds of digits
        number = math.inf
    # The engine computes in float32, where anything larger is infinite. NaN fails every comparison.
    if not abs(number) <= FLOAT32_MAX:
        raise ValueError(f"{name} must be finite, got {value!r}.")
    return number


def as_text(name: str, value: Any) -> str:
    """A string that can be encoded: lone surrogates, which files with bad encoding bring, are refused."""
    if not isinstance(value, str):
        raise ValueError(f"{name} must be a string, got {value!r}.")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{name} must be valid Unicode, got a lone surrogate at position {error.start}.") from None
    return value


def as_token_ids(name: str, value: Any) -> list[int]:
    """A list of token ids from any iterable of integers. Whether an id is in the vocabulary, the engine knows."""
    if isinstance(value, (str, bytes, dict)) or not isinstance(value, Iterable):
        raise ValueError(f"{name} must be a list of token ids, got {value!r}.")
    ids = list(value)
    # The common case, a list of plain ints, must stay fast: prompts may have 100,000 ids.
    if set(map(type, ids)) - {int}:
        ids = [as_int64(f"{name}[{index}]", token_id) for index, token_id in enumerate(ids)]
    if ids and not (0 <= min(ids) and max(ids) <= INT32_MAX):
        index = next(index for index, token_id in enumerate(ids) if not 0 <= token_id <= INT32_MAX)
        raise ValueError(f"{name}[{index}] must be a token id of the vocabulary, got {ids[index]}.")
    return ids


def parse_bytes(text: str) -> int:
    """A number of bytes, with K, M, G or T for powers of 1024."""
    power = " KMGT".find(text[-1:].upper()) if text else 0
    return int(float(text[:-1]) * 1024**power) if power > 0 else int(text)


@dataclass(frozen=True)
class Kind:
    """What values a field takes."""

    check: Callable[[str, Any], Any]
    """(name, value) -> the value in its normal form; raises ValueError naming both."""
    parse: Callable[[str], Any] | None
    """Text of the command line -> value; None for a switch, which has no value."""
    metavar: str | None = None
    noun: str = "text"
    """What the command line expects, for its message about anything else."""
    repeatable: bool = False
    several: bool = False
    """One flag of the command line takes several values."""


BOOL = Kind(as_bool, None)
INT = Kind(as_int, int, "N", "an integer")
INT64 = Kind(as_int64, int, "N", "an integer")
BYTES = Kind(as_int64, parse_bytes, "BYTES", "a size in bytes, such as 512M or 2G")
FLOAT = Kind(as_float, float, "X", "a number")
TEXT = Kind(as_text, str, "TEXT")


def one_of(*choices: str) -> Kind:
    """One of a few words."""

    def check(name: str, value: Any) -> str:
        if value not in choices:
            raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}.")
        return str(value)

    return Kind(check, str, "{" + ",".join(choices) + "}")


def at_least(least: int, kind: Kind = INT) -> Kind:
    """A number with a lower bound."""

    def check(name: str, value: Any) -> Any:
        number = kind.check(name, value)
        if number < least:
            raise ValueError(f"{name} must be at least {least}, got {value!r}.")
        return number

    return replace(kind, check=check)


def optional(kind: Kind) -> Kind:
    """The same kind, None allowed; on the command line the word "none"."""

    def check(name: str, value: Any) -> Any:
        return None if value is None else kind.check(name, value)

    def parse(text: str) -> Any:
        return None if text.lower() == "none" or kind.parse is None else kind.parse(text)

    return replace(kind, check=check, parse=parse)


def described(default: Any, kind: Kind, text: str, **metadata: Any) -> Any:
    """A dataclass field with its kind and the help text that the command line shows."""
    return field(default=default, metadata={"kind": kind, "help": text, **metadata})
