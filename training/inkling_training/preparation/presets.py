# SPDX-License-Identifier: Apache-2.0
"""The preparations of pixels that have a name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["CHOICES", "VALUES", "normalised", "pair"]

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def normalised(
    mean: tuple[float, ...], std: tuple[float, ...], factor: float = 1 / 255
) -> Mapping[str, Any]:
    """Return scale and offset of (pixel * factor - mean) / std.

    Args:
        mean: One value, or one for each channel.
        std: As `mean`; not 0.
        factor: What each pixel is multiplied by first.
    """
    size = max(len(mean), len(std))
    mean, std = (
        values * size if len(values) == 1 else values for values in (mean, std)
    )
    return {
        "scale": tuple(factor / one for one in std),
        "offset": tuple(-m / s for m, s in zip(mean, std, strict=True)),
    }


def pair(size: Any) -> tuple[int, int]:
    """Return a height and a width, which JSON states as one number, a list or by name.

    Raises:
        KeyError, TypeError, ValueError: It is something else.
    """
    if isinstance(size, Mapping):
        return int(size["height"]), int(size["width"])
    if isinstance(size, list | tuple):
        return int(size[0]), int(size[-1])
    return int(size), int(size)


# Fields of the contract for each name of `--values`.
VALUES: Mapping[str, Mapping[str, Any]] = {
    "unit": {"scale": (1 / 255,), "offset": (0.0,)},
    "signed": {"scale": (1 / 127.5,), "offset": (-1.0,)},
    "bytes": {"scale": (1.0,), "offset": (0.0,)},
    "imagenet": normalised(_MEAN, _STD),
    # The mean of blue comes first, as the model's channels do.
    "caffe": {
        "scale": (1.0,),
        "offset": (-103.939, -116.779, -123.68),
        "channel_order": "bgr",
    },
}
# What each name means, for the message that asks for one.
CHOICES = (
    "unit (0 to 1), signed (-1 to 1), bytes (0 to 255), imagenet (mean and standard "
    "deviation of ImageNet), or caffe (BGR minus ImageNet's mean)"
)
