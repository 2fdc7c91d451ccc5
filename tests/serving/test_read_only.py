# SPDX-License-Identifier: Apache-2.0
"""A system on which nothing can be written, as containers with a read-only root are."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.gateway_process import get_json
from tests.support.machine import free_port, until

_TEMPORARY = ("/tmp", "/var/tmp", "/usr/tmp")


def _read_only(*folders: str) -> list[str]:
    """Return the beginning of a command line that makes folders read-only for it."""
    script = "".join(
        f"[ ! -d {one} ] || {{ mount --bind {one} {one} "
        f"&& mount -o remount,bind,ro {one}; }} || exit 77; "
        for one in folders
    )
    return ["unshare", "--mount", "sh", "-c", f'{script} cd /proc; exec "$@"', "sh"]


@pytest.fixture(scope="module")
def mounts() -> None:
    """Skip where this user may not mount; NOTHING is checked then."""
    try:
        done = subprocess.run([*_read_only("/tmp"), "true"], capture_output=True)
    except OSError:
        pytest.skip("there is no unshare here; NOTHING was checked")
    if done.returncode:
        pytest.skip("this user may not mount; NOTHING was checked")


def _inkling(*words: object) -> list[str]:
    return [sys.executable, "-m", "inkling", *map(str, words)]


@pytest.mark.usefixtures("mounts")
@pytest.mark.parametrize(
    ("workers", "folders", "is_said"),
    [
        (1, (*_TEMPORARY, "/dev/shm"), False),
        (2, _TEMPORARY, False),
    ],
)
def test_a_gateway_serves_without_a_place_to_write(
    workers: int,
    folders: tuple[str, ...],
    is_said: bool,
    published: Path,
    tmp_path: Path,
) -> None:
    """One worker needs no folder; several ones meet in /dev/shm."""
    port, log = free_port(), tmp_path / "log"
    command = _inkling("serve", "--models-dir", published, "--workers", workers)
    command += ["--http-port", str(port), "--grpc-port", "0"]
    with log.open("w") as output:
        process = subprocess.Popen([*_read_only(*folders), *command], stderr=output)
    try:
        until(lambda: get_json(port, "/readyz")[0] == 200)
    finally:
        process.terminate()
        code = process.wait(30)

    assert 0 == code, log.read_text()
    assert "Traceback" not in log.read_text()
    assert is_said == ("can be written to" in log.read_text())


@pytest.mark.usefixtures("mounts")
def test_workers_without_shared_memory_are_refused_in_a_sentence(
    published: Path,
) -> None:
    """Without /dev/shm, several processes cannot work together; one can."""
    command = _inkling("serve", "--models-dir", published, "--workers", "2")
    command += ["--http-port", "0", "--grpc-port", "0"]
    done = subprocess.run(
        [*_read_only(*_TEMPORARY, "/dev/shm"), *command],
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert 1 == done.returncode
    assert "Traceback" not in done.stderr
    assert "--workers 1" in done.stderr.splitlines()[-1]


@pytest.mark.usefixtures("mounts")
@pytest.mark.parametrize(
    "words",
    [
        ("train", "mlp", "--models-dir", "/tmp/models", "--runs-dir", "/tmp/runs"),
        ("doctor", "PICTURE", "--models-dir", "MODELS", "--output", "/tmp/sheet.png"),
        (
            "evaluate",
            "--pictures",
            "PICTURES",
            "--models-dir",
            "MODELS",
            "--output",
            "/tmp/x",
        ),
    ],
)
def test_commands_that_cannot_write_say_so(
    words: tuple[str, ...], published: Path, picture: bytes, tmp_path: Path
) -> None:
    """One sentence names the place; there is no traceback."""
    (tmp_path / "3").mkdir()
    (tmp_path / "3" / "digit.png").write_bytes(picture)
    places = {
        "MODELS": published,
        "PICTURES": tmp_path,
        "PICTURE": tmp_path / "3" / "digit.png",
    }
    command = _inkling(*(places.get(word, word) for word in words))
    done = subprocess.run(
        [*_read_only(*_TEMPORARY), *command],
        capture_output=True,
        text=True,
        timeout=120,
    )

    assert 1 == done.returncode, done.stderr
    assert "Traceback" not in done.stderr
    assert "/tmp/" in done.stderr.splitlines()[-1]


@pytest.mark.usefixtures("mounts")
def test_classify_needs_no_place_to_write(
    published: Path, picture: bytes, tmp_path: Path
) -> None:
    """On the device, a picture is answered on a read-only system."""
    (tmp_path / "digit.png").write_bytes(picture)
    place = published / "cnn" / "1"
    command = _inkling("classify", tmp_path / "digit.png", "--on-device", place)
    folders = (*_TEMPORARY, "/dev/shm")
    done = subprocess.run(
        [*_read_only(*folders), *command], capture_output=True, text=True, timeout=60
    )

    assert 0 == done.returncode, done.stderr
    assert "  3  " in done.stdout
