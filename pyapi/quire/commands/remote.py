"""What `quire complete` and `quire chat --url` share: flags that name a server, and what is asked of it."""

from __future__ import annotations

import argparse
from dataclasses import fields
from typing import Any

from quire.arguments import EngineArgs
from quire.cli import UsageError
from quire.client import DEFAULT_URL, Client, api_key
from quire.commands.flags import flag_group, given
from quire.sampling import SamplingParams


def add_server_flags(parser: argparse.ArgumentParser, default_url: str | None) -> None:
    """Flags that say which server, and which of its models."""
    group = flag_group(parser, "server")
    shown = f" (default: {default_url})" if default_url else f", such as {DEFAULT_URL}"
    group.add_argument("--url", metavar="URL", default=default_url, help="address of a server" + shown)
    group.add_argument(
        "--model-name", metavar="NAME", help="which of the server's models; default: the first of /v1/models"
    )
    group.add_argument(
        "--api-key", metavar="KEY", help="key of the server; default: the environment's QUIRE_API_KEY or VLLM_API_KEY"
    )


def connect(options: argparse.Namespace) -> Client:
    """The client of the server that --url names; a wrong URL is a wrong command line."""
    try:
        return Client(options.url, api_key(options.api_key))
    except ValueError as error:
        raise UsageError(str(error)) from None


def request_body(options: argparse.Namespace, client: Client, max_tokens: int | None = None) -> dict[str, Any]:
    """Model and sampling parameters; those that were not given are the server's to choose.

    Args:
        max_tokens: where no flag says, or half the context if that is less; None leaves it to the server.

    Raises: UsageError for a wrong value, which the server is not asked about; ServerError; ConnectionError.
    """
    from_flags = given(options, SamplingParams)
    try:
        SamplingParams(**from_flags)
    except ValueError as error:
        raise UsageError(str(error)) from None
    model, context = client.model(options.model_name)
    body: dict[str, Any] = {"model": model}
    if max_tokens is not None:
        body["max_tokens"] = max_tokens if context is None else max(1, min(max_tokens, context // 2))
    return body | from_flags


def refuse_engine_flags(options: argparse.Namespace) -> None:
    """With --url there is no engine here.

    Raises: UsageError.
    """
    for entry in fields(EngineArgs):
        if entry.name != "seed" and hasattr(options, entry.name):
            name = entry.name.replace("_", "-")
            raise UsageError(f"--{name} is about a model that is loaded here; with --url the server has loaded its own")
