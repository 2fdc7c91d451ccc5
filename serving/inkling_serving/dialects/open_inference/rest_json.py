# SPDX-License-Identifier: Apache-2.0
"""The types of the JSON of the Open Inference Protocol's REST.

The builders of the JSON return them, and the document at `/openapi.json` is made from
them.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, NotRequired, TypedDict

from msgspec import Meta

__all__ = [
    "Duration",
    "IndexQuery",
    "IndexRow",
    "InferAnswer",
    "InferInput",
    "InferOutput",
    "InferQuery",
    "ModelConfig",
    "ModelMetadata",
    "ModelReadiness",
    "ModelStatistics",
    "OutputParameters",
    "ServerMetadata",
    "Statistics",
    "TensorConfig",
    "TensorMetadata",
    "WantedOutput",
]

_Shape = Annotated[list[int], Meta(description="The size of each dimension.")]
_Number = Annotated[str, Meta(description="The version's number.")]
_VALUES: dict[str, Any] = {"type": "array", "items": {}}


class InferInput(TypedDict):
    """The only input, as pictures (BYTES), pixels (UINT8) or model inputs (FP32)."""

    name: Literal["inputs"]
    datatype: Literal["BYTES", "UINT8", "FP32"]
    shape: _Shape
    data: NotRequired[
        Annotated[
            Any,
            Meta(
                description="The values, flat or nested; a picture is base64.",
                extra_json_schema=_VALUES,
            ),
        ]
    ]
    parameters: NotRequired[
        Annotated[
            dict[str, Any],
            Meta(description="`binary_data_size`: the bytes of values after the JSON."),
        ]
    ]


class WantedOutput(TypedDict):
    """The only output, as it is wanted."""

    name: Literal["scores"]
    parameters: NotRequired[
        Annotated[
            dict[str, Any],
            Meta(
                description=(
                    "`classification`: how many labels each row has, as texts; "
                    "`binary_data`: whether the values come after the JSON."
                )
            ),
        ]
    ]


class InferQuery(TypedDict):
    """An inference."""

    inputs: Annotated[list[InferInput], Meta(min_length=1, max_length=1)]
    id: NotRequired[Annotated[str, Meta(description="The answer has it, too.")]]
    outputs: NotRequired[Annotated[list[WantedOutput], Meta(max_length=1)]]
    parameters: NotRequired[
        Annotated[
            dict[str, Any],
            Meta(
                description=(
                    "`timeout`: a limit in microseconds; `binary_data_output`: whether "
                    "the values come after the JSON."
                )
            ),
        ]
    ]


class OutputParameters(TypedDict):
    """The parameters of a binary output."""

    binary_data_size: Annotated[
        int, Meta(description="The bytes of its values after the JSON.")
    ]


class InferOutput(TypedDict):
    """The only output: scores (FP32), or texts `score:index:label` (BYTES)."""

    name: Literal["scores"]
    datatype: Literal["FP32", "BYTES"]
    shape: _Shape
    data: NotRequired[
        Annotated[Any, Meta(description="The values, flat.", extra_json_schema=_VALUES)]
    ]
    parameters: NotRequired[OutputParameters]


class InferAnswer(TypedDict):
    """The answer to an inference."""

    model_name: str
    model_version: _Number
    id: NotRequired[Annotated[str, Meta(description="The id of the request.")]]
    parameters: Annotated[
        dict[str, Any], Meta(description="`contract`: the hash of the contract.")
    ]
    outputs: list[InferOutput]


class ServerMetadata(TypedDict):
    """The name, the version and the extensions of this server."""

    name: str
    version: str
    extensions: list[str]


class TensorMetadata(TypedDict):
    """An input or an output; the size -1 means any size."""

    name: str
    datatype: str
    shape: _Shape


class ModelMetadata(TypedDict):
    """The versions, the input and the output of a model."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class ModelReadiness(TypedDict):
    """The answer of a model that can answer."""

    name: str
    ready: bool


class TensorConfig(TypedDict):
    """An input or an output, without the dimension of the batch."""

    name: str
    data_type: str
    dims: _Shape


class ModelConfig(TypedDict):
    """Triton's configuration of a model."""

    name: str
    platform: str
    backend: str
    max_batch_size: int
    input: list[TensorConfig]
    output: list[TensorConfig]


class IndexQuery(TypedDict):
    """The versions to list."""

    ready: NotRequired[Annotated[bool, Meta(description="Whether only ready ones.")]]


class IndexRow(TypedDict):
    """A version of a model."""

    name: str
    version: _Number
    state: Literal["READY", "UNAVAILABLE"]
    reason: str


class Duration(TypedDict):
    """How often something was done, and how long it took."""

    count: int
    ns: Annotated[int, Meta(description="In nanoseconds, all together.")]


class ModelStatistics(TypedDict):
    """The counts and durations of a version, over all processes and protocols."""

    name: str
    version: _Number
    last_inference: Annotated[
        int, Meta(description="In milliseconds since 1970; 0 for none.")
    ]
    inference_count: Annotated[int, Meta(description="Pictures.")]
    execution_count: Annotated[int, Meta(description="Requests.")]
    inference_stats: dict[str, Duration]
    batch_stats: list[dict[str, Any]]


class Statistics(TypedDict):
    """The counts and durations of versions."""

    model_stats: list[ModelStatistics]
