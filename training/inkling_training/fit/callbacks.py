# SPDX-License-Identifier: Apache-2.0
"""What happens after each step and each epoch of a run."""

from __future__ import annotations

import math
import signal
import threading
from typing import TYPE_CHECKING

import keras

from inkling_training.errors import TrainingDiverged

if TYPE_CHECKING:
    from types import FrameType

    from inkling_training.fit.recipes import Recipe
    from inkling_training.fit.run import Run

__all__ = ["Interruption", "KeepState", "StopOnNaN", "has_stopped"]

# The loss of neither model has diverged at this learning rate.
_SAFE_LEARNING_RATE = 1e-3


def has_stopped(run: Run, recipe: Recipe) -> bool:
    """Return whether patience has ended a run; the frozen epochs need none."""
    since = max(run.best_epoch, recipe.frozen_epochs)
    return len(run.history) - since >= recipe.patience


class Interruption(keras.callbacks.Callback):  # type: ignore[misc]
    """Makes Ctrl-C end a run.

    Python discards an exception that a signal handler raises inside a destructor, and
    TensorFlow has many destructors. This callback raises it again in the next step.
    """

    def __init__(self) -> None:
        super().__init__()
        self._pressed = False
        # Only the main thread may set a signal handler, and a handler that another
        # library has set stays in place.
        self._ours = (
            threading.current_thread() is threading.main_thread()
            and signal.getsignal(signal.SIGINT) is signal.default_int_handler
        )

    def __enter__(self) -> Interruption:
        if self._ours:
            signal.signal(signal.SIGINT, self._press)
        return self

    def __exit__(self, *_: object) -> None:
        if self._ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def _press(self, number: int, frame: FrameType | None) -> None:
        self._pressed = True
        signal.default_int_handler(number, frame)

    def on_train_batch_end(
        self, batch: int, logs: dict[str, float] | None = None
    ) -> None:
        """Raise KeyboardInterrupt if Ctrl-C was pressed before this step."""
        del batch, logs
        if self._pressed:
            raise KeyboardInterrupt


class StopOnNaN(keras.callbacks.Callback):  # type: ignore[misc]
    """Stops a run at the step whose loss is NaN or infinite.

    Args:
        rate: The highest learning rate, for the message.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self._rate = rate

    def on_train_batch_end(
        self, batch: int, logs: dict[str, float] | None = None
    ) -> None:
        """Check the loss of the step."""
        self._check((logs or {}).get("loss", 0.0), f"step {batch + 1}")

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Check the validation loss, before the weights are saved."""
        self._check((logs or {}).get("val_loss", 0.0), f"the end of epoch {epoch + 1}")

    def _check(self, loss: float, where: str) -> None:
        if not math.isfinite(loss):
            advised = min(self._rate / 4, _SAFE_LEARNING_RATE)
            raise TrainingDiverged(
                f"The loss became {loss} at {where}, because the weights became too "
                "large. The model was not published. Lower the learning rate, which is "
                f"{self._rate:g}: --learning-rate {advised:g}"
            )


class KeepState(keras.callbacks.Callback):  # type: ignore[misc]
    """Saves the state after each epoch, and stops the run early by its patience."""

    def __init__(self, run: Run, recipe: Recipe) -> None:
        super().__init__()
        self._run, self._recipe = run, recipe

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Save the state of this epoch."""
        del epoch  # the run counts its epochs itself
        figures = {name: float(value) for name, value in (logs or {}).items()}
        self._run.finish_epoch(self.model, figures)
        self.model.stop_training = has_stopped(self._run, self._recipe)
