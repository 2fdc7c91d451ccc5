# SPDX-License-Identifier: Apache-2.0
"""Turns the tensors of the Open Inference Protocol into pictures or model inputs.

A model has one input. It takes model inputs (FP32), pixels of the model's size (UINT8),
or encoded pictures (BYTES). Values come as raw bytes, in JSON, or in typed fields.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from inkling.errors import InklingError, InvalidRequest, TooLarge
from inkling_serving.base64_text import decoded
from inkling_serving.dialects.json_values import MAX_RANK, MAX_VALUES, array_of

if TYPE_CHECKING:
    import numpy.typing as npt

    from inkling_serving.service import Given

__all__ = [
    "BYTES",
    "INPUT",
    "OUTPUT",
    "Tensor",
    "from_json",
    "from_raw",
    "from_typed",
    "only_element",
    "tensor_of",
    "to_raw",
]

INPUT: Final = "inputs"
OUTPUT: Final = "scores"
BYTES: Final = "BYTES"
_DTYPES: dict[str, np.dtype[Any]] = {"FP32": np.dtype("<f4"), "UINT8": np.dtype("u1")}
# Each element of a raw BYTES tensor comes after its length, 4 bytes, little-endian.
_LENGTH = 4
_WORDS = "expected FP32 (model inputs), UINT8 (pixels) or BYTES (encoded pictures)"


@dataclass(frozen=True)
class Tensor:
    """The name, type and shape of an input; its values come apart."""

    name: str
    datatype: str
    shape: tuple[int, ...]

    @property
    def count(self) -> int:
        """The number of values that the shape needs."""
        return math.prod(self.shape)


def tensor_of(name: Any, datatype: Any, shape: Any) -> Tensor:
    """Return the description of an input.

    Raises:
        InvalidRequest: The name, the type or the shape is not one of a model's input.
        TooLarge: The shape has too many values.
    """
    if name != INPUT:
        raise InvalidRequest(
            f"unexpected inference input {_shown(name)}; the model has one, {INPUT!r}."
        )
    if datatype != BYTES and datatype not in _DTYPES:
        raise InvalidRequest(
            f"The input {INPUT!r} came as {_shown(datatype)}; {_WORDS}."
        )
    sizes = list(shape) if isinstance(shape, Sequence) else []
    if not 1 <= len(sizes) <= MAX_RANK or not all(type(size) is int for size in sizes):
        raise InvalidRequest(
            f"The shape of {INPUT!r} is not a list of 1 to {MAX_RANK} whole numbers."
        )
    if min(sizes) < 0:
        raise InvalidRequest(f"The shape of {INPUT!r} has a negative size.")
    if math.prod(sizes) > MAX_VALUES:
        raise TooLarge(f"The shape of {INPUT!r} has more than {MAX_VALUES:,} values.")
    return Tensor(INPUT, str(datatype), tuple(sizes))


def from_raw(tensor: Tensor, raw: bytes | memoryview) -> Given:
    """Return the values of raw bytes, little-endian and in the order of rows.

    Raises:
        InvalidRequest: The bytes do not fit the shape.
    """
    if tensor.datatype == BYTES:
        return _checked(_elements(raw, tensor.count), tensor)
    dtype = _DTYPES[tensor.datatype]
    expected = tensor.count * dtype.itemsize
    if len(raw) != expected:
        raise InvalidRequest(
            f"unexpected total byte size {len(raw)} for input {INPUT!r}; its shape "
            f"{list(tensor.shape)} needs {expected}."
        )
    # The bytes begin anywhere in a body, and engines want aligned values.
    return np.require(np.frombuffer(raw, dtype), requirements="A").reshape(tensor.shape)


def from_json(tensor: Tensor, data: Any) -> Given:
    """Return the values of JSON, flat or in nested lists; pictures are in base64.

    Raises:
        InvalidRequest: The values do not fit the type or the shape.
    """
    if not isinstance(data, list):
        raise InvalidRequest(f"The input {INPUT!r} has no list 'data'.")
    if tensor.datatype == BYTES:
        return _checked([_picture(text) for text in _flat(data)], tensor)
    return _typed(tensor, array_of(data, f"The input {INPUT!r}"))


def from_typed(tensor: Tensor, values: Sequence[Any]) -> Given:
    """Return the values of a typed field of gRPC, in the order of rows.

    Raises:
        InvalidRequest: The values do not fit the type or the shape.
    """
    if tensor.datatype == BYTES:
        return _checked(values, tensor)
    return _typed(tensor, np.array(values))


def to_raw(values: npt.NDArray[np.float32] | list[bytes]) -> bytes:
    """Return the raw bytes of an output."""
    if isinstance(values, list):
        return b"".join(len(one).to_bytes(_LENGTH, "little") + one for one in values)
    return np.ascontiguousarray(values, "<f4").tobytes()


def only_element(raw: bytes | memoryview) -> bytes:
    """Return the only element of a raw BYTES tensor; nothing if it has more."""
    # Other tensors are large, and must not be copied to find out.
    if len(raw) - _LENGTH != int.from_bytes(raw[:_LENGTH], "little"):
        return b""
    return bytes(raw[_LENGTH:])


def _elements(raw: bytes | memoryview, count: int) -> list[bytes]:
    found: list[bytes] = []
    place, view = 0, memoryview(raw)
    while place < len(view) and len(found) <= count:
        end = place + _LENGTH
        end += int.from_bytes(view[place:end], "little")
        if end > len(view):
            raise InvalidRequest(
                f"The raw bytes of {INPUT!r} end inside an element; each starts with "
                f"its length in {_LENGTH} bytes, little-endian."
            )
        found.append(bytes(view[place + _LENGTH : end]))
        place = end
    return found


def _checked(
    pictures: Sequence[bytes | InklingError], tensor: Tensor
) -> Sequence[bytes | InklingError]:
    if len(pictures) != tensor.count:
        raise _mismatch(len(pictures), tensor)
    return pictures


def _typed(tensor: Tensor, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    if values.size != tensor.count:
        raise _mismatch(values.size, tensor)
    dtype = _DTYPES[tensor.datatype]
    is_byte = dtype.itemsize == 1 and values.size > 0
    if is_byte and (values.dtype.kind == "f" or np.any((values < 0) | (values > 255))):
        raise InvalidRequest(
            f"The input {INPUT!r} is UINT8 and has values that are not whole numbers "
            "from 0 to 255."
        )
    with np.errstate(over="ignore"):  # the contract's range refuses infinity in words
        return values.astype(dtype).reshape(tensor.shape)


def _mismatch(count: int, tensor: Tensor) -> InvalidRequest:
    return InvalidRequest(
        f"unexpected number of elements {count} for input {INPUT!r}; its shape "
        f"{list(tensor.shape)} needs {tensor.count}."
    )


def _flat(data: list[Any]) -> list[Any]:
    """Return the elements of lists that may be nested."""
    for _ in range(MAX_RANK):
        if not any(isinstance(one, list) for one in data):
            break
        data = [
            inner for one in data for inner in (one if isinstance(one, list) else [one])
        ]
    return data


def _picture(text: Any) -> bytes | InklingError:
    if not isinstance(text, str):
        return InvalidRequest("The picture is no text; expected its bytes in base64.")
    try:
        return decoded(text)
    except InvalidRequest as error:
        return error.with_traceback(None)  # its frames hold the text


def _shown(value: Any) -> str:
    return repr(value[:40]) if isinstance(value, str) else "of no text"
