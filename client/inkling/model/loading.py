"""Published files -> a runner that is known to answer as the model did in training."""

from __future__ import annotations

import tokenize
import zipfile
import zlib
from pathlib import Path

import numpy as np

from inkling.errors import BrokenVersion
from inkling.image.preprocess import to_input
from inkling.model.bundle import Bundle, read_bundle
from inkling.model.repository import GOLDEN_FILE, VersionFiles
from inkling.model.runner import TFLiteRunner

__all__ = ["check_golden", "load_bundle", "load_version"]

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
    bundle = load_bundle(files.tflite(tflite_format))
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


def load_bundle(path: Path) -> Bundle:
    """Return the model and the contract in a TFLite file that Inkling published.

    Raises:
        BrokenVersion: The file cannot be read, is damaged, or carries no contract.
    """
    try:
        content = path.read_bytes()
    except OSError:
        raise BrokenVersion(f"{path.name} is missing or cannot be read.") from None
    return read_bundle(content)
