# SPDX-License-Identifier: Apache-2.0
"""The architectures of `keras.applications`, with a new last layer for transfer.

The pretrained part runs in inference mode also while it is fine-tuned: its
BatchNormalization keeps the statistics of its pretraining.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
from keras import layers

from inkling.model.regular_files import sha256
from inkling_training.errors import UnusableArchitecture
from inkling_training.fit.models import Network
from inkling_training.preparation.presets import VALUES

if TYPE_CHECKING:
    from inkling_training.fit.recipes import Recipe

__all__ = ["Application", "application"]

_CLOSE = 1e-3
_WITHOUT_FILE = ("imagenet", "none")


@dataclass(frozen=True)
class Application:
    """An architecture of `keras.applications` with its first weights.

    Attributes:
        name: The name of its function.
        function: The function that builds it.
        weights: `imagenet`, `none`, or a file.
        alpha: The width of a MobileNet; None for the usual one.
    """

    name: str
    function: Callable[..., keras.Model]
    weights: str
    alpha: float | None = None

    @property
    def is_pretrained(self) -> bool:
        """Whether it begins with weights that were trained on other pictures."""
        return self.weights != "none"

    @property
    def digest(self) -> str:
        """What the first weights are: `sha256:` of their file, or their name."""
        if self.weights in _WITHOUT_FILE:
            return f"{self.weights}, Keras {keras.__version__}"
        return f"sha256:{sha256(Path(self.weights))}"

    @property
    def values(self) -> str:
        """The name of the values that its own `preprocess_input` makes.

        Raises:
            UnusableArchitecture: Inkling's contract cannot state the preparation.
        """
        module = inspect.getmodule(self.function)
        colours = np.array([[[[0, 0, 0], [255, 0, 0], [10, 20, 200]]]], np.float32)
        made = np.asarray(module.preprocess_input(colours.copy()))  # type: ignore[union-attr]
        for name, fields in VALUES.items():
            if np.abs(_prepared(colours, fields) - made).max() < _CLOSE:
                return name
        raise UnusableArchitecture(
            f"The preprocess_input of {self.name} is none that a contract can state."
        )

    def build(
        self, shape: tuple[int, int, int], num_classes: int, recipe: Recipe
    ) -> Network:
        """Return the architecture without its top, with a new last layer.

        Raises:
            UnusableArchitecture: The shape or the weights do not fit.
        """
        base = self._base(shape)
        inputs = keras.Input(shape)
        # Without pretraining the statistics of BatchNormalization must be learnt.
        training = False if self.is_pretrained else None
        features = base(inputs, training=training)  # (n, features)
        features = layers.Dropout(recipe.dropout)(features)
        logits = layers.Dense(num_classes, name="logits")(features)
        scores = layers.Softmax(name="scores")(logits)
        model = keras.Model(inputs, scores, name=self.name.lower())
        return Network(model, base=base if self.is_pretrained else None)

    def _base(self, shape: tuple[int, int, int]) -> keras.Model:
        if shape[2] != 3:
            raise UnusableArchitecture(
                f"{self.name} takes colour pictures, and these are grey; train it with "
                "--dataset folder or cifar10."
            )
        weights = None if self.weights == "none" else self.weights
        more = {} if self.alpha is None else {"alpha": self.alpha}
        try:
            return self.function(
                include_top=False,
                weights=weights,
                input_shape=shape,
                pooling="avg",
                **more,
            )
        except Exception as error:  # noqa: BLE001 - Keras raises many kinds
            raise UnusableArchitecture(self._why(shape, error)) from None

    def _why(self, shape: tuple[int, int, int], error: Exception) -> str:
        said = " ".join(str(error).split())[:200]
        if "URL fetch failure" in said:
            return (
                f"The weights of {self.name} from ImageNet could not be downloaded. "
                "Give --weights FILE with a file of them, or --weights none to train "
                "from the beginning."
            )
        if self.weights not in _WITHOUT_FILE and "input" not in said.lower()[:20]:
            return (
                f"{self.weights} does not hold weights for {self.name} without its "
                f"top; expected such a file, for the same alpha: {said}"
            )
        return (
            f"{self.name} cannot be built for pictures of {shape[0]} x {shape[1]} "
            f"pixels: {said}"
        )


def _prepared(colours: Any, fields: Mapping[str, Any]) -> Any:
    ordered = colours[..., ::-1] if fields.get("channel_order") == "bgr" else colours
    return ordered * np.float32(fields["scale"]) + np.float32(fields["offset"])


def application(name: str, weights: str | None, alpha: float | None) -> Application:
    """Return an architecture of `keras.applications`.

    Args:
        name: The name of its function, such as `MobileNetV2`.
        weights: `imagenet`, `none`, or a file; None is `imagenet`.
        alpha: The width of a MobileNet; None for the usual one.

    Raises:
        UnusableArchitecture: There is no such architecture or file, or it has no alpha.
    """
    known = [one for one in dir(keras.applications) if one[0].isupper()]
    if name not in known:
        near = get_close_matches(name, known, 3, cutoff=0.4)
        raise UnusableArchitecture(
            f"keras.applications has no {name}; it has {', '.join(near or known)}."
        )
    function = getattr(keras.applications, name)
    if alpha is not None and "alpha" not in inspect.signature(function).parameters:
        raise UnusableArchitecture(
            f"{name} has no alpha; only the MobileNets have one. Leave --alpha out."
        )
    weights = weights or "imagenet"
    if weights not in _WITHOUT_FILE and not Path(weights).is_file():
        raise UnusableArchitecture(
            f"--weights is {weights}, which is no file; expected a file, imagenet or "
            "none."
        )
    return Application(name, function, weights, alpha)
