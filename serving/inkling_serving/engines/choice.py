# SPDX-License-Identifier: Apache-2.0
"""Creates the engine that the settings name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from inkling.model.repository import Repository
from inkling_serving.engines.embedded import EmbeddedEngine
from inkling_serving.engines.tensorflow_serving import TensorFlowServingEngine

if TYPE_CHECKING:
    from pathlib import Path

    from inkling_serving.engines.base import Engine
    from inkling_serving.settings import Settings

__all__ = ["create_engine"]


def create_engine(settings: Settings, folder: Path | None = None) -> Engine:
    """Return the engine that the settings name, with the published models loaded.

    Args:
        settings: The gateway's settings.
        folder: The directory that all processes of the gateway share, if any.
    """
    if settings.engine == "tensorflow_serving":
        return TensorFlowServingEngine(settings, folder)
    repository = Repository(settings.models_dir, settings.model_name)
    return EmbeddedEngine(repository, settings.tflite_format, settings.poll_s, folder)
