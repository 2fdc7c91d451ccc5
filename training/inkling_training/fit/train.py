"""Trains a model: deterministic with a seed, stoppable and resumable at any epoch."""

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

__all__ = ["Run", "Trained", "identity", "train"]

_WARMUP_SHARE = 0.1
# At which neither model has been seen to diverge.
_SAFE_LEARNING_RATE = 1e-3


@dataclass(frozen=True)
class Trained:
    """A trained model with its history.

    Attributes:
        model: With the weights of the best epoch on the validation split.
        history: The figures of every epoch, oldest first.
        best_epoch: Which epoch's weights they are; the first is 1.
        train_s: Seconds spent, of this process only if the run was resumed.
    """

    model: keras.Model
    history: Sequence[dict[str, float]]
    best_epoch: int
    train_s: float


class Run:
    """The directory of a run: what it was told, its last state and its best weights.

    All of it is one file, replaced as a whole after each epoch, so that a run that is
    killed at any moment can be taken up where its last whole epoch ended.
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
        """Begin anew, or take up a run of the same identity; return whether it was."""
        if resume:
            print(f"  the run {self._taken_up()}", flush=True)
            if self.last:
                return True
        shutil.rmtree(self.directory, ignore_errors=True)
        self.directory.mkdir(parents=True)
        return False

    def finish_epoch(self, model: keras.Model, figures: dict[str, float]) -> None:
        """Keep the state after an epoch."""
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
        """Put model and optimizer back into the state after the last whole epoch."""
        for variable, value in zip(_variables(model), self.last, strict=True):
            variable.assign(value)

    def _taken_up(self) -> str:
        if not self._state.exists():
            return "begins anew: there is nothing to go on with"
        try:
            # Opened here: NumPy leaves a file open that turns out to be damaged.
            with (
                self._state.open("rb") as opened,
                np.load(opened, allow_pickle=False) as state,
            ):
                arrays = dict(state)
            described = json.loads(str(arrays.pop("described")))
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return "begins anew: its last state cannot be read"
        if described["identity"] != self.identity:
            return "begins anew: it was told otherwise before"
        self.history, self.best_epoch = described["history"], described["best_epoch"]
        self.last, self.best = (
            [arrays[f"{kind}_{n}"] for n in range(_count(arrays, kind))]
            for kind in ("last", "best")
        )
        return f"goes on after epoch {len(self.history)}"

    def _is_best(self, figures: dict[str, float]) -> bool:
        if not self.best_epoch:
            return True
        best = self.history[self.best_epoch - 1]
        rank = (figures["val_accuracy"], -figures["val_loss"])
        return rank > (best["val_accuracy"], -best["val_loss"])


def _count(arrays: dict[str, Array], kind: str) -> int:
    return sum(name.startswith(kind + "_") for name in arrays)


def _variables(model: keras.Model) -> list[Any]:
    """Return all that changes in training: weights, seeds of dropout, and optimizer."""
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
    """Train until the recipe is done or the validation split has no more to gain.

    Raises:
        TrainingDiverged: The loss is no number any more.
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
    # Without the optimizer, which would be exported along.
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
                shuffle=False,  # the batches come shuffled
                verbose=0,
            )
    finally:
        # Ctrl-C and a diverged run give the terminal back, too.
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
        metrics=[_Accuracy()],
    )


class _Accuracy(keras.metrics.Mean):  # type: ignore[misc]
    """The share of right labels, of the pictures that have one."""

    def __init__(self) -> None:
        super().__init__("accuracy")

    def update_state(
        self, y_true: tf.Tensor, y_pred: tf.Tensor, sample_weight: None = None
    ) -> None:
        """Count a batch; both have shape (n, classes)."""
        del sample_weight
        right = tf.argmax(y_true, axis=1) == tf.argmax(y_pred, axis=1)
        # An outlier's target is the same for every class.
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
    """Sees to it that Ctrl-C ends a run.

    Python drops what a signal raises while a destructor runs, of which TensorFlow has
    many. The next step raises it again.
    """

    def __init__(self) -> None:
        super().__init__()
        self._pressed = False
        # Only the main thread may set it, and nobody else's is taken away.
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
        """Raise what was dropped."""
        del batch, logs
        if self._pressed:
            raise KeyboardInterrupt


class _StopOnNaN(keras.callbacks.Callback):  # type: ignore[misc]
    """Stops a run whose loss is no number any more, at the step where it happens."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self._rate = recipe.learning_rate

    def on_train_batch_end(
        self, batch: int, logs: dict[str, float] | None = None
    ) -> None:
        """Look at the loss of the step."""
        self._check((logs or {}).get("loss", 0.0), f"step {batch + 1}")

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Look at what the last step made of the weights, before they are kept."""
        self._check((logs or {}).get("val_loss", 0.0), f"the end of epoch {epoch + 1}")

    def _check(self, loss: float, where: str) -> None:
        if not math.isfinite(loss):
            advised = min(self._rate / 4, _SAFE_LEARNING_RATE)
            raise TrainingDiverged(
                f"The loss became {loss} at {where}: the weights grew out of bounds. "
                f"Nothing was published. Lower the learning rate, which is "
                f"{self._rate:g}: --learning-rate {advised:g}"
            )


class _KeepState(keras.callbacks.Callback):  # type: ignore[misc]
    """Writes the state after each epoch, and ends a run that gains no more."""

    def __init__(self, run: Run, recipe: Recipe) -> None:
        super().__init__()
        self._run, self._recipe = run, recipe

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Keep what this epoch came to."""
        del epoch  # the run counts for itself
        figures = {name: float(value) for name, value in (logs or {}).items()}
        self._run.finish_epoch(self.model, figures)
        self.model.stop_training = _has_stopped(self._run, self._recipe)


def identity(
    model_name: str, dataset: Dataset, recipe: Recipe, seed: int
) -> dict[str, Any]:
    """Return all that makes one run the same as another."""
    return {
        "model": model_name,
        "contract": dataset.contract.hash,
        "recipe": asdict(recipe),
        "seed": seed,
    }
