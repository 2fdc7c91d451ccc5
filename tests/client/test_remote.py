# SPDX-License-Identifier: Apache-2.0
"""The gRPC classifiers, synchronous and for asyncio, and the commands that ask."""

from __future__ import annotations

import asyncio
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from PIL import Image

import inkling
from inkling.errors import (
    DeadlineExceeded,
    ErrorCode,
    InklingError,
    InternalError,
    InvalidImage,
    InvalidRequest,
    ModelNotFound,
    NotFound,
    NotReady,
    Overloaded,
    PermissionDenied,
    QuotaExceeded,
    TooLarge,
    Unauthenticated,
    UnknownRequest,
    UnsupportedMediaType,
)
from inkling.gateway.status import ERROR_CODE_KEY, GRPC_STATUS
from inkling.image.pictures import encoded
from inkling.model.repository import Repository
from inkling.v1 import classifier_pb2 as pb
from tests.support.digits import all_digits
from tests.support.gateway_process import Killable
from tests.support.machine import listens, until, within

_EXIF_ORIENTATION = 0x0112
_WINDOW = 16
_METHOD = "/inkling.v1.Classifier/Classify"

Encode = Callable[..., bytes]


class CountingServer:
    """Speaks gRPC, ends every `Classify` as it is told, and counts them."""

    def __init__(self, answer: Callable[[grpc.ServicerContext], bytes]) -> None:
        self.calls = 0
        self.remaining: list[float] = []
        self._answer = answer
        self._lock = threading.Lock()
        self._server = grpc.server(ThreadPoolExecutor(20))
        method = grpc.unary_unary_rpc_method_handler(self._classify)
        methods = {"Classify": method}
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("inkling.v1.Classifier", methods),)
        )
        port = self._server.add_insecure_port("127.0.0.1:0")
        self.target = f"127.0.0.1:{port}"
        self._server.start()

    def _classify(self, _: bytes, context: grpc.ServicerContext) -> bytes:
        with self._lock:
            self.calls += 1
            self.remaining.append(context.time_remaining())
        return self._answer(context)

    def stop(self) -> None:
        self._server.stop(None).wait()


@pytest.fixture
def counting() -> Iterator[Callable[..., CountingServer]]:
    """Start counting servers; they stop with the test."""
    servers: list[CountingServer] = []

    def start(answer: Callable[[grpc.ServicerContext], bytes]) -> CountingServer:
        servers.append(CountingServer(answer))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


def _refuses(status: grpc.StatusCode, words: str, **trailing: str) -> Any:
    def answer(context: grpc.ServicerContext) -> bytes:
        pairs = [(key.replace("_", "-"), value) for key, value in trailing.items()]
        context.set_trailing_metadata(pairs)
        context.abort(status, words)
        raise AssertionError

    return answer


def _one_answer(_: grpc.ServicerContext) -> bytes:
    response = pb.ClassifyResponse(model="cnn", version=3, contract="sha256:x")
    response.results.add().top.add(label="7", index=7, probability=0.5)
    return response.SerializeToString()


@pytest.fixture(scope="module")
def digits() -> list[np.ndarray]:
    """300 pictures, 28x28, uint8, light on dark."""
    return list(all_digits()[:300])


