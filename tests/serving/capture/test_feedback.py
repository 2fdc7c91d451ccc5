# SPDX-License-Identifier: Apache-2.0
"""Feedback on captured answers: over HTTP and gRPC, its store and its metrics."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

from inkling.capture import store as store_module
from inkling.capture.records import Record
from inkling.capture.store import STORE_FILE, Given, LiveAccuracy, Store
from inkling.errors import InvalidRequest, UnknownRequest
from inkling.v1 import classifier_pb2 as pb
from inkling.v1.classifier_pb2_grpc import ClassifierStub
from tests.support.gateway_process import Answer, GatewayProcess
from tests.support.machine import until


@pytest.fixture(scope="module")
def capturing(
    published: Path, tmp_path_factory: pytest.TempPathFactory, serve_gateway: Any
) -> Iterator[GatewayProcess]:
    """A gateway of two processes that captures every request."""
    folder = tmp_path_factory.mktemp("feedback")
    flags = ("--capture", str(folder / "capture"), "--capture-share", "1")
    log = folder / "log"
    with serve_gateway(published, *flags, "--workers", "2", log=log) as gateway:
        yield gateway


def _give(gateway: GatewayProcess, **body: Any) -> Answer:
    headers = {"content-type": "application/json"}
    sent = json.dumps(body).encode()
    return gateway.request("POST", "/v1/feedback", sent, headers)


def _classified(gateway: GatewayProcess, picture: bytes, model: str, name: str) -> str:
    headers = {"x-request-id": name}
    path = f"/v1/models/{model}:classify"
    answer = gateway.request("POST", path, picture, headers)
    return str(answer.json["results"][0]["label"])


def test_feedback_over_both_protocols(
    capturing: GatewayProcess, picture: bytes
) -> None:
    """The right label is stored by any process, and the metrics count it by version."""
    answered = _classified(capturing, picture, "mlp", "http")
    until(lambda: _give(capturing, request_id="http", label=answered).status == 200)
    given = _give(capturing, request_id="http", label=answered)
    with grpc.insecure_channel(capturing.grpc_target) as channel:
        stub = ClassifierStub(channel)  # type: ignore[no-untyped-call]
        reply = stub.Classify(pb.ClassifyRequest(model="mlp", images=[picture] * 2))
        other = next(label for label in "0123456789" if label != answered)
        feedback = pb.GiveFeedbackRequest(
            request_id=reply.request_id, label=other, image=1
        )
        until(lambda: _is_taken(stub, feedback))
        taken = stub.GiveFeedback(feedback)
    metrics = capturing.request("GET", "/metrics").body.decode()

    expected = {"model": "mlp", "version": 1, "answered": answered, "label": answered}
    assert given.json == expected
    assert (taken.model, taken.version, taken.answered) == ("mlp", 1, answered)
    assert 'inkling_feedback{model="mlp",version="1"} 2.0' in metrics
    assert 'inkling_live_accuracy{model="mlp",version="1"} 0.5' in metrics


def _is_taken(stub: Any, feedback: pb.GiveFeedbackRequest) -> bool:
    try:
        stub.GiveFeedback(feedback)
    except grpc.RpcError:
        return False
    return True


def test_an_unknown_request_is_refused(capturing: GatewayProcess) -> None:
    """An id that was not captured is an error of its own, over both protocols."""
    refused = _give(capturing, request_id="never", label="7")
    with grpc.insecure_channel(capturing.grpc_target) as channel:
        stub = ClassifierStub(channel)  # type: ignore[no-untyped-call]
        with pytest.raises(grpc.RpcError) as raised:
            stub.GiveFeedback(pb.GiveFeedbackRequest(request_id="never", label="7"))

    assert refused.status == 404
    assert refused.json["error"]["code"] == "unknown_request"
    assert "'never'" in refused.json["error"]["message"]
    assert raised.value.code() is grpc.StatusCode.NOT_FOUND


def test_an_unknown_label_is_refused(capturing: GatewayProcess, picture: bytes) -> None:
    """A label that the version does not know is refused with those that it knows."""
    _classified(capturing, picture, "cnn", "label")
    until(lambda: _give(capturing, request_id="label", label="x").status == 400)
    message = _give(capturing, request_id="label", label="x").json["error"]["message"]

    assert "'x' is no label of cnn version 1" in message
    assert "'7'" in message


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b"", 400, "not a JSON object"),
        (b"[]", 400, "not a JSON object"),
        (b"{" * 3000, 400, "not a JSON object"),
        (b'{"label": "7"}', 400, 'nothing as "request_id"'),
        (b'{"request_id": "a", "label": 7}', 400, '7 as "label"'),
        (b'{"request_id": "a", "label": "\\ud800"}', 400, "expected a text"),
        (b'{"request_id": "a", "label": "7", "image": true}', 400, "is True"),
        (b'{"request_id": "a", "label": "7", "image": -1}', 400, "is -1"),
        (b'{"request_id": "a", "labl": "7"}', 400, "label"),
        (b" " * 20_000, 413, "20,000 bytes"),
    ],
)
def test_malformed_feedback_is_refused(
    capturing: GatewayProcess, body: bytes, status: int, words: str
) -> None:
    """Each mistake in the body has a message with what came and what was expected."""
    headers = {"content-type": "application/json"}
    refused = capturing.request("POST", "/v1/feedback", body, headers)

    assert refused.status == status
    assert words in refused.json["error"]["message"]


def _record(request_id: str, label: str = "7", version: int = 1) -> Record:
    return Record(
        request_id=request_id,
        image=0,
        time=0.0,
        model="mlp",
        version=version,
        contract="sha256:0",
        label=label,
        abstained=None,
        scores=(0.0, 1.0),
        engine_ms=0.1,
        picture="segment/000001.png",
        sha256="0",
    )


_LABELS = [("mlp", 1, '["7", "1"]'), ("mlp", 2, '["7", "1"]')]


def test_later_feedback_replaces_earlier(tmp_path: Path) -> None:
    """An answer counts once, with the label that came last."""
    store = Store(tmp_path)
    store.add([_record("a"), _record("b", version=2)], _LABELS)
    store.give("a", 0, "1")
    assert store.accuracy() == [LiveAccuracy("mlp", 1, 1, 0)]
    assert store.give("a", 0, "7") == Given("mlp", 1, "7", "7")
    store.give("b", 0, "1")

    assert store.accuracy() == [
        LiveAccuracy("mlp", 1, 1, 1),
        LiveAccuracy("mlp", 2, 1, 0),
    ]
    assert [one.label for one in store.labelled("mlp")] == ["7", "1"]
    store.forget(["segment"], before=0.0)
    with pytest.raises(UnknownRequest):
        store.give("a", 0, "7")
    assert store.labelled("mlp") == []
    assert len(store.accuracy()) == 2
    store.close()


def test_an_older_schema_is_migrated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file of schema 1 keeps its feedback, and gets what later schemas added."""
    with monkeypatch.context() as older:
        older.setattr(store_module, "_STEPS", store_module._STEPS[:1])
        first = Store(tmp_path)
        first.add([_record("a")], _LABELS)
        first.give("a", 0, "7")
        first.close()
    store = Store(tmp_path)
    store.close()
    with sqlite3.connect(tmp_path / STORE_FILE) as connection:
        [(schema,)] = connection.execute("PRAGMA user_version")
        [(kept,)] = connection.execute("SELECT COUNT(*) FROM feedback")
        [(later,)] = connection.execute("SELECT COUNT(*) FROM retrainings")
    connection.close()

    assert (schema, kept, later) == (len(store_module._STEPS), 1, 0)


@pytest.mark.parametrize("damage", ["newer", "no database"])
def test_a_foreign_store_is_refused(tmp_path: Path, damage: str) -> None:
    """A file of a newer Inkling, or no database, is left alone with a message."""
    if damage == "newer":
        Store(tmp_path).close()
        with sqlite3.connect(tmp_path / STORE_FILE) as connection:
            connection.execute("PRAGMA user_version = 99")
        connection.close()
    else:
        (tmp_path / STORE_FILE).write_bytes(b"no database" * 100)

    with pytest.raises(InvalidRequest, match=r"newer Inkling|cannot be opened"):
        Store(tmp_path)


def test_stores_are_opened_at_once(tmp_path: Path) -> None:
    """Eight openings of a new file migrate it once, and all of them can write."""

    def opened(number: int) -> None:
        store = Store(tmp_path)
        store.add([_record(str(number))], _LABELS)
        store.give(str(number), 0, "7")
        store.close()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(opened, range(8)))
    store = Store(tmp_path)

    assert store.accuracy() == [LiveAccuracy("mlp", 1, 8, 8)]
    store.close()
