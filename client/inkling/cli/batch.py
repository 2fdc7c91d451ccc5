# SPDX-License-Identifier: Apache-2.0
"""The pictures of a folder, and their classification in the processes of Ray."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inkling.errors import InklingError, MissingDependency, NotReady
from inkling.gateway.connect import connect

if TYPE_CHECKING:
    from inkling.types import Prediction

    Outcome = Prediction | InklingError

__all__ = ["files_of", "outcomes"]

# A task loads the model or connects once, for so many pictures.
_PER_TASK = 128


def files_of(paths: Iterable[Path]) -> list[Path]:
    """Return the paths; in place of a folder the files in it, at any depth, by name.

    A folder without files stays, so that it is named among what cannot be read.
    """
    return [*chain.from_iterable(map(_files, paths))]


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    return sorted(file for file in path.rglob("[!.]*") if file.is_file()) or [path]


def outcomes(
    runner: str,
    pictures: Sequence[Path],
    connection: Mapping[str, Any],
    asked: Mapping[str, Any],
) -> Iterator[Outcome]:
    """Yield for each picture, in order, its prediction or why there is none.

    Args:
        runner: `process` for this process, `ray` for those of a Ray cluster.
        pictures: The files; all machines of a cluster have to be able to read them.
        connection: The arguments of `inkling.connect`.
        asked: The further arguments of `Classifier.outcomes`.

    Raises:
        MissingDependency: Ray is not installed.
        NotReady: Ray cannot be started or reached.
        InklingError: The gateway cannot be asked, or the model cannot be loaded.
    """
    if runner == "ray":
        yield from _ray_outcomes(pictures, connection, asked)
        return
    with connect(**connection) as classifier:
        yield from classifier.outcomes(pictures, **asked)


def _ray_outcomes(
    pictures: Sequence[Path], connection: Mapping[str, Any], asked: Mapping[str, Any]
) -> Iterator[Outcome]:
    # Ray reports its use to its makers where nothing is set.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray  # noqa: PLC0415 - optional, and takes a second to import
    except ImportError:
        raise MissingDependency("Ray", "ray") from None
    try:
        ray.init(log_to_driver=False, logging_level="ERROR", include_dashboard=False)
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise NotReady(f"Ray cannot be started or reached: {error}") from None
    try:
        task, under_way = ray.remote(_part), deque[Any]()
        most = 2 * max(1, int(ray.cluster_resources().get("CPU", 1)))
        for start in range(0, len(pictures), _PER_TASK):
            part = [file.absolute() for file in pictures[start : start + _PER_TASK]]
            under_way.append(task.remote(part, connection, asked))
            if len(under_way) >= most:
                yield from _answers(ray.get(under_way.popleft()))
        while under_way:
            yield from _answers(ray.get(under_way.popleft()))
    finally:
        ray.shutdown()


def _part(
    pictures: list[Path], connection: Mapping[str, Any], asked: Mapping[str, Any]
) -> list[Outcome] | str:
    """Return the outcomes, or in a process of Ray why there are none at all."""
    try:
        with connect(**connection) as classifier:
            return list(classifier.outcomes(pictures, **asked))
    except InklingError as error:
        return error.message


def _answers(found: list[Outcome] | str) -> list[Outcome]:
    if isinstance(found, str):
        raise InklingError(found)
    return found
