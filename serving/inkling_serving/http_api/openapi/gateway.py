# SPDX-License-Identifier: Apache-2.0
"""The operations of our own addresses."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from inkling.errors import ErrorCode
from inkling_serving.http_api.openapi import answers, requests
from inkling_serving.http_api.openapi.operation import (
    CALLER,
    CLASSIFYING,
    JSON,
    READING,
    Group,
    Header,
    Operation,
)
from inkling_serving.keys import Role

__all__ = [
    "CLASSIFY",
    "COMPARISONS",
    "DOCUMENT",
    "EXPLAIN",
    "FEEDBACK",
    "FILE",
    "FILE_OF_HASH",
    "LABELS",
    "LIVE",
    "METRICS",
    "MODEL",
    "MODELS",
    "PROMOTE",
    "READY",
    "ROLL_BACK",
]

_TIMING = {
    "Server-Timing": Header(str, "With `timing`: the duration of each phase, in ms."),
    "X-Inkling-Captured": Header(
        str, "`true` if the request is captured, so that it takes feedback."
    ),
}

_MOVING = (
    *READING,
    ErrorCode.PERMISSION_DENIED,
    ErrorCode.MODEL_NOT_FOUND,
    ErrorCode.NOT_READY,
)

CLASSIFY = Operation(
    id="classify",
    summary="Classify one or more pictures",
    group=Group.CLASSIFICATION,
    role=Role.PREDICT,
    description=(
        "A body that starts like a picture is one picture, with any content type. "
        "An option stands in the query, in the JSON or in a field of the form."
    ),
    body={
        "application/octet-stream": requests.Binary,
        "multipart/form-data": requests.ClassifyForm,
        JSON: requests.ClassifyRequest,
        "text/plain": requests.ImageText,
        "application/x-www-form-urlencoded": requests.EncodedForm,
    },
    options=requests.ClassifyOptions,
    answer={JSON: answers.Answer},
    headers=CALLER,
    answer_headers=_TIMING,
    errors=CLASSIFYING,
)
EXPLAIN = Operation(
    id="explain",
    summary="Classify a picture, and show each stage of its preparation",
    group=Group.CLASSIFICATION,
    role=Role.PREDICT,
    body={
        "application/octet-stream": requests.Binary,
        "multipart/form-data": requests.ExplainForm,
        JSON: requests.ExplainRequest,
        "text/plain": requests.ImageText,
    },
    options=requests.ExplainOptions,
    answer={JSON: answers.Explanation},
    headers=CALLER,
    answer_headers=_TIMING,
    errors=CLASSIFYING,
)
FEEDBACK = Operation(
    id="giveFeedback",
    summary="Say which label is right for a picture that was classified",
    group=Group.CLASSIFICATION,
    role=Role.FEEDBACK,
    description=(
        "Where the gateway captures requests (`--capture`). The answer to a captured "
        "request has the header `X-Inkling-Captured`, and its id is in `X-Request-Id`."
    ),
    body={JSON: requests.FeedbackRequest},
    answer={JSON: answers.Feedback},
    errors=(
        *READING,
        ErrorCode.UNSUPPORTED_MEDIA_TYPE,
        ErrorCode.UNKNOWN_REQUEST,
        ErrorCode.NOT_READY,
        ErrorCode.NOT_FOUND,
    ),
)
MODELS = Operation(
    id="listModels",
    summary="List the models",
    group=Group.MODELS,
    role=Role.READ,
    answer={JSON: answers.Models},
)
MODEL = Operation(
    id="getModel",
    summary="Describe a model",
    group=Group.MODELS,
    role=Role.READ,
    description="Clients of TensorFlow Serving read `model_version_status`.",
    answer={JSON: answers.ModelState},
    errors=(*READING, ErrorCode.MODEL_NOT_FOUND),
)
FILE = Operation(
    id="deviceFile",
    summary="Return the TFLite file with which this gateway answers",
    group=Group.MODELS,
    role=Role.PREDICT,
    description="It carries its contract. The ETag is its SHA-256 in quotes.",
    answer={"application/octet-stream": requests.Binary},
    errors=(*READING, ErrorCode.MODEL_NOT_FOUND, ErrorCode.NOT_READY),
    has_tag=True,
    setting="device_files",
)
FILE_OF_HASH = replace(
    FILE,
    id="deviceFileOfHash",
    summary="Return that file if it has a SHA-256",
    description="The file of an address never changes, so that it may be kept.",
    errors=(*FILE.errors, ErrorCode.NOT_FOUND),
)
COMPARISONS = Operation(
    id="listComparisons",
    summary="Compare the answers of a model with those of its shadow",
    group=Group.MODELS,
    role=Role.READ,
    answer={JSON: answers.ModelComparisons},
    errors=(*READING, ErrorCode.MODEL_NOT_FOUND),
)
LABELS = Operation(
    id="listLabels",
    summary="List the version labels of a model, and their last moves",
    group=Group.ADMINISTRATION,
    role=Role.ADMIN,
    description="A gateway without API keys refuses it.",
    answer={JSON: answers.Labels},
    errors=_MOVING,
)
PROMOTE = Operation(
    id="promote",
    summary="Let a version label name a version",
    group=Group.ADMINISTRATION,
    role=Role.ADMIN,
    description=(
        "Without a label in the address, it is `stable`. The files of the version are "
        "checked before. The label moves in a gateway once all its processes have "
        "loaded the version. A gateway without API keys refuses it."
    ),
    body={JSON: requests.Promotion},
    answer={JSON: answers.LabelMove},
    errors=_MOVING,
)
ROLL_BACK = Operation(
    id="rollBack",
    summary="Let a version label name the version that it named before",
    group=Group.ADMINISTRATION,
    role=Role.ADMIN,
    description=(
        "Without a label in the address, it is `stable`. A gateway without API keys "
        "refuses it."
    ),
    answer={JSON: answers.LabelMove},
    errors=_MOVING,
)
LIVE = Operation(
    id="live",
    summary="Tell whether the process can answer requests",
    group=Group.STATE,
    role=None,
    answer={JSON: answers.Liveness},
)
READY = Operation(
    id="ready",
    summary="Tell whether any model can classify",
    group=Group.STATE,
    role=None,
    answer={JSON: answers.Readiness},
    errors=(*READING, ErrorCode.NOT_READY),
)
METRICS = Operation(
    id="metrics",
    summary="Count requests, pictures and errors, for all processes of the gateway",
    group=Group.STATE,
    role=Role.READ,
    answer={"text/plain": str},
)
DOCUMENT = Operation(
    id="document",
    summary="Describe all addresses, as this document does",
    group=Group.STATE,
    role=None,
    answer={JSON: dict[str, Any]},
)
