# SPDX-License-Identifier: Apache-2.0
"""Publishes a MobileNetV2 for photos of 224x224 pixels, with random weights.

    python -m benchmarks.photo_model FOLDER

The cost of an answer does not depend on the weights. The model comes into the folder
through `inkling publish`, as every model of a user does.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

__all__ = ["MEGABYTES", "NAME", "publish"]

NAME = "photo"
# The weights of 3.5 million parameters in float32.
MEGABYTES = 14
_CLASSES = 1000


def publish(folder: Path) -> None:
    """Publish the model into a folder, in a process of its own."""
    subprocess.run(
        [sys.executable, "-m", "benchmarks.photo_model", str(folder)],
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def _main(folder: Path) -> None:
    import keras  # noqa: PLC0415 - only this process needs it

    keras.utils.set_random_seed(0)
    model = keras.applications.MobileNetV2(weights=None, classes=_CLASSES)
    folder.mkdir(exist_ok=True)
    given, labels = folder / "given.keras", folder / "labels.txt"
    model.save(given)
    labels.write_text("".join(f"label {n}\n" for n in range(_CLASSES)))
    command = [sys.executable, "-m", "inkling", "publish", str(given), "--name", NAME]
    command += ["--labels", str(labels), "--values", "unit"]
    subprocess.run([*command, "--models-dir", str(folder / "models")], check=True)


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
