"""The users: one sends over HTTP, one over gRPC; each checks what it is answered."""

from __future__ import annotations

from locust import FastHttpUser, User, task  # isort: skip - it patches what follows

import itertools
from queue import SimpleQueue
from time import perf_counter
from typing import Any, ClassVar

import gevent
import grpc
from locust.exception import CatchResponseError

from inkling.v1 import classifier_pb2 as pb
from inkling.v1.classifier_pb2_grpc import ClassifierStub
from inkling_loadtest.answers import verdicts
from inkling_loadtest.answers.references import Verdict, failed
from inkling_loadtest.gateway import CHANNEL_OPTIONS
from inkling_loadtest.load.requests import Body, Shot
from inkling_loadtest.locust_side.generator import Session

__all__ = ["GrpcPictures", "HttpPictures"]

# Connections of a process. They are shared by its users, as an application's are; more
# than one, so that a gateway of several processes is loaded evenly.
_NUM_CHANNELS = 8


class HttpPictures(FastHttpUser):
    """Sends pictures in the forms that the HTTP API takes."""

    session: ClassVar[Session]

    def __init__(self, environment: Any) -> None:
        """Take Locust's environment."""
        timeout_s = self.session.options.timeout_s
        self.network_timeout = self.connection_timeout = timeout_s
        super().__init__(environment)

    @task
    def classify(self) -> None:
        """Send the next request when it is due."""
        session = self.session
        with session.shot() as (shot, ticket):
            body, sent_s = shot.payload, perf_counter()
            with self.client.post(
                session.path,
                name=shot.kind,
                data=body.content,
                headers=body.headers,
                catch_response=True,
            ) as response:
                verdict = self._verdict(shot, response)
                latency_ms = session.record(shot, ticket, sent_s, verdict)
                response.request_meta["response_time"] = latency_ms
                error = _error(verdict)
                response.failure(error) if error else response.success()

    def _verdict(self, shot: Shot[Body], response: Any) -> Verdict:
        if not response.status_code:
            return verdicts.of_http_error(response.error)
        references = self.session.references
        content = bytes(response.content or b"")
        return verdicts.of_http(
            references, shot.pictures, response.status_code, content
        )


class GrpcPictures(User):
    """Sends pictures through the client library's stub: calls, batches and a stream."""

    session: ClassVar[Session]
    _channels: ClassVar[list[grpc.Channel]] = []
    _places: ClassVar[itertools.count[int]] = itertools.count()

    def __init__(self, environment: Any) -> None:
        """Take Locust's environment."""
        super().__init__(environment)
        place = next(self._places)
        if place < _NUM_CHANNELS:
            options = [*CHANNEL_OPTIONS, ("inkling.gateway.channel", place)]
            address = self.session.options.address
            self._channels.append(grpc.insecure_channel(address, options))
        channel = self._channels[place % _NUM_CHANNELS]
        self._stub = ClassifierStub(channel)  # type: ignore[no-untyped-call]
        self._stream: _Stream | None = None

    @task
    def classify(self) -> None:
        """Send the next request when it is due."""
        session = self.session
        with session.shot() as (shot, ticket):
            sent_s = perf_counter()
            verdict = self._ask(shot)
            latency_ms = session.record(shot, ticket, sent_s, verdict)
        self.environment.events.request.fire(
            request_type="gRPC",
            name=shot.kind,
            response_time=latency_ms,
            response_length=0,
            exception=_error(verdict),
            context={},
        )

    def on_stop(self) -> None:
        """Close the stream."""
        if self._stream:
            self._stream.close()

    def _ask(self, shot: Shot[pb.ClassifyRequest]) -> Verdict:
        try:
            if shot.kind == "stream":
                return self._ask_in_stream(shot)
            timeout_s = self.session.options.timeout_s
            response = self._stub.Classify(shot.payload, timeout=timeout_s)
            return verdicts.of_unary(self.session.references, shot.pictures, response)
        except grpc.RpcError as error:
            self._stream = None
            return verdicts.of_rpc_error(error)  # type: ignore[arg-type]

    def _ask_in_stream(self, shot: Shot[pb.ClassifyRequest]) -> Verdict:
        """Ask in this user's stream, which stays open from one request to the next."""
        self._stream = self._stream or _Stream(self._stub)
        asked = self._stream.ask(shot.payload)
        with gevent.Timeout(self.session.options.timeout_s, False):
            answer = self._stream.answer()
            if answer is None:
                self._stream = None
                return failed("the stream ended")
            references = self.session.references
            return verdicts.of_stream(references, shot.pictures, asked, answer)
        self._stream.close()
        self._stream = None
        return failed("timed out")


class _Stream:
    """A `ClassifyStream` with one request under way at a time."""

    def __init__(self, stub: Any) -> None:
        self._requests: SimpleQueue[pb.ClassifyStreamRequest | None] = SimpleQueue()
        self._ids = itertools.count()
        self._answers = stub.ClassifyStream(iter(self._requests.get, None))

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
    """Return what Locust's own tables show of a verdict; None where it is right."""
    if verdict.outcome == "right":
        return None
    return CatchResponseError(f"{verdict.outcome}: {verdict.reason}")
