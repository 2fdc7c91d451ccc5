# SPDX-License-Identifier: Apache-2.0
"""The directory of a run, from which it resumes after any epoch."""

from __future__ import annotations

import json
import shutil
import zipfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    from inkling_training.data.datasets import Dataset
    from inkling_training.fit.models import Architecture
    from inkling_training.fit.recipes import Recipe

    Array = npt.NDArray[Any]

__all__ = ["Run", "identity"]


class Run:
    """The directory of a run, with its identity, its last state and its best weights.

    One file holds all of these. It is replaced after each epoch by a rename, so a run
    that was killed at any moment resumes after its last complete epoch.

    Attributes:
        directory: The directory of the run.
        kept: False for a worker that only reads the directory, which its chief writes.
        identity: The values that make two runs the same; see `identity`.
        history: Loss and accuracy of every epoch, oldest first.
        best_epoch: The number of the best epoch, from 1; 0 before the first.
        best: The weights of the best epoch.
        last: The variables of model and optimizer after the last epoch.
    """

    def __init__(
        self, directory: Path, identity: dict[str, Any], *, kept: bool = True
    ) -> None:
        self.directory, self.kept = directory, kept
        self.identity = json.loads(json.dumps(identity))
        self.history: list[dict[str, float]] = []
        self.best_epoch = 0
        self.best: list[Array] = []
        self.last: list[Array] = []

    @property
    def _state(self) -> Path:
        return self.directory / "state.npz"

    def start(self, resume: bool) -> bool:
        """Return True if the run resumes; otherwise empty its directory."""
        if resume:
            print(f"  the run {self._taken_up()}", flush=True)
            if self.last:
                return True
        if self.kept:
            shutil.rmtree(self.directory, ignore_errors=True)
            self.directory.mkdir(parents=True)
        return False

    def finish_epoch(self, model: keras.Model, figures: dict[str, float]) -> None:
        """Write the state after an epoch; `figures` are its loss and accuracy."""
        self.history.append(figures)
        self.last = [np.asarray(v) for v in _variables(model)]
        if self._is_best(figures):
            self.best_epoch = len(self.history)
            self.best = model.get_weights()
        if self.kept:
            self._save()

    def _save(self) -> None:
        described = {
            "identity": self.identity,
            "history": self.history,
            "best_epoch": self.best_epoch,
        }
        arrays = {f"last_{n}": array for n, array in enumerate(self.last)}
        arrays |= {f"best_{n}": array for n, array in enumerate(self.best)}
        arrays["described"] = np.array(json.dumps(described))
        unfinished = self._state.with_suffix(".unfinished.npz")
        np.savez(unfinished, **arrays)  # type: ignore[arg-type]
        unfinished.replace(self._state)

    def restore(self, model: keras.Model, *, with_optimizer: bool) -> None:
        """Set the model to the state after the last complete epoch.

        Args:
            model: The compiled model.
            with_optimizer: True to set the optimizer, too; it must be the same one.
        """
        variables = _variables(model) if with_optimizer else model.variables
        values = self.last if with_optimizer else self.last[: len(variables)]
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)

    def _taken_up(self) -> str:
        if not self._state.exists():
            return "starts again: it has no saved state"
        try:
            # The context manager closes the file; NumPy leaves a damaged file open.
            with (
                self._state.open("rb") as opened,
                np.load(opened, allow_pickle=False) as state,
            ):
                arrays = dict(state)
            described = json.loads(str(arrays.pop("described")))
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return "starts again: its saved state cannot be read"
        saved = described["identity"]
        others = [key for key in self.identity if saved.get(key) != self.identity[key]]
        if others:
            return f"starts again: its saved state has another {' and '.join(others)}"
        self.history, self.best_epoch = described["history"], described["best_epoch"]
        self.last, self.best = (
            [arrays[f"{kind}_{n}"] for n in range(_count(arrays, kind))]
            for kind in ("last", "best")
        )
        return f"continues after epoch {len(self.history)}"

    def _is_best(self, figures: dict[str, float]) -> bool:
        if not self.best_epoch:
            return True
        best = self.history[self.best_epoch - 1]
        rank = (figures["val_accuracy"], -figures["val_loss"])
        return rank > (best["val_accuracy"], -best["val_loss"])


def _count(arrays: dict[str, Array], kind: str) -> int:
    return sum(name.startswith(kind + "_") for name in arrays)


def _variables(model: keras.Model) -> list[Any]:
    """Return all variables that training changes: weights, dropout seeds, optimizer."""
    return [*model.variables, *model.optimizer.variables]


def identity(
    architecture: Architecture, dataset: Dataset, recipe: Recipe, seed: int
) -> dict[str, Any]:
    """Return the values that two runs share if one may resume the other."""
    source = architecture.source
    return {
        "model": architecture.name,
        "source": None if source is None else asdict(source),
        "contract": dataset.contract.hash,
        "recipe": asdict(recipe),
        "seed": seed,
    }
