# SPDX-License-Identifier: Apache-2.0
"""Runs a TFLite file with LiteRT, on the device and in the gateway."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from inkling.errors import BrokenVersion, MissingDependency
from inkling.image.inputs import check_inputs
from inkling.types import are_scores

if TYPE_CHECKING:
    import numpy.typing as npt

    from inkling.contract import Contract

__all__ = ["TFLiteRunner"]

# The scores of an int8 model are multiples of 1/256, and each is rounded on its own.
_SCORE_STEP = 1 / 256
# Idle interpreters that a runner keeps of each kind. Each holds a copy of the weights,
# so a burst of threads must not leave one behind for every thread.
_MAX_IDLE = 4
# The most input values of one call, over all inputs of a batch. LiteRT holds the
# activations of all of them: a MobileNetV2 of 224 px takes 7 MB for each picture, and
# is as fast with one after the other. The MLP of 28 px is 3 times as fast in batches.
_VALUES_AT_ONCE = 1 << 18


class _Interpreter:
    """One LiteRT interpreter with its tensors, for one thread only."""

    def __init__(self, model: bytes, num_threads: int) -> None:
        try:
            from ai_edge_litert.interpreter import Interpreter  # noqa: PLC0415
        except ModuleNotFoundError as missing:
            if missing.name != "ai_edge_litert":
                raise
            raise MissingDependency("LiteRT", "inkling[ondevice]") from None
        try:
            handle = Interpreter(model_content=model, num_threads=num_threads)
            handle.allocate_tensors()
            [self.input] = handle.get_input_details()
            [self.output] = handle.get_output_details()
        except (ValueError, RuntimeError):
            raise BrokenVersion(
                "LiteRT cannot load the TFLite file, or the model has more than one "
                "input or output. Export the model again."
            ) from None
        self._handle = handle
        self._batch = int(self.input["shape"][0])
        # A file that states a batch of one may have that number in its operations, too.
        self.is_single = int(self.input["shape_signature"][0]) == 1

    def run(self, inputs: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Return the outputs, shape (n, outputs), for a batch of n inputs."""
        index = self.input["index"]
        # A model of grey pictures may take them without the axis of the channels.
        inputs = inputs.reshape(len(inputs), *self.input["shape"][1:])
        if self._batch != len(inputs):
            self._handle.resize_tensor_input(index, inputs.shape)
            self._handle.allocate_tensors()
            self._batch = len(inputs)
        self._handle.set_tensor(index, _quantised(inputs, self.input))
        self._handle.invoke()
        found = _dequantised(self._handle.get_tensor(self.output["index"]), self.output)
        # Some models keep the axes of the picture, each of size 1.
        return found.reshape(len(inputs), -1)


