# SPDX-License-Identifier: Apache-2.0
"""Checks the key and the message of a call before its servicer gets the call.

grpcio gives each call a thread before the call's message has arrived, waits for the
message without a time limit, and reports a malformed message as the server's fault. The
message interceptor limits the time and reports the fault as the caller's. For this, it
serves a method with one request as a method with a stream of requests: on the wire both
are the same. grpcio would also inflate all messages at once that came compressed; the
interceptor inflates them, and counts the bytes meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, nullcontext, suppress
from threading import Lock
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf.message import DecodeError

from inkling.errors import InklingError, InvalidRequest
from inkling_serving.client_address import client_of_peer
from inkling_serving.grpc_api.compressed import as_written, is_compressed
from inkling_serving.grpc_api.errors import end_with, foreseen
from inkling_serving.grpc_api.open_calls import CallThreads, OpenCalls, Places
from inkling_serving.grpc_api.roles import role_of
from inkling_serving.runtime.thread_pool import too_many

if TYPE_CHECKING:
    from inkling_serving.keys import ApiKeys
    from inkling_serving.runtime.held_bytes import HeldBytes, Holding

    _Handler = grpc.RpcMethodHandler[Any, Any]
    _Continuation = Callable[[grpc.HandlerCallDetails], _Handler | None]

__all__ = ["KeyInterceptor", "MessageInterceptor"]

_HEALTH = "/grpc.health.v1.Health/"
# The most open calls of a process, without those of the health service. Each call has a
# thread, which is idle while the call waits for its message, for the thread pool, or
# for the next request of its stream.
_MAX_CALLS = 256
# Health checks need no key, so they have places of their own. Their message is short,
# and comes with the head of the call.
_CHECKS_AT_ONCE, _MAX_CHECKS, _CHECK_TIMEOUT_S = 64, 128, 2.0
# A longer message, or a compressed one, is read while no other one is: each takes the
# interpreter's lock for some milliseconds, and short calls would wait for all of them.
_LONG_BYTES = 512 * 1024
# Refusing a call takes no time, so a few threads do.
_REFUSING_THREADS = 2


class KeyInterceptor(grpc.ServerInterceptor):
    """Refuses a call without an API key that has the role of its method."""

    def __init__(self, keys: ApiKeys) -> None:
        self._keys = keys
        self._threads = CallThreads(_REFUSING_THREADS, "inkling-grpc-refusing")

    def intercept_service(
        self, continuation: _Continuation, details: Any
    ) -> _Handler | None:
        """Return the handler of a call, or a handler that refuses the call."""
        role = role_of(details.method)
        if role is None:
            return continuation(details)
        metadata = dict(details.invocation_metadata)
        try:
            self._keys.check(metadata.get("authorization"), role)
        except InklingError as error:
            return _refusing(error, self._threads)
        return continuation(details)


def _refusing(error: InklingError, threads: CallThreads) -> _Handler:
    def refuse(_: object, context: grpc.ServicerContext) -> None:
        end_with(context, error)

    # grpcio looks for this: a refused call takes no place of another call.
    refuse.experimental_thread_pool = threads  # type: ignore[attr-defined]
    # grpcio calls the handler of a stream at once, without waiting for a message.
    return grpc.stream_unary_rpc_method_handler(refuse)


class MessageInterceptor(grpc.ServerInterceptor):
    """Reads the messages of calls, within limits in time, number and memory.

    Attributes:
        calls: The places of all calls but those of the health service.
    """

    def __init__(self, timeout_s: float, held: HeldBytes, max_bytes: int) -> None:
        """Create the interceptor.

        Args:
            timeout_s: The seconds in which the message of a unary call must arrive.
            held: Counts the bytes of all requests of the process.
            max_bytes: The most bytes of a message.
        """
        self._held = held
        self._max_bytes = max_bytes
        self.calls = Places("inkling-grpc", _MAX_CALLS, _MAX_CALLS, timeout_s)
        self._checks = Places(
            "inkling-grpc-health",
            _CHECKS_AT_ONCE,
            _MAX_CHECKS,
            min(timeout_s, _CHECK_TIMEOUT_S),
        )
        self._refusing_threads = CallThreads(
            _REFUSING_THREADS, "inkling-grpc-overloaded"
        )
        self._open = OpenCalls([self.calls, self._checks], held, max_bytes)
        self._handlers: dict[str, _Handler] = {}
        self._one_long = Lock()

    @property
    def idle(self) -> bool:
        """Whether all calls have ended."""
        return self._open.idle

    def intercept_service(
        self, continuation: _Continuation, details: Any
    ) -> _Handler | None:
        """Return a handler that reads and checks the message."""
        method = details.method
        places = self._checks if method.startswith(_HEALTH) else self.calls
        handler = self._handlers.get(method)
        if handler is None:
            found = continuation(details)
            if found is None:
                return None
            # Only existing methods get here, so the dictionary cannot grow without
            # limit.
            handler = self._handlers[method] = self._reading(found, method, places)
        if not places.take():
            return _refusing(too_many(places.threads.open), self._refusing_threads)
        return handler

    def stop(self) -> None:
        """Stop the threads."""
        self._open.stop()

    def _reading(self, handler: Any, method: str, places: Places) -> _Handler:
        parse = _parser(handler.request_deserializer, method)
        behaviour = handler.stream_stream or handler.unary_unary or handler.unary_stream

        def answer(bodies: Iterator[bytes], context: Any, *send: Any) -> Any:
            self._open.begin(context)
            if handler.request_streaming:
                requests = self._requests(bodies, context, parse)
                return self._responses(behaviour(requests, context, *send), context)
            holding = self._holding(context)
            try:
                request = self._only(bodies, context, places, parse, holding)
                return behaviour(request, context, *send)
            finally:
                holding.release()
                places.leave(context)
                if not send:
                    self._open.taking(context)

        # grpcio reads these attributes of the function. With the first, a health watch
        # occupies no thread; with the second, a method has its own threads.
        if hasattr(behaviour, "experimental_non_blocking"):
            answer.experimental_non_blocking = True  # type: ignore[attr-defined]
        answer.experimental_thread_pool = places.threads  # type: ignore[attr-defined]
        make = (
            grpc.stream_stream_rpc_method_handler
            if handler.response_streaming
            else grpc.stream_unary_rpc_method_handler
        )
        return make(answer, None, handler.response_serializer)

    def _holding(self, context: Any) -> Holding:
        shares = self._held.has_shares
        return self._held.arriving(
            owner=client_of_peer(context.peer()) if shares else ""
        )

    def _only(
        self,
        bodies: Iterator[bytes],
        context: Any,
        places: Places,
        parse: Callable[[bytes], Any],
        holding: Holding,
    ) -> Any:
        """Return the only request of a call, or end the call with an error."""
        places.wait(context)
        try:
            if places is self.calls:
                self._open.receiving.begin(context)
            body = next(bodies, None)
            places.wait_no_more(context)
            if body is None:
                raise InvalidRequest("The call has 0 messages; send one message.")
            return self._parsed(body, parse, holding)
        except grpc.RpcError as error:
            _cut_loose(error)
            context.abort(grpc.StatusCode.CANCELLED, "The caller has left.")
        except InklingError as error:
            refusal = foreseen(error)
        finally:
            places.wait_no_more(context)
            self._open.receiving.end(context)
        return end_with(context, refusal)

    def _whole(self, body: bytes, holding: Holding) -> bytes:
        """Return a message as its client wrote it, and count its bytes.

        While it is parsed, the process holds it twice.
        """
        holding.add(2 * len(body))
        whole = as_written(body, self._max_bytes, holding)
        holding.complete()
        return whole

    def _parsed(
        self, body: bytes, parse: Callable[[bytes], Any], holding: Holding
    ) -> Any:
        is_long = len(body) > _LONG_BYTES or is_compressed(body)
        with self._one_long if is_long else nullcontext():
            return parse(self._whole(body, holding))

    def _requests(
        self, bodies: Iterator[bytes], context: Any, parse: Callable[[bytes], Any]
    ) -> Iterator[Any]:
        while True:
            try:
                body = self._open.next_message(context, lambda: next(bodies))
            except StopIteration:
                return
            except grpc.RpcError as error:
                _cut_loose(error)
                raise _CallerLeft from None
            holding = self._holding(context)
            try:
                request = self._parsed(body, parse, holding)
            finally:
                holding.release()
            del body
            yield request
            del request

    def _responses(self, responses: Any, context: Any) -> Iterator[Any]:
        """Yield the responses of a stream; note how long its client takes one."""
        with closing(responses), suppress(_CallerLeft):
            for response in responses:
                self._open.taking(context)
                yield response
                self._open.taken(context)


class _CallerLeft(grpc.RpcError):
    """The caller of a stream has left."""


def _cut_loose(error: grpc.RpcError) -> None:
    """Take an error of grpcio out of a cycle with the call, and with its message.

    grpcio keeps the error in the call, and the traceback keeps the call.
    """
    error.__traceback__ = None


def _parser(parse: Callable[[bytes], Any], method: str) -> Callable[[bytes], Any]:
    def parsed(body: bytes) -> Any:
        try:
            return parse(body)
        except DecodeError:
            raise InvalidRequest(
                f"The message is not a request of {method}; generate the client from "
                "the server's .proto file."
            ) from None

    return parsed
