# SPDX-License-Identifier: Apache-2.0
"""The users: they send over HTTP or gRPC, and check each answer."""

from __future__ import annotations

from locust import FastHttpUser, User, task  # isort: skip - it patches what follows

import itertools
from collections.abc import Sequence
from queue import SimpleQueue
from time import perf_counter
from typing import Any, ClassVar

import gevent
import grpc
from locust.exception import CatchResponseError

from inkling.gateway.channel import credentials
from inkling.network.proxies import grpc_proxy_options
from inkling.v1 import classifier_pb2 as pb
from inkling.v1.classifier_pb2_grpc import ClassifierStub
from inkling_loadtest.answers import verdicts
from inkling_loadtest.answers.references import Verdict, failed
from inkling_loadtest.load.requests import Body, PreparedRequest
from inkling_loadtest.locust_side.generator import LoadGenerator

__all__ = ["GrpcPictures", "HttpPictures"]

# The users of a process share so many gRPC connections, as an application's threads do.
# There are several, so that all processes of a gateway get load.
_NUM_CHANNELS = 8

_CHANNEL_OPTIONS: Sequence[tuple[str, object]] = (
    # Each channel has a connection of its own.
    ("grpc.use_local_subchannel_pool", 1),
    # A failure is counted, and not tried again.
    ("grpc.enable_retries", 0),
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # A proxy would be measured in place of the gateway.
    *grpc_proxy_options(None),
)


class HttpPictures(FastHttpUser):
    """Sends pictures in the forms that the HTTP API takes."""

    generator: ClassVar[LoadGenerator]
    # Locust would trust every server, and would not send the key to some.
    insecure = False

    def __init__(self, environment: Any) -> None:
        """Take Locust's environment."""
        connection = self.generator.connection
        self.network_timeout = self.connection_timeout = connection.timeout_s
        self.default_headers = dict(connection.headers)
        self.ssl_context_factory = connection.tls_context
        super().__init__(environment)

    @task
    def classify(self) -> None:
        """Send the next request when it is due."""
        generator = self.generator
        with generator.next_request() as (request, arrival):
            body, sent_s = request.payload, perf_counter()
            with self.client.post(
                generator.path,
                name=request.kind,
                data=body.content,
                headers=body.headers,
                # The key stays with the gateway.
                allow_redirects=False,
                catch_response=True,
            ) as response:
                verdict = self._verdict(request, response)
                latency_ms = generator.record(request, arrival, sent_s, verdict)
                response.request_meta["response_time"] = latency_ms
                error = _error(verdict)
                response.failure(error) if error else response.success()

    def _verdict(self, request: PreparedRequest[Body], response: Any) -> Verdict:
        if not response.status_code:
            return verdicts.of_http_error(response.error)
        references = self.generator.references
        content = bytes(response.content or b"")
        return verdicts.of_http(
            references, request.pictures, response.status_code, content
        )


class GrpcPictures(User):
    """Sends pictures through the client library's stub: calls, batches and a stream."""

    generator: ClassVar[LoadGenerator]
    _channels: ClassVar[list[grpc.Channel]] = []
    _places: ClassVar[itertools.count[int]] = itertools.count()

    def __init__(self, environment: Any) -> None:
        """Take Locust's environment."""
        super().__init__(environment)
        place = next(self._places)
        if place < _NUM_CHANNELS:
            self._channels.append(self._opened(place))
        channel = self._channels[place % _NUM_CHANNELS]
        self._metadata = list(self.generator.connection.headers.items())
        self._stub = ClassifierStub(channel)  # type: ignore[no-untyped-call]
        self._stream: _Stream | None = None

    @task
    def classify(self) -> None:
        """Send the next request when it is due."""
        generator = self.generator
        with generator.next_request() as (request, arrival):
            sent_s = perf_counter()
            verdict = self._ask(request)
            latency_ms = generator.record(request, arrival, sent_s, verdict)
        self.environment.events.request.fire(
            request_type="gRPC",
            name=request.kind,
            response_time=latency_ms,
            response_length=0,
            exception=_error(verdict),
            context={},
        )

    def on_stop(self) -> None:
        """Close the stream."""
        if self._stream:
            self._stream.close()

    def _opened(self, place: int) -> grpc.Channel:
        connection = self.generator.connection
        secret, target = credentials(connection), connection.address.grpc_target
        # gRPC would take channels with equal options for one.
        options = [*_CHANNEL_OPTIONS, ("inkling.loadtest.channel", place)]
        if secret is None:
            return grpc.insecure_channel(target, options)
        return grpc.secure_channel(target, secret, options)

    def _ask(self, request: PreparedRequest[pb.ClassifyRequest]) -> Verdict:
        try:
            if request.kind == "stream":
                return self._ask_in_stream(request)
            timeout_s = self.generator.connection.timeout_s
            response = self._stub.Classify(
                request.payload, timeout=timeout_s, metadata=self._metadata
            )
            references = self.generator.references
            return verdicts.of_unary(references, request.pictures, response)
        except grpc.RpcError as error:
            self._stream = None
            return verdicts.of_rpc_error(error)  # type: ignore[arg-type]

    def _ask_in_stream(self, request: PreparedRequest[pb.ClassifyRequest]) -> Verdict:
        """Ask in this user's stream, which stays open from one request to the next."""
        self._stream = self._stream or _Stream(self._stub, self._metadata)
        asked = self._stream.ask(request.payload)
        with gevent.Timeout(self.generator.connection.timeout_s, False):
            answer = self._stream.answer()
            if answer is None:
                self._stream = None
                return failed("the stream ended")
            references = self.generator.references
            return verdicts.of_stream(references, request.pictures, asked, answer)
        self._stream.close()
        self._stream = None
        return failed("timed out")


class _Stream:
    """A `ClassifyStream` with one request under way at a time."""

    def __init__(self, stub: Any, metadata: Sequence[tuple[str, str]]) -> None:
        self._requests: SimpleQueue[pb.ClassifyStreamRequest | None] = SimpleQueue()
        self._ids = itertools.count()
        requests = iter(self._requests.get, None)
        self._answers = stub.ClassifyStream(requests, metadata=metadata)

    def ask(self, request: pb.ClassifyRequest) -> str:
        """Send a request; return the id by which its answer is known."""
        asked = str(next(self._ids))
        self._requests.put(pb.ClassifyStreamRequest(id=asked, request=request))
        return asked

    def answer(self) -> pb.ClassifyStreamResponse | None:
        """Wait for the next answer; None at the end of the stream."""
        return next(self._answers, None)

    def close(self) -> None:
        """Let the stream come to its end."""
        self._requests.put(None)
        self._answers.cancel()


def _error(verdict: Verdict) -> Exception | None:
    """Return the error for Locust's own tables; None for a right answer."""
    if verdict.outcome == "right":
        return None
    return CatchResponseError(f"{verdict.outcome}: {verdict.reason}")
