# SPDX-License-Identifier: Apache-2.0
"""The benchmarks are not run here; these tests check the parts that they rely on."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import plan, variants
from benchmarks.closed_loop import http_request, run
from benchmarks.models import SMALL, Picture, photos, pictures, publish_as_sample

ROOT = Path(__file__).parent.parent.parent


def test_the_documented_command_exists() -> None:
    """The command in docs/benchmarks.md is a target of the Makefile and a module."""
    text = (ROOT / "docs" / "benchmarks.md").read_text()
    commands = re.findall(r"^\$ (.+)$", text, re.MULTILINE)

    assert "make bench" in commands
    assert "\nbench: setup ## " in (ROOT / "Makefile").read_text()
    for command in commands:
        if "-m benchmarks" in command:
            arguments = command.partition("-m benchmarks")[2].split()
            module = [sys.executable, "-m", "benchmarks", *arguments, "--help"]
            subprocess.run(module, cwd=ROOT, check=True, capture_output=True)


def test_every_measurement_has_its_server(tmp_path: Path, published: Path) -> None:
    """Each cell names a server that is started, and each server is asked something."""
    picture = Picture(b"", "7", "7")
    found = dict.fromkeys((SMALL, *plan.PICTURES), picture)
    photos = dict.fromkeys(plan.PHOTOS, b"")
    asked = {cell.server for cell in plan.cells(found, photos)}
    (tmp_path / "photo").symlink_to(published / "cnn")

    assert asked == set(plan.servers(published, tmp_path, tmp_path, (1, 2)))


@pytest.mark.parametrize("model", ["mlp", "none"])
def test_the_generator_tells_right_from_wrong(
    model: str, gateway: Any, picture: bytes
) -> None:
    """Answers are counted, and those that are refusals."""
    request = http_request(f"/v1/models/{model}:classify", picture)

    result = run(gateway.port, request, b"3", 3, 0.3)

    answered = len(result.latencies_s)
    assert answered > 3
    assert result.failures == (0 if model == "mlp" else answered)


@pytest.mark.parametrize("variant", variants.VARIANTS)
def test_what_a_variant_replaces_is_there(variant: str) -> None:
    """A layer that is left out by name has not been renamed."""
    command = [sys.executable, "-m", "benchmarks.variants", variant, "serve", "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)

    assert done.returncode == 0, done.stderr


def test_a_model_is_published_as_for_samples(tmp_path: Path, published: Path) -> None:
    """The benchmark's model under another contract passes the checks and answers."""
    publish_as_sample(published, tmp_path)
    found = pictures(published, tmp_path)

    assert set(found) == {SMALL, *plan.PICTURES}
    assert set(photos(found)) == set(plan.PHOTOS)
    assert 1 == len({picture.label for picture in found.values()})
