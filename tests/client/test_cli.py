# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from inkling.model.repository import (
    CONTRACT_FILE,
    MANIFEST_FILE,
    METRICS_FILE,
    Repository,
)
from tests.support.machine import within

_HEAVY = (
    "tensorflow", "keras", "flask", "werkzeug", "uvicorn", "locust", "gevent",
    "sklearn", "matplotlib", "ai_edge_litert",
)  # fmt: skip
_HEAVY_AFTER_HELP = f"""
import sys
from inkling.cli.main import main
try:
    main(["--help"])
except SystemExit as stop:
    assert stop.code == 0
print([name for name in {_HEAVY!r} if name in sys.modules], file=sys.stderr)
"""
_TIMED_IMPORT = f"""
import sys, time
before = time.process_time()
import inkling
print(time.process_time() - before)
print([name for name in {_HEAVY!r} if name in sys.modules])
"""


def _environ() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if not k.startswith("INKLING_")}


def _inkling(*words: object, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "inkling", *map(str, words)],
        env={**_environ(), **environ},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def _picture(path: Path, mode: str, size: tuple[int, int] = (28, 28)) -> Path:
    """Write a picture of a stroke; the ending of `path` says in which format."""
    pixels = np.full((size[1], size[0]), 255, np.uint8)
    pixels[size[1] // 5 : -size[1] // 5, size[0] * 2 // 5 : size[0] // 2] = 20
    picture = Image.fromarray(pixels)
    if mode == "I;16":
        picture = Image.fromarray(pixels.astype(np.uint16) * 257)
    elif mode == "RGBA":
        ink = Image.fromarray(255 - pixels)
        picture = Image.new("RGBA", size)
        picture.putalpha(ink)
    else:
        picture = picture.convert(mode)
    picture.save(path)
    return path


def _break_bytes(version: Path) -> None:
    path = version / "tflite/float32.tflite"
    path.write_bytes(path.read_bytes()[:-1])


def _break_manifest(version: Path) -> None:
    (version / MANIFEST_FILE).write_text("[]")


def _break_metrics(version: Path) -> None:
    (version / METRICS_FILE).write_text("{")


def _remove_card(version: Path) -> None:
    shutil.rmtree(version / "card")


def _republished(models_dir: Path, change: Callable[[Path], None]) -> None:
    """Publish version 1 of the MLP again as version 2, changed before its manifest."""
    source = models_dir / "mlp" / "1"
    with Repository(models_dir).publishing("mlp") as publication:
        shutil.copytree(
            source,
            publication.path,
            ignore=shutil.ignore_patterns(MANIFEST_FILE),
            dirs_exist_ok=True,
        )
        change(publication.path)
        publication.commit()


def test_help_lists_every_subcommand() -> None:
    """`inkling --help` names each installed subcommand with what it is for."""
    done = _inkling("--help")

    names = {entry.name for entry in entry_points(group="inkling.commands")}
    assert {"classify", "doctor", "models", "serve", "train", "up"} <= names
    lines = [line.split() for line in done.stdout.splitlines()]
    described = {words[0] for words in lines if len(words) > 2}
    assert names <= described
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    "command", ["classify", "doctor", "models", "serve", "train", "up"]
)
def test_each_subcommand_has_help(command: str) -> None:
    """Each subcommand explains its options, exit code 0."""
    done = _inkling(command, "--help")

    assert (done.returncode, done.stderr) == (0, "")
    assert f"usage: inkling {command}" in done.stdout
    assert command == "classify" or "--models-dir" in done.stdout


