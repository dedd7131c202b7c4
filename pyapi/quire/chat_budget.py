"""What a chat template may use: time, and the size of all that it makes.

Sizes are in characters, counted without regard to sharing: a text that a list holds twice counts twice, because
writing the list writes it twice.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

MAX_SECONDS = 2.0
"""Of this thread's own computing, so that a busy machine stops nothing that a quiet one lets pass."""
MAX_SIZE = 1 << 26
"""What a rendering may make beyond INPUT_FACTOR times the size of its input."""
INPUT_FACTOR = 256
MAX_INTEGER_BITS = 4096
MAX_DEPTH = 100
ELEMENT_SIZE = 32

Arguments = tuple[Any, ...]
Keywords = dict[str, Any]


class LimitError(Exception):
    """A template takes too much."""


class Budget:
    """What one rendering may still use."""

    def __init__(self, variables: Mapping[str, Any]) -> None:
        self.deadline = time.thread_time() + MAX_SECONDS
        self.left = MAX_SIZE + INPUT_FACTOR * measure(variables, 1 << 40)

    def tick(self) -> None:
        """Look at the clock."""
        if time.thread_time() > self.deadline:
            raise LimitError(f"it computes for more than {MAX_SECONDS:g} seconds")

    def require(self, size: int) -> None:
        """Refuse what would be too large, before it is made."""
        self.tick()
        if size > self.left:
            raise LimitError("its texts become too large")

    def spend(self, size: int) -> None:
        """Take a size off the budget."""
        self.require(size)
        self.left -= size

    def charge(self, value: Any) -> Any:
        """Pay for a new value with all that it contains, and hand it on."""
        self.spend(self.measure(value))
        return value

    def charge_shell(self, value: Any) -> Any:
        """Pay for a new container of values that exist already."""
        self.spend(ELEMENT_SIZE * len(value) if isinstance(value, (list, tuple, dict)) else 0)
        return value

    def measure(self, value: Any) -> int:
        """A value's size; just something above `left` if it is more than that."""
        return measure(value, self.left)


def measure(value: Any, most: int, depth: int = 0) -> int:
    """Stops counting beyond `most`: nested containers can stand for more than could ever be counted."""
    if isinstance(value, (str, bytes)):
        return len(value)
    if isinstance(value, int):
        require_bits(value.bit_length())
        return value.bit_length() // 3
    if type(value).__name__ == "Namespace":
        value = object.__getattribute__(value, "_Namespace__attrs")
    if isinstance(value, Mapping):
        parts: Iterable[Any] = (part for item in value.items() for part in item)
    elif isinstance(value, (list, tuple, set, frozenset)):
        parts = value
    else:
        return 0
    if depth > MAX_DEPTH:
        raise LimitError("its values are nested too deep")
    size = 0
    for part in parts:
        size += ELEMENT_SIZE + measure(part, most - size, depth + 1)
        if size > most:
            break
    return size


def require_bits(bits: int) -> None:
    """Refuse integers whose arithmetic would take long."""
    if bits > MAX_INTEGER_BITS:
        raise LimitError("its numbers become too large")


def size_of_operation(budget: Budget, operator: str, left: Any, right: Any) -> int:
    """Of the result of an operator that makes much out of little; 0 for the others."""
    numbers = isinstance(left, int) and isinstance(right, int)
    if operator == "*" and numbers:
        require_bits(left.bit_length() + right.bit_length())
    elif operator == "*":
        sequence, count = (right, left) if isinstance(left, int) else (left, right)
        return budget.measure(sequence) * count if isinstance(count, int) else 0
    elif operator == "**" and numbers and right > 0:
        require_bits(left.bit_length() * right)
    elif operator == "%" and isinstance(left, (str, bytes)):
        text = left if isinstance(left, str) else left.decode("latin-1")
        return _size_of_format(budget, text, "%", re.findall(r"%[^a-zA-Z%]*", text), right)
    return 0


def _size_of_format(budget: Budget, text: str, mark: str, fields: list[str], values: Any) -> int:
    """Every field at its width, and every value in every field."""
    widths = [int(digits[:9]) for field in fields for digits in re.findall(r"\d+", field)]
    if any("*" in field or "{" in field[1:] for field in fields):
        raise LimitError("it formats with a width that is a variable")
    return len(text) + sum(widths) + text.count(mark) * budget.measure(values)


