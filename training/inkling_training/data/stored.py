# SPDX-License-Identifier: Apache-2.0
"""Prepared pictures in a file, of which only those in use are in memory.

The file has no name: it takes disk space as long as the process lives, and a process
that is killed leaves nothing behind. It is read and not mapped, because mapped pages
count as memory of the process.
"""

from __future__ import annotations

import math
import os
import tempfile
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np

from inkling.image.inputs import scaled

if TYPE_CHECKING:
    import numpy.typing as npt

    from inkling.contract import Contract

    Pixels: TypeAlias = npt.NDArray[np.uint8]

__all__ = ["Inputs", "InputsOf", "Store", "StoredPixels", "batch_size", "inputs_of"]

_BATCH, _BATCH_BYTES = 500, 8 * 1024**2


class Inputs(Protocol):
    """Model inputs, float32, in an array or made as they are asked for."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The number of inputs, and the shape of one."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: slice, /) -> npt.NDArray[np.float32]: ...


def batch_size(shape: Sequence[int]) -> int:
    """Return how many inputs of a shape a model is to get at once, 1 to 500.

    The tensors inside a network are many times as large as its inputs.
    """
    return max(1, min(_BATCH, _BATCH_BYTES // (4 * math.prod(shape))))


def inputs_of(pixels: Pixels, contract: Contract) -> npt.NDArray[np.float32]:
    """Return the model inputs of prepared pictures.

    Args:
        pixels: uint8, shape (n, height, width) or (n, height, width, 3), grey or RGB.
        contract: A contract of this size, whose layout is `hwc`.

    Returns:
        float32, shape (n, height, width, channels).
    """
    pixels = pixels.reshape(-1, contract.height, contract.width, contract.channels)
    if contract.channel_order == "bgr":
        pixels = pixels[..., ::-1]
    return scaled(pixels, contract)


class InputsOf:
    """The model inputs of prepared pictures, made a slice at a time."""

    def __init__(self, pixels: Pixels | StoredPixels, contract: Contract) -> None:
        self._pixels = pixels
        self._contract = contract

    @property
    def shape(self) -> tuple[int, ...]:
        """The number of inputs, and the shape of one."""
        return len(self), *self._contract.input_shape

    def __len__(self) -> int:
        return len(self._pixels)

    def __getitem__(self, rows: slice, /) -> npt.NDArray[np.float32]:
        return inputs_of(self._pixels[rows], self._contract)


class Store:
    """A file of prepared pictures of one shape.

    Args:
        folder: The folder whose disk holds the file; None for temporary files'.
        shape: (height, width, channels).
    """

    def __init__(self, folder: Path | None, shape: tuple[int, int, int]) -> None:
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
        weakref.finalize(self, self._file.close)
        self.shape = shape
        self.are_grey = True
        self._count = 0

    def add(self, pixels: Pixels) -> int:
        """Write a picture, uint8, and return its place."""
        self.are_grey &= bool((pixels == pixels[..., :1]).all())
        self._file.write(np.ascontiguousarray(pixels).tobytes())
        self._count += 1
        return self._count - 1

    def read(self, places: npt.NDArray[np.int64]) -> Pixels:
        """Return the pictures at these places, shape (n, height, width, channels)."""
        self._file.flush()
        pixels = np.empty((len(places), *self.shape), np.uint8)
        size = math.prod(self.shape)
        for picture, place in zip(pixels, places.tolist(), strict=True):
            os.preadv(self._file.fileno(), [picture.data], place * size)
        return pixels


class StoredPixels:
    """Pictures of a store in an order of their own; a slice of it is an array.

    Args:
        store: The store.
        places: The place of each picture in the store, int64, shape (n,).
        is_grey: True to read one of three equal channels.
    """

    dtype = np.dtype(np.uint8)

    def __init__(
        self, store: Store, places: npt.NDArray[np.int64], *, is_grey: bool
    ) -> None:
        self._store, self._places, self._is_grey = store, places, is_grey

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, height, width) for grey pictures, else (n, height, width, 3)."""
        height, width, channels = self._store.shape
        return len(self), height, width, *([] if self._is_grey else [channels])

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, rows: Any, /) -> Pixels:
        places = self._places[rows]
        pixels = self._store.read(np.atleast_1d(places))
        if self._is_grey:
            pixels = pixels[..., 0]
        return pixels[0] if places.ndim == 0 else pixels

    def __iter__(self) -> Iterator[Pixels]:
        return (self[place] for place in range(len(self)))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Pixels:
        del copy  # the array is a new one
        return self[:].astype(dtype or np.uint8, copy=False)