@pytest.fixture(scope="module")
def silent() -> Iterator[str]:
    """An address that takes connections and never says a word."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(128)
        yield f"127.0.0.1:{listener.getsockname()[1]}"


def _version_dir(published: Path, model: str = "cnn") -> Path:
    return Repository(published).newest(model).path


# Pictures.


def _as_path(data: bytes, folder: Path) -> Path:
    path = folder / "digit.png"
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pillow_pictures_keep_the_cameras_orientation(
    orientation: int, sample: np.ndarray, encode: Encode
) -> None:
    """A JPEG that Pillow opened arrives as turned as the file itself would."""
    from inkling.image.preprocess import to_input

    exif = Image.Exif()
    exif[_EXIF_ORIENTATION] = orientation
    data = encode(np.kron(sample, np.ones((8, 8), np.uint8)), "PNG", exif=exif)
    contract = Contract28()

    found = to_input(encoded(Image.open(io.BytesIO(data))), contract)

    assert np.array_equal(to_input(data, contract), found)


def Contract28() -> Any:
    """The contract of the digit models."""
    from inkling.contract import Contract, TrainingData

    return Contract(
        height=28,
        width=28,
        channels=1,
        labels=tuple("0123456789"),
        kind="photo_of_one_object",
        finder="ink-1",
        training_data=TrainingData("digits", "sha256:none"),
    )


class _Broken:
    """A file whose disk is gone."""

    def read(self) -> bytes:
        raise OSError(5, "Input/output error")


def _closed() -> io.BytesIO:
    file = io.BytesIO(b"x")
    file.close()
    return file


@pytest.mark.parametrize(
    "make",
    [
        lambda: None,
        lambda: 7,
        lambda: [1, 2],
        lambda: "no/such/file.png",
        lambda: Path("/"),
        lambda: "a\0b.png",
        lambda: io.StringIO("text"),
        _Broken,
        _closed,
        lambda: Image.new("F", (9, 9)),
        lambda: Image.new("I", (9, 9), 70_000),
        lambda: Image.new("F", (0, 9)),
        lambda: Image.new("I", (0, 9)),
        lambda: Image.new("L", (0, 9)),
        lambda: np.zeros((28, 28), np.float32),
        lambda: np.zeros((28, 28), np.int64),
        lambda: np.zeros((28, 28, 2), np.uint8),
        lambda: np.zeros((2, 28, 28, 3), np.uint8),
        lambda: np.zeros((28,), np.uint8),
        lambda: np.zeros((0, 28), np.uint8),
        lambda: np.uint8(3),
        lambda: np.zeros((28, 28), object),
    ],
    ids=[
        "None", "int", "list", "no file", "folder", "NUL in a path", "text file",
        "broken disk", "closed file", "mode F", "32 bits", "no floats", "no integers", "no pixels",
        "float32", "int64", "two channels", "batch", "rank 1", "empty", "scalar",
        "objects",
    ],
)  # fmt: skip
def test_what_is_no_picture_is_refused_here(make: Callable[[], Any]) -> None:
    """What cannot be a picture is an InvalidImage before anything is sent."""
    with pytest.raises(InvalidImage):
        encoded(make())


# Errors.

_CLASSES = {
    ErrorCode.UNAUTHENTICATED: Unauthenticated,
    ErrorCode.PERMISSION_DENIED: PermissionDenied,
    ErrorCode.INVALID_IMAGE: InvalidImage,
    ErrorCode.INVALID_REQUEST: InvalidRequest,
    ErrorCode.TOO_LARGE: TooLarge,
    ErrorCode.UNSUPPORTED_MEDIA_TYPE: UnsupportedMediaType,
    ErrorCode.MODEL_NOT_FOUND: ModelNotFound,
    ErrorCode.NOT_READY: NotReady,
    ErrorCode.DEADLINE_EXCEEDED: DeadlineExceeded,
    ErrorCode.OVERLOADED: Overloaded,
    ErrorCode.QUOTA_EXCEEDED: QuotaExceeded,
    ErrorCode.NOT_FOUND: NotFound,
    ErrorCode.UNKNOWN_REQUEST: UnknownRequest,
    ErrorCode.METHOD_NOT_ALLOWED: NotFound,
    ErrorCode.INTERNAL: InternalError,
}


@pytest.mark.parametrize("code", ErrorCode)
def test_every_code_is_its_class_again(
    code: ErrorCode, counting: Callable[..., CountingServer]
) -> None:
    """The class that the server raised is raised here, with its words and no others."""
    trailing = {ERROR_CODE_KEY: code.value, "grpc-retry-pushback-ms": "-1"}
    server = counting(_refuses(GRPC_STATUS[code], "Words of the server.", **trailing))

    with (
        inkling.connect(server.target) as classifier,
        pytest.raises(InklingError) as caught,
    ):
        classifier.classify(b"x")

    assert _CLASSES[code] is type(caught.value)
    assert caught.value.message == "Words of the server."


async def _refused_aio(target: str, picture: bytes, **options: Any) -> InklingError:
    async with inkling.AioClassifier(target, **options) as classifier:
        with pytest.raises(InklingError) as caught:
            await classifier.classify(picture)
    return caught.value


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (grpc.StatusCode.CANCELLED, DeadlineExceeded),
        (grpc.StatusCode.UNKNOWN, InternalError),
        (grpc.StatusCode.INVALID_ARGUMENT, InvalidRequest),
        (grpc.StatusCode.DEADLINE_EXCEEDED, DeadlineExceeded),
        (grpc.StatusCode.NOT_FOUND, ModelNotFound),
        (grpc.StatusCode.ALREADY_EXISTS, InternalError),
        (grpc.StatusCode.PERMISSION_DENIED, PermissionDenied),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, TooLarge),
        (grpc.StatusCode.FAILED_PRECONDITION, NotReady),
        (grpc.StatusCode.ABORTED, InternalError),
        (grpc.StatusCode.OUT_OF_RANGE, InvalidRequest),
        (grpc.StatusCode.UNIMPLEMENTED, NotFound),
        (grpc.StatusCode.INTERNAL, InternalError),
        (grpc.StatusCode.UNAVAILABLE, NotReady),
        (grpc.StatusCode.DATA_LOSS, InternalError),
        (grpc.StatusCode.UNAUTHENTICATED, Unauthenticated),
    ],
)
def test_statuses_of_others_are_understood(
    status: grpc.StatusCode, kind: type, counting: Callable[..., CountingServer]
) -> None:
    """A status without our code word, as from a proxy, has a class, sync and aio."""
    server = counting(_refuses(status, "proxy", **{"grpc-retry-pushback-ms": "-1"}))

    with (
        inkling.connect(server.target) as classifier,
        pytest.raises(InklingError) as caught,
    ):
        classifier.classify(b"x")

    assert kind is type(caught.value)
    assert kind is type(asyncio.run(_refused_aio(server.target, b"x")))


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (grpc.StatusCode.UNAVAILABLE, NotReady),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, TooLarge),
        (grpc.StatusCode.INVALID_ARGUMENT, InvalidRequest),
        (grpc.StatusCode.DEADLINE_EXCEEDED, DeadlineExceeded),
        (grpc.StatusCode.UNKNOWN, InternalError),
    ],
)
def test_code_words_of_newer_servers_are_their_status(
    status: grpc.StatusCode,
    kind: type,
    counting: Callable[..., CountingServer],
    published: Path,
    picture: bytes,
) -> None:
    """An unknown code word has the class of its status, so that a fallback answers."""
    trailing = {ERROR_CODE_KEY: "draining", "grpc-retry-pushback-ms": "-1"}
    server = counting(_refuses(status, "Words of tomorrow.", **trailing))
    device = Repository(published).newest("cnn").path

    with (
        inkling.connect(server.target) as classifier,
        pytest.raises(InklingError) as caught,
    ):
        classifier.classify(picture)
    assert (kind, "Words of tomorrow.") == (type(caught.value), caught.value.message)
    if kind in (NotReady, DeadlineExceeded):
        with inkling.connect(server.target, fallback=device) as classifier:
            assert "device" == classifier.classify(picture).origin.answered_by


def test_concurrent_call_limit_of_the_server_is_overload(
    counting: Callable[..., CountingServer],
) -> None:
    """GRPC's own "Concurrent RPC limit exceeded!" is Overloaded, not TooLarge."""
    server = counting(
        _refuses(grpc.StatusCode.RESOURCE_EXHAUSTED, "Concurrent RPC limit exceeded!")
    )
    with (
        inkling.connect(server.target) as classifier,
        pytest.raises(InklingError) as caught,
    ):
        classifier.classify(b"x")

    assert Overloaded is type(caught.value)