def _size_of_replace(text: Any, old: Any, new: Any) -> int:
    text, old, new = (part if isinstance(part, (str, bytes)) else str(part) for part in (text, old, new))
    return len(text) + len(new) * (text.count(old) if isinstance(old, type(text)) else 0)


def _size_of_join(budget: Budget, separator: Any, parts: Any) -> int:
    count = len(parts) if hasattr(parts, "__len__") else 0
    return budget.measure(parts) + budget.measure(separator) * count


def _argument(args: Arguments, kwargs: Keywords, index: int, name: str, default: Any) -> Any:
    return args[index] if len(args) > index else kwargs.get(name, default)


def _number(args: Arguments, kwargs: Keywords, index: int, name: str, default: int) -> int:
    value = _argument(args, kwargs, index, name, default)
    return value if isinstance(value, int) else 0


def size_of_method(budget: Budget, owner: Any, name: str, args: Arguments, kwargs: Keywords) -> int:
    """Of the result of a method of a text or a number."""
    if isinstance(owner, int):
        return _number(args, kwargs, 0, "length", 0)  # to_bytes
    if name in ("ljust", "rjust", "center", "zfill"):
        return _number(args, kwargs, 0, "width", 0)
    if name == "expandtabs":
        tab: Any = b"\t" if isinstance(owner, bytes) else "\t"
        return len(owner) + int(owner.count(tab)) * _number(args, kwargs, 0, "tabsize", 8)
    if name == "replace" and len(args) >= 2:
        return _size_of_replace(owner, args[0], args[1])
    if name == "join" and args:
        return _size_of_join(budget, owner, args[0])
    if name in ("split", "rsplit", "splitlines"):
        separator = _argument(args, kwargs, 0, "sep", None)
        exact = name != "splitlines" and isinstance(separator, type(owner)) and len(separator) > 0
        return ELEMENT_SIZE * (1 + owner.count(separator) if exact else len(owner))
    if name == "translate":
        return len(owner) * budget.measure(args)
    if name in ("format", "format_map"):
        plain = owner.replace("{{", "").replace("}}", "")
        return _size_of_format(budget, owner, "{", re.findall(r"\{[^}]*", plain), (args, kwargs))
    return 0


def _size_of_indent(budget: Budget, args: Arguments, kwargs: Keywords) -> int:
    text, width = str(args[0]), _argument(args, kwargs, 1, "width", 4)
    return len(text) + (1 + text.count("\n")) * (width if isinstance(width, int) else budget.measure(width))


def _size_of_json(budget: Budget, args: Arguments, kwargs: Keywords) -> int:
    indent = _argument(args, kwargs, 2, "indent", 0) or 0
    return budget.measure(args[0]) * (1 + (indent if isinstance(indent, int) else budget.measure(indent)))


# (budget, arguments, keyword arguments) -> size of a filter's result; the first argument is what is filtered.
FILTER_SIZES: dict[str, Callable[[Budget, Arguments, Keywords], int]] = {
    "batch": lambda budget, args, kwargs: ELEMENT_SIZE * _number(args, kwargs, 1, "linecount", 0),
    "center": lambda budget, args, kwargs: _number(args, kwargs, 1, "width", 80),
    "format": lambda budget, args, kwargs: size_of_operation(budget, "%", str(args[0]), (args[1:], kwargs)),
    "indent": _size_of_indent,
    "join": lambda budget, args, kwargs: _size_of_join(budget, _argument(args, kwargs, 1, "d", ""), args[0]),
    "list": lambda budget, args, kwargs: ELEMENT_SIZE * len(args[0]) if isinstance(args[0], (str, bytes)) else 0,
    "replace": lambda budget, args, kwargs: _size_of_replace(*args[:3]) if len(args) >= 3 else 0,
    "slice": lambda budget, args, kwargs: ELEMENT_SIZE * _number(args, kwargs, 1, "slices", 0),
    "tojson": _size_of_json,
}

# Filters that hand on what exists already, in a new container at most.
PASSING_FILTERS = frozenset(
    "attr batch count d default dictsort first groupby items last length list max min random reject rejectattr reverse"
    " select selectattr slice sort unique".split()
)
