# SPDX-License-Identifier: Apache-2.0
"""gRPC on a live port: every method, every way to misuse it, health, and the end."""

from __future__ import annotations

import io
import json
import queue
import random
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from PIL import Image

from inkling.contract import Contract
from inkling.image.budget import DEFAULT_LIMITS
from inkling.model.repository import Repository
from inkling.v1 import classifier_pb2 as pb
from inkling.v1.classifier_pb2_grpc import ClassifierStub
from inkling_serving.engines.base import ModelStatus, State, VersionStatus
from inkling_serving.grpc_api.server import GrpcServer
from inkling_serving.keys import ApiKeys
from inkling_serving.runtime.held_bytes import HeldBytes
from inkling_serving.runtime.listeners import reserved
from inkling_serving.runtime.metrics import Metrics
from inkling_serving.runtime.thread_pool import ThreadPool
from inkling_serving.service import Service
from inkling_serving.settings import Settings
from tests.support.gateway_process import Killable
from tests.support.machine import memory_bytes, until, within
from tests.support.official_server import OfficialServer

_CODE = "inkling-error-code"
_CLASSIFY = "/inkling.v1.Classifier/Classify"
_INVALID = grpc.StatusCode.INVALID_ARGUMENT
_NOT_FOUND = grpc.StatusCode.NOT_FOUND
_EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED
_UNAVAILABLE = grpc.StatusCode.UNAVAILABLE
_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING

Encode = Callable[..., bytes]
Stub = Any


@contextmanager
def _channel(target: str, **options: Any) -> Iterator[grpc.Channel]:
    pairs = [(name.replace("__", "."), value) for name, value in options.items()]
    with grpc.insecure_channel(target, pairs) as channel:
        yield channel


@pytest.fixture(scope="module")
def channel(gateway: Any) -> Iterator[grpc.Channel]:
    """A channel to the gateway over the trained models."""
    with _channel(gateway.grpc_target, grpc__max_send_message_length=-1) as made:
        yield made


@pytest.fixture(scope="module")
def stub(channel: grpc.Channel) -> Stub:
    """The generated client."""
    return ClassifierStub(channel)  # type: ignore[no-untyped-call]


def _request(*images: bytes, model: str = "mlp", **fields: Any) -> pb.ClassifyRequest:
    return pb.ClassifyRequest(model=model, images=images, **fields)


def _refused(call: Callable[[], Any]) -> grpc.RpcError:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return caught.value


def _code(error: Any) -> str | None:
    found: dict[str, str] = dict(error.trailing_metadata() or ())
    return found.get(_CODE)


# Classify.


def test_one_picture(stub: Stub, picture: bytes, published: Path) -> None:
    """One picture, one result; top_k is 1 where none is given."""
    answer = stub.Classify(_request(picture), timeout=5)

    contract = Repository(published).newest("mlp").contract()
    assert ("mlp", 1, contract.hash) == (answer.model, answer.version, answer.contract)
    [result] = answer.results
    [score] = result.top
    assert ("3", 3) == (score.label, score.index)
    assert 0.0 < score.probability <= 1.0


def test_many_pictures(stub: Stub, sample: np.ndarray, encode: Encode) -> None:
    """32 pictures are answered in order, and like each alone."""
    images = [encode(np.roll(sample, shift, axis=1)) for shift in range(-16, 16)]
    alone = [stub.Classify(_request(image, top_k=10)).results[0] for image in images]

    together = stub.Classify(_request(*images, top_k=10)).results

    assert 32 == len(together)
    for one, other in zip(alone, together, strict=True):
        scores = [
            {s.label: s.probability for s in result.top} for result in (one, other)
        ]
        assert scores[0] == pytest.approx(scores[1], abs=1e-5)


@pytest.mark.parametrize(
    ("top_k", "found"), [(0, 1), (1, 1), (3, 3), (10, 10), (99, 10)]
)
def test_top_k(top_k: int, found: int, stub: Stub, picture: bytes) -> None:
    """As many labels as asked for, likeliest first, no more than there are."""
    [result] = stub.Classify(_request(picture, top_k=top_k)).results

    scores = [score.probability for score in result.top]
    assert found == len(scores)
    assert sorted(scores, reverse=True) == scores
    assert len({score.label for score in result.top}) == found


@pytest.fixture
def labelled(killable: Callable[..., Killable], models_dir: Path) -> Iterator[Stub]:
    """A gateway over two versions of the MLP, with labels."""
    import shutil

    shutil.copytree(models_dir / "mlp" / "1", models_dir / "mlp" / "2")
    labels = {"stable": 1, "canary": 2, "gone": 9}
    (models_dir / "mlp" / "labels.json").write_text(json.dumps(labels))
    process = killable(models_dir=models_dir).start().wait_ready()
    with _channel(process.target) as channel:
        yield ClassifierStub(channel)  # type: ignore[no-untyped-call]


