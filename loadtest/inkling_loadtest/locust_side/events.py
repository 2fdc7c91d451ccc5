# SPDX-License-Identifier: Apache-2.0
"""The load test as listeners to Locust's events, in each role of a process."""

from __future__ import annotations

from locust import LoadTestShape, events  # isort: skip - it patches what follows

import sys
from argparse import ArgumentParser
from collections.abc import Callable
from typing import Any

import gevent
from gevent.event import Event
from grpc.experimental import gevent as grpc_gevent
from locust.env import Environment
from locust.runners import MasterRunner, WorkerRunner

from inkling.errors import InklingError, InvalidRequest
from inkling_loadtest.load.arrivals import Stage
from inkling_loadtest.locust_side.coordinator import Coordinator
from inkling_loadtest.locust_side.generator import LoadGenerator
from inkling_loadtest.locust_side.users import GrpcPictures, HttpPictures
from inkling_loadtest.measures.results import Results
from inkling_loadtest.measures.server_metrics import ServerMetrics
from inkling_loadtest.measures.tallies import TallyTable
from inkling_loadtest.options import Options, add_options
from inkling_loadtest.report.assembly import RunInfo, assemble

__all__ = ["LoadShape", "LoadTest", "register"]

_SPAWN_RATE = 100.0
_SPARE_THREADS = 10
_READY, _SETTLED = "inkling_ready", "inkling_settled"
_BEGIN, _END = "inkling_begin", "inkling_end"


class LoadTest:
    """A load test in one process, which sends as a worker, coordinates, or does both.

    Attributes:
        coordinator: Runs the stages; None before the test, and in a worker.
    """

    def __init__(self, environment: Environment) -> None:
        """Take Locust's environment; its runner is there already."""
        self.coordinator: Coordinator | None = None
        self._environment = environment
        runner: Any = environment.runner
        self._runner = runner
        self._sends = not isinstance(self._runner, MasterRunner)
        self._coordinates = not isinstance(self._runner, WorkerRunner)
        self._options: Options | None = None
        self._generator: LoadGenerator | None = None
        self._results: Results | None = None
        self._metrics: ServerMetrics | None = None
        # Processes that have learned the references, and those that ended the stage.
        self._ready = 0
        self._settled = 0
        # Clear while pictures are asked for; Locust's shape must wait for that.
        self._renewing = Event()
        self._renewing.set()
        if self._sends:
            grpc_gevent.init_gevent()
            runner.register_message(_BEGIN, self._on_begin)
            runner.register_message(_END, self._on_end, concurrent=True)
        if self._coordinates:
            runner.register_message(_READY, self._on_ready)
            runner.register_message(_SETTLED, self._on_settled)
        headless = environment.parsed_options and environment.parsed_options.headless
        if self._coordinates and headless:
            self._prepare_or_exit()

    def wanted_users(self) -> tuple[int, float] | None:
        """Return how many users there should be and how fast they come, or None."""
        self._renewing.wait()
        if self.coordinator is None or self.coordinator.finished:
            return None
        return self.coordinator.users, min(_SPAWN_RATE, float(self.coordinator.users))

    def renew(self) -> None:
        """Prepare again where Locust's page starts one test after the other."""
        if self.coordinator is None or self.coordinator.finished:
            self.coordinator = None
            self._renewing.clear()
            try:
                self._prepare()
            except InklingError as error:
                print(f"inkling: {error.message}", file=sys.stderr)
            finally:
                self._renewing.set()

    def start(self) -> None:
        """Begin with Locust; a worker receives its options only now."""
        if self._coordinates:
            return
        try:
            self._prepare()
            self._runner.send_message(_READY)
        except InklingError as error:
            print(f"inkling: {error.message}", file=sys.stderr)
            gevent.spawn(self._runner.quit)

    def spawned(self) -> None:
        """Run the stages now that all users are there."""
        if self.coordinator and self._options and self._metrics is None:
            self._metrics = ServerMetrics(self._options)
            gevent.spawn(self._collect, self._metrics)
            gevent.spawn(self._run_once_ready, self.coordinator)

    def report(self) -> dict[str, Any]:
        """Return what happened in this process since the last time."""
        return self._generator.report() if self._generator else {}

    def absorb(self, report: dict[str, Any]) -> None:
        """Add what another process reported."""
        if report and self._results:
            self._results.absorb(report)

    def finish(self) -> int:
        """Write the report; return the exit code."""
        coordinator, results, options = self.coordinator, self._results, self._options
        if not (coordinator and results and options and results.stage_runs):
            return 1
        self.absorb(self.report())
        run_info = RunInfo(
            interrupted=not coordinator.finished,
            processes=coordinator.num_processes,
            server=self._metrics.findings(results.spans()) if self._metrics else None,
        )
        # Matplotlib is not needed before.
        from inkling_loadtest.report.files import write  # noqa: PLC0415

        report = assemble(options, results, run_info)
        write(report, options.report)
        return int(report["exit_code"])

    def _prepare_or_exit(self) -> None:
        try:
            self._prepare()
        except InvalidRequest as error:
            print(f"inkling: {error.message}", file=sys.stderr)
            sys.exit(2)
        except InklingError as error:
            print(f"inkling: {error.message}", file=sys.stderr)
            sys.exit(1)

    def _prepare(self) -> None:
        environment, self._metrics = self._environment, None
        given: Any = environment.parsed_options
        target = environment.host or ""
        self._options = Options.of(given, target, given.num_users)
        user = GrpcPictures if self._options.protocol == "grpc" else HttpPictures
        if self._sends:
            # gRPC waits in gevent's threads: with the usual ten, the eleventh request
            # under way would wait for a thread and not for the server.
            gevent.get_hub().threadpool.maxsize = self._options.users + _SPARE_THREADS
            worker = getattr(self._runner, "worker_index", 0)
            self._generator = user.generator = LoadGenerator(self._options, worker)
        if self._coordinates:
            environment.user_classes = [user]
            self._ready = 0
            self._results = Results(TallyTable(self._options.deadline_s))
            self.coordinator = Coordinator(
                self._options,
                self._results,
                self._begin_everywhere,
                self._end_everywhere,
            )

    def _run_once_ready(self, coordinator: Coordinator) -> None:
        """Run the stages once every worker knows the right answers."""
        while not self._sends and self._ready < self._num_processes():
            gevent.sleep(0.05)
        coordinator.run()

    def _begin_everywhere(self, place: int, stage: Stage) -> None:
        parts = self._num_processes()
        if self.coordinator:
            self.coordinator.num_processes = parts
        data = {"place": place, "stage": stage.share(max(1, parts))}
        self._runner.send_message(_BEGIN, data)

    def _end_everywhere(self) -> None:
        """End the stage, and wait until every process has its last answer."""
        self._settled = 0
        self._runner.send_message(_END)
        patience_s = self._options.timeout_s + 3.0 if self._options else 0.0
        while self._settled < self._num_processes() and patience_s > 0:
            gevent.sleep(0.05)
            patience_s -= 0.05

    def _num_processes(self) -> int:
        return 1 if self._sends else int(self._runner.worker_count)

    def _on_begin(self, environment: Environment, msg: Any, **_: Any) -> None:
        if self._generator:
            self._generator.begin(msg.data["place"], Stage(**msg.data["stage"]))

    def _on_end(self, environment: Environment, msg: Any, **_: Any) -> None:
        if self._generator:
            self._generator.end()
        self._runner.send_message(_SETTLED, self.report())

    def _on_ready(self, environment: Environment, msg: Any, **_: Any) -> None:
        self._ready += 1

    def _on_settled(self, environment: Environment, msg: Any, **_: Any) -> None:
        self.absorb(msg.data)
        self._settled += 1

    def _collect(self, metrics: ServerMetrics) -> None:
        """Read the server's metrics and the tallies of this process once a second."""
        while self._metrics is metrics:
            metrics.read()
            if self._sends:
                self.absorb(self.report())
            gevent.sleep(1.0)


