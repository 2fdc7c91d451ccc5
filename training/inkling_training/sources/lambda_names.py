# SPDX-License-Identifier: Apache-2.0
"""Gives the Lambda layers of Keras 3 the modules that their code names.

A file holds the code of a Lambda layer, and not what its names stand for. Keras 2 knows
`tf` and `K`; Keras 3 knows neither, and then reports a shape that it cannot infer.
"""

from __future__ import annotations

import builtins
import dis
import math
from collections.abc import Iterator
from types import CodeType, FunctionType, ModuleType
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras.src.utils import python_utils

from inkling_training.sources.guards import objects
from inkling_training.sources.source import UnusableModel

__all__ = ["give_names"]

_USUAL: dict[str, ModuleType] = {
    "K": keras.backend,
    "keras": keras,
    "layers": keras.layers,
    "math": math,
    "np": np,
    "ops": keras.ops,
    "tf": tf,
}


def give_names(name: str, config: object) -> tuple[str, ...]:
    """Let the Lambda layers of a trusted file use the usual names of modules.

    Args:
        name: The file, for the message.
        config: The configuration in it.

    Returns:
        A sentence about each name that was given.

    Raises:
        UnusableModel: A layer's code names something that the file does not hold.
    """
    known = vars(python_utils)
    named = set(_names(config)) - vars(builtins).keys()
    given = sorted(named & _USUAL.keys() - known.keys())
    missing = sorted(named - _USUAL.keys() - known.keys())
    if missing:
        raise UnusableModel(
            f"{name} has a Lambda layer whose code uses {', '.join(missing):.200}, "
            "which the file does not hold. Export the model as a SavedModel with "
            "model.export('folder') where it is known, and publish that folder."
        )
    known.update({one: _USUAL[one] for one in given})
    return tuple(
        f"Its Lambda layers use {one}, which was taken as {_USUAL[one].__name__}"
        for one in given
    )


def _names(config: object) -> Iterator[str]:
    for found in objects(config):
        if found["class_name"] == "__lambda__":
            yield from _globals(_code(found["config"]))


def _code(stated: Any) -> CodeType | None:
    try:
        loaded: FunctionType = python_utils.func_load(stated["code"])
    except Exception:  # noqa: BLE001 - Keras, which loads it next, tells what is wrong
        return None
    return loaded.__code__


def _globals(code: CodeType | None) -> Iterator[str]:
    """Yield the global names in a function's code, and in the functions inside it."""
    if code is None:
        return
    for step in dis.get_instructions(code):
        if step.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            yield str(step.argval)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _globals(constant)
