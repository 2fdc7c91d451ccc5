# SPDX-License-Identifier: Apache-2.0
"""Drift in a running gateway: its metrics, its answers, the command and the page."""

from __future__ import annotations

import base64
import json
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By

from inkling.cli.main import main
from inkling.model.drift import FIGURE, LEAST_PICTURES
from inkling.model.repository import METRICS_FILE, Repository
from inkling_training.data.datasets import load
from tests.support.browser import wait
from tests.support.gateway_process import GatewayProcess
from tests.support.machine import until

# The most pictures of a request, and those for which each second has room.
_BATCH, _SECOND = 32, 64


def _without_baseline(models: Path) -> None:
    """Publish the CNN again, as an Inkling without baselines would have."""
    repository = Repository(models)
    with repository.publishing("cnn") as publication:
        source = repository.files("cnn", 1).path
        shutil.copytree(source, publication.path, dirs_exist_ok=True)
        card = publication.path / METRICS_FILE
        figures = json.loads(card.read_text())
        assert figures.pop(FIGURE)
        card.write_text(json.dumps(figures))
        publication.commit()


def _drift(gateway: GatewayProcess, path: str) -> dict[str, Any]:
    """Return the drift of the newest version of a model."""
    versions = gateway.request("GET", path).json["versions"]
    return dict(versions[0].get("drift", {"pictures": 0}))


def _counted(
    gateway: GatewayProcess, path: str, images: Sequence[bytes]
) -> dict[str, Any]:
    """Ask about pictures, no more at once than are counted; return the drift."""
    shown = [{"b64": base64.b64encode(one).decode()} for one in images]
    headers = {"content-type": "application/json"}
    for at in range(0, len(shown), _SECOND):
        wanted = _drift(gateway, path)["pictures"] + len(shown[at : at + _SECOND])
        for first in range(at, min(at + _SECOND, len(shown)), _BATCH):
            body = json.dumps({"images": shown[first : first + _BATCH]}).encode()
            answer = gateway.request("POST", f"{path}:classify", body, headers)
            assert answer.status == 200
        until(lambda wanted=wanted: _drift(gateway, path)["pictures"] == wanted)
    return _drift(gateway, path)


def test_a_gateway_tells_the_drift(
    models_dir: Path,
    encode: Callable[..., bytes],
    start_gateway: Callable[..., Any],
    browser: webdriver.Chrome,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The test set is no drift and many sevens are one; a card of before says nothing."""
    test = load("digits").test
    pixels = np.asarray(test.pixels)
    digits = [encode(one) for one in pixels]
    sevens = [encode(one) for one in pixels[test.labels == 7]] * 6
    _without_baseline(models_dir)
    with start_gateway(models_dir) as gateway:
        mlp, cnn = "/v1/models/mlp", "/v1/models/cnn"
        same = _counted(gateway, mlp, digits)
        other = _counted(gateway, mlp, sevens)
        old = _counted(gateway, cnn, digits[:3])
        page = gateway.request("GET", "/metrics").body.decode()
        assert main(["models", "--drift", "--server", gateway.url]) == 0
        browser.get(gateway.url + "/")
        facts = {}
        for model in ("mlp", "cnn"):
            wait(browser, "document.body.dataset.connection === 'ready'")
            browser.execute_script(
                "const m = document.querySelector('#model'); m.value = arguments[0];"
                "m.dispatchEvent(new Event('change', {bubbles: true}));",
                model,
            )
            facts[model] = browser.find_element(By.ID, "facts").text

    assert same["pictures"] == len(digits) >= LEAST_PICTURES
    assert max(same["index"].values()) < 0.1
    assert other["index"]["labels"] > 0.25
    assert old == {"pictures": 3, "has_baseline": False, "index": {}}
    labels = 'model="mlp",statistic="labels",version="1"'
    assert re.search(rf"^inkling_drift{{{labels}}} [0-9.]+$", page, re.MULTILINE)
    assert 'inkling_drift{model="cnn' not in page
    rows = capsys.readouterr().out.splitlines()
    assert "The card of this version has no baseline." in rows[1]
    assert f"{other['index']['labels']:.3f}" in rows[2]
    assert re.search(r"Drift\s+[0-9.]+ \(", facts["mlp"])
    assert re.search(r"Drift\s+no baseline", facts["cnn"])
