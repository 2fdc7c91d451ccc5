# SPDX-License-Identifier: Apache-2.0
"""The figures of several workers, whatever happens to the folder where they meet."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from prometheus_client.core import GaugeMetricFamily, Metric

from inkling_serving.runtime.metrics import NOW, Metrics
from inkling_serving.runtime.poller import Repeating
from inkling_serving.runtime.timings import Timings
from tests.support.machine import until, within


def _counted(metrics: Metrics, name: str = "inkling_requests_total") -> float:
    lines = metrics.exposition().decode().splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(name))


def _asked(metrics: Metrics, times: int = 1) -> None:
    timings = Timings()
    timings.model, timings.version = "mlp", 1
    for _ in range(times):
        metrics.observe("http", "ok", timings)


def test_saving_goes_on_after_the_disk_was_full(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A folder that cannot be written to is said once, and filled when it is back."""
    folder = tmp_path / "figures"
    folder.mkdir()
    metrics = Metrics(folder)
    saver = Repeating("saving the metrics", metrics.save, lambda: 0.02)
    own = folder / f"{os.getpid()}.json"
    until(own.exists)
    shutil.rmtree(folder)
    folder.touch()  # a file is in its place
    until(lambda: "saving the metrics failed" in caplog.text)
    _asked(metrics, 3)
    assert 3 == _counted(metrics)
    time.sleep(0.1)
    folder.unlink()
    within(until(own.exists), 2)
    saver.stop()
    assert 1 == caplog.text.count("saving the metrics failed")

    assert 3 == sum(count for *_, count in json.loads(own.read_text())["requests"])


def test_a_folder_that_was_swept_away_is_made_again(tmp_path: Path) -> None:
    """Systems clean /tmp; the figures come back, and no answer of /metrics fails."""
    folder = tmp_path / "figures"
    folder.mkdir()
    metrics = Metrics(folder)
    metrics.save()
    shutil.rmtree(folder)
    _asked(metrics)
    assert 1 == _counted(metrics)
    metrics.save()

    assert 1 == len(list(folder.glob("*.json")))


def test_a_file_that_is_being_removed_is_passed_over(tmp_path: Path) -> None:
    """Another worker's file that is empty or no JSON does not fail /metrics."""
    metrics = Metrics(tmp_path)
    _asked(metrics)
    (tmp_path / "1.json").touch()
    (tmp_path / "2.json").symlink_to(tmp_path / "nothing")

    assert 1 == _counted(metrics)


def test_a_disk_without_room_is_no_end(tmp_path: Path) -> None:
    """Where a file cannot be written, the figures of this process are told all the same."""
    folder = tmp_path / "figures"
    folder.mkdir()
    metrics = Metrics(folder)
    (folder / f"{os.getpid()}.new-json").mkdir()  # nothing can be written there
    _asked(metrics)
    with pytest.raises(OSError, match="directory"):
        metrics.save()

    assert 1 == _counted(metrics)
    (folder / f"{os.getpid()}.new-json").rmdir()
    metrics.save()
    assert (folder / f"{os.getpid()}.json").exists()


def test_others_are_added_and_the_dead_hold_no_memory(tmp_path: Path) -> None:
    """Counters of workers that died stay; their memory and their place do not."""
    metrics = Metrics(tmp_path)
    _asked(metrics, 2)
    metrics.save()
    own = json.loads((tmp_path / f"{os.getpid()}.json").read_text())
    for number, age_s in ((1, 0), (2, 60)):
        other = {**own, "at": time.time() - age_s, "memory": 1_000}
        (tmp_path / f"{number}.json").write_text(json.dumps(other))

    assert 6 == _counted(metrics)
    assert 2 == _counted(metrics, "inkling_workers")
    memory = _counted(metrics, "process_resident_memory_bytes")
    assert memory < own["memory"] * 1.5 + 1_000


class _Part:
    """A part of the gateway that counts one sum, and one state."""

    def counts(self) -> dict[str, float]:
        """Return both."""
        return {"sum": 5.0, f"{NOW}state": 3.0}

    def families(self, counts: Sequence[dict[str, float]]) -> Iterator[Metric]:
        """Yield the total of each."""
        for name in ("sum", f"{NOW}state"):
            total = sum(one.get(name, 0.0) for one in counts)
            yield GaugeMetricFamily(f"part_{name.removeprefix(NOW)}", "A part.", total)


def test_the_state_of_a_part_ends_with_its_worker(tmp_path: Path) -> None:
    """Counters of a part stay when their worker has died, and those of its state go."""
    metrics = Metrics(tmp_path, parts={"part": _Part()})
    metrics.save()
    own = json.loads((tmp_path / f"{os.getpid()}.json").read_text())
    dead = {**own, "at": time.time() - 60}
    (tmp_path / "1.json").write_text(json.dumps(dead))

    assert 10 == _counted(metrics, "part_sum ")
    assert 3 == _counted(metrics, "part_state ")
    assert [{"sum": 5.0, f"{NOW}state": 3.0}, {"sum": 5.0}] == metrics.counts_of("part")
