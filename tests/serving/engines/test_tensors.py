# SPDX-License-Identifier: Apache-2.0
"""Tensors that lie; those that do not are held against TensorFlow's own elsewhere."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from inkling.errors import InvalidRequest
from inkling_serving.tensorflow_serving_wire import tensorflow_serving_pb2 as wire
from inkling_serving.tensorflow_serving_wire.tensors import (
    array_of,
    int_tensor,
    strings_of,
    strings_tensor,
    tensor_of,
)


def _tensor(dtype: int, *sizes: int, **values: Any) -> wire.Tensor:
    dims = [wire.TensorShape.Dim(size=size) for size in sizes]
    return wire.Tensor(dtype=dtype, tensor_shape=wire.TensorShape(dim=dims), **values)


@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0, 4), (2, 3, 4, 1)])
def test_an_array_comes_back(shape: tuple[int, ...]) -> None:
    """Values and shape survive, in whatever order the array lies in memory."""
    array = np.asfortranarray(np.arange(np.prod(shape), dtype=np.float32)).reshape(
        shape
    )

    found = array_of(tensor_of(array.T.copy().T))

    assert array.shape == found.shape
    assert np.array_equal(array, found)


def test_texts_and_numbers_come_back() -> None:
    """A text and a whole number stand in every row."""
    assert [b"{}"] * 3 == strings_of(strings_tensor("{}", 3))
    assert [7, 7] == array_of(int_tensor(7, 2)).tolist()


_LIES: dict[str, wire.Tensor] = {
    "too few values": _tensor(wire.DT_FLOAT, 3, float_val=[0.0, 1.0]),
    "too many values": _tensor(wire.DT_FLOAT, 1, float_val=[0.0, 1.0]),
    "no values": _tensor(wire.DT_FLOAT, 3),
    "a part of a value": _tensor(wire.DT_FLOAT, 1, tensor_content=b"123"),
    "values of another type": _tensor(wire.DT_INT32, 1, float_val=[1.0]),
    "a negative size": _tensor(wire.DT_FLOAT, -1, float_val=[0.0]),
    "two negative sizes": _tensor(wire.DT_FLOAT, -1, -1, float_val=[0.0]),
    "a terabyte of one value": _tensor(wire.DT_FLOAT, 2**20, 2**18, float_val=[0.0]),
    "sizes that overflow": _tensor(wire.DT_FLOAT, 2**62, 4, float_val=[0.0]),
    "300 dimensions": _tensor(wire.DT_FLOAT, *[1] * 300, float_val=[0.0]),
    "texts": strings_tensor("a", 1),
    "no type": wire.Tensor(float_val=[0.0]),
}


@pytest.mark.parametrize("case", _LIES)
def test_numbers_that_do_not_fit_are_refused(case: str) -> None:
    """InvalidRequest before any memory is taken."""
    with pytest.raises(InvalidRequest):
        array_of(_LIES[case])


_TEXT_LIES: dict[str, wire.Tensor] = {
    "numbers": _tensor(wire.DT_FLOAT, 1, float_val=[0.0]),
    "nothing": _tensor(wire.DT_STRING, 1),
    "no rows": _tensor(wire.DT_STRING, 0, tensor_content=b"\1a"),
    "a negative size": _tensor(wire.DT_STRING, -1, tensor_content=b"\1a"),
    "a length beyond the end": _tensor(wire.DT_STRING, 1, tensor_content=b"\5a"),
    "bytes that are left": _tensor(wire.DT_STRING, 1, tensor_content=b"\1ab"),
    "a length without an end": _tensor(wire.DT_STRING, 1, tensor_content=b"\xff"),
    "a billion texts": _tensor(wire.DT_STRING, 2**30, tensor_content=b"\1a"),
}


@pytest.mark.parametrize("case", _TEXT_LIES)
def test_texts_that_do_not_fit_are_refused(case: str) -> None:
    """InvalidRequest, whatever the lengths say."""
    with pytest.raises(InvalidRequest):
        strings_of(_TEXT_LIES[case])


def test_texts_as_raw_bytes_are_read() -> None:
    """The lengths stand first, long ones in several bytes, and then the texts."""
    long = b"x" * 300
    content = b"\2" + b"\xac\2" + b"\0" + b"ab" + long

    found = strings_of(_tensor(wire.DT_STRING, 3, tensor_content=content))

    assert [b"ab", long, b""] == found
