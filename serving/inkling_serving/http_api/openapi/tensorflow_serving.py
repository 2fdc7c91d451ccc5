# SPDX-License-Identifier: Apache-2.0
"""The operations of TensorFlow Serving's REST."""

from __future__ import annotations

from inkling.errors import ErrorCode
from inkling_serving.dialects.tensorflow_serving import rest_json
from inkling_serving.http_api.openapi.operation import (
    CALLER,
    CLASSIFYING,
    JSON,
    READING,
    Group,
    Operation,
)
from inkling_serving.keys import Role

__all__ = ["METADATA", "PREDICT", "STATUS"]

PREDICT = Operation(
    id="predict",
    summary="Return the scores of pictures or model inputs",
    group=Group.TENSORFLOW_SERVING,
    role=Role.PREDICT,
    description="KServe's first protocol has the same call.",
    body={JSON: rest_json.PredictRequest},
    headers=CALLER,
    answer={JSON: rest_json.PredictAnswer},
    errors=CLASSIFYING,
)
STATUS = Operation(
    id="status",
    summary="Return the state of a version",
    group=Group.TENSORFLOW_SERVING,
    role=Role.READ,
    answer={JSON: rest_json.VersionStatuses},
    errors=(*READING, ErrorCode.MODEL_NOT_FOUND),
)
METADATA = Operation(
    id="metadata",
    summary="Return the signatures of a model",
    group=Group.TENSORFLOW_SERVING,
    role=Role.READ,
    answer={JSON: rest_json.SignatureMetadata},
    errors=(*READING, ErrorCode.MODEL_NOT_FOUND, ErrorCode.NOT_READY),
)
