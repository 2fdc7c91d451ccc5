# SPDX-License-Identifier: Apache-2.0
"""One table of behaviour for every classifier: over gRPC, over HTTP and on the device."""

from __future__ import annotations

import asyncio
import io
import itertools
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import inkling
from inkling.errors import (
    DeadlineExceeded,
    InklingError,
    InvalidImage,
    InvalidRequest,
    ModelNotFound,
    NotReady,
    TooLarge,
    UnsupportedMediaType,
)
from inkling.gateway.connect import Fallback
from inkling.gateway.connection import Connection
from inkling.model.repository import Repository
from tests.support.digits import all_digits
from tests.support.gateway_process import Killable
from tests.support.machine import free_port, until, within

_GATEWAYS = ("gRPC", "HTTP")
_WAYS = (*_GATEWAYS, "device")
# The calls that each protocol has under way at once.
_WINDOWS = {"gRPC": 16, "HTTP": 8, "device": 1}

Encode = Callable[..., bytes]
Connect = Callable[..., Any]


def _version_dir(published: Path, model: str = "cnn") -> Path:
    return Repository(published).newest(model).path


@pytest.fixture(params=_WAYS)
def way(request: pytest.FixtureRequest) -> str:
    """Where the model runs, and by which protocol it is asked."""
    return str(request.param)


@pytest.fixture
def connect(way: str, gateway: Any, published: Path) -> Connect:
    """Connect to the CNN, or another model: `with connect(model="mlp") as classifier:`."""

    def connected(model: str = "cnn", **options: Any) -> Any:
        if way == "device":
            return inkling.connect(_version_dir(published, model), **options)
        target = gateway.url if way == "HTTP" else gateway.grpc_target
        return inkling.connect(target, model=model, **options)

    return connected


@pytest.fixture(params=_GATEWAYS)
def target(request: pytest.FixtureRequest, gateway: Any) -> str:
    """The address of the gateway, for each protocol."""
    found: str = gateway.url if request.param == "HTTP" else gateway.grpc_target
    return found


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


def _address(protocol: str, host_and_port: str) -> str:
    return f"http://{host_and_port}" if protocol == "HTTP" else host_and_port


# Answers.


def test_a_picture_is_classified(connect: Connect, way: str, picture: bytes) -> None:
    """One picture has its labels, likeliest first, and the answer says who gave it."""
    with connect() as classifier:
        prediction = classifier.classify(picture, top_k=3)
        expected = classifier.contract()

    assert prediction.label == "3"
    assert (prediction.top[0].index - prediction.index, len(prediction.top)) == (0, 3)
    assert 0.0 < prediction.probability <= 1.0
    by = "device" if way == "device" else "gateway"
    origin = prediction.origin
    assert (origin.model, origin.version, origin.answered_by) == ("cnn", 1, by)
    assert origin.contract == expected.hash


def test_http_and_grpc_answer_alike(gateway: Any, digits: list[np.ndarray]) -> None:
    """Over both protocols an answer is the same to the last bit."""
    found = []
    for target in (gateway.grpc_target, gateway.url):
        with inkling.connect(target, model="mlp") as classifier:
            found.append([classifier.classify(one, 10) for one in digits[:5]])

    assert found[0] == found[1]


def test_the_contract_is_the_published_one(connect: Connect, published: Path) -> None:
    """Each way says what the version that answers expects."""
    with connect("mlp") as classifier:
        assert Repository(published).newest("mlp").contract() == classifier.contract()


def test_the_contract_is_that_of_the_version(target: str, published: Path) -> None:
    """A version is asked for by number; one that does not exist is ModelNotFound."""
    expected = Repository(published).newest("mlp").contract()
    with inkling.connect(target, model="mlp", version=1) as classifier:
        assert expected == classifier.contract()
    for options in ({"version": 99}, {"version_label": "nobody"}):
        with (
            inkling.connect(target, model="mlp", **options) as classifier,
            pytest.raises(ModelNotFound),
        ):
            classifier.contract()


def test_a_version_label_is_asked_for(
    models_dir: Path, start_gateway: Callable[..., Any], picture: bytes
) -> None:
    """`version_label` finds the version that the label points to, over both protocols."""
    (models_dir / "mlp" / "labels.json").write_text('{"stable": 1}')
    with start_gateway(models_dir) as gateway:
        until(lambda: gateway.request("GET", "/v1/models/mlp").json["ready"])
        for target in (gateway.url, gateway.grpc_target):
            options = {"model": "mlp", "version_label": "stable"}
            with inkling.connect(target, **options) as classifier:
                assert 1 == classifier.classify(picture).origin.version
                assert "ink-3" == classifier.contract().finder