def test_answers_with_no_result_are_an_error_of_ours(
    counting: Callable[..., CountingServer],
) -> None:
    """A server that answers for no picture is InternalError, not a ValueError."""
    server = counting(lambda _: pb.ClassifyResponse(model="cnn").SerializeToString())

    with inkling.connect(server.target) as classifier, pytest.raises(InternalError):
        classifier.classify(b"x")


# Deadlines and retries.


def test_a_deadline_is_always_set(counting: Callable[..., CountingServer]) -> None:
    """Every call carries a deadline: 5 s, or what the caller said."""
    server = counting(_one_answer)
    with inkling.connect(server.target) as classifier:
        classifier.classify(b"x")
        list(classifier.classify_many([b"x"] * 3))
    with inkling.connect(server.target, timeout_s=1.5) as classifier:
        classifier.classify(b"x")

    async def classified() -> None:
        async with inkling.AioClassifier(server.target) as there:
            await there.classify(b"x")

    asyncio.run(classified())

    default, given = server.remaining[:4] + server.remaining[5:], server.remaining[4]
    assert (max(default) < 5.1, given < 1.6) == (True, True), server.remaining
    # What is missing of each went by on the way.
    within(5 - min(default), 1)
    within(1.5 - given, 0.5)


def test_a_stopped_server_ends_with_the_deadline(
    killable: Callable[..., Killable], picture: bytes
) -> None:
    """SIGSTOP: DeadlineExceeded close to timeout_s; answers again after SIGCONT."""
    gateway = killable().start().wait_ready()
    with inkling.connect(gateway.target, timeout_s=0.5) as classifier:
        until(lambda: _label(classifier, picture) == "3")
        gateway.send(signal.SIGSTOP)
        started = time.monotonic()
        with pytest.raises(DeadlineExceeded):
            classifier.classify(picture)
        took = time.monotonic() - started
        gateway.send(signal.SIGCONT)
        back = until(lambda: _label(classifier, picture) == "3")

    print(f"a stopped server: DeadlineExceeded after {took:.3f} s of 0.5 s")
    assert took >= 0.45
    within(took, 1.5)
    within(back, 2)


