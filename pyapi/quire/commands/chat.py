"""Talk with a model that has a chat template. Ctrl-C stops an answer, /help lists what can be typed.

  quire chat --model ./model            a model folder, loaded here
  quire chat --model org/name           a model of the Hugging Face hub
  quire chat --url http://host:8000     a server, of any make that speaks OpenAI's API
  echo "Hello" | quire chat ...         answers line by line

With --url the engine flags make no sense, and sampling parameters that are not given are the server's to choose.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Protocol

from quire.cli import UsageError
from quire.client import Client, ServerError
from quire.commands import console
from quire.commands.flags import add_engine_flags, add_sampling_flags
from quire.commands.generate import ENGINE_FLAGS_LEFT_OUT, engine_arguments, sampling_params
from quire.commands.remote import add_server_flags, connect, refuse_engine_flags, request_body

if TYPE_CHECKING:
    from quire.llm import LLM
    from quire.sampling import SamplingParams

USAGE = "[FLAG ...]"

# An answer ends where the model ends it, or with the context.
DEFAULTS = {"max_tokens": None}

HELP = """\
/clear   forget the conversation
/exit    leave (Ctrl-D does too)
/help    this list
Ctrl-C stops an answer that is being written."""

Messages = list[dict[str, Any]]


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `quire chat`."""
    parser.add_argument("--system", metavar="TEXT", help="what the model is told before the conversation")
    parser.add_argument("--chat-template", metavar="FILE", help="jinja2 template to use instead of the model's")
    add_server_flags(parser, None)
    add_sampling_flags(parser, DEFAULTS)
    add_engine_flags(parser, exclude=ENGINE_FLAGS_LEFT_OUT, keep_defaults=False)


def run(options: argparse.Namespace) -> int:
    """Run `quire chat`."""
    console.prepare_output()
    if options.url is not None:
        refuse_engine_flags(options)
        if options.chat_template is not None:
            raise UsageError("--chat-template is for a model that is loaded here; a server has its own template")
        client = connect(options)
        Conversation(ServedModel(client, request_body(options, client)), options.system).run()
        return 0
    if options.model_name is not None or options.api_key is not None:
        raise UsageError("--model-name and --api-key are for a server: give its --url too")
    template = None
    if options.chat_template is not None:
        with open(os.path.expanduser(options.chat_template), encoding="utf-8") as file:
            template = file.read()
    arguments = engine_arguments(options)
    params = sampling_params(options, arguments, DEFAULTS)

    from quire.llm import LLM

    with LLM.from_engine_args(arguments) as llm:
        model = LoadedModel(llm, params, template)
        model.check(_beginning(options.system))
        Conversation(model, options.system).run()
    return 0


class Model(Protocol):
    """Whom one talks with."""

    def answer(self, messages: Messages) -> contextlib.AbstractContextManager[Iterator[str]]:
        """The pieces of the answer as they come; leaving the block ends it."""


class LoadedModel:
    """A model in this process."""

    def __init__(self, llm: LLM, params: SamplingParams, template: str | None) -> None:
        self._llm = llm
        self._params = params
        self._template = template

    def check(self, beginning: Messages) -> None:
        """What is wrong with the template must be told now, not after the first question."""
        tokenizer = self._llm.get_tokenizer()
        if self._template is None and tokenizer.chat_template is None:
            raise ValueError("The model has no chat template: give one with --chat-template, or use `quire generate`.")
        probe = [*beginning, {"role": "user", "content": "Hello"}]
        tokenizer.apply_chat_template(probe, chat_template=self._template, tokenize=False)

    @contextlib.contextmanager
    def answer(self, messages: Messages) -> Iterator[Iterator[str]]:
        """As Model."""

        def pieces() -> Iterator[str]:
            for output in outputs:
                for completion in output.outputs:
                    yield completion.text
                if output.error:
                    console.note(f"\nquire: error: {output.error}")

        with self._llm.stream_chat(messages, self._params, chat_template=self._template) as outputs:
            yield pieces()


class ServedModel:
    """A model of a server."""

    def __init__(self, client: Client, body: dict[str, Any]) -> None:
        self._client = client
        self._body = body

    @contextlib.contextmanager
    def answer(self, messages: Messages) -> Iterator[Iterator[str]]:
        """As Model."""

        def pieces() -> Iterator[str]:
            for event in events:
                for choice in event.get("choices") or []:
                    yield (choice.get("delta") or {}).get("content") or ""

        with self._client.stream("/v1/chat/completions", {**self._body, "messages": messages}) as events:
            yield pieces()


def _beginning(system: str | None) -> Messages:
    return [] if system is None else [{"role": "system", "content": system}]


class Conversation:
    """The loop of question and answer."""

    def __init__(self, model: Model, system: str | None) -> None:
        self._model = model
        self._beginning = _beginning(system)
        self._messages: Messages = list(self._beginning)

    def run(self) -> None:
        """Until /exit or the end of input."""
        interactive = sys.stdin.isatty()
        if interactive:
            with contextlib.suppress(ImportError):  # not every Python has it
                import readline  # noqa: F401  gives input() its line editing
            console.note("Type a message; /help lists the commands.")
        while True:
            try:
                line = input("> " if interactive else "").strip()
            except EOFError:
                return
            except KeyboardInterrupt:
                if not interactive:
                    raise
                console.note("\nCtrl-D or /exit leaves.")
                continue
            if line == "/exit":
                return
            if line == "/clear":
                self._messages = list(self._beginning)
            elif line == "/help":
                console.note(HELP)
            elif line.startswith("/") and line[1:].isalpha():
                console.note(f"unknown command {line}; /help lists them")
            elif line:
                self._answer(line)

    def _answer(self, question: str) -> None:
        """Ask, show the answer as it comes, remember both. What goes wrong is said and forgotten."""
        messages = [*self._messages, {"role": "user", "content": question}]
        answer = ""
        try:
            with self._model.answer(messages) as pieces:
                for piece in pieces:
                    answer += piece
                    console.write(piece)
        except (ValueError, ServerError, ConnectionError) as error:
            too_long = isinstance(error, ValueError) or getattr(error, "status", None) == 400
            hint = " (/clear makes room)" if too_long else ""
            console.note(f"{chr(10) if answer else ''}quire: error: {error}{hint}")
            return
        except KeyboardInterrupt:
            console.note(" ... stopped")
        console.write("\n")
        self._messages = [*messages, {"role": "assistant", "content": answer}]
