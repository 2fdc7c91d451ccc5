# SPDX-License-Identifier: Apache-2.0
"""The subcommands `inkling serve` and `inkling up`."""

from __future__ import annotations

import argparse

from inkling.cli.commands import add_client_certificate
from inkling.cli.main import Command
from inkling.errors import InvalidRequest
from inkling_serving import settings

__all__ = ["SERVE", "UP"]


def _serve(options: argparse.Namespace) -> int:
    # Flask and uvicorn are not needed to print the help of other commands.
    from inkling_serving.launch.gateway import serve  # noqa: PLC0415

    return serve(settings.from_flags(options))


def _add_up_arguments(parser: argparse.ArgumentParser) -> None:
    settings.add_flags(parser)
    parser.add_argument(
        "--data-dir",
        default=argparse.SUPPRESS,
        help="directory of the training pictures, such as mnist.npz (INKLING_DATA_DIR)",
    )
    add_client_certificate(parser)
    parser.add_argument(
        "models", nargs="*", default=["mlp", "cnn"], help="models to train and serve"
    )


def _up(options: argparse.Namespace) -> int:
    from inkling_serving.launch.up import up  # noqa: PLC0415 - as above

    given = [name for name in (options.client_certificate, options.client_key) if name]
    if len(given) == 1:
        raise InvalidRequest(
            "--client-certificate and --client-key go together; one of them is missing."
        )
    client = (given[0], given[1]) if given else None
    data_dir = getattr(options, "data_dir", None)
    return up(settings.from_flags(options), options.models, data_dir, client)


SERVE = Command(
    help="serve the published models over HTTP and gRPC",
    add_arguments=settings.add_flags,
    run=_serve,
)
UP = Command(
    help="serve the models, and train those that are not published yet",
    add_arguments=_add_up_arguments,
    run=_up,
)
