"""What a server is started with: vLLM's flags by their names, from the command line, the environment and a file."""

from __future__ import annotations

import argparse
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from quire.arguments import AsyncEngineArgs, check_fields
from quire.checks import BOOL, BYTES, FLOAT, INT, TEXT, Kind, as_text, at_least, described, one_of, optional
from quire.cli import UsageError
from quire.settings import flag_entries, settings

MIB = 1024 * 1024

BUILT_IN_NAME = "storyteller"
"""What the built-in model is called where no name is given."""

ENGINE_FIELDS_LEFT_OUT = ("max_queued_requests",)
"""Of the engine's fields those that are no flags: --max-queued-requests is the server's."""


def _word(name: str, value: Any) -> str:
    text = as_text(name, value)
    if not text or not text.isprintable():
        raise ValueError(f"{name} must not be empty and have no control characters, got {value!r}.")
    return text


def _key(name: str, value: Any) -> str:
    # The value is never shown: error messages end up in logs.
    if not isinstance(value, str) or not re.fullmatch(r"[!-~]+", value):
        raise ValueError(f"{name} must be printable ASCII without spaces, and not empty.")
    return value


def _port(name: str, value: Any) -> int:
    if not 0 <= INT.check(name, value) <= 65535:
        raise ValueError(f"{name} must be in [0, 65535], 0 for any that is free, got {value!r}.")
    return int(value)


def _prefix(name: str, value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"([a-zA-Z_:][a-zA-Z0-9_:]*)?", value):
        raise ValueError(f"{name} must be made of letters, digits, _ and :, got {value!r}.")
    return value


def _certificate_requests(name: str, value: Any) -> int:
    if INT.check(name, value) not in (0, 1, 2):
        raise ValueError(f"{name} must be 0 (none), 1 (optional) or 2 (required), got {value!r}.")
    return int(value)


def _root_path(name: str, value: Any) -> str:
    text = _word(name, value)
    if not text.startswith("/"):
        raise ValueError(f"{name} must begin with a slash, got {value!r}.")
    return text.rstrip("/")


def _list_of(check: Callable[[str, Any], str], example: str) -> Callable[[str, Any], tuple[str, ...]]:
    def check_all(name: str, value: Any) -> tuple[str, ...]:
        items = [value] if isinstance(value, str) else value
        if not isinstance(items, (list, tuple)):
            raise ValueError(f"{name} must be a list such as {example}, got {value!r}.")
        return tuple(check(f"{name}[{index}]", item) for index, item in enumerate(items))

    return check_all


def _import_path(name: str, value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"\w+(\.\w+)+", value):
        raise ValueError(f"{name} must be an import path such as package.module.Class, got {value!r}.")
    return value


def _adapter(name: str, value: Any) -> str:
    if not isinstance(value, str) or not all(value.partition("=")):
        raise ValueError(f"{name} must be NAME=FOLDER, got {value!r}.")
    return value


WORD = Kind(_word, str, "TEXT")
KEY = Kind(_key, str, "KEY")
FILE = Kind(_word, str, "FILE")
PORT = Kind(_port, int, "N", "an integer")
ROOT_PATH = Kind(_root_path, str, "PATH")
PREFIX = Kind(_prefix, str, "TEXT")
SECONDS = at_least(0, Kind(FLOAT.check, float, "SECONDS", "a number"))
SIZE = at_least(1, BYTES)
NAMES = Kind(_list_of(_word, '["name"]'), str, "NAME", repeatable=True, several=True)
ADAPTERS = Kind(_list_of(_adapter, '["name=folder"]'), str, "NAME=FOLDER", repeatable=True, several=True)
IMPORT_PATHS = Kind(_list_of(_import_path, '["package.module.Class"]'), str, "package.Class", repeatable=True)
# As vLLM has it: a list in JSON is one value.
JSON_LIST = Kind(_list_of(as_text, '["*"]'), json.loads, "JSON", 'a list in JSON such as ["*"]')