class _Distant:
    """Passes bytes on to a gateway and back, each way later by `delay_s`."""

    def __init__(self, port: int, delay_s: float) -> None:
        self._port, self._delay_s = port, delay_s
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.target = f"127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            far = socket.create_connection(("127.0.0.1", self._port))
            for pair in ((near, far), (far, near)):
                threading.Thread(target=self._pass_on, args=pair, daemon=True).start()

    def _pass_on(self, source: socket.socket, sink: socket.socket) -> None:
        with source, sink, suppress(OSError):
            while data := source.recv(65536):
                time.sleep(self._delay_s)
                sink.sendall(data)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


def test_a_distant_server_can_be_reached(gateway: Any, picture: bytes) -> None:
    """A server a fifth of a second away answers, the very first call included."""
    distant = _Distant(gateway.grpc_port, 0.2)
    try:
        with inkling.connect(distant.target) as classifier:
            assert ["3"] * 3 == [classifier.classify(picture).label for _ in range(3)]
    finally:
        distant.close()


def _label(classifier: Any, picture: bytes) -> str | None:
    try:
        found: str = classifier.classify(picture).label
    except InklingError:
        return None
    return found


def test_only_unavailable_is_tried_again(
    counting: Callable[..., CountingServer],
) -> None:
    """A call is tried again where the server did not take it, and only there."""
    attempts = {}
    for status in grpc.StatusCode:
        if status is grpc.StatusCode.OK:
            continue
        server = counting(_refuses(status, "no"))
        with (
            inkling.connect(server.target) as classifier,
            pytest.raises(InklingError),
        ):
            classifier.classify(b"x")
        attempts[status.name] = server.calls

    again = {name: count for name, count in attempts.items() if count > 1}
    assert {"UNAVAILABLE": 3, "CANCELLED": 3} == again


@pytest.mark.parametrize("module", ["sync", "aio"])
def test_attempts_are_throttled_in_an_outage(
    module: str, counting: Callable[..., CountingServer]
) -> None:
    """F16: 200 calls to a server that is there and unavailable are at most 240 attempts."""
    server = counting(_refuses(grpc.StatusCode.UNAVAILABLE, "down"))
    if module == "sync":
        with inkling.connect(server.target) as classifier:
            found = [_label(classifier, b"x") for _ in range(200)]
    else:
        found = asyncio.run(_labels_aio(server.target, 200))

    print(f"{module}: {server.calls} attempts for 200 calls")
    assert found == [None] * 200
    assert server.calls <= 240


async def _labels_aio(target: str, count: int) -> list[str | None]:
    labels: list[str | None] = []
    async with inkling.AioClassifier(target) as classifier:
        for _ in range(count):
            try:
                labels.append((await classifier.classify(b"x")).label)
            except InklingError:
                labels.append(None)
    return labels


