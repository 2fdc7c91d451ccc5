# SPDX-License-Identifier: Apache-2.0
"""The trained models that most tests serve; they are kept from run to run."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from inkling.errors import InklingError
from inkling.model.repository import Repository

_ROOT = Path(__file__).parent.parent.parent
_MODELS = ("mlp", "cnn")
_DAY_S = 86_400
# No proxy listens there, so that a download fails at once, on any machine.
OFFLINE = dict.fromkeys(("https_proxy", "HTTPS_PROXY"), "http://127.0.0.1:9")


def training_digest(*more: Path) -> str:
    """Return a digest of all that a training depends on: code, libraries, interpreter."""
    files = [_ROOT / "requirements.lock", *more]
    for package in ("client/inkling", "training/inkling_training"):
        files += sorted((_ROOT / package).rglob("*.py"))
    found = hashlib.sha256(sys.version.encode())
    for file in files:
        found.update(f"\0{file.relative_to(_ROOT)}\0".encode())
        found.update(file.read_bytes())
    return found.hexdigest()[:16]


def trained(folder: Path) -> None:
    """Train both models by the command, into a new folder; keep its output beside it.

    No MNIST is within reach, so the command falls back to the bundled digits.
    """
    beside = folder.parent
    command = [sys.executable, "-m", "inkling", "train", *_MODELS, "--recipe", "quick"]
    command += ["--models-dir", str(folder), "--runs-dir", str(beside / "runs")]
    command += ["--data-dir", str(beside)]
    out, err = beside / "train.out", beside / "train.err"
    with out.open("w") as stdout, err.open("w") as stderr:
        done = subprocess.run(
            command,
            env={**os.environ, **OFFLINE, "KERAS_HOME": str(beside / "keras")},
            stdout=stdout,
            stderr=stderr,
            timeout=240,
        )
    assert done.returncode == 0, out.read_text() + err.read_text()


def forget_old(folder: Path) -> None:
    """Remove what was trained from other code more than a day ago."""
    for old in folder.iterdir():
        if time.time() - old.stat().st_mtime > _DAY_S:
            shutil.rmtree(old, ignore_errors=True)


def once(
    folder: Path, make: Callable[[Path], None], is_whole: Callable[[Path], bool]
) -> Path:
    """Return a folder; whichever process asks first makes it, and the others wait."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not is_whole(folder):
            forget_old(folder.parent.parent)
            unfinished = folder.with_suffix(".unfinished")
            for old in (folder, unfinished):
                shutil.rmtree(old, ignore_errors=True)
            make(unfinished)
            unfinished.rename(folder)
    return folder


def is_whole(models: Path) -> bool:
    """Return whether each model is there, in the one version that was published."""
    repository = Repository(models)
    try:
        for model in _MODELS:
            repository.newest(model).verify()
        return [repository.versions(model) for model in _MODELS] == [[1], [1]]
    except InklingError:
        return False
