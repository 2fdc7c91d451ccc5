# SPDX-License-Identifier: Apache-2.0
"""Makes model inputs of pixels, and checks inputs that somebody else has made."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from inkling.errors import InvalidRequest

if TYPE_CHECKING:
    import numpy.typing as npt

    from inkling.contract import Contract

    Pixels: TypeAlias = npt.NDArray[np.uint8]
    Input: TypeAlias = npt.NDArray[np.float32]

__all__ = ["check_inputs", "scaled"]

# Share of the range of inputs that another order of rounding may add.
_RANGE_SLACK = 1e-3
_ADVICE = (
    "Prepare pictures with inkling.image.preprocess, or send the pictures themselves."
)


def scaled(pixels: Pixels | Input, contract: Contract) -> Input:
    """Return pixel * scale + offset in float32, in the shape of `pixels`.

    Args:
        pixels: uint8 or float32, 0 to 255: one picture in the contract's `input_shape`,
            or a batch.
        contract: The contract with `scale` and `offset`.
    """
    # Every caller computes one float32 multiplication and one float32 addition, so all
    # round in the same way.
    product = np.multiply(
        pixels, _by_channel(contract.scale, contract.layout), dtype=np.float32
    )
    if any(contract.offset):
        return product + _by_channel(contract.offset, contract.layout)
    return product


@cache
def _by_channel(values: tuple[float, ...], layout: str) -> Input:
    """Return one value for all channels, or one for each, for inputs in this layout."""
    found = np.array(values, np.float32)
    if len(values) == 1:
        return found.reshape(())
    return found.reshape(-1, 1, 1) if layout == "chw" else found


def check_inputs(inputs: Input, contract: Contract) -> None:
    """Check that inputs have the form that this module gives them.

    Args:
        inputs: float32, n >= 1 inputs in the contract's `input_shape`, within
            [offset, 255 * scale + offset] in each channel.
        contract: The contract of the model.

    Raises:
        InvalidRequest: The dtype, the shape or the range differs, or n is 0.
    """
    shape = contract.input_shape
    if inputs.dtype != np.float32 or inputs.ndim != 4 or inputs.shape[1:] != shape:
        raise InvalidRequest(
            f"The model input came as {inputs.dtype} of shape {inputs.shape}; expected "
            f"float32 of shape (n, {', '.join(map(str, shape))}). {_ADVICE}"
        )
    if not len(inputs):
        raise InvalidRequest("The model input came with 0 rows; send at least one.")
    low, high = _bounds(contract.scale, contract.offset, contract.layout)
    # NaN fails this comparison too.
    if not _within(inputs, low, high):
        raise InvalidRequest(
            "The model input has values that are NaN or outside "
            f"[{low.min():g}, {high.max():g}]. {_ADVICE}"
        )


@cache
def _bounds(
    scale: tuple[float, ...], offset: tuple[float, ...], layout: str
) -> tuple[Input, Input]:
    """Return the least and the greatest input, with a little room for rounding."""
    size = max(len(scale), len(offset))
    first, last = (
        np.broadcast_to(np.array(offset) + 255 * factor * np.array(scale), (size,))
        for factor in (0, 1)
    )
    slack = _RANGE_SLACK * np.abs(last - first)
    low, high = np.minimum(first, last) - slack, np.maximum(first, last) + slack
    return _by_channel(tuple(low), layout), _by_channel(tuple(high), layout)


def _within(inputs: Input, low: Input, high: Input) -> bool:
    if not low.ndim:
        return bool(inputs.min() >= low and inputs.max() <= high)
    return bool((inputs >= low).all() and (inputs <= high).all())
