from __future__ import annotations

import asyncio
import io
import itertools
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
    TooLarge,
    Unauthenticated,
    UnsupportedMediaType,
)
from inkling.gateway import aio
from inkling.gateway.connect import Fallback
from inkling.gateway.status import ERROR_CODE_KEY, GRPC_STATUS
from inkling.image.pictures import encoded
from inkling.model.repository import Repository
from inkling.v1 import classifier_pb2 as pb
from tests.support.digits import all_digits
from tests.support.gateway_process import Killable
from tests.support.machine import free_port, listens, until, within

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


# Getting a classifier.


def test_an_address_gives_the_gateway(gateway: Any, picture: bytes) -> None:
    """`connect("host:port")` classifies over gRPC, and says which version answered."""
    with inkling.connect(gateway.grpc_target) as classifier:
        prediction = classifier.classify(picture, top_k=3)

    assert prediction.label == "3"
    assert (prediction.top[0].index - prediction.index, len(prediction.top)) == (0, 3)
    assert 0.0 < prediction.probability <= 1.0
    assert (
        prediction.origin.model,
        prediction.origin.version,
        prediction.origin.answered_by,
    ) == ("cnn", 1, "gateway")
    assert prediction.origin.contract.startswith("sha256:")


def test_the_contract_is_the_same_everywhere(gateway: Any, published: Path) -> None:
    """Gateway, device and fallback say what the version that answers expects."""
    expected = Repository(published).newest("mlp").contract()
    device = _version_dir(published, "mlp")
    nobody = f"127.0.0.1:{free_port()}"
    classifiers = [
        inkling.connect(gateway.grpc_target, model="mlp"),
        inkling.connect(gateway.grpc_target, model="mlp", version=1),
        inkling.connect(device),
        inkling.connect(nobody, model="mlp", fallback=device),
    ]

    for classifier in classifiers:
        with classifier:
            assert expected == classifier.contract()
    with (
        inkling.connect(gateway.grpc_target, model="mlp", version=99) as classifier,
        pytest.raises(ModelNotFound),
    ):
        classifier.contract()


@pytest.mark.parametrize("form", ["file", "directory", "str of a file"])
def test_a_path_gives_the_device(form: str, published: Path, picture: bytes) -> None:
    """A .tflite file or a version's directory is run here, behind the same interface."""
    directory = _version_dir(published, "mlp")
    file = directory / "tflite" / "float32.tflite"
    target = {"file": file, "directory": directory, "str of a file": str(file)}[form]

    with inkling.connect(target) as classifier:
        prediction = classifier.classify(picture)

    version = 1 if form == "directory" else None
    assert prediction.label == "3"
    assert ("mlp", version, "device") == (
        prediction.origin.model,
        prediction.origin.version,
        prediction.origin.answered_by,
    )


@pytest.mark.parametrize(
    ("target", "options", "words"),
    [
        ("localhost", {}, "host:port"),
        (":8081", {}, "host:port"),
        ("localhost:", {}, "host:port"),
        ("localhost:http", {}, "host:port"),
        ("", {}, "host:port"),
        ("models/cnn/999", {}, "host:port"),
        ("missing.tflite", {}, "nothing at"),
        ("localhost:1", {"timeout_s": 0}, "timeout_s"),
        ("localhost:1", {"timeout_s": -1}, "timeout_s"),
        ("localhost:1", {"timeout_s": float("nan")}, "timeout_s"),
        ("localhost:1", {"timeout_s": float("inf")}, "timeout_s"),
        ("localhost:1", {"timeout_s": None}, "timeout_s is"),
        ("localhost:1", {"timeout": 3}, "timeout"),
        ("localhost:1", {"version": 1, "version_label": "stable"}, "version_label"),
        ("localhost:1", {"fallback": "missing.tflite"}, "nothing at"),
    ],
)
@pytest.mark.parametrize("module", [inkling, aio], ids=["sync", "aio"])
def test_what_cannot_be_connected_to_is_refused_at_once(
    target: str, options: dict[str, Any], words: str, module: Any
) -> None:
    """Mistakes in target or options are named before any call, sync and asyncio alike."""
    on_device = target.endswith(".tflite") or "fallback" in options
    if module is aio and on_device:
        pytest.skip("asyncio speaks to gateways only")

    async def connected() -> None:
        await aio.connect(target, **options).close()

    def connect() -> None:
        if module is aio:
            asyncio.run(connected())
        else:
            inkling.connect(target, **options).close()

    with pytest.raises(InvalidRequest, match=re.escape(words)):
        connect()


