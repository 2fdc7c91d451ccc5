# SPDX-License-Identifier: Apache-2.0
"""The types of the JSON of TensorFlow Serving's REST.

The builders of the JSON return them, and the document at `/openapi.json` is made from
them.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, NotRequired, TypedDict

from msgspec import Meta

__all__ = [
    "Dimension",
    "ModelSpec",
    "PredictAnswer",
    "PredictRequest",
    "SignatureDef",
    "SignatureDefs",
    "SignatureMap",
    "SignatureMetadata",
    "TensorInfo",
    "TensorShape",
    "VersionState",
    "VersionStatus",
    "VersionStatuses",
]

_VALUES: dict[str, Any] = {"type": "array", "items": {}}
_ROWS = {
    **_VALUES,
    "minItems": 1,
    "examples": [[{"b64": "iVBORw0KGgo..."}], [[[[0.0], [0.5], [1.0]]]]],
}


class PredictRequest(TypedDict):
    """A request in rows (`instances`) or in columns (`inputs`), exactly one of them.

    A row is a picture, `{"b64": "..."}`, or a model input in nested lists.
    """

    instances: NotRequired[
        Annotated[
            Any,
            Meta(description="The rows.", extra_json_schema=_ROWS),
        ]
    ]
    inputs: NotRequired[
        Annotated[
            Any,
            Meta(description="The column of the only input, or an object with it."),
        ]
    ]
    signature_name: NotRequired[
        Annotated[str, Meta(description="`serving_default` if it is not given.")]
    ]


class PredictAnswer(TypedDict):
    """The scores of each row, in the order of the labels."""

    predictions: NotRequired[
        Annotated[
            Any,
            Meta(description="To `instances`.", extra_json_schema=_VALUES),
        ]
    ]
    outputs: NotRequired[
        Annotated[Any, Meta(description="To `inputs`.", extra_json_schema=_VALUES)]
    ]


class VersionStatus(TypedDict):
    """The reason of a state."""

    error_code: Annotated[str, Meta(description="OK, or UNKNOWN for a failure.")]
    error_message: str


class VersionState(TypedDict):
    """The state of a version."""

    version: Annotated[str, Meta(description="The version's number.")]
    state: Literal["AVAILABLE", "END"]
    status: VersionStatus


class VersionStatuses(TypedDict):
    """The states of versions, the newest first."""

    model_version_status: list[VersionState]


class ModelSpec(TypedDict):
    """The version that would answer."""

    name: str
    signature_name: str
    version: Annotated[str, Meta(description="The version's number.")]


class Dimension(TypedDict):
    """A dimension of a tensor; the size -1 means any size."""

    size: Annotated[str, Meta(description="A whole number.")]
    name: str


class TensorShape(TypedDict):
    """The shape of a tensor."""

    dim: list[Dimension]
    unknown_rank: bool


class TensorInfo(TypedDict):
    """An input or an output."""

    dtype: Annotated[str, Meta(description="Such as DT_FLOAT.")]
    tensor_shape: TensorShape
    name: str


class SignatureDef(TypedDict):
    """A signature."""

    inputs: dict[str, TensorInfo]
    outputs: dict[str, TensorInfo]
    method_name: str
    defaults: dict[str, Any]


class SignatureMap(TypedDict):
    """The signatures by their names."""

    signature_def: dict[str, SignatureDef]


class SignatureDefs(TypedDict):
    """The only kind of metadata."""

    signature_def: SignatureMap


class SignatureMetadata(TypedDict):
    """The signatures of the version that would answer."""

    model_spec: ModelSpec
    metadata: SignatureDefs
