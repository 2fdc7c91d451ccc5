"""The server front: reads bodies, bounded and timed, and hands requests to a door.

An ASGI application under uvicorn. Classifications go straight to their handler, all
else through Flask; both run in a small pool of threads with a bounded queue, so that
what cannot be answered in time is refused at once. Probes never wait for the pool.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from time import perf_counter
from typing import TYPE_CHECKING, Any

from inkling.errors import InklingError, InvalidRequest
from inkling_serving.http_api.flask_app import create_app
from inkling_serving.http_api.handlers import (
    CLASSIFY_PATH,
    OPEN_PATHS,
    Request,
    Response,
)
from inkling_serving.http_api.protocol import UNDER_WAY
from inkling_serving.http_api.read_body import ClientGone, read_body
from inkling_serving.runtime.thread_pool import Work, too_many
from inkling_serving.security import ApiKeys

if TYPE_CHECKING:
    from inkling_serving.http_api.handlers import Gateway
    from inkling_serving.settings import Settings

__all__ = ["Front", "Head"]

_Message = MutableMapping[str, Any]
_PROBES = ("/livez", "/readyz")
# The page's own files say nothing of the models; what it asks for with them does.
_PAGE = ("/", "/page/")
# Requests of a process, of all kinds, beside which a quick one is still answered: at a
# third of a millisecond each, the last of so many waits for about 150 ms.
_MAX_UNDER_WAY = 512


@dataclass(frozen=True, slots=True)
class Head:
    """What the head of a classification says.

    Attributes:
        path: As in `Request`, like `query` and `headers`.
        query: As above.
        headers: As above.
        names: What the path names.
        refusal: Why it is refused, whatever its body is.
    """

    path: str
    query: str
    headers: Mapping[str, str]
    names: Mapping[str, str | None]
    refusal: InklingError | None = None


class Front:
    """The ASGI application of one gateway process."""

    def __init__(
        self,
        gateway: Gateway,
        work: Work,
        settings: Settings,
        lifespan: Callable[[], AbstractAsyncContextManager[None]],
    ) -> None:
        """Take what answers.

        Args:
            gateway: The handlers.
            work: Where they run.
            settings: The limits on bodies.
            lifespan: What is there from before the first request to after the last.
        """
        self._gateway = gateway
        self._work = work
        self._settings = settings
        self._keys = ApiKeys(settings.api_key_file)
        self._running = lifespan
        self._app = create_app(gateway, settings.max_body_bytes)
        # By their bytes, the heads that were answered at once; for the protocol.
        self.known_heads: dict[bytes, Head] = {}

    async def __call__(
        self, scope: _Message, receive: Callable[[], Any], send: Callable[..., Any]
    ) -> None:
        """Answer one request, or start and stop with the server."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return
        request = _request(scope)
        unread = True
        try:
            _check_host(scope["headers"], scope["http_version"])
            self._check_key(request)
            request.body = await read_body(
                receive,
                request.headers,
                self._settings.max_body_bytes,
                self._settings.body_timeout_s,
            )
            unread = False
            request.trace.receive = perf_counter() - request.trace.started
            response = await self._answer(request, scope.get(UNDER_WAY, 0))
        except ClientGone:
            return
        except InklingError as error:
            response = self._gateway.refuse(error, request)
        # What is left of an unread body must not be taken for the next request.
        extra = {"connection": "close"} if unread else {}
        await _send(response, request.method, send, extra)

    def head_of(self, url: bytes, headers: list[tuple[bytes, bytes]]) -> Head | None:
        """Return what the head of a POST asks for, if that is a classification.

        Args:
            url: As it came.
            headers: Names in lower case, and values.
        """
        path, _, query = url.decode("latin-1").partition("?")
        match = CLASSIFY_PATH.fullmatch(path)
        if match is None or "%" in path:
            return None
        head = Head(path, query, _decoded(headers), match.groupdict())
        try:
            _check_host(headers, "1.1")
            self._check_key(Request("POST", path, headers=head.headers))
        except InklingError as error:
            return replace(head, refusal=error)
        return head

    def answer_at_once(self, head: Head, body: bytes) -> Response | None:
        """Return the answer to a POST, if it takes no longer than asking for it would.

        Returns:
            The same as by the way of all requests; None where it has to go that way.
        """
        if len(body) > self._settings.max_body_bytes:
            return None
        request = Request("POST", head.path, head.query, head.headers, body)
        if not self._gateway.is_quick(request, head.names):
            return None
        if head.refusal is not None:
            return self._gateway.refuse(head.refusal, request)
        return self._gateway.handle(request, head.names)

    def _check_key(self, request: Request) -> None:
        path = request.path
        if path not in _PROBES and path != _PAGE[0] and not path.startswith(_PAGE[1]):
            self._keys.check(request.headers.get("authorization"))

    async def _answer(self, request: Request, under_way: int) -> Response:
        if request.path in OPEN_PATHS:
            return self._gateway.handle(request)
        match = CLASSIFY_PATH.fullmatch(request.path)
        if match is None:
            return await self._pooled(self._through_flask, request)
        if self._gateway.is_quick(request, match.groupdict()):
            if under_way > _MAX_UNDER_WAY:
                raise too_many(under_way)
            return self._gateway.handle(request)
        return await self._pooled(self._gateway.handle, request)

    async def _pooled(
        self, answer: Callable[[Request], Response], request: Request
    ) -> Response:
        submitted = perf_counter()

        def begin() -> Response:
            request.trace.queue = perf_counter() - submitted
            return answer(request)

        return await self._work.run(begin)

    def _through_flask(self, request: Request) -> Response:
        """Answer a request by calling the Flask application as a WSGI server does."""
        started: dict[str, Any] = {}

        def start_response(
            status: str, headers: list[tuple[str, str]], *_: object
        ) -> Callable[[bytes], object]:
            started.update(status=int(status.split(" ", 1)[0]), headers=dict(headers))
            return lambda _: None

        chunks: Iterable[bytes] = self._app(_environ(request), start_response)
        try:
            body = b"".join(chunks)
        finally:
            getattr(chunks, "close", lambda: None)()
        return Response(started["status"], body, started["headers"])

    async def _lifespan(
        self, receive: Callable[[], Any], send: Callable[..., Any]
    ) -> None:
        await receive()
        async with self._running():
            await send({"type": "lifespan.startup.complete"})
            await receive()
        await send({"type": "lifespan.shutdown.complete"})


