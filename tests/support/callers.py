# SPDX-License-Identifier: Apache-2.0
"""Callers that go on asking over HTTP and gRPC, and note what each request got."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import grpc

from inkling.gateway.retries import grpc_retry_config
from inkling.v1 import classifier_pb2 as pb
from inkling.v1.classifier_pb2_grpc import ClassifierStub

__all__ = ["Callers", "Readiness", "calling", "watching"]

_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Noted:
    """One request: when it began and ended, and what it got."""

    began: float
    ended: float
    protocol: str
    outcome: str


@dataclass
class Callers:
    """Several callers of one address over each protocol.

    Attributes:
        retries: Whether callers over gRPC try again as the client library does.
        noted: Each request in the order of the ends. The outcome of an answer is its
            label; else it is the status: "503", "UNAVAILABLE", or "none" where no
            answer came.
    """

    http: tuple[str, int]
    grpc_target: str
    picture: bytes
    model: str = "mlp"
    pause_s: float = 0.01
    retries: bool = False
    noted: list[Noted] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)

    def outcomes(self, since: float = 0.0) -> dict[str, Counter[str]]:
        """Return how often each outcome came, by protocol, of what began later."""
        found: dict[str, Counter[str]] = {"http": Counter(), "grpc": Counter()}
        for each in list(self.noted):
            if each.began >= since:
                found[each.protocol][each.outcome] += 1
        return found

    def first(self, label: str, since: float, protocol: str) -> float | None:
        """Return when the first answer with a label ended that began after a time."""
        for each in list(self.noted):
            is_it = (each.protocol, each.outcome) == (protocol, label)
            if is_it and each.began >= since:
                return each.ended
        return None

    def over_http(self) -> None:
        """Ask over a kept connection, and a new one where it was closed."""
        connection = http.client.HTTPConnection(*self.http, timeout=_TIMEOUT_S)
        path = f"/v1/models/{self.model}:classify"
        while not self.stop.wait(self.pause_s):
            began = time.monotonic()
            try:
                connection.request("POST", path, self.picture)
                response = connection.getresponse()
                body = response.read()
                outcome = str(response.status)
                if outcome == "200":
                    outcome = json.loads(body)["results"][0]["label"]
            except (OSError, http.client.HTTPException):
                outcome = "none"
                connection.close()
            self.noted.append(Noted(began, time.monotonic(), "http", outcome))
        connection.close()

    def over_grpc(self) -> None:
        """Ask over one channel."""
        options: list[tuple[str, Any]] = [
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 200),
        ]
        if self.retries:
            config = grpc_retry_config("inkling.v1.Classifier")
            options.append(("grpc.service_config", json.dumps(config)))
        with grpc.insecure_channel(self.grpc_target, options) as channel:
            stub = ClassifierStub(channel)
            request = pb.ClassifyRequest(model=self.model, images=[self.picture])
            while not self.stop.wait(self.pause_s):
                began = time.monotonic()
                try:
                    answer = stub.Classify(request, timeout=_TIMEOUT_S)
                    outcome = answer.results[0].top[0].label
                except grpc.RpcError as error:
                    outcome = error.code().name
                self.noted.append(Noted(began, time.monotonic(), "grpc", outcome))


@contextmanager
def calling(callers: Callers, of_each: int = 2) -> Iterator[Callers]:
    """Let `of_each` callers of each protocol ask until the block ends."""
    ways: list[Any] = [callers.over_http, callers.over_grpc] * of_each
    threads = [threading.Thread(target=way) for way in ways]
    for thread in threads:
        thread.start()
    try:
        yield callers
    finally:
        callers.stop.set()
        for thread in threads:
            thread.join()


@dataclass
class Readiness:
    """What /readyz said, over and over, each time over a connection of its own.

    Attributes:
        changes: The time and the status of each change, from the first one on; status
            0 is that nobody answered.
    """

    http: tuple[str, int]
    changes: list[tuple[float, int]] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)

    @property
    def statuses(self) -> list[int]:
        """The statuses without repetitions."""
        return [status for _, status in self.changes]

    def watch(self) -> None:
        """Ask until it is stopped."""
        while not self.stop.wait(0.03):
            status = 0
            connection = http.client.HTTPConnection(*self.http, timeout=_TIMEOUT_S)
            with suppress(OSError, http.client.HTTPException):
                connection.request("GET", "/readyz")
                status = connection.getresponse().status
            connection.close()
            if [status] != self.statuses[-1:]:
                self.changes.append((time.monotonic(), status))


@contextmanager
def watching(http_address: tuple[str, int]) -> Iterator[Readiness]:
    """Watch the readiness until the block ends."""
    readiness = Readiness(http_address)
    thread = threading.Thread(target=readiness.watch)
    thread.start()
    try:
        yield readiness
    finally:
        readiness.stop.set()
        thread.join()
