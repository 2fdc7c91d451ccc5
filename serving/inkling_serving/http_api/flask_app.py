# SPDX-License-Identifier: Apache-2.0
"""The Flask application: every address of the HTTP port, and the page to draw on.

`create_app()` without arguments makes the application from the environment, for a WSGI
server or for `flask --app inkling_serving.http_api.flask_app routes`. `inkling serve`
runs the same application behind its ASGI application, which reads each request first.
"""

from __future__ import annotations

import base64
import logging
import mimetypes
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from hashlib import sha256
from http import HTTPStatus
from importlib.resources import files
from pathlib import Path
from typing import IO, Any

import flask
from werkzeug.exceptions import HTTPException
from werkzeug.routing import BaseConverter

from inkling.errors import InklingError, InvalidRequest, MethodNotAllowed, NotFound
from inkling_serving.engines.choice import create_engine
from inkling_serving.http_api.cors import Cors
from inkling_serving.http_api.handlers import NOTHING_HERE, Handler, Handlers
from inkling_serving.http_api.messages import Request, Response
from inkling_serving.http_api.read_body import too_long
from inkling_serving.http_api.routes import ROUTES, admit
from inkling_serving.keys import ApiKeys
from inkling_serving.runtime.held_bytes import HeldBytes
from inkling_serving.runtime.metrics import Metrics
from inkling_serving.runtime.tracebacks import without_frames
from inkling_serving.service import Service
from inkling_serving.settings import Settings

__all__ = ["REQUEST_KEY", "create_app"]

_log = logging.getLogger(__name__)

# The key of the WSGI environment under which the ASGI application leaves the request.
REQUEST_KEY = "inkling.request"
_SCRIPT = re.compile(rb"<script>(.*?)</script>", re.DOTALL)


class _Name(BaseConverter):
    """A name in a path, as in `Route.rule`; the handlers check whether it is valid."""

    regex = "[^/:]*"


def create_app(
    settings: Settings | None = None, handlers: Handlers | None = None
) -> flask.Flask:
    """Return the application.

    Args:
        settings: The gateway's settings; by default, they come from the environment.
        handlers: The handlers; by default, new handlers with a new engine.
    """
    if settings is None:
        settings = Settings.from_env(os.environ)
        for remark in Settings.remarks(os.environ):
            _log.warning("%s", remark)
    handlers = handlers or _handlers(settings)
    app = flask.Flask("inkling_serving", static_folder=None)
    app.url_map.converters["name"] = _Name
    # A path with a doubled slash is an unknown address; Flask must not redirect it.
    app.url_map.merge_slashes = False
    cors = Cors(settings)
    app.before_request(partial(_begin, handlers, cors, settings.max_body_bytes))
    app.after_request(partial(_shared, cors))
    views = {r.handler: partial(_view, handlers, r.handler) for r in ROUTES}
    for route in ROUTES:
        name, view = route.handler.__name__, views[route.handler]
        app.add_url_rule(route.rule, name, view, methods=[route.method])
    app.add_url_rule("/", "page", _page)
    app.add_url_rule("/docs", "docs", partial(_page, "docs.html"))
    app.add_url_rule("/page/<path:name>", "page files", _page)
    app.register_error_handler(HTTPException, partial(_refused, handlers))
    return app


def _handlers(settings: Settings) -> Handlers:
    # The number of processes is the WSGI server's affair.
    quotas = replace(settings, workers=1).quotas()
    engine = create_engine(settings)
    service = Service(engine, settings.limits, settings.max_batch, quotas)
    keys = ApiKeys(settings.api_key_file)
    if settings.api_key_file:
        keys.watch()
    held = HeldBytes(settings.max_held_bytes)
    return Handlers(service, Metrics(), keys, settings, held)


def _begin(
    handlers: Handlers, cors: Cors, max_body_bytes: int
) -> flask.Response | None:
    """Read the request of a WSGI server; the ASGI application passes a complete one."""
    came = flask.request
    request = came.environ.get(REQUEST_KEY)
    if request is None:
        headers = {name.lower(): value for name, value in came.headers.items()}
        query = came.query_string.decode("latin-1")
        request = Request(came.method, came.path, query, headers)
        flask.g.request = request  # an error of Werkzeug's while it reads is told, too
        preflight = cors.preflight(request)
        if preflight is not None:
            return _flask_response(preflight)
        try:
            admit(handlers, request)
            request.body = _body(came.stream, max_body_bytes)
        except InklingError as error:
            return _flask_response(handlers.refuse(error, request))
    flask.g.request = request
    return None


