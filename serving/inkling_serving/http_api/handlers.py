# SPDX-License-Identifier: Apache-2.0
"""The handlers of the HTTP addresses: they turn a request into a response.

A handler reads the request, calls the service and writes the response; it contains no
other logic. `routes.ROUTES` is the only table of addresses. The handlers of other
people's protocols are in the room `dialects`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from http import HTTPStatus
from time import perf_counter
from typing import TYPE_CHECKING

from inkling.errors import (
    ErrorCode,
    InklingError,
    InvalidRequest,
    NotFound,
)
from inkling.image.budget import TakesLonger
from inkling_serving.admin import Admin
from inkling_serving.dialects.tensorflow_serving.rest import version_statuses
from inkling_serving.http_api.envelope.compressed import inflate, is_compressed
from inkling_serving.http_api.envelope.feedback import feedback_of
from inkling_serving.http_api.envelope.moves import wanted_move
from inkling_serving.http_api.envelope.options import (
    CLASSIFY,
    EXPLAIN,
    NONE,
    HttpOptions,
    in_query,
    merged,
)
from inkling_serving.http_api.envelope.request_body import Envelope, envelope_of
from inkling_serving.http_api.messages import Request, Response, json_response
from inkling_serving.http_api.refusals import (
    error_response,
    has_quota,
    protocol_of,
)
from inkling_serving.http_api.response_json import (
    answer_json,
    comparison_json,
    explanation_json,
    model_json,
    move_json,
)
from inkling_serving.keys import Role
from inkling_serving.runtime.metrics import CONTENT_TYPE_LATEST, OPEN_METRICS
from inkling_serving.runtime.tracebacks import without_frames
from inkling_serving.service import Target
from inkling_serving.telemetry.gauges import state_of

if TYPE_CHECKING:
    from inkling_serving.http_api.openapi.answers import (
        Answer,
        Feedback,
        Labels,
        ModelComparisons,
        Models,
        ModelState,
    )
    from inkling_serving.keys import ApiKeys, Key
    from inkling_serving.runtime.held_bytes import HeldBytes
    from inkling_serving.runtime.metrics import Metrics
    from inkling_serving.service import Service
    from inkling_serving.settings import Settings
    from inkling_serving.telemetry.drift import Drifted

__all__ = ["NOTHING_HERE", "Handler", "Handlers", "Names", "target_of"]

NOTHING_HERE = (
    "There is nothing at this address. GET /v1/models lists the models; POST a picture "
    "to /v1/models/NAME:classify."
)
_NO_SUCH_FILE = (
    "The version's TFLite file has another SHA-256; GET /v1/models states it."
)
_KEPT_HERE = (
    "This gateway keeps the models' TFLite files to itself (--device-files false)."
)
# A file may be seen only with a key, so that no cache on the way may keep it.
_FOR_EVER = "private, max-age=31536000, immutable"
# The metrics do not count these: orchestrators and Prometheus poll them all the time.
_UNCOUNTED = frozenset(
    {"/livez", "/readyz", "/metrics", "/v2/health/live", "/v2/health/ready"}
)
_OPEN_METRICS = "application/openmetrics-text"
_VERSION = re.compile(r"-?[0-9]{1,19}")


Names = Mapping[str, str | None]
Handler = Callable[["Handlers", Request, Names], Response]


class Handlers:
    """The handlers of one service.

    Attributes:
        service: The service.
        metrics: Counts the requests.
        max_batch: The most images of a request.
        settings: The settings.
    """

    def __init__(
        self,
        service: Service,
        metrics: Metrics,
        keys: ApiKeys,
        settings: Settings,
        held: HeldBytes,
    ) -> None:
        self.service = service
        self.metrics = metrics
        self._keys = keys
        self.max_batch = settings.max_batch
        self.settings = settings
        self._held = held
        self._admin = Admin(settings.models_dir, settings.model_name)

    def check_key(self, request: Request, role: Role) -> Key | None:
        """Return the API key of a request that needs a role.

        Raises:
            Unauthenticated: The request needs a key, and has no valid one.
            PermissionDenied: The key does not have the role.
        """
        return self._keys.check(request.headers.get("authorization"), role)

    def admit(self, request: Request, role: Role) -> None:
        """Check the API key of a request, and take the request from the key's quota.

        Raises:
            Unauthenticated: The request has no valid key.
            PermissionDenied: The key does not have the role.
            QuotaExceeded: The key has used up its quota.
        """
        self.check_key(request, role)
        if has_quota(request.path):
            authorization = request.headers.get("authorization")
            request.timings.admit(self.service.quotas.of(authorization))

    def answer(self, handler: Handler, request: Request, names: Names) -> Response:
        """Return the response of a handler, or the response for its error.

        Raises:
            TakesLonger: `request.quickly` holds, and the classification takes longer.
        """
        try:
            response = self._handled(handler, request, names)
        except TakesLonger:
            raise
        except Exception as error:  # noqa: BLE001 - every error becomes a response
            return self.refuse(error, request)
        if request.path not in _UNCOUNTED:
            self.metrics.observe(protocol_of(request.path), "ok", request.timings)
        return _with_limits(response, request)

    def _handled(self, handler: Handler, request: Request, names: Names) -> Response:
        if not is_compressed(request.headers):
            return handler(self, request, names)
        holding = self._held.arriving()
        try:
            inflate(request, self.settings.max_body_bytes, holding)
            return handler(self, request, names)
        finally:
            holding.release()

    def refuse(self, error: Exception, request: Request) -> Response:
        """Return the response for an error, and count it."""
        response = error_response(error, request.id, request.path)
        if request.path not in _UNCOUNTED:
            code = error.code if isinstance(error, InklingError) else ErrorCode.INTERNAL
            self.metrics.observe(protocol_of(request.path), code, request.timings)
        without_frames(error)
        return _with_limits(response, request)

    def is_quick(self, request: Request, names: Names) -> bool:
        """Return whether a classification may be quicker than a hand-over to a thread.

        This looks only at the names and at the start of the body.
        """
        try:
            return self.service.is_quick(target_of(names), request.body)
        except InvalidRequest:
            return True

    def classify(self, request: Request, names: Names) -> Response:
        """Answer `:classify`: a prediction for each image of the body."""
        asked, options = self._asked(request, CLASSIFY, self.max_batch)
        answer = self.service.classify(
            target_of(names),
            asked.images,
            options,
            names=asked.names,
            timings=request.timings,
            quickly=request.quickly,
        )
        return _answer_response(answer_json(answer), request, options)

    def explain(self, request: Request, names: Names) -> Response:
        """Answer `:explain`: a prediction, and each stage of the preparation."""
        asked, options = self._asked(request, EXPLAIN, 1)
        if len(asked.images) != 1:
            raise InvalidRequest(
                f"The request has {len(asked.images)} images; explain takes one."
            )
        found = self.service.explain(
            target_of(names), asked.images[0], options, timings=request.timings
        )
        shown = explanation_json(found, with_input=options.model_input)
        return _answer_response(shown, request, options)

    @staticmethod
    def _asked(
        request: Request, known: Sequence[str], max_images: int
    ) -> tuple[Envelope, HttpOptions]:
        """Return the content of a request, and its options from all places."""
        query = in_query(request.query, known)
        asked = envelope_of(request.headers, request.body, max_images, known)
        return asked, merged(query, asked.options)

    def feedback(self, request: Request, _: Names) -> Response:
        """Answer `POST /v1/feedback`: the label that was right."""
        in_query(request.query, NONE)
        request_id, image, label = feedback_of(request.headers, request.body)
        given = self.service.feedback(request_id, image, label)
        shown: Feedback = {
            "model": given.model,
            "version": given.version,
            "answered": given.answered,
            "label": given.label,
        }
        return json_response(HTTPStatus.OK, shown, request.id)

    def models(self, request: Request, _: Names) -> Response:
        """Answer `GET /v1/models`."""
        in_query(request.query, NONE)
        files, drifts = self.settings.device_files, self._drifts()
        models = [
            model_json(status, with_files=files, drifts=drifts)
            for status in self.service.models()
        ]
        shown: Models = {"models": models}
        return json_response(HTTPStatus.OK, shown, request.id)

    def model(self, request: Request, names: Names) -> Response:
        """Answer `GET /v1/models/NAME`, also as TensorFlow Serving does."""
        in_query(request.query, NONE)
        if not names["model"]:
            raise NotFound(NOTHING_HERE)
        status = self.service.model(names["model"])
        shown: ModelState = {
            **model_json(
                status, with_files=self.settings.device_files, drifts=self._drifts()
            ),
            **version_statuses(status.versions),
        }
        return json_response(HTTPStatus.OK, shown, request.id)

    def _drifts(self) -> dict[tuple[str, str], Drifted]:
        drift = self.service.drift
        return {} if drift is None else drift.found(self.metrics.counts_of("drift"))

    def tflite(self, request: Request, names: Names) -> Response:
        """Answer `.../tflite`: the file with which this gateway answers.

        An address with the file's SHA-256 is that of one content for ever, so that it
        is kept by browsers even where a version was published anew under its number.
        """
        in_query(request.query, NONE)
        if not self.settings.device_files:
            raise NotFound(_KEPT_HERE)
        file = self.service.device_file(target_of(names))
        wanted = names.get("sha256")
        if wanted not in (None, file.sha256):
            raise NotFound(_NO_SUCH_FILE)
        tag = f'"{file.sha256}"'
        headers = {
            "content-type": "application/octet-stream",
            "x-request-id": request.id,
            "x-content-type-options": "nosniff",
            "etag": tag,
            "cache-control": "private, no-cache" if wanted is None else _FOR_EVER,
        }
        if tag in request.headers.get("if-none-match", ""):
            return Response(HTTPStatus.NOT_MODIFIED.value, b"", headers)
        return Response(HTTPStatus.OK.value, file.content, headers)

    def comparisons(self, request: Request, names: Names) -> Response:
        """Answer `.../comparisons`: how a shadow's answers differ from those given."""
        in_query(request.query, NONE)
        model = self.service.model(names["model"] or "").name
        shown = [
            comparison_json(version, shadow, one)
            for (name, version, shadow), one in sorted(
                self.metrics.comparisons().items()
            )
            if name == model
        ]
        found: ModelComparisons = {"model": model, "comparisons": shown}
        return json_response(HTTPStatus.OK, found, request.id)

    def labels(self, request: Request, names: Names) -> Response:
        """Answer `.../labels`: the version labels of a model, and their last moves."""
        in_query(request.query, NONE)
        key, model = self.check_key(request, Role.ADMIN), names["model"] or ""
        labels = self._admin.labels(key, model)
        shown: Labels = {
            "model": model,
            "version_labels": {n: one.version for n, one in labels.items()},
            "shares": {n: one.share for n, one in labels.items() if one.share},
            "moves": [move_json(one) for one in self._admin.moves(key, model)],
        }
        return json_response(HTTPStatus.OK, shown, request.id)

    def promote(self, request: Request, names: Names) -> Response:
        """Answer `:promote`: a version label names another version."""
        in_query(request.query, NONE)
        key = self.check_key(request, Role.ADMIN)
        version, share = wanted_move(request.body)
        move = self._admin.promote(
            key, names["model"] or "", version, names.get("version_label"), share
        )
        return json_response(HTTPStatus.OK, move_json(move), request.id)

    def roll_back(self, request: Request, names: Names) -> Response:
        """Answer `:rollback`: a version label names the version before."""
        in_query(request.query, NONE)
        key = self.check_key(request, Role.ADMIN)
        move = self._admin.roll_back(
            key, names["model"] or "", names.get("version_label")
        )
        return json_response(HTTPStatus.OK, move_json(move), request.id)

    def live(self, request: Request, _: Names) -> Response:
        """Answer `/livez`: this process can answer requests."""
        return json_response(HTTPStatus.OK, {"live": True}, request.id)

    def ready(self, request: Request, _: Names) -> Response:
        """Answer `/readyz`: at least one model can classify."""
        self.service.check_ready()
        return json_response(HTTPStatus.OK, {"ready": True}, request.id)

    def exposition(self, request: Request, __: Names) -> Response:
        """Answer `/metrics` in Prometheus's format, for all processes."""
        open_wanted = _OPEN_METRICS in request.headers.get("accept", "")
        form = OPEN_METRICS if open_wanted else CONTENT_TYPE_LATEST
        headers = {"content-type": form, "cache-control": "no-store"}
        state = state_of(self.service.models(), self.settings)
        page = self.metrics.exposition(state, form)
        return Response(HTTPStatus.OK.value, page, headers)


def _with_limits(response: Response, request: Request) -> Response:
    """Return a response that also says what is left of the key's quota."""
    allowance = request.timings.allowance
    if allowance is None:
        return response
    return replace(response, headers={**response.headers, **allowance.headers()})


def _answer_response(shown: Answer, request: Request, options: HttpOptions) -> Response:
    started = perf_counter()
    response = json_response(HTTPStatus.OK, shown, request.id)
    request.timings.encode = perf_counter() - started
    further = {}
    if options.timing:
        further["server-timing"] = request.timings.server_timing()
    if request.timings.captured:
        further["x-inkling-captured"] = "true"
    if further:
        return replace(response, headers={**response.headers, **further})
    return response


def target_of(names: Mapping[str, str | None]) -> Target:
    """Return the target that a path names.

    Raises:
        InvalidRequest: The version is not a whole number.
    """
    version = names.get("version")
    if version is not None and not _VERSION.fullmatch(version):
        raise InvalidRequest("A version is a whole number, such as /versions/3.")
    number = int(version) if version is not None else None
    return Target(names["model"] or "", number, names.get("version_label"))