@pytest.mark.parametrize("form", ["file", "str of a file"])
def test_a_file_is_run_here(form: str, published: Path, picture: bytes) -> None:
    """A .tflite file answers by itself; it does not know its version."""
    file = _version_dir(published, "mlp") / "tflite" / "float32.tflite"
    with inkling.connect(file if form == "file" else str(file)) as classifier:
        prediction = classifier.classify(picture)

    origin = prediction.origin
    assert prediction.label == "3"
    assert (origin.model, origin.version, origin.answered_by) == ("mlp", None, "device")


# Addresses and options.


@pytest.mark.parametrize(
    ("target", "options", "words"),
    [
        (":8081", {}, "host:port"),
        ("localhost:", {}, "host:port"),
        ("localhost:http", {}, "host:port"),
        ("ftp://localhost:8081", {}, "host:port"),
        ("", {}, "host:port"),
        ("models/cnn/999", {}, "host:port"),
        ("missing.tflite", {}, "missing.tflite"),
        ("http://", {}, "http://localhost:8080"),
        ("http://localhost:http", {}, "http://localhost:8080"),
        ("http://localhost:99999", {}, "http://localhost:8080"),
        ("http://localhost:0", {}, "http://localhost:8080"),
        ("http://[::1", {}, "http://localhost:8080"),
        ("http://a..b", {}, "http://localhost:8080"),
        ("http://user:secret@localhost", {}, "api_key"),
        ("http://localhost/?key=secret", {}, "nothing else"),
        ("http://localhost/a b\n", {}, "nothing else"),
        ("http://localhost", {"tls": True}, "https://"),
        ("localhost:1", {"timeout_s": 0}, "timeout_s"),
        ("localhost:1", {"timeout_s": -1}, "timeout_s"),
        ("localhost:1", {"timeout_s": float("nan")}, "timeout_s"),
        ("localhost:1", {"timeout_s": float("inf")}, "timeout_s"),
        ("localhost:1", {"timeout_s": None}, "timeout_s is"),
        ("localhost:1", {"timeout": 3}, "timeout"),
        ("localhost:1", {"version": 1, "version_label": "stable"}, "version_label"),
        ("localhost:1", {"version": True}, "whole number"),
        ("localhost:1", {"version": 2**64}, "whole number"),
        ("localhost:1", {"version_label": "a/b"}, "version_label"),
        ("localhost:1", {"model": "../etc"}, "model name"),
        ("localhost:1", {"model": ""}, "model name"),
        ("localhost:1", {"api_key": ""}, "api_key"),
        ("localhost:1", {"api_key": "two words"}, "api_key"),
        ("localhost:1", {"api_key": "line\nbreak"}, "api_key"),
        ("localhost:1", {"root_certificates": "missing.pem"}, "root_certificates"),
        ("localhost:1", {"client_certificate": "missing.pem"}, "go together"),
        ("localhost:1", {"fallback": "missing.tflite"}, "missing.tflite"),
    ],
)
@pytest.mark.parametrize("protocol", ["gRPC", "HTTP", "asyncio"])
def test_what_cannot_be_connected_to_is_refused_at_once(
    target: str, options: dict[str, Any], words: str, protocol: str
) -> None:
    """Mistakes in target or options are named before any call, over each protocol."""
    if protocol == "asyncio" and (target.endswith(".tflite") or "fallback" in options):
        pytest.skip("asyncio asks gateways only")
    if protocol == "asyncio" and target.startswith("http"):
        target, words = "http://localhost:8080", "gRPC port"
    if protocol == "HTTP" and target == "localhost:1":
        target = "https://localhost"

    async def connected() -> None:
        await inkling.AioClassifier(target, **options).close()

    def connect() -> None:
        if protocol == "asyncio":
            asyncio.run(connected())
        else:
            inkling.connect(target, **options).close()

    with pytest.raises(InvalidRequest, match=re.escape(words)) as refused:
        connect()
    assert "secret" not in refused.value.message


