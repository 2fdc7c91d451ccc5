# SPDX-License-Identifier: Apache-2.0
"""Puts a background under the transparent parts of a picture."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from inkling.contract import Contract
    from inkling.image.ink import Note

__all__ = ["opaque"]

_MIDDLE = 127


def opaque(picture: Image.Image, contract: Contract, note: Note) -> Image.Image:
    """Return the picture without transparency, composed over a background."""
    if picture.mode != "RGBA":
        return picture
    if contract.alpha == "dropped":
        picture = picture.convert("RGB")
        note("opaque", "transparent parts show the colours below them", picture)
        return picture
    ground = _ground(picture, contract)
    flat = Image.new("RGBA", picture.size, ground)
    flat.alpha_composite(picture)
    picture = flat.convert("RGB")
    name = "black" if ground[0] == 0 else "white"
    note("opaque", f"transparent parts became {name}", picture)
    return picture


def _ground(picture: Image.Image, contract: Contract) -> tuple[int, int, int, int]:
    """Return the RGBA background; `contrast` takes black under light opaque parts."""
    alpha = contract.alpha
    if alpha == "contrast":
        small = picture.resize((64, 64), Image.Resampling.BOX)
        pixels = np.asarray(small)
        weights = pixels[:, :, 3].astype(np.float64)
        grey = pixels[:, :, :3].mean(axis=2)
        if contract.grey == "contrast":
            grey = np.asarray(small.convert("RGB").convert("L"), np.float64)
        light = (grey * weights).sum() > _MIDDLE * weights.sum()
        alpha = "black" if light else "white"
    return (0, 0, 0, 255) if alpha == "black" else (255, 255, 255, 255)
