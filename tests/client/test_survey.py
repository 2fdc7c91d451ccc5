# SPDX-License-Identifier: Apache-2.0
"""What a models directory holds in place of models, in sentences."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from inkling.model.survey import survey
from tests.support.gateway_process import Killable
from tests.support.machine import until


def _version(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text("{}")


def test_a_good_repository_has_no_remarks(published: Path) -> None:
    """Models with versions, labels, staging directories and withdrawn versions."""
    assert [] == survey(published)


def test_what_lies_beside_versions_is_no_remark(tmp_path: Path) -> None:
    """Hidden directories, files, and versions that were withdrawn are as they should be."""
    _version(tmp_path / "cnn" / "1")
    for name in (".staging-x", "2.denied", ".git"):
        (tmp_path / "cnn" / name).mkdir()
    (tmp_path / "cnn" / "labels.json").write_text("{}")
    (tmp_path / "README.md").touch()
    (tmp_path / ".cache").mkdir()
    (tmp_path / "lost+found").mkdir()

    assert [] == survey(tmp_path)


@pytest.mark.parametrize(
    ("versions", "root", "words"),
    [
        ([], "models", "models does not exist."),
        (["models/a/1/file"], "models/a/1/file/manifest.json", "is a file"),
        (
            ["models/cnn/1"],
            "models/cnn",
            "directory of one model; set --models-dir {}/models, or name the model with "
            "--model-name.",
        ),
        (
            ["models/cnn/1"],
            "models/cnn/1",
            "is one version of a model; set --models-dir {}/models.",
        ),
        (["models/cnn/1"], ".", "holds models itself; set --models-dir {}/models."),
        (["models/MyMLP/1"], "models", "'MyMLP' is no name of a model: expected"),
        (["models/MyMLP/1"], "models", "Rename it, for example to mymlp."),
        (["models/My Model (2)/1"], "models", "for example to my-model-2."),
        (["models/cnn/v1"], "models", "'v1' is no version: expected a whole number"),
        (["models/cnn/v12"], "models", "for example to 12."),
        (["models/cnn/007"], "models", "for example to 7."),
        (["models/cnn/latest"], "models", "for example to 1."),
        (["models/cnn/1", "models/cnn/v2"], "models", "cnn/v2 is not served"),
    ],
)
def test_each_mistake_has_its_sentence(
    versions: list[str], root: str, words: str, tmp_path: Path
) -> None:
    """The sentence names the directory, the rule and the remedy."""
    for version in versions:
        _version(tmp_path / version)

    [remark] = survey(Path(f"{tmp_path}/{root}"))
    assert words.format(tmp_path) in remark


def test_an_empty_directory_and_an_empty_model_are_said(tmp_path: Path) -> None:
    """Nothing is there, or a model without versions, or files without a manifest."""
    assert [f"The models directory {tmp_path} is empty."] == survey(tmp_path)
    (tmp_path / "cnn").mkdir()
    assert [f"{tmp_path}/cnn has no version."] == survey(tmp_path)
    (tmp_path / "cnn" / "1").mkdir()
    [remark] = survey(tmp_path)
    assert "has no manifest.json" in remark


def test_remarks_are_few(tmp_path: Path) -> None:
    """A home directory in place of the models does not fill the log."""
    for number in range(30):
        (tmp_path / f"Folder {number}").mkdir()
    remarks = survey(tmp_path)

    assert 6 == len(remarks)
    assert "There are 25 more" in remarks[-1]


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every directory")
def test_a_directory_without_rights_is_said(tmp_path: Path) -> None:
    """The system's own words follow."""
    (tmp_path / "models").mkdir(mode=0)
    [remark] = survey(tmp_path / "models")
    assert "cannot be read: Permission denied" in remark


@pytest.mark.parametrize(
    ("root", "words"),
    [("nothing", "does not exist"), ("models/cnn", "directory of one model")],
)
def test_the_gateway_says_why_it_serves_nothing(
    root: str,
    words: str,
    killable: Callable[..., Killable],
    published: Path,
    tmp_path: Path,
) -> None:
    """At start the log has it once, and /readyz states it with the remedy."""
    (tmp_path / "models").symlink_to(published)
    gateway = killable("--poll-s", "0.1", models_dir=tmp_path / root).start()
    until(lambda: gateway.get("/livez")[0] == 200)
    status, answer = gateway.get("/readyz")
    log = gateway.log.read_text()

    assert 503 == status
    assert words in answer["error"]["message"]
    assert "inkling train" in answer["error"]["message"]
    assert 1 == log.count(words)
    assert "WARNING" in log


def test_the_advice_fits_the_engine(killable: Callable[..., Killable]) -> None:
    """In front of TensorFlow Serving, its addresses and models are named."""
    flags = ("--engine", "tensorflow_serving", "--tensorflow-serving", "127.0.0.1:1")
    gateway = killable(*flags).start()
    until(lambda: gateway.get("/livez")[0] == 200)
    status, answer = gateway.get("/readyz")
    message = answer["error"]["message"]

    assert 503 == status
    assert "127.0.0.1:1" in message
    assert "--served-models" in message
    assert "models.config" in message
    assert "inkling train" not in message
    assert "cnn is not served" in gateway.log.read_text()
