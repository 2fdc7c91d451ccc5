"""The benchmarks are not run here; what they rely on is looked at."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import plan, variants
from benchmarks.models import Picture, pictures, publish_as_sample

ROOT = Path(__file__).parent.parent.parent


def test_the_documented_command_exists() -> None:
    """What docs/benchmarks.md says to run is a target of the Makefile and a module."""
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
    asked = {cell.server for cell in plan.cells(picture, picture)}

    assert asked == set(plan.servers(published, tmp_path, 1))


@pytest.mark.parametrize("variant", variants.VARIANTS)
def test_what_a_variant_replaces_is_there(variant: str) -> None:
    """A layer that is left out by name has not been renamed."""
    command = [sys.executable, "-m", "benchmarks.variants", variant, "serve", "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)

    assert done.returncode == 0, done.stderr


def test_a_model_is_published_as_for_samples(tmp_path: Path, published: Path) -> None:
    """The benchmark's model under another contract passes the checks and answers."""
    publish_as_sample(published, tmp_path)
    small, large = pictures(published, tmp_path)

    assert small.label == small.label_as_sample == large.label == large.label_as_sample
