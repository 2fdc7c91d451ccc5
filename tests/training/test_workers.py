# SPDX-License-Identifier: Apache-2.0
"""Training over several workers: the parts of a batch, the chief, and two real workers."""

import json
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from inkling_training.data.datasets import Dataset
from inkling_training.errors import WorkerLost
from inkling_training.fit.models import MODELS
from inkling_training.fit.recipes import recipe_for
from inkling_training.fit.run import Run, identity
from inkling_training.fit.train import train
from inkling_training.fit.workers import Reduced, Workers, is_chief, part_of
from tests.support.machine import free_port, until

_EPOCHS = 4


def test_the_parts_make_up_each_batch() -> None:
    """Two workers with two replicas each train on every row of a batch once."""
    rows = tf.range(20)
    batches = tf.data.Dataset.from_tensor_slices((rows, -rows)).batch(10)
    found = []
    for worker in range(2):
        context = tf.distribute.InputContext(2, worker, 4)
        found.append([(x.numpy(), y.numpy()) for x, y in part_of(batches, context)])

    for step in range(2):
        parts = [part for own in found for part in own[2 * step : 2 * step + 2]]
        assert all((x == -y).all() for x, y in parts)
        together = sorted(np.concatenate([x for x, _ in parts]))
        assert [*range(10 * step, 10 * step + 10)] == together


@pytest.mark.parametrize(
    ("tasks", "kind", "index", "chief"),
    [
        ({}, None, None, True),
        ({"worker": ["a", "b"]}, "worker", 0, True),
        ({"worker": ["a", "b"]}, "worker", 1, False),
        ({"chief": ["a"], "worker": ["b"]}, "chief", 0, True),
        ({"chief": ["a"], "worker": ["b"]}, "worker", 0, False),
    ],
)
def test_one_task_is_the_chief(
    tasks: dict[str, list[str]], kind: str | None, index: int | None, chief: bool
) -> None:
    """The chief is the task of that name, or the first worker, or the only process."""
    assert chief == is_chief(tasks, kind, index)


class _Lost(Run):
    """A run in which another worker is gone before the second epoch ends."""

    def finish_epoch(self, model: keras.Model, figures: dict[str, float]) -> None:
        if self.history:
            raise tf.errors.UnavailableError(None, None, "unhealthy")
        super().finish_epoch(model, figures)


def test_a_lost_worker_is_named_and_only_the_chief_writes(
    tmp_path: Path, few_digits: Dataset
) -> None:
    """The error says how the run goes on; a worker that keeps no run writes no state."""
    recipe = recipe_for("default", "classic", "digits", _EPOCHS)
    same = identity(MODELS["classic"], few_digits, recipe, 0)
    run = _Lost(tmp_path / "run", same, kept=False)
    with pytest.raises(WorkerLost, match="--resume: the run continues after epoch 1"):
        train(MODELS["classic"], few_digits, recipe, run, seed=0, resume=False)

    assert not (tmp_path / "run" / "state.npz").exists()


def test_a_worker_reads_the_run_that_its_chief_keeps(
    tmp_path: Path, few_digits: Dataset
) -> None:
    """It resumes from the chief's state, and leaves a state of another run in place."""
    recipe = recipe_for("default", "classic", "digits", 1)
    same = identity(MODELS["classic"], few_digits, recipe, 0)
    chief = Run(tmp_path / "run", same)
    train(MODELS["classic"], few_digits, recipe, chief, seed=0, resume=False)
    worker = Run(tmp_path / "run", same, kept=False)
    other = Run(tmp_path / "run", {**same, "seed": 1}, kept=False)

    assert worker.start(resume=True)
    assert chief.history == worker.history
    assert not other.start(resume=True)
    assert Run(tmp_path / "run", same).start(resume=True)


def test_one_worker_trains_as_if_there_were_none() -> None:
    """Without TF_CONFIG batches stay what they are, and all workers agree."""
    alone = Workers()
    batches = tf.data.Dataset.range(3).batch(2)
    alone.check_same("any state")

    assert alone.chief
    assert not alone.several
    assert batches is alone.shares(batches)
    assert batches is alone.copies(batches)


def test_the_figures_of_a_step_have_an_axis() -> None:
    """Loss and metrics have the shape (1,), along which workers can average them."""
    network = MODELS["classic"].build(
        (8, 8, 1), 3, recipe_for("quick", "mlp", "digits", 1)
    )
    model = Reduced(network.model.inputs[0], network.model.outputs[0])
    model.compile("sgd", "mse", metrics=["accuracy"])
    batch = tf.zeros((4, 8, 8, 1)), tf.one_hot([0, 1, 2, 0], 3)

    for step in (model.train_step, model.test_step):
        figures = step(batch)
        assert {"loss", "accuracy"} == set(figures)
        assert all((1,) == value.shape for value in figures.values())


def _workers(
    place: Path, ports: list[int], *more: str
) -> list[subprocess.Popen[bytes]]:
    """Start two workers, which share a folder of runs and no repository."""
    cluster = {"worker": [f"127.0.0.1:{port}" for port in ports]}
    command = [
        *(sys.executable, "-m", "inkling", "train", "classic"),
        *("--dataset", "digits", "--epochs", str(_EPOCHS), *more),
        *("--runs-dir", str(place / "runs"), "--models-dir"),
    ]
    started = []
    for index in range(2):
        task = {"type": "worker", "index": index}
        config = json.dumps({"cluster": cluster, "task": task})
        with (place / f"log{index}").open("w") as log:
            process = subprocess.Popen(
                [*command, str(place / f"models{index}")],
                env={**os.environ, "TF_CONFIG": config},
                stdout=log,
                stderr=log,
            )
        started.append(process)
    return started


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_two_workers_resume_and_train_what_one_trains(
    tmp_path: Path, digits: Dataset
) -> None:
    """A worker is killed, both start again, and the weights are those of one worker."""
    log, ports = tmp_path / "log0", [free_port(), free_port()]
    both = _workers(tmp_path, ports)
    try:
        until(lambda: both[0].poll() or "epoch  2/" in log.read_text(), 300)
        both[1].kill()
        both[1].wait()
        assert 1 == both[0].wait(300), log.read_text()
        assert "Start all workers again with --resume" in log.read_text()
        both = _workers(tmp_path, ports, "--resume")
        assert [0, 0] == [each.wait(300) for each in both], log.read_text()
    finally:
        for each in both:
            each.kill()
            each.wait()
    recipe = recipe_for("default", "classic", "digits", _EPOCHS, len(digits.train))
    run = Run(tmp_path / "one", identity(MODELS["classic"], digits, recipe, 0))
    train(MODELS["classic"], digits, recipe, run, seed=0, resume=False)

    assert "the run continues after epoch" in log.read_text()
    with np.load(tmp_path / "runs" / "classic-digits-0" / "state.npz") as state:
        assert len(run.history) == len(json.loads(str(state["described"]))["history"])
        for number, weights in enumerate(run.last):
            np.testing.assert_allclose(state[f"last_{number}"], weights, atol=1e-6)
    assert ["1"] == [
        each.name for each in (tmp_path / "models0").glob("classic/[0-9]*")
    ]
    assert not (tmp_path / "models1").exists()