@pytest.mark.parametrize("away_s", [0.0, 6.0])
def test_reconnects_when_the_server_is_back(
    away_s: float, killable: Callable[..., Killable], picture: bytes
) -> None:
    """Killed and started again on its port, the first success is within 1.5 s of ready."""
    gateway = killable().start().wait_ready()
    with inkling.connect(gateway.target, timeout_s=1) as classifier:
        until(lambda: _label(classifier, picture) == "3")
        gateway.end()
        gone = time.monotonic()
        failures = 0
        while time.monotonic() - gone < away_s:
            failures += _label(classifier, picture) is None
            time.sleep(0.02)
        gateway.start()
        until(lambda: listens(gateway.grpc_port) and gateway.get("/readyz")[0] == 200)
        took = until(lambda: _label(classifier, picture) == "3")

    print(
        f"away {away_s} s, {failures} refusals: first success {took:.2f} s after ready"
    )
    within(took, 1.5)


# Many pictures.


class _Drawn:
    """A lazy iterator that counts what was drawn from it."""

    def __init__(self, pictures: Iterator[Any]) -> None:
        self.count = 0
        self._pictures = pictures

    def __iter__(self) -> Iterator[Any]:
        for picture in self._pictures:
            self.count += 1
            yield picture


def test_one_bad_picture_costs_few_requests(
    counting: Callable[..., CountingServer], tmp_path: Path
) -> None:
    """`inkling classify` of 100 refused pictures asks at most 1.2 times for each."""
    answer = _refuses(
        grpc.StatusCode.INVALID_ARGUMENT, "bad", **{ERROR_CODE_KEY: "invalid_image"}
    )
    server = counting(answer)
    path = _as_path(b"hello", tmp_path)

    done = _inkling("classify", *[path] * 100, "--server", server.target)

    print(f"{server.calls} requests for 100 pictures")
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 100
    assert server.calls <= 120


# asyncio.


async def _many_aio(target: str, pictures: list[np.ndarray]) -> tuple[list[str], int]:
    drawn, ahead, labels = _Drawn(iter(pictures)), 0, []
    async with inkling.AioClassifier(target) as classifier:
        async for prediction in classifier.classify_many(drawn):
            ahead = max(ahead, drawn.count - len(labels))
            labels.append(prediction.label)
    return labels, ahead


def test_aio_classifies_one_and_many(
    gateway: Any, digits: list[np.ndarray], picture: bytes
) -> None:
    """asyncio: one picture, 300 in order, and at most 16 and one drawn ahead."""

    async def one() -> Any:
        async with inkling.AioClassifier(gateway.grpc_target) as classifier:
            return await classifier.classify(picture, top_k=2)

    with inkling.connect(gateway.grpc_target) as classifier:
        expected = [p.label for p in classifier.classify_many(digits)]
        assert classifier.classify(picture, 2) == asyncio.run(one())
    labels, ahead = asyncio.run(_many_aio(gateway.grpc_target, digits))

    assert expected == labels
    assert 1 < ahead <= _WINDOW + 1


def test_aio_many_calls_at_once(gateway: Any, digits: list[np.ndarray]) -> None:
    """60 tasks share one classifier; every answer is its own picture's."""

    async def all_at_once() -> list[str]:
        async with inkling.AioClassifier(gateway.grpc_target) as classifier:
            tasks = [classifier.classify(digit) for digit in digits[:60]]
            return [p.label for p in await asyncio.gather(*tasks)]

    with inkling.connect(gateway.grpc_target) as classifier:
        expected = [p.label for p in classifier.classify_many(digits[:60])]
    assert expected == asyncio.run(all_at_once())


async def _aio_found(target: str, pictures: list[Any]) -> tuple[Any, list[Any], Any]:
    """Return a contract, the outcomes, and what `classify_many` raised at last."""
    async with inkling.AioClassifier(target, model="mlp") as classifier:
        outcomes = [outcome async for outcome in classifier.outcomes(pictures)]
        raised = None
        try:
            async for _ in classifier.classify_many(pictures):
                pass
        except InklingError as error:
            raised = error
        return await classifier.contract(), outcomes, raised


