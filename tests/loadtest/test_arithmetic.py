# SPDX-License-Identifier: Apache-2.0
"""What a load test computes, without a load."""

from __future__ import annotations

import argparse
import random
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hdrh.histogram import HdrHistogram

from inkling.cli.main import main
from inkling.errors import InvalidRequest
from inkling_loadtest.answers.references import References, Reply
from inkling_loadtest.load.arrivals import Stage, arrivals
from inkling_loadtest.load.capacity import Capacity, TrialResult, search
from inkling_loadtest.load.pictures import drawn_digits, pictures_in
from inkling_loadtest.measures.figures import curve
from inkling_loadtest.measures.recorded import Recorded
from inkling_loadtest.measures.tallies import Sample, TallyTable, percentile_ms
from inkling_loadtest.options import Options, add_options, duration_s
from inkling_loadtest.report.formatting import notes
from inkling_loadtest.slo import check, parse
from tests.support.raw_server import RawServer, answering, response


@pytest.mark.parametrize(
    ("text", "figure", "bound", "kept", "broken"),
    [
        ("p99<50ms", "p99", 50_000, 49_999, 50_000),
        ("p99.9 <= 1s", "p99.9", 1e6, 1e6, 1_000_001),
        ("mean<250us", "mean", 250, 249, 250),
        ("errors<0.1%", "errors", 0.001, 0.0, 0.001),
        ("accuracy>=98%", "accuracy", 0.98, 0.98, 0.97),
        ("goodput>100/s", "goodput", 100, 101, 100),
    ],
)
def test_objectives_are_read(
    text: str, figure: str, bound: float, kept: float, broken: float
) -> None:
    """A objective has a figure, a bound in the figure's unit, and holds up to it."""
    [objective] = parse(text)

    assert (figure, pytest.approx(bound)) == (objective.figure, objective.bound)
    assert objective.holds(kept)
    assert not objective.holds(broken)
    assert not check([objective], lambda _: None)[0].met


