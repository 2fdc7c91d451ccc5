# SPDX-License-Identifier: Apache-2.0
"""The options of a load test: their help texts, their values, and their checks."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inkling.cli.commands import add_connection, connection_options
from inkling.errors import InvalidRequest
from inkling.network.address import HTTP_PORT, Address
from inkling_loadtest.slo import GRAMMAR, Objective, latency_limits, parse

if TYPE_CHECKING:
    from inkling import Classifier
    from inkling.gateway.connection import Connection

__all__ = ["MIXES", "SHAPES", "Options", "add_options", "duration_s"]

SHAPES = ("constant", "ramp", "spike", "soak", "capacity")

# How often each kind of request is sent; a sum of 20.
MIXES: Mapping[str, Mapping[str, int]] = {
    "http": {"image": 12, "form": 3, "json": 3, "batch": 2},
    "grpc": {"unary": 14, "stream": 4, "batch": 2},
}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(us|ms|s|m|h)?")
_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, None: 1.0, "m": 60.0, "h": 3600.0}
_DEFAULT_SECONDS = {"soak": 1800.0, "capacity": 280.0}
_OPEN_LOOP_USERS = 100
_METRICS_TIMEOUT_S = 2.0


@dataclass(frozen=True)
class Options:
    """The checked options of a load test; a report shows them all, and no API key.

    Attributes:
        target: `http://host:port`, `https://...`, `grpc://host:port` or `grpcs://...`.
        model: Which model is asked.
        tls: Whether a gRPC connection is encrypted.
        root_certificates: A PEM file of the authorities to trust; None for the usual.
        client_certificate: A PEM file with the certificate to show; None for none.
        client_key: The PEM file with that certificate's key.
        api_key_file: The file with the API key to send; None for no key.
        shape: One of `SHAPES`.
        rate: Arrivals per second of the open loop; None for the closed loop.
        users: Users of the closed loop; in the open loop, requests under way at most.
        peak: The top of a spike, in the unit of `rate` or `users`.
        seconds: How long the load is measured.
        warmup_s: How long the load runs before it is measured.
        slo: The service level objectives.
        mix: Kinds of requests with their weights.
        batch: Pictures in a batch.
        pictures: A folder with a subfolder per label; None for drawn digits.
        deadline_s: An answer that takes longer does not count as goodput.
        timeout_s: A request that takes longer is given up, and has failed.
        seed: Of the arrivals and of the order of requests.
        metrics_url: The address of the gateway's metrics; empty for the usual one.
        report: The directory to write; None for a name with the time.
    """

    target: str
    model: str
    tls: bool
    root_certificates: str | None
    client_certificate: str | None
    client_key: str | None
    api_key_file: str | None
    shape: str
    rate: float | None
    users: int
    peak: float | None
    seconds: float
    warmup_s: float
    slo: tuple[Objective, ...]
    mix: Mapping[str, int]
    batch: int
    pictures: Path | None
    deadline_s: float
    timeout_s: float
    seed: int
    metrics_url: str
    report: Path | None

    @property
    def protocol(self) -> str:
        """`http` or `grpc`."""
        return "grpc" if Address.parse(self.target).is_grpc else "http"

    @property
    def is_open(self) -> bool:
        """Whether requests arrive independently of the answers to others."""
        return self.rate is not None or self.shape == "capacity"

    def connection(self) -> Connection:
        """Return the connection to the gateway, with the API key from its file.

        Raises:
            InvalidRequest: A file cannot be used.
        """
        from inkling.gateway.connection import Connection  # noqa: PLC0415 - reads TLS

        return Connection.to(self.target, self._connection_options())

    def connect(self) -> Classifier:
        """Return a classifier for the requests before the load.

        Raises:
            InvalidRequest: A file cannot be used, or the address excludes an option.
        """
        from inkling import connect  # noqa: PLC0415 - gRPC only where it is used

        return connect(self.target, **self._connection_options())

    def metrics_connection(self) -> Connection:
        """Return the connection to the gateway's metrics, over HTTP.

        Only the gateway's own host gets the API key.

        Raises:
            InvalidRequest: A file or the address cannot be used.
        """
        from inkling.gateway.connection import Connection  # noqa: PLC0415 - as above

        gateway = self.connection()
        address, url = gateway.address, self.metrics_url
        if not url and not address.is_grpc:
            url = f"{self.target}/metrics"
        elif not url:
            scheme = "https" if gateway.is_encrypted else "http"
            url = f"{Address(scheme, address.host, HTTP_PORT).url}/metrics"
        metrics = Address.parse(url)
        names = ["api_key"] if metrics.host == address.host else []
        if metrics.is_encrypted:
            names += ["root_certificates", "client_certificate", "client_key"]
        secured = {name: getattr(gateway, name) for name in names}
        direct = {"timeout_s": _METRICS_TIMEOUT_S, "use_proxy": False}
        return Connection.to(url, {**direct, **secured})

    def check_addresses(self) -> None:
        """Check what `connect` and `metrics_connection` take; nothing is sent.

        Raises:
            InvalidRequest: An address, the key or a file cannot be used.
        """
        from inkling.gateway.http_transport import HttpTransport  # noqa: PLC0415

        self.connect().close()
        HttpTransport(self.metrics_connection())

    def _connection_options(self) -> dict[str, Any]:
        secured = connection_options(argparse.Namespace(**vars(self)))
        # A proxy would be measured in place of the gateway.
        direct = {"timeout_s": self.timeout_s, "use_proxy": False}
        return {"model": self.model, **direct, **secured}

    @classmethod
    def of(cls, given: argparse.Namespace, target: str, users: int | None) -> Options:
        """Return the options in a namespace that `add_options` filled.

        Raises:
            InvalidRequest: A value is impossible, by itself or beside another.
        """
        protocol = _check_target(target, given.allow_remote)
        _check_load(given, users)
        slo = parse(given.slo) if given.slo else ()
        if given.shape == "capacity" and not latency_limits(slo):
            slo = (*parse("p99<=200ms"), *slo)
        seconds = _DEFAULT_SECONDS.get(given.shape, 30.0)
        options = cls(
            target=(target if "://" in target else Address.parse(target).url).rstrip(
                "/"
            ),
            model=given.model,
            tls=given.tls,
            root_certificates=given.root_certificates,
            client_certificate=given.client_certificate,
            client_key=given.client_key,
            api_key_file=given.api_key_file,
            shape=given.shape,
            rate=given.rate,
            users=users or _OPEN_LOOP_USERS,
            peak=given.peak,
            seconds=duration_s(given.duration) if given.duration else seconds,
            warmup_s=duration_s(given.warmup),
            slo=slo,
            mix=_mix(given.mix, protocol),
            batch=_at_least(1, "--batch", given.batch),
            pictures=Path(given.pictures) if given.pictures else None,
            deadline_s=duration_s(given.deadline),
            timeout_s=duration_s(given.timeout),
            seed=given.seed,
            metrics_url=given.metrics_url,
            report=Path(given.report) if given.report else None,
        )
        options.check_addresses()
        return options


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that `inkling loadtest` and plain Locust both have.

    Their values are texts, numbers and switches: Locust's master sends them to its
    workers.
    """
    add = parser.add_argument
    add("--model", default="cnn", help="the model that is asked")
    add_connection(parser)
    add("--shape", choices=SHAPES, default="constant", help="the course of the load")
    add(
        "--rate", type=float, help="open loop: requests per second, as Poisson arrivals"
    )
    add(
        "--peak",
        type=float,
        help="the top of a spike; 5 times the rest if not given",
    )
    add("--duration", help="how long, such as 30s, 5m or 1h; for capacity, at most")
    add("--warmup", default="2s", help="load before anything is measured")
    add(
        "--slo",
        help=f"objectives, which decide the exit code: {_escaped(GRAMMAR)}",
    )
    add("--mix", help=f"kinds of requests with weights; {_mixes()}")
    add("--batch", type=int, default=8, help="pictures in a batch")
    add("--pictures", help="a folder with a subfolder per label; else digits")
    add("--deadline", default="1s", help="a later answer does not count as goodput")
    add("--timeout", default="10s", help="a request is given up then, and has failed")
    add("--seed", type=int, default=0, help="of the arrivals and the order of requests")
    add("--metrics-url", default="", help="the address of the gateway's /metrics")
    add("--report", help="directory to write; else loadtest-DATE-TIME")
    add(
        "--allow-remote", action="store_true", help="load another machine than this one"
    )