def _check_host(headers: list[tuple[bytes, bytes]], http_version: str) -> None:
    hosts = sum(name == b"host" for name, _ in headers)
    if hosts > 1 or (hosts == 0 and http_version != "1.0"):
        raise InvalidRequest(f"The request has {hosts} Host headers; expected one.")


def _request(scope: _Message) -> Request:
    return Request(
        method=scope["method"].upper(),
        path=scope["path"],
        query=scope["query_string"].decode("latin-1"),
        headers=_decoded(scope["headers"]),
    )


def _decoded(headers: list[tuple[bytes, bytes]]) -> dict[str, str]:
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in headers}


def _environ(request: Request) -> dict[str, Any]:
    """Return what PEP 3333 wants of a request; the body has been read already."""
    environ: dict[str, Any] = {
        "REQUEST_METHOD": request.method,
        "SCRIPT_NAME": "",
        "PATH_INFO": request.path.encode().decode("latin-1"),
        "QUERY_STRING": request.query,
        "SERVER_NAME": "inkling",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(request.body),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
    }
    for name, value in request.headers.items():
        environ["HTTP_" + name.upper().replace("-", "_")] = value
    # The body is here, whole: how it was framed on the wire is over.
    environ.pop("HTTP_TRANSFER_ENCODING", None)
    environ.pop("HTTP_CONTENT_LENGTH", None)
    # Names of ours are not looked up by the caller's idea of our address, and the page
    # is small enough to be sent whole.
    environ.pop("HTTP_HOST", None)
    environ.pop("HTTP_RANGE", None)
    environ["CONTENT_TYPE"] = environ.pop("HTTP_CONTENT_TYPE", "")
    environ["CONTENT_LENGTH"] = str(len(request.body))
    return environ


async def _send(
    response: Response, method: str, send: Callable[..., Any], extra: Mapping[str, str]
) -> None:
    headers = {name.lower(): value for name, value in response.headers.items()}
    headers.update(extra)
    if method != "HEAD" or "content-length" not in headers:
        headers["content-length"] = str(len(response.body))
    await send(
        {
            "type": "http.response.start",
            "status": response.status,
            "headers": [(n.encode(), v.encode("latin-1")) for n, v in headers.items()],
        }
    )
    body = b"" if method == "HEAD" else response.body
    await send({"type": "http.response.body", "body": body})
