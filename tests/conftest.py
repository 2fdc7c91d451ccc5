"""Real things for all tests: a trained repository, a gateway process, full data sets."""

from __future__ import annotations

import http.client
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from inkling.contract import Contract, TrainingData
from inkling.model.repository import Repository

ROOT = Path(__file__).parent.parent
_START_TIMEOUT_S = 30

# A shell starts what it runs in the background with SIGINT ignored, and every child
# inherits that; a handler of ours becomes the default action in a child.
signal.signal(signal.SIGINT, signal.default_int_handler)


@dataclass(frozen=True)
class Answer:
    """An HTTP answer, whole."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class GatewayProcess:
    """A running `inkling serve`."""

    process: subprocess.Popen[str]
    port: int
    grpc_port: int

    @property
    def grpc_target(self) -> str:
        return f"127.0.0.1:{self.grpc_port}"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def request(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            found = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, found, response.read())
        finally:
            connection.close()


@contextmanager
def serving(models_dir: Path, *flags: str, log: Path) -> Iterator[GatewayProcess]:
    """Run a gateway on a free port until the block ends; it must exit with 0."""
    command = [sys.executable, "-m", "inkling", "serve", "--http-port", "0"]
    command += ["--grpc-port", "0"]
    if "--workers" not in flags:
        command += ["--workers", "1"]
    command += ["--models-dir", str(models_dir), *flags]
    environ = {k: v for k, v in os.environ.items() if not k.startswith("INKLING_")}
    with log.open("w") as output:
        process = subprocess.Popen(command, stderr=output, env=environ, text=True)
    try:
        port = _port(process, log)
        grpc = re.search(r"listening on grpcs?://[^:]+:(\d+)", log.read_text())
        assert grpc, log.read_text()
        yield GatewayProcess(process, port, int(grpc.group(1)))
    finally:
        process.send_signal(signal.SIGTERM)
        code = process.wait(_START_TIMEOUT_S)
    assert code == 0, log.read_text()


def _port(process: subprocess.Popen[str], log: Path) -> int:
    give_up = time.monotonic() + _START_TIMEOUT_S
    port = None
    while time.monotonic() < give_up and process.poll() is None:
        match = re.search(r"listening on https?://[^:]+:(\d+)/", log.read_text())
        if match:
            port = int(match.group(1))
            break
        time.sleep(0.02)
    assert port, log.read_text()
    while time.monotonic() < give_up:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        try:
            connection.request("GET", "/livez")
            connection.getresponse()
            return port
        except http.client.BadStatusLine:
            return port  # it wants TLS
        except OSError:
            time.sleep(0.02)
        finally:
            connection.close()
    raise AssertionError(log.read_text())


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with an MLP and a CNN, trained on the bundled digits by the command."""
    folder = tmp_path_factory.mktemp("published")
    command = [sys.executable, "-m", "inkling", "train", "mlp", "cnn"]
    command += ["--dataset", "digits", "--recipe", "quick"]
    command += ["--models-dir", str(folder / "models"), "--runs-dir", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "models"


@pytest.fixture
def models_dir(published: Path, tmp_path: Path) -> Path:
    """A copy of the trained repository, for a test to change."""
    return Path(shutil.copytree(published, tmp_path / "models"))


@pytest.fixture
def repository(models_dir: Path) -> Repository:
    """That copy, as a repository."""
    return Repository(models_dir)


@pytest.fixture(scope="session")
def gateway(
    published: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[GatewayProcess]:
    """A gateway process over the trained repository, for tests that change nothing."""
    log = tmp_path_factory.mktemp("gateway") / "log"
    with serving(published, log=log) as process:
        yield process


@pytest.fixture(scope="session")
def serve_gateway() -> Callable[..., Any]:
    """Serve with a log of one's own: `with serve_gateway(models_dir, log=path) as g:`."""
    return serving


@pytest.fixture
def start_gateway(tmp_path: Path) -> Callable[..., Any]:
    """Start a gateway of one's own: `with start_gateway(models_dir, *flags) as g:`."""

    def start(models_dir: Path, *flags: str) -> Any:
        return serving(models_dir, *flags, log=tmp_path / "gateway.log")

    return start


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Where the full data sets are; a test that needs them is skipped without."""
    folder = Path(os.environ.get("INKLING_DATA_DIR", ""))
    if not (folder / "mnist.npz").is_file():
        pytest.skip("INKLING_DATA_DIR names no folder with mnist.npz; nothing checked")
    return folder.resolve()


@pytest.fixture(scope="session")
def digit_contract() -> Contract:
    """The contract of the digit models."""
    return Contract(
        height=28,
        width=28,
        channels=1,
        labels=tuple("0123456789"),
        kind="photo_of_one_object",
        finder="ink-1",
        training_data=TrainingData("digits", "sha256:none"),
    )


@pytest.fixture(scope="session")
def colour_contract() -> Contract:
    """A contract for small colour pictures, as CIFAR-10's."""
    return Contract(
        height=32,
        width=32,
        channels=3,
        labels=("cat", "dog"),
        kind="sample",
        polarity="as_is",
        alpha="white",
        centring="none",
        training_data=TrainingData("objects", "sha256:none"),
    )


@pytest.fixture(scope="session")
def clear_digits() -> list[np.ndarray]:
    """The digits 0 to 9 as 28x28 samples, light on dark, uint8.

    Models differ by machine and seed. Of seven quick trainings, no model gave one of
    these less than 0.98, in float32 or int8.
    """
    from sklearn.datasets import load_digits

    from inkling_training.data.datasets import _enlarged

    images = load_digits().images
    return [_enlarged(images[i]) for i in (49, 21, 22, 3, 41, 15, 16, 61, 148, 1698)]


@pytest.fixture(scope="session")
def sample(clear_digits: list[np.ndarray]) -> np.ndarray:
    """The three, which has values at every border of 20x20."""
    return clear_digits[3]


@pytest.fixture(scope="session")
def encode() -> Callable[..., bytes]:
    """Encode pixels or a picture: `encode(pixels, "PNG", **options)`."""

    def encoded(picture: Any, kind: str = "PNG", **options: Any) -> bytes:
        if not isinstance(picture, Image.Image):
            picture = Image.fromarray(picture)
        file = io.BytesIO()
        picture.save(file, kind, **options)
        return file.getvalue()

    return encoded


@pytest.fixture(scope="session")
def picture(sample: np.ndarray, encode: Callable[..., bytes]) -> bytes:
    """That digit as a PNG."""
    return encode(sample)
