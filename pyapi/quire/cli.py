"""The command `quire`. Only what a command needs is imported, so that --version and --help answer at once."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

HELP = """\
usage: quire COMMAND ...

Run language models on this machine.

commands:
  generate    complete a prompt; the text appears while it is made
  chat        talk with a model
  info        show what a model is and needs, without loading it

  quire COMMAND --help    the flags of a command
  quire --version         the version

examples:
  quire generate "Once upon a time"
        a little story, from the model that is built in
  quire generate --model ./model --temperature 0 --max-tokens 50 "The capital of France is"
        the same for a model folder in Hugging Face layout (config.json, weights, tokenizer files)
  quire generate --model ./model < prompt.txt > answer.txt
        from a file and into a file
  quire chat --model ./model
        a conversation, if the model has a chat template
  quire info ./model
        its family, size and memory plan
"""

COMMANDS = ("generate", "chat", "info", "serve")

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


def _with_dashes(words: Sequence[str]) -> list[str]:
    """--max_tokens is --max-tokens; what follows a lone -- is text."""
    result = list(words)
    for index, word in enumerate(words):
        if word == "--":
            break
        if word.startswith("--"):
            name, equals, value = word.partition("=")
            result[index] = name.replace("_", "-") + equals + value
    return result


def _run(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(HELP, end="")
        return 0 if words else EXIT_USAGE
    if words[0] in ("-V", "--version"):
        from quire._version import __version__

        print(f"quire {__version__}")
        return 0
    return int(_module(words[0]).run(parse(words[0], words[1:])))


def _module(name: str) -> Any:
    if name not in COMMANDS:
        kind = "flag" if name.startswith("-") else "command"
        raise UsageError(f"unknown {kind} {name!r}{_guess(name, COMMANDS)}; the commands are {', '.join(COMMANDS)}")
    from importlib import import_module

    return import_module(f"quire.commands.{name.replace('-', '_')}")


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


def _one_line(error: BaseException) -> str:
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
    try:
        status = _run(list(words))
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
        print(f"quire: error: {_one_line(error)}", file=sys.stderr)
        return EXIT_USAGE if isinstance(error, UsageError) else EXIT_ERROR


if __name__ == "__main__":
    sys.exit(main())
