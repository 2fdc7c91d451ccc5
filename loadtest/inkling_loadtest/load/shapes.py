# SPDX-License-Identifier: Apache-2.0
"""The shapes of a load: the stages that it goes through."""

from __future__ import annotations

import math

from inkling_loadtest.load.arrivals import Stage
from inkling_loadtest.options import Options

__all__ = ["stages", "window_s"]

_SPIKE = 5.0
_RAMP_FROM = 0.1
# A chart has at most so many points, and a soak of a day fits into memory.
_MAX_WINDOWS = 600


def stages(options: Options) -> list[Stage]:
    """Return the stages of a shape; of a search for capacity only the first."""
    is_open = options.is_open
    level = options.rate if options.rate is not None else float(options.users)
    warmup = Stage("warm-up", options.warmup_s, level, level, is_open, measured=False)
    if options.shape == "ramp":
        low = level * _RAMP_FROM if is_open else 1.0
        warmup = Stage("warm-up", options.warmup_s, low, low, is_open, measured=False)
        plan = [Stage("ramp", options.seconds, low, level, is_open)]
    elif options.shape == "spike":
        third, high = options.seconds / 3, options.peak or level * _SPIKE
        plan = [
            Stage("before", third, level, level, is_open),
            Stage("spike", third, high, high, is_open),
            Stage("after", third, level, level, is_open),
        ]
    else:
        plan = [Stage(options.shape, options.seconds, level, level, is_open)]
    return [stage for stage in (warmup, *plan) if stage.seconds > 0]


def window_s(options: Options) -> float:
    """Return the length of a window in whole seconds."""
    return float(max(1, math.ceil(options.seconds / _MAX_WINDOWS)))
