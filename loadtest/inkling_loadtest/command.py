# SPDX-License-Identifier: Apache-2.0
"""The subcommand `inkling loadtest`: checks its arguments, then becomes Locust."""

from __future__ import annotations

import argparse
import os
import socket
import sys
from pathlib import Path
from typing import NoReturn

from inkling.cli.main import Command
from inkling.errors import InvalidRequest
from inkling_loadtest.options import Options, add_options

__all__ = ["LOADTEST"]

# Options of Locust's own that are handed through.
_NUMBERS = {
    "--processes": "processes that send, each with its share; Locust's own",
    "--master-port": "the master's port, on which it also listens; Locust's own",
    "--expect-workers": "workers that the master waits for; Locust's own",
}
_TEXTS = {
    "--master-host": "where the master is; Locust's own",
    "--master-bind-host": "where the master listens; this machine if not given",
}
_FLAGS = {
    "--master": "coordinate workers; Locust's own",
    "--worker": "send for a master; Locust's own",
}


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--target", help="http://host:port or grpc://host:port of a gateway")
    add(
        "--users",
        type=int,
        help="closed loop: users, each waiting for its answer; with --rate, how many "
        "requests may be under way",
    )
    add_options(parser)
    for name, text in _NUMBERS.items():
        add(name, type=int, help=text)
    for name, text in _TEXTS.items():
        add(name, help=text)
    for name, text in _FLAGS.items():
        add(name, action="store_true", help=text)
    commands = parser.add_subparsers(
        metavar="compare A B",
        help="compare the reports in two directories",
        dest="what",
    )
    compare = commands.add_parser("compare", help="compare the reports A and B")
    compare.add_argument("before", type=Path, metavar="A", help="a report's directory")
    compare.add_argument("after", type=Path, metavar="B", help="another's")


def _run(given: argparse.Namespace) -> int:
    if given.what == "compare":
        from inkling_loadtest.report.comparison import compare  # noqa: PLC0415

        return compare(given.before, given.after)
    try:
        options = Options.of(given, given.target or "", given.users)
    except InvalidRequest as error:
        print(f"inkling: {error.message}", file=sys.stderr)
        return 2
    if not given.worker:
        with options.connect() as classifier:
            classifier.contract()  # else each process would find out by itself
    return _hand_over(given, options)


def _hand_over(given: argparse.Namespace, options: Options) -> NoReturn:
    """Become Locust, which has to patch the standard library before anything else."""
    arguments = [sys.executable, "-m", "inkling_loadtest", *_arguments(given, options)]
    # With the default, epoll, Locust would wake up on whole milliseconds.
    environment = {"GEVENT_BACKEND": "select", **os.environ}
    sys.stdout.flush()
    os.execve(sys.executable, arguments, environment)


def _arguments(given: argparse.Namespace, options: Options) -> list[str]:
    arguments = ["--headless", "--skip-log-setup", "--host", options.target]
    if given.users:
        arguments += ["--users", str(given.users)]
    own = argparse.ArgumentParser()
    add_options(own)
    for action in own._actions:
        value = getattr(given, action.dest, None)
        if value not in (None, False, action.default):
            arguments += [action.option_strings[0]]
            arguments += [] if value is True else [str(value)]
    handed = {**_NUMBERS, **_TEXTS, **_FLAGS}
    del handed["--master-port"]
    for name in handed:
        value = getattr(given, name[2:].replace("-", "_"))
        if value:
            arguments += [name] if value is True else [name, str(value)]
    if given.master_bind_host is None:
        # Locust's master trusts every process that reaches it, on all addresses.
        arguments += ["--master-bind-host", "127.0.0.1"]
    return arguments + _ports(given)


def _ports(given: argparse.Namespace) -> list[str]:
    """Return the arguments for the port at which Locust's processes meet."""
    port = given.master_port
    if port is None and given.processes and not given.worker:
        # Several load tests may run on one machine.
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
    if port is None:
        return []
    return ["--master-port", str(port), "--master-bind-port", str(port)]


LOADTEST = Command(
    help="load a gateway over HTTP or gRPC, check every answer, and report",
    add_arguments=_add_arguments,
    run=_run,
)
