# SPDX-License-Identifier: Apache-2.0
"""The operations of our own addresses."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from inkling.errors import ErrorCode
from inkling_serving.http_api.openapi import answers, requests
from inkling_serving.http_api.openapi.operation import (
    CLASSIFYING,
    JSON,
    READING,
    Group,
    Header,
    Operation,
)

__all__ = [
    "CLASSIFY",
    "DOCUMENT",
    "EXPLAIN",
    "FEEDBACK",
    "FILE",
    "FILE_OF_HASH",
    "LIVE",
    "METRICS",
    "MODEL",
    "MODELS",
    "READY",
]

_TIMING = {
    "Server-Timing": Header(str, "With `timing`: the duration of each phase, in ms."),
    "X-Inkling-Captured": Header(
        str, "`true` if the request is captured, so that it takes feedback."
    ),
}

CLASSIFY = Operation(
    id="classify",
    summary="Classify one or more pictures",
    group=Group.CLASSIFICATION,
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
    answer_headers=_TIMING,
    errors=CLASSIFYING,
)
EXPLAIN = Operation(
    id="explain",
    summary="Classify a picture, and show each stage of its preparation",
    group=Group.CLASSIFICATION,
    body={
        "application/octet-stream": requests.Binary,
        "multipart/form-data": requests.ExplainForm,
        JSON: requests.ExplainRequest,
        "text/plain": requests.ImageText,
    },
    options=requests.ExplainOptions,
    answer={JSON: answers.Explanation},
    answer_headers=_TIMING,
    errors=CLASSIFYING,
)
FEEDBACK = Operation(
    id="giveFeedback",
    summary="Say which label is right for a picture that was classified",
    group=Group.CLASSIFICATION,
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
    answer={JSON: answers.Models},
)
MODEL = Operation(
    id="getModel",
    summary="Describe a model",
    group=Group.MODELS,
    description="Clients of TensorFlow Serving read `model_version_status`.",
    answer={JSON: answers.ModelState},
    errors=(*READING, ErrorCode.MODEL_NOT_FOUND),
)
FILE = Operation(
    id="deviceFile",
    summary="Return the TFLite file with which this gateway answers",
    group=Group.MODELS,
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
LIVE = Operation(
    id="live",
    summary="Tell whether the process can answer requests",
    group=Group.STATE,
    answer={JSON: answers.Liveness},
)
READY = Operation(
    id="ready",
    summary="Tell whether any model can classify",
    group=Group.STATE,
    answer={JSON: answers.Readiness},
    errors=(*READING, ErrorCode.NOT_READY),
)
METRICS = Operation(
    id="metrics",
    summary="Count requests, pictures and errors, for all processes of the gateway",
    group=Group.STATE,
    answer={"text/plain": str},
)
DOCUMENT = Operation(
    id="document",
    summary="Describe all addresses, as this document does",
    group=Group.STATE,
    answer={JSON: dict[str, Any]},
)
