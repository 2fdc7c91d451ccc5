"""How a model is trained: every figure that shapes a run, in one place.

`default` on MNIST, 2 cores of an EPYC, 2026-11, their quickest epochs: the MLP's 20 in
2.6 s each, the CNN's 12 in 19 s each. The accuracies reached are in docs/models.md and
in each version's model card.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

__all__ = ["RECIPES", "Augmentation", "Recipe", "recipe_for"]


@dataclass(frozen=True)
class Augmentation:
    """Ranges of the random changes to training pictures; 0 leaves a thing as it is.

    Attributes:
        rotation_deg: Largest turn to either side.
        scale: Largest change of size, as the logarithm of the factor.
        aspect: Largest change of width against height, as a logarithm.
        shear: Largest slant, columns per row.
        shift_px: Largest move in either direction.
        stroke: How much of a 3x3 dilation or erosion is blended in, at most.
        blur: How much of a 3x3 binomial blur is blended in, at most.
        contrast: Largest change of the ink's strength, as a share.
        noise: Largest standard deviation of the noise, in units of full ink.
        flip: Whether half of the pictures are mirrored left to right.
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


# Other people's hands, pens and cameras.
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
# A dense layer has to learn each place anew; it can follow only small changes.
_HANDWRITING_LIGHT = Augmentation(
    rotation_deg=9, scale=0.10, aspect=0.05, shear=0.10, shift_px=1.5
)
_OBJECTS = Augmentation(scale=0.04, shift_px=1.0, flip=True)
# Of things that nobody knows beforehand: mirrored, some of them would be others.
_PICTURES = Augmentation(rotation_deg=8, scale=0.12, shift_px=2.0, contrast=0.2)


@dataclass(frozen=True)
class Recipe:
    """The figures of a run.

    Attributes:
        epochs: Times that every training picture is seen, at most.
        patience: Epochs without a better one after which the run stops.
        batch_size: Pictures in a step.
        learning_rate: At its peak; it rises over the first tenth and falls to a
            hundredth along a cosine.
        weight_decay: Of AdamW; not for biases and normalisation.
        label_smoothing: Share of the target that is spread over all labels.
        dropout: Share of features dropped while training.
        width: Factor on the features of each layer.
        outlier_share: Things that are no digit, beside each batch of digits, as a
            share of these.
        calm: Share of the run, at its end, over which augmentation falls to a half.
        augmentation: What is done to digits, and what to other things.
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
    # It sees less of what letters and digits have in common, and needs more of them.
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

# The bundled digits are 1,294 pictures to MNIST's 55,000: as many steps need more
# epochs, and a few hundred steps are what they can use.
_EPOCHS_OF_DIGITS = 4
# Of somebody's own pictures there may be fewer still: smaller batches, more epochs.
_MANY_PICTURES = 5000
_MOST_EPOCHS = 6


def recipe_for(
    name: str,
    model: str,
    dataset: str,
    epochs: int | None,
    num_pictures: int = _MANY_PICTURES,
) -> Recipe:
    """Return a recipe, with another number of epochs if one is given.

    `num_pictures` is what there is to train on, for the dataset `folder`.
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
