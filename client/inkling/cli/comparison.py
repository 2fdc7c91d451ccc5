# SPDX-License-Identifier: Apache-2.0
"""Shows how the answers of shadows differ from those of the versions that answered."""

from __future__ import annotations

from typing import Any

from inkling.gateway.connection import Connection
from inkling.gateway.http_transport import HttpTransport

__all__ = ["show_comparisons"]

_HEAD = (
    f"{'MODEL':16} {'VERSION':>7} {'SHADOW':>6} {'PICTURES':>9} {'AGREE':>8} "
    f"{'LARGEST':>8} {'MS':>7} {'SHADOW MS':>9} {'DROPPED':>8} {'FAILED':>7}"
)


def show_comparisons(target: str, options: dict[str, Any]) -> int:
    """Print a line for each pair of a version and a shadow of a gateway's models.

    Raises:
        InklingError: The gateway refuses to tell, or cannot be reached over HTTP.
    """
    transport = HttpTransport(Connection.to(target, options))
    try:
        names = [one["name"] for one in transport.json("GET", "/v1/models")["models"]]
        told = [transport.json("GET", f"/v1/models/{n}/comparisons") for n in names]
    finally:
        transport.close()
    print(_HEAD)
    for one in told:
        for found in one["comparisons"]:
            print(_row(one["model"], found))
    return 0


def _row(model: str, found: dict[str, Any]) -> str:
    agreement = found["agreement"]
    agree = "" if agreement is None else f"{agreement:.2%}"
    return (
        f"{model:16} {found['version']:7} {found['shadow']:6} {found['pictures']:9} "
        f"{agree:>8} {found['largest_difference']:8.4f} {_ms(found['engine_ms']):>7} "
        f"{_ms(found['shadow_engine_ms']):>9} {found['dropped']:8} {found['failed']:7}"
    )


def _ms(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
