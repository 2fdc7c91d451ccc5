# SPDX-License-Identifier: Apache-2.0
"""Trains a model; a run is deterministic by its seed and resumes after any epoch."""

from __future__ import annotations

import json
import math
import shutil
import signal
import threading
import time
import zipfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import tensorflow as tf

from inkling_training.errors import TrainingDiverged
from inkling_training.fit.batches import batches, num_steps, plain
from inkling_training.fit.models import MODELS
from inkling_training.fit.progress import Progress

if TYPE_CHECKING:
    from types import FrameType

    import numpy.typing as npt

    from inkling_training.data.datasets import Dataset
    from inkling_training.fit.recipes import Recipe

    Array = npt.NDArray[Any]

__all__ = ["Accuracy", "Run", "Trained", "identity", "train"]

_WARMUP_SHARE = 0.1
# The loss of neither model has diverged at this learning rate.
_SAFE_LEARNING_RATE = 1e-3


@dataclass(frozen=True)
class Trained:
    """A trained model with its history.

    Attributes:
        model: The model, with the weights of the best epoch on the validation split.
        history: Loss and accuracy of every epoch, oldest first.
        best_epoch: The number of the best epoch, from 1.
        train_s: Seconds that the training took; after a resumption, only those of this
            process.
    """

    model: keras.Model
    history: Sequence[dict[str, float]]
    best_epoch: int
    train_s: float


class Run:
    """The directory of a run, with its identity, its last state and its best weights.

    One file holds all of these. It is replaced after each epoch by a rename, so a run
    that was killed at any moment resumes after its last complete epoch.

    Attributes:
        directory: The directory of the run.
        identity: The values that make two runs the same; see `identity`.
        history: Loss and accuracy of every epoch, oldest first.
        best_epoch: The number of the best epoch, from 1; 0 before the first.
        best: The weights of the best epoch.
        last: The variables of model and optimizer after the last epoch.
    """

    def __init__(self, directory: Path, identity: dict[str, Any]) -> None:
        self.directory = directory
        self.identity = json.loads(json.dumps(identity))
        self.history: list[dict[str, float]] = []
        self.best_epoch = 0
        self.best: list[Array] = []
        self.last: list[Array] = []

    @property
    def _state(self) -> Path:
        return self.directory / "state.npz"

    def start(self, resume: bool) -> bool:
        """Return True if the run resumes; otherwise empty its directory."""
        if resume:
            print(f"  the run {self._taken_up()}", flush=True)
            if self.last:
                return True
        shutil.rmtree(self.directory, ignore_errors=True)
        self.directory.mkdir(parents=True)
        return False

    def finish_epoch(self, model: keras.Model, figures: dict[str, float]) -> None:
        """Write the state after an epoch; `figures` are its loss and accuracy."""
        self.history.append(figures)
        self.last = [np.asarray(v) for v in _variables(model)]
        if self._is_best(figures):
            self.best_epoch = len(self.history)
            self.best = model.get_weights()
        described = {
            "identity": self.identity,
            "history": self.history,
            "best_epoch": self.best_epoch,
        }
        arrays = {f"last_{n}": array for n, array in enumerate(self.last)}
        arrays |= {f"best_{n}": array for n, array in enumerate(self.best)}
        arrays["described"] = np.array(json.dumps(described))
        unfinished = self._state.with_suffix(".unfinished.npz")
        np.savez(unfinished, **arrays)  # type: ignore[arg-type]
        unfinished.replace(self._state)

    def restore(self, model: keras.Model) -> None:
        """Set model and optimizer to the state after the last complete epoch."""
        for variable, value in zip(_variables(model), self.last, strict=True):
            variable.assign(value)

    def _taken_up(self) -> str:
        if not self._state.exists():
            return "starts again: it has no saved state"
        try:
            # The context manager closes the file; NumPy leaves a damaged file open.
            with (
                self._state.open("rb") as opened,
                np.load(opened, allow_pickle=False) as state,
            ):
                arrays = dict(state)
            described = json.loads(str(arrays.pop("described")))
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return "starts again: its saved state cannot be read"
        if described["identity"] != self.identity:
            return "starts again: its saved state has other options"
        self.history, self.best_epoch = described["history"], described["best_epoch"]
        self.last, self.best = (
            [arrays[f"{kind}_{n}"] for n in range(_count(arrays, kind))]
            for kind in ("last", "best")
        )
        return f"continues after epoch {len(self.history)}"

    def _is_best(self, figures: dict[str, float]) -> bool:
        if not self.best_epoch:
            return True
        best = self.history[self.best_epoch - 1]
        rank = (figures["val_accuracy"], -figures["val_loss"])
        return rank > (best["val_accuracy"], -best["val_loss"])


