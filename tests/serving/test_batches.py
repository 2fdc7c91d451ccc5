# SPDX-License-Identifier: Apache-2.0
"""Several pictures in a request: which one is bad, and what becomes of the others."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from inkling.contract import Contract
from inkling.gateway.status import ERROR_CODE_KEY, ERROR_INDEX_KEY
from inkling.v1 import classifier_pb2 as pb
from tests.serving.grpc_api import server_here as grpc_server
from tests.serving.http_api import server_here as http_server

_CLASSIFY = "/v1/models/mlp:classify"
_FORM = {"Content-Type": "multipart/form-data; boundary=b"}


@pytest.fixture(scope="module")
def http(digit_contract: Contract) -> Iterator[http_server.Here]:
    """A server for HTTP."""
    with http_server.served_here(digit_contract) as here:
        yield here


@pytest.fixture(scope="module")
def stub(digit_contract: Contract) -> Iterator[Any]:
    """A client of a server for gRPC."""
    with grpc_server.served_here(digit_contract) as here, here.stub() as made:
        yield made


def _form(*files: tuple[str, bytes]) -> bytes:
    head = '--b\r\nContent-Disposition: form-data; name="f"; filename="{}"\r\n\r\n'
    parts = (head.format(name).encode() + content + b"\r\n" for name, content in files)
    return b"".join(parts) + b"--b--\r\n"


def _json(*texts: str, **more: Any) -> bytes:
    return json.dumps({"images": [{"b64": text} for text in texts], **more}).encode()


def _b64(content: bytes) -> str:
    return base64.b64encode(content).decode()


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        (b"hello", "invalid_image"),
        (b"II*\x00", "unsupported_media_type"),
        (b"", "invalid_image"),
    ],
)
def test_a_bad_picture_is_named(
    http: http_server.Here, stub: Any, picture: bytes, bad: bytes, code: str
) -> None:
    """By its place for people and programs, and by the name of its file."""
    files = [("a.png", picture), ("notes.txt", bad), ("c.png", picture)]
    form = http.request("POST", _CLASSIFY, _form(*files), _FORM)
    in_json = http.request("POST", _CLASSIFY, _json(*(_b64(f) for _, f in files)))
    with pytest.raises(grpc.RpcError) as caught:
        stub.Classify(pb.ClassifyRequest(model="mlp", images=[f for _, f in files]))
    over_grpc: Any = caught.value

    for answer, start in (
        (form, "Image 2 of 3 (notes.txt): "),
        (in_json, "Image 2 of 3: "),
    ):
        error = answer.json["error"]
        assert (code, 1) == (error["code"], error["index"])
        assert error["message"].startswith(start)
    trailing = dict(over_grpc.trailing_metadata())
    assert (code, "1") == (trailing[ERROR_CODE_KEY], trailing[ERROR_INDEX_KEY])
    assert over_grpc.details().startswith("Image 2 of 3: ")


def test_a_damaged_text_is_named(http: http_server.Here, picture: bytes) -> None:
    """What cannot be taken out of the body has its place, too."""
    found = http.request("POST", _CLASSIFY, _json(_b64(picture), "!!!!")).json["error"]

    assert ("invalid_request", 1) == (found["code"], found["index"])
    assert found["message"].startswith("Image 2 of 2: The picture is not base64")


def test_one_picture_needs_no_number(http: http_server.Here, stub: Any) -> None:
    """There is nothing to tell it from."""
    error = http.request("POST", _CLASSIFY, b"hello").json["error"]
    with pytest.raises(grpc.RpcError) as caught:
        stub.Classify(pb.ClassifyRequest(model="mlp", images=[b"hello"]))
    over_grpc: Any = caught.value

    assert "index" not in error
    assert not error["message"].startswith("Image")
    assert error["message"] == over_grpc.details()
    assert ERROR_INDEX_KEY not in dict(over_grpc.trailing_metadata())


@pytest.mark.parametrize(
    ("name", "shown"),
    [("ü€.png", "ü€.png"), ("a\tb\u202e", "a?b?"), ("x" * 300, "x" * 80)],
)
def test_names_are_shown_safely(
    http: http_server.Here, picture: bytes, name: str, shown: str
) -> None:
    """Without control characters, and cut."""
    body = _form(("a.png", picture), (name, b"hello"))

    error = http.request("POST", _CLASSIFY, body, _FORM).json["error"]

    assert error["message"].startswith(f"Image 2 of 2 ({shown}): ")


@pytest.mark.parametrize("where", ["query", "JSON", "form"])
def test_the_others_are_answered_if_that_is_wanted(
    http: http_server.Here, picture: bytes, where: str
) -> None:
    """An error stands in the place of each bad picture, whatever is wrong with it."""
    files = [b"hello", picture, b"II*\x00", picture]
    path, headers = _CLASSIFY + "?top_k=2", _FORM
    if where == "query":
        path, body = path + "&partial=true", _form(*(("f", one) for one in files))
    elif where == "form":
        option = (
            b'--b\r\nContent-Disposition: form-data; name="partial"\r\n\r\ntrue\r\n'
        )
        body = option + _form(*(("f", one) for one in files))
    else:
        body, headers = (
            _json("!!!", *(_b64(one) for one in files[1:]), partial=True),
            {},
        )

    answer = http.request("POST", path, body, headers)

    assert 200 == answer.status
    first, second, third, fourth = answer.json["results"]
    code = "invalid_request" if where == "JSON" else "invalid_image"
    assert (code, 0) == (first["error"]["code"], first["error"]["index"])
    assert {"code", "message", "index"} == set(first["error"])
    assert ("unsupported_media_type", 2) == (
        third["error"]["code"],
        third["error"]["index"],
    )
    assert "3" == second["label"] == fourth["label"]
    assert 2 == len(second["top"])


def test_the_others_are_answered_over_grpc(stub: Any, picture: bytes) -> None:
    """By a call and in a stream."""
    images = [picture, b"II*\x00", b"hello", picture]
    asked = pb.ClassifyRequest(model="mlp", images=images, partial=True)
    [streamed] = stub.ClassifyStream(
        iter([pb.ClassifyStreamRequest(id="a", request=asked)])
    )

    for found in (stub.Classify(asked), streamed.response):
        codes = [result.error.code for result in found.results]
        assert ["", "unsupported_media_type", "invalid_image", ""] == codes
        assert [1, 0, 0, 1] == [len(result.top) for result in found.results]
        assert 2 == found.results[2].error.index


def test_all_may_be_refused(http: http_server.Here, stub: Any) -> None:
    """The request itself was understood, so that its answer says which version it asked."""
    body = _json(_b64(b"hello"), _b64(b""))
    found = http.request("POST", _CLASSIFY + "?partial=true&abstain=true", body)
    one = http.request("POST", _CLASSIFY + "?partial=true", b"hello")
    over_grpc = stub.Classify(
        pb.ClassifyRequest(model="mlp", images=[b"hello"], partial=True, abstain=True)
    )

    assert (200, 200) == (found.status, one.status)
    assert ("mlp", 1) == (found.json["model"], found.json["version"])
    codes = [result["error"]["code"] for result in found.json["results"]]
    assert ["invalid_image"] * 2 == codes
    assert ["error"] == list(one.json["results"][0])
    assert "invalid_image" == over_grpc.results[0].error.code


@pytest.mark.parametrize(
    ("path", "code"),
    [
        (_CLASSIFY + "?top_k=0", "invalid_request"),
        ("/v1/models/mlp/versions/x:classify", "invalid_request"),
    ],
)
def test_the_request_itself_must_be_right(
    http: http_server.Here, path: str, code: str
) -> None:
    """`partial` forgives pictures, and nothing else."""
    mark = "&" if "?" in path else "?"
    answer = http.request("POST", f"{path}{mark}partial=true", b"hello")

    assert (400, code) == (answer.status, answer.json["error"]["code"])
    nothing = http.request("POST", _CLASSIFY + "?partial=true", b'{"images": []}')
    assert 400 == nothing.status


def test_a_stream_names_the_picture(stub: Any, picture: bytes) -> None:
    """The error of a request in a stream has the place, too."""
    asked = pb.ClassifyRequest(model="mlp", images=[picture, b"hello"])
    one = pb.ClassifyRequest(model="mlp", images=[b"hello"])
    requests = [
        pb.ClassifyStreamRequest(id="two", request=asked),
        pb.ClassifyStreamRequest(id="one", request=one),
    ]

    found = {answer.id: answer.error for answer in stub.ClassifyStream(iter(requests))}

    assert 1 == found["two"].index
    assert not found["one"].HasField("index")