def test_what_is_no_published_model_is_refused(published: Path, tmp_path: Path) -> None:
    """A directory that is no version, and a fallback for a device, are refused."""
    with pytest.raises(InklingError):
        inkling.connect(tmp_path)
    with pytest.raises(InvalidRequest, match="fallback"):
        inkling.connect(_version_dir(published), fallback=_version_dir(published))


def test_the_api_key_is_never_shown() -> None:
    """`repr` of a connection has all but the key, and so has a refusal of the key."""
    key = "a-secret-key-of-some-length"
    connection = Connection("localhost:8081", model="mlp", api_key=key)

    assert "mlp" in repr(connection)
    assert key not in f"{connection!r} {connection}"
    for broken in (f"{key}\n", f"{key}é"):
        with pytest.raises(InvalidRequest) as refused:
            Connection("localhost:8081", api_key=broken)
        assert key not in str(refused.value)


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


def test_pictures_in_every_form(
    connect: Connect, picture: bytes, tmp_path: Path
) -> None:
    """All the forms in which people have a picture get one answer."""
    with connect() as classifier:
        expected = classifier.classify(picture, 10)
        for form, make in _FORMS.items():
            shown = make(picture, tmp_path)
            assert expected == classifier.classify(shown, 10), form
            if hasattr(shown, "close"):
                shown.close()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_pillow_modes_can_be_sent(
    mode: str, connect: Connect, sample: np.ndarray
) -> None:
    """A Pillow picture of any mode that PNG holds is answered like its grey self."""
    grey = Image.fromarray(255 - np.kron(sample, np.ones((6, 6), np.uint8)))
    if mode == "I;16":
        shown = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    else:
        shown = grey.convert(mode)
    with connect() as classifier:
        assert classifier.classify(grey).label == classifier.classify(shown).label


# Refusals.


@pytest.mark.parametrize(
    ("picture", "kind"),
    [
        (b"", InvalidImage),
        (b"hello", InvalidImage),
        ("no/such/picture.png", InvalidImage),
        (b"II*\x00\x08\x00\x00\x00", UnsupportedMediaType),
        (b"\x89PNG\r\n\x1a\n" + bytes(8 * 1024 * 1024), TooLarge),
        (bytes(11 * 1024 * 1024), TooLarge),
    ],
)
def test_pictures_are_refused_alike(picture: Any, kind: type, connect: Connect) -> None:
    """A picture that cannot be answered is the same class everywhere, the body's too."""
    with connect() as classifier, pytest.raises(InklingError) as caught:
        classifier.classify(picture)

    assert kind is type(caught.value)


@pytest.mark.parametrize(
    "options",
    [{"model": "nobody"}, {"version": 99}, {"version": -1}, {"version_label": "none"}],
)
def test_unknown_models_are_refused_alike(
    options: dict[str, Any], target: str, picture: bytes
) -> None:
    """No such model, version or label is ModelNotFound over both protocols."""
    with inkling.connect(target, **options) as classifier:
        with pytest.raises(ModelNotFound):
            classifier.classify(picture)
        with pytest.raises(ModelNotFound):
            classifier.contract()


@pytest.mark.parametrize(
    ("top_k", "abstain"),
    [(0, False), (-1, False), (2**31, False), (2**70, False), (1.5, False), (1, "yes")],
)
def test_impossible_arguments_are_refused_alike(
    top_k: Any, abstain: Any, connect: Connect, picture: bytes
) -> None:
    """top_k below 1 or beyond reason, and an abstain that is no bool."""
    with connect() as classifier:
        with pytest.raises(InvalidRequest, match="top_k|abstain"):
            classifier.classify(picture, top_k, abstain=abstain)
        [outcome] = classifier.outcomes([picture], top_k, abstain=abstain)

    assert InvalidRequest is type(outcome)


def test_abstaining_is_asked_for(connect: Connect) -> None:
    """Blank paper has a reason instead of a label."""
    blank = np.full((90, 120), 255, np.uint8)
    with connect() as classifier:
        prediction = classifier.classify(blank, abstain=True)

    assert (None, "empty") == (prediction.label, prediction.abstained)


# Many pictures.


def test_many_pictures_keep_their_order(
    connect: Connect, published: Path, digits: list[np.ndarray]
) -> None:
    """300 pictures, 300 answers in order, the same ones as one at a time on the device."""
    with inkling.connect(_version_dir(published)) as device:
        expected = [device.classify(digit).label for digit in digits]
    with connect() as classifier:
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


