# SPDX-License-Identifier: Apache-2.0
"""The operations of the Open Inference Protocol's REST."""

from __future__ import annotations

from typing import Any

from inkling.errors import ErrorCode
from inkling_serving.dialects.open_inference import rest_json
from inkling_serving.http_api.openapi.answers import Liveness, Readiness
from inkling_serving.http_api.openapi.operation import (
    CALLER,
    CLASSIFYING,
    JSON,
    READING,
    Group,
    Header,
    Operation,
)
from inkling_serving.http_api.openapi.requests import Binary
from inkling_serving.keys import Role

__all__ = [
    "ALL_STATISTICS",
    "INDEX",
    "INFER",
    "LIVE",
    "LOAD",
    "MODEL_CONFIG",
    "MODEL_METADATA",
    "MODEL_READY",
    "MODEL_STATISTICS",
    "READY",
    "SERVER_METADATA",
    "UNLOAD",
]

_GROUP = Group.OPEN_INFERENCE
_OF_A_MODEL = (*READING, ErrorCode.MODEL_NOT_FOUND, ErrorCode.NOT_READY)
_JSON_LENGTH = "Inference-Header-Content-Length"
_OCTETS = "application/octet-stream"

INFER = Operation(
    id="infer",
    summary="Return the scores, or the likeliest labels",
    group=_GROUP,
    role=Role.PREDICT,
    description=(
        "A binary body is JSON and then the values of its tensors. With "
        f"`{_JSON_LENGTH}: 0`, it is one picture and nothing else."
    ),
    body={JSON: rest_json.InferQuery, _OCTETS: Binary},
    headers={
        _JSON_LENGTH: Header(int, "The bytes of the JSON before the values."),
        **CALLER,
    },
    answer={JSON: rest_json.InferAnswer, _OCTETS: Binary},
    answer_headers={
        _JSON_LENGTH: Header(
            int, "The bytes of the JSON, an InferAnswer, before the values."
        )
    },
    errors=CLASSIFYING,
)
SERVER_METADATA = Operation(
    id="serverMetadata",
    summary="Return the name, the version and the extensions of this server",
    group=_GROUP,
    role=Role.READ,
    answer={JSON: rest_json.ServerMetadata},
)
LIVE = Operation(
    id="serverLive",
    summary="Tell whether the process can answer requests",
    group=_GROUP,
    role=None,
    answer={JSON: Liveness},
)
READY = Operation(
    id="serverReady",
    summary="Tell whether any model can classify",
    group=_GROUP,
    role=None,
    answer={JSON: Readiness},
    errors=(*READING, ErrorCode.NOT_READY),
)
MODEL_METADATA = Operation(
    id="modelMetadata",
    summary="Return the versions, the input and the output of a model",
    group=_GROUP,
    role=Role.READ,
    answer={JSON: rest_json.ModelMetadata},
    errors=_OF_A_MODEL,
)
MODEL_READY = Operation(
    id="modelReady",
    summary="Tell whether a model can answer",
    group=_GROUP,
    role=Role.READ,
    answer={JSON: rest_json.ModelReadiness},
    errors=_OF_A_MODEL,
)
MODEL_CONFIG = Operation(
    id="modelConfig",
    summary="Return Triton's configuration of a model",
    group=_GROUP,
    role=Role.READ,
    answer={JSON: rest_json.ModelConfig},
    errors=_OF_A_MODEL,
)
MODEL_STATISTICS = Operation(
    id="modelStatistics",
    summary="Return the counts and durations of a model",
    group=_GROUP,
    role=Role.READ,
    answer={JSON: rest_json.Statistics},
    errors=_OF_A_MODEL,
)
ALL_STATISTICS = Operation(
    id="allStatistics",
    summary="Return the counts and durations of all models",
    group=_GROUP,
    role=Role.READ,
    answer={JSON: rest_json.Statistics},
)
INDEX = Operation(
    id="repositoryIndex",
    summary="List each version of each model, with its state",
    group=_GROUP,
    role=Role.READ,
    body={JSON: rest_json.IndexQuery},
    needs_body=False,
    answer={JSON: list[rest_json.IndexRow]},
)
LOAD = Operation(
    id="repositoryLoad",
    summary="Check that a model is loaded",
    group=_GROUP,
    role=Role.ADMIN,
    description="The gateway loads each published version by itself.",
    body={JSON: dict[str, Any]},
    needs_body=False,
    answer={JSON: dict[str, Any]},
    errors=(*READING, ErrorCode.MODEL_NOT_FOUND),
)
UNLOAD = Operation(
    id="repositoryUnload",
    summary="Refuse to unload a model",
    group=_GROUP,
    role=Role.ADMIN,
    description="The gateway serves what its repository holds.",
    body={JSON: dict[str, Any]},
    needs_body=False,
    answer={},
    errors=(*READING, ErrorCode.MODEL_NOT_FOUND),
)
