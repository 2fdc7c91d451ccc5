# SPDX-License-Identifier: Apache-2.0
"""Labels on a terminal: in every encoding, in columns, and without a traceback."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from inkling.cli.text import column, printable
from inkling.contract import Contract
from inkling.model.bundle import read_bundle
from inkling.model.repository import CONTRACT_FILE, MANIFEST_FILE, Repository

_LABELS = ("零", "один", "zwölf", "τρία", "🙂", "شش", "五", "a\nb", "8", "9")


@pytest.fixture(scope="module")
def worldly(published: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with a model whose labels and data set are beyond any code page."""
    root = tmp_path_factory.mktemp("worldly")
    with Repository(root).publishing("m") as publication:
        shutil.copytree(
            published / "mlp" / "1",
            publication.path,
            ignore=shutil.ignore_patterns(MANIFEST_FILE),
            dirs_exist_ok=True,
        )
        for file in publication.path.glob("tflite/*"):
            bundle = read_bundle(file.read_bytes())
            contract = _relabelled(bundle.contract)
            changed = dataclasses.replace(bundle, contract=contract)
            file.write_bytes(changed.to_bytes())
        (publication.path / CONTRACT_FILE).write_text(contract.json)
        publication.commit()
    return root


def _relabelled(contract: Contract) -> Contract:
    data = dataclasses.replace(contract.training_data, name="図形 ☃")
    return dataclasses.replace(contract, labels=_LABELS, training_data=data)


_CONSOLES = {
    "Windows": {"PYTHONIOENCODING": "cp1252"},
    "old DOS": {"PYTHONIOENCODING": "cp437:strict"},
    "ASCII": {"PYTHONIOENCODING": "ascii"},
    "no locale": {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
    "UTF-8": {"PYTHONIOENCODING": "utf-8"},
}


@pytest.mark.parametrize("console", _CONSOLES)
def test_labels_on_any_console(
    console: str, worldly: Path, picture: bytes, tmp_path: Path
) -> None:
    """Every command ends well; what the console lacks is escaped."""
    folder = tmp_path / "3"
    folder.mkdir()
    for name in (b"bild.png", "図.png".encode(), b"caf\xe9.png"):
        Path(os.fsdecode(os.path.join(os.fsencode(folder), name))).write_bytes(picture)
    (folder / "leer ☃.png").write_bytes(b"")
    version = str(worldly / "m" / "1")
    commands = [
        ["models", "--models-dir", str(worldly)],
        [
            "classify",
            *map(str, sorted(folder.iterdir())),
            "--on-device",
            version,
            "--top-k",
            "10",
        ],
        ["evaluate", "--pictures", str(tmp_path), "--on-device", version],
    ]
    (tmp_path / "labels.csv").write_text("file,label\n3/bild.png,五\n")
    outputs = []
    for words in commands:
        done = subprocess.run(
            [sys.executable, "-m", "inkling", *words],
            env={**os.environ, **_CONSOLES[console]},
            capture_output=True,
        )
        assert b"Traceback" not in done.stderr, done.stderr.decode(errors="replace")
        assert done.returncode == int(words[0] == "classify"), done.stderr
        outputs.append(done.stdout)
    label = "五" if console == "UTF-8" else r"\u4e94"
    assert label.encode() in outputs[1]
    assert label.encode() in outputs[2]
    assert rb"a\nb" in outputs[1]


def test_a_way_that_the_user_chose_stays(worldly: Path) -> None:
    """PYTHONIOENCODING may name another way of escaping."""
    done = subprocess.run(
        [sys.executable, "-m", "inkling", "models", "--models-dir", str(worldly)],
        env={**os.environ, "PYTHONIOENCODING": "cp1252:replace"},
        capture_output=True,
        check=True,
    )
    assert b"?? ?" in done.stdout


@pytest.mark.parametrize(
    ("text", "cells"),
    [("cat", 3), ("犬猫", 4), ("e\u0301", 1), ("ﾈｺ", 2), ("ＡＢ", 4), ("a\u200bb", 8)],
)
def test_columns_count_cells(text: str, cells: int) -> None:
    """East Asian characters take two cells, combining marks none."""
    assert 16 - cells == len(column(text, 16)) - len(printable(text))


@pytest.mark.parametrize(
    ("text", "shown"),
    [("a\nb", r"a\nb"), ("\x1b[31m", r"\x1b[31m"), ("\ud800", r"\ud800"), ("犬", "犬")],
)
def test_text_stays_on_its_line(text: str, shown: str) -> None:
    """Line ends and escape sequences in a label reach no terminal."""
    assert shown == printable(text)
