# SPDX-License-Identifier: Apache-2.0
"""The rules that the values of a contract follow; `inkling.contract` checks them."""

from __future__ import annotations

import math
from typing import Any, TypeAlias

from inkling.errors import InvalidContract
from inkling.labels import is_text

__all__ = ["TOLERANCES", "check_rules"]

# An `inkling.contract.Contract`, whose module imports this one.
Contract: TypeAlias = Any

# The largest difference that any one score of an exported format may have from Keras's
# score. float32 differs only by the order of its sums, and float16 by the rounding of
# its weights. int8 rounds to steps of 1/256 in every layer. Accuracy is the main check
# of int8; this tolerance catches gross faults (a wrong scale moves scores by 0.5 and
# more).
TOLERANCES = {"float32": 1e-5, "float16": 5e-3, "int8": 0.25}

# The filters of `tf.image.resize` without antialiasing, and OpenCV's.
_WITHOUT_ANTIALIASING = ("bilinear", "nearest", "bicubic", "opencv")
_CHOICES: dict[str, tuple[str, ...]] = {
    "kind": ("photo_of_one_object", "sample"),
    "resize": ("stretch", "fit", "cover"),
    "aspect": ("scaling", "floor", "whole_pixels", "exact_box"),
    "filter": (*_WITHOUT_ANTIALIASING, "lanczos", "box", "hamming"),
    "channel_order": ("rgb", "bgr"),
    "layout": ("hwc", "chw"),
    "outputs": ("softmax", "logits", "sigmoid", "binary"),
    "alpha": ("contrast", "white", "black", "dropped"),
    "polarity": ("light_on_dark", "dark_on_light", "auto", "as_is"),
    "centring": ("none", "mass"),
    "finder": ("none", "ink-1", "ink-2", "ink-3"),
    "grey": ("luminance", "contrast"),
}
# The values of `aspect` under which a picture is scaled before it is cut or padded.
_SCALED_FIRST = ("scaling", "floor")


def check_rules(contract: Contract) -> None:
    """Check every value of a contract, and the values that belong together.

    Raises:
        InvalidContract: A field is outside its range, or two fields contradict each
            other.
    """
    _check_choices(contract)
    _check_sizes(contract)
    _check_switches(contract)
    _check_labels(contract.labels)
    if (contract.kind == "sample") != (contract.finder == "none"):
        raise InvalidContract(
            f"The contract's kind is {contract.kind} and its finder is "
            f"{contract.finder}; use the finder none for a sample, and a finder for a "
            "photo_of_one_object."
        )
    if contract.grey == "contrast" and contract.channels != 1:
        raise InvalidContract(
            f"The contract's grey is contrast and it has {contract.channels} channels; "
            "use luminance, or 1 channel."
        )
    _check_figures(contract)
    _check_resampling(contract)


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
    for name in ("scale", "offset"):
        values = getattr(contract, name)
        if len(values) not in (1, contract.channels) or not all(
            type(value) in (int, float) and math.isfinite(value) for value in values
        ):
            raise InvalidContract(
                f"The contract's {name} is {values!r:.60}; expected one finite number, "
                f"or {contract.channels} for its channels."
            )
    if 0 in contract.scale:
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


def _check_resampling(contract: Contract) -> None:
    if not 0 < contract.crop <= 1:
        raise InvalidContract(
            f"The contract's crop is {contract.crop!r:.20}; expected a number above 0, "
            "up to 1."
        )
    if not contract.antialias and contract.filter not in _WITHOUT_ANTIALIASING:
        raise InvalidContract(
            f"The contract's filter is {contract.filter} without antialiasing; "
            f"expected one of {', '.join(_WITHOUT_ANTIALIASING)}."
        )
    if contract.antialias and contract.filter == "opencv":
        raise InvalidContract(
            "The contract's filter is opencv with antialiasing; expected none, because "
            "cv2.resize does not antialias."
        )
    exact, scaled = contract.aspect == "exact_box", contract.aspect in _SCALED_FIRST
    if exact and (contract.resize != "cover" or not contract.antialias):
        raise InvalidContract(
            "The contract's aspect is exact_box; it needs the resize cover, with "
            "antialiasing."
        )
    if contract.crop < 1 and not (contract.resize != "fit" and scaled):
        raise InvalidContract(
            f"The contract's crop is {contract.crop}; below 1 it needs the resize "
            f"cover or stretch and the aspect {' or '.join(_SCALED_FIRST)}."
        )
    if contract.outputs == "binary" and len(contract.labels) != 2:
        raise InvalidContract(
            f"The contract's outputs are binary with {len(contract.labels)} labels; "
            "expected two labels."
        )


def _check_switches(contract: Contract) -> None:
    for name in ("antialias", "exif"):
        if type(getattr(contract, name)) is not bool:
            raise InvalidContract(f"The contract's {name} must be true or false.")
    if set(contract.tolerances) != set(TOLERANCES):
        raise InvalidContract(
            f"The contract's tolerances must be given for {', '.join(TOLERANCES)}."
        )


def _check_labels(labels: tuple[str, ...]) -> None:
    texts = all(map(is_text, labels))
    if not labels or not texts or len(set(labels)) != len(labels):
        raise InvalidContract(
            "The contract's labels are invalid; expected one or more texts that are "
            "not empty and that all differ."
        )