def test_aio_has_what_the_synchronous_classifier_has(
    gateway: Any, picture: bytes
) -> None:
    """asyncio: `outcomes` with each error in its place, and the contract."""
    pictures = [picture, b"hello", "no/such/file.png", picture]
    with inkling.connect(gateway.grpc_target, model="mlp") as classifier:
        expected = list(classifier.outcomes(pictures))
        contract = classifier.contract()

    found, outcomes, raised = asyncio.run(_aio_found(gateway.grpc_target, pictures))

    assert contract == found
    assert expected[0] == outcomes[0] == outcomes[3]
    assert [InvalidImage] * 2 == [type(outcome) for outcome in outcomes[1:3]]
    assert InvalidImage is type(raised)
    names = {name for name in vars(inkling.Classifier) if not name.startswith("_")}
    assert names <= set(dir(inkling.AioClassifier))


@pytest.mark.parametrize(
    ("options", "picture", "kind"),
    [
        ({}, b"hello", InvalidImage),
        ({}, b"II*\x00\x08\x00\x00\x00", UnsupportedMediaType),
        ({}, bytes(11 * 1024 * 1024), TooLarge),
        ({"model": "nobody"}, b"hello", ModelNotFound),
        ({"version": 99}, b"hello", ModelNotFound),
    ],
)
def test_refusals_arrive_as_their_class_in_asyncio(
    options: dict[str, Any], picture: bytes, kind: type, gateway: Any
) -> None:
    """What the gateway refuses is the same class as for the synchronous classifier."""
    found = asyncio.run(_refused_aio(gateway.grpc_target, picture, **options))

    assert kind is type(found)


def test_a_silent_server_ends_with_the_deadline_in_asyncio(silent: str) -> None:
    """An address that accepts and says nothing ends near the deadline."""
    started = time.monotonic()
    found = asyncio.run(_refused_aio(silent, b"x", timeout_s=0.4))
    took = time.monotonic() - started

    assert DeadlineExceeded is type(found)
    within(took, 1.0)


def test_the_package_loads_asyncio_on_demand() -> None:
    """`import inkling` brings no gRPC along; `inkling.AioClassifier` does."""
    code = (
        "import sys, inkling; before = 'grpc' in sys.modules; inkling.AioClassifier;"
        "print(before, 'grpc' in sys.modules, 'AioClassifier' in inkling.__all__)"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)

    assert "False True True\n" == done.stdout
    with pytest.raises(AttributeError, match="Nobody"):
        inkling.Nobody  # noqa: B018


def test_aio_cancellation_is_cancellation(silent: str) -> None:
    """A task that is cancelled ends as asyncio's own error, at once."""

    async def run() -> float:
        async with inkling.AioClassifier(silent) as classifier:
            task = asyncio.create_task(classifier.classify(b"x"))
            await asyncio.sleep(0.1)
            started = time.monotonic()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            return time.monotonic() - started

    within(asyncio.run(run()), 0.5)


# The commands.


def _inkling(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "inkling", *map(str, words)],
        env={k: v for k, v in os.environ.items() if not k.startswith("INKLING_")},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.fixture(scope="module")
def pictures(
    tmp_path_factory: pytest.TempPathFactory, clear_digits: list[np.ndarray]
) -> list[Path]:
    """Six pictures of the digits 0 to 5, as files."""
    folder = tmp_path_factory.mktemp("pictures")
    paths = []
    for number, digit in enumerate(clear_digits[:6]):
        paths.append(folder / f"{number}.png")
        Image.fromarray(digit).save(paths[-1])
    return paths


@pytest.mark.parametrize("where", ["gRPC", "HTTP", "file", "directory"])
def test_classify_prints_a_table(
    where: str, gateway: Any, published: Path, pictures: list[Path]
) -> None:
    """`inkling classify` prints a line per picture, wherever the model runs."""
    directory = _version_dir(published)
    place = {
        "gRPC": ("--server", gateway.grpc_target),
        "HTTP": ("--server", gateway.url),
        "file": ("--on-device", directory / "tflite" / "int8.tflite"),
        "directory": ("--on-device", directory),
    }[where]

    done = _inkling("classify", *pictures, *place, "--top-k", 2)

    assert (done.returncode, _without_delegate(done.stderr)) == (0, "")
    lines = [line.split() for line in done.stdout.splitlines()]
    assert [[str(path), str(n)] for n, path in enumerate(pictures)] == [
        line[:2] for line in lines
    ]
    assert all(len(line) == 5 and line[2].endswith("%") for line in lines)


