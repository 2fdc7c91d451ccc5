# SPDX-License-Identifier: Apache-2.0
"""Fixtures for all tests: a trained repository, a gateway process, full data sets."""

from __future__ import annotations

import io
import os
import re
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from inkling.contract import Contract, TrainingData
from inkling.model.repository import Repository
from tests.support import colour_models, digits
from tests.support.alone import alone_in
from tests.support.described import DescribedGateway, described_by
from tests.support.gateway_process import GatewayProcess, Killable, serving
from tests.support.machine import free_port
from tests.support.published import is_whole, once, trained, training_digest

# A shell starts what it runs in the background with SIGINT ignored, and every child
# inherits that; a handler of ours becomes the default action in a child.
signal.signal(signal.SIGINT, signal.default_int_handler)


# Variables that change what Inkling, Locust, argparse or rich do: no test is to depend on
# whose shell it was started from.
_FOREIGN = re.compile(
    r"INKLING_(?!TEST_)|LOCUST_|(COLUMNS|LINES|FORCE_COLOR|NO_COLOR)$"
)
_LOOPBACK = "127.0.0.1,localhost"


@pytest.fixture(scope="session", autouse=True)
def own_environment() -> Iterator[dict[str, str]]:
    """Remove the settings that would change the tests; return the caller's environment."""
    given = dict(os.environ)
    with pytest.MonkeyPatch.context() as patch:
        for name in filter(_FOREIGN.match, given):
            patch.delenv(name)
        # Where the way out leads through a proxy, the way to our own servers does not.
        for name in ("no_proxy", "NO_PROXY"):
            patch.setenv(name, ",".join(filter(None, (given.get(name), _LOOPBACK))))
        before = os.umask(0o022)
        yield given
        os.umask(before)


# The longest files, so that none is left for the end. The first one trains the models that
# most files serve; the next three do without these models.
_FIRST = (
    "test_calibration",
    "test_train",
    "test_gates",
    "test_export",
    "test_runs",
    "test_documents",
    "test_dockerfiles",
)


@pytest.hookimpl(tryfirst=True)
def pytest_make_parametrize_id(val: object) -> str | None:
    """Name long bytes by their length: the processes of a run must agree on every name.

    Bytes made at import may hold the time, as those of ``gzip.compress`` do.
    """
    return f"{len(val)} bytes" if isinstance(val, bytes) and len(val) > 16 else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first; mark the tests that are to run alone."""
    items.sort(key=lambda item: (*_FIRST, item.path.stem).index(item.path.stem))
    for item in items:
        name = getattr(item, "originalname", item.name)
        if name in alone_in(item.path):
            item.add_marker("alone")


@pytest.fixture(scope="session")
def published(request: pytest.FixtureRequest) -> Iterator[Path]:
    """A repository with an MLP and a CNN, trained on the bundled digits by the command.

    It lies in pytest's cache until code or libraries change; `--cache-clear` trains anew.
    """
    cache: pytest.Cache = request.config.cache  # type: ignore[assignment]
    models = Path(cache.mkdir("published")) / training_digest() / "models"
    yield once(models, trained, is_whole)
    assert is_whole(models), f"a test changed {models}, which all tests share"


@pytest.fixture(scope="session")
def colours(request: pytest.FixtureRequest) -> Path:
    """A repository with the models of `tests.support.colour_models`; it is kept, too."""
    cache: pytest.Cache = request.config.cache  # type: ignore[assignment]
    digest = training_digest(Path(colour_models.__file__))
    models = Path(cache.mkdir("published")) / digest / "colours"
    return once(models, colour_models.made, colour_models.is_whole)


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
def described(gateway: GatewayProcess) -> DescribedGateway:
    """That gateway, with each answer compared with its OpenAPI document."""
    return described_by(gateway)


@pytest.fixture(scope="session")
def serve_gateway() -> Callable[..., Any]:
    """Serve with a log of one's own: `with serve_gateway(models_dir, log=path) as g:`."""
    return serving


@pytest.fixture
def killable(tmp_path: Path, published: Path) -> Iterator[Callable[..., Killable]]:
    """Make gateways that a test may kill; none outlives it."""
    made: list[Killable] = []

    def make(*flags: str, models_dir: Path = published) -> Killable:
        log = tmp_path / f"killable-{len(made)}.log"
        made.append(Killable(models_dir, log, free_port(), free_port(), flags))
        return made[-1]

    yield make
    for one in made:
        if one.process is not None and one.process.poll() is None:
            one.process.send_signal(signal.SIGCONT)
            one.end()


@pytest.fixture
def start_gateway(tmp_path: Path) -> Callable[..., Any]:
    """Start a gateway of one's own: `with start_gateway(models_dir, *flags) as g:`."""

    def start(models_dir: Path, *flags: str) -> Any:
        return serving(models_dir, *flags, log=tmp_path / "gateway.log")

    return start


@pytest.fixture(scope="session")
def data_dir(own_environment: dict[str, str]) -> Path:
    """Where the full data sets are; a test that needs them is skipped without."""
    folder = Path(own_environment.get("INKLING_DATA_DIR", ""))
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
        finder="ink-3",
        grey="contrast",
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

    Models differ by machine and seed; every model reads these.
    """
    return digits.clear_digits()


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
