# SPDX-License-Identifier: Apache-2.0
"""The recipes: all hyperparameters of a training run.

With the recipe `default` on MNIST, on 2 cores of an EPYC in 2026-11, the fastest of the
MLP's 20 epochs took 2.6 s and the fastest of the CNN's 12 epochs took 19 s.
docs/models.md and the model card of each version state the accuracy.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

__all__ = ["RECIPES", "Augmentation", "Recipe", "recipe_for"]


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


@dataclass(frozen=True)
class Recipe:
    """The hyperparameters of a training run.

    Attributes:
        epochs: Largest number of epochs.
        patience: Epochs without a better one after which the run stops early.
        batch_size: Pictures in a batch, without outliers.
        learning_rate: The highest learning rate. It rises over the first tenth of the
            run, and then falls to a hundredth along a cosine.
        weight_decay: The weight decay of AdamW, except for biases and normalisation.
        label_smoothing: Share of the target that is spread over all labels, 0 to 1.
        dropout: Share of features that training drops, 0 to 1.
        width: Factor on the features of each layer.
        outlier_share: Outliers in each batch, as a share of `batch_size`.
        calm: Share of the run, at its end, over which the strength of augmentation
            falls to a half.
        augmentation: The ranges for `digits` and for `objects`.
    """

    epochs: int
    patience: int = 8
    batch_size: int = 128
    learning_rate: float = 4e-3
    weight_decay: float = 0.03
    label_smoothing: float = 0.05
    dropout: float = 0.15
    width: float = 1.0
    outlier_share: float = 0.375
    calm: float = 0.4
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

RECIPES: Mapping[str, Mapping[str, Recipe]] = MappingProxyType(
    {
        "default": {"mlp": _MLP, "cnn": _CNN},
        "quick": {"mlp": replace(_MLP, epochs=6), "cnn": replace(_CNN, epochs=3)},
        "best": {
            "mlp": replace(_MLP, epochs=50, patience=15, width=2.0, dropout=0.2),
            "cnn": replace(_CNN, epochs=18, width=2.0, dropout=0.25),
        },
    }
)

# The training split of the bundled digits has 1,318 pictures; MNIST's has 55,000. A
# small split needs more epochs for a few hundred steps.
_EPOCHS_OF_DIGITS = 4
# A user's own dataset may be smaller still; it gets smaller batches and more epochs.
_MANY_PICTURES = 5000
_MOST_EPOCHS = 6


def recipe_for(
    name: str,
    model: str,
    dataset: str,
    epochs: int | None,
    num_pictures: int = _MANY_PICTURES,
) -> Recipe:
    """Return a recipe, adapted to the dataset.

    Args:
        name: `quick`, `default` or `best`.
        model: `mlp` or `cnn`.
        dataset: The name of the dataset; `folder` for a user's own pictures.
        epochs: The number of epochs; None takes the recipe's.
        num_pictures: Pictures in the training split; only `folder` uses the number.
    """
    recipe = RECIPES[name][model]
    if dataset == "digits":
        recipe = replace(recipe, epochs=recipe.epochs * _EPOCHS_OF_DIGITS, patience=40)
    if dataset == "folder":
        objects = {**recipe.augmentation, "objects": _PICTURES}
        recipe = replace(recipe, augmentation=objects)
        if num_pictures < _MANY_PICTURES:
            times = min(_MOST_EPOCHS, math.ceil(_MANY_PICTURES / num_pictures))
            recipe = replace(
                recipe, epochs=recipe.epochs * times, patience=40, batch_size=32
            )
    return recipe if epochs is None else replace(recipe, epochs=epochs)
