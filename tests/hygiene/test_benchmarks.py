"""The benchmarks are not run here; what they rely on is looked at."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import plan, variants
from benchmarks.closed_loop import Client, http_request, run
from benchmarks.grpc_client import GrpcClient
from benchmarks.models import Picture, pictures, publish_as_sample
from inkling.v1.classifier_pb2 import ClassifyRequest

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


@pytest.mark.parametrize("kind", [Client, GrpcClient])
@pytest.mark.parametrize("model", ["mlp", "none"])
def test_generators_tell_right_from_wrong(
    kind: type[Client], model: str, gateway: Any, picture: bytes
) -> None:
    """Over HTTP and gRPC, answers are counted, and those that are refusals."""
    request, port = http_request(f"/v1/models/{model}:classify", picture), gateway.port
    if kind is GrpcClient:
        message = ClassifyRequest(model=model, images=[picture])
        request, port = message.SerializeToString(), gateway.grpc_port

    result = run(port, request, b"3", 3, 0.3, kind)

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
    small, large = pictures(published, tmp_path)

    assert small.label == small.label_as_sample == large.label == large.label_as_sample