def _shared(cors: Cors, response: flask.Response) -> flask.Response:
    """Add the headers for pages of other origins."""
    response.headers.update(cors.headers(flask.g.request))
    return response


def _body(stream: IO[bytes], max_bytes: int) -> bytes:
    """Read a body to its end; one `read` may return less, and hide a client's hang-up.

    Werkzeug's own limit cuts a chunked body off without an error, so this reads one
    byte more than the limit.
    """
    body = bytearray()
    while piece := stream.read(max_bytes + 1 - len(body)):
        body += piece
        if len(body) > max_bytes:
            raise too_long(max_bytes)
    return bytes(body)


def _view(handlers: Handlers, handler: Handler, **names: str) -> flask.Response:
    return _flask_response(handlers.answer(handler, flask.g.request, names))


def _page(name: str = "index.html") -> flask.Response:
    file = _page_files().get(name)
    if file is None:
        flask.abort(HTTPStatus.NOT_FOUND)
    kind = mimetypes.guess_type(name)[0] or "text/plain"
    response = flask.Response(file.content, mimetype=kind)
    if file.is_gzip:
        response.headers["Content-Encoding"] = "gzip"
    response.set_etag(sha256(file.content).hexdigest())
    response.headers.update(_page_headers())
    size = len(file.content)
    response.make_conditional(flask.request, accept_ranges=True, complete_length=size)
    return response


@dataclass(frozen=True)
class _PageFile:
    """A file of the page; one that is stored in gzip goes out as it is."""

    content: bytes
    is_gzip: bool


@cache
def _page_files() -> Mapping[str, _PageFile]:
    """Read the page's files; slow clients then share one copy of LiteRT.js."""
    root = Path(str(files("inkling_serving") / "page"))
    paths = [path for path in root.rglob("*") if path.is_file()]
    return {
        path.relative_to(root).as_posix().removesuffix(".gz"): _PageFile(
            path.read_bytes(), path.suffix == ".gz"
        )
        for path in paths
    }


@cache
def _page_headers() -> Mapping[str, str]:
    """Return the headers of the page, which name the scripts inside it."""
    scripts = _SCRIPT.findall(_page_files()["index.html"].content)
    hashes = [base64.b64encode(sha256(one).digest()).decode() for one in scripts]
    allowed = " ".join(f"'sha256-{one}'" for one in hashes)
    return {
        "Content-Security-Policy": (
            # WebAssembly, which runs the model on the device, needs a word of its own.
            f"default-src 'none'; script-src 'self' 'wasm-unsafe-eval' {allowed}; "
            "style-src 'self'; connect-src 'self'; img-src 'self' data: blob:; "
            "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        ),
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-cache",
    }


def _refused(handlers: Handlers, error: HTTPException) -> flask.Response:
    """Return the JSON response for one of Flask's own errors."""
    response = handlers.refuse(_told(error), flask.g.request)
    without_frames(error)  # Flask keeps the error of an unknown address in its request
    return _flask_response(response)


def _told(error: HTTPException) -> Exception:
    if error.code == HTTPStatus.METHOD_NOT_ALLOWED:
        allowed = getattr(error, "valid_methods", None) or ("GET",)
        method = flask.request.method
        shown = method if method.isascii() and method.isalpha() else "This method"
        return MethodNotAllowed(shown, tuple(sorted(allowed)))
    if error.code == HTTPStatus.NOT_FOUND:
        return NotFound(NOTHING_HERE)
    if error.code and error.code < HTTPStatus.INTERNAL_SERVER_ERROR:
        # A body that was cut short, a range beyond a file: never this server's fault.
        return InvalidRequest(error.description or "The request cannot be read.")
    # Flask wraps an unexpected exception; the log gets the original.
    original: Any = getattr(error, "original_exception", None)
    return original or error


def _flask_response(response: Response) -> flask.Response:
    return flask.Response(response.body, response.status, dict(response.headers))