def _without_delegate(text: str) -> str:
    return "".join(
        line for line in text.splitlines(keepends=True) if "XNNPACK" not in line
    )


@pytest.mark.parametrize("where", ["gRPC", "HTTP", "device"])
def test_classify_prints_lines_of_json(
    where: str, gateway: Any, published: Path, pictures: list[Path]
) -> None:
    """`--json` is one object a line, with who answered."""
    place = ("--server", gateway.url if where == "HTTP" else gateway.grpc_target)
    if where == "device":
        place = ("--on-device", str(_version_dir(published)))

    done = _inkling("classify", *pictures, *place, "--json", "--top-k", 3)

    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [str(path) for path in pictures] == [one["picture"] for one in found]
    assert list("012345") == [one["label"] for one in found]
    by = "device" if where == "device" else "gateway"
    assert {("cnn", 1, by)} == {
        (one["model"], one["version"], one["answered_by"]) for one in found
    }
    assert all(len(one["top"]) == 3 for one in found)
    assert found[0]["probability"] == found[0]["top"][0]["probability"]


@pytest.mark.parametrize("where", ["server", "device"])
@pytest.mark.parametrize("bad", ["text", "missing", "folder"])
def test_classify_loses_no_good_answer(
    bad: str,
    where: str,
    gateway: Any,
    published: Path,
    pictures: list[Path],
    tmp_path: Path,
) -> None:
    """One bad picture among good ones: code 1, its name on stderr, all others answered."""
    wrong = tmp_path / "wrong.png"
    if bad == "text":
        wrong.write_text("hello")
    elif bad == "folder":
        wrong.mkdir()
    place = ("--server", gateway.grpc_target)
    if where == "device":
        place = ("--on-device", str(_version_dir(published)))
    paths = [*pictures[:3], wrong, *pictures[3:]]

    done = _inkling("classify", *paths, *place, "--json")

    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(str(p), str(n)) for n, p in enumerate(pictures)] == [
        (one["picture"], one["label"]) for one in found
    ]
    [complaint] = _without_delegate(done.stderr).splitlines()
    assert re.match(f"inkling: {re.escape(str(wrong))}(: | cannot be read)", complaint)
    assert done.returncode == 1


def test_classify_survives_a_closed_pipe(gateway: Any, pictures: list[Path]) -> None:
    """`inkling classify ... | head -1` ends without a traceback."""
    command = [sys.executable, "-m", "inkling", "classify", *map(str, pictures * 30)]
    command += ["--server", gateway.grpc_target, "--json", "--top-k", "10"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        complaints = process.stderr.read()

    assert "Traceback" not in complaints


def _paper(path: Path, kind: str) -> Path:
    pixels = np.full((200, 200), 255, np.uint8)
    if kind == "tiny":
        pixels = pixels[:12, :12]
        pixels[2:10, 5:7] = 0
    elif kind == "full":
        pixels = np.zeros((28, 28), np.uint8)
        pixels[3:25, 3:25] = 255
    elif kind == "two":
        pixels = np.zeros((28, 28), np.uint8)
        pixels[4:24, 6:9] = pixels[4:24, 18:21] = 255
    Image.fromarray(pixels).save(path)
    return path


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("blank", "no ink"),
        ("tiny", "fewer than"),
        ("full", "is ink"),
        ("two", "not connected"),
    ],
)
def test_doctor_warns(kind: str, words: str, published: Path, tmp_path: Path) -> None:
    """Blank paper, too few pixels, a filled square and two strokes are warned of."""
    path = _paper(tmp_path / "p.png", kind)

    done = _inkling("doctor", path, "--models-dir", published)

    assert (done.returncode, done.stderr) == (0, "")
    [warning] = [line for line in done.stdout.splitlines() if "Warning" in line]
    assert words in warning
