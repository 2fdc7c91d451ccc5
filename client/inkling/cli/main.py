# SPDX-License-Identifier: Apache-2.0
"""The command `inkling`, to which each installed distribution adds its subcommands.

A distribution declares entry points in the group `inkling.commands`. The name of an
entry point is the subcommand's name, and its value is an `inkling.cli.main.Command`.
"""

from __future__ import annotations

import argparse
import difflib
import errno
import itertools
import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import NoReturn

from inkling import __version__
from inkling.cli.text import escape_what_cannot_be_printed, open_missing_streams
from inkling.errors import InklingError

__all__ = ["Command", "main", "parser"]

# The errors of a write to a full disk or a device that fails.
_UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
_INTERRUPTED = 130  # 128 + SIGINT, the exit code that shells use
# argparse's words for a value that is none of the choices, such as a misspelt command.
_CHOICE = re.compile(
    r"invalid choice: '(.+?)' \((?:maybe you meant.*?)?choose from (.+)\)"
)


@dataclass(frozen=True)
class Command:
    """A subcommand of `inkling`.

    Attributes:
        help: The line that `inkling --help` prints for it.
        add_arguments: A function that adds the options to the subcommand's parser.
        run: A function that does the work and returns the exit code.
    """

    help: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    """Shows the default of each option, except None and False."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default in (None, False):
            return action.help
        return super()._get_help_string(action)


class _Parser(argparse.ArgumentParser):
    """Names the option or the choice that is most similar to a misspelt one."""

    def error(self, message: str) -> NoReturn:
        """Print the usage and the message, and exit with 2."""
        if choice := _CHOICE.search(message):
            known = [word.strip(" '\"") for word in choice[2].split(",")]
            message = f"{message}. {_did_you_mean(choice[1], known)}".rstrip()
        super().error(message)


class _CommandParser(_Parser):
    """Refuses misspelt options first: they turn their values into arguments."""

    def parse_known_args(  # type: ignore[override]
        self,
        args: Sequence[str] | None = None,
        namespace: argparse.Namespace | None = None,
    ) -> tuple[argparse.Namespace, list[str]]:
        """Parse the arguments after the subcommand's name."""
        known = [name for action in self._actions for name in action.option_strings]
        for word in itertools.takewhile(lambda word: word != "--", args or ()):
            name = word.partition("=")[0]
            if name.startswith("--") and " " not in word and name not in known:
                hint = _did_you_mean(name, known)
                self.error(f"unrecognized arguments: {word}. {hint}".rstrip())
        return super().parse_known_args(args, namespace)


def _did_you_mean(word: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(word, known, n=1)
    return f"Did you mean {near[0]}?" if near else ""


def parser() -> argparse.ArgumentParser:
    """Return the parser with the subcommands of every installed distribution."""
    root = _Parser(
        prog="inkling",
        description="Train, publish and serve image classifiers, and classify with "
        "them.",
        allow_abbrev=False,
    )
    root.add_argument("--version", action="version", version=f"inkling {__version__}")
    subparsers = root.add_subparsers(
        required=True, metavar="COMMAND", parser_class=_CommandParser
    )
    for entry in sorted(entry_points(group="inkling.commands"), key=lambda e: e.name):
        command: Command = entry.load()
        sub = subparsers.add_parser(
            entry.name,
            help=command.help,
            description=command.help,
            formatter_class=_Help,
            allow_abbrev=False,
        )
        command.add_arguments(sub)
        sub.set_defaults(run=command.run)
    return root


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code.

    The code is 0 for success, 1 for an error and 130 after Ctrl-C. argparse itself
    exits with 2 for wrong arguments.
    """
    # gRPC's core would write lines of its own beside the messages.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    open_missing_streams()
    escape_what_cannot_be_printed()
    options = parser().parse_args(arguments)
    try:
        code: int = options.run(options)
        sys.stdout.flush()
    except InklingError as error:
        # In one piece, so that no line of the log comes in between.
        sys.stderr.write(f"inkling: {error.message}\n")
        return 1
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BrokenPipeError:
        # The reader of the output has closed its end of the pipe, as `head` does.
        _drop_output()
        return 1
    except OSError as error:
        if error.errno not in _UNWRITABLE:
            raise
        try:
            sys.stdout.flush()
        except OSError:
            _drop_output()
        what = error.filename or "The output"
        sys.stderr.write(f"inkling: {what} cannot be written: {error.strerror}.\n")
        return 1
    return code


def _drop_output() -> None:
    """Let the interpreter's last flush succeed; it would print a traceback."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