def test_what_is_no_published_model_is_refused(published: Path, tmp_path: Path) -> None:
    """A directory that is no version, and a fallback for a device, are refused."""
    with pytest.raises(InklingError):
        inkling.connect(tmp_path)
    with pytest.raises(InvalidRequest, match="fallback"):
        inkling.connect(_version_dir(published), fallback=_version_dir(published))


# Pictures.


def _as_path(data: bytes, folder: Path) -> Path:
    path = folder / "digit.png"
    path.write_bytes(data)
    return path


_FORMS: dict[str, Callable[[bytes, Path], Any]] = {
    "path": _as_path,
    "str": lambda data, folder: str(_as_path(data, folder)),
    "bytes": lambda data, _: data,
    "bytearray": lambda data, _: bytearray(data),
    "memoryview": lambda data, _: memoryview(data),
    "BytesIO": lambda data, _: io.BytesIO(data),
    "file": lambda data, folder: _as_path(data, folder).open("rb"),
    "Pillow": lambda data, _: Image.open(io.BytesIO(data)),
    "Pillow RGB": lambda data, _: Image.open(io.BytesIO(data)).convert("RGB"),
    "array": lambda data, _: np.asarray(Image.open(io.BytesIO(data))),
    "array (h, w, 1)": lambda data, _: np.asarray(Image.open(io.BytesIO(data)))[
        ..., None
    ],
    "array (h, w, 3)": lambda data, _: np.asarray(
        Image.open(io.BytesIO(data)).convert("RGB")
    ),
    "array of a view": lambda data, _: np.asarray(Image.open(io.BytesIO(data)))[
        ::-1, ::-1
    ][::-1, ::-1],
}


@pytest.mark.parametrize("form", _FORMS)
def test_pictures_in_every_form(
    form: str, gateway: Any, published: Path, picture: bytes, tmp_path: Path
) -> None:
    """All the forms in which people have a picture get one answer, here and there."""
    shown = _FORMS[form](picture, tmp_path)
    with inkling.connect(gateway.grpc_target) as classifier:
        expected = classifier.classify(picture, 10)
        assert expected == classifier.classify(shown, 10)
    with inkling.connect(_version_dir(published)) as classifier:
        if hasattr(shown, "seek"):
            shown.seek(0)
        assert expected.label == classifier.classify(shown).label
    if hasattr(shown, "close"):
        shown.close()


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


def _cut_png() -> Image.Image:
    file = io.BytesIO()
    Image.effect_noise((64, 64), 50).save(file, "PNG")
    return Image.open(io.BytesIO(file.getvalue()[:900]))


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
        _cut_png,
        lambda: Image.new("F", (9, 9)),
        lambda: Image.new("HSV", (9, 9)),
        lambda: Image.new("CMYK", (9, 9)),
        lambda: Image.new("PA", (9, 9)),
        lambda: Image.new("I", (9, 9)),
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
        "broken disk", "closed file", "cut PNG", "mode F", "HSV", "CMYK", "PA", "I", "no pixels",
        "float32", "int64", "two channels", "batch", "rank 1", "empty", "scalar",
        "objects",
    ],
)  # fmt: skip
def test_what_is_no_picture_is_refused_here(make: Callable[[], Any]) -> None:
    """What cannot be a picture is an InvalidImage before anything is sent."""
    with pytest.raises(InvalidImage):
        encoded(make())


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_pillow_modes_can_be_sent(mode: str, gateway: Any, sample: np.ndarray) -> None:
    """A Pillow picture of any mode that PNG holds is answered like its grey self."""
    grey = Image.fromarray(255 - np.kron(sample, np.ones((6, 6), np.uint8)))
    if mode == "I;16":
        shown = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    else:
        shown = grey.convert(mode)
    with inkling.connect(gateway.grpc_target) as classifier:
        assert classifier.classify(grey).label == classifier.classify(shown).label


# Errors.