class LoadShape(LoadTestShape):
    """Tells Locust how many users there should be."""

    use_common_options = True
    test: LoadTest

    def reset_time(self) -> None:
        """Begin; Locust calls this before the first tick."""
        super().reset_time()  # type: ignore[no-untyped-call]
        self.test.renew()

    def tick(self) -> tuple[int, float] | None:
        """Return users and how fast they come; None ends the test."""
        return self.test.wanted_users()


def register() -> None:
    """Listen to Locust's events."""
    listeners: list[tuple[Any, Callable[..., None]]] = [
        (events.init_command_line_parser, _add_options),
        (events.init, _init),
        (events.test_start, _test_start),
        (events.spawning_complete, _spawning_complete),
        (events.report_to_master, _report_to_master),
        (events.worker_report, _worker_report),
        (events.quitting, _quitting),
    ]
    for event, listener in listeners:
        event.add_listener(listener)


def _add_options(parser: ArgumentParser, **_: Any) -> None:
    add_options(parser)


def _init(environment: Environment, **_: Any) -> None:
    LoadShape.test = LoadTest(environment)


def _test_start(environment: Environment, **_: Any) -> None:
    LoadShape.test.start()


def _spawning_complete(user_count: int, **_: Any) -> None:
    LoadShape.test.spawned()


def _report_to_master(client_id: str, data: dict[str, Any], **_: Any) -> None:
    data["inkling"] = LoadShape.test.report()


def _worker_report(client_id: str, data: dict[str, Any], **_: Any) -> None:
    LoadShape.test.absorb(data.get("inkling", {}))


def _quitting(environment: Environment, **_: Any) -> None:
    if not isinstance(environment.runner, WorkerRunner):
        environment.process_exit_code = LoadShape.test.finish()
