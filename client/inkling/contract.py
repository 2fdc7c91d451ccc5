"""The contract of a model: defines its input and the meaning of its scores.

A contract is published with the model. Training, gateway, client and device all follow
it, so they prepare a picture in the same way. The contract's canonical JSON is hashed
with SHA-256, and every answer carries the hash.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from inkling.errors import InvalidContract

__all__ = ["CONTRACT_FORMAT", "TOLERANCES", "Contract", "TrainingData"]

# Format 2 adds the field `grey`. A contract whose grey is luminance is still written in
# format 1, so that published contracts keep their hash.
CONTRACT_FORMAT = 2
_FORMATS = (1, CONTRACT_FORMAT)

# The largest difference that any one score of an exported format may have from Keras's
# score. float32 differs only by the order of its sums, and float16 by the rounding of
# its weights. int8 rounds to steps of 1/256 in every layer. Accuracy is the main check
# of int8; this tolerance catches gross faults (a wrong scale moves scores by 0.5 and
# more).
TOLERANCES = {"float32": 1e-5, "float16": 5e-3, "int8": 0.25}

_CHOICES: dict[str, tuple[str, ...]] = {
    "kind": ("photo_of_one_object", "sample"),
    "filter": ("bilinear", "box"),
    "alpha": ("contrast", "white", "black"),
    "polarity": ("light_on_dark", "dark_on_light", "auto", "as_is"),
    "centring": ("none", "mass"),
    "finder": ("none", "ink-1", "ink-2"),
    "grey": ("luminance", "contrast"),
}


@dataclass(frozen=True)
class TrainingData:
    """The dataset that trained the model.

    Attributes:
        name: The name of the dataset.
        digest: The SHA-256 of all its pictures and labels.
    """

    name: str
    digest: str


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
            the size of the model input is a sample; `ink-2` restricts this.
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
        filter: The resampling filter, `bilinear` or `box`. Both are antialiased: a
            reduction widens their support, as in Pillow.
        keep_aspect: True if resampling keeps the proportions and pads the rest.
        pad: Value of padded pixels before scaling, 0 to 255.
        exif: True if the EXIF orientation is applied.
        alpha: The background under transparent parts: `white`, `black` or `contrast`.
            `contrast` puts black under light opaque parts and white under dark ones.
        polarity: `light_on_dark` and `dark_on_light` state the polarity of all
            pictures. `auto` decides it for each picture: for a sample by the border
            (`inkling.image.preprocess.is_dark_on_light`), for an object by its edges
            (`inkling.image.ink.is_dark_ink`). `as_is` never inverts. Under the other
            three, a model input is light on dark.
        centring: `mass` scales a found object into a square box and puts its centre of
            mass at the centre of the input; `none` does neither.
        box: Side of that box, in pixels, 1 to 4096.
        min_side: A picture is reduced to 1/2, 1/4 or 1/8 scale if both sides keep at
            least this many pixels, 1 to 8192. A JPEG is decoded at that scale; a PNG
            is averaged.
        scale: Model input = pixel * scale + offset, in float32; finite and not 0.
        offset: See `scale`; finite.
        temperature: The softmax temperature: the model divides its logits by it, so
            that of the predictions with probability 0.9, nine in ten are right. The
            model contains the division; the contract only states the value. Above 0.
        abstain_below: If the caller allows abstention, a picture whose highest score
            is below this value has no label. From 0 (never) to below 1.
        training_data: The dataset that trained the model.
        tolerances: The largest difference of a score from Keras's, by exported format.

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
    filter: str = "bilinear"
    keep_aspect: bool = True
    pad: int = 0
    exif: bool = True
    alpha: str = "contrast"
    polarity: str = "auto"
    centring: str = "mass"
    box: int = 20
    min_side: int = 512
    scale: float = 1 / 255
    offset: float = 0.0
    temperature: float = 1.0
    abstain_below: float = 0.0
    tolerances: dict[str, float] = field(default_factory=lambda: dict(TOLERANCES))

    def __post_init__(self) -> None:
        _check_choices(self)
        _check_sizes(self)
        _check_switches(self)
        _check_labels(self.labels)
        if (self.kind == "sample") != (self.finder == "none"):
            raise InvalidContract(
                f"The contract's kind is {self.kind} and its finder is {self.finder}; "
                "use the finder none for a sample, and ink-2 for a photo_of_one_object."
            )
        if self.grey == "contrast" and self.channels != 1:
            raise InvalidContract(
                f"The contract's grey is contrast and it has {self.channels} channels; "
                "use luminance, or 1 channel."
            )
        _check_figures(self)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """The shape of one model input: (height, width, channels)."""
        return self.height, self.width, self.channels

    @cached_property
    def json(self) -> str:
        """The contract as canonical JSON: sorted keys, without spaces, ASCII only."""
        values = {"format": CONTRACT_FORMAT, **dataclasses.asdict(self)}
        if self.grey == "luminance":
            values["format"] = 1
            del values["grey"]
        return json.dumps(values, sort_keys=True, separators=(",", ":"))

    @cached_property
    def hash(self) -> str:
        """`sha256:` and the hexadecimal SHA-256 of the canonical JSON."""
        return "sha256:" + hashlib.sha256(self.json.encode()).hexdigest()

    @classmethod
    def from_json(cls, text: str | bytes) -> Contract:
        """Return the contract in a JSON text; this is the inverse of `json`.

        Raises:
            InvalidContract: The text is not a contract of format 1 or 2, or a field
                is unknown, missing or out of its range.
        """
        try:
            values: dict[str, Any] = json.loads(text)
            found = values.pop("format")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise InvalidContract(
                'The text is not a contract; expected a JSON object with a "format".'
            ) from None
        if type(found) is not int or found not in _FORMATS:
            raise InvalidContract(
                f"The contract has format {found!r:.20}; this Inkling reads formats "
                f"{' and '.join(map(str, _FORMATS))}. Use the Inkling that published "
                "the model."
            )
        _check_names(values, found)
        try:
            values["training_data"] = TrainingData(**values["training_data"])
            values["labels"] = tuple(values["labels"])
            return cls(**values)
        except (TypeError, ValueError):
            raise InvalidContract(
                "A field of the contract has a wrong type; use the contract.json of a "
                "published version as a pattern."
            ) from None


def _check_names(values: dict[str, Any], written_format: int) -> None:
    known = {item.name for item in dataclasses.fields(Contract)}
    if written_format == 1:
        known.remove("grey")
    wrong = sorted(known.symmetric_difference(values))
    if wrong:
        raise InvalidContract(
            f"The contract has unknown or missing fields: {', '.join(wrong)[:200]}."
        )


def _check_choices(contract: Contract) -> None:
    for name, choices in _CHOICES.items():
        value = getattr(contract, name)
        if value not in choices:
            raise InvalidContract(
                f"The contract's {name} is {value!r:.40}; expected one of "
                f"{', '.join(choices)}."
            )


def _check_sizes(contract: Contract) -> None:
    if contract.channels not in (1, 3):
        raise InvalidContract(
            f"The contract's channels are {contract.channels!r:.20}; expected 1 or 3."
        )
    ranges = {
        "height": (1, 4096),
        "width": (1, 4096),
        "pad": (0, 255),
        "box": (1, 4096),
        "min_side": (1, 8192),
    }
    for name, (low, high) in ranges.items():
        value = getattr(contract, name)
        if type(value) is not int or not low <= value <= high:
            raise InvalidContract(
                f"The contract's {name} is {value!r:.20}; expected an integer from "
                f"{low} to {high}."
            )

    longest = min(contract.height, contract.width)
    if contract.centring == "mass" and contract.box > longest:
        raise InvalidContract(
            f"The contract's box is {contract.box}; it must fit into the model input, "
            f"whose shorter side is {longest}."
        )


def _check_figures(contract: Contract) -> None:
    if not (math.isfinite(contract.scale) and math.isfinite(contract.offset)):
        raise InvalidContract(
            f"The contract's scale is {contract.scale!r:.20} and its offset is "
            f"{contract.offset!r:.20}; expected finite numbers."
        )
    if contract.scale == 0:
        raise InvalidContract(
            "The contract's scale is 0, which makes every input the same; expected "
            "another number."
        )
    if not 0 < contract.temperature < math.inf:
        raise InvalidContract(
            f"The contract's temperature is {contract.temperature!r:.20}; expected a "
            "number above 0."
        )
    if not 0 <= contract.abstain_below < 1:
        raise InvalidContract(
            f"The contract's abstain_below is {contract.abstain_below!r:.20}; expected "
            "a number from 0 to below 1."
        )


def _check_switches(contract: Contract) -> None:
    for name in ("keep_aspect", "exif"):
        if type(getattr(contract, name)) is not bool:
            raise InvalidContract(f"The contract's {name} must be true or false.")
    if set(contract.tolerances) != set(TOLERANCES):
        raise InvalidContract(
            f"The contract's tolerances must be given for {', '.join(TOLERANCES)}."
        )


def _check_labels(labels: tuple[str, ...]) -> None:
    texts = all(isinstance(label, str) and label for label in labels)
    if not labels or not texts or len(set(labels)) != len(labels):
        raise InvalidContract(
            "The contract's labels are invalid; expected one or more texts that are "
            "not empty and that all differ."
        )
