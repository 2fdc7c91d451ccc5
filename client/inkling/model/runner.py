"""Runs a TFLite file with LiteRT, on the device and in the gateway alike."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from inkling.errors import BrokenVersion, MissingDependency
from inkling.image.preprocess import check_inputs
from inkling.types import are_scores

if TYPE_CHECKING:
    import numpy.typing as npt

    from inkling.contract import Contract

__all__ = ["TFLiteRunner"]

# The scores of an int8 model are multiples of 1/256, each rounded by itself.
_SCORE_STEP = 1 / 256
# Idle interpreters that a runner keeps of each kind. Each holds a copy of the weights, so
# a burst of threads must not leave one behind for every thread.
_MAX_IDLE = 4


class _Interpreter:
    """One LiteRT interpreter with its tensors; never shared between threads."""

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
                "The TFLite file cannot be loaded, or does not have one input and one "
                "output. Export the model again."
            ) from None
        self._handle = handle
        self._batch = int(self.input["shape"][0])

    def run(self, inputs: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Run a batch; `inputs` has shape (n, height, width, channels)."""
        index = self.input["index"]
        if self._batch != len(inputs):
            self._handle.resize_tensor_input(index, inputs.shape)
            self._handle.allocate_tensors()
            self._batch = len(inputs)
        self._handle.set_tensor(index, _quantised(inputs, self.input))
        self._handle.invoke()
        return _dequantised(self._handle.get_tensor(self.output["index"]), self.output)


class TFLiteRunner:
    """Runs a TFLite file; safe to call from any number of threads.

    An interpreter is not thread-safe, so a call borrows one that is idle, or makes one.
    Single inputs and batches have interpreters of their own, because changing the batch
    size of an interpreter costs more than a call of a small model.

    Attributes:
        contract: What the model expects; inputs are checked against it.
    """

    def __init__(self, model: bytes, contract: Contract, num_threads: int = 1) -> None:
        self.contract = contract
        self._model = model
        self._num_threads = num_threads
        # The interpreter that was returned last is borrowed first: its weights are in
        # the caches. `list.append` and `list.pop` are atomic.
        self._idle: dict[str, list[_Interpreter]] = {"single": [], "batch": []}
        with self._borrowed("single") as interpreter:
            self._check_signature(interpreter)

    def run(self, inputs: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Return the scores, shape (n, classes), float32, in [0, 1].

        Args:
            inputs: Model inputs as `inkling.image.preprocess` makes them, shape (n,
                height, width, channels), float32, finite, n >= 1. A model with an integer
                input tensor gets them quantised by that tensor's scale and zero point.

        Raises:
            InvalidRequest: The inputs are not such an array.
            BrokenVersion: The model answered with something that is no scores.
        """
        check_inputs(inputs, self.contract)
        return self.run_prepared(inputs)

    def run_prepared(self, inputs: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Do as `run`, for inputs that this Inkling has prepared or checked itself."""
        kind = "single" if len(inputs) == 1 else "batch"
        with self._borrowed(kind) as interpreter:
            scores = interpreter.run(inputs)
        shape = (len(inputs), len(self.contract.labels))
        if not are_scores(scores, shape, _SCORE_STEP * shape[1]):
            raise BrokenVersion(
                f"The model answered with shape {scores.shape}, or with scores that do "
                f"not sum to 1; expected probabilities of shape {shape}."
            )
        return scores

    @contextmanager
    def _borrowed(self, kind: str) -> Iterator[_Interpreter]:
        idle = self._idle[kind]
        try:
            interpreter = idle.pop()
        except IndexError:
            interpreter = _Interpreter(self._model, self._num_threads)
        yield interpreter
        # After an error the interpreter is dropped: its tensors may be in any state.
        if len(idle) < _MAX_IDLE:
            idle.append(interpreter)

    def _check_signature(self, interpreter: _Interpreter) -> None:
        found = tuple(interpreter.input["shape"][1:].tolist())
        classes = int(interpreter.output["shape"][-1])
        wanted = self.contract.input_shape
        if found != wanted or classes != len(self.contract.labels):
            raise BrokenVersion(
                f"The TFLite file maps {found} to {classes} scores; its contract says "
                f"{wanted} and {len(self.contract.labels)} labels. Export it again."
            )


def _quantised(
    inputs: npt.NDArray[np.float32], tensor: dict[str, Any]
) -> npt.NDArray[Any]:
    dtype = np.dtype(tensor["dtype"])
    if dtype == np.float32:
        return inputs
    scale, zero_point = tensor["quantization"]
    limits = np.iinfo(dtype)
    steps = np.round(inputs / scale) + zero_point
    quantised: npt.NDArray[Any] = np.clip(steps, limits.min, limits.max).astype(dtype)
    return quantised


def _dequantised(
    outputs: npt.NDArray[Any], tensor: dict[str, Any]
) -> npt.NDArray[np.float32]:
    if outputs.dtype == np.float32:
        return outputs
    scale, zero_point = tensor["quantization"]
    steps: npt.NDArray[np.float32] = outputs.astype(np.float32) - zero_point
    return steps * np.float32(scale)
