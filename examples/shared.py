# SPDX-License-Identifier: Apache-2.0
"""Whatever several lessons need: their setting, the digits, a command, a gateway."""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from PIL import Image

import inkling
from inkling.gateway.probes import Probes
from inkling.model.repository import Repository
from inkling.types import Prediction
from inkling_training.data.datasets import Dataset, Split, load
from inkling_training.errors import DatasetUnavailable

__all__ = [
    "Answers",
    "Array",
    "Numbers",
    "Setting",
    "asked",
    "dataset_or_none",
    "digits",
    "inkling_command",
    "inputs_and_labels",
    "loss_curves",
    "publish",
    "served",
    "shares_right",
    "show",
    "start",
    "train_mlp",
]

Array: TypeAlias = npt.NDArray[Any]
Numbers: TypeAlias = dict[str, float]
Answers: TypeAlias = dict[str, list[Prediction]]

_WORK = Path("runs/examples")
_START_TIMEOUT_S = 60


@dataclass(frozen=True)
class Setting:
    """How a lesson runs.

    Attributes:
        short: True for fewer steps on fewer pictures, as in the tests.
        figures: The folder for the lesson's figure.
        work: The folder for the models that lessons publish.
    """

    short: bool = False
    figures: Path = _WORK / "figures"
    work: Path = _WORK

    @property
    def models(self) -> Path:
        """The model repository."""
        return self.work / "models"

    def save(self, figure: Figure, name: str) -> None:
        """Write a figure as a small PNG, the same bytes for the same figure."""
        self.figures.mkdir(parents=True, exist_ok=True)
        path = self.figures / f"{name}.png"
        figure.savefig(path, dpi=72, metadata={"Software": None})
        print(f"The figure is {path}.")


def digits(setting: Setting) -> Dataset:
    """Return MNIST, or scikit-learn's 1,797 digits without MNIST and in the short form.

    As `inkling train` does, this looks in INKLING_DATA_DIR, in Keras's cache and on the
    network.
    """
    return load("digits") if setting.short else _best_digits()


@lru_cache
def _best_digits() -> Dataset:
    found = dataset_or_none("mnist")
    if found is None:
        print("MNIST was not found; the lesson uses the 1,797 digits of scikit-learn.")
    return found or load("digits")


def dataset_or_none(name: str) -> Dataset | None:
    """Return a dataset of `keras.datasets`; None if it can be had nowhere."""
    folder = os.environ.get("INKLING_DATA_DIR")
    try:
        return load(name, Path(folder) if folder else None)
    except DatasetUnavailable:
        return None


def inputs_and_labels(split: Split) -> tuple[Array, Array]:
    """Return inputs, float32, shape (n, 784), in [0, 1]; and labels, int64, 0 to 9."""
    pixels = np.asarray(split.pixels)
    return pixels.reshape(len(pixels), -1).astype(np.float32) / 255, split.labels


def inkling_command(*words: str | Path) -> None:
    """Run the command `inkling` with its output in the terminal; it must succeed."""
    print("$ inkling", *words, flush=True)
    subprocess.run([sys.executable, "-m", "inkling", *map(str, words)], check=True)


def train_mlp(setting: Setting) -> None:
    """Train and publish the MLP through `inkling train`, if it is not published yet."""
    if Repository(setting.models).versions("mlp"):
        return
    where = ("--models-dir", setting.models, "--runs-dir", setting.work / "runs")
    dataset = digits(setting).name
    few = ("--epochs", "2") if dataset == "mnist" else ()
    options = ("--dataset", dataset, "--recipe", "quick", *few)
    inkling_command("train", "mlp", *options, *where)


def publish(model: Path, name: str, setting: Setting) -> None:
    """Publish a model of digits through `inkling publish`, checked with 200 of them."""
    known, pictures = digits(setting), setting.work / "pictures"
    for place, label in enumerate(known.validation.labels[:200]):
        folder = pictures / str(label)
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(known.validation.pixels[place]).save(folder / f"{place}.png")
    preparation = ("--values", "unit", "--channels", "grey", "--pictures", pictures)
    options = (*preparation, "--labels", "0,1,2,3,4,5,6,7,8,9", "--outputs", "logits")
    where = ("--models-dir", setting.models, "--allow-regression")
    inkling_command("publish", model, "--name", name, *options, *where)


@contextmanager
def served(models: Path, *names: str) -> Iterator[tuple[str, str]]:
    """Serve a model repository on free ports of this machine until the block ends.

    Yields:
        The addresses for HTTP and for gRPC, once the models `names` can answer.
    """
    command = [sys.executable, "-m", "inkling", "serve", "--models-dir", str(models)]
    command += ["--http-port", "0", "--grpc-port", "0", "--workers", "1"]
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command, stderr=log)
        try:
            give_up = time.monotonic() + _START_TIMEOUT_S
            while not (ports := _ports(log.read())) or not _ready(ports[0], names):
                if process.poll() is not None or time.monotonic() > give_up:
                    log.seek(0)
                    raise RuntimeError(f"The gateway did not start:\n{log.read()}")
                time.sleep(0.1)
                log.seek(0)
            yield ports
        finally:
            process.terminate()
            process.wait()


def asked(setting: Setting, names: tuple[str, ...], pictures: Array) -> Answers:
    """Return the served models' predictions for uint8 pictures, over HTTP, by name."""
    answers = {}
    with served(setting.models, *names) as (url, _):
        for name in names:
            with inkling.connect(url, model=name) as classifier:
                answers[name] = list(classifier.classify_many(pictures))
    return answers


def shares_right(answers: Answers, labels: Array) -> Numbers:
    """Return the share of right answers of each model, 0 to 1."""
    return {
        f"right of {len(labels)} over HTTP, {name}": float(
            np.mean([one.index for one in predictions] == labels)
        )
        for name, predictions in answers.items()
    }


def _ports(log: str) -> tuple[str, str] | None:
    """Return the addresses for HTTP and gRPC in a gateway's log; None before them."""
    http = re.search(r"listening on (http://[^/\s]+)", log)
    grpc = re.search(r"listening on grpc://(\S+)", log)
    return (http[1], grpc[1]) if http and grpc else None


def _ready(url: str, names: tuple[str, ...]) -> bool:
    with Probes(url) as probes:
        return set(names) <= set(probes.ready_models())


def loss_curves(curves: Mapping[str, Array], unit: str = "step") -> Figure:
    """Return plots of losses by step or epoch, side by side, by their titles."""
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    for axes, (title, losses) in zip(
        figure.subplots(1, len(curves), squeeze=False)[0], curves.items(), strict=True
    ):
        axes.semilogy(losses)
        axes.set(title=title, xlabel=unit, ylabel="loss")
        axes.grid(alpha=0.3)
    return figure


def show(numbers: Mapping[str, float]) -> None:
    """Print the numbers that a lesson found, one on each line."""
    for name, value in numbers.items():
        print(f"  {name:46} {value:12.6g}")


def start(run: Callable[[Setting], Numbers]) -> None:
    """Run one lesson by its command line, and print its numbers."""
    parser = argparse.ArgumentParser(description=sys.modules[run.__module__].__doc__)
    parser.add_argument("--short", action="store_true", help="take fewer steps")
    parser.add_argument("--figures", type=Path, default=Setting.figures)
    parser.add_argument("--work", type=Path, default=Setting.work)
    show(run(Setting(**vars(parser.parse_args()))))
