# SPDX-License-Identifier: Apache-2.0
"""The types of the JSON in the responses of our own addresses.

The builders of the JSON return them, and the document at `/openapi.json` is made from
them: a class becomes a schema under its name, with its first line as its description.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, NotRequired, TypedDict

from msgspec import Meta

from inkling.errors import ErrorCode
from inkling_serving.dialects.tensorflow_serving.rest_json import VersionStatuses
from inkling_serving.engines.base import State

__all__ = [
    "Answer",
    "DetailedError",
    "DeviceFile",
    "EncodedImage",
    "Error",
    "Explanation",
    "Failure",
    "Feedback",
    "InputSize",
    "InputValues",
    "LabelMove",
    "Labels",
    "Liveness",
    "Model",
    "ModelComparisons",
    "ModelState",
    "Models",
    "Prediction",
    "Readiness",
    "RefusedImage",
    "Score",
    "ShadowComparison",
    "Stage",
    "Version",
    "VersionDrift",
]


class Score(TypedDict):
    """One label with its probability."""

    label: Annotated[str, Meta(description="The label.")]
    index: Annotated[int, Meta(description="Its position in the scores, from 0.")]
    probability: Annotated[float, Meta(description="From 0 to 1.")]


class Error(TypedDict):
    """An error."""

    code: Annotated[ErrorCode, Meta(description="The code word.")]
    message: Annotated[str, Meta(description="What came, what was expected, a remedy.")]
    index: NotRequired[
        Annotated[int, Meta(description="The image it is about, from 0.")]
    ]


class RefusedImage(TypedDict):
    """The result of an image that was refused, with the option `partial`."""

    error: Error


class Prediction(TypedDict):
    """The classification of one image."""

    label: Annotated[
        str | None,
        Meta(description="The most probable label; null if the model abstained."),
    ]
    index: Annotated[
        int | None,
        Meta(description="Its position in the scores, from 0; null without a label."),
    ]
    probability: Annotated[float, Meta(description="The highest probability.")]
    abstained: NotRequired[
        Annotated[str, Meta(description="The reason why there is no label.")]
    ]
    labels: NotRequired[
        Annotated[
            list[Score],
            Meta(description="With `threshold`: all labels at or above it."),
        ]
    ]
    top: Annotated[
        list[Score],
        Meta(description="The `top_k` most probable labels, by falling probability."),
    ]


# msgspec describes no union of two kinds of objects.
_Result = Annotated[
    Any,
    Meta(
        extra_json_schema={
            "anyOf": [
                {"$ref": "#/components/schemas/Prediction"},
                {"$ref": "#/components/schemas/RefusedImage"},
            ]
        }
    ),
]


class Answer(TypedDict):
    """The answer to a classification."""

    model: Annotated[str, Meta(description="The model that answered.")]
    version: Annotated[
        int | None, Meta(description="The version that made all results.")
    ]
    contract: Annotated[str, Meta(description="The hash of its contract.")]
    results: Annotated[
        list[_Result], Meta(description="One for each image, in their order.")
    ]


class EncodedImage(TypedDict):
    """An encoded picture."""

    b64: Annotated[str, Meta(description="The picture's bytes in base64.")]


class Stage(TypedDict):
    """A stage of the preparation of an image."""

    name: Annotated[str, Meta(description="The stage.")]
    decision: Annotated[str, Meta(description="What the stage decided, and why.")]
    width: Annotated[int, Meta(description="The width of the result, in pixels.")]
    height: Annotated[int, Meta(description="The height of the result, in pixels.")]
    image: Annotated[EncodedImage, Meta(description="The result as a PNG.")]


class InputValues(TypedDict):
    """The values of a model input."""

    shape: Annotated[list[int], Meta(description="The model's `input_shape`.")]
    dtype: Literal["float32"]
    b64: Annotated[str, Meta(description="The values, little-endian, in base64.")]


class Explanation(Answer):
    """The answer to a classification of one image, and its preparation."""

    stages: Annotated[
        list[Stage], Meta(description="The last stage is the model input.")
    ]
    model_input: NotRequired[
        Annotated[InputValues, Meta(description="With the option `model_input`.")]
    ]


class InputSize(TypedDict):
    """The size of a model's input."""

    height: int
    width: int
    channels: int


class DeviceFile(TypedDict):
    """The TFLite file with which the gateway answers."""

    format: Annotated[str, Meta(description="float32, float16 or int8.")]
    bytes: int
    sha256: str


class VersionDrift(TypedDict):
    """How far recent pictures are from those of the version's test set."""

    pictures: Annotated[int, Meta(description="Recent pictures that were counted.")]
    has_baseline: Annotated[
        bool, Meta(description="Whether the version's card has a baseline.")
    ]
    index: Annotated[
        dict[str, float],
        Meta(
            description="The population stability index of each statistic; empty "
            "without a baseline, and with fewer than 200 pictures."
        ),
    ]


