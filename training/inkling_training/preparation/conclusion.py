# SPDX-License-Identifier: Apache-2.0
"""Concludes how a given model wants its pictures, and says where each fact is from.

What the caller says comes first, then a file of another ecosystem, then the model
itself. What none of them says has a default that is named, or is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from inkling.contract import Contract, TrainingData
from inkling.contract import Source as Origin
from inkling.errors import InvalidRequest
from inkling_training.preparation.families import family_of
from inkling_training.preparation.presets import CHOICES, VALUES

if TYPE_CHECKING:
    from inkling_training.sources.source import Source

__all__ = ["Fact", "Likeness", "Wishes", "contract_of", "facts_table", "preparation"]

# A picture is then decoded in full, so that the model sees what its author's code sees,
# unless it has more pixels than Inkling decodes at all.
_MIN_SIDE = 8192
_DEFAULT = "the default"
_METADATA = "the file's metadata"
_INSIDE = "the model resizes to it"
_OWN_SIZE = {
    "flat": "the model takes its values in a row; a square picture has so many"
}


@dataclass(frozen=True)
class Wishes:
    """The options with which a caller states the preparation; None is not stated."""

    size: tuple[int, int] | None = None
    values: str | None = None
    resize: str | None = None
    aspect: str | None = None
    crop: float | None = None
    filter: str | None = None
    antialias: bool | None = None
    channels: str | None = None
    upright: bool = False


@dataclass(frozen=True)
class Likeness:
    """A preparation that a file states.

    Attributes:
        said_by: The file and its kind, for people.
        fields: Fields of the contract.
        labels: Its labels; empty without.
    """

    said_by: str = ""
    fields: Mapping[str, Any] = field(default_factory=dict)
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class Fact:
    """Something that was found or concluded, with the reason."""

    name: str
    value: str
    why: str


def facts_table(facts: list[Fact]) -> str:
    """Return the facts as a table of text."""
    names = max(len(fact.name) for fact in facts)
    values = min(44, max(len(fact.value) for fact in facts))
    return "\n".join(
        f"  {fact.name:{names}}  {fact.value:{values}}  {fact.why}".rstrip()
        for fact in facts
    )


def preparation(
    source: Source, wishes: Wishes, like: Likeness
) -> tuple[dict[str, Any], list[Fact]]:
    """Return the fields of the contract that prepare a picture, and their reasons.

    Raises:
        InvalidRequest: A fact is missing, or two facts contradict each other.
    """
    found: dict[str, Any] = {
        "kind": "sample",
        "polarity": like.fields.get("polarity", "as_is"),
        "centring": "none",
        "min_side": _MIN_SIDE,
        "layout": "chw" if _is_chw(source) else "hwc",
        "pad": like.fields.get("pad", 0),
        "grey": like.fields.get("grey", "luminance"),
    }
    facts = []
    for part in (_size, _channels, _values, _resize, _filter, _files):
        fields, fact = part(source, wishes, like)
        found |= fields
        facts.append(fact)
    found["box"] = min(20, found["height"], found["width"])
    return found, facts


def _is_chw(source: Source) -> bool:
    return source.tflite is not None and source.layout == "chw"


_Part = tuple[dict[str, Any], Fact]


def _size(source: Source, wishes: Wishes, like: Likeness) -> _Part:
    own = (source.height, source.width)
    stated: tuple[int, int] | None = None
    if "height" in like.fields:
        stated = like.fields["height"], like.fields["width"]
    for name, other in (("--size", wishes.size), (like.said_by, stated)):
        if other is not None and not _fits(own, other):
            raise InvalidRequest(
                f"{name} is {other[0]} x {other[1]}, and the input of {source.name} is "
                f"{own[0]} x {own[1]} (height x width)."
            )
    if wishes.size is not None:
        (height, width), why = wishes.size, "--size"
    elif source.height is not None and source.width is not None:
        height, width = source.height, source.width
        why = _OWN_SIZE.get(source.layout, "the model's input")
    elif stated is not None:
        (height, width), why = stated, like.said_by
    elif "height" in source.stated:
        height, width = source.stated["height"], source.stated["width"]
        why = _INSIDE
    else:
        raise InvalidRequest(
            f"{source.name} takes pictures of any size; say with --size which size it "
            "was trained on, such as --size 224 or --size 192x256 (height x width)."
        )
    fields = {"height": height, "width": width}
    return fields, Fact("input", f"{height} x {width}", why)


def _fits(own: tuple[int | None, int | None], other: tuple[int, int]) -> bool:
    return all(a is None or a == b for a, b in zip(own, other, strict=True))


def _channels(source: Source, wishes: Wishes, like: Likeness) -> _Part:
    wished = wishes.channels
    own = source.channels or like.fields.get("channels")
    if own is None:
        if wished is None:
            raise InvalidRequest(
                f"{source.name} takes any number of channels; say --channels rgb, bgr "
                "or grey."
            )
        own = 1 if wished == "grey" else 3
    if wished is not None and (wished == "grey") != (own == 1):
        form = ("grey", "grey") if own == 1 else ("colour", "rgb or bgr")
        raise InvalidRequest(
            f"--channels is {wished}, and the input of {source.name} is {form[0]}; "
            f"expected {form[1]}."
        )
    if own == 1:
        return {"channels": 1}, Fact("channels", "grey", "the model's input")
    order, why = "rgb", f"{_DEFAULT}; --channels bgr changes it"
    if wished is not None:
        order, why = wished, "--channels"
    elif wishes.values == "caffe":
        order, why = "bgr", "--values caffe"
    elif "channel_order" in like.fields:
        order, why = like.fields["channel_order"], like.said_by
    fields = {"channels": 3, "channel_order": order}
    return fields, Fact("channels", order, why)


def _values(source: Source, wishes: Wishes, like: Likeness) -> _Part:
    if wishes.values is not None:
        fields = {k: VALUES[wishes.values][k] for k in ("scale", "offset")}
        why = "--values"
        if source.values is not None and source.values[0] != wishes.values:
            why = f"--values; but {source.values[1]}, so expect {source.values[0]}"
        elif source.values is None:
            usual = _usual(source, wishes.values)
            why = f"--values.{usual}" if usual else "--values"
        return _fitting(fields, source), Fact("values", wishes.values, why)
    for said, why in ((like.fields, like.said_by), (source.stated, _METADATA)):
        if "scale" in said:
            fields = {k: tuple(said[k]) for k in ("scale", "offset")}
            name = next((n for n, f in VALUES.items() if _same(f, fields)), "")
            shown = name or _formula(fields)
            return _fitting(fields, source), Fact("values", shown, why)
    return _values_of_model(source)


def _values_of_model(source: Source) -> _Part:
    if source.values is None:
        raise InvalidRequest(
            f"{source.name} does not tell which values its pictures have; say --values "
            f"{CHOICES}. It is what your code does to a picture of 0..255 before the "
            f"model gets it.{_usual(source, '')}"
        )
    name, why = source.values
    fields = dict(VALUES[name])
    if source.quantisation is not None:
        # One step of the whole-numbered input for each grey level.
        scale, zero = source.quantisation
        lowest = -128 if source.dtype == "int8" else 0
        fields = {"scale": (scale,), "offset": ((lowest - zero) * scale,)}
    elif source.dtype == "int8":
        fields = {"scale": (1.0,), "offset": (-128.0,)}
    shown = {"bytes": "0..255", "unit": "0..1", "signed": "-1..1"}[name]
    return fields, Fact("values", shown, why)


def _usual(source: Source, wished: str) -> str:
    """Return a sentence about the values that models of this family usually take."""
    if source.quantisation is not None:
        scale, zero = source.quantisation
        lowest = -128 if source.dtype == "int8" else 0
        low, high = ((step - zero) * scale for step in (lowest, lowest + 255))
        return f" Its whole-numbered input spans {low:.3g} to {high:.3g}."
    family = family_of(source.layers)
    if family is None or family.values == wished:
        return ""
    hub = ""
    if source.library.startswith("TensorFlow") and family.values != "unit":
        hub = "; modules of TensorFlow Hub take unit"
    return (
        f" Its layers are named like those of {family.name}, which {family.library} "
        f"asks with --values {family.values}{hub}."
    )


def _fitting(fields: dict[str, Any], source: Source) -> dict[str, Any]:
    """Return scale and offset; one value serves a grey model."""
    if source.channels == 1 and max(map(len, fields.values())) > 1:
        raise InvalidRequest(
            "The values are stated for each of three channels, and the input of "
            f"{source.name} is grey; expected unit, signed or bytes."
        )
    return fields


def _same(preset: Mapping[str, Any], fields: Mapping[str, Any]) -> bool:
    return all(
        len(preset[name]) == len(fields[name])
        and all(
            abs(a - b) < 1e-9 for a, b in zip(preset[name], fields[name], strict=True)
        )
        for name in ("scale", "offset")
    )


def _formula(fields: Mapping[str, Any]) -> str:
    scale, offset = (
        ", ".join(f"{value:.5g}" for value in fields[name])
        for name in ("scale", "offset")
    )
    return f"x * {scale} + {offset}"


def _resize(source: Source, wishes: Wishes, like: Likeness) -> _Part:
    resize, why = "stretch", f"{_DEFAULT}; --resize fit or cover changes it"
    stated: Mapping[str, Any] = {}
    if wishes.resize is not None:
        resize, why = wishes.resize, "--resize"
    elif "resize" in like.fields:
        stated, why = like.fields, like.said_by
    elif "resize" in source.stated:
        stated, why = source.stated, _INSIDE
    said, resize = bool(stated), stated.get("resize", resize)
    crop = stated.get("crop", 1.0)
    if wishes.crop is not None:
        crop = wishes.crop
        if resize == "fit" or (wishes.resize is None and not said):
            raise InvalidRequest(
                f"--crop came with the resize {resize}; expected --resize cover, or "
                "--resize stretch."
            )
    aspect = wishes.aspect or stated.get("aspect")
    if aspect is None:
        # Keras and TensorFlow, whose resampling does not antialias, round otherwise.
        keras = _antialias(wishes, like.fields) is False and crop == 1
        usual = {"cover": "whole_pixels", "fit": "floor"}
        aspect = usual.get(resize, "scaling") if keras else "scaling"
    shown = resize if crop == 1 else f"{resize}, keeping {crop:.4g}"
    if resize != "stretch":
        shown += f" ({aspect})"
    fields = {"resize": resize, "crop": crop, "aspect": aspect}
    return fields, Fact("resize", shown, why)


def _antialias(wishes: Wishes, stated: Mapping[str, Any]) -> bool:
    if wishes.antialias is not None:
        return wishes.antialias
    if wishes.filter == "opencv":
        return False
    return bool(wishes.filter is not None or stated.get("antialias", True))


def _filter(source: Source, wishes: Wishes, like: Likeness) -> _Part:
    stated = {**source.stated, **like.fields}
    antialias = _antialias(wishes, stated)
    kind = wishes.filter or stated.get("filter", "bilinear")
    if wishes.filter is not None or wishes.antialias is not None:
        why = "--filter and --no-antialias"
    elif "filter" in like.fields:
        why = like.said_by
    elif "filter" in source.stated:
        why = _INSIDE
    else:
        why = f"{_DEFAULT}; --filter or --no-antialias changes it"
    library = "Pillow" if antialias else "tf.image.resize"
    shown = f"{kind}, as {'cv2.resize' if kind == 'opencv' else library}"
    return {"filter": kind, "antialias": antialias}, Fact("filter", shown, why)


def _files(source: Source, wishes: Wishes, like: Likeness) -> _Part:
    del source
    exif = wishes.upright or bool(like.fields.get("exif", False))
    fields = {"exif": exif, "alpha": like.fields.get("alpha", "dropped")}
    shown = "turned by EXIF" if exif else "as stored, EXIF ignored"
    why = "as Keras and Pillow read a file; --upright changes it"
    if wishes.upright:
        why = "--upright"
    elif "exif" in like.fields:
        why = like.said_by
    return fields, Fact("orientation", shown, why)


def contract_of(
    fields: Mapping[str, Any],
    labels: tuple[str, ...],
    outputs: str,
    origin: Origin,
    tolerances: Mapping[str, float],
) -> Contract:
    """Return the contract of a given model.

    Args:
        fields: The result of `preparation`.
        labels: The name of each score.
        outputs: What the published model computes.
        origin: The file that was given.
        tolerances: The largest difference of a score, by exported format.

    Raises:
        InvalidContract: The fields contradict each other.
    """
    return Contract(
        **fields,
        labels=labels,
        outputs=outputs,
        source=origin,
        tolerances=dict(tolerances),
        training_data=TrainingData("not stated", "not stated"),
    )
