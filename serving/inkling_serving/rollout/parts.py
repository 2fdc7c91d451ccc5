# SPDX-License-Identifier: Apache-2.0
"""What a gateway process does for new versions: it mirrors requests, and judges."""

from __future__ import annotations

from typing import TYPE_CHECKING

from inkling.model.repository import Repository
from inkling_serving.rollout.judge import Judge
from inkling_serving.rollout.mirror import Mirror

if TYPE_CHECKING:
    from inkling_serving.engines.base import Engine
    from inkling_serving.runtime.metrics import Metrics
    from inkling_serving.runtime.thread_pool import ThreadPool
    from inkling_serving.settings import Settings

__all__ = ["Rollout"]


class Rollout:
    """The mirror and the judge of one process.

    Attributes:
        mirror: Gets the answered requests.
    """

    def __init__(
        self, engine: Engine, metrics: Metrics, pool: ThreadPool, settings: Settings
    ) -> None:
        """Start both threads; `pool` says whether requests wait."""
        self.mirror = Mirror(engine, metrics, settings.limits, lambda: pool.is_busy)
        repository = Repository(settings.models_dir, settings.model_name)
        self._judge = Judge(repository, metrics)

    def close(self) -> None:
        """Stop both threads."""
        self._judge.close()
        self.mirror.close()
