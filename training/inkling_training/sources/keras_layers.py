# SPDX-License-Identifier: Apache-2.0
"""Reads the layers of a model of Keras 3 or Keras 2 where the graph does not tell."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import takewhile
from typing import Any

__all__ = ["computes_in_half", "layer_names", "resizing", "training_layers"]

_ONLY_IN_TRAINING = ("AugMix", "CutMix", "GaussianNoise", "MixUp", "RandAugment")


# Those that a contract can state without antialiasing.
_FILTERS = ("bicubic", "bilinear", "nearest")


def _layers_of(model: Any) -> Iterator[Any]:
    """Yield every layer of a model, also of the models inside it."""
    for layer in model.layers:
        if hasattr(layer, "layers"):
            yield from _layers_of(layer)
        else:
            yield layer


def training_layers(model: Any) -> tuple[str, ...]:
    """Return the kinds of layers that change pictures in training only, each once."""
    found = [type(one).__name__ for one in _layers_of(model) if _is_for_training(one)]
    return tuple(dict.fromkeys(found))


def _is_for_training(layer: Any) -> bool:
    kind = type(layer).__name__
    return kind in _ONLY_IN_TRAINING or kind.startswith("Random")


def layer_names(model: Any) -> frozenset[str]:
    """Return the names of all layers."""
    return frozenset(layer.name for layer in _layers_of(model))


def computes_in_half(model: Any) -> bool:
    """Return whether any layer computes in half precision."""
    return any(
        getattr(layer, "compute_dtype", None) in ("float16", "bfloat16")
        for layer in _layers_of(model)
    )


def resizing(model: Any) -> Mapping[str, Any]:
    """Return the contract's fields for a `Resizing` layer before the first weights.

    A picture that has that size already passes it unchanged. Empty if there is none,
    or one that a contract cannot state.
    """
    first = takewhile(lambda layer: not layer.weights, _layers_of(model))
    found = [layer for layer in first if type(layer).__name__ == "Resizing"]
    if len(found) != 1:
        return {}
    stated = found[0].get_config()
    cover, fit = (
        bool(stated.get(name))
        for name in ("crop_to_aspect_ratio", "pad_to_aspect_ratio")
    )
    if (
        stated["interpolation"] not in _FILTERS
        or stated.get("antialias")
        or stated.get("data_format") == "channels_first"
        or stated.get("fill_value")
    ):
        return {}
    return {
        "height": int(stated["height"]),
        "width": int(stated["width"]),
        "resize": "fit" if fit else "cover" if cover else "stretch",
        "aspect": "whole_pixels" if fit or cover else "scaling",
        "filter": stated["interpolation"],
        "antialias": False,
    }