_CLASSES = {
    ErrorCode.UNAUTHENTICATED: Unauthenticated,
    ErrorCode.INVALID_IMAGE: InvalidImage,
    ErrorCode.INVALID_REQUEST: InvalidRequest,
    ErrorCode.TOO_LARGE: TooLarge,
    ErrorCode.UNSUPPORTED_MEDIA_TYPE: UnsupportedMediaType,
    ErrorCode.MODEL_NOT_FOUND: ModelNotFound,
    ErrorCode.NOT_READY: NotReady,
    ErrorCode.DEADLINE_EXCEEDED: DeadlineExceeded,
    ErrorCode.OVERLOADED: Overloaded,
    ErrorCode.NOT_FOUND: NotFound,
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
    async with aio.connect(target, **options) as classifier:
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
        (grpc.StatusCode.PERMISSION_DENIED, Unauthenticated),
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
    ("options", "picture", "kind"),
    [
        ({}, b"", InvalidImage),
        ({}, b"hello", InvalidImage),
        ({}, b"GIF89a\x01\x00\x01\x00\x00\x00\x00", UnsupportedMediaType),
        ({}, b"\x89PNG\r\n\x1a\n" + bytes(8 * 1024 * 1024), TooLarge),
        ({}, bytes(11 * 1024 * 1024), TooLarge),
        ({"model": "nobody"}, None, ModelNotFound),
        ({"model": "../etc"}, None, InvalidRequest),
        ({"model": ""}, None, InvalidRequest),
        ({"version": 99}, None, ModelNotFound),
        ({"version": -1}, None, ModelNotFound),
        ({"version_label": "nobody"}, None, ModelNotFound),
    ],
)
def test_refusals_of_a_gateway_arrive_as_their_class(
    options: dict[str, Any],
    picture: bytes | None,
    kind: type,
    gateway: Any,
    sample: np.ndarray,
    encode: Encode,
) -> None:
    """What the gateway refuses is the same class, sync and aio."""
    shown = encode(sample) if picture is None else picture

    with (
        inkling.connect(gateway.grpc_target, **options) as classifier,
        pytest.raises(InklingError) as caught,
    ):
        classifier.classify(shown)

    assert kind is type(caught.value)
    assert kind is type(
        asyncio.run(_refused_aio(gateway.grpc_target, shown, **options))
    )


@pytest.mark.parametrize("top_k", [0, -1, 2**31, 2**70])
def test_impossible_top_k_is_the_same_refusal_everywhere(
    top_k: int, gateway: Any, published: Path, picture: bytes
) -> None:
    """top_k below 1 or beyond reason is no other thing on a gateway than on a device."""
    outcomes = []
    for target in (gateway.grpc_target, _version_dir(published)):
        with inkling.connect(target) as classifier:
            try:
                outcomes.append(len(classifier.classify(picture, top_k).top))
            except InvalidRequest:
                outcomes.append(InvalidRequest)

    assert outcomes[1] == outcomes[0]


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
        async with aio.connect(server.target) as there:
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


def test_a_silent_server_ends_with_the_deadline(silent: str) -> None:
    """An address that accepts and says nothing ends near the deadline, sync and aio."""
    started = time.monotonic()
    with (
        inkling.connect(silent, timeout_s=0.4) as classifier,
        pytest.raises(DeadlineExceeded),
    ):
        classifier.classify(b"x")
    found = asyncio.run(_refused_aio(silent, b"x", timeout_s=0.4))

    took = time.monotonic() - started

    assert DeadlineExceeded is type(found)
    within(took, 1.5)


def _label(classifier: Any, picture: bytes) -> str | None:
    try:
        found: str = classifier.classify(picture).label
    except InklingError:
        return None
    return found


def test_only_unavailable_is_tried_again(
    counting: Callable[..., CountingServer],
) -> None:
    """One call is three attempts for UNAVAILABLE, and one for every other status."""
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

    assert {name for name, count in attempts.items() if count > 1} == {"UNAVAILABLE"}
    assert attempts["UNAVAILABLE"] == 3


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
    async with aio.connect(target) as classifier:
        for _ in range(count):
            try:
                labels.append((await classifier.classify(b"x")).label)
            except InklingError:
                labels.append(None)
    return labels


def test_a_server_that_is_gone_is_refused_quickly(picture: bytes) -> None:
    """Nobody on the port is NotReady within the retries' backoff, then at once."""
    times = []
    with inkling.connect(f"127.0.0.1:{free_port()}") as classifier:
        for _ in range(20):
            started = time.monotonic()
            with pytest.raises(NotReady):
                classifier.classify(picture)
            times.append(time.monotonic() - started)

    print(f"refused: first {times[0]:.3f} s, last {times[-1]:.3f} s")
    within(max(times), 1.5)
    within(times[-1], 0.1)


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


