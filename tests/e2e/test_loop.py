# SPDX-License-Identifier: Apache-2.0
"""From feedback to a better version: a writer's sevens, real processes, kill -9."""

from __future__ import annotations

import itertools
import json
import shutil
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from inkling.capture.records import records
from inkling.capture.store import Store
from inkling.cli.main import main
from inkling.contract import Contract
from inkling.model.bundle import read_bundle
from inkling.model.repository import CONTRACT_FILE, Repository
from inkling_training.data.datasets import load
from tests.support.gateway_process import GatewayProcess
from tests.support.machine import until

# The writer mirrors his sevens, which no model has seen.
_SENT, _KEPT, _OTHERS = 40, 20, 160
# Half of the answers agree even where a version reads the writer's sevens anew. The
# time of the engine decides nothing: the tests' machine is a busy one.
_RULE = "requests=100,agreement=0.5,slower=1000"


class _Answer(NamedTuple):
    """What the answer to one picture says."""

    label: str
    version: int
    request_id: str
    is_captured: bool


def _pictures(encode: Callable[..., bytes], pixels: np.ndarray) -> list[bytes]:
    return [encode(one) for one in pixels]


@pytest.fixture(scope="module")
def sevens(encode: Callable[..., bytes]) -> list[bytes]:
    """Mirrored sevens: those that are sent, then those that are kept for the end."""
    train = load("digits").train
    pixels = np.asarray(train.pixels)[train.labels == 7][: _SENT + _KEPT]
    return _pictures(encode, pixels[:, :, ::-1])


@pytest.fixture(scope="module")
def others(encode: Callable[..., bytes]) -> list[bytes]:
    """The digits of other writers."""
    return _pictures(encode, np.asarray(load("digits").test.pixels)[:_OTHERS])


def _answer(gateway: GatewayProcess, picture: bytes) -> _Answer:
    answer = gateway.request("POST", "/v1/models/mlp:classify", picture)
    assert answer.status == 200, answer.body
    [result], version = answer.json["results"], answer.json["version"]
    captured = answer.headers.get("x-inkling-captured") == "true"
    return _Answer(result["label"], version, answer.headers["x-request-id"], captured)


def _right(gateway: GatewayProcess, pictures: list[bytes]) -> int:
    return sum(_answer(gateway, one).label == "7" for one in pictures)


@contextmanager
def _asking(
    gateway: GatewayProcess, pictures: Sequence[bytes]
) -> Iterator[list[_Answer]]:
    """Ask for one picture after the other until the block ends; every answer counts."""
    answers: list[_Answer] = []
    failed: list[BaseException] = []
    ended = threading.Event()

    def ask() -> None:
        try:
            for picture in itertools.cycle(pictures):
                if ended.is_set():
                    return
                answers.append(_answer(gateway, picture))
        except BaseException as error:  # noqa: BLE001 - raised again below
            failed.append(error)

    asker = threading.Thread(target=ask)
    asker.start()
    try:
        yield answers
    finally:
        ended.set()
        asker.join()
    assert not failed, failed


def _planted(models: Path, version: int) -> None:
    """Publish a copy of a version that passes all checks and names each digit wrongly."""
    repository = Repository(models)
    with repository.publishing("mlp", publish_only=True) as publication:
        path = publication.path
        source = repository.files("mlp", version).path
        shutil.copytree(source, path, dirs_exist_ok=True)
        contract = Contract.from_json((path / CONTRACT_FILE).read_text())
        wrong = replace(contract, labels=(*contract.labels[1:], contract.labels[0]))
        (path / CONTRACT_FILE).write_text(wrong.json)
        for file in (path / "tflite").iterdir():
            bundle = replace(read_bundle(file.read_bytes()), contract=wrong)
            file.write_bytes(bundle.to_bytes())
        publication.commit()


def _judged(models: Path, version: int) -> str:
    """Let a version shadow by the rule until it is judged; return the figures."""
    words = ["--label", "shadow", "--share", "100", "--rule", _RULE]
    models_dir = ["--models-dir", str(models)]
    assert main(["promote", "mlp", str(version), *words, *models_dir]) == 0
    labels = Repository(models).labels("mlp")
    wanted = ("rule", "shadow", version)

    def why() -> list[str]:
        moves = labels.moves()
        return [m.why for m in moves if (m.by, m.label, m.before) == wanted]

    # The move is noted after the label was taken.
    until(why, timeout_s=300)
    [figures] = why()
    return figures


def test_a_running_gateway_judges(
    models_dir: Path,
    others: list[bytes],
    start_gateway: Callable[..., Any],
) -> None:
    """Two processes promote a good shadow, and take the label of a bad one."""
    shutil.copytree(models_dir / "mlp" / "1", models_dir / "mlp" / "2")
    repository = Repository(models_dir)
    repository.promote("mlp", 1)
    with (
        start_gateway(models_dir, "--workers", "2") as gateway,
        _asking(gateway, others) as answers,
    ):
        good = _judged(models_dir, 2)
        until(lambda: repository.version_labels("mlp") == {"stable": 2})
        _planted(models_dir, 2)
        bad = _judged(models_dir, 3)

    assert repository.version_labels("mlp") == {"stable": 2}
    assert "agreement 1.0000" in good
    assert "agreement 0.0" in bad
    assert {one.version for one in answers} <= {1, 2}
    assert repository.roll_back("mlp").after == 1


