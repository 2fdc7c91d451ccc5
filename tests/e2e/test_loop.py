# SPDX-License-Identifier: Apache-2.0
"""From feedback to a better version: a writer's sevens, real processes, kill -9."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inkling.capture.store import Store
from inkling.cli.main import main
from inkling.model.repository import Repository
from inkling_training.data.datasets import load
from tests.support.gateway_process import GatewayProcess
from tests.support.machine import until

# The writer mirrors his sevens, which no model has seen.
_SENT, _KEPT = 40, 20


@pytest.fixture(scope="module")
def sevens(encode: Callable[..., bytes]) -> list[bytes]:
    """Mirrored sevens: those that are sent, then those that are kept for the end."""
    train = load("digits").train
    pixels = np.asarray(train.pixels)[train.labels == 7][: _SENT + _KEPT]
    return [encode(one[:, ::-1]) for one in pixels]


def _answer(gateway: GatewayProcess, picture: bytes) -> tuple[str, int, str]:
    answer = gateway.request("POST", "/v1/models/mlp:classify", picture)
    assert answer.status == 200, answer.body
    shown = answer.json
    return (
        shown["results"][0]["label"],
        shown["version"],
        answer.headers["x-request-id"],
    )


def _right(gateway: GatewayProcess, pictures: list[bytes]) -> int:
    return sum(_answer(gateway, one)[0] == "7" for one in pictures)


def _sidecar(capture: Path, models: Path, runs: Path, *words: str) -> list[str]:
    command = [sys.executable, "-m", "inkling", "sidecar", str(capture)]
    command += ["--model", "mlp", "--models-dir", str(models), "--runs-dir", str(runs)]
    command += ["--dataset", "digits", "--epochs", "3", "--once"]
    return [*command, "--after-feedback", str(_SENT), *words]


def _give_feedback(gateway: GatewayProcess, pictures: list[bytes]) -> None:
    ids = [_answer(gateway, one)[2] for one in pictures]
    for one in ids:
        body = json.dumps({"request_id": one, "label": "7"}).encode()

        def taken(body: bytes = body) -> bool:
            answer = gateway.request("POST", "/v1/feedback", body)
            return answer.status == 200

        until(taken)


@pytest.mark.soak
def test_feedback_leads_to_a_better_version(
    models_dir: Path,
    sevens: list[bytes],
    tmp_path: Path,
    start_gateway: Callable[..., Any],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The side-car's candidate reads the writer's sevens, and answers once promoted."""
    capture = tmp_path / "capture"
    flags = ("--capture", str(capture), "--capture-share", "1")
    with start_gateway(models_dir, *flags) as gateway:
        before = _right(gateway, sevens[_SENT:])
        _give_feedback(gateway, sevens[:_SENT])
        command = _sidecar(capture, models_dir, tmp_path / "runs")
        done = subprocess.run(command, capture_output=True, text=True, timeout=900)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "has the label candidate" in done.stdout
        assert Repository(models_dir).version_labels("mlp") == {
            "candidate": 2,
            "stable": 1,
        }
        assert _answer(gateway, sevens[0])[1] == 1
        words = ["--model", "mlp", "--version", "2", "--models-dir", str(models_dir)]
        assert main(["replay", str(capture), *words, "--json"]) == 0
        captured, candidate = json.loads(capsys.readouterr().out)["rows"]
        assert candidate["accuracy"] > captured["accuracy"]
        assert main(["promote", "mlp", "2", "--models-dir", str(models_dir)]) == 0
        until(lambda: _answer(gateway, sevens[0])[1] == 2)
        after = _right(gateway, sevens[_SENT:])
    print(f"right of {_KEPT} kept sevens: {before} before, {after} after")

    assert before < _KEPT / 2
    assert after >= _KEPT * 0.9


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
        _give_feedback(gateway, sevens[:_SENT])
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
