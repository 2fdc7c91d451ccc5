# SPDX-License-Identifier: Apache-2.0
"""Captured requests: what is on disk, its bounds, and what a failing disk does."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from inkling.capture.records import Record, records, segments
from inkling.contract import Contract
from inkling.errors import InvalidRequest
from inkling.types import Origin, Prediction, Score
from inkling.v1 import classifier_pb2 as pb
from inkling.v1.classifier_pb2_grpc import ClassifierStub
from inkling_serving.capture.capture import Capture, check_capture
from inkling_serving.capture_settings import CaptureOptions
from inkling_serving.runtime.timings import Timings
from tests.support.gateway_process import GatewayProcess, children_of
from tests.support.machine import until

_MIB = 1024**2


@dataclass(frozen=True)
class _Version:
    """The parts of a servable that the capture looks at."""

    contract: Contract
    model: str = "mlp"
    version: int = 1


@pytest.fixture
def capturing(tmp_path: Path, digit_contract: Contract) -> Callable[..., Any]:
    """Capture into a directory of one's own: yields `note(request_id, image)`."""

    @contextmanager
    def started(**options: Any) -> Iterator[Any]:
        given = {"capture": str(tmp_path), "capture_share": 1.0, **options}
        capture = Capture(CaptureOptions(**given), processes=1)
        scores = np.eye(10, dtype=np.float32)[[7]]
        origin = Origin("mlp", 1, digit_contract.hash)
        answer = Prediction((Score("7", 7, 1.0),), origin)

        def note(request_id: str, image: bytes) -> bool:
            timings = Timings()
            timings.request_id = request_id
            version: Any = _Version(digit_contract)
            return capture.note(version, [(0, image)], scores, [answer], timings)

        try:
            yield capture, note
        finally:
            capture.close()

    return started


