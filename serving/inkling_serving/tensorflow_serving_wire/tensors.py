# SPDX-License-Identifier: Apache-2.0
"""Converts between NumPy arrays and the tensors of TensorFlow Serving's protocol."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from inkling.errors import InvalidRequest
from inkling_serving.tensorflow_serving_wire import tensorflow_serving_pb2 as wire

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["array_of", "int_tensor", "strings_of", "strings_tensor", "tensor_of"]

# A batch of pictures has fewer. Without a limit, a tensor that repeats one value could
# need a terabyte of memory.
_MAX_RANK = 8
_MAX_VALUES = 4 * 1024 * 1024
# The NumPy data type, and the field that holds single values.
_FIELDS: Mapping[int, tuple[str, str]] = MappingProxyType(
    {
        wire.DT_FLOAT: ("<f4", "float_val"),
        wire.DT_DOUBLE: ("<f8", "double_val"),
        wire.DT_INT32: ("<i4", "int_val"),
        wire.DT_INT64: ("<i8", "int64_val"),
    }
)


def tensor_of(array: npt.NDArray[np.float32]) -> wire.Tensor:
    """Return the tensor of a float32 array of any shape, its values as raw bytes."""
    return wire.Tensor(
        dtype=wire.DT_FLOAT,
        tensor_shape=_shape(array.shape),
        tensor_content=np.ascontiguousarray(array, "<f4").tobytes(),
    )


def array_of(tensor: wire.Tensor) -> npt.NDArray[Any]:
    """Return the array of a numeric tensor.

    The tensor contains raw bytes, or single values; one value may stand for all values.

    Raises:
        InvalidRequest: The number of values does not match the shape, or the type is
            not numeric.
    """
    if tensor.dtype not in _FIELDS:
        raise InvalidRequest("The tensor's type is not float, double, int32 or int64.")
    dtype, field = _FIELDS[tensor.dtype]
    shape = tuple(dim.size for dim in tensor.tensor_shape.dim)
    if len(shape) > _MAX_RANK:
        raise InvalidRequest(f"The tensor has more than {_MAX_RANK} dimensions.")
    count = math.prod(shape)
    if count > _MAX_VALUES:
        raise InvalidRequest(f"The tensor has more than {_MAX_VALUES:,} values.")
    content, values = tensor.tensor_content, getattr(tensor, field)
    if content:
        found = len(content) / np.dtype(dtype).itemsize
    else:
        found = count if len(values) == 1 else len(values)
    if min(shape, default=0) < 0 or found != count:
        raise InvalidRequest(
            f"The tensor has {found:g} values; its shape {shape} needs {count}."
        )
    if content:
        return np.frombuffer(content, dtype).reshape(shape)
    if len(values) == 1:
        return np.full(shape, values[0], dtype)
    return np.array(values, dtype).reshape(shape)


def strings_tensor(text: str, count: int) -> wire.Tensor:
    """Return a string tensor of shape (count,) with the same text everywhere."""
    return wire.Tensor(
        dtype=wire.DT_STRING,
        tensor_shape=_shape((count,)),
        string_val=[text.encode()] * count,
    )


def int_tensor(value: int, count: int) -> wire.Tensor:
    """Return an int32 tensor of shape (count,) with the same value everywhere."""
    return wire.Tensor(
        dtype=wire.DT_INT32, tensor_shape=_shape((count,)), int_val=[value] * count
    )


def strings_of(tensor: wire.Tensor) -> list[bytes]:
    """Return the texts of a tensor of strings, as bytes, in order.

    Raises:
        InvalidRequest: The tensor does not contain texts.
    """
    texts = list(tensor.string_val)
    if not texts:
        count = math.prod(dim.size for dim in tensor.tensor_shape.dim)
        texts = _packed(tensor.tensor_content, min(count, len(tensor.tensor_content)))
    if tensor.dtype != wire.DT_STRING or not texts:
        raise InvalidRequest("The tensor does not contain texts.")
    return texts


def _packed(content: bytes, count: int) -> list[bytes]:
    """Return texts from raw bytes: first all lengths as varints, then all texts."""
    lengths, position = [], 0
    for _ in range(count):
        length, shift = 0, 0
        while position < len(content):
            byte = content[position]
            position += 1
            length |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
        lengths.append(length)
    texts = []
    for length in lengths:
        texts.append(content[position : position + length])
        position += length
    if position != len(content):
        raise InvalidRequest(
            "The lengths of the tensor's texts do not match its bytes."
        )
    return texts


def _shape(shape: tuple[int, ...]) -> wire.TensorShape:
    return wire.TensorShape(dim=[wire.TensorShape.Dim(size=size) for size in shape])
