"""Serve a model over HTTP, by the API of OpenAI: chat and completions, streamed or not, with a page to look at.

  quire serve                                   the built-in model at http://127.0.0.1:8000
  quire serve ./model --port 8080               a model folder
  quire serve org/name --served-model-name m    a model of the Hugging Face hub, called m in requests
  quire serve --config server.yaml              flags from a file, as in "port: 8080"

  curl http://127.0.0.1:8000/v1/completions -H "Content-Type: application/json" \\
    -d '{"model": "storyteller", "prompt": "Once upon a time", "max_tokens": 50}'

Every flag may also be set by an environment variable, --max-model-len by QUIRE_MAX_MODEL_LEN. The command line goes
before the environment, the environment before the file. Ctrl-C or SIGTERM lets running answers end, a second one
does not.
"""

from __future__ import annotations

import argparse
import os

from quire.arguments import AsyncEngineArgs
from quire.commands import console
from quire.commands.flags import add_field_flags, flag_group
from quire.server_arguments import ENGINE_FIELDS_LEFT_OUT, ServerArgs, server_args

USAGE = "[MODEL] [FLAG ...]"


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `quire serve`."""
    parser.add_argument(
        "model_argument",
        nargs="?",
        metavar="MODEL",
        help="model folder or name on the hub; default: the built-in model",
    )
    parser.add_argument("--config", metavar="FILE", help="YAML or JSON file with flags and their values")
    for title in ("model", "server", "access", "limits", "logs", "engine"):
        flag_group(parser, title)
    add_field_flags(parser, ServerArgs)
    add_field_flags(parser, AsyncEngineArgs, exclude=ENGINE_FIELDS_LEFT_OUT)


def run(options: argparse.Namespace) -> int:
    """Run `quire serve`."""
    console.prepare_output()
    arguments = server_args(options, os.environ)
    for line in notes(arguments):
        console.note(f"quire: {line}")

    from quire.server.run import serve

    return serve(arguments)


def notes(arguments: ServerArgs) -> list[str]:
    """What the operator should know before the start."""
    lines = []
    ignored = ["--" + name.replace("_", "-") for name in arguments.engine.without_effect(on_gpu=True)]
    if ignored:
        lines.append(f"these flags change nothing here: {', '.join(ignored)}")
    if arguments.is_reachable_from_elsewhere() and arguments.api_key is None:
        lines.append(
            f"warning: whoever can reach {arguments.host}:{arguments.port} may use the model; "
            "set a key with VLLM_API_KEY or --api-key"
        )
    return lines
