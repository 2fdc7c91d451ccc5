# SPDX-License-Identifier: Apache-2.0
"""Reads the layers of a model of Keras 3 or Keras 2 where the graph does not tell."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

__all__ = ["computes_in_half", "layer_names", "training_layers"]

_ONLY_IN_TRAINING = ("AugMix", "CutMix", "GaussianNoise", "MixUp", "RandAugment")


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
