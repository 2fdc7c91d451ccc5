# SPDX-License-Identifier: Apache-2.0
"""Temperature scaling, and the score below which a model abstains.

One softmax temperature divides all logits (Guo, Pleiss, Sun and Weinberger, "On
Calibration of Modern Neural Networks", ICML 2017). The division is folded into the last
layer, so every export contains it, and a client has nothing to compute.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from inkling_training.fit.batches import varied_inputs
from inkling_training.fit.models import logits_of, scorer, scores_of

if TYPE_CHECKING:
    import numpy.typing as npt

    from inkling_training.data.datasets import Dataset
    from inkling_training.fit.recipes import Recipe
    from inkling_training.fit.train import Trained

    Scores = npt.NDArray[np.floating[Any]]
    Labels = npt.NDArray[np.int64]

__all__ = ["STRENGTH", "abstain_below", "calibrated", "tempered"]

# The search covers temperatures from 1/64 to 64, in 8 rounds of ever smaller steps.
# Logits that were trained by the squared error are about 0 and 1, and need 1/10.
_FARTHEST = 64.0
_ROUNDS, _STEPS = 8, 9
# The share of the validation pictures whose highest score is below `abstain_below`. The
# pictures are augmented with this strength, because users' pictures differ from the
# dataset, but less than augmented training pictures do.
_ABSTAIN_SHARE = 0.01
STRENGTH = 0.75
# The contract has it with so many decimals, and above 0 and below 1.
_DECIMALS = 4
# With this many pictures, 1 % of them are 20. A large picture takes longer.
_ENOUGH, _ENOUGH_LARGE = 2000, 500
_LARGE_SIDE = 64
_LEAST_SCORE = 1e-30


def calibrated(
    trained: Trained, dataset: Dataset, recipe: Recipe
) -> tuple[Trained, Dataset]:
    """Return the model and the dataset after calibration on the validation split.

    The returned model divides its logits by the softmax temperature. The contract of
    the returned dataset states the temperature and `abstain_below`.
    """
    split = dataset.validation
    scores = scores_of(trained.model, split.inputs_in_parts(dataset.contract))
    temperature = round(_temperature(scores, split.labels), 4)
    harder = _scores_of_harder(trained.model, dataset, recipe)
    highest = tempered(harder, temperature).max(axis=1)
    contract = replace(
        dataset.contract,
        temperature=temperature,
        abstain_below=abstain_below(highest),
    )
    model = _divided(trained.model, temperature)
    return replace(trained, model=model), replace(dataset, contract=contract)


def abstain_below(highest: Scores) -> float:
    """Return the score below which a model abstains, above 0 and below 1.

    Args:
        highest: The highest scores of pictures that the model knows, augmented with the
            strength `STRENGTH`, shape (n,).
    """
    found = round(float(np.quantile(highest, _ABSTAIN_SHARE)), _DECIMALS)
    step = 10.0**-_DECIMALS
    return min(max(found, step), 1 - step)


def _divided(model: keras.Model, temperature: float) -> keras.Model:
    """Return a model with the same layers that divides its logits.

    The weights of a last dense layer are divided instead, which costs no operation.
    """
    logits = logits_of(model)
    last = logits._keras_history.operation
    if type(last) is keras.layers.Dense and last.get_config()["activation"] == "linear":
        [features] = last._inbound_nodes[logits._keras_history.node_index].input_tensors
        layer = keras.layers.Dense.from_config(last.get_config())
        divided = layer(features)
        layer.set_weights([array / temperature for array in last.get_weights()])
    else:
        divided = keras.layers.Rescaling(1 / temperature)(logits)
    scores = keras.layers.Softmax(name="scores")(divided)
    return keras.Model(model.inputs[0], scores, name=model.name)


def _scores_of_harder(model: keras.Model, dataset: Dataset, recipe: Recipe) -> Scores:
    """Return the scores of augmented validation pictures."""
    contract = dataset.contract
    is_large = max(contract.height, contract.width) > _LARGE_SIDE
    count = _ENOUGH_LARGE if is_large else _ENOUGH
    parts = varied_inputs(dataset.validation, contract, recipe, STRENGTH, count)
    return np.concatenate([*map(scorer(model), parts)])


def tempered(scores: Scores, temperature: float) -> Scores:
    """Return the scores after a division of their logits by `temperature`.

    The reciprocal temperature inverts the operation.

    Args:
        scores: Softmax outputs, shape (n, classes), in [0, 1].
        temperature: The softmax temperature, above 0.

    Returns:
        Shape (n, classes), float64; each row sums to 1.
    """
    logits = np.log(np.maximum(scores, _LEAST_SCORE), dtype=np.float64) / temperature
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def _temperature(scores: Scores, labels: Labels) -> float:
    """Return the temperature with the smallest cross-entropy on these labels.

    The target of the right label is slightly below 1, as in Platt scaling. Otherwise
    the best temperature of a model without errors on a few pictures would be 0.
    """
    count, classes = scores.shape
    doubt = 1 / (count + 2)
    wanted = np.full(scores.shape, doubt / max(1, classes - 1))
    wanted[np.arange(count), labels] = 1 - doubt

    def surprise(temperature: float) -> float:
        likely = np.maximum(tempered(scores, temperature), _LEAST_SCORE)
        return float(-(wanted * np.log(likely)).sum())

    # The cross-entropy is convex in the reciprocal of the temperature, so it has one
    # minimum. Each round searches a smaller interval around the minimum.
    low, high = 1 / _FARTHEST, _FARTHEST
    for _ in range(_ROUNDS):
        places = np.geomspace(low, high, _STEPS)
        best = int(np.argmin([surprise(place) for place in places]))
        low, high = places[max(0, best - 1)], places[min(_STEPS - 1, best + 1)]
    return float(np.sqrt(low * high))
