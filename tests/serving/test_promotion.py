# SPDX-License-Identifier: Apache-2.0
"""Labels that move while a gateway of several processes serves."""

from __future__ import annotations

import base64
import json
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest

import inkling
from inkling.cli.main import main
from inkling.model.repository import Repository
from inkling.v1 import classifier_pb2 as pb
from inkling.v1.classifier_pb2_grpc import ClassifierStub
from tests.support.gateway_process import GatewayProcess, serving
from tests.support.machine import until

_CLASSIFY = "/v1/models/mlp:classify"
# So many answers are looked at after each move.
_SETTLED = 8
_LABELLED = "/v1/models/mlp/labels/stable:classify"


@pytest.fixture
def three_versions(models_dir: Path) -> Path:
    """The MLP in three versions, of which the second is `stable`."""
    home = models_dir / "mlp"
    for version in ("2", "3"):
        shutil.copytree(home / "1", home / version)
    Repository(models_dir).promote("mlp", 2)
    return models_dir


def _version(gateway: GatewayProcess, path: str, picture: bytes) -> int:
    answer = gateway.request("POST", path, picture)
    assert answer.status == 200, answer.body
    return int(answer.json["version"])


def test_stable_over_every_way(
    three_versions: Path, picture: bytes, tmp_path: Path
) -> None:
    """Each protocol and each client gets `stable` if it names no version."""
    with serving(three_versions, log=tmp_path / "log") as gateway:
        for target in (gateway.grpc_target, gateway.url):
            with inkling.connect(target, model="mlp") as classifier:
                assert len(classifier.classify(picture).label) == 1
        with grpc.insecure_channel(gateway.grpc_target) as channel:
            request = pb.ClassifyRequest(model="mlp", images=[picture])
            answer = ClassifierStub(channel).Classify(request, timeout=30)
        assert answer.version == 2
        assert _version(gateway, _CLASSIFY, picture) == 2
        data = [base64.b64encode(picture).decode()]
        tensor = {"name": "inputs", "datatype": "BYTES", "shape": [1], "data": data}
        body = json.dumps({"inputs": [tensor]}).encode()
        infer = gateway.request("POST", "/v2/models/mlp/infer", body)
        assert infer.json["model_version"] == "2"
        metadata = gateway.request("GET", "/v1/models/mlp/metadata").json
        assert metadata["model_spec"]["version"] == "2"


def test_a_caller_sees_one_version(
    three_versions: Path, picture: bytes, tmp_path: Path
) -> None:
    """Half of the callers get the canary, each the same over every way and process."""
    Repository(three_versions).promote("mlp", 3, "canary", share=50)
    found: dict[str, set[int]] = {}
    with serving(three_versions, "--workers", "2", log=tmp_path / "log") as gateway:
        for number in range(20):
            name = f"caller {number}"
            sent = {"X-Inkling-Caller": name}
            over_http = gateway.request("POST", _CLASSIFY, picture, sent).json
            target = gateway.url if number % 2 else gateway.grpc_target
            with inkling.connect(target, model="mlp", caller=name) as classifier:
                by_client = classifier.classify(picture).origin.version
            with grpc.insecure_channel(gateway.grpc_target) as channel:
                request = pb.ClassifyRequest(model="mlp", images=[picture], caller=name)
                answer = ClassifierStub(channel).Classify(request, timeout=30)
            found[name] = {over_http["version"], by_client, answer.version}
            # A request that names a version is not part of the share.
            assert _version(gateway, _LABELLED, picture) == 2
        assert gateway.request("GET", "/v1/models/mlp").json["shares"] == {"canary": 50}

        def counted() -> str:
            return gateway.request("GET", "/metrics").body.decode()

        for version in ("2", "3"):
            wanted = f'model="mlp",outcome="ok",version="{version}"'
            until(
                lambda text=wanted: (
                    f"inkling_version_requests_total{{{text}}}" in counted()
                )
            )
    assert all(len(versions) == 1 for versions in found.values())
    assert set.union(*found.values()) == {2, 3}


@contextmanager
def _asking(
    gateway: GatewayProcess, picture: bytes
) -> Iterator[list[tuple[float, float, int]]]:
    """Ask without a pause; yield when each question began and ended, and its version.

    Each question must be answered.
    """
    found: list[tuple[float, float, int]] = []
    lost: list[AssertionError | OSError] = []
    over = threading.Event()

    def ask() -> None:
        while not over.is_set():
            began = time.monotonic()
            try:
                version = _version(gateway, _LABELLED, picture)
            except (AssertionError, OSError) as error:
                lost.append(error)
                return
            found.append((began, time.monotonic(), version))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        yield found
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert lost == []


def _until_only(version: int, found: list[tuple[float, float, int]]) -> None:
    """Wait until all answers of two seconds are of this version.

    Each process looks at the labels once a second, so that one may be a second behind.
    """

    def settled() -> bool:
        since = time.monotonic() - 2
        versions = [v for began, _, v in found if began > since]
        return len(versions) > 30 and set(versions) == {version}

    until(settled)


@pytest.mark.parametrize(
    "moves", [2, pytest.param(100, marks=[pytest.mark.soak, pytest.mark.timeout(900)])]
)
def test_label_moves_lose_and_mix_nothing(
    moves: int, three_versions: Path, picture: bytes, tmp_path: Path
) -> None:
    """Requests are answered by the version before or after a move, and by no other.

    Before a move is asked for, only the version before answers; once it is done
    everywhere, only the version after.
    """
    settled: list[tuple[float, float, int]] = []
    with (
        serving(three_versions, "--workers", "2", log=tmp_path / "log") as gateway,
        _asking(gateway, picture) as found,
    ):
        for move in range(moves):
            version = (1, 3, 2)[move % 3]
            arguments = ["mlp", str(version), "--models-dir", str(three_versions)]
            assert main(["promote", *arguments]) == 0
            _until_only(version, found)
            since = time.monotonic()
            until(lambda since=since: sum(a > since for a, *_ in found) >= _SETTLED)
            settled.append((since, time.monotonic(), version))
    for since, to, version in settled:
        answers = {v for began, ended, v in found if began > since and ended < to}
        assert answers == {version}
    assert {version for *_, version in found} == {1, 2, 3}
    print(f"{moves} moves, {len(found)} answers, none lost")
