"""Shows how far a run is: a moving bar in a terminal, a line per epoch anywhere."""

from __future__ import annotations

import time

import keras
from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

__all__ = ["Progress"]


class Progress(keras.callbacks.Callback):  # type: ignore[misc]
    """Draws the bar and prints the lines."""

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
        """Start the bar; it spans the whole run."""
        del logs
        self._bar.start()
        steps = self.params["steps"] * self._epochs
        self._task = self._bar.add_task("training", total=steps)

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Note the time and the place; a resumed run starts within the bar."""
        del logs
        self._started = time.monotonic()
        done = epoch * self.params["steps"]
        text = f"epoch {epoch + 1}/{self._epochs}"
        self._bar.update(self._task, completed=done, description=text)

    def on_train_batch_end(
        self, batch: int, logs: dict[str, float] | None = None
    ) -> None:
        """Move the bar."""
        del batch, logs
        self._bar.advance(self._task)

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Print the epoch's figures."""
        figures = logs or {}
        self._console.print(
            f"  epoch {epoch + 1:2}/{self._epochs}  "
            f"loss {figures['loss']:.4f}  accuracy {figures['accuracy']:.2%}  "
            f"validation {figures['val_accuracy']:.2%}  "
            f"{time.monotonic() - self._started:.1f} s",
            soft_wrap=True,
        )

    def close(self) -> None:
        """Take the bar away, however the run ended."""
        self._bar.stop()