def test_versions_and_labels(labelled: Stub, picture: bytes) -> None:
    """A version or a label decides which version answers; `stable` does otherwise."""
    asked: list[tuple[dict[str, Any], int]] = [
        ({}, 1),
        ({"version": 1}, 1),
        ({"version": 2}, 2),
        ({"version_label": "stable"}, 1),
        ({"version_label": "canary"}, 2),
    ]
    for fields, expected in asked:
        assert expected == labelled.Classify(_request(picture, **fields)).version
    for fields in ({"version": 3}, {"version": 0}, {"version_label": "gone"}):
        error = _refused(lambda f=fields: labelled.Classify(_request(picture, **f)))
        assert (_NOT_FOUND, "model_not_found") == (error.code(), _code(error))
    model = labelled.GetModel(pb.GetModelRequest(model="mlp"))
    assert [(2, ["canary"]), (1, ["stable"])] == [
        (v.version, list(v.version_labels)) for v in model.versions
    ]


# Models.


def test_models_are_listed(stub: Stub, published: Path) -> None:
    """ListModels has every model with its versions; GetModel the same of one."""
    models = stub.ListModels(pb.ListModelsRequest()).models

    assert [("cnn", True), ("mlp", True)] == [(m.name, m.ready) for m in models]
    assert models[1] == stub.GetModel(pb.GetModelRequest(model="mlp"))
    files = Repository(published).newest("mlp")
    [version] = models[1].versions
    assert (1, "AVAILABLE", "") == (version.version, version.state, version.reason)
    assert files.contract() == Contract.from_json(version.contract_json)
    assert files.accuracy("float32") == version.accuracy


def test_broken_versions_say_why(
    killable: Callable[..., Killable], models_dir: Path
) -> None:
    """A version that is not served is FAILED, with the reason and no contract."""
    (models_dir / "mlp" / "1" / "tflite" / "float32.tflite").write_bytes(b"x")
    process = killable(models_dir=models_dir).start().wait_ready()
    with _channel(process.target) as channel:
        model = ClassifierStub(channel).GetModel(  # type: ignore[no-untyped-call]
            pb.GetModelRequest(model="mlp")
        )
        error = _refused(
            lambda: ClassifierStub(channel).Classify(_request(b"x"))  # type: ignore[no-untyped-call]
        )
        health = health_pb2_grpc.HealthStub(channel)
        found = health.Check(health_pb2.HealthCheckRequest(service="mlp")).status

    [version] = model.versions
    assert (False, "FAILED", "", False) == (
        model.ready,
        version.state,
        version.contract_json,
        version.HasField("accuracy"),
    )
    assert "float32.tflite" in version.reason
    assert (_UNAVAILABLE, "not_ready") == (error.code(), _code(error))
    assert _NOT_SERVING == found


# Refusals.

_PNG_START = b"\x89PNG\r\n\x1a\n"
_REFUSALS: dict[str, tuple[dict[str, Any], grpc.StatusCode, str]] = {
    "no image": ({"images": []}, _INVALID, "invalid_request"),
    "empty image": ({"images": [b""]}, _INVALID, "invalid_image"),
    "text": ({"images": [b"hello"]}, _INVALID, "invalid_image"),
    "cut PNG": ({"images": [_PNG_START]}, _INVALID, "invalid_image"),
    "TIFF": ({"images": [b"II*\x00\x01"]}, _INVALID, "unsupported_media_type"),
    "one bad of two": ({"images": [None, b"hello"]}, _INVALID, "invalid_image"),
    "33 images": ({"images": [None] * 33}, _INVALID, "too_large"),
    "9 MiB": ({"images": [bytes(9 << 20)]}, _INVALID, "too_large"),
    "no model": ({"model": ""}, _INVALID, "invalid_request"),
    "traversal": ({"model": "../../etc"}, _INVALID, "invalid_request"),
    "NUL": ({"model": "a\0b"}, _INVALID, "invalid_request"),
    "emoji": ({"model": "\U0001f600" * 3000}, _INVALID, "invalid_request"),
    "10 kB": ({"model": "x" * 10_000}, _INVALID, "invalid_request"),
    "unknown model": ({"model": "nobody"}, _NOT_FOUND, "model_not_found"),
    "version 0": ({"version": 0}, _NOT_FOUND, "model_not_found"),
    "version -1": ({"version": -1}, _NOT_FOUND, "model_not_found"),
    "huge version": ({"version": 2**63 - 1}, _NOT_FOUND, "model_not_found"),
    "no label": ({"version_label": ""}, _NOT_FOUND, "model_not_found"),
    "unknown label": ({"version_label": "x"}, _NOT_FOUND, "model_not_found"),
    "odd label": ({"version_label": "é\n\0" * 900}, _NOT_FOUND, "model_not_found"),
    "top_k -1": ({"top_k": -1}, _INVALID, "invalid_request"),
}


def _built(fields: dict[str, Any], picture: bytes) -> pb.ClassifyRequest:
    values = {"model": "mlp", "images": [None], **fields}
    values["images"] = [picture if i is None else i for i in values["images"]]
    return pb.ClassifyRequest(**values)


