# SPDX-License-Identifier: Apache-2.0
"""What the rounding of float32 does to a model: how much, and on which pictures.

Each library adds in its own order. A network may amplify what reaches its layers, such
as one with random weights, or one whose BatchNormalization was fitted to other
pictures. The rounding of the first layer then decides the scores, and no two libraries
agree: on noise, an EfficientNetV2B0 with random weights differs by 1 between Keras's
own call, the same call traced, and the same network in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from inkling_training.errors import GateFailed

if TYPE_CHECKING:
    import numpy.typing as npt

    from inkling.contract import Contract
    from inkling_training.release.parity import ParityRow, Scores

__all__ = ["DEEP_TOLERANCE", "notes", "sentence", "steady", "with_tolerance"]

# The largest difference of a score that the rounding of a deep model may make.
DEEP_TOLERANCE = 1e-4

# With a smaller share of steady pictures the model is refused.
_LEAST = 1 / 4


def steady(
    scored: Callable[[Scores], Scores], inputs: Scores, scores: Scores, limit: float
) -> npt.NDArray[np.bool_]:
    """Return whether the scores of each input stay if its last bits change, shape (n,).

    Args:
        scored: The model, asked by its own library.
        inputs: Inputs, float32, shape (n, height, width, channels).
        scores: Its scores for them, shape (n, classes).
        limit: By how much a score may change.
    """
    return _change(scored, inputs, scores) <= limit


def notes(found: npt.NDArray[np.bool_], name: str) -> list[str]:
    """Return a sentence about the generated pictures that are left out, if any are.

    Args:
        found: The result of `steady`.
        name: The name of the model, for the message.

    Raises:
        GateFailed: There are too few steady ones.
    """
    count, rest = len(found), int((~found).sum())
    if rest > (1 - _LEAST) * count:
        raise GateFailed(
            f"{name} was not published. The last bits of its inputs decide its scores "
            f"on {rest} of {count} generated pictures, so that no two libraries agree "
            "about them: its weights amplify the rounding of float32, as untrained "
            "ones do. Give --pictures with pictures like those of its training."
        )
    if not rest:
        return []
    return [
        f"{rest} of {count} generated pictures were left out, because the last bits of "
        "the inputs decide the given model's scores there."
    ]


def sentence(scored: Callable[[Scores], Scores], inputs: Scores, limit: float) -> str:
    """Return what is to be said of a model's own steadiness; empty if it is steady."""
    change = _change(scored, inputs, scored(inputs))
    rest = int((change > limit).sum())
    if not rest:
        return ""
    return (
        f"The given model is unstable itself: where each value of its input changes by "
        f"its last bit, its scores change by up to {change.max():.2g}, on {rest} of "
        f"{len(change)} pictures. Its weights amplify the rounding of float32."
    )


def _change(
    scored: Callable[[Scores], Scores], inputs: Scores, scores: Scores
) -> Scores:
    """Return the largest change of a score of each input, shape (n,)."""
    near = [scored(np.nextafter(inputs, np.float32(end))) for end in (-np.inf, np.inf)]
    found: Scores = np.abs(np.stack(near) - scores).max(axis=(0, 2))
    return found


def with_tolerance(rows: Sequence[ParityRow], contract: Contract) -> Contract:
    """Return the contract, with the tolerance that a deep model needs.

    Each library adds the products of a layer in its own order, and the rounding adds up
    from layer to layer. A ConvNeXt Tiny differs by 2.5e-5 between Keras and LiteRT.
    The contract then states the larger tolerance, if no picture gets another label.

    Args:
        rows: The comparison of the exports that must agree.
        contract: The contract of the model.
    """
    worst = max((row.worst for row in rows), default=0.0)
    needed = contract.tolerances["float32"] < worst <= DEEP_TOLERANCE
    if not needed or any(row.labels_differ for row in rows):
        return contract
    tolerances = {
        name: max(value, DEEP_TOLERANCE) for name, value in contract.tolerances.items()
    }
    return replace(contract, tolerances=tolerances)