def test_help_stays_light() -> None:
    """`inkling --help` imports no TensorFlow, no Flask, no Locust, nothing heavy."""
    done = subprocess.run(
        [sys.executable, "-c", _HEAVY_AFTER_HELP],
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stderr == "[]\n"


def test_import_is_light_and_fast() -> None:
    """`import inkling` takes under 0.5 s of CPU time and imports nothing heavy."""
    times = []
    for _ in range(3):
        command = [sys.executable, "-c", _TIMED_IMPORT]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        seconds, heavy = done.stdout.splitlines()
        times.append(float(seconds))
        assert heavy == "[]"
    print(f"import inkling: {min(times):.3f} s")

    within(min(times), 0.5)


@pytest.mark.parametrize("words", [["--help"], ["models"]])
@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&- <&-"])
def test_closed_streams_are_no_error(
    words: list[str], closed: str, published: Path
) -> None:
    """A command whose caller has closed a standard stream works as with /dev/null."""
    given = [sys.executable, "-m", "inkling", *words]
    given += ["--models-dir", str(published)] if words == ["models"] else []

    done = subprocess.run(
        ["sh", "-c", f'exec "$@" {closed}', "sh", *given],
        env=_environ(),
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is not there")
def test_a_full_disk_is_said(published: Path) -> None:
    """Where the output cannot be written, a sentence says so, and no traceback."""
    command = [sys.executable, "-m", "inkling", "models", "--models-dir", published]
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            command, env=_environ(), stdout=full, stderr=subprocess.PIPE, timeout=60
        )

    assert done.returncode == 1
    assert done.stderr.startswith(b"inkling: The output cannot be written: No space")
    assert done.stderr.count(b"\n") == 1


def test_version_is_printed() -> None:
    """`inkling --version` prints the version of the distribution."""
    done = _inkling("--version")

    assert (done.returncode, done.stdout) == (0, "inkling 0.1.0\n")


def test_installed_script_is_the_module() -> None:
    """The script `inkling` and `python -m inkling` are the same command."""
    script = Path(sys.executable).with_name("inkling")
    done = subprocess.run(
        [script, "--help"], capture_output=True, text=True, check=True
    )

    assert _inkling("--help").stdout == done.stdout


def test_models_lists_what_is_published(published: Path) -> None:
    """`inkling models` prints a row for every version, with its accuracy and state."""
    done = _inkling("models", "--models-dir", published)

    rows = [line.split() for line in done.stdout.splitlines()]
    assert rows[0] == ["MODEL", "VERSION", "LABELS", "DATASET", "ACCURACY", "STATE"]
    assert [r[:3] for r in rows[1:]] == [["cnn", "1", "digits"], ["mlp", "1", "digits"]]
    assert all(row[3].endswith("%") and row[4] == "ok" for row in rows[1:])
    assert (done.returncode, done.stderr) == (0, "")


def test_models_dir_comes_from_the_environment(published: Path) -> None:
    """INKLING_MODELS_DIR says where the repository is."""
    done = _inkling("models", INKLING_MODELS_DIR=str(published))

    assert len(done.stdout.splitlines()) == 3


def test_models_without_any(tmp_path: Path) -> None:
    """An empty repository is an empty list with a remark, not an error."""
    done = _inkling("models", "--models-dir", tmp_path / "nowhere")

    assert len(done.stdout.splitlines()) == 1
    assert 0 == done.returncode
    assert f"inkling: The models directory {tmp_path}/nowhere does not exist.\n" == (
        done.stderr
    )


@pytest.mark.parametrize(
    "damage", [_break_bytes, _break_manifest, _break_metrics, _remove_card]
)
def test_models_lists_broken_versions(
    models_dir: Path, damage: Callable[[Path], None]
) -> None:
    """A version that was damaged is listed with what is wrong; the others are ok."""
    damage(models_dir / "cnn" / "1")

    done = _inkling("models", "--models-dir", models_dir)

    assert (done.returncode, done.stderr) == (0, "")
    _, cnn, mlp = done.stdout.splitlines()
    assert not cnn.endswith(" ok")
    assert "ublish" in cnn
    assert mlp.endswith(" ok")


def _other_contract(version: Path) -> None:
    path = version / CONTRACT_FILE
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 99}))


@pytest.mark.parametrize("change", [_other_contract, _break_metrics, _remove_card])
def test_models_lists_versions_that_were_published_odd(
    models_dir: Path, change: Callable[[Path], None]
) -> None:
    """A whole version with an odd contract or card is one row, and hides no other."""
    _republished(models_dir, change)

    done = _inkling("models", "--models-dir", models_dir)

    assert (done.returncode, done.stderr) == (0, "")
    rows = [line.split()[:2] for line in done.stdout.splitlines()[1:]]
    assert rows == [["cnn", "1"], ["mlp", "2"], ["mlp", "1"]]


