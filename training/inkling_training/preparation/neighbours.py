# SPDX-License-Identifier: Apache-2.0
"""Tries neighbouring preparations and orders of labels on labelled pictures.

A wrong preparation raises no error: the model answers, only worse. With labelled
pictures, a neighbour that is right far more often shows the mistake.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from inkling_training.preparation.meaning import right_answers
from inkling_training.preparation.presets import VALUES

if TYPE_CHECKING:
    import numpy.typing as npt

    from inkling.contract import Contract
    from inkling_training.preparation.pictures import Pictures

    Scores = npt.NDArray[np.float32]

__all__ = ["label_order", "warnings"]

_MOST, _ORDERED = 64, 256
_BATCH = 32
# A smaller gain is not worth a warning, however sure it is.
_LEAST_GAIN = 0.05


def warnings(
    scored: Callable[[Scores], Scores],
    contract: Contract,
    pictures: Pictures,
    *,
    whole_numbers: bool,
) -> list[str]:
    """Return a sentence for all that seems wrong in the light of labelled pictures.

    Args:
        scored: Returns the model's scores for inputs.
        contract: The contract as concluded.
        pictures: Labelled pictures.
        whole_numbers: True if the model takes whole numbers, so that values are fixed.
    """
    found = _better_neighbours(scored, contract, pictures, whole_numbers=whole_numbers)
    few = pictures.first(_ORDERED)
    scores = np.concatenate([scored(one) for one in few.batches(contract, _BATCH)])
    if few.labels is None or few.labels.ndim > 1:
        return found  # no order can be told where a picture has several labels
    return found + label_order(scores, few.labels, contract.labels)


def _better_neighbours(
    scored: Callable[[Scores], Scores],
    contract: Contract,
    pictures: Pictures,
    *,
    whole_numbers: bool,
) -> list[str]:
    """Return a sentence for each preparation that gives far more right answers.

    Args:
        scored: Returns the given model's scores for inputs.
        contract: The contract as concluded.
        pictures: Labelled pictures.
        whole_numbers: True if the model takes whole numbers, so that values are fixed.
    """
    few = pictures.first(_MOST)
    found = _accuracy(scored, contract, few)
    limit = found + max(
        _LEAST_GAIN, 2 * math.sqrt(found * (1 - found) / len(few.images))
    )
    better = []
    for option, other in _neighbours(contract, whole_numbers=whole_numbers):
        accuracy = _accuracy(scored, other, few)
        if accuracy > limit:
            better.append((accuracy, option))
    return [
        f"With {option} accuracy would be {accuracy:.0%} instead of {found:.0%} (on "
        f"{len(few.images)} pictures)."
        for accuracy, option in sorted(better, reverse=True)
    ]


def _accuracy(
    scored: Callable[[Scores], Scores], contract: Contract, pictures: Pictures
) -> float:
    parts = [scored(one) for one in pictures.batches(contract, _BATCH)]
    right = right_answers(np.concatenate(parts), pictures.labels)  # type: ignore[arg-type]
    return float(right.mean())


def _neighbours(
    contract: Contract, *, whole_numbers: bool
) -> Iterator[tuple[str, Contract]]:
    """Yield the options that would state each neighbour, with its contract."""
    for name, fields in VALUES.items():
        changes: dict[str, Any] = dict(fields)
        if whole_numbers or (contract.channels == 1 and len(fields["offset"]) > 1):
            continue
        other = replace(contract, **changes)
        if (other.scale, other.offset) != (contract.scale, contract.offset):
            yield f"--values {name}", other
    if contract.channels == 3:
        order = "rgb" if contract.channel_order == "bgr" else "bgr"
        yield f"--channels {order}", replace(contract, channel_order=order)
    for resize in ("stretch", "fit", "cover"):
        if resize != contract.resize:
            other = replace(contract, resize=resize, crop=1.0, aspect="scaling")
            yield f"--resize {resize}", other
    yield from _resamplings(contract)


def _resamplings(contract: Contract) -> Iterator[tuple[str, Contract]]:
    """Yield the neighbours that differ in the filter only."""
    kinds = ("nearest", "bilinear", "bicubic")
    if contract.antialias and contract.aspect != "exact_box":
        kind = contract.filter if contract.filter in kinds else "bilinear"
        yield "--no-antialias", replace(contract, antialias=False, filter=kind)
    for kind in kinds:
        if not contract.antialias or kind != contract.filter:
            other = replace(contract, filter=kind, antialias=True)
            yield f"--filter {kind}", other


def label_order(
    scores: Scores, truth: npt.NDArray[np.int64], names: tuple[str, ...]
) -> list[str]:
    """Return a sentence if the labels seem to stand in another order.

    Args:
        scores: The model's scores, shape (n, labels).
        truth: The place of each picture's label, shape (n,).
        names: The labels.
    """
    found = scores.argmax(axis=1)
    present = np.unique(truth)
    usual = {
        int(place): int(
            np.bincount(found[truth == place], minlength=len(names)).argmax()
        )
        for place in present
    }
    moved = {place: to for place, to in usual.items() if place != to}
    if not moved or len(set(usual.values())) != len(usual):
        return []
    now = float((found == truth).mean())
    then = float((found == np.vectorize(usual.__getitem__)(truth)).mean())
    if then < now + 0.2 or then < 0.5:
        return []
    place, to = next(iter(moved.items()))
    shift = {to - place for place, to in usual.items()}
    off = " They seem to be off by one." if shift in ({1}, {-1}) else ""
    return [
        f"Pictures of {names[place]} are mostly answered as {names[to]}: are the "
        f"labels in the model's order? In another order accuracy would be {then:.0%} "
        f"instead of {now:.0%}.{off}"
    ]
