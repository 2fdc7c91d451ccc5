# SPDX-License-Identifier: Apache-2.0
"""Watches the feedback and the data folder, and retrains when the rule says so.

Each retraining has a row in the store of the captures. It is written before the
training begins and completed after the label has moved, so that a side-car that was
killed finds what is unfinished, and finishes it.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from inkling.capture.store import STORE_FILE, Retraining, Store
from inkling.errors import InklingError, InvalidRequest
from inkling.image.formats.catalogue import SUFFIXES
from inkling.model.repository import Repository, check_model_name
from inkling_training.tensorflow_import import tensorflow_import

__all__ = ["FIGURE", "due", "published_by", "watch"]

# The figure in a version's card that names its retraining.
FIGURE = "retraining"


def watch(options: argparse.Namespace) -> int:
    """Retrain when it is due, until a signal comes; return the exit code.

    Raises:
        InvalidRequest: There are no captures, the model is not published, or another
            side-car is at work.
    """
    options.name = check_model_name(options.name or options.model)
    if not (options.capture / STORE_FILE).is_file():
        raise InvalidRequest(
            f"{options.capture} has no {STORE_FILE}; expected the directory that "
            "inkling serve --capture names."
        )
    Repository(options.models_dir).default(options.name)
    with _alone(options.capture / f".sidecar-{options.name}.lock", options.name):
        store = Store(options.capture)
        try:
            return _watch(store, options)
        except sqlite3.Error as error:
            raise InvalidRequest(
                f"{options.capture / STORE_FILE} cannot be used ({error}). Free the "
                "disk, and start the side-car again."
            ) from None
        finally:
            store.close()


def _watch(store: Store, options: argparse.Namespace) -> int:
    _say(f"watching the feedback on {options.name} in {options.capture}")
    while True:
        retraining = unfinished(store, options.name) or due(store, options)
        if retraining is not None:
            _finish(store, retraining, options)
        elif options.once:
            _say("no retraining is due")
        if options.once:
            return 0
        time.sleep(options.poll_s)


def unfinished(store: Store, name: str) -> Retraining | None:
    """Return the retraining that a side-car began and did not finish."""
    found = [one for one in store.retrainings(name) if one.ended is None]
    return found[0] if found else None


def due(store: Store, options: argparse.Namespace) -> Retraining | None:
    """Begin a retraining if the rule says so.

    The rule looks at what came after the last retraining: `after_feedback` pictures, or
    feedback that is `after_s` old.
    """
    done = store.retrainings(options.name)
    since = done[-1].upto if done else 0.0
    every = store.labelled(options.name)
    new = [one for one in every if one.time > since]
    folder = _new_pictures(options, since if done else time.time())
    count = len(new) + folder
    if not new and count < options.after_feedback:
        return None
    upto = every[-1].time if every else since
    if count >= options.after_feedback:
        reason = f"{len(new)} new pictures with feedback, {folder} in the data folder"
    elif time.time() - new[0].time >= options.after_s:
        reason = f"feedback that is {time.time() - new[0].time:.0f} s old"
    else:
        return None
    upto = max(upto, time.time()) if folder else upto
    return store.begin_retraining(options.name, reason, upto, len(every))


def _new_pictures(options: argparse.Namespace, since: float) -> int:
    """Return the number of pictures that came into the data folder after a time."""
    if options.dataset != "folder" or options.data_dir is None:
        return 0
    return sum(
        Path(name).suffix.lower() in SUFFIXES
        and Path(folder, name).stat().st_mtime > since
        for folder, _, names in os.walk(options.data_dir)
        for name in names
    )


def _finish(store: Store, retraining: Retraining, options: argparse.Namespace) -> None:
    """Train and publish, or find what was published; move the label, and store it."""
    repository = Repository(options.models_dir)
    version = published_by(repository, retraining)
    try:
        if version is None:
            _say(f"retraining {retraining.id} of {options.name}: {retraining.reason}")
            version = _retrained(store, retraining, options)
        if repository.version_labels(options.name).get(options.label) != version:
            repository.promote(options.name, version, options.label)
    except InklingError as error:
        store.end_retraining(retraining.id, None, error.message)
        _say(f"retraining {retraining.id} published nothing: {error.message}")
        return
    store.end_retraining(retraining.id, version, f"published as {options.label}")
    _say(
        f"retraining {retraining.id} published {options.name} version {version}, which "
        f"has the label {options.label}. Compare it with: inkling replay "
        f"{options.capture} --model {options.name} --version {version}"
    )


def _retrained(
    store: Store, retraining: Retraining, options: argparse.Namespace
) -> int:
    with tensorflow_import():
        from inkling_training.sidecar.retraining import retrain  # noqa: PLC0415

    labelled = [
        one for one in store.labelled(options.name) if one.time <= retraining.upto
    ]
    return retrain(retraining, labelled, options)


def published_by(repository: Repository, retraining: Retraining) -> int | None:
    """Return the version that a retraining has published; None without.

    A side-car may be killed between the publication and the move of the label.
    """
    for version in repository.versions(retraining.model):
        figure = repository.files(retraining.model, version).metrics().get(FIGURE)
        if figure == _figure_of(retraining):
            return version
    return None


def _figure_of(retraining: Retraining) -> dict[str, object]:
    return {"id": retraining.id, "began": retraining.began}


@contextmanager
def _alone(path: Path, name: str) -> Iterator[None]:
    """Hold the lock of a model's side-car; the system releases it with the process.

    Raises:
        InvalidRequest: Another side-car has it.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise InvalidRequest(
            f"Another side-car retrains {name} from these captures; one is enough."
        ) from None
    try:
        yield
    finally:
        os.close(descriptor)


def _say(text: str) -> None:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    print(f"{now} {text}", flush=True)
