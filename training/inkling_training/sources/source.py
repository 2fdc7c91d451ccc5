# SPDX-License-Identifier: Apache-2.0
"""A model that somebody gives to be published, as its own library sees it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from inkling.errors import InvalidRequest

if TYPE_CHECKING:
    import numpy.typing as npt

    Inputs: TypeAlias = npt.NDArray[np.float32]
    Raw: TypeAlias = npt.NDArray[np.float32]

__all__ = [
    "DTYPES",
    "Choice",
    "Source",
    "UnusableModel",
    "chosen",
    "in_batches",
    "native",
    "shape_of",
    "two_dimensional",
]

_BATCH = 32
# A row of fewer values than a square of this side has is no picture.
_LEAST_SIDE = 8
DTYPES = ("float32", "float16", "bfloat16", "uint8", "int8")


class UnusableModel(InvalidRequest):
    """The given model cannot be opened, or is not an image classifier."""


@dataclass(frozen=True)
class Choice:
    """What the caller chose where a file leaves a choice.

    Attributes:
        output: The name of the output with the scores; None if the model has one.
        signature: The name of a SavedModel's signature; None for the usual one.
        trust: True if code that the file carries may run.
    """

    output: str | None = None
    signature: str | None = None
    trust: bool = False


@dataclass(frozen=True)
class Source:
    """A model that was given, and the statements that it makes.

    Attributes:
        name: The name of the file or folder, without its directories.
        digest: `sha256:` and the SHA-256 of the file, or of all files of the folder.
        library: The library that opened it, with its version.
        height: Rows of the input, in pixels; None if the model takes any.
        width: Columns of the input, in pixels; None if the model takes any.
        channels: Channels of the input; None if the model takes any.
        layout: `hwc`, `chw`, `hw` (grey, without an axis of channels) or `flat` (all
            values in a row).
        dtype: The type of the input, one of `DTYPES`.
        activation: The function behind the scores: `softmax`, `sigmoid`, `linear`, or
            another name; None if the file does not say.
        values: The range of pixels that the model itself tells, and the reason.
        stated: Fields of the contract that the model states besides: a resizing inside
            a model that takes pictures of any size, or the normalisation in the
            metadata of a file.
        layers: The names of layers, operations or tensors.
        notes: Further statements, as sentences.
        half: True if the model computes in half precision.
        single: True if the model takes one picture at a time.
        raw: Asks the model by its own library: takes inputs, float32, shape (n, height,
            width, channels), and returns its output, float32, shape (n, outputs).
        traced: The same on TensorFlow's tensors, for the export; None if TensorFlow
            cannot run the model.
        tracked: The object that holds the model's variables.
        tflite: The bytes of a TFLite file; None for other models.
        quantisation: Scale and zero point of a whole-numbered input; None without.
        labels: The labels that the file carries; empty without.
    """

    name: str
    digest: str
    library: str
    height: int | None
    width: int | None
    channels: int | None
    layout: str
    dtype: str
    activation: str | None
    raw: Callable[[Inputs], Raw]
    values: tuple[str, str] | None = None
    stated: Mapping[str, Any] = field(default_factory=dict)
    layers: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()
    half: bool = False
    single: bool = False
    traced: Callable[[Any], Any] | None = None
    tracked: object = None
    tflite: bytes | None = None
    quantisation: tuple[float, int] | None = None
    labels: tuple[str, ...] = field(default=())


def shape_of(
    shape: tuple[int | None, ...], dtype: str, name: str
) -> tuple[str, int | None, int | None, int | None]:
    """Return layout, height, width and channels of a batch of inputs.

    Args:
        shape: The shape of a batch, with None where it is open.
        dtype: The type of its values.
        name: The model, for the message.

    Raises:
        UnusableModel: The input is not a batch of pictures.
    """
    flat = _flat(shape)
    if (len(shape) not in (3, 4) and flat is None) or dtype not in DTYPES:
        raise UnusableModel(
            f"{name} takes {dtype} of shape {_shown(shape)}; expected pictures: one of "
            f"{', '.join(DTYPES)}, with four axes (batch, height, width, channels)."
        )
    if shape[0] not in (None, 1):
        raise UnusableModel(
            f"{name} takes batches of {shape[0]} only; expected batches of any size or "
            "of one picture. Save it with an open batch (None), such as "
            "keras.Input(shape=(...))."
        )
    if flat is not None:
        return ("flat", *flat)
    _, first, second, third = (*shape, 1) if len(shape) == 3 else shape
    if len(shape) == 3:
        return "hw", first, second, third
    if third in (1, 3):
        return "hwc", first, second, third
    if first in (1, 3):
        return "chw", second, third, first
    if third is not None:
        raise UnusableModel(
            f"{name} takes inputs of shape {_shown(shape)}; expected 1 or 3 channels, "
            "for grey or colour, as the last axis or as the first."
        )
    return "hwc", first, second, third


def _flat(shape: tuple[int | None, ...]) -> tuple[int, int, int] | None:
    """Return the sides and channels of a square picture whose values are in a row."""
    values = shape[1] if len(shape) == 2 else None
    for channels in (1, 3):
        side = math.isqrt((values or 0) // channels)
        if side >= _LEAST_SIDE and side * side * channels == values:
            return side, side, channels
    return None


def _shown(shape: tuple[int | None, ...]) -> str:
    return "(" + ", ".join("?" if side is None else str(side) for side in shape) + ")"


def chosen(name: str, kind: str, names: Sequence[str], wished: str | None) -> str:
    """Return the one of several names that the caller chose.

    Args:
        name: The model, for the message.
        kind: `output` or `signature`, which is also the option.
        names: The names that the model has.
        wished: The caller's choice; None if there is no choice.

    Raises:
        UnusableModel: There are several and none is chosen, or none has the name.
    """
    if wished is None and len(names) == 1:
        return names[0]
    if wished in names:
        return str(wished)
    has = f"the {kind}s {', '.join(names):.200}"
    if wished is None:
        raise UnusableModel(f"{name} has {has}. Choose one with --{kind} NAME.")
    raise UnusableModel(f"{name} has no {kind} {wished!r:.60}; it has {has}.")


def native(inputs: Inputs, layout: str, dtype: str) -> npt.NDArray[Any]:
    """Return inputs in the layout and the type that the model takes.

    Args:
        inputs: float32, shape (n, height, width, channels).
        layout: As `Source.layout`.
        dtype: One of `DTYPES`; whole numbers are rounded to.
    """
    if layout == "chw":
        inputs = np.ascontiguousarray(inputs.transpose(0, 3, 1, 2))
    elif layout == "hw":
        inputs = inputs[..., 0]
    elif layout == "flat":
        inputs = inputs.reshape(len(inputs), -1)
    if dtype in ("uint8", "int8"):
        limits = np.iinfo(dtype)
        return np.clip(np.round(inputs), limits.min, limits.max).astype(dtype)
    # TensorFlow casts to half precision itself; NumPy does not have bfloat16.
    return inputs


def in_batches(
    ask: Callable[[Any], Any], inputs: Any, name: str, *, single: bool = False
) -> Raw:
    """Return the outputs of a model for all inputs, which it gets a few at a time.

    Args:
        ask: Returns the model's output for some inputs, as NumPy array.
        inputs: Prepared inputs, shape (n, height, width, channels), float32.
        name: The name of the model.
        single: True if the model takes one picture at a time.

    Raises:
        UnusableModel: As `two_dimensional`.
    """
    size = 1 if single else _BATCH
    parts = np.array_split(inputs, range(size, len(inputs), size))
    return two_dimensional(np.concatenate([ask(part) for part in parts]), name)


def two_dimensional(outputs: npt.NDArray[Any], name: str) -> Raw:
    """Return a model's output as float32, shape (n, outputs).

    Raises:
        UnusableModel: The output has more than one value for each label, as the maps
            of a segmentation have.
    """
    found = np.asarray(outputs).astype(np.float32)
    inner = [side for side in found.shape[1:] if side != 1]
    if len(inner) > 1:
        raise UnusableModel(
            f"{name} answers with the shape {_shown((None, *found.shape[1:]))}; "
            "expected one score for each label, as classifiers have."
        )
    return found.reshape(len(found), -1)
