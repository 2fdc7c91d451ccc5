"""The command `inkling`, to which each installed distribution adds its subcommands.

A distribution declares entry points in the group `inkling.commands`. The name of an
entry point is the subcommand's name, and its value is an `inkling.cli.main.Command`.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points

from inkling import __version__
from inkling.cli.text import escape_what_cannot_be_printed
from inkling.errors import InklingError

__all__ = ["Command", "main", "parser"]

_INTERRUPTED = 130  # 128 + SIGINT, the exit code that shells use


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


def parser() -> argparse.ArgumentParser:
    """Return the parser with the subcommands of every installed distribution."""
    root = argparse.ArgumentParser(
        prog="inkling",
        description="Train, publish and serve image classifiers, and classify with "
        "them.",
        allow_abbrev=False,
    )
    root.add_argument("--version", action="version", version=f"inkling {__version__}")
    subparsers = root.add_subparsers(required=True, metavar="COMMAND")
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
    escape_what_cannot_be_printed()
    options = parser().parse_args(arguments)
    try:
        code: int = options.run(options)
        sys.stdout.flush()
    except InklingError as error:
        print(f"inkling: {error.message}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BrokenPipeError:
        # The reader of the output has closed its end of the pipe, as `head` does.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return code
