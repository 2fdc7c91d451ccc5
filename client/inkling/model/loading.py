# SPDX-License-Identifier: Apache-2.0
"""Loads published files, and checks that the model scores as it did in training."""

from __future__ import annotations

import io
import tokenize
import zipfile
import zlib
from pathlib import Path

import numpy as np

from inkling.errors import BrokenVersion
from inkling.image.preprocess import to_input
from inkling.model.bundle import Bundle, read_bundle
from inkling.model.regular_files import fault, read
from inkling.model.runner import TFLiteRunner
from inkling.model.version_files import GOLDEN_FILE, VersionFiles

__all__ = ["check_golden", "load_bundle", "load_version"]

# The exceptions that NumPy, zipfile and LiteRT raise on a damaged file.
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
# Another version of Pillow may round a resampled pixel differently, by one grey level.
# The check of the scores shows whether that changes the predictions.
_INPUT_TOLERANCE_STEPS = 1.01
# LiteRT reads no model beyond 2 GiB.
_MAX_BUNDLE_BYTES = 2 * 1024**3


def check_golden(runner: TFLiteRunner, files: VersionFiles, tflite_format: str) -> None:
    """Check that this machine prepares and scores the golden pictures as training did.

    Raises:
        BrokenVersion: An input or a score differs by more than its tolerance.
    """
    contract = runner.contract
    content = io.BytesIO(files.content(GOLDEN_FILE))
    with np.load(content, allow_pickle=False) as golden:
        images = np.split(golden["images"], golden["image_ends"][:-1])
        inputs, expected = golden["inputs"], golden["scores"]
    prepared = np.stack([to_input(image.tobytes(), contract) for image in images])
    worst = float(np.abs(prepared - inputs).max())
    if not worst <= _INPUT_TOLERANCE_STEPS * max(map(abs, contract.scale)):
        raise BrokenVersion(
            "On this machine the inputs of the golden pictures differ by up to "
            f"{worst:.2g}. Use the versions of Inkling and Pillow that trained the "
            "model, or train it again."
        )
    worst = float(np.abs(runner.run(prepared) - expected).max())
    tolerance = contract.tolerances[tflite_format]
    if not worst <= tolerance:
        raise BrokenVersion(
            f"The scores of the {tflite_format} model differ from the golden scores by "
            f"up to {worst:.2g}; the contract allows {tolerance:g}. Publish the model "
            "again."
        )


def load_version(files: VersionFiles, tflite_format: str) -> TFLiteRunner:
    """Verify a published version and load one of its TFLite files.

    Args:
        files: The files of the version.
        tflite_format: `float32`, `float16` or `int8`.

    Raises:
        BrokenVersion: A file differs from the published one, or the model does not
            reproduce its golden scores.
        InvalidContract: This version of Inkling does not support the contract.
    """
    files.verify()
    content = files.content(f"tflite/{tflite_format}.tflite")
    contract = files.contract()
    if read_bundle(content).contract != contract:
        raise BrokenVersion(
            f"The contract in the {tflite_format} file differs from the version's "
            "contract. Publish the version again."
        )
    try:
        # With the contract behind the model, the same bytes can go to a device.
        runner = TFLiteRunner(content, contract)
        check_golden(runner, files, tflite_format)
    except _LOADING_ERRORS as error:
        # The texts of these errors contain paths and do not help the publisher.
        raise BrokenVersion(
            f"The {tflite_format} file or the golden pictures cannot be read "
            f"({type(error).__name__}). Publish the version again."
        ) from None
    return runner


def load_bundle(path: Path) -> Bundle:
    """Return the model and the contract in a TFLite file that Inkling published.

    The path may be a link, as in `inkling.model.version_files`: the file states its own
    SHA-256.

    Raises:
        BrokenVersion: The file cannot be read, is damaged, or carries no contract.
        InvalidContract: This version of Inkling does not support the contract.
    """
    try:
        content = read(path, _MAX_BUNDLE_BYTES)
    except (OSError, ValueError) as error:
        raise BrokenVersion(
            f"{path.name} {fault(path, error)}. Copy the file again, or publish the "
            "version again."
        ) from None
    return read_bundle(content)
