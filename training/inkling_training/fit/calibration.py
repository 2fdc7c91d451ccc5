"""Makes scores probabilities, and finds the score under which a model had best abstain.

One temperature for all logits, after Guo, Pleiss, Sun and Weinberger, "On Calibration
of Modern Neural Networks", ICML 2017. It is folded into the last layer, so every export
has it, and no client calculates.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from inkling_training.fit.batches import varied
from inkling_training.fit.models import LOGITS

if TYPE_CHECKING:
    import numpy.typing as npt

    from inkling.contract import Contract
    from inkling_training.data.datasets import Dataset
    from inkling_training.fit.recipes import Recipe
    from inkling_training.fit.train import Trained

    Inputs = npt.NDArray[np.float32]
    Scores = npt.NDArray[np.floating[Any]]
    Labels = npt.NDArray[np.int64]

__all__ = ["calibrated", "tempered"]

_BATCH = 500
# Temperatures are looked for up to this factor from 1, in steps that get finer.
_FARTHEST = 8.0
_ROUNDS, _STEPS = 8, 9
# The share of the validation pictures that fall under `abstain_below`, after changes of
# this strength: other people's pictures differ, too, but less than in training.
_ABSTAIN_SHARE = 0.01
_STRENGTH = 0.75
# Pictures for a hundredth of them to be some.
_ENOUGH = 2000
_LEAST_SCORE = 1e-30


def calibrated(
    trained: Trained, dataset: Dataset, recipe: Recipe
) -> tuple[Trained, Dataset]:
    """Return model and dataset as the validation split says that they should be.

    The model's scores are probabilities then, and the contract states the temperature
    that made them so and the score under which to abstain.
    """
    split = dataset.validation

    def scored(inputs: Inputs) -> Scores:
        scores = trained.model.predict(inputs, batch_size=_BATCH, verbose=0)
        return np.asarray(scores)

    inputs = split.inputs(dataset.contract)
    temperature = round(_temperature(scored(inputs), split.labels), 4)
    harder = scored(_harder(inputs, dataset.contract, recipe))
    highest = tempered(harder, temperature).max(axis=1)
    contract = replace(
        dataset.contract,
        temperature=temperature,
        abstain_below=round(float(np.quantile(highest, _ABSTAIN_SHARE)), 4),
    )
    model = keras.models.clone_model(trained.model)
    model.set_weights(trained.model.get_weights())
    logits = model.get_layer(LOGITS)
    logits.set_weights([array / temperature for array in logits.get_weights()])
    return replace(trained, model=model), replace(dataset, contract=contract)


def _harder(inputs: Inputs, contract: Contract, recipe: Recipe) -> Inputs:
    """Return the inputs changed, each in several ways if they are few."""
    often = np.concatenate([inputs] * math.ceil(_ENOUGH / len(inputs)))
    return varied(often, contract, recipe, _STRENGTH, seed=0)


def tempered(scores: Scores, temperature: float) -> Scores:
    """Return the scores, shape (n, classes), as if from logits divided by that.

    The reciprocal takes it back.
    """
    logits = np.log(np.maximum(scores, _LEAST_SCORE), dtype=np.float64) / temperature
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def _temperature(scores: Scores, labels: Labels) -> float:
    """Return the temperature under which these labels are the likeliest.

    The right label counts for a little less than 1, as in Platt's scaling: where a
    model errs in none of a few pictures, the likeliest temperature would be 0.
    """
    count, classes = scores.shape
    doubt = 1 / (count + 2)
    wanted = np.full(scores.shape, doubt / max(1, classes - 1))
    wanted[np.arange(count), labels] = 1 - doubt

    def surprise(temperature: float) -> float:
        likely = np.maximum(tempered(scores, temperature), _LEAST_SCORE)
        return float(-(wanted * np.log(likely)).sum())

    # It is convex in the reciprocal: one lowest place, each round closer about it.
    low, high = 1 / _FARTHEST, _FARTHEST
    for _ in range(_ROUNDS):
        places = np.geomspace(low, high, _STEPS)
        best = int(np.argmin([surprise(place) for place in places]))
        low, high = places[max(0, best - 1)], places[min(_STEPS - 1, best + 1)]
    return float(np.sqrt(low * high))
