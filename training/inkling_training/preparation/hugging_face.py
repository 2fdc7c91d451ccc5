# SPDX-License-Identifier: Apache-2.0
"""Reads Hugging Face's `preprocessor_config.json`.

The file states most of what an image processor does; the rest is in its class, whose
name the file has.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from inkling.errors import InvalidRequest
from inkling_training.preparation.presets import normalised, pair

__all__ = ["hugging_face"]

# Pillow's numbers.
_RESAMPLE = {
    0: "nearest",
    1: "lanczos",
    2: "bilinear",
    3: "bicubic",
    4: "box",
    5: "hamming",
}
_STEPS = frozenset(
    {
        "do_center_crop",
        "do_convert_rgb",
        "do_flip_channel_order",
        "do_normalize",
        "do_rescale",
        "do_resize",
    }
)
# The classes for which a size of one number is a square, and not the shorter side.
_SQUARE = ("BeitI", "BeitF", "DeiT", "Swin", "ViTF", "ViTI")
# ConvNeXt's processor cuts nothing off from this size on.
_LARGE_CONVNEXT = 384


def hugging_face(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the fields of a contract that a `preprocessor_config.json` states.

    Raises:
        InvalidRequest: A contract has no such preparation.
        KeyError, TypeError, ValueError: A value is missing, or has another form.
    """
    steps = {name for name, value in config.items() if name.startswith("do_") and value}
    unknown = sorted(steps - _STEPS)
    if unknown:
        raise InvalidRequest(
            f"The file has the step {', '.join(unknown)}; Inkling has no such "
            "preparation."
        )
    found: dict[str, Any] = {
        "filter": _RESAMPLE[int(config.get("resample", 2))],
        "antialias": True,
        **_values(config),
    }
    if config.get("do_flip_channel_order"):
        found["channel_order"] = "bgr"
    if not config.get("do_resize", True):
        return found
    return {**found, **_geometry(config, _class(config))}


def _class(config: Mapping[str, Any]) -> str:
    both = ("image_processor_type", "feature_extractor_type")
    return next((str(config[name]) for name in both if config.get(name)), "")


def _geometry(config: Mapping[str, Any], kind: str) -> Mapping[str, Any]:
    cut = None
    if config.get("do_center_crop") and config.get("crop_size") is not None:
        cut = pair(config["crop_size"])
    edge = _edge(config["size"], kind, cut)
    if edge is None:
        size = pair(config["size"])
        return _stretched(size, cut or size)
    share = config.get("crop_pct")
    if share is None and kind.startswith("ConvNext"):
        share = 224 / 256
    if share and cut is None:
        if edge >= _LARGE_CONVNEXT:
            return _stretched((edge, edge), (edge, edge))
        cut = edge, edge
    if cut is None:
        raise InvalidRequest(
            "The file scales the shorter side and cuts nothing off, so that pictures "
            "keep different sizes; give --resize and --size."
        )
    return {
        "height": cut[0],
        "width": cut[1],
        "resize": "cover",
        "aspect": "floor",
        "crop": _share(min(cut), _enlarged(edge, share, kind)),
    }


def _enlarged(edge: int, share: float | None, kind: str) -> int:
    """Return the length to which the shorter side is scaled."""
    if kind.startswith("Levit"):
        return int(256 / 224 * edge)
    return int(edge / float(share)) if share else edge


def _edge(size: Any, kind: str, cut: tuple[int, int] | None) -> int | None:
    """Return the length of the shorter side; None if both sides are stated."""
    if isinstance(size, Mapping):
        edge = size.get("shortest_edge")
        return None if edge is None else int(edge)
    if not isinstance(size, int):
        return None
    square = kind.startswith(_SQUARE) or (cut is None and not kind.startswith("ConvN"))
    return None if square else size


def _stretched(size: tuple[int, int], cut: tuple[int, int]) -> Mapping[str, Any]:
    """Return the fields for a picture that is stretched to a size, and then cut."""
    shares = {_share(kept, side) for kept, side in zip(cut, size, strict=True)}
    if len(shares) > 1:
        raise InvalidRequest(
            f"The file stretches pictures to {size} and then cuts {cut} out, which "
            "changes the proportions; Inkling has no such preparation."
        )
    found = {"height": cut[0], "width": cut[1], "resize": "stretch", "aspect": "floor"}
    return {**found, "crop": shares.pop()}


def _share(size: int, edge: int) -> float:
    """Return the share to keep such that floor(size / share) is the edge.

    Raises:
        InvalidRequest: The picture would be smaller than the part to keep.
    """
    if size > edge:
        raise InvalidRequest(
            f"The file scales pictures to {edge} pixels and then keeps {size}, which "
            "pads them; Inkling has no such preparation."
        )
    share = size / edge
    while share < 1 and math.floor(size / share) < edge:
        share = math.nextafter(share, 0)
    return share


def _values(config: Mapping[str, Any]) -> Mapping[str, Any]:
    factor = 1.0
    if config.get("do_rescale", True):
        factor = float(config.get("rescale_factor", 1 / 255))
    shift = -1.0 if config.get("rescale_offset") else 0.0
    if not config.get("do_normalize", "image_mean" in config):
        return {"scale": (factor,), "offset": (shift,)}
    mean, std = (
        tuple(one) if isinstance(one, list) else (float(one),)
        for one in (config["image_mean"], config["image_std"])
    )
    found = dict(normalised(tuple(m - shift for m in mean), std, factor))
    if config.get("include_top") and _class(config).startswith("EfficientNet"):
        # Its processor divides by the standard deviation once more.
        std = std * len(found["scale"]) if len(std) == 1 else std
        for name, values in found.items():
            found[name] = tuple(v / s for v, s in zip(values, std, strict=True))
    return found
