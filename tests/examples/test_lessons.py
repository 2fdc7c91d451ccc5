# SPDX-License-Identifier: Apache-2.0
"""Each lesson in its short form, with the numbers that it must find."""

from __future__ import annotations

import dataclasses
import importlib
import math
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from examples.__main__ import lessons
from examples.shared import Numbers, Setting
from inkling.contract import Contract
from inkling.model.repository import Repository
from tests.support.machine import within
from tests.support.published import OFFLINE

ROOT = Path(__file__).parent.parent.parent
_README = (ROOT / "examples" / "README.md").read_text()
_LARGEST_FIGURE = 60_000

Run = Callable[[str], Numbers]


@pytest.fixture(scope="module")
def setting(published: Path, tmp_path_factory: pytest.TempPathFactory) -> Setting:
    """The short form, in a folder of its own, in which the MLP is published already."""
    work = tmp_path_factory.mktemp("lessons")
    shutil.copytree(published, work / "models")
    return Setting(short=True, figures=work / "figures", work=work)


@pytest.fixture(scope="module")
def run(setting: Setting) -> Run:
    """Run a lesson by its number; it must draw a small figure."""

    def lesson(number: str) -> Numbers:
        [name] = [name for name in lessons() if name.startswith(f"lesson_{number}")]
        numbers: Numbers = importlib.import_module(f"examples.{name}").run(setting)
        figure = setting.figures / f"lesson_{number}.png"
        assert 2_000 < figure.stat().st_size < _LARGEST_FIGURE
        return numbers

    return lesson


def test_a_line_is_found(run: Run) -> None:
    """The loss falls to that of the noise, NumPy and TensorFlow step alike, and scaled inputs find the exact line."""
    numbers = run("01")

    assert numbers["first loss"] > 5_000
    assert numbers["last loss"] < 30
    assert numbers["w"] == pytest.approx(1.48, abs=0.02)
    assert numbers["difference NumPy, TensorFlow"] < 1e-9
    assert numbers["difference from the exact line, scaled input"] < 1e-6


def test_gradients_agree(run: Run) -> None:
    """Every installed library finds NumPy's gradients to 1e-4, and its loss falls alike."""
    numbers = run("02")

    assert numbers["relative difference of the gradients"] < 1e-4
    assert numbers["last loss"] < 1e6
    assert numbers["its difference"] < 0.01 * numbers["last loss"]


def test_gradients_by_hand_are_differences() -> None:
    """The backward pass by hand is the slope that two forward passes show."""
    from examples.lesson_02_gradients import by_hand, problem

    x, y, w1, w2 = (array.astype(np.float64) for array in problem())
    step = 1e-6
    for place, weights in ((1, w1), (2, w2)):
        slope = by_hand(x, y, w1, w2)[place][3, 4]
        before = by_hand(x, y, w1, w2)[0]
        weights[3, 4] += step
        after = by_hand(x, y, w1, w2)[0]
        weights[3, 4] -= step
        assert (after - before) / step == pytest.approx(slope, rel=1e-2)


def test_minima_are_found_and_lost(run: Run) -> None:
    """All four minima, the polynomial's from x = 3, NaN from x = 10, and each cure."""
    numbers = run("03")

    assert numbers["Himmelblau, minima found"] == 4
    assert numbers["Himmelblau, worst distance"] < 1e-3
    assert numbers["polynomial from x = 3: x"] == pytest.approx(0.557, abs=1e-2)
    assert numbers["polynomial from x = 3: y"] == pytest.approx(7.34, abs=1e-2)
    assert math.isnan(numbers["from x = 10, rate 0.01"])
    for cure in ("rate 0.001", "rate 0.005, decaying", "Adam, rate 0.5"):
        assert numbers[f"from x = 10, {cure}"] == pytest.approx(0.557, abs=1e-2)
    clipped = numbers["from x = 10, rate 0.01, gradient clipped to 50"]
    assert clipped == pytest.approx(0.557, abs=1e-2)
    assert math.isfinite(numbers["from x = 10, rate 0.01, halved in each step"])


@pytest.mark.soak
def test_a_network_of_raw_tensors_is_served(run: Run, setting: Setting) -> None:
    """NaN with deviation 1 and none with 0.1; published and served, it answers as NumPy says."""
    numbers = run("04")

    assert 0 < numbers["deviation 1: first step with NaN"] < 100
    assert numbers["deviation 0.1: last loss"] < 0.8
    assert numbers["deviation 0.1: first loss"] > 2
    assert numbers["difference NumPy, served"] < 1e-5
    assert numbers["right of 50 over HTTP, raw-tensors"] > 0.6
    assert numbers["right of 50 over HTTP, mlp"] > 0.9
    published = Repository(setting.models).newest("raw-tensors").contract()
    assert published.source is not None
    assert published.source.name == "raw_tensors"