class Version(TypedDict):
    """A version of a model; without a contract, it has only the first four fields."""

    version: int
    state: State
    version_labels: Annotated[
        list[str], Meta(description="The labels of this version, such as `stable`.")
    ]
    reason: Annotated[
        str | None, Meta(description="Why it, or newer files of it, cannot be served.")
    ]
    contract: NotRequired[Annotated[str, Meta(description="The contract's hash.")]]
    contract_json: NotRequired[
        Annotated[str, Meta(description="The contract as canonical JSON.")]
    ]
    labels: NotRequired[list[str]]
    kind: NotRequired[str]
    outputs: NotRequired[str]
    input: NotRequired[InputSize]
    dataset: NotRequired[Annotated[str, Meta(description="The training data's name.")]]
    accuracy: NotRequired[
        Annotated[float | None, Meta(description="On the test set, from 0 to 1.")]
    ]
    drift: NotRequired[
        Annotated[VersionDrift, Meta(description="Once it has answered requests.")]
    ]
    tflite: NotRequired[
        Annotated[DeviceFile, Meta(description="Where devices may have the file.")]
    ]


class Model(TypedDict):
    """A model."""

    name: str
    ready: Annotated[bool, Meta(description="Whether any version can answer.")]
    versions: Annotated[list[Version], Meta(description="The newest first.")]
    shares: Annotated[
        dict[str, float],
        Meta(
            description="The share of the requests without a version, in percent, of "
            "each label that has one."
        ),
    ]


class ModelState(Model, VersionStatuses):
    """A model, with the states of its versions as TensorFlow Serving has them."""


class Models(TypedDict):
    """All models."""

    models: list[Model]


class LabelMove(TypedDict):
    """A move of a version label."""

    time: Annotated[str, Meta(description="In ISO 8601 and UTC.")]
    who: Annotated[str, Meta(description="The name of the key, or the user.")]
    by: Annotated[str, Meta(description="What moved it, such as `promote`.")]
    label: str
    before: Annotated[
        int | None, Meta(description="The version that it named, if any.")
    ]
    after: Annotated[
        int | None, Meta(description="The version that it names; null if it is gone.")
    ]
    share: Annotated[
        float | None, Meta(description="The share that it has, in percent, if any.")
    ]
    why: Annotated[
        str | None, Meta(description="The figures by which a rule decided, if one did.")
    ]


class Labels(TypedDict):
    """The version labels of a model."""

    model: str
    version_labels: Annotated[
        dict[str, int], Meta(description="Each label with its version.")
    ]
    shares: Annotated[
        dict[str, float],
        Meta(description="The share in percent of each label that has one."),
    ]
    moves: Annotated[
        list[LabelMove], Meta(description="The last moves, the newest first.")
    ]


class ShadowComparison(TypedDict):
    """The answers of a version and of a shadow to the same pictures."""

    version: Annotated[int, Meta(description="The version that answered.")]
    shadow: Annotated[int, Meta(description="The version that was only compared.")]
    pictures: Annotated[int, Meta(description="The pictures that both answered.")]
    agreement: Annotated[
        float | None, Meta(description="The share with the same label, from 0 to 1.")
    ]
    largest_difference: Annotated[
        float, Meta(description="The largest difference of a score.")
    ]
    engine_ms: Annotated[
        float | None, Meta(description="The engine's time for a picture, on average.")
    ]
    shadow_engine_ms: Annotated[float | None, Meta(description="The shadow's.")]
    dropped: Annotated[
        int, Meta(description="Pictures not compared: the gateway was busy.")
    ]
    failed: Annotated[
        int, Meta(description="Pictures that the shadow could not answer.")
    ]


class ModelComparisons(TypedDict):
    """The comparisons of a model since the gateway started."""

    model: str
    comparisons: list[ShadowComparison]


class Feedback(TypedDict):
    """Feedback that was stored."""

    model: Annotated[str, Meta(description="The model that had answered.")]
    version: Annotated[int, Meta(description="The version that had answered.")]
    answered: Annotated[str, Meta(description="The label of the answer.")]
    label: Annotated[str, Meta(description="The label that is right.")]


class DetailedError(Error):
    """An error, with the id of the request."""

    request_id: Annotated[str, Meta(description="The id in the header X-Request-Id.")]


class Failure(TypedDict):
    """The body of a refusal."""

    error: DetailedError


class Liveness(TypedDict):
    """The answer of a process that runs."""

    live: bool


class Readiness(TypedDict):
    """The answer of a gateway that can classify."""

    ready: bool