def _disk_bytes(directory: Path) -> int:
    """Return what the files take; segments may go meanwhile."""
    total = 0
    for folder, _, names in os.walk(directory):
        for name in names:
            with suppress(FileNotFoundError):
                size = Path(folder, name).stat().st_size
                total += -(-size // 4096) * 4096
    return total


def _metric(gateway: GatewayProcess, line: str) -> float:
    text = gateway.request("GET", "/metrics").body.decode()
    [found] = [one for one in text.splitlines() if one.startswith(line + " ")]
    return float(found.rpartition(" ")[2])


def _classified(gateway: GatewayProcess, picture: bytes, name: str) -> dict[str, str]:
    headers = {"x-request-id": name}
    answer = gateway.request("POST", "/v1/models/mlp:classify", picture, headers)
    assert answer.status == 200, answer.body
    return answer.headers


def test_a_capture_has_the_picture_and_the_answer(
    published: Path, picture: bytes, tmp_path: Path, start_gateway: Callable[..., Any]
) -> None:
    """Over HTTP, gRPC and both dialects, a record has the id, the answer and the bytes."""
    capture = tmp_path / "capture"
    flags = ("--capture", str(capture), "--capture-share", "1")
    with start_gateway(published, *flags) as gateway:
        assert _classified(gateway, picture, "a")["x-inkling-captured"] == "true"
        explained = gateway.request("POST", "/v1/models/mlp:explain", picture)
        with grpc.insecure_channel(gateway.grpc_target) as channel:
            stub = ClassifierStub(channel)  # type: ignore[no-untyped-call]
            unary = stub.Classify(
                pb.ClassifyRequest(model="mlp", images=[picture, picture]),
                metadata=(("x-request-id", "b"),),
            )
            request = pb.ClassifyRequest(model="mlp", images=[picture])
            sent = iter([pb.ClassifyStreamRequest(id="1", request=request)])
            [streamed] = list(stub.ClassifyStream(sent))
    found = {(one.request_id, one.image): one for one in records(capture)}

    assert unary.request_id == "b"
    assert unary.captured
    ids = [explained.headers["x-request-id"], streamed.response.request_id]
    assert set(found) == {("a", 0), ("b", 0), ("b", 1), *((one, 0) for one in ids)}
    for one in found.values():
        assert one.content(capture) == picture
        assert (one.model, one.version, len(one.scores)) == ("mlp", 1, 10)
        assert one.label == unary.results[0].top[0].label
        assert max(one.scores) == pytest.approx(
            unary.results[0].top[0].probability, 1e-4
        )


def test_nothing_is_captured_by_default(
    published: Path, picture: bytes, start_gateway: Callable[..., Any]
) -> None:
    """Without --capture an answer says nothing of it, and feedback has no address."""
    with start_gateway(published) as gateway:
        assert "x-inkling-captured" not in _classified(gateway, picture, "a")
        body = b'{"request_id": "a", "label": "7"}'
        refused = gateway.request("POST", "/v1/feedback", body)

    assert refused.status == 404
    assert "--capture" in refused.json["error"]["message"]


def test_a_share_is_captured(capturing: Callable[..., Any]) -> None:
    """With the share 0.25, about a quarter of 4,000 requests is wanted."""
    with capturing(capture_share=0.25) as (capture, _):
        wanted = sum(capture.wants() for _ in range(4000))

    assert 800 < wanted < 1200  # 7 standard errors


def test_the_bytes_are_bounded(capturing: Callable[..., Any], tmp_path: Path) -> None:
    """Of twice the bound, the newest captures stay within it."""
    picture = os.urandom(256 * 1024)
    with capturing(capture_max_bytes=16 * _MIB) as (capture, note):
        for number in range(128):
            until(lambda: note(f"{number:03d}", picture))  # noqa: B023 - it is called now
            assert _disk_bytes(tmp_path) <= 16 * _MIB
        until(lambda: capture.counts().get("stored") == 128)
        assert _disk_bytes(tmp_path) <= 16 * _MIB
    kept = [one.request_id for one in records(tmp_path)]

    assert kept == [f"{number:03d}" for number in range(128)][-len(kept) :]
    assert len(kept) >= 32


def test_old_captures_go(capturing: Callable[..., Any], tmp_path: Path) -> None:
    """A closed segment that was written longer ago than the bound is removed."""
    with capturing() as (_, note):
        note("old", b"x")
    [old] = segments(tmp_path)
    os.utime(old / "records.ndjson", (0, 0))
    with capturing() as (_, note):
        note("new", b"x")

    assert [one.request_id for one in records(tmp_path)] == ["new"]


def test_a_full_queue_loses_captures_only(
    capturing: Callable[..., Any], tmp_path: Path
) -> None:
    """What does not fit into the queue is refused at once, and counted."""
    with capturing() as (capture, note):
        assert not note("large", bytes(33 * _MIB))
        assert note("small", b"x")
        until(lambda: capture.counts().get("stored") == 1)
        assert capture.counts()["queue"] == 1

    assert [one.request_id for one in records(tmp_path)] == ["small"]


def redacted(picture: bytes) -> bytes | None:
    """The redaction of the next test: it leaves one out, and fails for another."""
    if picture == b"fails":
        raise ValueError(picture)
    return None if picture == b"secret" else picture.upper()


@pytest.mark.parametrize(
    "redaction", ["function", "sh -c 'grep -v -e fails -e secret | tr a-z A-Z'"]
)
def test_only_redacted_pictures_are_stored(
    capturing: Callable[..., Any], tmp_path: Path, redaction: str
) -> None:
    """A function and a command change pictures; where they fail, nothing is stored."""
    name = f"{__name__}:redacted" if redaction == "function" else redaction
    sys.modules.setdefault(__name__, sys.modules[redacted.__module__])
    with capturing(capture_redaction=name) as (capture, note):
        for number, picture in enumerate((b"one\n", b"secret", b"fails", b"two\n")):
            assert note(str(number), picture)
        until(lambda: capture.counts().get("redaction") == 2)
    stored = [(one.request_id, one.content(tmp_path)) for one in records(tmp_path)]

    assert stored == [("0", b"ONE\n"), ("3", b"TWO\n")]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"capture_redaction": "no.such:function"}, "cannot be imported"),
        ({"capture_redaction": "os:sep"}, "is no function"),
        ({"capture_redaction": "no-such-command -x"}, "command that is installed"),
        ({"capture_redaction": "'"}, "no command"),
        ({"capture": "/proc/none"}, "cannot be made"),
    ],
)
def test_settings_that_cannot_work_are_refused(
    options: dict[str, str], words: str, tmp_path: Path
) -> None:
    """A gateway does not start if its captures could not be written or redacted."""
    with pytest.raises(InvalidRequest, match=words):
        check_capture(CaptureOptions(**{"capture": str(tmp_path), **options}))


