"""What a load test is asked to do: its options, their text, and their sense."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

from inkling.errors import InvalidRequest
from inkling_loadtest.slo import GRAMMAR, Condition, latency_limits, parse

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
_POOL = 100


@dataclass(frozen=True)
class Options:
    """A load test, checked.

    Attributes:
        target: `http://host:port`, `https://...` or `grpc://host:port`.
        model: Which model is asked.
        shape: One of `SHAPES`.
        rate: Arrivals per second of the open loop; None for the closed loop.
        users: Users of the closed loop, or as many as the open loop may keep busy.
        peak: Where a spike goes to, in the unit of `rate` or `users`.
        seconds: How long it is measured.
        warmup_s: How long it runs before.
        slo: What is promised.
        mix: Kinds of requests with their weights.
        batch: Pictures in a batch.
        pictures: A folder with a subfolder per label; None for drawn digits.
        deadline_s: An answer later than this is no goodput.
        timeout_s: A request is given up then, and has failed.
        seed: Of arrivals and of the order of requests.
        metrics_url: Where the gateway's metrics are; empty to look for them.
        report: The directory that is written; None for a name with the time.
    """

    target: str
    model: str
    shape: str
    rate: float | None
    users: int
    peak: float | None
    seconds: float
    warmup_s: float
    slo: tuple[Condition, ...]
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
        return "grpc" if self.target.startswith("grpc:") else "http"

    @property
    def address(self) -> str:
        """`host:port`."""
        return urlsplit(self.target).netloc

    @property
    def is_open(self) -> bool:
        """Whether requests arrive whether or not others are answered."""
        return self.rate is not None or self.shape == "capacity"

    @classmethod
    def of(cls, given: argparse.Namespace, target: str, users: int | None) -> Options:
        """Return the options in a namespace that `add_options` filled.

        Raises:
            InvalidRequest: A value, or values together, make no sense.
        """
        protocol = _check_target(target, given.allow_remote)
        _check_load(given, users)
        slo = parse(given.slo) if given.slo else ()
        if given.shape == "capacity" and not latency_limits(slo):
            slo = (*parse("p99<=200ms"), *slo)
        seconds = _DEFAULT_SECONDS.get(given.shape, 30.0)
        return cls(
            target=target.rstrip("/"),
            model=given.model,
            shape=given.shape,
            rate=given.rate,
            users=users or _POOL,
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


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that `inkling loadtest` and plain Locust both have.

    Their values are such as Locust's master can send to its workers.
    """
    add = parser.add_argument
    add("--model", default="cnn", help="the model that is asked")
    add("--shape", choices=SHAPES, default="constant", help="how the load goes")
    add(
        "--rate", type=float, help="open loop: requests per second, as Poisson arrivals"
    )
    add(
        "--peak",
        type=float,
        help="where a spike goes to; 5 times the rest if not given",
    )
    add("--duration", help="how long, as 30s, 5m or 1h; for capacity, at most")
    add("--warmup", default="2s", help="load before anything is measured")
    add(
        "--slo",
        help=f"what is promised, and decides the exit code: {_escaped(GRAMMAR)}",
    )
    add("--mix", help=f"kinds of requests with weights; {_mixes()}")
    add("--batch", type=int, default=8, help="pictures in a batch")
    add(
        "--pictures", type=Path, help="a folder with a subfolder per label; else digits"
    )
    add("--deadline", default="1s", help="an answer later than this is no goodput")
    add("--timeout", default="10s", help="a request is given up then, and has failed")
    add("--seed", type=int, default=0, help="of the arrivals and the order of requests")
    add(
        "--metrics-url",
        default="",
        help="the gateway's /metrics, where not found alone",
    )
    add("--report", help="directory to write; else loadtest-DATE-TIME")
    add(
        "--allow-remote", action="store_true", help="load another machine than this one"
    )


def duration_s(text: str) -> float:
    """Return the seconds in a text such as 500ms, 30s or 5m; a bare number is seconds.

    Raises:
        InvalidRequest: It is no such text, or nothing above zero.
    """
    found = _DURATION.fullmatch(str(text).strip())
    seconds = float(found[1]) * _SECONDS[found[2]] if found else -1
    if seconds < 0:
        raise InvalidRequest(
            f"{text!r:.40} is no length of time; give a number with ms, s, m or h."
        )
    return seconds


def _check_target(target: str, allow_remote: bool) -> str:
    parts = urlsplit(target or "")
    try:
        port = parts.port
    except ValueError:
        port = None
    if parts.scheme not in ("http", "https", "grpc") or not parts.hostname:
        raise InvalidRequest(
            f"--target is {target!r:.80}; expected http://host:port, https://host:port "
            "or grpc://host:port."
        )
    if parts.scheme == "grpc" and port is None:
        raise InvalidRequest(f"--target {target:.80} lacks the port, such as 8081.")
    if not allow_remote and not _is_loopback(parts.hostname):
        raise InvalidRequest(
            f"{parts.hostname:.80} is not this machine. Load what is yours to load, "
            "and say so with --allow-remote."
        )
    return "grpc" if parts.scheme == "grpc" else "http"


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _check_load(given: argparse.Namespace, users: int | None) -> None:
    if users is not None:
        _at_least(1, "--users", users)
    for name in ("rate", "peak"):
        value = getattr(given, name)
        if value is not None and not 0 < value <= 1e6:
            raise InvalidRequest(f"--{name} is {value:g}; expected a number above 0.")
    if given.shape != "capacity" and given.rate is None and users is None:
        raise InvalidRequest(
            "Give --rate for an open loop (requests per second, come what may), or "
            "--users for a closed one (each waits for its answer); or --shape capacity."
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
            raise InvalidRequest(f"--mix: {part!r:.40} is not understood; {_mixes()}.")
        mix[kind] = int(weight or "1")
    mix = {kind: weight for kind, weight in mix.items() if weight}
    if not mix:
        raise InvalidRequest("--mix: every weight is 0; nothing would be sent.")
    return mix


def _mixes() -> str:
    return "; ".join(
        f"{protocol}: " + ",".join(f"{kind}={n}" for kind, n in mix.items())
        for protocol, mix in MIXES.items()
    )


def _escaped(text: str) -> str:
    return text.replace("%", "%%")
