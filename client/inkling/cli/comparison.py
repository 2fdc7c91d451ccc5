# SPDX-License-Identifier: Apache-2.0
"""Shows how answers differ: those of shadows, and recent ones from the test set's."""

from __future__ import annotations

from typing import Any

from inkling.gateway.connection import Connection
from inkling.gateway.http_transport import HttpTransport

__all__ = ["show_comparisons", "show_drift"]

_HEAD = (
    f"{'MODEL':16} {'VERSION':>7} {'SHADOW':>6} {'PICTURES':>9} {'AGREE':>8} "
    f"{'LARGEST':>8} {'MS':>7} {'SHADOW MS':>9} {'DROPPED':>8} {'FAILED':>7}"
)
_STATISTICS = ("labels", "confidence", "abstention", "brightness", "contrast")


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


def show_drift(target: str, options: dict[str, Any]) -> int:
    """Print a line for each version of a gateway that has answered pictures.

    Raises:
        InklingError: The gateway refuses to tell, or cannot be reached over HTTP.
    """
    transport = HttpTransport(Connection.to(target, options))
    try:
        models = transport.json("GET", "/v1/models")["models"]
    finally:
        transport.close()
    names = " ".join(f"{name.upper():>10}" for name in _STATISTICS)
    print(f"{'MODEL':16} {'VERSION':>7} {'PICTURES':>9} {names}")
    for model in models:
        for version in model["versions"]:
            if "drift" in version:
                print(_drift_row(model["name"], version["version"], version["drift"]))
    return 0


def _drift_row(model: str, version: int, drift: dict[str, Any]) -> str:
    begin = f"{model:16} {version:7} {drift['pictures']:9}"
    if not drift["has_baseline"]:
        return f"{begin}  The card of this version has no baseline."
    index = drift["index"]
    if not index:
        return f"{begin}  These are too few pictures."
    return " ".join([begin, *(f"{index[name]:10.3f}" for name in _STATISTICS)])


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
