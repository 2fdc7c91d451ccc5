# SPDX-License-Identifier: Apache-2.0
"""The models and the pictures of the benchmark."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

import inkling
from inkling.errors import InklingError
from inkling.image.preprocess import to_input
from inkling.model.bundle import Bundle, read_bundle
from inkling.model.repository import (
    CONTRACT_FILE,
    FORMATS,
    GOLDEN_FILE,
    Repository,
    VersionFiles,
)
from inkling.model.runner import TFLiteRunner

__all__ = [
    "SMALL",
    "Picture",
    "find_or_train",
    "photos",
    "pictures",
    "publish_as_sample",
]


# The name of the sample among the pictures.
SMALL = "28 px"


@dataclass(frozen=True)
class Picture:
    """An encoded picture, and its label under each contract.

    Attributes:
        image: The bytes of a PNG.
        label: The label under the digit contract.
        label_as_sample: The label under the sample contract.
    """

    image: bytes
    label: str
    label_as_sample: str


def find_or_train(given: Path, work: Path) -> Path:
    """Return a repository with digit models: `given` if it has them, or a new one.

    The new models are trained on scikit-learn's digits. The cost of a picture does not
    depend on a model's training data.
    """
    for folder in (given, work / "models"):
        if all(_is_digit_model(folder, name) for name in ("mlp", "cnn")):
            return folder
    print(
        f"{given} has no digit models; training small models takes a minute ...",
        flush=True,
    )
    command = [sys.executable, "-m", "inkling", "train", "mlp", "cnn"]
    command += ["--recipe", "quick", "--dataset", "digits", "--allow-regression"]
    command += ["--models-dir", str(work / "models"), "--runs-dir", str(work)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return work / "models"


def _is_digit_model(folder: Path, name: str) -> bool:
    try:
        contract = Repository(folder).newest(name).contract()
    except InklingError:
        return False
    return contract.input_shape == (28, 28, 1) and contract.finder != "none"


def publish_as_sample(models_dir: Path, target: Path) -> None:
    """Publish the MLP again, with a contract that uses the whole picture (a sample).

    Its preparation is the peers' work: luminance, then one resize.
    """
    files = Repository(models_dir).newest("mlp")
    contract = replace(
        files.contract(),
        kind="sample",
        grey="luminance",
        finder="none",
        centring="none",
        polarity="as_is",
    )
    with Repository(target).publishing("mlp") as publication:
        for folder in (CONTRACT_FILE, "tflite/x"):
            (publication.path / folder).parent.mkdir()
        (publication.path / CONTRACT_FILE).write_text(contract.json)
        models = {
            name: read_bundle(files.tflite(name).read_bytes()) for name in FORMATS
        }
        for name, bundle in models.items():
            content = Bundle(bundle.model, "mlp", name, contract).to_bytes()
            (publication.path / "tflite" / f"{name}.tflite").write_bytes(content)
        with np.load(files.path / GOLDEN_FILE) as golden:
            images, ends = golden["images"], golden["image_ends"]
        inputs = np.stack(
            [to_input(i.tobytes(), contract) for i in np.split(images, ends[:-1])]
        )
        scores = TFLiteRunner(models["float32"].model, contract).run(inputs)
        np.savez_compressed(
            publication.path / GOLDEN_FILE,
            images=images,
            image_ends=ends,
            inputs=inputs,
            scores=scores,
        )
        publication.commit()


def pictures(models_dir: Path, sample_dir: Path) -> dict[str, Picture]:
    """Return one digit in the forms that people send, by names.

    A sample of 28x28 grey pixels; in noisy colour a PNG of 280x280, a JPEG of 640x640
    and a JPEG of 12 megapixels, as phones write them.
    """
    files = Repository(models_dir).newest("mlp")
    with np.load(files.path / GOLDEN_FILE) as golden:
        small = golden["images"][: golden["image_ends"][0]].tobytes()
    images = {
        SMALL: small,
        "280 px PNG": _enlarged(small, (280, 280), "PNG"),
        "640 px JPEG": _enlarged(small, (640, 640), "JPEG"),
        "12 MP JPEG": _enlarged(small, (4000, 3000), "JPEG"),
    }
    versions = (files, Repository(sample_dir).newest("mlp"))
    return {
        name: Picture(image, *(_label(version, image) for version in versions))
        for name, image in images.items()
    }


def photos(found: Mapping[str, Picture]) -> dict[str, bytes]:
    """Return JPEG files of a camera's sizes, by names.

    Args:
        found: The result of `pictures`.
    """
    return {
        "640x480 JPEG": _enlarged(found[SMALL].image, (640, 480), "JPEG"),
        "12 MP JPEG": found["12 MP JPEG"].image,
    }


def _enlarged(sample: bytes, size: tuple[int, int], kind: str) -> bytes:
    picture = Image.open(io.BytesIO(sample)).resize(size, Image.Resampling.BICUBIC)
    noise = np.random.default_rng(0).normal(0, 8, (*size[::-1], 3))
    colours = np.asarray(picture.convert("RGB"), np.float32) + noise
    file = io.BytesIO()
    Image.fromarray(colours.clip(0, 255).astype(np.uint8)).save(file, kind, quality=90)
    return file.getvalue()


def _label(version: VersionFiles, image: bytes) -> str:
    with inkling.connect(str(version.path)) as classifier:
        return str(classifier.classify(image).label)
