"""Talk with a model that has a chat template. Ctrl-C stops an answer, /help lists what can be typed."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from typing import TYPE_CHECKING, Any

from quire.commands import console
from quire.commands.flags import add_engine_flags, add_sampling_flags
from quire.commands.generate import ENGINE_FLAGS_LEFT_OUT, engine_arguments, sampling_params

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


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `quire chat`."""
    parser.add_argument("--system", metavar="TEXT", help="what the model is told before the conversation")
    parser.add_argument("--chat-template", metavar="FILE", help="jinja2 template to use instead of the model's")
    add_sampling_flags(parser, DEFAULTS)
    add_engine_flags(parser, exclude=ENGINE_FLAGS_LEFT_OUT, keep_defaults=False)


def run(options: argparse.Namespace) -> int:
    """Run `quire chat`."""
    console.prepare_output()
    arguments = engine_arguments(options)
    params = sampling_params(options, arguments, DEFAULTS)
    template = None
    if options.chat_template is not None:
        with open(os.path.expanduser(options.chat_template), encoding="utf-8") as file:
            template = file.read()

    from quire.llm import LLM

    with LLM.from_engine_args(arguments) as llm:
        Conversation(llm, params, template, options.system).run()
    return 0


class Conversation:
    """The loop of question and answer."""

    def __init__(self, llm: LLM, params: SamplingParams, template: str | None, system: str | None) -> None:
        self._llm = llm
        self._params = params
        self._template = template
        self._beginning = [] if system is None else [{"role": "system", "content": system}]
        self._messages: list[dict[str, Any]] = list(self._beginning)
        # What is wrong with the template must be told now, not after the first question.
        if template is None and llm.get_tokenizer().chat_template is None:
            raise ValueError("The model has no chat template: give one with --chat-template, or use `quire generate`.")
        probe = [*self._beginning, {"role": "user", "content": "Hello"}]
        llm.get_tokenizer().apply_chat_template(probe, chat_template=template, tokenize=False)

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
            with self._llm.stream_chat(messages, self._params, chat_template=self._template) as outputs:
                for output in outputs:
                    for completion in output.outputs:
                        answer += completion.text
                        console.write(completion.text)
                    if output.error:
                        console.note(f"\nquire: error: {output.error}")
        except ValueError as error:
            console.note(f"quire: error: {error} (/clear makes room)")
            return
        except KeyboardInterrupt:
            console.note(" ... stopped")
        console.write("\n")
        self._messages = [*messages, {"role": "assistant", "content": answer}]
