# SPDX-License-Identifier: Apache-2.0
"""Lesson 10, predict one picture and show it: over HTTP, over gRPC, on this device.

The picture is drawn as people send it: dark ink on a light sheet, large, off the
centre and turned by its camera. Nobody prepares it here; the contract says how.

What came of it: all of the client (client/inkling). The fields `kind`, `finder`,
`polarity`, `grey`, `exif`, `alpha`, `centring` and `box` of a contract find the digit
in such a picture, and `inkling doctor` draws each stage.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

import inkling
from examples.shared import Array, Numbers, Setting, digits, served, start, train_mlp
from inkling.image.preprocess import to_input
from inkling.model.repository import Repository
from inkling.types import Prediction

__all__ = ["photo", "run"]


def photo(pixels: Array, path: Path) -> Path:
    """Write a sample, light on dark, as the photo of a sheet, a JPEG on its side."""
    side = 180
    digit = Image.fromarray(255 - pixels).resize((side, side), Image.Resampling.BICUBIC)
    sheet = Image.new("L", (320, 400), 235)
    sheet.paste(digit.point(lambda value: value * 235 // 255), (90, 60))
    exif = Image.Exif()
    exif[0x0112] = 6  # the orientation: turn me by 90 degrees before you show me
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.transpose(Image.Transpose.ROTATE_90).save(path, quality=90, exif=exif)
    return path


def answers_to(picture: Path, setting: Setting) -> dict[str, Prediction]:
    """Return the prediction for a picture in four ways, all ten labels in each."""
    files = Repository(setting.models).newest("mlp")
    answers = {}
    with served(setting.models, "mlp") as (url, address):
        places: dict[str, str | Path] = {
            "HTTP": url,
            "gRPC": address,
            "device": files.tflite("float32"),
            "device, int8": files.tflite("int8"),
        }
        for name, place in places.items():
            with inkling.connect(place, model="mlp") as classifier:
                answers[name] = classifier.classify(picture, top_k=10)
    return answers


def run(setting: Setting) -> Numbers:
    """Ask in each way, show the picture with the answers, and return the numbers."""
    train_mlp(setting)
    test = digits(setting).test
    picture = photo(np.asarray(test.pixels[0]), setting.work / "photo.jpg")
    answers = answers_to(picture, setting)
    contract = Repository(setting.models).newest("mlp").contract()
    scores = {}
    for name, answer in answers.items():
        where = answer.origin.answered_by
        print(f"{name:13} {answer.label}  {answer.probability:.4%}  by the {where}")
        scores[name] = [
            one.probability for one in sorted(answer.top, key=lambda one: one.index)
        ]
    figure = Figure(figsize=(8, 2.8), layout="constrained")
    first, second, third = figure.subplots(1, 3)
    first.imshow(Image.open(picture), cmap="gray", vmin=0, vmax=255)
    first.set_title("the file")
    second.imshow(to_input(picture.read_bytes(), contract)[..., 0], cmap="gray")
    second.set_title("the model's input")
    for place, (name, row) in enumerate(scores.items()):
        third.bar(np.arange(10) + 0.2 * place, row, 0.2, label=name)
    third.set_title("probability of each label")
    third.set_xticks(range(10))
    third.legend(fontsize=7)
    setting.save(figure, "lesson_10")
    exact = [row for name, row in scores.items() if name != "device, int8"]
    labels = {answer.label for answer in answers.values()}
    return {
        "different labels in four ways": float(len(labels)),
        "right": float(labels == {str(test.labels[0])}),
        "worst difference HTTP, gRPC, device": float(np.ptp(exact, axis=0).max()),
        "worst difference of int8": float(
            np.abs(np.subtract(scores["device, int8"], exact[0])).max()
        ),
    }


if __name__ == "__main__":
    start(run)