# One classifier in many places.

_FORKS = """
import os, sys, signal
import inkling
classifier = inkling.connect(sys.argv[1])
picture = open(sys.argv[2], "rb").read()
before = classifier.classify(picture).label
children = []
for _ in range(3):
    pid = os.fork()
    if not pid:
        signal.alarm(15)
        labels = {classifier.classify(picture).label for _ in range(5)}
        classifier.close()
        os._exit(0 if labels == {before} else 1)
    children.append(pid)
labels = {classifier.classify(picture).label for _ in range(20)}
codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
labels |= {classifier.classify(picture).label}
classifier.close()
print(before, labels, codes)
"""


def _script(script: str, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", script, *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=150,
    )


def test_parent_and_child_both_use_it_after_a_fork(
    gateway: Any, picture: bytes, tmp_path: Path
) -> None:
    """R3: three children and their parent all get answers from one classifier."""
    path = _as_path(picture, tmp_path)

    done = _script(_FORKS, gateway.grpc_target, str(path))

    assert (done.stdout, done.returncode) == ("3 {'3'} [0, 0, 0]\n", 0), done.stderr


def test_threads_and_arrays_of_one_classifier(
    gateway: Any, digits: list[np.ndarray]
) -> None:
    """Eight threads share one classifier; every answer is its own picture's."""
    with inkling.connect(gateway.grpc_target) as classifier:
        expected = [p.label for p in classifier.classify_many(digits[:80])]
        with ThreadPoolExecutor(8) as pool:
            found = list(
                pool.map(lambda i: classifier.classify(digits[i % 80]), range(320))
            )

    assert [expected[i % 80] for i in range(320)] == [p.label for p in found]


def test_it_may_be_closed_twice_and_used_again(gateway: Any, picture: bytes) -> None:
    """Closing again does nothing; a later call opens another channel."""
    classifier = inkling.connect(gateway.grpc_target)
    classifier.close()
    classifier.close()
    assert classifier.classify(picture).label == "3"
    classifier.close()
    assert classifier.classify(picture).label == "3"
    classifier.close()


# Many pictures.


def test_many_pictures_keep_their_order(
    gateway: Any, published: Path, digits: list[np.ndarray]
) -> None:
    """300 pictures, 300 answers in order, the same ones as one at a time on the device."""
    with inkling.connect(_version_dir(published)) as device:
        expected = [p.label for p in device.classify_many(digits)]
    with inkling.connect(gateway.grpc_target) as classifier:
        found = [p.label for p in classifier.classify_many(iter(digits))]

    assert expected == found


class _Drawn:
    """A lazy iterator that counts what was drawn from it."""

    def __init__(self, pictures: Iterator[Any]) -> None:
        self.count = 0
        self._pictures = pictures

    def __iter__(self) -> Iterator[Any]:
        for picture in self._pictures:
            self.count += 1
            yield picture


def test_the_window_is_bounded(gateway: Any, picture: bytes) -> None:
    """No more than 16 and one pictures are drawn ahead of the answers; none at first."""
    drawn = _Drawn(itertools.repeat(picture))
    ahead = []
    with inkling.connect(gateway.grpc_target) as classifier:
        answers = classifier.classify_many(drawn)
        assert drawn.count == 0
        for done, _ in enumerate(itertools.islice(answers, 100)):
            ahead.append(drawn.count - done)
        answers.close()

    assert 1 < max(ahead) <= _WINDOW + 1


def test_nothing_is_nothing(gateway: Any, published: Path) -> None:
    """No pictures are no answers."""
    for target in (gateway.grpc_target, _version_dir(published)):
        with inkling.connect(target) as classifier:
            assert list(classifier.classify_many([])) == []


@pytest.mark.parametrize("place", ["server", "client"])
@pytest.mark.parametrize("where", ["gateway", "device"])
def test_what_came_before_a_bad_picture_is_yielded(
    place: str, where: str, gateway: Any, published: Path, picture: bytes
) -> None:
    """A bad picture raises in its place; the answers before it are not lost."""
    bad: Any = b"hello" if place == "server" else "no/such/picture.png"
    target = gateway.grpc_target if where == "gateway" else _version_dir(published)
    found = []
    with inkling.connect(target) as classifier:
        answers = classifier.classify_many([picture] * 5 + [bad, picture])
        with pytest.raises(InvalidImage):
            found.extend(prediction.label for prediction in answers)

    assert found == ["3"] * 5


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


