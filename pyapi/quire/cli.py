"""The command `quire`. Only what a command needs is imported, so that --version and --help answer at once."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

HELP = """\
usage: quire COMMAND ...

Run language models on this machine.

here:
  generate    complete a prompt; the text appears while it is made
  chat        talk with a model, loaded here or of a server
  info        show what a model is and needs, without loading it
  run-batch   answer a file of requests in OpenAI's batch format

server:
  serve       serve a model over HTTP, by the API of OpenAI
  complete    have a server complete a prompt
  bench       measure: latency, throughput, or a server under load

  quire COMMAND --help    what a command does, its flags and examples
  quire --version         the version

A MODEL is a folder in Hugging Face layout (config.json, weights, tokenizer files), or the name of a model on the
Hugging Face hub, which is fetched once. Without one the built-in model runs, which writes little stories.

examples:
  quire generate "Once upon a time"
        a little story, from the model that is built in
  quire generate --model ./model --temperature 0 --max-tokens 50 "The capital of France is"
        the same for a model folder
  quire generate --model ./model < prompt.txt > answer.txt
        from a file and into a file
  quire chat --model Qwen/Qwen2.5-0.5B-Instruct
        a conversation with a model of the hub
  quire info ./model
        its family, size and memory plan
  quire serve ./model --port 8000
        then: quire chat --url http://127.0.0.1:8000, or open that address in a browser
  quire bench serve --url http://127.0.0.1:8000 --num-prompts 100
        how fast that server is
"""

COMMANDS = (
    "generate",
    "chat",
    "info",
    "run-batch",
    "serve",
    "complete",
    "bench latency",
    "bench throughput",
    "bench serve",
)

EXIT_ERROR = 1
EXIT_USAGE = 2
# What shells report for a program ended by these signals.
EXIT_INTERRUPT = 128 + 2
EXIT_BROKEN_PIPE = 128 + 13


class UsageError(Exception):
    """The command line is wrong."""


class Parser(argparse.ArgumentParser):
    """A parser that explains itself in one line and guesses what was meant."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see '{self.prog} --help'")

    def parse(self, words: Sequence[str]) -> argparse.Namespace:
        """Parse all words; the first one that nothing takes is an error."""
        options, extra = self.parse_known_args(list(words))
        if not extra:
            return options
        flags = [word for word in extra if word.startswith("-") and word != "-"]
        if not flags:
            self.error(f"unexpected argument {extra[0]!r}: put text with spaces in quotes")
        name = flags[0].partition("=")[0]
        self.error(f"unknown flag {name}{_guess(name, list(self._option_string_actions))}")


def _guess(word: str, known: Sequence[str]) -> str:
    import difflib

    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f", did you mean {close[0]}?" if close else ""


# vLLM 0.4.0 wants a word behind it, for which any text counted as yes.
_SWITCH_WITH_A_WORD = "--enable-chunked-prefill"


def _with_dashes(words: Sequence[str]) -> list[str]:
    """--max_tokens is --max-tokens; what follows a lone -- is text."""
    result: list[str] = []
    for index, word in enumerate(words):
        if word == "--":
            return [*result, *words[index:]]
        if word.startswith("--"):
            name, equals, value = word.partition("=")
            word = name.replace("_", "-") + equals + value
        elif result and result[-1] == _SWITCH_WITH_A_WORD and word.lower() in ("true", "false"):
            continue
        result.append(word)
    return result


def _run(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(HELP, end="")
        return 0 if words else EXIT_USAGE
    if words[0] in ("-V", "--version"):
        from quire._version import __version__

        print(f"quire {__version__}")
        return 0
    name, rest = words[0], words[1:]
    if name == "bench":
        if not rest or rest[0] in ("-h", "--help", "help"):
            from quire.commands.bench import HELP as BENCH_HELP

            print(BENCH_HELP, end="")
            return 0 if rest else EXIT_USAGE
        name, rest = f"bench {rest[0]}", rest[1:]
    return int(_module(name).run(parse(name, rest)))


def _module(name: str) -> Any:
    if name not in COMMANDS:
        kind = "flag" if name.startswith("-") else "command"
        raise UsageError(f"unknown {kind} {name!r}{_guess(name, COMMANDS)}; the commands are {', '.join(COMMANDS)}")
    from importlib import import_module

    return import_module("quire.commands." + name.replace("-", "_").replace(" ", "_"))


def parse(name: str, words: Sequence[str]) -> argparse.Namespace:
    """Parse the words behind a command's name.

    Raises: UsageError. SystemExit after --help.
    """
    command = _module(name)
    parser = Parser(
        prog=f"quire {name}",
        usage=f"quire {name} {command.USAGE}",
        description=command.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--debug", action="store_true", help="show where an error comes from")
    command.add_flags(parser)
    return parser.parse(_with_dashes(words))


def one_line(error: BaseException) -> str:
    """What is said of an error, for people."""
    if isinstance(error, OSError) and error.strerror:
        message = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    elif isinstance(error, (ValueError, OSError, NotImplementedError, MemoryError, RuntimeError, UsageError)):
        message = str(error) or ("not enough memory" if isinstance(error, MemoryError) else type(error).__name__)
    else:
        message = f"internal error, please report it: {type(error).__name__}: {error}; --debug shows where"
    return " ".join(message.split())


def _silence_stdout() -> None:
    """Nobody reads any more: let the interpreter's last flush go nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def main(words: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status: 0, 1 for an error, 2 for a wrong command line."""
    words = sys.argv[1:] if words is None else list(words)
    return guarded("quire", words, lambda: _run(list(words)))


def guarded(program: str, words: Sequence[str], run: Callable[[], int]) -> int:
    """The exit status of `run`, whose errors become one line; with --debug among the words they are raised."""
    try:
        status = run()
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        _silence_stdout()
        return EXIT_BROKEN_PIPE
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return EXIT_INTERRUPT
    except Exception as error:
        if "--debug" in words:
            raise
        print(f"{program}: error: {one_line(error)}", file=sys.stderr)
        return EXIT_USAGE if isinstance(error, UsageError) else EXIT_ERROR


if __name__ == "__main__":
    sys.exit(main())
