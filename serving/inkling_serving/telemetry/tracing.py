# SPDX-License-Identifier: Apache-2.0
"""Traces of requests for an OpenTelemetry collector, over OTLP.

The spans are made after the answer, of the durations that are measured in any case. So
a request that is not traced costs one random number, and one that is traced costs its
caller nothing.
"""

from __future__ import annotations

import os
import random
import time
from typing import TYPE_CHECKING

from inkling.errors import MissingDependency
from inkling_serving.runtime.timings import PHASES, Timings

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import TracerProvider

    from inkling_serving.settings import Settings

__all__ = ["Tracing", "tracing_of"]

_NS = 1_000_000_000
# A collector that does not answer must not hold up the end of the gateway.
_EXPORT_TIMEOUT_S = 2
_SERVICE = "inkling-gateway"
_SAMPLED = 1


def tracing_of(settings: Settings) -> Tracing | None:
    """Return what traces the requests of this process; None without an endpoint.

    Raises:
        MissingDependency: OpenTelemetry is not installed.
    """
    if not settings.trace_endpoint:
        return None
    return Tracing(_provider(settings.trace_endpoint), settings.trace_share)


class Tracing:
    """Makes the spans of answered requests; several threads may use it."""

    def __init__(self, provider: TracerProvider, share: float) -> None:
        """Take the provider that exports, and the share of requests to trace."""
        from opentelemetry import trace  # noqa: PLC0415 - an extra

        self._trace = trace
        self._provider = provider
        self._tracer = provider.get_tracer("inkling_serving")
        self._share = share
        self._chance = random.Random()

    def tell(self, protocol: str, code: str, timings: Timings) -> None:
        """Trace a request, or pass it over; a traced one gets its trace id."""
        wanted = timings.is_traced
        if wanted is None:
            wanted = self._chance.random() < self._share
            timings.is_traced = wanted
        if wanted:
            self._spans(protocol, code, timings)

    def close(self) -> None:
        """Send the last spans."""
        self._provider.shutdown()

    def _spans(self, protocol: str, code: str, timings: Timings) -> None:
        trace = self._trace
        end = time.time_ns()
        start = end - int((time.perf_counter() - timings.started) * _NS)
        span = self._tracer.start_span(
            f"{protocol} {timings.model}".strip(),
            self._parent(timings),
            trace.SpanKind.SERVER,
            {
                "inkling.protocol": protocol,
                "inkling.code": code,
                "inkling.model": timings.model,
                "inkling.version": timings.version,
                "inkling.images": timings.images,
                "inkling.request_id": timings.request_id,
            },
            start_time=start,
        )
        if code == "internal":
            span.set_status(trace.StatusCode.ERROR)
        timings.trace_id = trace.format_trace_id(span.get_span_context().trace_id)
        inside = trace.set_span_in_context(span)
        for phase in PHASES:
            # They follow each other; only the phases of several images alternate.
            lasted = int(getattr(timings, phase) * _NS)
            if lasted:
                kind = trace.SpanKind.INTERNAL
                one = self._tracer.start_span(phase, inside, kind, start_time=start)
                start += lasted
                one.end(start)
        span.end(end)

    def _parent(self, timings: Timings) -> Context | None:
        """Return the caller's span; None where the trace begins here."""
        if not timings.parent_id:
            return None
        trace = self._trace
        caller = trace.SpanContext(
            int(timings.trace_id, 16),
            int(timings.parent_id, 16),
            is_remote=True,
            trace_flags=trace.TraceFlags(_SAMPLED),
        )
        parent: Context = trace.set_span_in_context(trace.NonRecordingSpan(caller))
        return parent


def _provider(endpoint: str) -> TracerProvider:
    try:
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import (  # noqa: PLC0415
            OTLPSpanExporter,
        )
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
        from opentelemetry.sdk.trace.sampling import ALWAYS_ON  # noqa: PLC0415
    except ModuleNotFoundError:
        raise MissingDependency("OpenTelemetry", "inkling-serving[tracing]") from None
    name = os.environ.get("OTEL_SERVICE_NAME", _SERVICE)
    # The gateway has decided already which requests are traced.
    provider = TracerProvider(
        ALWAYS_ON, Resource.create({"service.name": name}), shutdown_on_exit=False
    )
    exporter = OTLPSpanExporter(
        endpoint,
        insecure=not endpoint.startswith("https://"),
        timeout=_EXPORT_TIMEOUT_S,
    )
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return provider
