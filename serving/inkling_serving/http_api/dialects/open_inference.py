# SPDX-License-Identifier: Apache-2.0
"""The handlers of the Open Inference Protocol's addresses."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from inkling.errors import InvalidRequest
from inkling_serving.dialects.json_values import document_of
from inkling_serving.dialects.open_inference import descriptions, rest
from inkling_serving.dialects.open_inference.inference import infer, target_of
from inkling_serving.http_api.handlers import Handlers, Names
from inkling_serving.http_api.messages import Request, Response, json_response
from inkling_serving.service import Target

__all__ = [
    "infer_tensor",
    "is_quick",
    "model_config",
    "model_metadata",
    "model_ready",
    "model_statistics",
    "repository_index",
    "repository_load",
    "repository_unload",
    "server_live",
    "server_metadata",
    "server_ready",
    "target",
]


def target(names: Names) -> Target:
    """Return the target that a path names."""
    return target_of(names["model"] or "", names.get("version") or "")


def infer_tensor(handlers: Handlers, request: Request, names: Names) -> Response:
    """Answer `/infer`: the scores, or the likeliest labels."""
    service, asked_of = handlers.service, target(names)
    if rest.is_raw(request.headers):
        asked = rest.raw_request(request.body, service.contract(asked_of)[1])
    else:
        asked = rest.request_of(request.headers, request.body)
    found = infer(
        service,
        asked_of,
        asked.given,
        asked.wanted,
        request.timings,
        asked.timeout_s,
        request.quickly,
    )
    body, length = rest.body_of(asked, found)
    if length is None:
        return json_response(HTTPStatus.OK, body, request.id)
    binary = {
        "content-type": "application/octet-stream",
        rest.JSON_LENGTH: str(length),
    }
    return json_response(HTTPStatus.OK, body, request.id, binary)


def is_quick(handlers: Handlers, request: Request, names: Names) -> bool:
    """Return whether an inference may be quicker than a hand-over to a thread."""
    picture = rest.only_picture(request.headers, request.body)
    return handlers.service.is_quick(target(names), picture)


def server_live(_: Handlers, request: Request, __: Names) -> Response:
    """Answer `/v2/health/live`."""
    return _shown(request, {"live": True})


def server_ready(handlers: Handlers, request: Request, _: Names) -> Response:
    """Answer `/v2/health/ready`."""
    handlers.service.check_ready()
    return _shown(request, {"ready": True})


def server_metadata(_: Handlers, request: Request, __: Names) -> Response:
    """Answer `/v2`."""
    return _shown(request, descriptions.server_metadata())


def model_metadata(handlers: Handlers, request: Request, names: Names) -> Response:
    """Answer `/v2/models/NAME`."""
    shown = descriptions.model_metadata(handlers.service, target(names))
    return _shown(request, shown)


def model_ready(handlers: Handlers, request: Request, names: Names) -> Response:
    """Answer `/ready` of a model: 200 if it can answer."""
    handlers.service.contract(target(names))
    return _shown(request, {"name": names["model"], "ready": True})


def model_config(handlers: Handlers, request: Request, names: Names) -> Response:
    """Answer `/config` of a model."""
    return _shown(request, descriptions.model_config(handlers.service, target(names)))


def model_statistics(handlers: Handlers, request: Request, names: Names) -> Response:
    """Answer `/stats` of a model, or of all."""
    model, number = names.get("model") or "", names.get("version") or ""
    shown = descriptions.statistics(handlers.service, handlers.metrics, model, number)
    return _shown(request, shown)


def repository_index(handlers: Handlers, request: Request, _: Names) -> Response:
    """Answer `/v2/repository/index`."""
    only_ready = _parameters(request).get("ready", False)
    if not isinstance(only_ready, bool):
        raise InvalidRequest('"ready" in the JSON must be true or false.')
    return _shown(request, descriptions.index(handlers.service, only_ready))


def repository_load(handlers: Handlers, request: Request, names: Names) -> Response:
    """Answer `/load` of a model, which is loaded already."""
    has_parameters = bool(_parameters(request).get("parameters"))
    descriptions.check_load(handlers.service, names["model"] or "", has_parameters)
    return _shown(request, {})


def repository_unload(handlers: Handlers, _: Request, names: Names) -> Response:
    """Refuse `/unload` of a model."""
    raise descriptions.not_unloaded(handlers.service, names["model"] or "")


def _parameters(request: Request) -> Mapping[str, Any]:
    return document_of(request.body, "{}") if request.body.strip() else {}


def _shown(request: Request, body: Any) -> Response:
    return json_response(HTTPStatus.OK, body, request.id)
