# SPDX-License-Identifier: Apache-2.0
"""Two engines behind one gateway process: how much the second one adds."""

from __future__ import annotations

from statistics import median

import pytest

from benchmarks.replicas import Load, measure
from tests.support.machine import TooSlow


@pytest.mark.parametrize(
    "load",
    [
        Load(rounds=1, seconds=1.0),
        pytest.param(Load(), marks=pytest.mark.soak),
    ],
    ids=["short", "long"],
)
def test_a_second_engine_adds_its_share(load: Load) -> None:
    """Two engines give 1.7 times the answers of one, and neither idles or gets more."""
    one, two = measure(load)
    ratio = median(b.rate / a.rate for a, b in zip(one, two, strict=True))

    print(f"{ratio:.2f} times", *one, *two, sep="\n")
    for both in two:
        assert all(0.4 <= share <= 0.6 for share in both.shares), both
    if ratio < 1.7 or any(min(both.busy) < 0.7 for both in two):
        raise TooSlow(f"{ratio:.2f} times; {two}")
