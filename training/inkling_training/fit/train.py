# SPDX-License-Identifier: Apache-2.0
"""Trains a model; a run is deterministic by its seed and resumes after any epoch."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import keras
import tensorflow as tf

from inkling_training.errors import WorkerLost
from inkling_training.fit.batches import batches, num_steps, plain
from inkling_training.fit.callbacks import (
    Interruption,
    KeepState,
    StopOnNaN,
    has_stopped,
)
from inkling_training.fit.models import logits_of
from inkling_training.fit.progress import Progress
from inkling_training.fit.workers import Reduced, workers

if TYPE_CHECKING:
    from inkling_training.data.datasets import Dataset
    from inkling_training.fit.models import Architecture, Network
    from inkling_training.fit.recipes import Recipe
    from inkling_training.fit.run import Run

__all__ = ["Accuracy", "Trained", "train"]

_WARMUP_SHARE = 0.1


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


@dataclass(frozen=True)
class _Stage:
    """Some epochs of a run with an optimizer of their own.

    Attributes:
        first: The number of epochs before it.
        last: The number of its last epoch, from 1.
        rate: The highest learning rate.
        tuned: The share of the pretrained part's layers that learn, 0 to 1.
    """

    first: int
    last: int
    rate: float
    tuned: float


def _stages(recipe: Recipe, network: Network) -> list[_Stage]:
    if not recipe.frozen_epochs:
        rate, own = recipe.learning_rate, network.optimizer
        rate = rate if own is None else float(own.learning_rate)
        return [_Stage(0, recipe.epochs, rate, 1.0)]
    frozen = _Stage(0, recipe.frozen_epochs, recipe.learning_rate, 0.0)
    tuned = _Stage(
        recipe.frozen_epochs, recipe.epochs, recipe.tuning_rate, recipe.tuned_share
    )
    return [frozen, tuned]


def train(
    architecture: Architecture,
    dataset: Dataset,
    recipe: Recipe,
    run: Run,
    *,
    seed: int,
    resume: bool,
) -> Trained:
    """Train until the recipe's last epoch, or until `patience` stops the run early.

    Args:
        architecture: Builds the network.
        dataset: The pictures, and the contract of the model.
        recipe: The hyperparameters.
        run: The directory of the run.
        seed: The random seed; the same seed gives the same weights.
        resume: True to continue after the last complete epoch of the same run.

    Raises:
        TrainingDiverged: The loss became NaN or infinite.
        WorkerLost: Another worker ended or cannot be reached.
        InvalidRequest: The workers begin in different states.
    """
    started = time.monotonic()
    keras.utils.clear_session()
    keras.utils.set_random_seed(seed)
    tf.config.experimental.enable_op_determinism()
    contract = dataset.contract
    run.start(resume)
    workers().check_same(f"{len(run.history)} epochs of the run {run.identity}")
    with workers().strategy.scope():
        network = architecture.build(contract.input_shape, len(contract.labels), recipe)
        model = _taught(network.model, recipe)
        for stage in _stages(recipe, network):
            if len(run.history) >= stage.last or has_stopped(run, recipe):
                continue
            if network.base is not None:
                _thaw(network.base, stage.tuned)
            steps = num_steps(dataset, recipe)
            _compile(model, network.optimizer, stage, recipe, steps)
            if run.history:
                begun = len(run.history) > stage.first
                run.restore(model, with_optimizer=begun)
            _fit(model, dataset, recipe, stage, run, seed)
    if workers().several:
        network = architecture.build(contract.input_shape, len(contract.labels), recipe)
    network.model.set_weights(run.best)
    return Trained(
        network.model, run.history, run.best_epoch, time.monotonic() - started
    )


def _fit(
    model: keras.Model,
    dataset: Dataset,
    recipe: Recipe,
    stage: _Stage,
    run: Run,
    seed: int,
) -> None:
    progress = Progress(recipe.epochs)
    validation = plain(dataset.validation, dataset.contract)
    try:
        with Interruption() as interruption:
            model.fit(
                workers().shares(batches(dataset, recipe, seed, len(run.history))),
                validation_data=workers().copies(validation),
                validation_steps=len(validation) if workers().several else None,
                initial_epoch=len(run.history),
                epochs=stage.last,
                steps_per_epoch=num_steps(dataset, recipe),
                callbacks=[interruption, *_callbacks(run, recipe, stage, progress)],
                shuffle=False,  # `batches` has shuffled the pictures
                verbose=0,
            )
    except (tf.errors.UnavailableError, tf.errors.AbortedError) as error:
        raise WorkerLost(
            "Another worker ended or cannot be reached. Start all workers again with "
            f"--resume: the run continues after epoch {len(run.history)}."
        ) from error
    finally:
        # After Ctrl-C or an error the bar must not stay in the terminal.
        progress.close()


def _taught(model: keras.Model, recipe: Recipe) -> keras.Model:
    """Return a model with the same weights, whose outputs the loss compares."""
    logits = recipe.loss == "squared_error"
    if not logits and not workers().several:
        return model
    outputs = logits_of(model) if logits else model.outputs[0]
    kind = Reduced if workers().several else keras.Model
    return kind(model.inputs[0], outputs, name=model.name)


def _compile(
    model: keras.Model,
    chosen: keras.optimizers.Optimizer | None,
    stage: _Stage,
    recipe: Recipe,
    steps: int,
) -> None:
    if chosen is not None:
        optimizer = type(chosen).from_config(chosen.get_config())
    elif recipe.optimizer == "sgd":
        optimizer = keras.optimizers.SGD(stage.rate)
    else:
        optimizer = _adamw(stage, recipe, steps)
    optimizer.build(model.trainable_variables)
    model.compile(optimizer, loss=_loss(recipe), metrics=[Accuracy()])


def _loss(recipe: Recipe) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
    if recipe.loss == "squared_error":
        return _squared_error
    loss: Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
    loss = keras.losses.CategoricalCrossentropy(label_smoothing=recipe.label_smoothing)
    return loss


def _squared_error(targets: tf.Tensor, outputs: tf.Tensor) -> tf.Tensor:
    """Return the sum over the labels, shape (n,); Keras's own loss is the mean."""
    return tf.reduce_sum(tf.square(targets - outputs), axis=1)


def _thaw(base: keras.Model, share: float) -> None:
    """Let the last layers of a pretrained part learn, and freeze the rest.

    BatchNormalization stays frozen: the few pictures of a batch would spoil the
    statistics of the many that it was pretrained on.
    """
    base.trainable = True
    layers = base.layers
    first = len(layers) - round(share * len(layers))
    for place, layer in enumerate(layers):
        fixed = isinstance(layer, keras.layers.BatchNormalization)
        layer.trainable = place >= first and not fixed


def _adamw(stage: _Stage, recipe: Recipe, steps: int) -> keras.optimizers.Optimizer:
    total = steps * (stage.last - stage.first)
    warmup = round(total * _WARMUP_SHARE)
    schedule = keras.optimizers.schedules.CosineDecay(
        stage.rate / 10,
        max(1, total - warmup),
        alpha=0.01,
        warmup_target=stage.rate,
        warmup_steps=warmup,
    )
    optimizer = keras.optimizers.AdamW(schedule, weight_decay=recipe.weight_decay)
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    return optimizer


def _callbacks(
    run: Run, recipe: Recipe, stage: _Stage, progress: Progress
) -> list[keras.callbacks.Callback]:
    always = [StopOnNaN(stage.rate), KeepState(run, recipe)]
    if not workers().chief:
        return always
    log = keras.callbacks.TensorBoard(str(run.directory / "tensorboard"))
    return [*always, log, progress]


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