@dataclass
class ServerArgs:
    """What a server is started with. Names and defaults are those of vLLM 0.4.0, except that

    - it listens at 127.0.0.1 alone unless told otherwise;
    - the limits are additions, and on.

    Raises at construction ValueError that names field and value, NotImplementedError for what is not offered.
    """

    engine: AsyncEngineArgs = field(default_factory=AsyncEngineArgs)

    host: str = described("127.0.0.1", WORD, "address to listen at; 0.0.0.0: all of this machine", group="server")
    port: int = described(8000, PORT, "port to listen at; 0: any that is free", group="server")
    served_model_name: tuple[str, ...] = described(
        (), NAMES, "names of the model in requests, the first in answers; default: MODEL as given", group="server"
    )
    chat_template: str | None = described(
        None, optional(TEXT), "jinja2 template, a file or the text itself, instead of the model's", group="server"
    )
    response_role: str = described("assistant", WORD, "role of answers in chat", group="server")
    root_path: str | None = described(None, optional(ROOT_PATH), "path that a proxy in front cuts off", group="server")
    page: bool = described(True, BOOL, "serve the page at /", group="server")
    middleware: tuple[str, ...] = described(
        (), IMPORT_PATHS, "ASGI middleware to put in front: a class or a coroutine function; repeatable", group="server"
    )
    lora_modules: tuple[str, ...] = described(
        (),
        ADAPTERS,
        "not offered yet: merge the adapter into the weights",
        offered=((),),
        remedy="merge the adapter into the weights",
        hidden=True,
        group="server",
    )

    api_key: str | None = field(
        default=None,
        repr=False,
        metadata={
            "kind": optional(KEY),
            "help": "key that clients must send; better in VLLM_API_KEY or QUIRE_API_KEY, where `ps` does not show it",
            "group": "access",
            "variables": ("VLLM_API_KEY",),
        },
    )
    ssl_keyfile: str | None = described(None, optional(FILE), "private key for HTTPS", group="access")
    ssl_certfile: str | None = described(None, optional(FILE), "certificate for HTTPS", group="access")
    ssl_ca_certs: str | None = described(None, optional(FILE), "authorities of client certificates", group="access")
    ssl_cert_reqs: int = described(
        0, Kind(_certificate_requests, int, "N", "an integer"), "ask for client certificates: 0, 1, 2", group="access"
    )
    allowed_origins: tuple[str, ...] = described(
        ("*",), JSON_LIST, "web pages whose scripts may call the server (CORS)", group="access"
    )
    allowed_methods: tuple[str, ...] = described(("*",), JSON_LIST, "methods that they may use", group="access")
    allowed_headers: tuple[str, ...] = described(("*",), JSON_LIST, "headers that they may send", group="access")
    allow_credentials: bool = described(False, BOOL, "let them send cookies", group="access")

    max_queued_requests: int = described(1024, at_least(1), "requests that may wait or run at a time", group="limits")
    max_queued_tokens: int | None = described(
        None,
        optional(at_least(1)),
        "prompt tokens that may wait or run; default: 16 times what the KV cache holds",
        group="limits",
    )
    max_body_bytes: int = described(32 * MIB, SIZE, "largest body of a request", group="limits", shown="32M")
    max_header_bytes: int = described(64 * 1024, SIZE, "largest head of a request", group="limits", shown="64K")
    request_timeout: float = described(
        60.0, SECONDS, "how long a client may take to send a request; 0: for ever", group="limits"
    )
    drain_timeout: float = described(
        30.0, SECONDS, "how long running answers may go on after SIGTERM; 0: not at all", group="limits"
    )
    step_watchdog: float = described(
        30.0, SECONDS, "/ready says no if a step takes longer than this; 0: never", group="limits"
    )

    uvicorn_log_level: str = described(
        "info", one_of("debug", "info", "warning", "error", "critical", "trace"), "what to log of HTTP", group="logs"
    )
    metrics_prefix: str = described("vllm:", PREFIX, "what names in /metrics begin with", group="logs")
    debug: bool = False
    """Show where errors come from."""

    def __post_init__(self) -> None:
        check_fields(self)
        if self.ssl_keyfile is not None and self.ssl_certfile is None:
            raise ValueError(f"ssl_certfile must be given too, got ssl_keyfile={self.ssl_keyfile!r} alone.")
        if self.ssl_cert_reqs and self.ssl_ca_certs is None:
            raise ValueError(f"ssl_ca_certs must be given too, got ssl_cert_reqs={self.ssl_cert_reqs} alone.")

    @property
    def disable_log_requests(self) -> bool:
        """Whether to log no line per request."""
        return self.engine.disable_log_requests

    @property
    def disable_log_stats(self) -> bool:
        """Whether to log no line about load every few seconds."""
        return self.engine.disable_log_stats

    @property
    def model_names(self) -> tuple[str, ...]:
        """What the model is called in requests; the first one stands in answers."""
        return self.served_model_name or (self.engine.model or BUILT_IN_NAME,)

    def read_chat_template(self) -> str | None:
        r"""The template's text: of the file, or what was given if it has braces (with \n for a line break).

        Raises: OSError if the file cannot be read; ValueError if it is not UTF-8 text.
        """
        if self.chat_template is None:
            return None
        if any(sign in self.chat_template for sign in "{}\n"):
            return re.sub(r"\\([ntr\\])", lambda found: _ESCAPES[found[1]], self.chat_template)
        with open(os.path.expanduser(self.chat_template), "rb") as file:
            data = file.read()
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            raise ValueError(f"chat_template={self.chat_template!r} is not UTF-8: byte {error.start}.") from None

    def is_reachable_from_elsewhere(self) -> bool:
        """Whether other machines may connect."""
        return not (self.host in ("localhost", "::1") or self.host.startswith("127."))


_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "\\": "\\"}


def parse_server_args(words: Sequence[str], environ: Mapping[str, str]) -> ServerArgs:
    """Read the flags of `quire serve`: command line before environment before --config file before default.

    Raises: UsageError for what is wrong on the command line or in the environment or the file; OSError if the file
    cannot be read; NotImplementedError for what is not offered.
    """
    from quire.cli import parse

    return server_args(parse("serve", words), environ)


def server_args(options: argparse.Namespace, environ: Mapping[str, str]) -> ServerArgs:
    """As parse_server_args(), from flags that are parsed; those not given are missing in `options`."""
    engine_entries = flag_entries((AsyncEngineArgs,), ENGINE_FIELDS_LEFT_OUT)
    if getattr(options, "model_argument", None) is not None:
        if hasattr(options, "model"):
            raise UsageError("give the model as an argument or with --model, not both")
        options.model = options.model_argument
    values = settings(options, environ, engine_entries | flag_entries((ServerArgs,)))
    of_engine = {name: values.pop(name) for name in list(values) if name in engine_entries}
    try:
        return ServerArgs(engine=AsyncEngineArgs(**of_engine), debug=getattr(options, "debug", False), **values)
    except ValueError as error:
        raise UsageError(str(error)) from None
