"""Runs templates that are not trusted: jinja2's sandbox, with bounds on time and memory.

jinja2's sandbox keeps a template from reaching Python's insides. It does not keep it from running for ever or from
filling the memory, so this one adds a budget:

- Time: the clock is read at every call, filter, operator, output and turn of a loop; two seconds of computing are
  allowed.
- Size: every text and container that an operator, a call, a filter, a literal or the output makes is charged.
  Operations that make much out of little (repetition, powers, formats, padding, replace, join) are refused before they
  begin. Hence memory is bounded as well, to some hundred megabytes for a hostile template.

Not bounded is the time of one single operation on values of allowed size, such as sorting a list of a million elements
or compiling a template of the longest allowed length: a few seconds beyond the limit. Left out of jinja2 are lipsum and
the filters pprint, striptags, urlize and wordwrap, whose cost can grow with the square of a text's length and which no
chat needs.
"""

from __future__ import annotations

import contextvars
import datetime
import functools
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jinja2
import jinja2.ext
from jinja2 import nodes
from jinja2.filters import FILTERS
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from quire.chat_budget import FILTER_SIZES, PASSING_FILTERS, Budget, LimitError, size_of_method, size_of_operation

MAX_TEMPLATE_CHARACTERS = 1 << 18

_LEFT_OUT = frozenset(("pprint", "striptags", "urlize", "wordwrap"))

_budget: contextvars.ContextVar[Budget] = contextvars.ContextVar("budget")


def _bounded_filter(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter that pays for what it makes."""
    size_of = FILTER_SIZES.get(name)
    takes_context = hasattr(function, "jinja_pass_arg")

    @functools.wraps(function)  # keeps the mark that the filter takes a context
    def filtered(*args: Any, **kwargs: Any) -> Any:
        budget = _budget.get()
        values = args[1:] if takes_context else args
        if size_of is not None and values:
            budget.require(size_of(budget, values, kwargs))
        elif name not in PASSING_FILTERS and name != "map":
            budget.require(budget.measure(values))
        result = function(*args, **kwargs)
        if name == "map":
            return _charged(budget, result)
        return budget.charge_shell(result) if name in PASSING_FILTERS else budget.charge(result)

    return filtered


def _charged(budget: Budget, items: Any) -> Iterator[Any]:
    for item in items:
        yield budget.charge(item)


class GenerationBlocks(jinja2.ext.Extension):  # type: ignore[misc]
    """`{% generation %}...{% endgeneration %}`, with which templates mark answers for training: just the inside."""

    tags = {"generation"}

    def parse(self, parser: Any) -> Any:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)


class Bounds(NodeTransformer):  # type: ignore[misc]
    """Puts the budget into a template where jinja2 has no hook: loops, `~`, and literals of containers."""

    def visit_For(self, node: Any) -> Any:
        text = sum(len(data.data) for data in node.find_all(nodes.TemplateData))
        node = self.generic_visit(node)
        node.body.insert(0, nodes.ExprStmt(_environment_call("bounded_turn", [nodes.Const(text)]), lineno=node.lineno))
        return node

    def visit_Concat(self, node: Any) -> Any:
        node = self.generic_visit(node)
        return _environment_call("bounded_concat", node.nodes)

    def visit_List(self, node: Any) -> Any:
        node = self.generic_visit(node)
        is_target = getattr(node, "ctx", "load") != "load"
        return node if is_target else _environment_call("bounded_value", [node])

    visit_Dict = visit_Tuple = visit_List


def _environment_call(name: str, args: list[Any]) -> Any:
    line = args[0].lineno if args and args[0].lineno else 1
    return nodes.Call(nodes.EnvironmentAttribute(name, lineno=line), args, [], None, None, lineno=line)


class BoundedEnvironment(ImmutableSandboxedEnvironment):  # type: ignore[misc]
    """The environment of transformers' chat templates, with the budget in every place."""

    intercepted_binops = frozenset(("+", "*", "**", "%"))

    def __init__(self) -> None:
        extensions = [GenerationBlocks, "jinja2.ext.loopcontrols"]
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=extensions, finalize=self.bounded_value)
        filters: dict[str, Callable[..., Any]] = {**FILTERS, "tojson": _to_json}
        self.filters = {
            name: _bounded_filter(name, function) for name, function in filters.items() if name not in _LEFT_OUT
        }
        self.globals.pop("lipsum", None)
        self.globals["raise_exception"] = _raise_exception
        self.globals["strftime_now"] = _strftime_now

    def bounded_value(self, value: Any = "") -> Any:
        """Pay for a value that is written, or for a literal."""
        return _budget.get().charge(value)

    def bounded_turn(self, text: int) -> None:
        """Pay for a turn of a loop whose body holds so many characters of text."""
        _budget.get().spend(text)

    def bounded_concat(self, *values: Any) -> str:
        """The operator `~`; the result is paid for by call()."""
        budget = _budget.get()
        budget.require(budget.measure(values))
        return "".join(map(str, values))

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Apply an intercepted operator."""
        budget = _budget.get()
        budget.require(size_of_operation(budget, operator, left, right))
        return budget.charge(super().call_binop(context, operator, left, right))

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: B902, N805
        """Call a macro, a method or a global."""
        budget = _budget.get()
        method = getattr(__obj, "__wrapped__", __obj)  # the sandbox wraps str.format
        owner = getattr(method, "__self__", None)
        if isinstance(owner, (str, bytes, int)):
            name = getattr(method, "__name__", "")
            if name == "join" and args:
                args = (list(args[0]), *args[1:])  # a generator's size is not known
            budget.require(size_of_method(budget, owner, name, args, kwargs))
        budget.tick()
        result = super().call(__context, __obj, *args, **kwargs)
        return budget.charge_shell(result) if isinstance(owner, (Mapping, list, tuple)) else budget.charge(result)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # Not jinja2's own filter, which escapes for HTML.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def _strftime_now(form: str) -> str:
    return datetime.datetime.now().strftime(form)


@functools.lru_cache(maxsize=1)
def _environment() -> BoundedEnvironment:
    return BoundedEnvironment()


@functools.lru_cache(maxsize=16)
def _compiled(source: str) -> Any:
    environment = _environment()
    return environment.from_string(Bounds().visit(environment.parse(source)))


def render_bounded(source: str, variables: dict[str, Any]) -> str:
    """Render a template. Raises: ValueError if it is wrong, fails, or takes too much."""
    if len(source) > MAX_TEMPLATE_CHARACTERS:
        limit = f"at most {MAX_TEMPLATE_CHARACTERS} characters"
        raise ValueError(f"The chat template is too long: {limit}, got {len(source)}.")
    try:
        budget = Budget(variables)
        token = _budget.set(budget)
        try:
            return "".join(budget.charge(part) for part in _compiled(source).generate(variables))
        finally:
            _budget.reset(token)
    except LimitError as error:
        raise ValueError(f"The chat template was stopped: {error}.") from None
    except jinja2.TemplateSyntaxError as error:
        raise ValueError(f"The chat template is wrong in line {error.lineno}: {error.message}") from None
    except (RecursionError, MemoryError):
        raise ValueError("The chat template was stopped: it is nested too deep.") from None
    except Exception as error:  # whatever Python's own types raise inside a template
        raise ValueError(f"The chat template failed: {error}") from error