@pytest.mark.parametrize("case", _REFUSALS)
def test_refusals(case: str, stub: Stub, picture: bytes) -> None:
    """Every refusal has its status and code word, alone and inside a stream."""
    fields, status, code = _REFUSALS[case]
    request = _built(fields, picture)

    error = _refused(lambda: stub.Classify(request, timeout=10))
    wrapped = pb.ClassifyStreamRequest(id="7", request=request)
    [inside] = stub.ClassifyStream(iter([wrapped]), timeout=10)

    assert (status, code) == (error.code(), _code(error))
    assert ("7", code) == (inside.id, inside.error.code)
    for words in (error.details(), inside.error.message):
        assert words.strip()
        assert len(words) < 1100
        for leak in ("Traceback", "0x", "/work", "Error(", "self."):
            assert leak not in words


def test_overload_says_when_to_come_back(
    killable: Callable[..., Killable], official: OfficialServer, picture: bytes
) -> None:
    """What cannot wait is UNAVAILABLE `overloaded` at once, with a push-back."""
    front = _before(killable, official, "--threads", "1", "--queue", "0")
    official.delay_s = 1.0
    with _channel(front.target, grpc__enable_retries=0) as channel:
        stub = ClassifierStub(channel)  # type: ignore[no-untyped-call]
        first = stub.Classify.future(_request(picture), timeout=5)
        until(lambda: official.under_way == 1)
        started = time.monotonic()
        error = _refused(lambda: stub.Classify(_request(picture), timeout=5))
        took = time.monotonic() - started

        assert "3" == first.result().results[0].top[0].label
    found = dict(error.trailing_metadata())
    assert (_UNAVAILABLE, "overloaded") == (error.code(), found[_CODE])
    assert int(found["grpc-retry-pushback-ms"]) > 0
    within(took, 0.5)  # had it waited for its turn: 1 s


# The transport: G1 to G13.


def _raw(channel: grpc.Channel, method: str, body: bytes, **options: Any) -> bytes:
    answer: bytes = channel.unary_unary(method)(body, timeout=10, **options)
    return answer


@pytest.mark.parametrize(
    ("method", "body"),
    [
        ("Classify", b"\xff"),
        ("Classify", b"\x0a\xff"),
        ("Classify", b"\x22\x05abc"),
        ("Classify", b"\x0a\x02\xff\xfe"),
        ("Classify", bytes(50)),
        ("GetModel", b"\x0a\xff"),
        ("GetModel", b"\x0a\x02\xff\xfe"),
        ("ListModels", b"\xff"),
    ],
)
def test_malformed_messages(method: str, body: bytes, channel: grpc.Channel) -> None:
    """G1: bytes that are no message are the caller's mistake."""
    error = _refused(lambda: _raw(channel, f"/inkling.v1.Classifier/{method}", body))

    assert (_INVALID, "invalid_request") == (error.code(), _code(error))


def test_malformed_messages_inside_a_stream(
    channel: grpc.Channel, picture: bytes
) -> None:
    """A malformed message ends its stream as the caller's mistake, after the answers."""
    good = pb.ClassifyStreamRequest(id="good", request=_request(picture))
    bodies = [good.SerializeToString(), b"\x0a\x02\xff\xfe", good.SerializeToString()]
    call = channel.stream_stream("/inkling.v1.Classifier/ClassifyStream")

    answers = call(iter(bodies), timeout=9)
    first = pb.ClassifyStreamResponse.FromString(next(answers))
    error = _refused(lambda: next(answers))

    assert "good" == first.id
    assert (_INVALID, "invalid_request") == (error.code(), _code(error))


def test_unknown_fields_and_wrong_types(channel: grpc.Channel, picture: bytes) -> None:
    """G2: unknown fields are passed over; a field of a wrong type counts as missing."""
    good = _request(picture).SerializeToString()
    unknown = good + b"\xfa\x3f\x03abc"
    wrong = b"\x08\x01" + b"\x20\x01"

    assert pb.ClassifyResponse.FromString(_raw(channel, _CLASSIFY, unknown)).results
    error = _refused(lambda: _raw(channel, _CLASSIFY, wrong))
    assert (_INVALID, "invalid_request") == (error.code(), _code(error))


class _Faulty:
    """An engine whose every prediction fails as nobody foresaw."""

    model, version, quick = "mlp", 1, True

    def __init__(self, contract: Contract) -> None:
        self.contract = contract

    def select(self, *_: Any) -> _Faulty:
        return self

    def predict(self, inputs: np.ndarray, _: float | None = None) -> np.ndarray:
        if inputs.max() > 0:
            raise RuntimeError("secret words in /etc/passwd at 0x7f00")
        return np.full((len(inputs), 10), 0.1, np.float32)

    def status(self) -> list[ModelStatus]:
        version = VersionStatus(1, State.AVAILABLE, contract=self.contract)
        return [ModelStatus("mlp", (version,))]


