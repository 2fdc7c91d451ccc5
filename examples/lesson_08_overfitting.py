# SPDX-License-Identifier: Apache-2.0
"""Lesson 8, against overfitting: what each remedy does to the gap, on 2,000 digits.

A network that has seen few pictures knows them by heart. The gap to others is measured
on the validation split; what it chooses is told about on the test split.

What came of it: `inkling train` has three splits, and all remedies but L1 and k-fold
(training/inkling_training/fit/recipes.py). `temperature` and `abstain_below` of a
contract are chosen on the validation split, and so never on the test set.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import keras
import numpy as np
from keras import layers
from keras.optimizers import SGD
from matplotlib.figure import Figure
from sklearn.model_selection import KFold

from examples.shared import Array, Numbers, Setting, digits, inputs_and_labels, start

__all__ = ["REMEDIES", "fitted", "network", "run"]

Pictures: TypeAlias = tuple[Array, Array]  # inputs and labels
FALLING = keras.optimizers.schedules.ExponentialDecay(0.1, 100, 0.8)
# Options of `fitted` that make what they name; each training needs its own.
REMEDIES: Mapping[str, dict[str, Any]] = {
    "none": {},
    "L2": {"regularizer": lambda: keras.regularizers.L2(1e-3)},
    "L1": {"regularizer": lambda: keras.regularizers.L1(1e-4)},
    "dropout": {"dropout": 0.4},
    "early stopping": {"patience": 2},
    "augmentation": {"augment": True},
    "momentum": {"optimizer": lambda: SGD(0.02, momentum=0.9)},
    "falling rate": {"optimizer": lambda: SGD(FALLING)},
    "clipped gradients": {"optimizer": lambda: SGD(0.1, clipnorm=1.0)},
}


def network(
    regularizer: Any = None, dropout: float = 0.0, augment: bool = False
) -> keras.Model:
    """Return 784-256-128-10, with what is to keep it from learning by heart."""
    parts = [keras.Input((784,))]
    if augment:  # active in training only
        changes = [layers.RandomRotation(0.03), layers.RandomTranslation(0.07, 0.07)]
        parts += [layers.Reshape((28, 28, 1)), *changes, layers.Flatten()]
    for units in (256, 128):
        rule = regularizer() if regularizer else None
        parts.append(layers.Dense(units, "relu", kernel_regularizer=rule))
        parts.append(layers.Dropout(dropout))
    return keras.Sequential([*parts, layers.Dense(10, "softmax")])


def fitted(
    known: Pictures,
    other: Pictures,
    epochs: int,
    optimizer: Any = lambda: SGD(0.1),
    patience: int = 1000,
    **remedies: Any,
) -> keras.Model:
    """Return a network that was trained on `known`; `other` may stop it early."""
    keras.utils.set_random_seed(0)
    model = network(**remedies)
    model.compile(optimizer(), "sparse_categorical_crossentropy", metrics=["accuracy"])
    stop = keras.callbacks.EarlyStopping(patience=patience, restore_best_weights=False)
    model.fit(*known, 50, epochs, 0, [stop], validation_data=other)
    return model


def accuracy(model: keras.Model, pictures: Pictures) -> float:
    """Return the share of right answers, 0 to 1."""
    return float(model.evaluate(*pictures, 500, verbose=0)[1])


def run(setting: Setting) -> Numbers:
    """Train with each remedy, draw the gaps, and return the numbers."""
    data, (count, epochs) = digits(setting), (600, 10) if setting.short else (2000, 6)
    known = inputs_and_labels(data.train.first(count))
    other = inputs_and_labels(data.validation.first(2000))
    test = inputs_and_labels(data.test.first(2000))
    names = ("none", "dropout") if setting.short else tuple(REMEDIES)
    rows = {}
    print(f"{len(known[0])} pictures      known  other   test    gap")
    for name in names:
        model = fitted(known, other, epochs, **REMEDIES[name])
        found = [accuracy(model, pictures) for pictures in (known, other, test)]
        rows[name] = found
        print(
            f"{name:18}", *(f"{share:6.1%}" for share in (*found, found[0] - found[1]))
        )
    places = np.arange(len(rows))
    figure = Figure(figsize=(8, 3), layout="constrained")
    axes = figure.subplots()
    for shift, split in enumerate(("known", "other")):
        shares = [row[shift] for row in rows.values()]
        axes.bar(places + 0.4 * shift, shares, 0.4, label=split)
    axes.set(ylabel="accuracy", ylim=(0.8, 1), title="known pictures, and others")
    axes.set_xticks(places + 0.2, list(rows), rotation=20)
    axes.legend()
    setting.save(figure, "lesson_08")

    x, labels = known
    cuts = KFold(2 if setting.short else 3, shuffle=True, random_state=0).split(x)
    parts = [((x[most], labels[most]), (x[rest], labels[rest])) for most, rest in cuts]
    folds = [accuracy(fitted(*part, epochs), part[1]) for part in parts]
    print(f"k-fold: {np.mean(folds):.1%} with a deviation of {np.std(folds):.1%}")
    gaps = {f"gap, {name}": row[0] - row[1] for name, row in rows.items()}
    return {"known, none": rows["none"][0], **gaps, "k-fold": float(np.mean(folds))}


if __name__ == "__main__":
    start(run)