def test_the_window_is_bounded(connect: Connect, way: str, picture: bytes) -> None:
    """Only a few pictures are drawn ahead of the answers; none at first."""
    drawn = _Drawn(itertools.repeat(picture))
    ahead = []
    with connect() as classifier:
        answers = classifier.classify_many(drawn)
        assert drawn.count == 0
        for done, _ in enumerate(itertools.islice(answers, 100)):
            ahead.append(drawn.count - done)
        answers.close()
        # What was given up is not taken for the answer to another picture.
        assert "3" == classifier.classify(picture).label

    assert _WINDOWS[way] == max(ahead)


def test_nothing_is_nothing(connect: Connect) -> None:
    """No pictures are no answers."""
    with connect() as classifier:
        assert list(classifier.classify_many([])) == []
        assert list(classifier.outcomes([])) == []


@pytest.mark.parametrize("bad", [b"hello", "no/such/picture.png"])
def test_what_came_before_a_bad_picture_is_yielded(
    bad: Any, connect: Connect, picture: bytes
) -> None:
    """A bad picture raises in its place; the answers before it are not lost."""
    found = []
    with connect() as classifier:
        answers = classifier.classify_many([picture] * 5 + [bad, picture])
        with pytest.raises(InvalidImage):
            found.extend(prediction.label for prediction in answers)
        outcomes = list(classifier.outcomes([picture] * 5 + [bad, picture]))

    assert found == ["3"] * 5
    assert [InvalidImage] == [type(o) for o in outcomes if isinstance(o, InklingError)]
    assert isinstance(outcomes[5], InvalidImage)
    assert "3" == outcomes[6].label


@pytest.mark.parametrize("kind", ["path", "image", "bytes", "missing"])
def test_the_bad_picture_of_a_batch_is_named(
    kind: str, connect: Connect, picture: bytes, tmp_path: Path
) -> None:
    """The error of a batch says which picture it is about: its place and its name."""
    path = tmp_path / "seven.png"
    path.write_bytes(picture[:40])
    bad: Any = {
        "path": path,
        "bytes": picture[:40],
        "missing": tmp_path / "no.png",
    }.get(kind)
    if kind == "image":
        Image.new("HSV", (9, 9)).convert("RGB").save(path)
        bad = Image.open(path).convert("F")
        bad.filename = str(path)
    with connect() as classifier:
        with pytest.raises(InvalidImage) as caught:
            list(classifier.classify_many([picture, picture, bad, picture]))
        with pytest.raises(InvalidImage) as alone:
            classifier.classify(bad)

    shown = {"path": f" ({path}): ", "image": f" ({path}): "}.get(kind, ": ")
    assert caught.value.message == f"Picture 3{shown}{alone.value.message}"
    assert (2, None) == (caught.value.index, alone.value.index)


# One classifier in many places.


def test_threads_share_one_classifier(
    connect: Connect, digits: list[np.ndarray]
) -> None:
    """Eight threads share one classifier; every answer is its own picture's."""
    with connect() as classifier:
        expected = [p.label for p in classifier.classify_many(digits[:80])]
        with ThreadPoolExecutor(8) as pool:
            found = list(
                pool.map(lambda i: classifier.classify(digits[i % 80]), range(320))
            )

    assert [expected[i % 80] for i in range(320)] == [p.label for p in found]


def test_it_may_be_closed_twice_and_used_again(
    connect: Connect, picture: bytes
) -> None:
    """Closing again does nothing; a later call connects again."""
    classifier = connect()
    classifier.close()
    classifier.close()
    assert classifier.classify(picture).label == "3"
    classifier.close()
    assert classifier.classify(picture).label == "3"
    classifier.close()


@pytest.mark.parametrize("protocol", _GATEWAYS)
@pytest.mark.parametrize("many", [False, True])
def test_closing_ends_what_is_under_way(many: bool, protocol: str, silent: str) -> None:
    """A thread that waits for an answer gets NotReady when another closes."""
    classifier = inkling.connect(_address(protocol, silent), timeout_s=30)
    timer = threading.Timer(0.3, classifier.close)
    timer.start()
    answers = (
        classifier.classify_many([b"x"] * 3)
        if many
        else map(classifier.classify, [b"x"])
    )
    with pytest.raises(NotReady, match="closed"):
        next(iter(answers))
    timer.join()


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


