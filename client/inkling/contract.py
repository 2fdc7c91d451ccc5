"""The contract: what a model expects of an image, and what its scores mean.

A contract is published with the model and followed by training, gateway, client and
device alike, so a picture cannot be prepared in two ways. Its canonical JSON is
hashed, and the hash travels in every answer.
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

CONTRACT_FORMAT = 1

# Largest difference of any one score from Keras's that each exported format may show.
# float32 differs by summation order only; float16 by the rounding of its weights;
# int8 by its steps of 1/256 through every layer, judged by accuracy first and held
# here against a gross fault (a wrong scale moves scores by 0.5 and more).
TOLERANCES = {"float32": 1e-5, "float16": 5e-3, "int8": 0.25}

_CHOICES: dict[str, tuple[str, ...]] = {
    "kind": ("photo_of_one_object", "sample"),
    "filter": ("bilinear", "box"),
    "alpha": ("contrast", "white", "black"),
    "polarity": ("light_on_dark", "dark_on_light", "auto", "as_is"),
    "centring": ("none", "mass"),
    "finder": ("none", "ink-1"),
}


@dataclass(frozen=True)
class TrainingData:
    """Which pictures the model learned from: their name and the digest of them all."""

    name: str
    digest: str


@dataclass(frozen=True, kw_only=True)
class Contract:
    """What a model expects of an image and means by its scores.

    Attributes:
        height: Rows of the model input, in pixels.
        width: Columns of the model input, in pixels.
        channels: 1 for grey, 3 for red, green and blue.
        labels: The name of each score, in order.
        kind: `photo_of_one_object` finds the object in a picture and frames it as
            the training pictures are framed; `sample` takes the whole picture as it
            is. A picture that already has the size of the model input is a sample
            under either kind.
        finder: Which procedure finds the object: `ink-1` is `inkling.image.ink`, for
            one thing written on paper. A procedure never changes under its name, so that
            a model is always prepared for as it was when it was published.
        filter: How a picture is resampled to another size: `bilinear` or `box`,
            both with the support widened when reducing, as Pillow does.
        keep_aspect: Whether resampling keeps the proportions and pads the rest.
        pad: Value of padded pixels before scaling, 0 to 255.
        exif: Whether the orientation that the camera noted is applied.
        alpha: What transparent parts are laid on: `white`, `black`, or `contrast`,
            which takes black under light opaque parts and white under dark ones.
        polarity: `light_on_dark` and `dark_on_light` say what pictures are like;
            `auto` decides for each picture by its border (the rule is
            `inkling.image.preprocess.is_dark_on_light`); `as_is` never inverts. A model
            input always is light on dark unless the polarity is `as_is`.
        centring: `mass` scales a found object into a box of `box` pixels and puts
            its centre of mass at the centre of the input; `none` leaves it.
        box: Side of that box in pixels.
        min_side: A picture is reduced to 1/2, 1/4 or 1/8 scale where both sides keep
            at least this many pixels; a JPEG while it is decoded, a PNG by averaging.
        scale: Model input = pixel * scale + offset, in float32.
        offset: See `scale`.
        temperature: What the model divides its logits by before the softmax, so that
            its scores are probabilities: of the pictures scored 0.9, nine in ten are
            right. It is part of the model; stated here for those who ask.
        abstain_below: Where abstaining is asked for, a picture whose highest score is
            under this has no label; from 0, which is never, to below 1.
        training_data: What the model learned from.
        tolerances: Largest difference of a score from Keras's, by exported format.
    """

    height: int
    width: int
    channels: int
    labels: tuple[str, ...]
    kind: str
    training_data: TrainingData
    finder: str = "none"
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
                f"The contract's kind is {self.kind} and its finder {self.finder}; a "
                "sample needs no finder, and a photo_of_one_object needs one."
            )
        _check_figures(self)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Shape of one model input: (height, width, channels)."""
        return self.height, self.width, self.channels

    @cached_property
    def json(self) -> str:
        """The canonical form: sorted keys, no spaces, ASCII only."""
        values = {"format": CONTRACT_FORMAT, **dataclasses.asdict(self)}
        return json.dumps(values, sort_keys=True, separators=(",", ":"))

    @cached_property
    def hash(self) -> str:
        """`sha256:` and the digest of the canonical form."""
        return "sha256:" + hashlib.sha256(self.json.encode()).hexdigest()

    @classmethod
    def from_json(cls, text: str | bytes) -> Contract:
        """Read a contract; the inverse of `json`.

        Raises:
            InvalidContract: The text is not a contract of this format.
        """
        try:
            values: dict[str, Any] = json.loads(text)
            found = values.pop("format")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise InvalidContract(
                'A contract is a JSON object with a "format"; this is none.'
            ) from None
        if found != CONTRACT_FORMAT:
            raise InvalidContract(
                f"The contract has format {found!r:.20}; this Inkling reads format "
                f"{CONTRACT_FORMAT}. Use the Inkling that published the model."
            )
        _check_names(values)
        try:
            values["training_data"] = TrainingData(**values["training_data"])
            values["labels"] = tuple(values["labels"])
            return cls(**values)
        except (TypeError, ValueError):
            raise InvalidContract("A field of the contract has a wrong type.") from None


def _check_names(values: dict[str, Any]) -> None:
    known = {item.name for item in dataclasses.fields(Contract)}
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
                f"The contract's {name} is {value!r:.20}; expected a whole number "
                f"from {low} to {high}."
            )

    longest = min(contract.height, contract.width)
    if contract.centring == "mass" and contract.box > longest:
        raise InvalidContract(
            f"The contract's box is {contract.box}; it must fit into the model input, "
            f"whose shorter side is {longest}."
        )


def _check_figures(contract: Contract) -> None:
    if not (math.isfinite(contract.scale) and math.isfinite(contract.offset)):
        raise InvalidContract("The contract's scale and offset must be finite.")
    if contract.scale == 0:
        raise InvalidContract("The contract's scale is 0: every input would be.")
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
            "The contract's labels must be at least one text, none empty, none twice."
        )
