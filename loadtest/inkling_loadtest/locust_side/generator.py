"""What the users of one process share: requests, right answers, pace and ledger."""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from contextlib import contextmanager
from time import perf_counter, process_time
from typing import Any

import gevent

from inkling_loadtest.answers.baseline import learn
from inkling_loadtest.answers.references import References, Verdict
from inkling_loadtest.gateway import labels_of
from inkling_loadtest.load.arrivals import Stage
from inkling_loadtest.load.pictures import LabelledPicture, drawn_digits, pictures_in
from inkling_loadtest.load.requests import Deck, Shot, grpc_shots, http_shots
from inkling_loadtest.load.shapes import window_s
from inkling_loadtest.locust_side.schedule import Pace, Ticket
from inkling_loadtest.measures.tallies import Ledger, Sample
from inkling_loadtest.options import Options

__all__ = ["Session"]

_CPU_EVERY_S = 1.0


class Session:
    """The part of a load test that happens in this process.

    Attributes:
        options: What was asked for.
        path: Where HTTP requests go.
        references: The answers that the pictures had alone.
    """

    def __init__(self, options: Options, worker: int) -> None:
        """Read the pictures, encode the requests, and learn the right answers.

        Raises:
            InklingError: The target does not answer, or there are no pictures.
        """
        self.options = options
        self.path = f"/v1/models/{options.model}:classify"
        pictures = pictures_in(options.pictures) if options.pictures else drawn_digits()
        self.references = References(pictures, labels_of(options))
        seed = f"{options.seed} {worker}"
        learn(options, self.references, self._shots(pictures, ("image", "unary"), seed))
        self._deck = Deck(self._shots(pictures, options.mix, seed), options.mix, seed)
        self._pace = Pace(window_s(options))
        self._ledger = Ledger(options.deadline_s)
        self._seed = seed
        self._busy = 0
        self._cpu: list[tuple[int, float]] = []
        gevent.spawn(self._watch_cpu)

    @contextmanager
    def shot(self) -> Iterator[tuple[Shot[Any], Ticket]]:
        """Wait until a request is due; the caller is busy to the end of the block."""
        ticket = self._pace.take()
        self._busy += 1
        try:
            yield self._deck.draw(), ticket
        finally:
            self._busy -= 1

    def record(
        self, shot: Shot[Any], ticket: Ticket, sent_s: float, verdict: Verdict
    ) -> float:
        """Write down a request that ended now; return its latency in milliseconds."""
        ended_s = perf_counter()
        self._ledger.record(
            Sample(
                stage=ticket.stage,
                window=ticket.window,
                kind=shot.kind,
                pictures=len(shot.pictures),
                due_s=ticket.due_s,
                awaited=ticket.awaited,
                sent_s=sent_s,
                ended_s=ended_s,
                verdict=verdict,
            )
        )
        return (ended_s - ticket.due_s) * 1e3

    def begin(self, place: int, stage: Stage) -> None:
        """Begin a stage."""
        self._pace.begin(place, stage, f"{self._seed} {place}")

    def end(self) -> None:
        """End the stage, and wait for what is under way."""
        place, missed = self._pace.end()
        self._ledger.record_not_sent(place, missed)
        patience_s = self.options.timeout_s + 1.0
        while self._busy and patience_s > 0:
            gevent.sleep(0.05)
            patience_s -= 0.05

    def report(self) -> dict[str, Any]:
        """Return what happened since the last report, as plain values."""
        cpu, self._cpu = self._cpu, []
        return {
            "rows": self._ledger.drain(),
            "cpu": cpu,
            "versions": self.references.versions,
            "labelled": self.references.num_labelled,
        }

    def _shots(
        self, pictures: Sequence[LabelledPicture], kinds: Container[str], seed: str
    ) -> dict[str, list[Shot[Any]]]:
        batch, model = self.options.batch, self.options.model
        if self.options.protocol == "grpc":
            return {**grpc_shots(pictures, kinds, batch, seed, model)}
        return {**http_shots(pictures, kinds, batch, seed)}

    def _watch_cpu(self) -> None:
        """Note the share of a core that this process takes, about once a second."""
        used_s, at_s = process_time(), perf_counter()
        while True:
            gevent.sleep(_CPU_EVERY_S)
            now_used_s, now_s = process_time(), perf_counter()
            share = (now_used_s - used_s) / (now_s - at_s)
            self._cpu.append((self._pace.window_now(), round(share, 3)))
            used_s, at_s = now_used_s, now_s
