# SPDX-License-Identifier: Apache-2.0
"""The ASGI application: it reads bodies within limits, and passes the requests on.

A request with pictures goes to its handler directly: on the event loop where it takes
less time than the hand-over to a thread, else in the thread pool. Flask answers all
other requests in threads: `:explain` in the thread pool, and requests that only read
the gateway's state in two other threads, so that probes never wait for pictures.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Mapping, MutableMapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from functools import partial
from http import HTTPStatus
from time import perf_counter
from typing import TYPE_CHECKING, Any

from werkzeug.test import create_environ, run_wsgi_app

from inkling.errors import InklingError, InvalidRequest, TooLarge
from inkling.image.budget import TakesLonger
from inkling_serving.client_address import client_of
from inkling_serving.http_api.cors import Cors
from inkling_serving.http_api.flask_app import REQUEST_KEY, create_app
from inkling_serving.http_api.handlers import Handlers
from inkling_serving.http_api.messages import Request, Response
from inkling_serving.http_api.protocol import IS_HERE, UNDER_WAY
from inkling_serving.http_api.read_body import ClientGone, client_left, read_body
from inkling_serving.http_api.routes import admit, direct
from inkling_serving.runtime.thread_pool import ThreadPool, too_many

if TYPE_CHECKING:
    from inkling_serving.runtime.held_bytes import HeldBytes, Holding
    from inkling_serving.settings import Settings

__all__ = ["AsgiApp"]

_Message = MutableMapping[str, Any]
# With more requests than these that have arrived and are not answered, the process
# refuses a quick classification: at a third of a millisecond each, the last of 512
# requests waits for about 150 ms.
_MAX_UNDER_WAY = 512
# The threads for requests that only read the gateway's state, and the length of their
# queue.
_STATUS_THREADS, _STATUS_QUEUE = 2, 128
# Flask builds no URLs here, so the environment does not need the caller's Host header.
_ENVIRON = create_environ()
# An answer that takes longer than these seconds may be one that waits in the queue.
_LONGER_S = 0.05
# The bytes of an answer that are written at a time. Before the next ones, uvicorn waits
# until the client has taken most of them; a whole TFLite file would be copied for each
# client, and a slow one could not take it in the time that it has.
_PIECE_BYTES = 256 * 1024
# The host of RFC 3986 and the port of RFC 9110; the host may be empty.
_HOST = re.compile(rb"(?:[A-Za-z0-9._~!$&'()*+,;=%-]*|\[[0-9A-Fa-f:.]+\])(?::[0-9]*)?")


class AsgiApp:
    """The ASGI application of one gateway process."""

    def __init__(
        self,
        handlers: Handlers,
        pool: ThreadPool,
        held: HeldBytes,
        settings: Settings,
        lifespan: Callable[[], AbstractAsyncContextManager[None]],
    ) -> None:
        """Create the application.

        Args:
            handlers: The handlers that answer the requests.
            pool: The threads for requests that take long.
            held: Counts the bytes of all bodies of the process.
            settings: The settings; the limits on bodies come from them.
            lifespan: Makes the context that is entered before the first request and
                left after the last one.
        """
        self._handlers = handlers
        self._pool = pool
        self._held = held
        self._status_pool = ThreadPool(_STATUS_THREADS, _STATUS_QUEUE)
        self._max_body_bytes = settings.max_body_bytes
        self._body_timeout_s = settings.body_timeout_s
        self._running = lifespan
        self._cors = Cors(settings)
        self._flask = create_app(settings, handlers)

    async def __call__(
        self, scope: _Message, receive: Callable[[], Any], send: Callable[..., Any]
    ) -> None:
        """Answer one request, or start and stop with the server."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return
        request, state = _request(scope), scope.get("state", {})
        is_here, holding = state.get(IS_HERE, False), self._holding(scope)
        try:
            _check_host(scope["headers"], scope["http_version"])
            response = self._cors.preflight(request)
            if response is None:
                admit(self._handlers, request)
                await self._receive(request, receive, holding, is_here)
                is_here = True
                under_way = state.get(UNDER_WAY, 0)
                response = await self._answer(request, receive, under_way, holding)
        except ClientGone:
            return
        except InklingError as error:
            is_here = is_here and not isinstance(error, TooLarge)
            response = self._handlers.refuse(error, request)
        finally:
            # The traceback of an error can keep the request for a long time.
            request.body = b""
            holding.release()
        # The server must not read the rest of an unread body as the next request.
        extra = {} if is_here else {"connection": "close"}
        extra |= self._cors.headers(request)
        await _send(response, request.method, send, extra)

    def _holding(self, scope: _Message) -> Holding:
        client = scope.get("client") if self._held.has_shares else None
        return self._held.arriving(owner=client_of(client[0]) if client else "")

    async def _receive(
        self,
        request: Request,
        receive: Callable[[], Any],
        holding: Holding,
        is_here: bool,
    ) -> None:
        request.body = await read_body(
            receive,
            request.headers,
            self._max_body_bytes,
            self._body_timeout_s,
            holding,
            is_here,
        )
        request.timings.receive = perf_counter() - request.timings.started

    async def _answer(
        self,
        request: Request,
        receive: Callable[[], Any],
        under_way: int,
        holding: Holding,
    ) -> Response:
        found = direct(request)
        if found is None:
            pool = self._pool if request.method == "POST" else self._status_pool
            _count(holding, request)
            through = partial(self._through_flask, request)
            return await _pooled(pool, request, receive, through)
        handler, names, is_quick = found
        answer = partial(self._handlers.answer, handler, request, names)
        if is_quick(self._handlers, request, names):
            if under_way > _MAX_UNDER_WAY:
                raise too_many(under_way)
            request.quickly = True
            with suppress(TakesLonger):
                return answer()
            request.quickly = False
        _count(holding, request)
        return await _pooled(self._pool, request, receive, answer)

    def _through_flask(self, request: Request) -> Response:
        chunks, status, headers = run_wsgi_app(
            self._flask, _environ(request), buffered=True
        )
        found = {name.lower(): value for name, value in headers.items()}
        found.pop("date", None)  # uvicorn writes this header
        return Response(int(status.split(" ", 1)[0]), b"".join(chunks), found)

    async def _lifespan(
        self, receive: Callable[[], Any], send: Callable[..., Any]
    ) -> None:
        await receive()
        async with self._running():
            await send({"type": "lifespan.startup.complete"})
            await receive()
        self._status_pool.close()
        await send({"type": "lifespan.shutdown.complete"})