def test_tensors_do_what_is_said(run: Run) -> None:
    """Every assertion of the lesson holds."""
    assert run("05") == {"parts checked": 7}


@pytest.mark.alone
def test_a_prefetch_saves_time(run: Run) -> None:
    """A trainer that works while the next batch is prepared waits less."""
    numbers = run("06")

    alone = numbers["slow batches, without prefetch: s"]
    assert alone > 12 * 0.06
    within(numbers["slow batches, with prefetch: s"], 0.9 * alone)


def test_what_keras_saves_is_loaded(run: Run) -> None:
    """Each way to build a network learns, and each way to keep it keeps its answers."""
    numbers = run("07")

    for name, least in (("sequential", 0.4), ("functional", 0.4), ("Perceptron", 0.2)):
        assert numbers[f"{name}: accuracy"] > least
        assert numbers[f"{name}: loaded differ by"] < 1e-5
        assert abs(numbers[f"{name}: top 5, Keras - by hand"]) < 1e-6
    assert numbers["TensorBoard files"] >= 3


@pytest.mark.soak
def test_a_gap_is_measured(run: Run) -> None:
    """Known pictures are read better than others, and k-fold says about the same."""
    numbers = run("08")

    assert numbers["known, none"] > 0.95
    assert 0 < numbers["gap, none"] < 0.2
    assert numbers["k-fold"] > 0.8


def test_a_convolution_by_hand_is_tensorflows(run: Run) -> None:
    """The loops of the lesson give TensorFlow's picture, and a small CNN learns."""
    numbers = run("09")

    assert numbers["difference by hand, TensorFlow"] < 1e-5
    assert numbers["accuracy"] > 0.7


def test_every_way_reads_the_photo(run: Run) -> None:
    """HTTP, gRPC and the device give one answer, int8 nearly the same, and it is right."""
    numbers = run("10")

    assert numbers["different labels in four ways"] == 1
    assert numbers["right"] == 1
    assert numbers["worst difference HTTP, gRPC, device"] < 1e-5
    assert 0 < numbers["worst difference of int8"] < 0.25


def test_a_lesson_runs_by_its_own_command(tmp_path: Path) -> None:
    """A lesson is a program, says where its figure is, and prints its numbers."""
    command = [sys.executable, "-m", "examples.lesson_01_line", "--short"]
    command += ["--figures", str(tmp_path), "--work", str(tmp_path)]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=120
    )

    assert done.returncode == 0, done.stderr
    assert f"The figure is {tmp_path / 'lesson_01.png'}." in done.stdout
    assert re.search(r"last loss +2\d\.", done.stdout)


def test_the_path_has_every_lesson() -> None:
    """The README links each lesson and shows its figure, which is small."""
    for name in lessons():
        figure = f"figures/{name[:9]}.png"
        assert f"({name}.py)" in _README
        assert f"]({figure})" in _README
        assert (ROOT / "examples" / figure).stat().st_size < _LARGEST_FIGURE


def test_every_field_of_the_contract_has_a_lesson() -> None:
    """The README says of each field of a contract what it is for, and which lesson shows it."""
    rows = re.findall(r"^\| (`.+?`) \| .+? \| \d+ \|$", _README, re.MULTILINE)
    found = {name for row in rows for name in re.findall(r"`(\w+)`", row)}

    assert found == {item.name for item in dataclasses.fields(Contract)}


def test_a_lesson_names_what_came_of_it() -> None:
    """Each lesson names a part of Inkling that came of it; its paths are there."""
    for name in lessons():
        text = (ROOT / "examples" / f"{name}.py").read_text()
        doc = text.partition("What came of it:")[2].partition('"""')[0]
        assert len(doc) > 80, name
        for path in re.findall(r"\b(?:client|training)/[\w/.]*\w", doc):
            assert (ROOT / path).exists(), f"{name}: {path}"


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_all_lessons_take_less_than_ten_minutes(
    tmp_path: Path, own_environment: dict[str, str]
) -> None:
    """`make examples` runs all of them in full, with MNIST where it is, and prints a table."""
    given = own_environment.get("INKLING_DATA_DIR", "")
    places = {"INKLING_DATA_DIR": str(Path(given).resolve())} if given else OFFLINE
    command = [sys.executable, "-m", "examples", "--work", str(tmp_path)]
    done = subprocess.run(
        [*command, "--figures", str(tmp_path / "figures")],
        cwd=ROOT,
        env={**os.environ, **places},
        capture_output=True,
        text=True,
        timeout=600,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    for name in lessons():
        assert re.search(rf"^{name}: \d+ s$", done.stdout, re.MULTILINE), name
    assert re.search(r"^All lessons: \d+ s$", done.stdout, re.MULTILINE)
