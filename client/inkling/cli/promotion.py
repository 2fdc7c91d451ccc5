# SPDX-License-Identifier: Apache-2.0
"""The subcommands that decide which version of a model answers."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from inkling.cli.commands import add_connection, add_models_dir, connection_options
from inkling.cli.main import Command
from inkling.errors import InvalidRequest
from inkling.model.assignment import CANARY, SHADOW, Rule
from inkling.model.repository import Repository, check_model_name
from inkling.model.version_labels import STABLE, Move

if TYPE_CHECKING:
    from inkling.cli.label_server import LabelServer

__all__ = ["PROMOTE", "ROLLBACK"]

_NONE = "none"


def _add_label(parser: argparse.ArgumentParser) -> None:
    add_models_dir(parser)
    parser.add_argument(
        "--server",
        help="a gateway that moves the label in place of this process, for a key of "
        "the role admin: HOST:PORT of its gRPC port, or http://HOST:PORT",
    )
    add_connection(parser)
    parser.add_argument("name", help="the model")
    parser.add_argument(
        "--label",
        default=STABLE,
        help=f"the version label to move; the version with the label {STABLE} answers "
        "requests that name no version",
    )


def _add_promote_arguments(parser: argparse.ArgumentParser) -> None:
    _add_label(parser)
    parser.add_argument(
        "version",
        help=f"the number of a published version, or {_NONE} to take the label away",
    )
    parser.add_argument(
        "--share",
        type=float,
        metavar="PERCENT",
        help=f"with --label {CANARY}: its share of the requests that name no version; "
        f"with --label {SHADOW}: the share of them that it gets, too, only to compare "
        "its answers. If it is not given, the share stays as it is",
    )
    parser.add_argument(
        "--rule",
        metavar="RULE",
        help="with a share: promote the version after so many requests, or take the "
        "label away, by its errors, times and agreement: "
        "requests=1000,errors=0.01,slower=1.5,agreement=0.98",
    )


def _promote(options: argparse.Namespace) -> int:
    version, label = _version(options.version), options.label
    if options.server and options.rule:
        raise InvalidRequest("--rule is for --models-dir; a gateway takes no rule.")
    if options.server:
        return _said(_server(options).promote(version, label, options.share), options)
    repository = _repository_with(options)
    if version is None:
        return _said(repository.take_away(options.name, label), options)
    rule = Rule.of_text(options.rule) if options.rule else None
    move = repository.promote(
        options.name, version, label, share=options.share, rule=rule
    )
    return _said(move, options)


def _version(text: str) -> int | None:
    if text == _NONE:
        return None
    if not (text.isascii() and text.isdecimal()):
        raise InvalidRequest(
            f"{text!r:.80} is no version; expected a number, or {_NONE}."
        )
    return int(text)


def _roll_back(options: argparse.Namespace) -> int:
    if options.server:
        return _said(_server(options).roll_back(options.label), options)
    repository = _repository_with(options)
    return _said(repository.roll_back(options.name, options.label), options)


def _server(options: argparse.Namespace) -> LabelServer:
    # gRPC is not needed to move a label in a directory.
    from inkling.cli.label_server import LabelServer  # noqa: PLC0415

    return LabelServer(options.server, options.name, connection_options(options))


def _repository_with(options: argparse.Namespace) -> Repository:
    repository = Repository(options.models_dir)
    name = check_model_name(options.name)
    if name not in repository.models():
        shown = ", ".join(repository.models()) or "none"
        raise InvalidRequest(
            f"{options.models_dir} does not have the model {name}; it has: {shown}."
        )
    return repository


def _said(move: Move, options: argparse.Namespace) -> int:
    if move.after is None:
        print(f"{options.name}: the label {move.label} is taken away.")
    elif move.before is None:
        print(f"{options.name}: {move.label} is version {move.after} now.")
    else:
        print(
            f"{options.name}: {move.label} is version {move.after} now; it was version "
            f"{move.before}."
        )
    if move.share:
        ends = ", only to compare the answers" if move.label == SHADOW else ""
        print(f"It gets {move.share:g} % of the requests that name no version{ends}.")
    print(
        "Running gateways change over within seconds, once each of their processes has "
        "loaded the version."
    )
    return 0


PROMOTE = Command(
    help="let a version answer: move a version label to it",
    add_arguments=_add_promote_arguments,
    run=_promote,
)
ROLLBACK = Command(
    help="move a version label back to the version that had it before",
    add_arguments=_add_label,
    run=_roll_back,
)