class TFLiteRunner:
    """Runs a TFLite file; it is thread-safe.

    An interpreter is not thread-safe, so a call borrows one that is idle, or makes one.
    Single inputs and batches have interpreters of their own, because changing the batch
    size of an interpreter costs more than a call of a small model.

    Attributes:
        contract: The contract against which the inputs are checked.
        model: The bytes of the TFLite file, with or without the archive behind it.

    Raises:
        BrokenVersion: LiteRT cannot load the file, or the model does not have the
            shapes in the contract.
        MissingDependency: LiteRT is not installed.
    """

    def __init__(self, model: bytes, contract: Contract, num_threads: int = 1) -> None:
        self.contract = contract
        self.model = model
        self._num_threads = num_threads
        # The interpreter that was returned last is borrowed first: its weights are in
        # the caches. `list.append` and `list.pop` are atomic.
        self._idle: dict[str, list[_Interpreter]] = {"single": [], "batch": []}
        self._at_once = max(1, _VALUES_AT_ONCE // math.prod(contract.input_shape))
        with self._borrowed("single") as interpreter:
            self._check_signature(interpreter)
            if interpreter.is_single:
                self._at_once = 1

    def run(self, inputs: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Return the scores, shape (n, classes), float32, in [0, 1].

        Args:
            inputs: Model inputs from `inkling.image.preprocess`, float32, n >= 1 times
                the contract's `input_shape`. For a model with an integer input tensor
                they are quantised with that tensor's scale and zero point, or rounded
                if it has none.

        Raises:
            InvalidRequest: The inputs have another dtype, shape or range.
            BrokenVersion: The model's output does not hold probabilities.
        """
        check_inputs(inputs, self.contract)
        return self.run_prepared(inputs)

    def run_prepared(self, inputs: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Return the scores for inputs that are already prepared or checked.

        Arguments, result and errors are those of `run`, which also checks the inputs.
        """
        starts = range(0, len(inputs), self._at_once)
        parts = [self._outputs(inputs[at : at + self._at_once]) for at in starts]
        outputs = parts[0] if len(parts) == 1 else np.concatenate(parts)
        scores = _scores(outputs, self.contract.outputs)
        shape = (len(inputs), len(self.contract.labels))
        sums = self.contract.scores_sum_to_one
        if not are_scores(scores, shape, _SCORE_STEP * shape[1], sum_to_one=sums):
            raise BrokenVersion(
                f"The model's output has shape {outputs.shape} and does not hold "
                f"probabilities for each input; expected shape {shape}"
                f"{' and rows that sum to 1' if sums else ''}. Export the model again."
            )
        return scores

    def _outputs(self, inputs: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        with self._borrowed("single" if len(inputs) == 1 else "batch") as interpreter:
            return interpreter.run(inputs)

    @contextmanager
    def _borrowed(self, kind: str) -> Iterator[_Interpreter]:
        idle = self._idle[kind]
        try:
            interpreter = idle.pop()
        except IndexError:
            interpreter = _Interpreter(self.model, self._num_threads)
        yield interpreter
        # After an error the interpreter is dropped: its tensors may be in any state.
        if len(idle) < _MAX_IDLE:
            idle.append(interpreter)

    def _check_signature(self, interpreter: _Interpreter) -> None:
        found = tuple(interpreter.input["shape"][1:].tolist())
        classes = int(interpreter.output["shape"][-1])
        wanted = self.contract.input_shape
        binary = self.contract.outputs == "binary"
        fits = found == wanted or (
            len(found) < len(wanted) and math.prod(found) == math.prod(wanted)
        )
        if not fits or classes != (1 if binary else len(self.contract.labels)):
            raise BrokenVersion(
                f"The TFLite file has an input of shape {found} and {classes} scores; "
                f"its contract states {wanted} and {len(self.contract.labels)} labels. "
                "Export the model again."
            )


def _quantised(
    inputs: npt.NDArray[np.float32], tensor: dict[str, Any]
) -> npt.NDArray[Any]:
    dtype = np.dtype(tensor["dtype"])
    if dtype == np.float32:
        return inputs
    limits = np.iinfo(dtype)
    scale, zero_point = tensor["quantization"]
    # A model that computes with whole numbers itself states the scale 0.
    steps = np.round(inputs / scale) + zero_point if scale else np.round(inputs)
    quantised: npt.NDArray[Any] = np.clip(steps, limits.min, limits.max).astype(dtype)
    return quantised


def _dequantised(
    outputs: npt.NDArray[Any], tensor: dict[str, Any]
) -> npt.NDArray[np.float32]:
    if outputs.dtype == np.float32:
        return outputs
    scale, zero_point = tensor["quantization"]
    if not scale:
        raise BrokenVersion(
            f"The model's output is {outputs.dtype} without a scale, so it cannot hold "
            "probabilities. Export the model again."
        )
    steps: npt.NDArray[np.float32] = outputs.astype(np.float32) - zero_point
    return steps * np.float32(scale)


def _scores(outputs: npt.NDArray[np.float32], meaning: str) -> npt.NDArray[np.float32]:
    """Return the probabilities of the labels, shape (n, classes).

    Args:
        outputs: The model's output.
        meaning: The contract's `outputs`.
    """
    if meaning in ("softmax", "sigmoid"):
        return outputs
    if meaning == "binary":
        second = outputs.reshape(len(outputs), -1)
        return np.concatenate([1 - second, second], axis=1)
    powers = np.exp(outputs - outputs.max(axis=-1, keepdims=True))
    scores: npt.NDArray[np.float32] = powers / powers.sum(axis=-1, keepdims=True)
    return scores
