"""The command `inkling`; installed distributions add their own subcommands.

A distribution declares an entry point in the group `inkling.commands`: its name is the
subcommand's, its value an `inkling.cli.main.Command`.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points

from inkling import __version__
from inkling.errors import InklingError

__all__ = ["Command", "main", "parser"]

_INTERRUPTED = 130  # 128 + SIGINT, as shells report it


@dataclass(frozen=True)
class Command:
    """A subcommand: what it is for, its options, and what it does.

    Attributes:
        help: One line for `inkling --help`.
        add_arguments: Adds the options to the subcommand's parser.
        run: Does the work and returns the exit code.
    """

    help: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    """Shows the defaults that say something."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default in (None, False):
            return action.help
        return super()._get_help_string(action)


def parser() -> argparse.ArgumentParser:
    """Return the parser with every installed subcommand."""
    root = argparse.ArgumentParser(
        prog="inkling",
        description="One picture, one answer, wherever the model runs.",
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
    """Run the command line; return 0, 1 for an error, 2 for wrong arguments."""
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
        # Whoever read our output has had enough, as `head` does.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return code
