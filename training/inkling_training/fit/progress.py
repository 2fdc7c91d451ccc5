# SPDX-License-Identifier: Apache-2.0
"""Shows the progress of a run: a bar in a terminal, and one line for each epoch."""

from __future__ import annotations

import time

import keras
from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

__all__ = ["Progress"]


class Progress(keras.callbacks.Callback):  # type: ignore[misc]
    """Draws the bar and prints one line for each epoch."""

    def __init__(self, epochs: int) -> None:
        super().__init__()
        self._epochs = epochs
        self._console = Console(highlight=False)
        self._bar = Bar(
            TextColumn("  {task.description}"),
            BarColumn(),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )

    def on_train_begin(self, logs: dict[str, float] | None = None) -> None:
        """Start the bar, which covers all epochs of the run."""
        del logs
        self._bar.start()
        steps = self.params["steps"] * self._epochs
        self._task = self._bar.add_task("training", total=steps)

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Store the time and move the bar; a resumed run starts at its first epoch."""
        del logs
        self._started = time.monotonic()
        done = epoch * self.params["steps"]
        text = f"epoch {epoch + 1}/{self._epochs}"
        self._bar.update(self._task, completed=done, description=text)

    def on_train_batch_end(
        self, batch: int, logs: dict[str, float] | None = None
    ) -> None:
        """Move the bar by one step."""
        del batch, logs
        self._bar.advance(self._task)

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Print loss, accuracy and seconds of the epoch."""
        figures = logs or {}
        self._console.print(
            f"  epoch {epoch + 1:2}/{self._epochs}  "
            f"loss {figures['loss']:.4f}  accuracy {figures['accuracy']:.2%}  "
            f"validation {figures['val_accuracy']:.2%}  "
            f"{time.monotonic() - self._started:.1f} s",
            soft_wrap=True,
        )

    def close(self) -> None:
        """Remove the bar."""
        self._bar.stop()
