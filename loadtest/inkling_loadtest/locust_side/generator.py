# SPDX-License-Identifier: Apache-2.0
"""The load generator of one process: requests, references, schedule and tallies."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from time import perf_counter, process_time
from typing import Any

import gevent

from inkling_loadtest.answers.baseline import learn
from inkling_loadtest.answers.references import References, Verdict
from inkling_loadtest.load.arrivals import Stage
from inkling_loadtest.load.pictures import LabelledPicture, draw_digits, pictures_in
from inkling_loadtest.load.requests import (
    PreparedRequest,
    RequestSequence,
    grpc_requests,
    http_requests,
)
from inkling_loadtest.load.shapes import window_s
from inkling_loadtest.locust_side.schedule import Arrival, Schedule
from inkling_loadtest.measures.tallies import Sample, TallyTable
from inkling_loadtest.options import Options

__all__ = ["LoadGenerator"]

_CPU_EVERY_S = 1.0
# A model whose pictures may have several labels is asked for all that are more likely
# than not.
_THRESHOLD = 0.5
# With 0, gevent would run no timers in between.
_YIELD_S = 0.001


class LoadGenerator:
    """What the users of one process share.

    Attributes:
        connection: The gateway, and what secures the connection to it.
        path: The path of HTTP requests.
        references: The answers that the pictures had alone.
    """

    def __init__(self, options: Options, worker: int) -> None:
        """Read the pictures, encode the requests, and learn the right answers.

        Raises:
            InklingError: The target does not answer, or no picture is found.
        """
        self.connection = options.connection()
        self.path = f"/v1/models/{options.model}:classify"
        pictures = _pictures(options)
        with options.connect() as classifier:
            contract = classifier.contract()
            threshold = None if contract.scores_sum_to_one else _THRESHOLD
            self.references = References(pictures, contract.labels, threshold)
            learn(classifier, self.references, pictures, threshold)
        if threshold is not None:
            self.path += f"?threshold={threshold}"
        self._timeout_s = options.timeout_s
        self._seed = f"{options.seed} {worker}"
        requests = _requests(options, pictures, self._seed, threshold)
        self._requests = RequestSequence(requests, options.mix, self._seed)
        self._schedule = Schedule(window_s(options))
        self._tallies = TallyTable(options.deadline_s)
        self._busy = 0
        self._cpu: list[tuple[int, float]] = []
        gevent.spawn(self._watch_cpu)

    @contextmanager
    def next_request(self) -> Iterator[tuple[PreparedRequest[Any], Arrival]]:
        """Wait until a request is due; the user is busy to the end of the block."""
        arrival = self._schedule.take()
        self._busy += 1
        try:
            yield self._requests.next(), arrival
        finally:
            self._busy -= 1

    def record(
        self,
        request: PreparedRequest[Any],
        arrival: Arrival,
        sent_s: float,
        verdict: Verdict,
    ) -> float:
        """Count a request that ended now; return its latency in milliseconds."""
        ended_s = perf_counter()
        self._tallies.record(
            Sample(
                stage=arrival.stage,
                window=arrival.window,
                kind=request.kind,
                pictures=len(request.pictures),
                due_s=arrival.due_s,
                awaited=arrival.awaited,
                sent_s=sent_s,
                ended_s=ended_s,
                verdict=verdict,
            )
        )
        return (ended_s - arrival.due_s) * 1e3

    def begin(self, place: int, stage: Stage) -> None:
        """Begin a stage."""
        self._schedule.begin(place, stage, f"{self._seed} {place}")

    def end(self) -> None:
        """End the stage, and wait for the requests under way."""
        place, missed = self._schedule.end()
        self._tallies.record_not_sent(place, missed)
        patience_s = self._timeout_s + 1.0
        while self._busy and patience_s > 0:
            gevent.sleep(0.05)
            patience_s -= 0.05

    def report(self) -> dict[str, Any]:
        """Return what happened since the last report, as plain values."""
        cpu, self._cpu = self._cpu, []
        return {
            "rows": self._tallies.drain(),
            "cpu": cpu,
            "versions": self.references.versions,
            "labelled": self.references.num_labelled,
        }

    def _watch_cpu(self) -> None:
        """Note the share of a core that this process takes, about once a second."""
        used_s, at_s = process_time(), perf_counter()
        while True:
            gevent.sleep(_CPU_EVERY_S)
            now_used_s, now_s = process_time(), perf_counter()
            share = (now_used_s - used_s) / (now_s - at_s)
            self._cpu.append((self._schedule.window_now(), round(share, 3)))
            used_s, at_s = now_used_s, now_s


def _pictures(options: Options) -> list[LabelledPicture]:
    if options.pictures:
        return pictures_in(options.pictures)
    pictures = []
    for picture in draw_digits():
        pictures.append(picture)
        # Drawing takes a second or more; Locust gives up a worker that is silent for 3.
        gevent.sleep(_YIELD_S)
    return pictures


def _requests(
    options: Options,
    pictures: Sequence[LabelledPicture],
    seed: str,
    threshold: float | None,
) -> dict[str, list[PreparedRequest[Any]]]:
    kinds, batch = options.mix, options.batch
    if options.protocol == "grpc":
        model = options.model
        return {**grpc_requests(pictures, kinds, batch, seed, model, threshold)}
    return {**http_requests(pictures, kinds, batch, seed)}