def _sidecar(capture: Path, models: Path, runs: Path, *words: str) -> list[str]:
    command = [sys.executable, "-m", "inkling", "sidecar", str(capture)]
    command += ["--model", "mlp", "--models-dir", str(models), "--runs-dir", str(runs)]
    command += ["--dataset", "digits", "--epochs", "3", "--once"]
    return [*command, "--after-feedback", str(_SENT), *words]


def _give_feedback(gateway: GatewayProcess, ids: Sequence[str]) -> None:
    for one in ids:
        body = json.dumps({"request_id": one, "label": "7"}).encode()

        def taken(body: bytes = body) -> bool:
            answer = gateway.request("POST", "/v1/feedback", body)
            return answer.status == 200

        until(taken)


def _retrained(capture: Path, models: Path, runs: Path) -> None:
    """Let a side-car retrain once; its version gets the label `candidate`."""
    command = _sidecar(capture, models, runs)
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "has the label candidate" in done.stdout
    labels = Repository(models).version_labels("mlp")
    assert labels == {"candidate": 2, "stable": 1}


@pytest.mark.soak
def test_feedback_leads_to_a_better_version(
    models_dir: Path,
    sevens: list[bytes],
    others: list[bytes],
    tmp_path: Path,
    start_gateway: Callable[..., Any],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A retrained candidate shadows, wins and answers; a planted bad version loses.

    Meanwhile no request is lost, and none has the answers of two versions.
    """
    capture, kept = tmp_path / "capture", sevens[_SENT:]
    flags = ("--capture", str(capture), "--capture-share", "1")
    traffic = [*sevens[:_SENT], *others]
    with start_gateway(models_dir, *flags) as gateway:
        first = [_answer(gateway, one) for one in traffic]
        before = _right(gateway, kept)
        _give_feedback(gateway, [one.request_id for one in first[:_SENT]])
        with _asking(gateway, traffic) as answers:
            _retrained(capture, models_dir, tmp_path / "runs")
            words = ["--version", "2", "--models-dir", str(models_dir), "--json"]
            capsys.readouterr()
            assert main(["replay", str(capture), "--model", "mlp", *words]) == 0
            captured, candidate = json.loads(capsys.readouterr().out)["rows"]
            won = _judged(models_dir, 2)
            until(lambda: answers[-1].version == 2)
            after = _right(gateway, kept)
            _planted(models_dir, 2)
            lost = _judged(models_dir, 3)
        last = _right(gateway, kept)
    print(f"right of {_KEPT} kept sevens: {before}, {after}, {last}; {len(answers)}")
    print(f"requests beside; the candidate: {won}; the planted version: {lost}")

    assert Repository(models_dir).version_labels("mlp") == {"candidate": 2, "stable": 2}
    assert before < _KEPT / 2
    assert last == after >= _KEPT * 0.9
    assert candidate["accuracy"] > captured["accuracy"]
    versions = [one.version for one in (*first, *answers)]
    assert versions == sorted(versions)
    assert set(versions) == {1, 2}
    _check_captures(capture, [*first, *answers])


def _check_captures(capture: Path, answers: Sequence[_Answer]) -> None:
    """Check that each request has one record, by the version that answered it."""
    found = list(records(capture, "mlp"))
    by_id = {one.request_id: (one.label, one.version) for one in found}

    assert set(Counter(one.request_id for one in found).values()) == {1}
    assert any(one.is_captured for one in answers)
    for one in answers:
        if one.is_captured:
            assert by_id[one.request_id] == (one.label, one.version)


_POINTS = ("row", "run", "staging", "version", "label")


@pytest.mark.soak
@pytest.mark.parametrize("point", _POINTS)
def test_a_killed_sidecar_finishes_later(
    models_dir: Path,
    sevens: list[bytes],
    tmp_path: Path,
    start_gateway: Callable[..., Any],
    point: str,
) -> None:
    """Killed at any step, the next side-car publishes one version, and labels it."""
    capture, runs = tmp_path / "capture", tmp_path / "runs"
    flags = ("--capture", str(capture), "--capture-share", "1")
    with start_gateway(models_dir, *flags) as gateway:
        ids = [_answer(gateway, one).request_id for one in sevens[:_SENT]]
        _give_feedback(gateway, ids)
    store, model = Store(capture), models_dir / "mlp"
    reached = {
        "row": lambda: store.retrainings("mlp"),
        "run": lambda: list(runs.rglob("state.npz")),
        "staging": lambda: list(model.glob(".staging-*/tflite/*")),
        "version": (model / "2").is_dir,
        "label": lambda: "candidate" in Repository(models_dir).version_labels("mlp"),
    }[point]
    command = _sidecar(capture, models_dir, runs)
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        until(lambda: reached() or process.poll() is not None, timeout_s=900)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    again = subprocess.run(command, capture_output=True, text=True, timeout=900)
    [row] = store.retrainings("mlp")
    store.close()
    repository = Repository(models_dir)

    assert done.returncode == again.returncode == 0, done.stderr + again.stderr
    assert "no retraining is due" in again.stdout
    assert repository.versions("mlp") == [2, 1]
    assert repository.version_labels("mlp")["candidate"] == 2
    assert (row.version, row.outcome) == (2, "published as candidate")
    repository.files("mlp", 2).verify()
