# SPDX-License-Identifier: Apache-2.0
"""Load tests of a real gateway, and of faulty servers in front of one.

Locust patches the process that imports it, so every run is a process of its own. Several
run at once, since a run is mostly waiting.
"""

from __future__ import annotations

import csv
import re
import signal
import statistics
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from inkling.cli.main import main
from inkling_loadtest.load.pictures import drawn_digits
from tests.loadtest.faulty import faulty, faulty_grpc
from tests.support.colour_models import colour
from tests.support.gateway_process import GatewayProcess, serving
from tests.support.load_run import PATIENCE_S, Outcome, Run, load
from tests.support.machine import free_port, until


def _pictures(folder: Path) -> Path:
    """Return a folder with two pictures, soon asked for alone by a slow server."""
    for picture in drawn_digits()[:7:6]:
        path = folder / "pictures" / picture.label / "digit.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture.image)
    return folder / "pictures"


def _faults(folder: Path, url: str, stack: ExitStack) -> dict[str, Run]:
    """Start a run against each fault; pictures alone, which the server then knows."""
    few = ["--pictures", str(_pictures(folder))]
    faults: dict[str, tuple[dict[str, Any], list[str]]] = {
        "swap": ({"swap_every": 200}, ["--users", "3", "--duration", "5s"]),
        "drop": (
            {"drop_every": 100, "metrics": True},
            ["--rate", "150", "--duration", "4s", "--slo", "p99<10s,errors<0.1%"],
        ),
        "overload": (
            {"slots": 4, "work_s": 0.4},
            ["--rate", "80", "--duration", "4s", "--slo", "goodput>1,errors<50%", *few],
        ),
    }
    return {
        name: load(
            folder / name,
            stack.enter_context(faulty(url, **fault)).url,
            *("--mix", "image"),
            *arguments,
        )
        for name, (fault, arguments) in faults.items()
    }


def _sound(folder: Path, gateway: GatewayProcess) -> dict[str, Run]:
    """Start runs against the gateway as it is."""
    plain = ["locust", "-f", "loadtest/locustfile.py", "--headless", "--users", "2"]
    plain += ["--host", gateway.url, "--model", "mlp", "--duration", "3s"]
    rate = ["--rate", "10", "--users", "64", "--duration", "4s", "--slo", "errors<=0%"]
    grpc = f"grpc://{gateway.grpc_target}"
    # Somebody's own gateway may listen on 8080, and their Locust on 5557.
    rate += ["--metrics-url", f"http://127.0.0.1:{free_port()}/metrics"]
    rate += ["--master-port", str(free_port()), "--processes", "2"]
    return {
        "plain": Run(folder / "plain", *plain),
        "grpc": load(folder / "grpc", grpc, *rate),
    }


def _turned(folder: Path, gateway: GatewayProcess, stack: ExitStack) -> Run:
    """Start a run against a gRPC server that turns one of 5 batches around."""
    server = faulty_grpc(gateway.grpc_target, slots=8, queue=100, turn_every=5)
    arguments = ["--users", "4", "--duration", "2s", "--mix", "unary=4,batch=1"]
    return load(folder / "turned", stack.enter_context(server), *arguments)


def _wide(folder: Path, gateway: GatewayProcess, stack: ExitStack) -> Run:
    """Start 40 users of a gRPC server that takes 200 ms, and has room for all."""
    server = faulty_grpc(gateway.grpc_target, slots=64, queue=0, work_s=0.2)
    arguments = ["--users", "40", "--duration", "2s", "--mix", "unary"]
    arguments += ["--pictures", str(_pictures(folder))]
    return load(folder / "wide", stack.enter_context(server), *arguments)


def _slow(folder: Path, gateway: GatewayProcess, stack: ExitStack) -> Run:
    """Start two processes that learn the right answers for longer than the load is."""
    server = faulty_grpc(gateway.grpc_target, slots=64, queue=0, work_s=1.5)
    arguments = ["--rate", "10", "--duration", "2s", "--mix", "unary"]
    arguments += ["--processes", "2", "--pictures", str(_pictures(folder))]
    return load(folder / "slow", stack.enter_context(server), *arguments)


def _stalls(folder: Path, url: str, stack: ExitStack) -> dict[str, Run]:
    """Start an open and a closed loop against servers that stall as often."""
    loops = {
        "open": ["--rate", "100", "--users", "40"],
        "closed": ["--users", "1"],
    }
    return {
        name: load(
            folder / name,
            stack.enter_context(faulty(url, stall_every_s=5)).url,
            *("--mix", "image", "--duration", "6s"),
            *arguments,
        )
        for name, arguments in loops.items()
    }


