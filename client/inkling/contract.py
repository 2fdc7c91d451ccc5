# SPDX-License-Identifier: Apache-2.0
"""The contract of a model: defines its input and the meaning of its scores.

A contract is published with the model. Training, gateway, client and device all follow
it, so they prepare a picture in the same way. The contract's canonical JSON is hashed
with SHA-256, and every answer carries the hash.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from inkling.contract_rules import TOLERANCES, check_rules
from inkling.errors import InvalidContract

__all__ = ["CONTRACT_FORMAT", "TOLERANCES", "Contract", "Source", "TrainingData"]

CONTRACT_FORMAT = 2


@dataclass(frozen=True)
class TrainingData:
    """The dataset that trained the model.

    Attributes:
        name: The name of the dataset.
        digest: The SHA-256 of all its pictures and labels.
    """

    name: str
    digest: str


@dataclass(frozen=True)
class Source:
    """Where a model is from that Inkling did not design.

    Attributes:
        name: The file or folder that was published, without its directories; or the
            function or the architecture that Inkling trained, as on its command line.
        digest: `sha256:` and the SHA-256 of the file, or of all files of the folder; of
            the file with the function or with the first weights. For weights without a
            file it is their name.
        recipe: The options with which it was published or trained.
    """

    name: str
    digest: str
    recipe: str


_NOT_OF_THE_INPUT = frozenset(
    {
        *("labels", "kind", "training_data", "outputs", "temperature"),
        *("abstain_below", "tolerances", "source", "format"),
    }
)


@dataclass(frozen=True, kw_only=True)
class Contract:
    """The definition of a model's input and of the meaning of its scores.

    Attributes:
        height: Rows of the model input, in pixels, 1 to 4096.
        width: Columns of the model input, in pixels, 1 to 4096.
        channels: 1 for grey; 3 for red, green and blue.
        labels: The name of each score, in the order of the scores; all differ.
        kind: Under `photo_of_one_object`, the preprocessing finds the object in a
            picture and frames it as the training pictures are framed. Under `sample`,
            it uses the whole picture. Under either kind, a picture that already has
            the size of the model input is a sample; from `ink-2` on, less often.
        finder: The procedure that finds the object; a sample has `none`. A procedure
            never changes under its name, so the inputs of a published model stay the
            same. `ink-1` is `inkling.image.ink`, for one object written on paper.
            `ink-2` is the same search with two further rules. A picture of the model
            input's size is a sample only if it is framed like one
            (`inkling.image.sample`); otherwise its object is found and framed. And a
            picture that was cut along the writing gets a margin of its own paper
            before the search (`inkling.image.crop`).
        grey: How a colour picture becomes grey if `channels` is 1. `luminance` is ITU-R
            601-2. `contrast` chooses for each picture between luminance and five
            projections that show the ink (`inkling.image.grey`). It also puts the
            background under transparent parts by the luminance of the opaque parts,
            and not by the mean of their channels.
        resize: How a picture gets the proportions of the input: `stretch` changes its
            proportions, `fit` pads the rest, and `cover` cuts the rest off.
        aspect: How `fit` and `cover` do so. `scaling` scales the picture, then pads it
            or cuts its centre out, rounded as torchvision and timm do; `floor` does
            the same, rounded down as Hugging Face and `tf.image.resize_with_pad` do.
            `whole_pixels` first pads or cuts in whole pixels, then scales, as Keras
            does. `exact_box` scales a box with fractions of pixels, as Pillow's
            `ImageOps.fit` does (`cover` only).
        crop: The share of the shorter side that `cover` keeps, or of both sides that
            `stretch` keeps, above 0 to 1; below 1 with `scaling` and `floor` only.
        filter: The resampling filter: `bilinear`, `nearest`, `bicubic`, `lanczos`,
            `box` or `hamming`; or `opencv`, which is `cv2.resize` of OpenCV 4 with its
            usual INTER_LINEAR, whose pixels are whole numbers.
        antialias: True for Pillow's resampling, in which a reduction widens the
            filter's support; the pixels stay whole numbers. False for the resampling of
            `tf.image.resize` with `antialias=False` (`bilinear`, `nearest` and
            `bicubic` only), whose pixels have fractions, and for `opencv`.
        pad: Value of padded pixels before scaling, 0 to 255.
        exif: True if the EXIF orientation is applied.
        alpha: The background under transparent parts: `white`, `black` or `contrast`.
            `contrast` puts black under light opaque parts and white under dark ones.
            `dropped` shows the colours that the file hides there, as Pillow's
            `convert("RGB")`, Keras and TensorFlow do.
        polarity: `light_on_dark` and `dark_on_light` state the polarity of all
            pictures. `auto` decides it for each picture: for a sample by the border
            (`inkling.image.preprocess.is_dark_on_light`), for an object by its edges
            (`inkling.image.ink.is_dark_ink`). `as_is` never inverts. Under the other
            three, a model input is light on dark.
        centring: `mass` scales a found object into a square box and puts its centre of
            mass at the centre of the input; `none` does neither.
        box: Side of that box, in pixels, 1 to 4096.
        min_side: A picture is reduced to 1/2, 1/4 or 1/8 scale if both sides keep at
            least this many pixels, 1 to 8192. A JPEG is decoded at that scale; other
            files are averaged. A picture that would keep more than 4,194,304 pixels is
            reduced further, down to 1/8.
        channel_order: `rgb`, or `bgr` if the model's first channel is blue.
        layout: `hwc` if the model input has the shape (height, width, channels), or
            `chw` for (channels, height, width).
        scale: Model input = pixel * scale + offset, in float32; finite and not 0. One
            value for all channels, or one for each in the model's order.
        offset: See `scale`; finite.
        outputs: What the model computes: `softmax` probabilities, `logits` to which
            softmax is applied, `sigmoid` with a probability for each label on its own,
            or `binary`, one probability, which is that of the second of two labels.
        temperature: The softmax temperature: the model divides its logits by it, so
            that of the predictions with probability 0.9, nine in ten are right. The
            model contains the division; the contract only states the value. Above 0.
        abstain_below: If the caller allows abstention, a picture whose highest score
            is below this value has no label. From 0 (never) to below 1.
        training_data: The dataset that trained the model.
        tolerances: The largest difference of a score from Keras's, by exported format.
        source: Where the model is from; None for a network of Inkling's own.
        format: The format in which the contract is written: 2, or 1 for a contract that
            was published in that format. Its hash stays the same.

    Raises:
        InvalidContract: A field is outside its range, or two fields contradict each
            other.
    """

    height: int
    width: int
    channels: int
    labels: tuple[str, ...]
    kind: str
    training_data: TrainingData
    finder: str = "none"
    grey: str = "luminance"
    resize: str = "fit"
    aspect: str = "scaling"
    crop: float = 1.0
    filter: str = "bilinear"
    antialias: bool = True
    pad: int = 0
    exif: bool = True
    alpha: str = "contrast"
    polarity: str = "auto"
    centring: str = "mass"
    box: int = 20
    min_side: int = 512
    channel_order: str = "rgb"
    layout: str = "hwc"
    scale: tuple[float, ...] = (1 / 255,)
    offset: tuple[float, ...] = (0.0,)
    outputs: str = "softmax"
    temperature: float = 1.0
    abstain_below: float = 0.0
    tolerances: dict[str, float] = field(default_factory=lambda: dict(TOLERANCES))
    source: Source | None = None
    format: int = CONTRACT_FORMAT

    def __post_init__(self) -> None:
        check_rules(self)
        if self.format == 1:
            _check_first_format(self)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """The shape of one model input, in the contract's layout."""
        if self.layout == "chw":
            return self.channels, self.height, self.width
        return self.height, self.width, self.channels

    @property
    def scores_sum_to_one(self) -> bool:
        """Whether exactly one label is right, so that its probability is one of 1."""
        return self.outputs != "sigmoid"

    @cached_property
    def json(self) -> str:
        """The contract as canonical JSON: sorted keys, without spaces, ASCII only."""
        values = dataclasses.asdict(self)
        if self.format == 1:
            values = _in_first_format(values)
        return json.dumps(values, sort_keys=True, separators=(",", ":"))

    @cached_property
    def hash(self) -> str:
        """`sha256:` and the hexadecimal SHA-256 of the canonical JSON."""
        return "sha256:" + hashlib.sha256(self.json.encode()).hexdigest()

    @cached_property
    def preparation(self) -> tuple[Any, ...]:
        """All fields that decide how a picture becomes a model input."""
        return tuple(
            getattr(self, item.name)
            for item in dataclasses.fields(self)
            if item.name not in _NOT_OF_THE_INPUT
        )

    def takes_inputs_of(self, other: Contract) -> bool:
        """Return whether inputs for another contract are right for this one.

        The scores must mean the same, too, because who prepares inputs also reads them.
        """
        return (
            self.preparation == other.preparation
            and self.labels == other.labels
            and self.outputs == other.outputs
        )

    @classmethod
    def from_json(cls, text: str | bytes) -> Contract:
        """Return the contract in a JSON text; this is the inverse of `json`.

        Raises:
            InvalidContract: The text is not a contract of format 1 or 2, or a field is
                unknown, missing or out of its range.
        """
        try:
            values: dict[str, Any] = json.loads(text)
            found = values["format"]
        except (ValueError, KeyError, TypeError, RecursionError):
            raise InvalidContract(
                'The text is not a contract; expected a JSON object with a "format".'
            ) from None
        if type(found) is not int or found not in (1, CONTRACT_FORMAT):
            raise InvalidContract(
                f"The contract has format {found!r:.20}; this Inkling reads the "
                f"formats 1 and {CONTRACT_FORMAT}. Use the Inkling that published the "
                "model."
            )
        try:
            if found == 1:
                values = _from_first_format(values)
            _check_names(values, {item.name for item in dataclasses.fields(cls)})
            return cls(**_typed(values))
        except (TypeError, ValueError, AttributeError):
            raise InvalidContract(
                "A field of the contract has a wrong type; use the contract.json of a "
                "published version as a pattern."
            ) from None


