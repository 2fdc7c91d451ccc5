# SPDX-License-Identifier: Apache-2.0
"""Reads a model's TensorFlow graph: how it begins, and how it ends.

The graph is the same thing for every library that runs on TensorFlow, so that Keras 3,
Keras 2 and SavedModels are read in one way. The beginning is not read but tried: it is
run on plain pictures up to the first weights, so that it does not matter by which
layers or operations a model changes its values.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import (
    convert_variables_to_constants_v2,
)

from inkling_training.sources.beginning import values_of
from inkling_training.sources.source import UnusableModel
from inkling_training.stderr import quiet_stderr

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["FlatGraph", "one_by_one", "traced_native"]

_UNCHANGING = ("Cast", "EnsureShape", "Identity", "IdentityN", "Reshape", "Squeeze")
_PROBABILITIES = {"Softmax": "softmax", "Sigmoid": "sigmoid"}
_LINEAR = frozenset({"Add", "AddV2", "BiasAdd", "Conv2D", "MatMul", "Max", "Mean"})
_WITH_WEIGHTS = frozenset(
    {
        "BatchMatMulV2",
        "Conv2D",
        "Conv3D",
        "DepthwiseConv2dNative",
        "Einsum",
        "FusedBatchNorm",
        "FusedBatchNormV3",
        "MatMul",
        "SpaceToBatchND",
    }
)
_RESIZING = {
    "ResizeBicubic": "bicubic",
    "ResizeBilinear": "bilinear",
    "ResizeNearestNeighbor": "nearest",
}
# Operations that work on every value alone.
_BY_VALUE = frozenset(
    {*_UNCHANGING, "Add", "AddV2", "BiasAdd", "Mul", "RealDiv", "Sub", "Transpose"}
)
# A picture of an open size is tried at this one.
_SIDE = 64


def traced_native(batch: Any, layout: str, dtype: str) -> Any:
    """Do as `native` does, on TensorFlow's tensors, for the export."""
    if layout == "chw":
        batch = tf.transpose(batch, (0, 3, 1, 2))
    elif layout == "hw":
        batch = tf.squeeze(batch, -1)
    elif layout == "flat":
        batch = tf.reshape(batch, (-1, batch.shape[1:].num_elements()))
    kind = tf.as_dtype(dtype)
    if kind.is_integer:
        # LiteRT lacks ClipByValue, which tf.saturate_cast makes.
        batch = tf.maximum(
            tf.minimum(tf.round(batch), float(kind.max)), float(kind.min)
        )
    return tf.cast(batch, kind)


def one_by_one(traced: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return a function of any batch, of one that takes a single picture.

    Args:
        traced: Takes tensors of shape (1, height, width, channels).
    """

    def scores(inputs: Any) -> Any:
        return tf.reshape(tf.cast(traced(inputs), tf.float32), (-1,))

    def mapped(batch: Any) -> Any:
        # LiteRT gets a batch of one, and so no loop.
        if batch.shape[0] == 1:
            return scores(batch)[tf.newaxis]
        return tf.map_fn(
            lambda one: scores(one[tf.newaxis]), batch, fn_output_signature=tf.float32
        )

    return mapped


class FlatGraph:
    """The operations of a model, without calls of functions and without variables.

    Args:
        function: A concrete function of one batch, float32.
    """

    def __init__(self, function: Any) -> None:
        try:
            self._function = convert_variables_to_constants_v2(function)
        except ValueError:
            # A variable that the model changes, such as the state of a random layer,
            # is no constant. Its calls stay, so that less can be read.
            self._function = function
        self._input = self._function.inputs[0]
        self._first = self._first_weighed()

    @classmethod
    def of(
        cls,
        traced: Callable[[Any], Any],
        shape: tuple[int | None, ...],
        name: str,
        *,
        single: bool = False,
    ) -> FlatGraph:
        """Return the graph of a model.

        Args:
            traced: Asks the model on TensorFlow's tensors, as `Source.traced`.
            shape: Height, width and channels of its input; None where it is open.
            name: The name of the model, for the message.
            single: True if the model takes one picture at a time.

        Raises:
            UnusableModel: TensorFlow cannot trace the model.
        """
        spec = tf.TensorSpec((1 if single else None, *shape), tf.float32)
        try:
            with quiet_stderr():
                function = tf.function(traced, input_signature=[spec])
                return cls(function.get_concrete_function())
        except Exception as error:  # noqa: BLE001 - a model raises whatever it likes
            raise UnusableModel(
                f"TensorFlow {tf.__version__} cannot run {name} "
                f"({type(error).__name__}); save or export the model again."
            ) from None

    def activation(self) -> str | None:
        """Return the name of the function behind the output.

        Returns:
            `softmax`, `sigmoid`, or `linear` for an operation without an activation;
            None for another one.
        """
        operation = self._function.outputs[0].op
        while operation.type in _UNCHANGING and operation.inputs:
            operation = operation.inputs[0].op
        if operation.type in _LINEAR:
            return "linear"
        return _PROBABILITIES.get(operation.type)

    def names(self) -> frozenset[str]:
        """Return the parts of the names of all operations."""
        graph = self._function.graph
        return frozenset(
            part for one in graph.get_operations() for part in one.name.split("/")
        )

    def values(self, dtype: str) -> tuple[str, str] | None:
        """Return the range of pixels for which the model is made, with the reason.

        None if the model does not tell, because its first weights get the values as
        they came.

        Args:
            dtype: The type of the model's own input.
        """
        if "int" in dtype:
            return "bytes", "the model takes whole numbers"
        try:
            front = self._function.prune([self._input], [self._first])
            return values_of(lambda level: self._run(front, level))
        except Exception:  # noqa: BLE001 - some operations run on a GPU only
            return None

    def _run(self, front: Any, level: float) -> npt.NDArray[np.float32]:
        shape = [1 if side is None else side for side in self._input.shape[:1]]
        shape += [_SIDE if side is None else side for side in self._input.shape[1:]]
        [found] = front(tf.fill(shape, level))
        return np.asarray(found, np.float32)

    def resizing(self) -> Mapping[str, Any]:
        """Return the contract's fields for a resizing inside a model of any size.

        A picture that has that size already passes such a resizing unchanged. Empty
        if there is none, or one that a contract cannot state.
        """
        tensor = self._first if None in self._input.shape[1:3] else None
        found: dict[str, Any] = {}
        while tensor is not None and tensor is not self._input:
            operation = tensor.op
            if operation.type in _RESIZING:
                size = tf.get_static_value(operation.inputs[1])
                plain = operation.get_attr("half_pixel_centers")
                if found or size is None or not plain:
                    return {}
                found = {
                    "height": int(size[0]),
                    "width": int(size[1]),
                    "resize": "stretch",
                    "filter": _RESIZING[operation.type],
                    "antialias": False,
                }
            elif operation.type not in _BY_VALUE:
                return {}
            tensor = operation.inputs[0] if operation.inputs else None
        return found

    def _first_weighed(self) -> Any:
        """Return the tensor that the first operation with weights gets."""
        seen, waiting = set(), deque([self._input])
        while waiting:
            tensor = waiting.popleft()
            for operation in tensor.consumers():
                if operation.type in _WITH_WEIGHTS:
                    return tensor
                if operation.name not in seen:
                    seen.add(operation.name)
                    waiting += operation.outputs
        return None