@pytest.mark.parametrize("text", ["p99", "p99<50", "p99<50%", "errors<1ms", "fast", ""])
def test_objectives_that_cannot_be_read(text: str) -> None:
    """The grammar is in the answer."""
    with pytest.raises(InvalidRequest, match="p99<50ms,errors<0.1%"):
        parse(text)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--target", "ftp://127.0.0.1:1", "--rate", "1"], "http://localhost:8080"),
        (["--target", "http://192.0.2.1:80", "--rate", "1"], "--allow-remote"),
        (["--target", "grpc://localhost:0", "--rate", "1"], "grpc://localhost:8081"),
        (["--target", "http://127.0.0.1:1"], "Give --rate"),
        (["--target", "http://127.0.0.1:1", "--rate", "0"], "above 0"),
        (["--target", "http://127.0.0.1:1", "--users", "0"], "1 or more"),
        (["--target", "http://127.0.0.1:1", "--rate", "1", "--slo", "x"], "p99<50ms"),
        (["--target", "http://[::1]:1", "--rate", "1", "--duration", "ten"], "length"),
        (["--target", "http://127.0.0.1:1", "--rate", "1", "--mix", "unary"], "image="),
    ],
)
def test_wrong_arguments(
    arguments: list[str], word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """They are refused with 2 and what is right, before anything is loaded."""
    assert main(["loadtest", *arguments]) == 2
    assert word in capsys.readouterr().err


@pytest.mark.parametrize("scheme", ["http", "grpc"])
def test_nobody_there(scheme: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A target that does not answer is named, with how to start one."""
    assert main(["loadtest", "--target", f"{scheme}://127.0.0.1:9", "--rate", "1"]) == 1
    assert "inkling serve" in capsys.readouterr().err


@pytest.mark.parametrize("scheme", ["http", "grpc"])
def test_a_load_test_never_goes_through_a_proxy(
    scheme: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a proxy in each variable, another machine is asked directly, and in vain."""
    server = RawServer(answering(lambda _: response(502, {})))
    for name in ("http_proxy", "https_proxy", "grpc_proxy", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{server.port}")
    # RFC 5737 keeps this network for examples.
    words = ["--target", f"{scheme}://192.0.2.1:9", "--allow-remote", "--rate", "1"]

    assert 1 == main(["loadtest", *words, "--timeout", "1s"])
    assert "192.0.2.1:9" in capsys.readouterr().err
    assert 0 == server.connections
    server.close()


@pytest.mark.parametrize(
    ("target", "url", "metrics"),
    [
        ("localhost:1", "grpc://localhost:1", "http://localhost:8080/metrics"),
        ("[::1]:1", "grpc://[::1]:1", "http://[::1]:8080/metrics"),
        ("grpcs://localhost", "grpcs://localhost", "https://localhost:8080/metrics"),
        ("http://localhost:1/", "http://localhost:1", "http://localhost:1/metrics"),
    ],
)
def test_each_spelling_of_a_target_is_taken(
    target: str, url: str, metrics: str
) -> None:
    """The load test takes what the gateway's log prints, and other commands take."""
    parser = argparse.ArgumentParser()
    add_options(parser)
    options = Options.of(parser.parse_args(["--rate", "1"]), target, None)

    assert (url, metrics) == (options.target, options.metrics_connection().target)
    assert options.connection().proxy is None


def test_lengths_of_time() -> None:
    """A number is seconds unless it has a unit."""
    assert [0.5, 30, 300, 3600] == [duration_s(t) for t in ("500ms", "30", "5m", "1h")]


def test_arrivals_are_poisson_and_follow_the_rate() -> None:
    """A ramp from 0 to 200/s over 50 s has 5,000 arrivals, a quarter in its first half."""
    due = list(arrivals(Stage("ramp", 50, 0, 200), "seed"))
    gaps = [b - a for a, b in pairwise(due)]
    steady = list(arrivals(Stage("constant", 100, 50, 50), "seed"))
    between = [b - a for a, b in pairwise(steady)]

    assert pytest.approx(5000, rel=0.06) == len(due)
    assert pytest.approx(0.25, abs=0.03) == sum(t < 25 for t in due) / len(due)
    assert min(gaps) > 0
    # The gaps of a Poisson process are as long on average as they are scattered.
    mean = sum(between) / len(between)
    scatter = (sum((gap - mean) ** 2 for gap in between) / len(between)) ** 0.5
    assert pytest.approx(1, abs=0.1) == scatter / mean
    assert due == list(arrivals(Stage("ramp", 50, 0, 200), "seed"))


@pytest.mark.parametrize("digits", [2, 3])
@pytest.mark.parametrize("count", [1, 2, 7, 5000])
def test_figures_of_histograms_are_those_of_hdrh(digits: int, count: int) -> None:
    """Mean and percentiles from arrays equal those that the library computes."""
    histogram = HdrHistogram(1, 120_000_000, digits)
    chance = np.random.default_rng(count)
    for value in chance.lognormal(8, 3, count):
        histogram.record_value(min(max(int(value), 1), 120_000_000))
    found = Recorded(histogram)
    percents = [0.1, 25, 50, 90, 99, 99.9, 99.99, 100]

    assert found.mean == pytest.approx(histogram.get_mean_value(), rel=1e-12)
    assert found.most == histogram.get_max_value()
    assert found.percentiles(percents) == [
        histogram.get_value_at_percentile(p) for p in percents
    ]


def test_the_curve_ends_with_the_largest_value() -> None:
    """The points rise from the smallest value to the largest, denser in the tail."""
    histogram = HdrHistogram(1, 120_000_000, 3)
    for value in range(1, 1001):
        histogram.record_value(value)
    points = curve(histogram)

    assert points == sorted(points)
    assert (points[0], points[-1]) == ((0, 1), (100, 1000))
    assert 50 < len(points) < 70
    assert curve(HdrHistogram(1, 1000, 3)) == []


def test_histograms_of_processes_add_up() -> None:
    """Two ledgers, sent as messages and merged, say what one would have said."""
    chance = random.Random(0)
    right = References([], []).judge([], Reply(1, []))
    whole, merged, parts = (
        TallyTable(1.0),
        TallyTable(1.0),
        [TallyTable(1.0), TallyTable(1.0)],
    )
    for place in range(2000):
        took_s = chance.expovariate(200)
        sample = Sample(0, place // 500, "a", 1, 5.0, True, 5.001, 5.0 + took_s, right)
        whole.record(sample)
        parts[place % 2].record(sample)
    for part in parts:
        part.record_not_sent(0, [3, 3])
        merged.absorb(part.drain())

    one, other = whole.stages(0), merged.stages(0)
    for name in ("latency", "service", "late"):
        assert percentile_ms(one.histogram(name), 99) == percentile_ms(
            other.histogram(name), 99
        )
    assert one.counts["right"] == other.counts["right"] == 2000
    assert (4, 4) == (other.counts["not_sent"], merged.windows()[3].counts["failed"])


def test_answers_are_compared_with_those_alone() -> None:
    """Another's answer is mixed up, a strange one wrong, a short one has some missing."""
    digits = drawn_digits()[:3]
    references = References(digits, "0123456789")
    alone = [[("0", 0.99)], [("0", 0.95)], [("7", 0.5)]]
    assert references.judge([0, 1, 2], Reply(1, alone)).correct == 2

    judged = {
        "right": references.judge([1, 0], Reply(1, [[("0", 0.9501)], [("0", 0.9899)]])),
        "mixed-up answer": references.judge([0], Reply(1, [[("0", 0.95)]])),
        "wrong answer": references.judge([0], Reply(1, [[("3", 0.9)]])),
        "missing answers": references.judge([0, 1], Reply(1, alone[:1])),
        "unreadable answer": references.judge([0], None),
    }
    # A version that appears under load is taken at its first word, and then held to it.
    assert references.judge([0], Reply(2, [[("3", 0.9)]])).outcome == "right"
    assert references.judge([0], Reply(2, [[("0", 0.99)]])).outcome == "failed"
    assert list(judged) == [v.reason or v.outcome for v in judged.values()]


def test_answers_with_several_labels_are_compared() -> None:
    """Each label has its probability again; one at the threshold may come and go."""
    digits = drawn_digits()[:2]
    references = References(digits, "0123456789", threshold=0.5)
    alone: list[list[tuple[str, float]]] = [[("3", 0.9), ("0", 0.501)], []]
    assert references.judge([0, 1], Reply(1, alone)).correct == 1

    same = [[("3", 0.9001)], [("7", 0.5005)]]
    judged = {
        "right": references.judge([0, 1], Reply(1, same)),
        "mixed-up answer": references.judge([1], Reply(1, alone[:1])),
        "wrong answer": references.judge([0], Reply(1, [[("3", 0.9), ("0", 0.6)]])),
    }
    assert list(judged) == [v.reason or v.outcome for v in judged.values()]
    nothing = references.judge([1], Reply(1, [[("3", 0.9)]]))
    assert "was without a label alone, now 3 at 0.9000" in nothing.detail


def test_labels_meet_in_two_normal_forms(tmp_path: Path) -> None:
    """A folder from a Mac is the model's label; what file managers leave is no picture."""
    for name in ("Wu\u0308rfel/1.png", "Wu\u0308rfel/._1.png", "Katze/2.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())

    pictures = pictures_in(tmp_path)
    references = References(pictures, ["Hund", "W\u00fcrfel"])

    assert 2 == len(pictures)
    assert 1 == references.num_labelled
    [place] = [i for i, one in enumerate(pictures) if one.label != "Katze"]
    assert 1 == references.judge([place], Reply(1, [[("W\u00fcrfel", 0.9)]])).correct


def _found(limit: float, noise: float, seed: int) -> tuple[Capacity, float]:
    """Search a server that meets the objective up to `limit`, beside other work."""
    chance, elapsed_s = random.Random(seed), 0.0
    searching = search(None, 280.0)
    trial = next(searching)
    while True:
        elapsed_s += trial.seconds + 1.0
        kept = trial.rate <= limit * chance.uniform(0.97, 1.03)
        kept = kept and chance.random() >= noise
        try:
            trial = searching.send(
                TrialResult(kept, "" if kept else "p99<50ms", elapsed_s)
            )
        except StopIteration as stop:
            return stop.value, elapsed_s


@pytest.mark.parametrize("limit", [3.0, 47.0, 800.0, 20_000.0])
def test_capacity_is_found_and_found_again(limit: float) -> None:
    """The search ends by itself within 5 minutes, and repeats within 10 %, noise or not."""
    for noise in (0.0, 0.1):
        found = [_found(limit, noise, seed) for seed in range(20)]

        assert max(elapsed_s for _, elapsed_s in found) < 300
        rates = sorted(capacity.rate for capacity, _ in found if capacity.confirmed)
        assert len(rates) >= 18
        assert pytest.approx(limit, rel=0.1) == rates[len(rates) // 2]
        assert rates[-2] / rates[1] < 1.1 or noise


@pytest.mark.parametrize(("p99_us", "said"), [(99_000.0, False), (101_000.0, True)])
def test_limits_that_are_near_the_latency_at_rest(p99_us: float, said: bool) -> None:
    """A search whose limit is within twice of it says that chance has a say."""
    stages = [
        {"measured": True, "from": rate, "latency_us": {"p99": p99}}
        for rate, p99 in ((100.0, 250_000.0), (50.0, p99_us))
    ]
    report = {
        "interrupted": False,
        "generator": {"bottleneck": ""},
        "total": {"counts": {}},
        "options": {"loop": "open", "users": 100, "slo": "p99<200ms,errors<1%"},
        "capacity": {"rate": 90.0},
        "stages": [{"measured": False, "from": 20.0, "latency_us": None}, *stages],
        "server": {},
        "labelled_pictures": 60,
    }

    found = list(notes(report))

    assert said == bool(found)
    assert not said or "At only 50 requests/s p99 was 101 ms already" in found[0]


def test_pictures_of_ones_own(tmp_path: Path) -> None:
    """A folder of folders gives pictures with labels; one without is refused."""
    digit = drawn_digits()[7 * 6]
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "a.png").write_bytes(digit.image)
    (tmp_path / "7" / "same.PNG").write_bytes(digit.image)

    assert ["7"] == [picture.label for picture in pictures_in(tmp_path)]
    with pytest.raises(InvalidRequest, match="subfolders"):
        pictures_in(tmp_path / "7")


def test_drawn_digits_differ() -> None:
    """No two have the same bytes, there are six of each, and a seed draws them again."""
    pictures = drawn_digits()

    assert len({picture.image for picture in pictures}) == len(pictures) == 60
    assert pictures == drawn_digits()
    assert [str(digit) for digit in range(10)] == sorted({p.label for p in pictures})
