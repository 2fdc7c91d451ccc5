# SPDX-License-Identifier: Apache-2.0
"""The recipes: all hyperparameters of a training run.

With the recipe `default` on MNIST, on 2 cores of an EPYC in 2026-11, the fastest of the
MLP's 20 epochs took 2.6 s and the fastest of the CNN's 12 epochs took 19 s.
docs/models.md and the model card of each version state the accuracy.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from types import MappingProxyType

__all__ = [
    "RECIPES",
    "Augmentation",
    "Recipe",
    "photo_augmentation",
    "recipe_for",
    "statements",
]


@dataclass(frozen=True)
class Augmentation:
    """The ranges of the random changes to training pictures; 0 switches a change off.

    Attributes:
        rotation_deg: Largest rotation to either side, in degrees.
        scale: Largest natural logarithm of the factor on the size.
        aspect: Largest natural logarithm of the factor on width and, inverted, height.
        shear: Largest shear, in columns per row.
        shift_px: Largest shift in either direction, in pixels.
        stroke: Largest share of a 3x3 dilation or erosion, 0 to 1.
        blur: Largest share of a 3x3 binomial blur, 0 to 1.
        contrast: Largest relative change of the ink's strength.
        noise: Largest standard deviation of the noise; full ink is 1.
        flip: True if half of the pictures are mirrored left to right.
    """

    rotation_deg: float = 0.0
    scale: float = 0.0
    aspect: float = 0.0
    shear: float = 0.0
    shift_px: float = 0.0
    stroke: float = 0.0
    blur: float = 0.0
    contrast: float = 0.0
    noise: float = 0.0
    flip: bool = False


# These ranges cover the handwriting, pens and cameras of other people.
_HANDWRITING = Augmentation(
    rotation_deg=13,
    scale=0.14,
    aspect=0.10,
    shear=0.22,
    shift_px=2.2,
    stroke=0.8,
    blur=0.6,
    contrast=0.25,
    noise=0.06,
)
# A dense layer learns every position separately, so it tolerates only small changes.
_HANDWRITING_LIGHT = Augmentation(
    rotation_deg=9, scale=0.10, aspect=0.05, shear=0.10, shift_px=1.5
)
_OBJECTS = Augmentation(scale=0.04, shift_px=1.0, flip=True)
# The labels of users' own pictures are unknown here, and a mirrored picture may belong
# to another label; so these pictures are not mirrored.
_PICTURES = Augmentation(rotation_deg=8, scale=0.12, shift_px=2.0, contrast=0.2)
_SHIFT_SHARE = 0.06


def photo_augmentation(side: int, *, flip: bool) -> Augmentation:
    """Return the augmentation of large colour pictures.

    Args:
        side: The side of the model input, in pixels.
        flip: False if a mirrored picture may belong to another label.
    """
    shift = round(_SHIFT_SHARE * side, 1)
    return replace(_PICTURES, shift_px=shift, flip=flip)


@dataclass(frozen=True)
class Recipe:
    """The hyperparameters of a training run.

    Attributes:
        epochs: Largest number of epochs.
        patience: Epochs without a better one after which the run stops early.
        batch_size: Pictures in a batch, without outliers.
        learning_rate: The highest learning rate. With AdamW, it rises over the first
            tenth of the run, and then falls to a hundredth along a cosine.
        loss: `cross_entropy` of the scores, or `squared_error`, the sum of the squares
            of the logits minus the one-hot labels.
        optimizer: `adamw`, or `sgd`, whose learning rate stays the same in all steps.
        weight_decay: The weight decay of AdamW, except for biases and normalisation.
        label_smoothing: Share of the target that is spread over all labels, 0 to 1.
        dropout: Share of features that training drops, 0 to 1.
        width: Factor on the features of each layer.
        outlier_share: Outliers in each batch, as a share of `batch_size`.
        calm: Share of the run, at its end, over which the strength of augmentation
            falls to a half.
        frozen_epochs: Epochs at the beginning in which a pretrained part stays as it
            is; 0 for a network without one.
        tuned_share: Share of the pretrained part's layers, counted from its output,
            that learn in the other epochs, 0 to 1.
        tuning_rate: The highest learning rate of these other epochs.
        augmentation: The ranges for `digits` and for `objects`; empty for none.
    """

    epochs: int
    patience: int = 8
    batch_size: int = 128
    learning_rate: float = 4e-3
    loss: str = "cross_entropy"
    optimizer: str = "adamw"
    weight_decay: float = 0.03
    label_smoothing: float = 0.05
    dropout: float = 0.15
    width: float = 1.0
    outlier_share: float = 0.375
    calm: float = 0.4
    frozen_epochs: int = 0
    tuned_share: float = 1.0
    tuning_rate: float = 1e-4
    augmentation: Mapping[str, Augmentation] = field(
        default_factory=lambda: {"digits": _HANDWRITING, "objects": _OBJECTS}
    )


_MLP = Recipe(
    epochs=20,
    learning_rate=2e-3,
    weight_decay=0.02,
    dropout=0.1,
    # The MLP separates letters from digits less well, and needs more outliers.
    outlier_share=0.75,
    augmentation={"digits": _HANDWRITING_LIGHT, "objects": _OBJECTS},
)
_CNN = Recipe(epochs=12)
# Lesson 4 of the examples, where it trains without Keras.
_CLASSIC = Recipe(
    epochs=10,
    learning_rate=1e-3,
    loss="squared_error",
    optimizer="sgd",
    weight_decay=0.0,
    label_smoothing=0.0,
    dropout=0.0,
    outlier_share=0.0,
    augmentation={},
)
# A user's own network, of which nothing is known.
_OWN = Recipe(epochs=20, batch_size=32, learning_rate=1e-3, weight_decay=0.01)
# A pretrained network with a new last layer.
_TRANSFER = Recipe(
    epochs=10,
    frozen_epochs=5,
    tuned_share=1 / 3,
    batch_size=32,
    learning_rate=1e-3,
    weight_decay=0.01,
    dropout=0.2,
)

RECIPES: Mapping[str, Mapping[str, Recipe]] = MappingProxyType(
    {
        "default": {
            "mlp": _MLP,
            "cnn": _CNN,
            "classic": _CLASSIC,
            "own": _OWN,
            "transfer": _TRANSFER,
        },
        "quick": {
            "mlp": replace(_MLP, epochs=6),
            "cnn": replace(_CNN, epochs=3),
            "classic": replace(_CLASSIC, epochs=5),
            "own": replace(_OWN, epochs=5),
            "transfer": replace(_TRANSFER, epochs=4, frozen_epochs=2),
        },
        "best": {
            "mlp": replace(_MLP, epochs=50, patience=15, width=2.0, dropout=0.2),
            "cnn": replace(_CNN, epochs=18, width=2.0, dropout=0.25),
            "classic": replace(_CLASSIC, epochs=100, width=2.0),
            "own": replace(_OWN, epochs=60, patience=15),
            "transfer": replace(
                _TRANSFER, epochs=30, frozen_epochs=10, tuned_share=1.0, patience=15
            ),
        },
    }
)

# The training split of the bundled digits has 1,318 pictures; MNIST's has 55,000. A
# small split needs more epochs for a few hundred steps.
_EPOCHS_OF_DIGITS = 4
# A user's own dataset may be smaller still; it gets smaller batches and more epochs,
# but not a pretrained network, which learns from few pictures in few epochs.
_FEW_PICTURES, _MANY_PICTURES = 512, 5000
_MOST_EPOCHS: Mapping[str, int] = {
    "mlp": 6,
    "cnn": 6,
    "classic": 6,
    "own": 4,
    "transfer": 1,
}


def recipe_for(
    name: str,
    architecture: str,
    dataset: str,
    epochs: int | None,
    num_pictures: int = _MANY_PICTURES,
) -> Recipe:
    """Return a recipe, adapted to the dataset.

    Args:
        name: `quick`, `default` or `best`.
        architecture: `mlp`, `cnn`, `classic`, `own` or `transfer`.
        dataset: The name of the dataset; `folder` for a user's own pictures.
        epochs: The number of epochs; None takes the recipe's.
        num_pictures: Pictures in the training split; only `folder` uses the number.
    """
    recipe = RECIPES[name][architecture]
    if dataset == "digits":
        recipe = replace(recipe, epochs=recipe.epochs * _EPOCHS_OF_DIGITS, patience=40)
    if dataset == "folder":
        objects = {**recipe.augmentation, "objects": _PICTURES}
        recipe = replace(recipe, augmentation=objects)
        if num_pictures < _MANY_PICTURES:
            most = _MOST_EPOCHS[architecture]
            times = min(most, math.ceil(_MANY_PICTURES / num_pictures))
            recipe = replace(
                recipe,
                epochs=recipe.epochs * times,
                patience=40,
                batch_size=16 if num_pictures < _FEW_PICTURES else 32,
            )
    return recipe if epochs is None else _with_epochs(recipe, epochs)


def _with_epochs(recipe: Recipe, epochs: int) -> Recipe:
    """Return a recipe with another number of epochs, the frozen ones in proportion."""
    frozen = math.ceil(epochs * recipe.frozen_epochs / recipe.epochs)
    return replace(recipe, epochs=epochs, frozen_epochs=frozen)


def statements(recipe: Recipe, kind: str, *, with_optimizer: bool) -> list[str]:
    """Return what a recipe does, as sentences for the model card.

    Args:
        recipe: The recipe.
        kind: `digits` or `objects`, the key of the augmentation.
        with_optimizer: False if the model has an optimizer of its own.
    """
    said = []
    if recipe.frozen_epochs:
        said.append(
            f"The pretrained part is frozen for {recipe.frozen_epochs} epochs, at a "
            f"learning rate of up to {recipe.learning_rate:g}. Then the last "
            f"{recipe.tuned_share:.0%} of its layers learn, too, at up to "
            f"{recipe.tuning_rate:g}; its BatchNormalization stays in inference mode."
        )
    elif with_optimizer:
        said.append(f"The learning rate is up to {recipe.learning_rate:g}, by AdamW.")
    ranges = recipe.augmentation.get(kind)
    if ranges is None:
        return [*said, "The training pictures are not augmented."]
    changes = [
        f"{item.name} {getattr(ranges, item.name):g}"
        for item in fields(ranges)
        if item.name != "flip" and getattr(ranges, item.name)
    ]
    changes += ["mirrored"] * ranges.flip
    said.append(f"Augmentation, in training only: {', '.join(changes)}.")
    return said
