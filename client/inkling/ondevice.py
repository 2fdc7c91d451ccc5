"""Runs a model's TFLite file with LiteRT: on the device, and inside the gateway."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from inkling.errors import BrokenVersion, InvalidRequest, MissingDependency

if TYPE_CHECKING:
    import numpy.typing as npt

    from inkling.contract import Contract
    from inkling.repository import VersionFiles

__all__ = ["TFLiteRunner", "check_golden"]

# The scores of an int8 model are multiples of 1/256, each rounded by itself.
_SCORE_STEP = 1 / 256


@dataclass(frozen=True)
class _Interpreter:
    """One LiteRT interpreter with its tensors; never shared between threads."""

    handle: Any
    input: dict[str, Any]
    output: dict[str, Any]

    @classmethod
    def load(cls, model: bytes, num_threads: int) -> _Interpreter:
        try:
            from ai_edge_litert.interpreter import Interpreter  # noqa: PLC0415
        except ModuleNotFoundError as missing:
            if missing.name != "ai_edge_litert":
                raise
            raise MissingDependency("LiteRT", "inkling[ondevice]") from None
        try:
            handle = Interpreter(model_content=model, num_threads=num_threads)
            handle.allocate_tensors()
            [inputs], [outputs] = (
                handle.get_input_details(),
                handle.get_output_details(),
            )
        except (ValueError, RuntimeError):
            raise BrokenVersion(
                "The TFLite file cannot be loaded, or does not have one input and one "
                "output. Export the model again."
            ) from None
        return cls(handle, inputs, outputs)

    def run(self, inputs: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Run a batch; `inputs` has shape (n, height, width, channels)."""
        index = self.input["index"]
        if self.handle.get_input_details()[0]["shape"][0] != len(inputs):
            self.handle.resize_tensor_input(index, inputs.shape)
            self.handle.allocate_tensors()
        self.handle.set_tensor(index, _quantised(inputs, self.input))
        self.handle.invoke()
        return _dequantised(self.handle.get_tensor(self.output["index"]), self.output)


class TFLiteRunner:
    """Runs a TFLite file; safe to call from any number of threads.

    An interpreter is not thread-safe, so every thread that calls gets its own, and
    one more for batches: changing the batch size costs more than a small model.

    Attributes:
        contract: What the model expects; inputs are checked against it.
    """

    def __init__(self, model: bytes, contract: Contract, num_threads: int = 1) -> None:
        self.contract = contract
        self._model = model
        self._num_threads = num_threads
        self._local = threading.local()
        self._check_signature(self._interpreter("single"))

    def run(self, inputs: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Return the scores, shape (n, classes), float32, in [0, 1].

        Args:
            inputs: Model inputs as `inkling.preprocess` makes them, shape (n, height,
                width, channels), float32, finite, n >= 1. A model with an integer
                input tensor gets them quantised by that tensor's scale and zero point.

        Raises:
            InvalidRequest: The inputs are not such an array.
            BrokenVersion: The model answered with something that is no scores.
        """
        self._check_inputs(inputs)
        kind = "single" if len(inputs) == 1 else "batch"
        scores = self._interpreter(kind).run(inputs)
        _check_scores(scores, (len(inputs), len(self.contract.labels)))
        return scores

    def _interpreter(self, kind: str) -> _Interpreter:
        interpreter: _Interpreter | None = getattr(self._local, kind, None)
        if interpreter is None:
            interpreter = _Interpreter.load(self._model, self._num_threads)
            setattr(self._local, kind, interpreter)
        return interpreter

    def _check_signature(self, interpreter: _Interpreter) -> None:
        found = tuple(interpreter.input["shape"][1:].tolist())
        classes = int(interpreter.output["shape"][-1])
        wanted = self.contract.input_shape
        if found != wanted or classes != len(self.contract.labels):
            raise BrokenVersion(
                f"The TFLite file maps {found} to {classes} scores; its contract says "
                f"{wanted} and {len(self.contract.labels)} labels. Export it again."
            )

    def _check_inputs(self, inputs: npt.NDArray[np.float32]) -> None:
        shape = self.contract.input_shape
        if inputs.dtype != np.float32 or inputs.ndim != 4 or inputs.shape[1:] != shape:
            raise InvalidRequest(
                f"The model input came as {inputs.dtype} of shape {inputs.shape}; "
                f"expected float32 of shape (n, {', '.join(map(str, shape))}). Prepare "
                "pictures with inkling.preprocess."
            )
        bounds = [self.contract.offset, 255 * self.contract.scale + self.contract.offset]
        low, high = min(bounds), max(bounds)
        slack = 1e-3 * (high - low)
        # A NaN fails this comparison too.
        if not (inputs.min() >= low - slack and inputs.max() <= high + slack):
            raise InvalidRequest(
                f"The model input has values outside [{low:g}, {high:g}], or that are "
                "no numbers. Prepare pictures with inkling.preprocess."
            )


def check_golden(runner: TFLiteRunner, files: VersionFiles, tflite_format: str) -> None:
    """Check that a model reproduces the golden scores of its version.

    Raises:
        BrokenVersion: A score is further off than the contract tolerates.
    """
    from inkling.repository import GOLDEN_FILE  # noqa: PLC0415

    with np.load(files.path / GOLDEN_FILE, allow_pickle=False) as golden:
        inputs, expected = golden["inputs"], golden["scores"]
    tolerance = runner.contract.tolerances[tflite_format]
    worst = float(np.abs(runner.run(inputs) - expected).max())
    if not worst <= tolerance:
        raise BrokenVersion(
            f"The {tflite_format} model's scores differ from the golden ones by "
            f"{worst:.2g}; the contract tolerates {tolerance:g}. Publish it again."
        )


def load_version(files: VersionFiles, tflite_format: str) -> TFLiteRunner:
    """Verify a published version and load one of its TFLite files.

    Raises:
        BrokenVersion: Its files are not those that were published, or the model does
            not reproduce its golden scores.
    """
    files.verify()
    path = files.tflite(tflite_format)
    runner = TFLiteRunner(_read(path), files.contract())
    check_golden(runner, files, tflite_format)
    return runner


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        raise BrokenVersion(f"{path.name} is missing. Export the model again.") from None


def _quantised(
    inputs: npt.NDArray[np.float32], tensor: dict[str, Any]
) -> npt.NDArray[Any]:
    dtype = np.dtype(tensor["dtype"])
    if dtype == np.float32:
        return inputs
    scale, zero_point = tensor["quantization"]
    limits = np.iinfo(dtype)
    steps = np.round(inputs / scale) + zero_point
    return np.clip(steps, limits.min, limits.max).astype(dtype)


def _dequantised(
    outputs: npt.NDArray[Any], tensor: dict[str, Any]
) -> npt.NDArray[np.float32]:
    if outputs.dtype == np.float32:
        return outputs
    scale, zero_point = tensor["quantization"]
    return (outputs.astype(np.float32) - zero_point) * np.float32(scale)


def _check_scores(scores: npt.NDArray[np.float32], shape: tuple[int, int]) -> None:
    slack = _SCORE_STEP * shape[1]
    if scores.shape != shape or not np.all(np.abs(scores.sum(axis=1) - 1) <= slack):
        raise BrokenVersion(
            f"The model answered with shape {scores.shape}, or with scores that do not "
            f"sum to 1; expected probabilities of shape {shape}."
        )
