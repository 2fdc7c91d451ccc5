"""Checks the key and the message of a call before its servicer gets the call.

grpcio gives each call a thread before the call's message has arrived, waits for the
message without a time limit, and reports a malformed message as the server's fault. The
message interceptor limits the time and reports the fault as the caller's. For this, it
serves a method with one request as a method with a stream of requests: on the wire both
are the same.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf.message import DecodeError

from inkling.errors import InvalidRequest, Unauthenticated
from inkling_serving.grpc_api.errors import end_with
from inkling_serving.runtime.poller import Repeating

if TYPE_CHECKING:
    from inkling_serving.security import ApiKeys

    _Handler = grpc.RpcMethodHandler[Any, Any]
    _Continuation = Callable[[grpc.HandlerCallDetails], _Handler | None]

__all__ = ["KeyInterceptor", "MessageInterceptor"]

_HEALTH = "/grpc.health.v1.Health/"
_LOOK_S = 0.5


class KeyInterceptor(grpc.ServerInterceptor):
    """Refuses a call without an API key; calls of the health service need no key."""

    def __init__(self, keys: ApiKeys) -> None:
        self._keys = keys

    def intercept_service(
        self, continuation: _Continuation, details: Any
    ) -> _Handler | None:
        """Return the handler of a call, or a handler that refuses the call."""
        if details.method.startswith(_HEALTH):
            return continuation(details)
        metadata = dict(details.invocation_metadata)
        try:
            self._keys.check(metadata.get("authorization"))
        except Unauthenticated as error:
            return _refusing(error)
        return continuation(details)


def _refusing(error: Unauthenticated) -> _Handler:
    def refuse(_: object, context: grpc.ServicerContext) -> None:
        end_with(context, error)

    # grpcio calls the handler of a stream at once, without waiting for a message.
    return grpc.stream_unary_rpc_method_handler(refuse)


class MessageInterceptor(grpc.ServerInterceptor):
    """Reads the messages of a call; limits the time for the message of a unary call."""

    def __init__(self, timeout_s: float) -> None:
        """Start the thread that ends calls whose message takes over `timeout_s`."""
        self._timeout_s = timeout_s
        # The calls that have not ended.
        self._open: set[grpc.ServicerContext] = set()
        # The calls that wait for their message, and when each is given up.
        self._waiting: dict[grpc.ServicerContext, float] = {}
        self._handlers: dict[str, _Handler] = {}
        self._reaper = Repeating(
            "ending calls whose message is late", self._end_late, lambda: _LOOK_S
        )

    @property
    def idle(self) -> bool:
        """Whether all calls have ended."""
        return not self._open

    def intercept_service(
        self, continuation: _Continuation, details: Any
    ) -> _Handler | None:
        """Return a handler that reads and checks the message."""
        method = details.method
        known = self._handlers.get(method)
        if known is not None:
            return known
        handler = continuation(details)
        if handler is None:
            return None
        # Only existing methods get here, so the dictionary cannot grow without limit.
        made = self._handlers[method] = self._reading(handler, method)
        return made

    def stop(self) -> None:
        """Stop the thread."""
        self._reaper.stop()

    def _reading(self, handler: Any, method: str) -> _Handler:
        parse = _parser(handler.request_deserializer, method)
        streaming = handler.request_streaming
        behaviour = handler.stream_stream or handler.unary_unary or handler.unary_stream

        def answer(bodies: Iterator[bytes], context: Any, *send: Any) -> Any:
            self._open.add(context)
            if not context.add_callback(lambda: self._open.discard(context)):
                self._open.discard(context)
            request: Any = map(parse, bodies)
            if not streaming:
                request = self._only(request, context)
            return behaviour(request, context, *send)

        # grpcio reads these attributes of the function. With the first, a health watch
        # occupies no thread; with the second, a method has its own threads.
        for name in ("experimental_non_blocking", "experimental_thread_pool"):
            if hasattr(behaviour, name):
                setattr(answer, name, getattr(behaviour, name))
        make = (
            grpc.stream_stream_rpc_method_handler
            if handler.response_streaming
            else grpc.stream_unary_rpc_method_handler
        )
        return make(answer, None, handler.response_serializer)

    def _only(self, requests: Iterator[Any], context: grpc.ServicerContext) -> Any:
        """Return the only request of a call, or end the call with an error."""
        self._waiting[context] = time.monotonic() + self._timeout_s
        try:
            return next(requests)
        except StopIteration:
            refusal = InvalidRequest("The call has 0 messages; send one message.")
        except InvalidRequest as error:
            refusal = error
        finally:
            self._waiting.pop(context, None)
        return end_with(context, refusal)

    def _end_late(self) -> None:
        now = time.monotonic()
        for context, give_up in list(self._waiting.items()):
            if now > give_up:
                context.cancel()


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