def _count(arrays: dict[str, Array], kind: str) -> int:
    return sum(name.startswith(kind + "_") for name in arrays)


def _variables(model: keras.Model) -> list[Any]:
    """Return all variables that training changes: weights, dropout seeds, optimizer."""
    return [*model.variables, *model.optimizer.variables]


def train(
    model_name: str,
    dataset: Dataset,
    recipe: Recipe,
    run: Run,
    *,
    seed: int,
    resume: bool,
) -> Trained:
    """Train until the recipe's last epoch, or until `patience` stops the run early.

    Args:
        model_name: A key of `MODELS`.
        dataset: The pictures, and the contract of the model.
        recipe: The hyperparameters.
        run: The directory of the run.
        seed: The random seed; the same seed gives the same weights.
        resume: True to continue after the last complete epoch of the same run.

    Raises:
        TrainingDiverged: The loss became NaN or infinite.
    """
    started = time.monotonic()
    keras.utils.clear_session()
    keras.utils.set_random_seed(seed)
    tf.config.experimental.enable_op_determinism()
    contract = dataset.contract

    def built() -> keras.Model:
        shape, classes = contract.input_shape, len(contract.labels)
        return MODELS[model_name](shape, classes, recipe.dropout, recipe.width)

    model = built()
    _compile(model, recipe, num_steps(dataset, recipe))
    if run.start(resume):
        run.restore(model)
    if len(run.history) < recipe.epochs and not _has_stopped(run, recipe):
        _fit(model, dataset, recipe, run, seed)
    # A new model has no optimizer, which would otherwise be exported too.
    trained = built()
    trained.set_weights(run.best)
    return Trained(trained, run.history, run.best_epoch, time.monotonic() - started)


def _fit(
    model: keras.Model, dataset: Dataset, recipe: Recipe, run: Run, seed: int
) -> None:
    progress = Progress(recipe.epochs)
    try:
        with _Interruption() as interruption:
            model.fit(
                batches(dataset, recipe, seed, len(run.history)),
                validation_data=plain(dataset.validation, dataset.contract),
                initial_epoch=len(run.history),
                epochs=recipe.epochs,
                steps_per_epoch=num_steps(dataset, recipe),
                callbacks=[interruption, *_callbacks(run, recipe, progress)],
                shuffle=False,  # `batches` has shuffled the pictures
                verbose=0,
            )
    finally:
        # After Ctrl-C or an error the bar must not stay in the terminal.
        progress.close()


def _compile(model: keras.Model, recipe: Recipe, steps: int) -> None:
    total = steps * recipe.epochs
    warmup = round(total * _WARMUP_SHARE)
    schedule = keras.optimizers.schedules.CosineDecay(
        recipe.learning_rate / 10,
        max(1, total - warmup),
        alpha=0.01,
        warmup_target=recipe.learning_rate,
        warmup_steps=warmup,
    )
    optimizer = keras.optimizers.AdamW(schedule, weight_decay=recipe.weight_decay)
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    optimizer.build(model.trainable_variables)
    model.compile(
        optimizer,
        loss=keras.losses.CategoricalCrossentropy(
            label_smoothing=recipe.label_smoothing
        ),
        metrics=[Accuracy()],
    )


