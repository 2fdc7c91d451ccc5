# SPDX-License-Identifier: Apache-2.0
"""The types of the options and bodies that our own addresses take."""

from __future__ import annotations

from typing import Annotated, NotRequired, Required, TypedDict

from msgspec import Meta

from inkling_serving.http_api.openapi.answers import EncodedImage

__all__ = [
    "Binary",
    "ClassifyForm",
    "ClassifyOptions",
    "ClassifyRequest",
    "EncodedForm",
    "ExplainForm",
    "ExplainOptions",
    "ExplainRequest",
    "FeedbackRequest",
    "ImageText",
    "Promotion",
]

# Tools of OpenAPI offer a file for it; JSON Schema has no bytes.
Binary = Annotated[str, Meta(extra_json_schema={"format": "binary"})]
ImageText = Annotated[str, Meta(description="Base64, or a `data:` URL.")]


class _Options(TypedDict, total=False):
    top_k: Annotated[
        int,
        # With a `default`, clients would send it beside another value in the JSON.
        Meta(ge=1, description="How many labels each result has; 1 if not given."),
    ]
    threshold: Annotated[
        float,
        Meta(
            ge=0,
            le=1,
            description=(
                "Gives all labels with this probability or a higher one; for models "
                "whose pictures may have several labels."
            ),
        ),
    ]
    abstain: Annotated[
        bool,
        Meta(description="Whether the model may give no label instead of a guess."),
    ]
    timing: Annotated[
        bool, Meta(description="Whether the answer has the header Server-Timing.")
    ]


class ExplainOptions(_Options, total=False):
    """The options of an explanation."""

    model_input: Annotated[
        bool, Meta(description="Whether the answer has the values of the model input.")
    ]


class ClassifyOptions(_Options, total=False):
    """The options of a classification."""

    partial: Annotated[
        bool,
        Meta(description="Whether the other images are answered if one is refused."),
    ]


class ExplainRequest(ExplainOptions, total=False):
    """One encoded picture, and the options."""

    images: Required[Annotated[list[EncodedImage], Meta(min_length=1, max_length=1)]]


class ClassifyRequest(ClassifyOptions, total=False):
    """Encoded pictures, and the options."""

    images: Required[Annotated[list[EncodedImage], Meta(min_length=1)]]


class ExplainForm(ExplainOptions, total=False):
    """A form with a picture in a field of any name, and the options."""

    image: Binary


class ClassifyForm(ClassifyOptions, total=False):
    """A form with one or more pictures in fields of any name, and the options."""

    images: list[Binary]


class EncodedForm(ClassifyOptions, total=False):
    """A form with pictures as texts in fields of any name, and the options."""

    image: ImageText


class Promotion(TypedDict):
    """The version that a label is to name."""

    version: Annotated[
        int | None, Meta(description="Its number; null takes the label away.")
    ]
    share: NotRequired[
        Annotated[
            float,
            Meta(
                ge=0,
                le=100,
                description="For `canary`: its share of the requests without a "
                "version, in percent. If it is not given, the share stays as it is.",
            ),
        ]
    ]


class FeedbackRequest(TypedDict):
    """The label that is right for a captured picture."""

    request_id: Annotated[
        str, Meta(min_length=1, description="The id of the request, from its answer.")
    ]
    label: Annotated[
        str, Meta(min_length=1, description="One of the labels of the model.")
    ]
    image: NotRequired[
        Annotated[
            int,
            Meta(ge=0, description="The picture's position in its request; 0 if not."),
        ]
    ]