def _count(holding: Holding, request: Request) -> None:
    """Count the bytes of a body that came in one piece, and waits for a thread."""
    if not holding.has_arrived:
        holding.add(len(request.body))
        holding.complete()


async def _pooled(
    pool: ThreadPool,
    request: Request,
    receive: Callable[[], Any],
    answer: Callable[[], Response],
) -> Response:
    """Return the answer; a client that leaves takes its request out of the queue."""
    submitted = perf_counter()

    def begin() -> Response:
        request.timings.queue = perf_counter() - submitted
        return answer()

    work = pool.submit(begin, None)
    async with _watched(receive, work.cancel) as has_left:
        try:
            return await asyncio.wrap_future(work)
        except asyncio.CancelledError:
            if has_left():
                raise ClientGone from None
            raise


@asynccontextmanager
async def _watched(
    receive: Callable[[], Any], when_it_leaves: Callable[[], object]
) -> AsyncIterator[Callable[[], bool]]:
    """Watch a client whose answer takes longer; yield whether the client has left."""
    loop = asyncio.get_running_loop()
    watches: list[asyncio.Task[None]] = []

    def watch() -> None:
        watches.append(loop.create_task(client_left(receive)))
        watches[0].add_done_callback(lambda _: when_it_leaves())

    # A task for each request would cost a tenth of a small one.
    timer = loop.call_later(_LONGER_S, watch)
    try:
        yield lambda: any(task.done() for task in watches)
    finally:
        timer.cancel()
        for task in watches:
            task.cancel()


def _check_host(headers: list[tuple[bytes, bytes]], http_version: str) -> None:
    hosts = [value for name, value in headers if name == b"host"]
    if len(hosts) == 1 and _HOST.fullmatch(hosts[0]):
        return
    if len(hosts) == 1:
        raise InvalidRequest("The Host header is malformed; expected a host and port.")
    if hosts or http_version != "1.0":
        raise InvalidRequest(
            f"The request has {len(hosts)} Host headers; expected one."
        )


def _request(scope: _Message) -> Request:
    headers = {
        name.decode("latin-1"): value.decode("latin-1")
        for name, value in scope["headers"]
    }
    query = scope["query_string"].decode("latin-1")
    return Request(scope["method"].upper(), scope["path"], query, headers)


def _environ(request: Request) -> dict[str, Any]:
    """Return the WSGI environment (PEP 3333) in which Flask answers a request."""
    environ = {
        **_ENVIRON,
        REQUEST_KEY: request,
        "REQUEST_METHOD": request.method,
        "PATH_INFO": request.path.encode().decode("latin-1"),
        "QUERY_STRING": request.query,
    }
    # Only the page reads headers: they say whether the browser's copy of a file is new.
    for name in ("if-none-match", "if-modified-since"):
        if name in request.headers:
            key = "HTTP_" + name.upper().replace("-", "_")
            environ[key] = request.headers[name]
    return environ


async def _send(
    response: Response, method: str, send: Callable[..., Any], extra: Mapping[str, str]
) -> None:
    headers = {**response.headers, **extra}
    if response.status in (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED):
        headers.pop("content-length", None)  # RFC 9110, section 8.6
    elif method != "HEAD" or "content-length" not in headers:
        headers["content-length"] = str(len(response.body))
    encoded = [(n.encode(), value.encode("latin-1")) for n, value in headers.items()]
    start = {"type": "http.response.start", "status": response.status}
    await send({**start, "headers": encoded})
    body = b"" if method == "HEAD" else response.body
    message = {"type": "http.response.body", "more_body": True}
    last = max(0, len(body) - 1) // _PIECE_BYTES * _PIECE_BYTES
    for at in range(0, last, _PIECE_BYTES):
        await send({**message, "body": body[at : at + _PIECE_BYTES]})
    await send({"type": "http.response.body", "body": body[last:]})