@pytest.fixture
def faulty(digit_contract: Contract) -> Iterator[Stub]:
    """A gRPC server in this process with that engine."""
    holder = reserved("127.0.0.1", 0, "--grpc-port")
    port = holder.getsockname()[1]
    service = Service(_Faulty(digit_contract), DEFAULT_LIMITS, 32)  # type: ignore[arg-type]
    pool = ThreadPool(2, 10)
    held, keys = HeldBytes(2**24), ApiKeys("")
    server = GrpcServer(service, pool, Metrics(), held, Settings(), keys)
    server.start("127.0.0.1", port)
    with _channel(f"127.0.0.1:{port}") as channel:
        yield ClassifierStub(channel)  # type: ignore[no-untyped-call]
    assert server.end().wait(20)
    server.close()
    pool.close()
    holder.close()


def test_what_was_not_foreseen_does_not_leave(faulty: Stub, picture: bytes) -> None:
    """G3: an exception in a handler is INTERNAL with a fixed text."""
    error = _refused(lambda: faulty.Classify(_request(picture), timeout=5))

    assert (grpc.StatusCode.INTERNAL, "internal") == (error.code(), _code(error))
    assert "secret" not in error.details()
    assert "RuntimeError" not in error.details()


def test_what_was_not_foreseen_does_not_end_a_stream(
    faulty: Stub, picture: bytes, encode: Encode
) -> None:
    """G3: in a stream it is an error for its request, and the others are answered."""
    blank = encode(np.zeros((28, 28), np.uint8))
    requests = [
        pb.ClassifyStreamRequest(id=str(n), request=_request(image))
        for n, image in enumerate([blank, picture, blank])
    ]

    answers = {a.id: a for a in faulty.ClassifyStream(iter(requests), timeout=5)}

    assert {"0", "1", "2"} == set(answers)
    assert "internal" == answers["1"].error.code
    assert "secret" not in answers["1"].error.message
    assert answers["2"].response.results


def test_messages_may_be_as_long_as_bodies(
    killable: Callable[..., Killable], published: Path
) -> None:
    """G4: a message of max_body_bytes is read, one more byte is RESOURCE_EXHAUSTED."""
    limit = 100_000
    process = killable("--max-body-bytes", str(limit)).start().wait_ready()
    with _channel(process.target) as channel:
        whole = _request(bytes(limit)).SerializeToString()
        fits = _request(bytes(2 * limit - len(whole))).SerializeToString()
        assert limit == len(fits)
        read = _refused(lambda: _raw(channel, _CLASSIFY, fits))
        over = _refused(lambda: _raw(channel, _CLASSIFY, fits + b"\x28\x00"[:2]))
    over_http = process.request("POST", "/v1/models/mlp:classify", bytes(limit))
    too_long = process.request("POST", "/v1/models/mlp:classify", bytes(limit + 1))

    assert (_INVALID, "invalid_image") == (read.code(), _code(read))
    assert _EXHAUSTED == over.code()
    assert (400, 413) == (over_http[0], too_long[0])


def test_compressed_bombs_are_refused(gateway: Any, channel: grpc.Channel) -> None:
    """G5: 128 MiB of zeros in 128 kB are RESOURCE_EXHAUSTED and cost no memory."""
    before = memory_bytes(gateway.process.pid) / 2**20
    body = _request(bytes(128 << 20)).SerializeToString()

    error = _refused(
        lambda: _raw(channel, _CLASSIFY, body, compression=grpc.Compression.Gzip)
    )

    assert _EXHAUSTED == error.code()
    assert memory_bytes(gateway.process.pid) / 2**20 - before < 64


@pytest.mark.parametrize(
    "method",
    [
        "/inkling.v1.Classifier/Nothing",
        "/inkling.v2.Classifier/Classify",
        "/x/y",
        "/tensorflow.serving.PredictionService/Classify",
        "/tensorflow.serving.PredictionService/Regress",
        "/tensorflow.serving.ModelService/HandleReloadConfigRequest",
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    ],
)
def test_unknown_methods(method: str, channel: grpc.Channel) -> None:
    """G9: what is not there is UNIMPLEMENTED; reflection is not there unless asked for."""
    error = _refused(lambda: _raw(channel, method, b""))

    assert grpc.StatusCode.UNIMPLEMENTED == error.code()


@pytest.mark.parametrize(
    ("metadata", "statuses"),
    [
        ([("x", "y" * 4_000)], {grpc.StatusCode.OK}),
        ([("x", "y" * 100_000)], {_EXHAUSTED}),
        ([(f"x{n}", "y" * 50) for n in range(1000)], {_EXHAUSTED}),
        ([("authorization", "Bearer x")], {grpc.StatusCode.OK}),
        ([("x-bin", b"\x00\xff" * 100)], {grpc.StatusCode.OK}),
    ],
    ids=["4 kB", "100 kB", "1,000 keys", "a key", "binary"],
)
def test_metadata(
    metadata: list[tuple[str, Any]],
    statuses: set[grpc.StatusCode],
    stub: Stub,
    picture: bytes,
) -> None:
    """G10: metadata within reason is passed over, and beyond it refused."""
    try:
        stub.Classify(_request(picture), metadata=metadata, timeout=5)
        found = grpc.StatusCode.OK
    except grpc.RpcError as error:
        found = error.code()

    assert found in statuses


_GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def _garbage(number: int) -> bytes:
    chance = random.Random(number)
    noise = chance.randbytes(chance.randint(1, 400))
    kinds = [
        noise,
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + noise,
        _GREETING + noise,
        _GREETING + bytes(9) + noise,
        # An empty SETTINGS, then RST_STREAM frames of streams that never were.
        _GREETING + b"\0\0\0\4\0\0\0\0\0" + b"\0\0\4\3\0\0\0\0\1\0\0\0\0" * 200,
        _GREETING + b"\0\0\0\4\0\0\0\0\0" + b"\xff\xff\xff\1\5\0\0\0\1" + noise,
        # PING frames.
        _GREETING + b"\0\0\0\4\0\0\0\0\0" + (b"\0\0\x08\6\0\0\0\0\0" + bytes(8)) * 50,
    ]
    return kinds[number % len(kinds)]


def test_garbage_bytes_do_no_harm(gateway: Any, stub: Stub, picture: bytes) -> None:
    """G13: 300 connections of garbage; the server lives, answers and keeps its size."""
    address = ("127.0.0.1", gateway.grpc_port)
    before, files = (
        memory_bytes(gateway.process.pid) / 2**20,
        _files(gateway.process.pid),
    )
    for number in range(300):
        with (
            socket.create_connection(address, timeout=5) as connection,
            suppress(OSError),
        ):
            connection.sendall(_garbage(number))
            connection.shutdown(socket.SHUT_WR)
            if number % 10 == 0:
                connection.settimeout(0.2)
                connection.recv(4096)
        if number % 50 == 0:
            assert stub.Classify(_request(picture), timeout=5).results

    assert stub.Classify(_request(picture), timeout=5).results
    assert memory_bytes(gateway.process.pid) / 2**20 - before < 32
    within(until(lambda: _files(gateway.process.pid) <= files + 3), 15)