def test_models_into_a_closed_pipe(published: Path) -> None:
    """`inkling models | head` ends without a traceback when the reader goes away."""
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "inkling", "models", "--models-dir", published],
        env=_environ(),
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(writer)

    assert done.stderr == ""


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        ("grey.png", "L"),
        ("colour.png", "RGB"),
        ("colour.jpg", "RGB"),
        ("clear.png", "RGBA"),
        ("bits.png", "1"),
        ("palette.png", "P"),
        ("deep.png", "I;16"),
        ("grey_alpha.png", "LA"),
        ("print.jpg", "CMYK"),
    ],
)
@pytest.mark.parametrize("size", [(28, 28), (120, 90)])
def test_doctor_draws_every_stage(
    published: Path, tmp_path: Path, name: str, mode: str, size: tuple[int, int]
) -> None:
    """`inkling doctor --output` tells every stage and draws them all into one PNG."""
    picture = _picture(tmp_path / name, mode, size)
    sheet = tmp_path / "sheet.png"

    done = _inkling("doctor", picture, "--models-dir", published, "--output", sheet)

    assert (done.returncode, done.stderr) == (0, "")
    stages = [line for line in done.stdout.splitlines() if line[:1].isdigit()]
    assert "1. decoded" in stages[0]
    assert "the model gets this picture" in stages[-2]
    with Image.open(sheet) as drawn:
        drawn.load()
        assert drawn.format == "PNG"
        assert drawn.width > 28 < drawn.height


def test_doctor_without_output_writes_nothing(published: Path, tmp_path: Path) -> None:
    """Without --output the stages are only told."""
    picture = _picture(tmp_path / "picture.png", "L")

    done = _inkling("doctor", picture, "--models-dir", published, "--model", "mlp")

    assert done.returncode == 0
    assert "1. decoded" in done.stdout
    assert list(tmp_path.iterdir()) == [picture]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere.png"], "nowhere.png cannot be read (No such file"),
        (["."], ". cannot be read (Is a directory)"),
        (["text.png"], "PNG"),
        (["cut.png"], "damaged"),
        (["picture.tiff"], "expected PNG, JPEG, WebP, GIF or BMP"),
        (["picture.png", "--model", "nosuch"], "inkling train nosuch"),
        (["picture.png", "--model", "../../etc"], "1 to 64 characters"),
        (["picture.png", "--output", "text.png/below.png"], "below.png"),
        (["picture.png", "--output", "nowhere/below.png"], "below.png"),
        (["picture.png", "--output", "sheet.nosuch"], "sheet.nosuch"),
        (["picture.png", "--output", "."], "."),
        (["picture.png", "--contract", "nowhere.json"], "nowhere.json"),
        (["picture.png", "--contract", "text.png"], "contract"),
    ],
)
def test_errors_go_to_stderr(
    published: Path, tmp_path: Path, words: list[str], message: str
) -> None:
    """An error is one line on stderr with exit code 1, never a traceback."""
    _picture(tmp_path / "picture.tiff", "L")
    whole = _picture(tmp_path / "picture.png", "L", (300, 300)).read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.png").write_text("no picture")
    done = subprocess.run(
        [sys.executable, "-m", "inkling", "doctor", "--models-dir", published, *words],
        cwd=tmp_path,
        env=_environ(),
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.stderr.startswith("inkling: "), done.stderr[-300:]
    assert message in done.stderr
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["nosuch"],
        ["--nosuch"],
        ["models", "--nosuch"],
        ["models", "surplus"],
        ["models", "--models-di", "x"],
        ["doctor"],
        ["doctor", "a", "b"],
        ["serve", "--http-port", "eighty"],
        ["serve", "--http-prot", "80"],
        ["serve", "surplus"],
        ["up", "--nosuch"],
        ["train", "--nosuch"],
    ],
    ids=" ".join,
)
def test_wrong_arguments_exit_with_2(words: list[str]) -> None:
    """Unknown commands and options, and abbreviated ones, exit with 2 and the usage."""
    done = _inkling(*words)

    assert (done.returncode, done.stdout) == (2, "")
    assert "usage: inkling" in done.stderr


def test_interrupted_commands_exit_with_130(published: Path, tmp_path: Path) -> None:
    """Ctrl-C ends a command quietly with 130."""
    pipe = tmp_path / "pipe.png"
    os.mkfifo(pipe)
    command = [sys.executable, "-m", "inkling", "doctor", str(pipe)]
    process = subprocess.Popen(
        [*command, "--models-dir", str(published)],
        env=_environ(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            writer = _once_it_is_read(pipe, process)
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=20)
            os.close(writer)
        finally:
            process.kill()

    assert (process.returncode, out, err) == (130, "", "")


def _once_it_is_read(pipe: Path, process: subprocess.Popen[str]) -> int:
    """Open a pipe for writing as soon as the process has opened it for reading."""
    give_up = time.monotonic() + 20
    while time.monotonic() < give_up and process.poll() is None:
        try:
            return os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:
            time.sleep(0.01)
    raise AssertionError("the command never read its picture")
