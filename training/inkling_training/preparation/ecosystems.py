# SPDX-License-Identifier: Apache-2.0
"""Reads preparations that other ecosystems wrote: `--like FILE`.

Hugging Face's `preprocessor_config.json`, timm's `pretrained_cfg` (also inside a
`config.json`), Teachable Machine's `metadata.json`, the configuration of a KerasHub
image converter, the metadata of a TFLite file, and another Inkling contract.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from inkling.contract import Contract
from inkling.errors import InklingError, InvalidRequest
from inkling_training.preparation.hugging_face import hugging_face
from inkling_training.preparation.presets import VALUES, normalised, pair
from inkling_training.preparation.tflite_like import is_tflite, tflite_like

__all__ = ["PREPARATION", "read_like"]

# The fields of a contract that say how a picture is prepared.
PREPARATION = (
    "height",
    "width",
    "channels",
    "resize",
    "aspect",
    "crop",
    "filter",
    "antialias",
    "pad",
    "exif",
    "alpha",
    "polarity",
    "channel_order",
    "grey",
    "scale",
    "offset",
)
_MAX_BYTES = 16 * 1024**2


def read_like(path: Path) -> tuple[str, Mapping[str, Any], tuple[str, ...]]:
    """Return the preparation in a file of another ecosystem.

    Returns:
        Its kind, for people; fields of the contract; and its labels, empty without.

    Raises:
        InvalidRequest: The file cannot be read, or is of no kind that is known.
    """
    try:
        if is_tflite(path):
            return ("the metadata of a TFLite file", *tflite_like(path))
        if path.stat().st_size > _MAX_BYTES:
            raise ValueError
        text = path.read_text(encoding="utf-8-sig")
        content = json.loads(text)
        if not isinstance(content, dict):
            raise ValueError
    except (OSError, ValueError, RecursionError):
        raise InvalidRequest(
            f"{path} cannot be read; --like expects a JSON file with an object, or a "
            "TFLite file with metadata."
        ) from None
    try:
        return _read(path, text, content)
    except InklingError:
        raise
    except (KeyError, TypeError, ValueError, IndexError, ZeroDivisionError):
        raise InvalidRequest(
            f"{path} has a value that is missing or of another form than expected; "
            "state the preparation with --values, --resize and --filter instead."
        ) from None


def _read(
    path: Path, text: str, content: dict[str, Any]
) -> tuple[str, Mapping[str, Any], tuple[str, ...]]:
    if "format" in content and "training_data" in content:
        contract = Contract.from_json(text)
        if contract.kind != "sample":
            raise InvalidRequest(
                f"{path} is the contract of a model of objects on paper; --like takes "
                "one of whole pictures."
            )
        fields = {name: asdict(contract)[name] for name in PREPARATION}
        return "an Inkling contract", fields, contract.labels
    config = content.get("pretrained_cfg", content)
    if "input_size" in config and "mean" in config:
        return "a timm pretrained_cfg", _timm(config), _texts(content, "label_names")
    if "tmVersion" in content or "tfjsVersion" in content:
        return (
            "Teachable Machine's metadata",
            _teachable(content),
            _texts(content, "labels"),
        )
    if "image_processor_type" in content or "do_resize" in content:
        return "a Hugging Face preprocessor_config", hugging_face(content), ()
    inner = content.get("config", content)
    inner = inner.get("image_converter", {"config": inner})["config"]
    if "image_size" in inner and ("scale" in inner or "interpolation" in inner):
        return "a KerasHub image converter", _keras_hub(inner), ()
    raise InvalidRequest(
        f"{path} is of no kind that --like knows: Hugging Face's "
        "preprocessor_config.json, timm's pretrained_cfg, Teachable Machine's "
        "metadata.json, a KerasHub image converter, a TFLite file with metadata, or an "
        "Inkling contract."
    )


def _texts(content: Mapping[str, Any], key: str) -> tuple[str, ...]:
    found = content.get(key)
    if isinstance(found, list) and all(isinstance(one, str) for one in found):
        return tuple(found)
    return ()


def _timm(config: Mapping[str, Any]) -> Mapping[str, Any]:
    channels, height, width = (int(side) for side in config["input_size"])
    mode = config.get("crop_mode") or "center"
    crop = float(config.get("crop_pct") or 0.875)
    mean, std = tuple(config["mean"]), tuple(config["std"])
    found: dict[str, Any] = {
        "height": height,
        "width": width,
        "channels": channels,
        "filter": config.get("interpolation", "bicubic"),
        "antialias": True,
        **normalised(mean, std),
    }
    if mode == "border":
        if crop != 1 or len(set(mean)) > 1:
            raise InvalidRequest(
                "The file's crop_mode is border, which fills the rest with the mean "
                "colour; Inkling fills it with a grey, and without a crop_pct. State "
                "the preparation with --resize and --values instead."
            )
        return {
            **found,
            "resize": "fit",
            "aspect": "scaling",
            "pad": round(255 * mean[0]),
        }
    resize = "stretch" if mode == "squash" else "cover"
    return {**found, "resize": resize, "aspect": "scaling", "crop": crop}


def _teachable(content: Mapping[str, Any]) -> Mapping[str, Any]:
    side = int(content.get("imageSize", 224))
    return {
        "height": side,
        "width": side,
        "channels": 1 if content.get("grayscale") else 3,
        "resize": "cover",
        "aspect": "exact_box",
        "filter": "lanczos",
        "antialias": True,
        **VALUES["signed"],
    }


def _keras_hub(config: Mapping[str, Any]) -> Mapping[str, Any]:
    height, width = pair(config["image_size"])
    scale, offset = config.get("scale"), config.get("offset")
    crop = bool(config.get("crop_to_aspect_ratio", True))
    fit = bool(config.get("pad_to_aspect_ratio", False))
    return {
        "height": height,
        "width": width,
        "resize": "fit" if fit else "cover" if crop else "stretch",
        "aspect": "whole_pixels" if fit or crop else "scaling",
        "filter": config.get("interpolation", "bilinear"),
        "antialias": bool(config.get("antialias", False)),
        "scale": (1.0,) if scale is None else _numbers(scale),
        "offset": (0.0,) if offset is None else _numbers(offset),
    }


def _numbers(value: Any) -> tuple[float, ...]:
    flat = value if isinstance(value, list) else [value]
    while len(flat) == 1 and isinstance(flat[0], list):
        flat = flat[0]
    return tuple(float(one) for one in flat)