def _cut(folder: Path, gateway: GatewayProcess) -> Run:
    """Start a long run, and press Ctrl-C as soon as it shows figures."""
    arguments = ["--rate", "20", "--users", "5", "--duration", "100s", "--mix", "image"]
    run = load(folder / "cut", gateway.url, *arguments)
    until(lambda: " right " in run.log.read_text(), PATIENCE_S)
    run.process.send_signal(signal.SIGINT)
    return run


@pytest.fixture(scope="module")
def outcomes(
    gateway: GatewayProcess, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Outcome]:
    """What all runs came to: one wave of short ones, one of two that are long."""
    folder, found = tmp_path_factory.mktemp("loadtest"), {}
    until(lambda: gateway.request("GET", "/readyz").status == 200)
    with ExitStack() as stack:
        wave = _faults(folder, gateway.url, stack) | _sound(folder, gateway)
        wave["turned"] = _turned(folder, gateway, stack)
        wave["wide"] = _wide(folder, gateway, stack)
        wave["slow"] = _slow(folder, gateway, stack)
        found |= {name: run.outcome() for name, run in wave.items()}
        wave = _stalls(folder, gateway.url, stack)
        wave["cut"] = _cut(folder, gateway)
        found |= {name: run.outcome() for name, run in wave.items()}
    return found


