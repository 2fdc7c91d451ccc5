# SPDX-License-Identifier: Apache-2.0
"""Names the operations of Keras 3 in its `.h5` files, which its loader does not know.

A functional model with arithmetic, such as `x / 127.5 - 1`, is saved by Keras 3 in an
`.h5` file that Keras 3 itself refuses: "Unknown layer: TrueDivide".
"""

from __future__ import annotations

from typing import Any

import keras
from keras.src import ops
from keras.src.ops.operation import Operation

__all__ = ["operations"]


def operations() -> dict[str, type]:
    """Return the operations of Keras 3 by their names, for `custom_objects`.

    An operation and a layer may have the same name, such as `Add`.
    """
    found = {
        name: kind
        for name, kind in vars(ops).items()
        if isinstance(kind, type) and issubclass(kind, Operation)
    }
    return {
        name: _either(kind, getattr(keras.layers, name, None))
        for name, kind in found.items()
    }


def _either(operation: type, layer: Any) -> type:
    """Return a class that makes the operation or the layer, by its configuration."""
    if layer is None:
        return operation

    def from_config(_: type, config: dict[str, Any]) -> Any:
        # Only layers state whether they learn.
        kind: Any = layer if "trainable" in config else operation
        return kind.from_config(config)

    return type(operation.__name__, (), {"from_config": classmethod(from_config)})
