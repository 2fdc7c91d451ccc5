"""The Flask application: every address of the gateway, and the page to draw on."""

from __future__ import annotations

from http import HTTPStatus
from importlib.resources import files
from typing import TYPE_CHECKING

import flask
from werkzeug.exceptions import HTTPException

from inkling.errors import MethodNotAllowed, NotFound
from inkling_serving.http_api.handlers import Request, Response, error_response
from inkling_serving.http_api.read_body import too_long

if TYPE_CHECKING:
    from inkling_serving.http_api.handlers import Gateway

__all__ = ["create_app"]

_PAGE_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; img-src 'self' data: blob:; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}


def create_app(gateway: Gateway, max_body_bytes: int) -> flask.Flask:
    """Return the application; it answers as `gateway` does, and adds the page."""
    app = flask.Flask("inkling_serving", static_folder=None)
    page = str(files("inkling_serving") / "page")

    @app.get("/")
    @app.get("/page/<path:name>")
    def show_page(name: str = "index.html") -> flask.Response:
        response = flask.send_from_directory(page, name)
        response.headers.update(_PAGE_HEADERS)
        return response

    @app.before_request
    def answer() -> flask.Response | None:
        # Before routing has its say: every address but the page's, and every method,
        # is the gateway's to answer.
        path = flask.request.path
        if path == "/" or path.startswith("/page/"):
            return None
        request = _request(max_body_bytes)
        if isinstance(request, Response):
            return _flask_response(request)
        return _flask_response(gateway.handle(request))

    @app.errorhandler(HTTPException)
    def refuse(error: HTTPException) -> flask.Response:
        return _flask_response(_refusal(error))

    return app


def _request(max_body_bytes: int) -> Request | Response:
    came = flask.request
    # One byte over the limit is read: Werkzeug's own limit cuts a chunked body off
    # at the limit and says nothing.
    body = came.stream.read(max_body_bytes + 1)
    request = Request(
        method=came.method,
        path=came.path,
        query=came.query_string.decode("latin-1"),
        headers={name.lower(): value for name, value in came.headers.items()},
        body=body,
    )
    if len(body) > max_body_bytes:
        return error_response(too_long(max_body_bytes), request.id)
    return request


def _refusal(error: HTTPException) -> Response:
    came = flask.request
    given = came.headers.get("X-Request-Id", "")
    request_id = Request(came.method, came.path, headers={"x-request-id": given}).id
    if error.code == HTTPStatus.METHOD_NOT_ALLOWED:
        allowed = tuple(sorted(getattr(error, "valid_methods", None) or ("GET",)))
        return error_response(MethodNotAllowed(came.method, allowed), request_id)
    if error.code == HTTPStatus.NOT_FOUND:
        return error_response(NotFound("There is nothing at this address."), request_id)
    # Flask wraps what was not foreseen; the original goes to the log.
    return error_response(getattr(error, "original_exception", error), request_id)


def _flask_response(response: Response) -> flask.Response:
    return flask.Response(response.body, response.status, dict(response.headers))
