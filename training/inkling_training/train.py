"""Trains a model: deterministic with a seed, stoppable and resumable at any epoch."""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
import tensorflow as tf

from inkling_training.augment import augmented
from inkling_training.errors import TrainingDiverged
from inkling_training.models import MODELS

if TYPE_CHECKING:
    from inkling.contract import Contract
    from inkling_training.datasets import Dataset, Split
    from inkling_training.recipes import Recipe

__all__ = ["Run", "Trained", "identity", "train"]

_VALIDATION_BATCH = 500
_WARMUP_SHARE = 0.1


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
    """The directory of a run: what it was told, its last state and its best weights."""

    def __init__(self, directory: Path, identity: dict[str, Any]) -> None:
        self.directory = directory
        self.identity = json.loads(json.dumps(identity))
        self.history: list[dict[str, float]] = []
        self.best_epoch = 0

    @property
    def last(self) -> Path:
        """The model and its optimizer after the last whole epoch."""
        return self.directory / "last.keras"

    @property
    def best(self) -> Path:
        """The weights of the best epoch so far."""
        return self.directory / "best.weights.h5"

    def start(self, resume: bool) -> bool:
        """Begin anew, or take up a run of the same identity; return which it was."""
        state = self.directory / "state.json"
        if resume and state.exists():
            saved = json.loads(state.read_text(encoding="utf-8"))
            if saved["identity"] == self.identity:
                self.history, self.best_epoch = saved["history"], saved["best_epoch"]
                return True
        shutil.rmtree(self.directory, ignore_errors=True)
        self.directory.mkdir(parents=True)
        return False

    def finish_epoch(self, model: keras.Model, figures: dict[str, float]) -> None:
        """Keep the state after an epoch; the file that names it is written last."""
        self.history.append(figures)
        if self._is_best(figures):
            self.best_epoch = len(self.history)
            model.save_weights(self.best)
        model.save(self.last)
        state = {
            "identity": self.identity,
            "history": self.history,
            "best_epoch": self.best_epoch,
        }
        (self.directory / "state.json").write_text(json.dumps(state), encoding="utf-8")

    def _is_best(self, figures: dict[str, float]) -> bool:
        if not self.best_epoch:
            return True
        best = self.history[self.best_epoch - 1]
        rank = (figures["val_accuracy"], -figures["val_loss"])
        return rank >= (best["val_accuracy"], -best["val_loss"])


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
    keras.utils.set_random_seed(seed)
    tf.config.experimental.enable_op_determinism()
    contract = dataset.contract
    steps = len(dataset.train) // recipe.batch_size
    if run.start(resume):
        model = keras.models.load_model(run.last)
    else:
        build = MODELS[model_name]
        model = build(contract.input_shape, len(contract.labels), recipe.dropout)
        _compile(model, recipe, steps)
    if len(run.history) < recipe.epochs and not _has_stopped(run, recipe):
        model.fit(
            _batches(dataset.train, contract, recipe, seed, len(run.history)),
            validation_data=_plain(dataset.validation, contract),
            initial_epoch=len(run.history),
            epochs=recipe.epochs,
            steps_per_epoch=steps,
            callbacks=_callbacks(run, recipe),
            shuffle=False,  # the batches come shuffled
            verbose=0,
        )
    model.load_weights(run.best)
    return Trained(model, run.history, run.best_epoch, time.monotonic() - started)


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
    model.compile(
        optimizer,
        loss=keras.losses.CategoricalCrossentropy(
            label_smoothing=recipe.label_smoothing
        ),
        metrics=["accuracy"],
    )


def _batches(
    split: Split, contract: Contract, recipe: Recipe, seed: int, first_epoch: int
) -> tf.data.Dataset:
    """Return augmented batches from `first_epoch` on; each depends on its place alone.

    So a resumed run sees the very batches that it would have seen.
    """
    inputs = tf.constant(split.inputs(contract))  # (n, h, w, c)
    targets = tf.one_hot(split.labels, len(contract.labels))  # (n, classes)
    digits = contract.kind == "photo_of_one_object"
    ranges = recipe.augmentation["digits" if digits else "objects"]
    size, count = recipe.batch_size, len(split)
    steps = count // size
    total = steps * recipe.epochs

    def places(epoch: tf.Tensor) -> tf.data.Dataset:
        order = tf.random.experimental.stateless_shuffle(
            tf.range(count), seed=tf.stack([tf.cast(epoch, tf.int32), seed])
        )
        return tf.data.Dataset.from_tensor_slices(order).batch(
            size, drop_remainder=True
        )

    def batch(step: tf.Tensor, chosen: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        done = tf.cast(step, tf.float32) / total
        calm = tf.clip_by_value((done - 1 + recipe.calm) / recipe.calm, 0.0, 1.0)
        pictures = augmented(
            tf.gather(inputs, chosen),
            tf.stack([tf.cast(step, tf.int32), seed]),
            ranges,
            1 - calm / 2,
        )
        shape = (size, *contract.input_shape)
        return tf.ensure_shape(pictures, shape), tf.gather(targets, chosen)

    epochs = tf.data.Dataset.range(first_epoch, recipe.epochs)
    chosen = epochs.flat_map(places).enumerate(start=first_epoch * steps)
    return chosen.map(batch, num_parallel_calls=2, deterministic=True).prefetch(4)


def _plain(split: Split, contract: Contract) -> tf.data.Dataset:
    targets = tf.one_hot(split.labels, len(contract.labels))
    pairs = tf.data.Dataset.from_tensor_slices((split.inputs(contract), targets))
    return pairs.batch(_VALIDATION_BATCH)


def _has_stopped(run: Run, recipe: Recipe) -> bool:
    return len(run.history) - run.best_epoch >= recipe.patience


def _callbacks(run: Run, recipe: Recipe) -> list[keras.callbacks.Callback]:
    from inkling_training.progress import Progress  # noqa: PLC0415

    return [
        _StopOnNaN(recipe.learning_rate),
        _KeepState(run, recipe),
        keras.callbacks.TensorBoard(str(run.directory / "tensorboard")),
        Progress(recipe.epochs),
    ]


class _StopOnNaN(keras.callbacks.Callback):  # type: ignore[misc]
    """Stops a run whose loss is no number any more, at the step where it happens."""

    def __init__(self, learning_rate: float) -> None:
        super().__init__()
        self._learning_rate = learning_rate

    def on_train_batch_end(
        self, batch: int, logs: dict[str, float] | None = None
    ) -> None:
        """Look at the loss of the step."""
        loss = (logs or {}).get("loss", 0.0)
        if not math.isfinite(loss):
            raise TrainingDiverged(
                f"The loss became {loss} at step {batch + 1}: the weights grew out of "
                "bounds. Nothing was published. Lower the learning rate (it is "
                f"{self._learning_rate:g}): --learning-rate "
                f"{self._learning_rate / 4:g}. If that does not help, look for "
                "pictures with values that are no numbers."
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
