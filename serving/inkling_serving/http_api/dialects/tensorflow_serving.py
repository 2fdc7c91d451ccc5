# SPDX-License-Identifier: Apache-2.0
"""The handlers of TensorFlow Serving's REST addresses."""

from __future__ import annotations

from http import HTTPStatus

from inkling_serving.dialects.tensorflow_serving import rest
from inkling_serving.dialects.tensorflow_serving.models import understood
from inkling_serving.http_api.handlers import Handlers, Names, target_of
from inkling_serving.http_api.messages import Request, Response, json_response
from inkling_serving.service import Target

__all__ = ["is_quick", "metadata", "predict", "status"]


def predict(handlers: Handlers, request: Request, names: Names) -> Response:
    """Answer `:predict`, which is the same in KServe's first protocol."""
    target = _target(names)
    shown = rest.predict(handlers.service, target, request.body, request.timings)
    return json_response(HTTPStatus.OK, shown, request.id)


def is_quick(_: Handlers, __: Request, ___: Names) -> bool:
    """Return False: JSON is parsed in a thread, because it may have many numbers."""
    return False


def metadata(handlers: Handlers, request: Request, names: Names) -> Response:
    """Answer `/metadata`: the signatures."""
    shown = rest.metadata(handlers.service, _target(names))
    return json_response(HTTPStatus.OK, shown, request.id)


def status(handlers: Handlers, request: Request, names: Names) -> Response:
    """Answer the address of one version: its state."""
    shown = rest.statuses(handlers.service, _target(names))
    return json_response(HTTPStatus.OK, shown, request.id)


def _target(names: Names) -> Target:
    return understood(target_of(names))
