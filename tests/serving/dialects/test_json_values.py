# SPDX-License-Identifier: Apache-2.0
"""Numbers in nested lists of JSON become arrays, part by part, within limits."""

from __future__ import annotations

from typing import Any

import numpy as np
import orjson
import pytest

from inkling.errors import InvalidRequest, TooLarge
from inkling_serving.dialects.json_values import array_of, document_of


@pytest.mark.parametrize(
    "shape", [(), (0,), (1, 0), (3,), (2, 3), (1, 4, 3), (2, 1, 2, 1), (1,) * 8]
)
@pytest.mark.parametrize("dtype", [np.float64, np.int64])
def test_lists_are_the_array_that_they_show(shape: tuple[int, ...], dtype: Any) -> None:
    """The parts have the place and the type that NumPy gives the whole."""
    wanted = np.arange(np.prod(shape), dtype=dtype).reshape(shape)
    found = array_of(wanted.tolist(), "it")

    np.testing.assert_array_equal(wanted, found)
    assert found.dtype == np.asarray(wanted.tolist()).dtype


def test_whole_numbers_and_others_are_one_type() -> None:
    """A row of whole numbers beside a row of others is no reason to refuse."""
    np.testing.assert_array_equal(
        [[1, 2], [0.5, 3]], array_of([[1, 2], [0.5, 3]], "it")
    )


@pytest.mark.parametrize(
    "nested",
    [[[1], [2, 3]], [[1], 2], [1, [2]], [[1], []], [[[1], [2]], [[1]]], [[1], [[2]]]],
    ids=str,
)
def test_other_lengths_are_refused(nested: Any) -> None:
    """Also where each part for itself is an array."""
    with pytest.raises(InvalidRequest, match="different lengths or depths"):
        array_of(nested, "it")


@pytest.mark.parametrize(
    "nested", [[["a"], [1]], [[None], [1]], [[{}], [1]], [[2**70], [1]], "1"], ids=str
)
def test_values_that_are_no_numbers_are_refused(nested: Any) -> None:
    """Whichever part they are in."""
    with pytest.raises(InvalidRequest, match="not numbers"):
        array_of(nested, "it")


@pytest.mark.parametrize(("count", "holds"), [(1_048_000, True), (1_049_000, False)])
def test_elements_are_counted_before_they_are_parsed(count: int, holds: bool) -> None:
    """1,048,576 elements are the limit, because the parser stops all other requests."""
    body = orjson.dumps({"instances": [0] * count})
    if holds:
        assert count == len(document_of(body, "{}")["instances"])
        return
    with pytest.raises(TooLarge, match="1,048,576 elements"):
        document_of(body, "{}")
