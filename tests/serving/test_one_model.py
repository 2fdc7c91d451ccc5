# SPDX-License-Identifier: Apache-2.0
"""A gateway over the directory of one model, as KServe mounts it."""

from __future__ import annotations

from pathlib import Path

import pytest

from inkling.errors import InvalidRequest, ModelNotFound
from inkling.model.repository import Repository
from inkling.model.survey import survey
from inkling_serving.admin import Admin
from inkling_serving.keys import Key, Role
from inkling_serving.settings import Settings
from tests.support.gateway_process import serving


def test_the_directory_of_one_model_is_served(
    published: Path, picture: bytes, tmp_path: Path
) -> None:
    """The model has the given name, not the directory's, and is the only one."""
    flags = ("--model-name", "digits")
    with serving(published / "mlp", *flags, log=tmp_path / "log") as gateway:
        models = gateway.request("GET", "/v1/models").json["models"]
        answer = gateway.request("POST", "/v1/models/digits:classify", picture)
        other = gateway.request("POST", "/v1/models/mlp:classify", picture)

    assert ["digits"] == [model["name"] for model in models]
    assert (200, "digits") == (answer.status, answer.json["model"])
    assert 404 == other.status


def test_the_repository_of_one_model_has_no_other(published: Path) -> None:
    """Its versions are in the directory itself; a directory without one is told."""
    one = Repository(published / "cnn", "cnn")

    assert Repository(published).versions("cnn") == one.versions("cnn") != []
    assert published / "cnn" / "1" == one.files("cnn", 1).path
    with pytest.raises(ModelNotFound, match="cnn alone"):
        one.versions("mlp")
    assert [] == survey(published / "cnn", "cnn")
    assert [f"{published} has no version of the model cnn."] == survey(published, "cnn")


def test_labels_of_one_model_move(models_dir: Path) -> None:
    """The admin API finds the model by its name, and writes labels beside its versions."""
    admin = Admin(models_dir / "mlp", "digits")
    key = Key("anna", frozenset({Role.ADMIN}), b"secret")

    assert admin.promote(key, "digits", 1).after == 1
    assert (models_dir / "mlp" / "labels.json").is_file()
    with pytest.raises(ModelNotFound, match="it has: digits"):
        admin.labels(key, "mlp")


def test_the_name_is_checked() -> None:
    """A name that no model can have is refused before the start."""
    with pytest.raises(InvalidRequest, match="not a valid model name"):
        Settings(model_name="CNN!")
