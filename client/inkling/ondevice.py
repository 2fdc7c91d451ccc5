"""Runs a model's TFLite file with LiteRT: on the device, and inside the gateway."""

from __future__ import annotations

import threading
import tokenize
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from inkling.abstention import abstaining
from inkling.bundle import Bundle, read_bundle
from inkling.errors import (
    BrokenVersion,
    InklingError,
    InvalidRequest,
    MissingDependency,
)
from inkling.pictures import encoded, raising
from inkling.preprocess import check_inputs, to_input
from inkling.repository import FORMATS, GOLDEN_FILE, VersionFiles
from inkling.types import Origin, Prediction, check_abstain, check_top_k, predictions

if TYPE_CHECKING:
    import numpy.typing as npt

    from inkling.contract import Contract
    from inkling.pictures import Picture

__all__ = ["OnDeviceClassifier", "TFLiteRunner", "check_golden", "load_version"]

# What NumPy, zipfile and LiteRT raise on a damaged file.
_LOADING_ERRORS = (
    OSError,
    ValueError,
    RuntimeError,
    KeyError,
    IndexError,
    EOFError,
    TypeError,
    MemoryError,
    SyntaxError,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)
# Another Pillow may round a resampled pixel otherwise, by one grey level; the scores
# decide whether that matters.
_INPUT_TOLERANCE_STEPS = 1.01
# The scores of an int8 model are multiples of 1/256, each rounded by itself.
_SCORE_STEP = 1 / 256


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
        check_inputs(inputs, self.contract)
        return self.run_prepared(inputs)

    def run_prepared(self, inputs: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Do as `run`, for inputs that this Inkling has prepared or checked itself."""
        kind = "single" if len(inputs) == 1 else "batch"
        scores = self._interpreter(kind).run(inputs)
        _check_scores(scores, (len(inputs), len(self.contract.labels)))
        return scores

    def _interpreter(self, kind: str) -> _Interpreter:
        interpreter: _Interpreter | None = getattr(self._local, kind, None)
        if interpreter is None:
            interpreter = _Interpreter(self._model, self._num_threads)
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


def check_golden(runner: TFLiteRunner, files: VersionFiles, tflite_format: str) -> None:
    """Check that this machine prepares and scores the golden pictures as training did.

    Raises:
        BrokenVersion: An input or a score is further off than is tolerated.
    """
    contract = runner.contract
    # Opened here: NumPy leaves a file open that turns out to be damaged.
    with (
        (files.path / GOLDEN_FILE).open("rb") as opened,
        np.load(opened, allow_pickle=False) as golden,
    ):
        images = np.split(golden["images"], golden["image_ends"][:-1])
        inputs, expected = golden["inputs"], golden["scores"]
    prepared = np.stack([to_input(image.tobytes(), contract) for image in images])
    worst = float(np.abs(prepared - inputs).max())
    if not worst <= _INPUT_TOLERANCE_STEPS * abs(contract.scale):
        raise BrokenVersion(
            f"The golden pictures are prepared differently here, by {worst:.2g}: "
            "Inkling or Pillow is not the one that trained the model. Train it again."
        )
    worst = float(np.abs(runner.run(prepared) - expected).max())
    tolerance = contract.tolerances[tflite_format]
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
        InvalidContract: Its contract cannot be followed here.
    """
    files.verify()
    bundle = _read_bundle(files.tflite(tflite_format))
    contract = files.contract()
    if bundle.contract != contract:
        raise BrokenVersion(
            f"The {tflite_format} file carries another contract than the version has. "
            "Publish the version again."
        )
    try:
        runner = TFLiteRunner(bundle.model, contract)
        check_golden(runner, files, tflite_format)
    except _LOADING_ERRORS as error:
        # Their texts carry paths, and are no help to whoever published it.
        raise BrokenVersion(
            f"The {tflite_format} model or its golden pictures cannot be read "
            f"({type(error).__name__}). Publish the version again."
        ) from None
    return runner


def _read_bundle(path: Path) -> Bundle:
    try:
        content = path.read_bytes()
    except OSError:
        raise BrokenVersion(f"{path.name} is missing or cannot be read.") from None
    return read_bundle(content)


class OnDeviceClassifier:
    """A classifier in this process; safe to use from several threads."""

    def __init__(
        self,
        path: Path,
        *,
        tflite_format: str = "float32",
        num_threads: int = 1,
    ) -> None:
        """Load a TFLite file that Inkling published, or a version's directory.

        Args:
            path: The file; or the directory, whose every file is verified then.
            tflite_format: Which file of a directory is run.
            num_threads: Threads that work on one picture.

        Raises:
            InvalidRequest: There is nothing at this path.
            BrokenVersion: What is there is not what was published.
        """
        if not path.exists():
            raise InvalidRequest(
                f"There is nothing at {path}; name a .tflite file or a version's "
                "directory, such as models/cnn/1."
            )
        if tflite_format not in FORMATS:
            raise InvalidRequest(
                f"There is no format {tflite_format!r:.40}; there are: "
                f"{', '.join(FORMATS)}."
            )
        version = None
        if path.is_dir():
            path = path.resolve()
            version = int(path.name) if path.name.isdecimal() else None
            VersionFiles(path.parent.name, version or 0, path).verify()
            path = path / "tflite" / f"{tflite_format}.tflite"
        bundle = _read_bundle(path)
        self._runner = TFLiteRunner(bundle.model, bundle.contract, num_threads)
        self._origin = Origin(bundle.name, version, bundle.contract.hash, "device")

    def classify(
        self, picture: Picture, top_k: int = 1, *, abstain: bool = False
    ) -> Prediction:
        """Return what the model says of one picture."""
        [prediction] = self.classify_many([picture], top_k, abstain=abstain)
        return prediction

    def outcomes(
        self, pictures: Iterable[Picture], top_k: int = 1, *, abstain: bool = False
    ) -> Iterator[Prediction | InklingError]:
        """Yield a prediction or an error per picture, in order."""
        contract = self._runner.contract
        for picture in pictures:
            try:
                check_top_k(top_k)
                check_abstain(abstain)
                inputs = to_input(encoded(picture), contract)[np.newaxis]
                scores = self._runner.run(inputs)
            except InklingError as error:
                yield error
            else:
                found = predictions(scores, contract.labels, top_k, self._origin)
                yield from abstaining(found, inputs, contract) if abstain else found

    def classify_many(
        self, pictures: Iterable[Picture], top_k: int = 1, *, abstain: bool = False
    ) -> Iterator[Prediction]:
        """Yield a prediction per picture, in order."""
        return raising(self.outcomes(pictures, top_k, abstain=abstain))

    def contract(self) -> Contract:
        """Return the contract that the file carries."""
        return self._runner.contract

    def close(self) -> None:
        """Do nothing: the model goes with this object."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


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


def _check_scores(scores: npt.NDArray[np.float32], shape: tuple[int, int]) -> None:
    slack = _SCORE_STEP * shape[1]
    # A sum that is no number fails this comparison too.
    if scores.shape != shape or not abs(scores.sum(axis=1) - 1).max() <= slack:
        raise BrokenVersion(
            f"The model answered with shape {scores.shape}, or with scores that do not "
            f"sum to 1; expected probabilities of shape {shape}."
        )