def test_a_full_disk_stops_captures_and_no_request(
    published: Path, picture: bytes, tmp_path: Path, start_gateway: Callable[..., Any]
) -> None:
    """While no byte can be written, requests are answered; then captures go on."""
    capture = tmp_path / "capture"
    flags = ("--capture", str(capture), "--capture-share", "1")
    with start_gateway(published, *flags) as gateway:
        pid = gateway.process.pid
        _classified(gateway, picture, "before")
        until(lambda: _metric(gateway, "inkling_capture_pictures_total") == 1)
        _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, hard))
        for _ in range(3):
            _classified(gateway, picture, "during")
        until(lambda: _metric(gateway, "inkling_capture_stopped") == 1)
        dropped = 'inkling_capture_dropped_total{reason="disk"}'
        until(lambda: _metric(gateway, dropped) == 3)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (hard, hard))

        def is_captured() -> bool:
            _classified(gateway, picture, "after")
            return "after" in [one.request_id for one in records(capture)]

        until(is_captured)
        until(lambda: _metric(gateway, "inkling_capture_stopped") == 0)
    names = {one.request_id for one in records(capture)}

    assert names == {"before", "after"}


def test_kill_loses_at_most_the_last_second(
    published: Path, picture: bytes, tmp_path: Path
) -> None:
    """After SIGKILL of two workers, every capture that was there is whole and readable."""
    capture = tmp_path / "capture"
    command = [sys.executable, "-m", "inkling", "serve", "--workers", "2"]
    command += ["--http-port", "0", "--grpc-port", "0", "--models-dir", str(published)]
    command += ["--capture", str(capture), "--capture-share", "1"]
    log = tmp_path / "log"
    with log.open("w") as output:
        process = subprocess.Popen(command, stderr=output, text=True)
    try:
        until(lambda: "listening on http" in log.read_text())
        port = int(log.read_text().partition("http://127.0.0.1:")[2].partition("/")[0])
        gateway = GatewayProcess(process, port, 0)
        until(lambda: _is_up(gateway))
        for number in range(40):
            _classified(gateway, picture, str(number))
        until(lambda: len(_names(capture)) == 40)
        pids = [*children_of(process.pid), process.pid]
        for number in range(40, 60):
            _classified(gateway, picture, str(number))
    finally:
        for pid in [*children_of(process.pid), process.pid]:
            os.kill(pid, signal.SIGKILL)
        process.wait()
    found = list(records(capture))

    assert len(pids) >= 3
    assert {str(number) for number in range(40)} <= {one.request_id for one in found}
    assert all(one.content(capture) == picture for one in found)
    assert len(segments(capture)) >= 1


def _is_up(gateway: GatewayProcess) -> bool:
    try:
        return gateway.request("GET", "/readyz").status == 200
    except OSError:
        return False


def _names(capture: Path) -> set[str]:
    return {one.request_id for one in records(capture)}


@pytest.mark.parametrize(
    "damage", [b'{"format": 1', b"\xff\xfe\n", b"[]\n", b'{"format": 2}\n', b"null\n"]
)
def test_damaged_lines_are_passed_over(
    capturing: Callable[..., Any], tmp_path: Path, damage: bytes
) -> None:
    """A torn, foreign or newer line does not hide the lines around it."""
    with capturing() as (_, note):
        note("one", b"x")
    [segment] = segments(tmp_path)
    file = segment / "records.ndjson"
    line = file.read_bytes()
    file.write_bytes(damage * damage.endswith(b"\n") + line + damage)

    assert [one.request_id for one in records(tmp_path)] == ["one"]


def test_a_damaged_picture_has_no_content(
    capturing: Callable[..., Any], tmp_path: Path
) -> None:
    """A picture that a power cut has cut, or that is gone, is told from a whole one."""
    with capturing() as (_, note):
        note("one", b"whole")
    [record] = list[Record](records(tmp_path))

    assert record.content(tmp_path) == b"whole"
    (tmp_path / record.picture).write_bytes(b"who")
    assert record.content(tmp_path) is None
    (tmp_path / record.picture).unlink()
    assert record.content(tmp_path) is None