def test_swapped_answers_are_caught(outcomes: dict[str, Outcome]) -> None:
    """Two answers of 200 exchanged fail the run, and are named."""
    run = outcomes["swap"]

    assert run.code == 1, run.text
    counts = run.report["total"]["counts"]
    assert 2 <= counts["failed"] <= 2 * (counts["offered"] // 200 + 1)
    assert "mixed-up answer" in run.text
    assert "alone, now" in run.report["total"]["examples"]["mixed-up answer"]


def test_a_batch_out_of_order_is_caught(outcomes: dict[str, Outcome]) -> None:
    """Over gRPC, the right answers to a batch in another order fail the run."""
    run = outcomes["turned"]

    assert run.code == 1, run.text
    assert "failed: mixed-up answer" in run.report["total"]["reasons"]


def test_dropped_requests_are_caught(outcomes: dict[str, Outcome]) -> None:
    """A connection that breaks is a failure, not a retry, and misses the objective."""
    run = outcomes["drop"]

    assert run.code == 1, run.text
    assert "connection broke" in run.text
    met = {item["text"]: item["met"] for item in run.report["slo"]}
    assert {"p99<10s": True, "errors<0.1%": False, "refused<1%": True} == met


def test_the_servers_metrics_stand_beside(outcomes: dict[str, Outcome]) -> None:
    """CPU and phases are in the report; where there are no metrics, it says so."""
    server = outcomes["drop"].report["server"]

    assert 2 == pytest.approx(server["phases"]["decode"]["mean_ms"], rel=0.01)
    assert 0.001 < server["phases"]["decode"]["p99_ms"] / 1e3 <= 0.005
    assert 0.4 < statistics.median(cores for _, cores in server["cpu"]) < 0.6
    assert "answers 404" in outcomes["swap"].report["server"]["missing"]


def test_an_open_loop_shows_what_a_closed_one_hides(
    outcomes: dict[str, Outcome],
) -> None:
    """A stall of 200 ms every 5 s: in the p99 of the one, not in that of the other."""
    latency = {
        name: outcomes[name].report["total"]["latency_us"]
        for name in ("open", "closed")
    }

    assert 200_000 <= latency["closed"]["max"]
    assert 100_000 <= latency["open"]["p99"]
    assert latency["closed"]["p99"] <= latency["open"]["p99"] / 2


def test_overload_shows_goodput_and_refusals(outcomes: dict[str, Outcome]) -> None:
    """At 8 times of what it can do, a server that sheds load answers and refuses."""
    run = outcomes["overload"]
    total = run.report["total"]

    assert run.code == 0, run.text  # the objective is goodput
    assert 1 < total["goodput_per_s"] <= 12
    assert total["counts"]["refused"] > 2 * total["counts"]["right"]
    assert total["refused_us"]["p99"] > 0
    # A generator that stands still for long has nobody free for what is due meanwhile.
    unsent = "failed: never sent, all users were busy"
    assert {"refused: 503 overloaded"} == set(total["reasons"]) - {unsent}


def test_plain_locust_runs_it(outcomes: dict[str, Outcome]) -> None:
    """`locust -f loadtest/locustfile.py` sends every form of the HTTP API, and checks."""
    run = outcomes["plain"]

    assert run.code == 0, run.text
    assert {"image", "form", "json", "batch"} == run.report["kinds"].keys()
    assert "Aggregated" in run.text
    assert run.report["total"]["accuracy"] is not None
    assert run.report["versions"] == [1]


def test_many_grpc_requests_are_under_way(outcomes: dict[str, Outcome]) -> None:
    """40 users of 200 ms have 200 answers a second; gevent's ten threads gave 50."""
    run = outcomes["wide"]

    assert run.code == 0, run.text
    assert run.report["total"]["right_per_s"] > 80


def test_grpc_in_two_processes(outcomes: dict[str, Outcome]) -> None:
    """Calls, batches and a stream, sent by two workers, come together in one report."""
    run = outcomes["grpc"]
    report = run.report

    assert run.code == 0, run.text
    assert {"unary", "stream", "batch"} == report["kinds"].keys()
    assert report["generator"]["processes"] == 2
    assert 15 < report["total"]["counts"]["offered"] < 80
    assert report["total"]["counts"]["right"] == report["total"]["counts"]["offered"]
    assert "missing" in report["server"]


def test_the_load_begins_when_all_processes_are_ready(
    outcomes: dict[str, Outcome],
) -> None:
    """Two workers that learn for 6 s miss nothing of a load of 2 s."""
    run = outcomes["slow"]

    assert run.code == 0, run.text
    assert 5 < run.report["total"]["counts"]["right"] < 40


def test_the_report_stands_alone(outcomes: dict[str, Outcome]) -> None:
    """The page fetches nothing, has its drawings in it, and the rows are there as CSV."""
    for run in outcomes.values():
        html = (run.directory / "report.html").read_text()
        assert html.count("<svg") >= 5
        assert not re.search(r"<(script|link|img|iframe)|url\(http|@import", html)
        rows = list(
            csv.DictReader((run.directory / "windows.csv").read_text().splitlines())
        )
        assert len(rows) == len(run.report["windows"])


def test_reports_are_compared(
    outcomes: dict[str, Outcome], capsys: pytest.CaptureFixture[str]
) -> None:
    """The figures stand side by side; what was not alike is said."""
    directories = [str(outcomes[name].directory) for name in ("open", "closed")]

    assert main(["loadtest", "compare", *directories]) == 0
    shown = capsys.readouterr().out
    assert "different: loop was open, is closed" in shown
    assert re.search(r"latency p99 +\d.*ms .*-\d", shown)
    assert main(["loadtest", "compare", directories[0], "nowhere"]) == 1


def test_a_model_that_is_not_served(
    gateway: GatewayProcess, capsys: pytest.CaptureFixture[str]
) -> None:
    """Over HTTP and gRPC it is said before anything is sent."""
    for target in (gateway.url, f"grpc://{gateway.grpc_target}"):
        arguments = ["--target", target, "--rate", "1", "--model", "nobody"]
        assert main(["loadtest", *arguments]) == 1
        assert "GET /v1/models lists" in capsys.readouterr().err


def test_an_interrupted_run_reports(outcomes: dict[str, Outcome]) -> None:
    """Ctrl-C ends with 130, and what was measured is in the report."""
    run = outcomes["cut"]

    assert run.code == 130, run.text
    assert run.report["interrupted"]
    assert run.report["total"]["counts"]["right"] > 0
    assert run.report["total"]["seconds"] < 50


def test_answers_with_several_labels_are_checked(colours: Path, tmp_path: Path) -> None:
    """A model with a probability for each label is asked with a threshold, and judged."""
    for label, shares in {"red": (250, 0, 240), "green": (0, 250, 0)}.items():
        (tmp_path / "pictures" / label).mkdir(parents=True)
        colour(*shares).save(tmp_path / "pictures" / label / "one.png")
    words = ["--model", "several", "--users", "2", "--duration", "1s"]
    words += ["--pictures", str(tmp_path / "pictures"), "--slo", "accuracy>=100%"]
    with serving(colours, log=tmp_path / "log") as gateway:
        runs = [
            load(tmp_path / name, target, *words)
            for name, target in {
                "http": gateway.url,
                "grpc": gateway.grpc_target,
            }.items()
        ]
        outcomes = [run.outcome() for run in runs]

    assert [0, 0] == [outcome.code for outcome in outcomes], outcomes[0].text
    for outcome in outcomes:
        counts = outcome.report["total"]["counts"]
        assert 0 < counts["right"] == counts["offered"]