def _typed(values: dict[str, Any]) -> dict[str, Any]:
    """Return the fields as the contract has them: JSON has no tuples and classes."""
    source = values["source"]
    return {
        **values,
        "training_data": TrainingData(**values["training_data"]),
        "source": None if source is None else Source(**source),
        "labels": tuple(values["labels"]),
        "scale": tuple(values["scale"]),
        "offset": tuple(values["offset"]),
    }


# Fields that format 1 does not have, with the only values that it could mean.
_NOT_IN_FIRST_FORMAT: dict[str, Any] = {
    "grey": "luminance",
    "aspect": "scaling",
    "crop": 1.0,
    "antialias": True,
    "channel_order": "rgb",
    "layout": "hwc",
    "outputs": "softmax",
    "source": None,
}


def _from_first_format(values: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of format 2 that mean the same as those of format 1."""
    known = {item.name for item in dataclasses.fields(Contract)}
    known -= {"resize", *_NOT_IN_FIRST_FORMAT}
    _check_names(values, known | {"keep_aspect"})
    rest = dict(values)
    keep_aspect = rest.pop("keep_aspect")
    if type(keep_aspect) is not bool:
        raise InvalidContract("The contract's keep_aspect must be true or false.")
    return {
        **rest,
        **_NOT_IN_FIRST_FORMAT,
        "resize": "fit" if keep_aspect else "stretch",
        "scale": (rest["scale"],),
        "offset": (rest["offset"],),
    }


def _in_first_format(values: dict[str, Any]) -> dict[str, Any]:
    """Return the fields in format 1; this is the inverse of `_from_first_format`."""
    rest = {k: v for k, v in values.items() if k not in _NOT_IN_FIRST_FORMAT}
    keep_aspect = rest.pop("resize") == "fit"
    [scale], [offset] = rest["scale"], rest["offset"]
    return {**rest, "keep_aspect": keep_aspect, "scale": scale, "offset": offset}


def _check_first_format(contract: Contract) -> None:
    """Check that a contract of format 1 has no value that the format cannot state."""
    values = {name: getattr(contract, name) for name in _NOT_IN_FIRST_FORMAT}
    sizes = (len(contract.scale), len(contract.offset))
    if (
        values != _NOT_IN_FIRST_FORMAT
        or sizes != (1, 1)
        or contract.resize == "cover"
        or contract.filter not in ("bilinear", "box")
    ):
        raise InvalidContract(
            "The contract states format 1, which lacks some of its values. Write it "
            f"in format {CONTRACT_FORMAT}."
        )


def _check_names(values: dict[str, Any], known: set[str]) -> None:
    wrong = sorted(known.symmetric_difference(values))
    if wrong:
        raise InvalidContract(
            f"The contract has unknown or missing fields: {', '.join(wrong)[:200]}."
        )
