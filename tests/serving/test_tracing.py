# SPDX-License-Identifier: Apache-2.0
"""Traces over OTLP, received with OpenTelemetry's own messages."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as wire
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as service
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from inkling.v1 import classifier_pb2 as pb
from inkling.v1.classifier_pb2_grpc import ClassifierStub
from inkling_serving.runtime.timings import PHASES, Timings
from tests.support.gateway_process import GatewayProcess, serving
from tests.support.machine import free_port

_TRACE, _SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
_ASKED = {"traceparent": f"00-{_TRACE}-{_SPAN}-01"}
_NOT_ASKED = {"traceparent": f"00-{_TRACE[::-1]}-{_SPAN}-00"}
_CLASSIFY = "/v1/models/mlp:classify"


@dataclass
class Receiver(service.TraceServiceServicer):
    """A collector of OpenTelemetry that keeps the spans."""

    spans: list[Any] = field(default_factory=list)
    resources: list[Any] = field(default_factory=list)

    def Export(self, request: Any, context: grpc.ServicerContext) -> Any:
        """Take spans."""
        del context
        for one in request.resource_spans:
            self.resources.append(one.resource)
            for scope in one.scope_spans:
                self.spans += scope.spans
        return wire.ExportTraceServiceResponse()

    def of(self, trace_id: str) -> dict[str, Any]:
        """Return the spans of a trace by their names."""
        found = [s for s in self.spans if s.trace_id.hex() == trace_id]
        return {span.name: span for span in found}


@contextmanager
def _receiving() -> Iterator[tuple[Receiver, str]]:
    receiver, server = Receiver(), grpc.server(ThreadPoolExecutor(2))
    service.add_TraceServiceServicer_to_server(receiver, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield receiver, f"http://127.0.0.1:{port}"
    finally:
        server.stop(None)


def _log_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_spans_logs_and_exemplars_are_of_one_trace(
    published: Path, picture: bytes, tmp_path: Path
) -> None:
    """HTTP and gRPC go into the caller's trace; one that asks for no trace has none."""
    log = tmp_path / "log"
    flags = ["--trace-share", "0", "--log-format", "json", "--access-log", "1"]
    with _receiving() as (receiver, endpoint):
        flags += ["--trace-endpoint", endpoint]
        with serving(published, *flags, log=log) as gateway:
            assert 200 == _asked(gateway, picture, _NOT_ASKED)
            assert 200 == _asked(gateway, picture, _ASKED)
            _call(gateway, picture)
            accept = {"Accept": "application/openmetrics-text; version=1.0.0"}
            page = gateway.request("GET", "/metrics", None, accept)
        # The gateway has ended, and sent its last spans before.
        assert 1 == len({span.trace_id for span in receiver.spans})

    spans = receiver.of(_TRACE)
    whole, engine = spans["http mlp"], spans["engine"]
    assert _SPAN == whole.parent_span_id.hex() == spans["grpc mlp"].parent_span_id.hex()
    inner = [s for s in receiver.spans if s.parent_span_id == whole.span_id]
    assert {"decode", "preprocess", "engine"} <= {s.name for s in inner} <= {*PHASES}
    assert whole.start_time_unix_nano <= engine.start_time_unix_nano
    told = {one.key: one.value for one in whole.attributes}
    assert ("mlp", "ok") == (
        told["inkling.model"].string_value,
        told["inkling.code"].string_value,
    )
    [name] = {
        one.value.string_value
        for resource in receiver.resources
        for one in resource.attributes
        if one.key == "service.name"
    }
    assert "inkling-gateway" == name
    traced = [line["trace_id"] for line in _log_lines(log) if "trace_id" in line]
    assert [_TRACE[::-1], _TRACE, _TRACE] == traced
    assert _TRACE in _exemplars(page.body.decode())
    assert _TRACE[::-1] not in _exemplars(page.body.decode())


def _asked(gateway: GatewayProcess, picture: bytes, headers: dict[str, str]) -> int:
    return gateway.request("POST", _CLASSIFY, picture, headers).status


def _call(gateway: GatewayProcess, picture: bytes) -> None:
    with grpc.insecure_channel(gateway.grpc_target) as channel:
        stub = ClassifierStub(channel)  # type: ignore[no-untyped-call]
        request = pb.ClassifyRequest(model="mlp", images=[picture])
        stub.Classify(request, metadata=tuple(_ASKED.items()))


def _exemplars(page: str) -> set[str]:
    return {
        sample.exemplar.labels["trace_id"]
        for family in text_string_to_metric_families(page)
        for sample in family.samples
        if sample.exemplar
    }


def test_a_collector_that_is_not_there_costs_no_request(
    published: Path, picture: bytes, tmp_path: Path
) -> None:
    """All are answered, and the gateway ends in order."""
    endpoint = f"http://127.0.0.1:{free_port()}"
    flags = ("--trace-share", "1", "--trace-endpoint", endpoint)
    with serving(published, *flags, log=tmp_path / "log") as gateway:
        assert {200} == {_asked(gateway, picture, {}) for _ in range(20)}


@pytest.mark.parametrize(
    "header",
    [
        "",
        "00",
        f"00-{'0' * 32}-{_SPAN}-01",
        f"00-{_TRACE}-{'0' * 16}-01",
        f"ff-{_TRACE}-{_SPAN}-01",
        f"00-{_TRACE.upper()}-{_SPAN}-01",
        f"00-{_TRACE}-{_SPAN}-01\n",
    ],
)
def test_a_malformed_header_is_none(header: str) -> None:
    """As the standard demands, it neither refuses the request nor joins a trace."""
    timings = Timings()
    timings.follow(header)

    assert ("", "", None) == (timings.trace_id, timings.parent_id, timings.is_traced)


def test_a_header_of_a_later_version_is_understood() -> None:
    """More fields may follow in later versions."""
    timings = Timings()
    timings.follow(f"01-{_TRACE}-{_SPAN}-01-more")

    assert (_TRACE, True) == (timings.trace_id, timings.is_traced)