def _files(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def test_fuzzed_messages(channel: grpc.Channel, picture: bytes) -> None:
    """F3: 500 mutated messages are answered or the caller's mistake; none is ours."""
    whole = _request(picture, top_k=3, version=1).SerializeToString()
    found = set()
    for number in range(500):
        chance = random.Random(number)
        body = bytearray(whole)
        for _ in range(chance.randint(1, 8)):
            place = chance.randrange(min(len(body), chance.choice([12, 400])))
            body[place] = chance.randrange(256)
        if number % 5 == 0:
            del body[chance.randint(1, len(body)) :]
        try:
            _raw(channel, _CLASSIFY, bytes(body))
        except grpc.RpcError as error:
            found.add((error.code(), _code(error) is not None))

    assert {(_INVALID, True), (_NOT_FOUND, True)} >= found


# Deadlines and cancellation.


def _before(
    make: Callable[..., Killable], engine: OfficialServer, *flags: str
) -> Killable:
    """Start a gateway whose engine is in this process, and can be made slow."""
    words = ("--engine", "tensorflow_serving", "--tensorflow-serving", engine.address)
    return make(*words, *flags).start().wait_ready()


def test_deadlines_end_calls(
    killable: Callable[..., Killable], official: OfficialServer, picture: bytes
) -> None:
    """G6, G7: the deadline ends a call in time; one that expired waiting never runs."""
    front = _before(killable, official, "--threads", "1")
    official.delay_s = 2.0
    with _channel(front.target) as channel:
        stub = ClassifierStub(channel)  # type: ignore[no-untyped-call]
        first = stub.Classify.future(_request(picture), timeout=20)
        until(lambda: len(official.seen) == 1)
        started = time.monotonic()
        waiting = [
            stub.Classify.future(_request(picture), timeout=0.25) for _ in range(4)
        ]
        statuses = {call.exception().code() for call in waiting}
        took = time.monotonic() - started
        assert first.result().results
        time.sleep(0.4)  # what would run after all would have begun by now
        assert 1 == len(official.seen)
        official.delay_s = 0
        assert stub.Classify(_request(picture), timeout=20).results

    assert {grpc.StatusCode.DEADLINE_EXCEEDED} == statuses
    assert took >= 0.2
    assert "Traceback" not in front.log.read_text()
    within(took, 0.6)  # had they waited for their turn: 2 s


@pytest.mark.parametrize("when", ["before", "queue", "engine"])
def test_cancellation_frees_the_slot(
    when: str,
    killable: Callable[..., Killable],
    official: OfficialServer,
    picture: bytes,
) -> None:
    """G8: calls that were cancelled, whenever that was, leave all places free."""
    front = _before(killable, official, "--threads", "1", "--queue", "1")
    official.delay_s = 0.6
    with _channel(front.target, grpc__enable_retries=0) as channel:
        stub = ClassifierStub(channel)  # type: ignore[no-untyped-call]
        for _ in range(5):
            calls = [stub.Classify.future(_request(picture), timeout=5)]
            if when != "before":
                until(lambda c=calls[0]: official.under_way == 1 or c.done())
                assert not calls[0].done(), calls[0].exception()
            if when == "queue":
                calls.append(stub.Classify.future(_request(picture), timeout=5))
                time.sleep(0.02)  # until it waits
            for call in reversed(calls):
                call.cancel()
            assert all(call.cancelled() for call in calls)
            if when != "before":
                within(until(lambda: official.under_way == 0), 3)
        # What had begun at the engine ends there, and only then leaves its place.
        time.sleep(2 * official.delay_s)
        within(until(lambda: official.under_way == 0), 3)
        official.delay_s = 0.1
        both = [stub.Classify.future(_request(picture), timeout=5) for _ in range(2)]
        assert all(call.result().results for call in both)
    assert "Traceback" not in front.log.read_text()
    assert "never retrieved" not in front.log.read_text()


def test_cancelled_work_is_not_done(
    killable: Callable[..., Killable], official: OfficialServer, picture: bytes
) -> None:
    """G8: what was cancelled in the queue never reaches the engine."""
    front = _before(killable, official, "--threads", "1")
    official.delay_s = 2.0
    with _channel(front.target) as channel:
        stub = ClassifierStub(channel)  # type: ignore[no-untyped-call]
        first = stub.Classify.future(_request(picture), timeout=20)
        until(lambda: official.under_way == 1)
        waiting = [stub.Classify.future(_request(picture), timeout=5) for _ in range(8)]
        time.sleep(0.1)
        for call in waiting:
            call.cancel()
        assert first.result().results
        time.sleep(0.3)

    assert 1 == len(official.seen)


# Streams.


def _streamed(stub: Stub, *requests: pb.ClassifyStreamRequest) -> list[Any]:
    return list(stub.ClassifyStream(iter(requests), timeout=60))


def _numbered(*images: bytes) -> list[pb.ClassifyStreamRequest]:
    return [
        pb.ClassifyStreamRequest(id=f"n{n}", request=_request(image))
        for n, image in enumerate(images)
    ]


def test_stream_of_500(stub: Stub, sample: np.ndarray, encode: Encode) -> None:
    """500 requests, 500 answers, each with its id and the label that is its own."""
    shifted = [encode(np.roll(sample, shift, axis=1)) for shift in range(-6, 7)]
    expected = [stub.Classify(_request(i)).results[0].top[0].label for i in shifted]
    requests = _numbered(*[shifted[n % 13] for n in range(500)])

    found = {
        a.id: a.response.results[0].top[0].label for a in _streamed(stub, *requests)
    }

    assert {f"n{n}": expected[n % 13] for n in range(500)} == found


def test_errors_do_not_end_a_stream(stub: Stub, picture: bytes) -> None:
    """Every other request is bad; all are answered, and the status is OK."""
    requests = _numbered(*[picture, b"hello"] * 40)
    call = stub.ClassifyStream(iter(requests), timeout=30)

    outcomes = {answer.id: answer.WhichOneof("outcome") for answer in call}

    assert grpc.StatusCode.OK == call.code()
    assert {f"n{n}": ("error" if n % 2 else "response") for n in range(80)} == outcomes


def test_streams_answer_as_things_are_done(
    killable: Callable[..., Killable], official: OfficialServer, picture: bytes
) -> None:
    """A light request behind a heavy one is answered first; both say which they are."""
    front = _before(killable, official, "--threads", "2")
    released = threading.Event()

    def hold(response: Any) -> None:
        if len(response.outputs["scores"].float_val) > 10:
            released.wait(20)

    official.alter = hold
    heavy = pb.ClassifyStreamRequest(id="heavy", request=_request(*[picture] * 8))
    light = pb.ClassifyStreamRequest(id="light", request=_request(picture, model="cnn"))
    with _channel(front.target) as channel:
        stub = ClassifierStub(channel)  # type: ignore[no-untyped-call]
        call = stub.ClassifyStream(iter([heavy, light]), timeout=60)
        answers = [next(call)]
        released.set()
        answers += call

    assert ["light", "heavy"] == [answer.id for answer in answers]
    assert [1, 8] == [len(answer.response.results) for answer in answers]


def test_streams_are_a_conversation(stub: Stub, picture: bytes) -> None:
    """An answer comes while the stream is open; after half-close come all the rest."""
    outbox: queue.Queue[pb.ClassifyStreamRequest | None] = queue.Queue()
    call = stub.ClassifyStream(iter(outbox.get, None), timeout=20)
    for request in _numbered(picture, picture, picture):
        outbox.put(request)
        assert request.id == next(call).id
    last = _numbered(*[picture] * 20)
    for request in last:
        outbox.put(request)
    outbox.put(None)

    assert {request.id for request in last} == {answer.id for answer in call}
    assert grpc.StatusCode.OK == call.code()


@pytest.mark.parametrize(
    "ids", [["", "", ""], ["x", "x", "x"], ["é\n", "\U0001f600", "y" * 9999]]
)
def test_ids_are_the_callers_own(ids: list[str], stub: Stub, picture: bytes) -> None:
    """Ids come back as they were, empty, equal or odd."""
    requests = [pb.ClassifyStreamRequest(id=i, request=_request(picture)) for i in ids]

    assert sorted(ids) == sorted(answer.id for answer in _streamed(stub, *requests))


def test_empty_streams_and_left_ones(gateway: Any, stub: Stub, picture: bytes) -> None:
    """A stream without requests ends well; one that the client leaves harms nobody."""
    assert [] == _streamed(stub)
    assert 1 == len(_streamed(stub, pb.ClassifyStreamRequest(id="empty")))
    for _ in range(20):
        call = stub.ClassifyStream(iter(_numbered(*[picture] * 50)), timeout=20)
        next(call)
        call.cancel()

    assert stub.Classify(_request(picture), timeout=5).results
    with _channel(gateway.grpc_target) as channel:
        assert (
            ClassifierStub(channel)
            .Classify(  # type: ignore[no-untyped-call]
                _request(picture), timeout=5
            )
            .results
        )


def test_streams_that_ask_for_too_much_are_refused_inside(
    killable: Callable[..., Killable], official: OfficialServer, picture: bytes
) -> None:
    """More than may wait is `overloaded` in the answers; the stream itself is OK."""
    front = _before(killable, official, "--threads", "1", "--queue", "2")
    official.delay_s = 0.05
    with _channel(front.target) as channel:
        stub = ClassifierStub(channel)  # type: ignore[no-untyped-call]
        codes = [a.error.code for a in _streamed(stub, *_numbered(*[picture] * 30))]

    assert 30 == len(codes)
    assert {"", "overloaded"} == set(codes)


def test_idle_streams_do_not_keep_others_out(
    killable: Callable[..., Killable], picture: bytes
) -> None:
    """300 streams on which nothing is said leave room for those who ask."""
    process = killable().start().wait_ready()
    outbox: queue.Queue[None] = queue.Queue()
    with _channel(process.target) as idle, _channel(process.target, x__y=1) as channel:
        calls = [
            ClassifierStub(idle).ClassifyStream(iter(outbox.get, None), timeout=20)  # type: ignore[no-untyped-call]
            for _ in range(300)
        ]
        time.sleep(0.5)  # until they are all open
        stub = ClassifierStub(channel)  # type: ignore[no-untyped-call]
        try:
            found = len(stub.Classify(_request(picture), timeout=5).results)
        except grpc.RpcError as error:
            found = f"{error.code().name}: {error.details()}"
        for call in calls:
            call.cancel()
            outbox.put(None)

    assert 1 == found


# Health and reflection.


def _health(channel: grpc.Channel, service: str = "") -> Any:
    request = health_pb2.HealthCheckRequest(service=service)
    return health_pb2_grpc.HealthStub(channel).Check(request, timeout=5).status


@pytest.mark.parametrize(
    "name", ["", "inkling.v1.Classifier", "PredictionService", "mlp", "cnn"]
)
def test_health_of_what_serves(name: str, channel: grpc.Channel) -> None:
    """The server as a whole and each model are SERVING."""
    assert _SERVING == _health(channel, name)


def test_health_of_what_is_unknown(channel: grpc.Channel) -> None:
    """An unknown name is NOT_FOUND."""
    assert _NOT_FOUND == _refused(lambda: _health(channel, "nobody")).code()


def test_health_without_models(
    killable: Callable[..., Killable], published: Path, tmp_path: Path
) -> None:
    """NOT_SERVING on an empty repository; SERVING, also to watchers, once there is one."""
    import shutil

    models_dir = tmp_path / "empty"
    models_dir.mkdir()
    process = killable("--poll-s", "0.1", models_dir=models_dir).start()
    until(lambda: process.get("/livez")[0] == 200)
    with _channel(process.target) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        watch = stub.Watch(health_pb2.HealthCheckRequest(service=""), timeout=20)
        assert [_NOT_SERVING, _NOT_SERVING] == [_health(channel), next(watch).status]
        assert _NOT_FOUND == _refused(lambda: _health(channel, "mlp")).code()
        shutil.copytree(published / "mlp", tmp_path / "mlp")
        (tmp_path / "mlp").rename(models_dir / "mlp")
        assert _SERVING == next(watch).status
        within(until(lambda: _known(channel, "mlp") == _SERVING), 3)
        watch.cancel()


def _known(channel: grpc.Channel, name: str) -> Any:
    try:
        return _health(channel, name)
    except grpc.RpcError:
        return None


def test_reflection_where_it_is_asked_for(killable: Callable[..., Killable]) -> None:
    """With --grpc-reflection true tools can list the services and read the .proto."""
    process = killable("--grpc-reflection", "true").start().wait_ready()
    requests = [
        reflection_pb2.ServerReflectionRequest(list_services=""),
        reflection_pb2.ServerReflectionRequest(
            file_containing_symbol="inkling.v1.Classifier"
        ),
    ]
    with _channel(process.target) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        listed, file = stub.ServerReflectionInfo(iter(requests), timeout=5)

    names = {service.name for service in listed.list_services_response.service}
    assert {"inkling.v1.Classifier", "grpc.health.v1.Health"} <= names
    assert file.file_descriptor_response.file_descriptor_proto


# The end: G15.


def test_drain(
    killable: Callable[..., Killable], official: OfficialServer, picture: bytes
) -> None:
    """G15, F6: SIGTERM lets four calls finish, refuses new ones, and exits with 0."""
    front = _before(killable, official, "--threads", "4")
    official.delay_s = 1.5
    with _channel(front.target, grpc__enable_retries=0) as channel:
        stub = ClassifierStub(channel)  # type: ignore[no-untyped-call]
        calls = [
            stub.Classify.future(_request(picture, model=m), timeout=10)
            for m in ("mlp", "cnn", "mlp", "cnn")
        ]
        # Two to four calls of the engine: those of one model may go together.
        until(lambda: official.under_way >= 2)
        time.sleep(0.3)  # until all four have arrived
        front.send(signal.SIGTERM)
        signalled = time.monotonic()
        time.sleep(1.0)  # by then the client has been told
        late = _refused(lambda: stub.Classify(_request(picture), timeout=5))
        assert all(call.result().results for call in calls)
    assert front.process is not None
    code = front.process.wait(20)
    took = time.monotonic() - signalled

    print(f"4 of 4 answered; ended {took:.2f} s after the signal")
    assert _UNAVAILABLE == late.code()
    assert 0 == code
    assert "Traceback" not in front.log.read_text()
    within(took, 5)


def test_idle_streams_and_watchers_do_not_delay_the_end(
    killable: Callable[..., Killable], picture: bytes
) -> None:
    """F6: a stream on which nothing is asked and a health watch do not hold up the end."""
    process = killable("--drain-timeout-s", "8").start().wait_ready()
    outbox: queue.Queue[Any] = queue.Queue()
    with _channel(process.target) as channel:
        stream = ClassifierStub(channel).ClassifyStream(iter(outbox.get, None))  # type: ignore[no-untyped-call]
        outbox.put(_numbered(picture)[0])
        assert next(stream).response.results
        watch = health_pb2_grpc.HealthStub(channel).Watch(
            health_pb2.HealthCheckRequest(service="")
        )
        assert _SERVING == next(watch).status
        started = time.monotonic()
        code = process.end(signal.SIGTERM)
        took = time.monotonic() - started
        outbox.put(None)

    print(f"with an idle stream and a watcher: ended after {took:.2f} s")
    assert 0 == code
    within(took, 3)


def test_health_says_the_end_at_once(
    killable: Callable[..., Killable], picture: bytes
) -> None:
    """S1: while an HTTP request is still under way, gRPC no longer says SERVING."""
    process = killable().start().wait_ready()
    head = (
        "POST /v1/models/mlp:classify HTTP/1.1\r\nHost: x\r\n"
        f"Content-Length: {len(picture)}\r\n\r\n"
    )
    with (
        socket.create_connection(("127.0.0.1", process.port), timeout=20) as half,
        _channel(process.target) as channel,
    ):
        half.sendall(head.encode() + picture[:10])
        until(lambda: process.get("/livez")[0] == 200)
        assert _SERVING == _health(channel)
        process.send(signal.SIGTERM)
        time.sleep(1.0)
        found = _known(channel, "")
        half.sendall(picture[10:])
        answer = half.makefile("rb").read()

    assert answer.startswith(b"HTTP/1.1 200 ")
    assert found in (_NOT_SERVING, None)


def test_two_processes_share_the_port(
    killable: Callable[..., Killable], picture: bytes
) -> None:
    """`--workers 2`: both processes answer on the one gRPC port, and end together."""
    process = killable("--workers", "2").start().wait_ready()
    for _ in range(20):
        with _channel(process.target, grpc__use_local_subchannel_pool=1) as channel:
            stub = ClassifierStub(channel)  # type: ignore[no-untyped-call]
            assert stub.Classify(
                _request(picture), timeout=5, wait_for_ready=True
            ).results

    assert 0 == process.end(signal.SIGTERM)


def test_photos_are_classified_like_over_http(
    gateway: Any, stub: Stub, sample: np.ndarray
) -> None:
    """A turned JPEG photo gets the very answer that HTTP gives."""
    photo = Image.fromarray(255 - np.kron(sample, np.ones((12, 12), np.uint8)))
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    photo.transpose(Image.Transpose.ROTATE_90).save(file, "JPEG", exif=exif)

    [result] = stub.Classify(_request(file.getvalue(), top_k=10)).results
    over_http = gateway.request(
        "POST", "/v1/models/mlp:classify?top_k=10", file.getvalue()
    )

    top = over_http.json["results"][0]["top"]
    assert [(s["label"], s["index"]) for s in top] == [
        (s.label, s.index) for s in result.top
    ]
    assert [s["probability"] for s in top] == pytest.approx(
        [s.probability for s in result.top], abs=1e-6
    )