def test_parent_and_child_both_use_it_after_a_fork(
    target: str, picture: bytes, tmp_path: Path
) -> None:
    """Three children and their parent all get answers from one classifier."""
    path = _as_path(picture, tmp_path)
    command = [sys.executable, "-W", "error", "-c", _FORKS, target, str(path)]

    done = subprocess.run(command, capture_output=True, text=True, timeout=150)

    assert (done.stdout, done.returncode) == ("3 {'3'} [0, 0, 0]\n", 0), done.stderr


# Falling back.


def _who(classifier: Any, picture: bytes) -> str:
    found: str = classifier.classify(picture).origin.answered_by
    return found


@pytest.mark.parametrize("protocol", _GATEWAYS)
def test_the_device_answers_while_the_server_is_away(
    protocol: str,
    killable: Callable[..., Killable],
    published: Path,
    picture: bytes,
) -> None:
    """With a fallback every picture is answered, and the answer says by whom."""
    gateway = killable().start().wait_ready()
    port = gateway.port if protocol == "HTTP" else gateway.grpc_port
    fallback = _version_dir(published) / "tflite" / "float32.tflite"
    target = _address(protocol, f"127.0.0.1:{port}")
    with inkling.connect(target, fallback=fallback) as classifier:
        assert isinstance(classifier, Fallback)
        first = classifier.classify(picture)
        gateway.end()
        second = classifier.classify(picture)
        many = list(classifier.classify_many([picture] * 5))
        contract = classifier.contract()
        gateway.start().wait_ready()
        took = until(lambda: _who(classifier, picture) == "gateway")

    assert (first.origin.answered_by, first.label) == ("gateway", "3")
    assert (second.origin.answered_by, second.label) == ("device", "3")
    assert [p.origin.answered_by for p in many] == ["device"] * 5
    assert first.origin.contract == contract.hash
    within(took, 5)


@pytest.mark.parametrize("protocol", _GATEWAYS)
def test_the_device_answers_when_the_server_never_does(
    protocol: str, silent: str, published: Path, picture: bytes
) -> None:
    """A server that cannot be reached because packets vanish is away as well."""
    target = _address(protocol, silent)
    fallback = _version_dir(published)
    with inkling.connect(target, fallback=fallback, timeout_s=0.3) as classifier:
        assert _who(classifier, picture) == "device"


def test_the_device_does_not_answer_for_a_refusal(target: str, published: Path) -> None:
    """What the gateway refuses is refused, not asked of the device."""
    fallback = _version_dir(published)
    with (
        inkling.connect(target, model="nobody", fallback=fallback) as classifier,
        pytest.raises(ModelNotFound),
    ):
        classifier.classify(b"x")


# Time.


@pytest.mark.parametrize("protocol", _GATEWAYS)
def test_a_silent_server_ends_with_the_deadline(protocol: str, silent: str) -> None:
    """An address that accepts and says nothing ends near the deadline."""
    with inkling.connect(_address(protocol, silent), timeout_s=0.4) as classifier:
        took = _seconds(lambda: classifier.classify(b"x"), DeadlineExceeded)

    assert 0.35 <= took
    within(took, 1.0)


@pytest.mark.parametrize("protocol", _GATEWAYS)
def test_a_server_that_is_gone_is_refused_quickly(
    protocol: str, picture: bytes
) -> None:
    """Nobody on the port is NotReady within the retries' back-off, then at once."""
    target = _address(protocol, f"127.0.0.1:{free_port()}")
    with inkling.connect(target) as classifier:
        times = [
            _seconds(lambda: classifier.classify(picture), NotReady) for _ in range(20)
        ]
        with pytest.raises(NotReady) as refused:
            classifier.contract()

    print(f"{protocol}: refused first {times[0]:.3f} s, last {times[-1]:.3f} s")
    assert target in refused.value.message
    assert "inkling serve" in refused.value.message
    within(max(times), 1.5)
    within(times[-1], 0.1)


def _seconds(call: Callable[[], Any], kind: type[InklingError]) -> float:
    """Return how long a call takes that has to raise an error of this class."""
    started = time.monotonic()
    with pytest.raises(InklingError) as caught:
        call()
    took = time.monotonic() - started
    assert kind is type(caught.value)
    return took