class Accuracy(keras.metrics.Mean):  # type: ignore[misc]
    """The accuracy, without outliers."""

    def __init__(self) -> None:
        super().__init__("accuracy")

    def update_state(
        self, y_true: tf.Tensor, y_pred: tf.Tensor, sample_weight: None = None
    ) -> None:
        """Add a batch; targets and scores have shape (n, classes)."""
        del sample_weight
        right = tf.argmax(y_true, axis=1) == tf.argmax(y_pred, axis=1)
        # The target of an outlier has the same value for every class.
        labelled = tf.reduce_max(y_true, axis=1) > 0.5
        super().update_state(tf.cast(right, tf.float32), tf.cast(labelled, tf.float32))


def _has_stopped(run: Run, recipe: Recipe) -> bool:
    return len(run.history) - run.best_epoch >= recipe.patience


def _callbacks(
    run: Run, recipe: Recipe, progress: Progress
) -> list[keras.callbacks.Callback]:
    return [
        _StopOnNaN(recipe),
        _KeepState(run, recipe),
        keras.callbacks.TensorBoard(str(run.directory / "tensorboard")),
        progress,
    ]


class _Interruption(keras.callbacks.Callback):  # type: ignore[misc]
    """Makes Ctrl-C end a run.

    Python discards an exception that a signal handler raises inside a destructor, and
    TensorFlow has many destructors. This callback raises it again in the next step.
    """

    def __init__(self) -> None:
        super().__init__()
        self._pressed = False
        # Only the main thread may set a signal handler, and a handler that another
        # library has set stays in place.
        self._ours = (
            threading.current_thread() is threading.main_thread()
            and signal.getsignal(signal.SIGINT) is signal.default_int_handler
        )

    def __enter__(self) -> _Interruption:
        if self._ours:
            signal.signal(signal.SIGINT, self._press)
        return self

    def __exit__(self, *_: object) -> None:
        if self._ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def _press(self, number: int, frame: FrameType | None) -> None:
        self._pressed = True
        signal.default_int_handler(number, frame)

    def on_train_batch_end(
        self, batch: int, logs: dict[str, float] | None = None
    ) -> None:
        """Raise KeyboardInterrupt if Ctrl-C was pressed before this step."""
        del batch, logs
        if self._pressed:
            raise KeyboardInterrupt


class _StopOnNaN(keras.callbacks.Callback):  # type: ignore[misc]
    """Stops a run at the step whose loss is NaN or infinite."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self._rate = recipe.learning_rate

    def on_train_batch_end(
        self, batch: int, logs: dict[str, float] | None = None
    ) -> None:
        """Check the loss of the step."""
        self._check((logs or {}).get("loss", 0.0), f"step {batch + 1}")

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Check the validation loss, before the weights are saved."""
        self._check((logs or {}).get("val_loss", 0.0), f"the end of epoch {epoch + 1}")

    def _check(self, loss: float, where: str) -> None:
        if not math.isfinite(loss):
            advised = min(self._rate / 4, _SAFE_LEARNING_RATE)
            raise TrainingDiverged(
                f"The loss became {loss} at {where}, because the weights became too "
                "large. The model was not published. Lower the learning rate, which is "
                f"{self._rate:g}: --learning-rate {advised:g}"
            )


class _KeepState(keras.callbacks.Callback):  # type: ignore[misc]
    """Saves the state after each epoch, and stops the run early by its patience."""

    def __init__(self, run: Run, recipe: Recipe) -> None:
        super().__init__()
        self._run, self._recipe = run, recipe

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Save the state of this epoch."""
        del epoch  # the run counts its epochs itself
        figures = {name: float(value) for name, value in (logs or {}).items()}
        self._run.finish_epoch(self.model, figures)
        self.model.stop_training = _has_stopped(self._run, self._recipe)


def identity(
    model_name: str, dataset: Dataset, recipe: Recipe, seed: int
) -> dict[str, Any]:
    """Return the values that two runs share if one may resume the other."""
    return {
        "model": model_name,
        "contract": dataset.contract.hash,
        "recipe": asdict(recipe),
        "seed": seed,
    }
