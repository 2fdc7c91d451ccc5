# SPDX-License-Identifier: Apache-2.0
"""The settings of the capture, which are among those of the gateway."""

from __future__ import annotations

from dataclasses import dataclass

from inkling_serving.setting_fields import setting

__all__ = ["CaptureOptions"]

_GIB = 1024**3
_WEEK_S = 7 * 86400.0


@dataclass(frozen=True, kw_only=True)
class CaptureOptions:
    """The settings of the capture; `Settings` documents and checks them."""

    capture: str = setting(
        "", "directory for captured pictures and answers; without it none are captured"
    )
    capture_share: float = setting(
        0.1, "share of the requests that are captured, 0 to 1", 0, 1
    )
    capture_max_bytes: int = setting(
        _GIB,
        "most bytes of all captures on disk; the oldest are removed first",
        16 * 1024**2,
    )
    capture_max_age_s: float = setting(
        _WEEK_S, "seconds after which captures and feedback are removed", 10
    )
    capture_redaction: str = setting(
        "",
        "what each picture goes through before it is stored: MODULE:FUNCTION, which "
        "gets and returns bytes, or a command from its standard input to its output; "
        "a picture on which it fails is not stored",
    )
