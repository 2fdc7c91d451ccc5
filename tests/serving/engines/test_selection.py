# SPDX-License-Identifier: Apache-2.0
"""The selection of a version, which both engines share."""

from __future__ import annotations

import pytest

from inkling.errors import InklingError, ModelNotFound, NotReady
from inkling_serving.engines.selection import Wanted, selected

_LABELS = {"stable": 2, "canary": 3, "old": 1, "gone": 7}


@pytest.mark.parametrize(
    ("wanted", "labels", "expected"),
    [
        (Wanted("m"), {}, 3),
        (Wanted("m"), _LABELS, 2),
        (Wanted("m", 3), _LABELS, 3),
        (Wanted("m", version_label="canary"), _LABELS, 3),
        (Wanted("m", 1), _LABELS, NotReady),
        (Wanted("m", 7), _LABELS, ModelNotFound),
        (Wanted("m", version_label="old"), _LABELS, NotReady),
        (Wanted("m", version_label="gone"), _LABELS, NotReady),
        (Wanted("m", version_label="nothing"), _LABELS, ModelNotFound),
        (Wanted("m"), {"stable": 1}, NotReady),
        (Wanted("m"), {"stable": 7}, NotReady),
    ],
)
def test_a_label_waits_for_its_version(
    wanted: Wanted, labels: dict[str, int], expected: int | type[InklingError]
) -> None:
    """Versions 2 and 3 answer, 1 is broken, 7 is gone: only a number is `not found`."""
    loaded = {2: 2, 3: 3}
    if isinstance(expected, int):
        assert selected(wanted, loaded, {1}, labels) == expected
    else:
        with pytest.raises(expected):
            selected(wanted, loaded, {1}, labels)


def test_nothing_is_loaded() -> None:
    """A model without a version that can answer is not ready."""
    with pytest.raises(NotReady):
        selected(Wanted("m"), {}, (), {})
