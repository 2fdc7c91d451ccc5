# SPDX-License-Identifier: Apache-2.0
"""Oddities in a repository: each is its version's reason, and every answer is given."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import grpc
import pytest

import inkling
from inkling.model.repository import (
    CONTRACT_FILE,
    MANIFEST_FILE,
    METRICS_FILE,
    Repository,
)
from inkling.v1 import classifier_pb2 as pb
from inkling.v1.classifier_pb2_grpc import ClassifierStub
from tests.support.gateway_process import serving

_HALF = "\ud800"


def _copied(source: Path, root: Path, name: str, **contract: Any) -> Path:
    """Publish a copy as version 1 of a model, with other values in its contract."""
    with Repository(root).publishing(name) as publication:
        shutil.copytree(
            source,
            publication.path,
            ignore=shutil.ignore_patterns(MANIFEST_FILE),
            dirs_exist_ok=True,
        )
        path = publication.path / CONTRACT_FILE
        path.write_text(json.dumps({**json.loads(path.read_text()), **contract}))
        metrics = publication.path / METRICS_FILE
        figures = json.loads(metrics.read_text())
        figures["accuracy"]["float32"] = float("nan")
        metrics.write_text(json.dumps(figures))
        return publication.commit().path


@pytest.fixture
def odd(published: Path, tmp_path: Path) -> Path:
    """A repository with one good model, and one model for each oddity."""
    root, source = tmp_path / "models", published / "mlp" / "1"
    good = _copied(source, root, "good")
    (good / os.fsdecode(b"caf\xe9.txt")).write_bytes(b"litter")
    _copied(source, root, "half-a-label", labels=[*"012345678", _HALF])
    _copied(source, root, "half-a-set", training_data={"name": _HALF, "digest": _HALF})
    listed = _copied(source, root, "half-a-name") / MANIFEST_FILE
    manifest = json.loads(listed.read_text())
    manifest["files"] |= {_HALF: "0", os.fsdecode(b"caf\xe9"): "0"}
    listed.write_text(json.dumps(manifest))
    for name, labels in {
        "half-a-version-label": {_HALF: 1},
        "huge-label": {"a": 10**30},
    }.items():
        _copied(source, root, name)
        (root / name / "labels.json").write_text(json.dumps(labels))
    pipe = _copied(source, root, "pipe") / MANIFEST_FILE
    pipe.unlink()
    os.mkfifo(pipe)
    os.mkfifo(root / "pipes")
    (root / "gone").symlink_to("nowhere")
    (root / os.fsdecode(b"caf\xe9")).mkdir()
    return root


def test_every_oddity_has_its_reason_and_no_more(
    odd: Path, picture: bytes, tmp_path: Path
) -> None:
    """Both protocols list every model, and the good one answers."""
    with serving(odd, log=tmp_path / "log") as gateway:
        answer = gateway.request("GET", "/v1/models")
        with grpc.insecure_channel(gateway.grpc_target) as channel:
            listed = ClassifierStub(channel).ListModels(
                pb.ListModelsRequest(), timeout=10
            )
        labels = {}
        for target in (gateway.url, gateway.grpc_target):
            with inkling.connect(target, model="good") as classifier:
                labels[target] = classifier.classify(picture).label

    assert 200 == answer.status
    models = {one["name"]: one for one in answer.json["models"]}
    reasons = {
        name: one["versions"][0]["reason"] if one["versions"] else "none"
        for name, one in models.items()
    }
    assert {one.name for one in listed.models} == set(models)
    assert 1 == len(set(labels.values()))
    for name in ("good", "half-a-version-label", "huge-label"):
        assert reasons[name] is None, reasons[name]
    assert "labels are invalid" in reasons["half-a-label"]
    assert r"\ud800" in reasons["half-a-name"]
    assert "not a regular file" in reasons["pipe"]
    assert reasons["half-a-set"]
    assert "NaN" not in answer.body.decode()
    assert "none" == reasons["gone"]
    assert "pipes" not in models