def duration_s(text: str) -> float:
    """Return the seconds in a text such as 500ms, 30s or 5m; a bare number is seconds.

    Raises:
        InvalidRequest: The text has another form.
    """
    found = _DURATION.fullmatch(str(text).strip())
    seconds = float(found[1]) * _SECONDS[found[2]] if found else -1
    if seconds < 0:
        raise InvalidRequest(
            f"{text!r:.40} is not a length of time; give a number with ms, s, m or h."
        )
    return seconds


def _check_target(target: str, allow_remote: bool) -> str:
    address = Address.parse(target or "")
    if not allow_remote and not address.is_loopback:
        raise InvalidRequest(
            f"{address.host:.80} is not this machine. If you may load it, say so "
            "with --allow-remote."
        )
    return "grpc" if address.is_grpc else "http"


def _check_load(given: argparse.Namespace, users: int | None) -> None:
    if users is not None:
        _at_least(1, "--users", users)
    for name in ("rate", "peak"):
        value = getattr(given, name)
        if value is not None and not 0 < value <= 1e6:
            raise InvalidRequest(f"--{name} is {value:g}; expected a number above 0.")
    if given.shape != "capacity" and given.rate is None and users is None:
        raise InvalidRequest(
            "Give --rate for an open loop (requests per second, whether or not others "
            "are answered), or --users for a closed loop (each waits for its answer), "
            "or --shape capacity."
        )


def _at_least(least: int, name: str, value: int) -> int:
    if value < least:
        raise InvalidRequest(f"{name} is {value}; expected {least} or more.")
    return value


def _mix(text: str | None, protocol: str) -> dict[str, int]:
    known = MIXES[protocol]
    if not text:
        return dict(known)
    mix: dict[str, int] = {}
    for part in text.split(","):
        kind, _, weight = part.strip().partition("=")
        if kind not in known or not (weight or "1").isdecimal():
            raise InvalidRequest(f"--mix: {part!r:.40} is unknown; {_mixes()}.")
        mix[kind] = int(weight or "1")
    mix = {kind: weight for kind, weight in mix.items() if weight}
    if not mix:
        raise InvalidRequest("--mix: every weight is 0, so that nothing would be sent.")
    return mix


def _mixes() -> str:
    return "; ".join(
        f"{protocol}: " + ",".join(f"{kind}={n}" for kind, n in mix.items())
        for protocol, mix in MIXES.items()
    )


def _escaped(text: str) -> str:
    return text.replace("%", "%%")
