# SPDX-License-Identifier: Apache-2.0
"""The settings of the traces, which are among those of the gateway."""

from __future__ import annotations

from dataclasses import dataclass

from inkling_serving.setting_fields import setting

__all__ = ["TraceOptions"]


@dataclass(frozen=True, kw_only=True)
class TraceOptions:
    """The settings of the traces; `Settings` documents and checks them."""

    trace_endpoint: str = setting(
        "",
        "address of an OpenTelemetry collector (OTLP over gRPC) that gets traces, such "
        "as http://127.0.0.1:4317; needs inkling-serving[tracing]",
    )
    trace_share: float = setting(
        0.01,
        "share of the requests to trace, 0 to 1, where the caller does not decide",
        0,
        1,
    )