# Falling back.


def test_the_device_answers_while_the_server_is_away(
    killable: Callable[..., Killable], published: Path, picture: bytes
) -> None:
    """With a fallback every picture is answered, and the answer says by whom."""
    gateway = killable().start().wait_ready()
    fallback = _version_dir(published) / "tflite" / "float32.tflite"
    with inkling.connect(gateway.target, fallback=fallback) as classifier:
        assert isinstance(classifier, Fallback)
        first = classifier.classify(picture)
        gateway.end()
        second = classifier.classify(picture)
        many = list(classifier.classify_many([picture] * 5))
        gateway.start().wait_ready()
        took = until(lambda: _who(classifier, picture) == "gateway")

    assert (first.origin.answered_by, first.label) == ("gateway", "3")
    assert (second.origin.answered_by, second.label) == ("device", "3")
    assert [p.origin.answered_by for p in many] == ["device"] * 5
    within(took, 5)


def _who(classifier: Any, picture: bytes) -> str:
    found: str = classifier.classify(picture).origin.answered_by
    return found


def test_the_device_answers_when_the_server_never_does(
    silent: str, published: Path, picture: bytes
) -> None:
    """A server that cannot be reached because packets vanish is away as well."""
    with inkling.connect(
        silent, fallback=_version_dir(published), timeout_s=0.3
    ) as classifier:
        assert _who(classifier, picture) == "device"


def test_the_device_does_not_answer_for_a_refusal(
    gateway: Any, published: Path
) -> None:
    """What the gateway refuses is refused, not asked of the device."""
    with (
        inkling.connect(
            gateway.grpc_target, model="nobody", fallback=_version_dir(published)
        ) as classifier,
        pytest.raises(ModelNotFound),
    ):
        classifier.classify(b"x")


# asyncio.


async def _many_aio(target: str, pictures: list[np.ndarray]) -> tuple[list[str], int]:
    drawn, ahead, labels = _Drawn(iter(pictures)), 0, []
    async with aio.connect(target) as classifier:
        async for prediction in classifier.classify_many(drawn):
            ahead = max(ahead, drawn.count - len(labels))
            labels.append(prediction.label)
    return labels, ahead


def test_aio_classifies_one_and_many(
    gateway: Any, digits: list[np.ndarray], picture: bytes
) -> None:
    """asyncio: one picture, 300 in order, and at most 16 and one drawn ahead."""

    async def one() -> Any:
        async with aio.connect(gateway.grpc_target) as classifier:
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
        async with aio.connect(gateway.grpc_target) as classifier:
            tasks = [classifier.classify(digit) for digit in digits[:60]]
            return [p.label for p in await asyncio.gather(*tasks)]

    with inkling.connect(gateway.grpc_target) as classifier:
        expected = [p.label for p in classifier.classify_many(digits[:60])]
    assert expected == asyncio.run(all_at_once())


def test_aio_cancellation_is_cancellation(silent: str) -> None:
    """A task that is cancelled ends as asyncio's own error, at once."""

    async def run() -> float:
        async with aio.connect(silent) as classifier:
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


@pytest.mark.parametrize("where", ["server", "file", "directory"])
def test_classify_prints_a_table(
    where: str, gateway: Any, published: Path, pictures: list[Path]
) -> None:
    """`inkling classify` prints a line per picture, wherever the model runs."""
    directory = _version_dir(published)
    place = {
        "server": ("--server", gateway.grpc_target),
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


@pytest.mark.parametrize("where", ["server", "device"])
def test_classify_prints_lines_of_json(
    where: str, gateway: Any, published: Path, pictures: list[Path]
) -> None:
    """`--json` is one object a line, with who answered."""
    place = ("--server", gateway.grpc_target)
    if where == "device":
        place = ("--on-device", str(_version_dir(published)))

    done = _inkling("classify", *pictures, *place, "--json", "--top-k", 3)

    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [str(path) for path in pictures] == [one["picture"] for one in found]
    assert list("012345") == [one["label"] for one in found]
    by = "gateway" if where == "server" else "device"
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
    assert complaint.startswith(f"inkling: {wrong}: ")
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
        pixels[2:26, 2:26] = 255
    elif kind == "two":
        pixels = np.zeros((28, 28), np.uint8)
        pixels[4:24, 6:9] = pixels[4:24, 18:21] = 255
    Image.fromarray(pixels).save(path)
    return path


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("blank", "No ink"),
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
