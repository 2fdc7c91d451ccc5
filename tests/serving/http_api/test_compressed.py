# SPDX-License-Identifier: Apache-2.0
"""Bodies with a Content-Encoding, as some clients and proxies send them."""

from __future__ import annotations

import base64
import gzip
import json
import zlib
from collections.abc import Callable
from typing import Any

import pytest

from inkling.errors import InvalidRequest, Overloaded, TooLarge, UnsupportedMediaType
from inkling_serving.http_api.envelope.compressed import inflate, is_compressed
from inkling_serving.http_api.messages import Request
from inkling_serving.runtime.held_bytes import HeldBytes
from inkling_serving.runtime.inflating import inflated

_MIB = 1024 * 1024
_CLASSIFY = "/v1/models/mlp:classify"


def _request(body: bytes, encoding: str) -> Request:
    return Request("POST", _CLASSIFY, "", {"content-encoding": encoding}, body)


@pytest.mark.parametrize("encoding", ["identity", " Identity ", ""])
def test_identity_is_no_compression(encoding: str) -> None:
    """The name for no encoding is accepted, and so is no name."""
    assert not is_compressed({"content-encoding": encoding})
    assert not is_compressed({})


@pytest.mark.parametrize(
    ("encoding", "compress"),
    [
        ("gzip", gzip.compress),
        ("GZIP", gzip.compress),
        ("x-gzip", gzip.compress),
        ("deflate", zlib.compress),
    ],
)
def test_bodies_are_inflated(
    encoding: str, compress: Callable[[bytes], bytes], gateway: Any, picture: bytes
) -> None:
    """A compressed picture, and a compressed JSON with one, are answered as usual."""
    text = base64.b64encode(picture).decode()
    wanted = gateway.request("POST", _CLASSIFY, picture).json["results"]

    for body in (picture, json.dumps({"images": [{"b64": text}]}).encode()):
        headers = {"Content-Encoding": encoding}
        answer = gateway.request("POST", _CLASSIFY, compress(body), headers)
        assert wanted == answer.json["results"]


@pytest.mark.parametrize(
    ("follows", "whole"),
    [
        (b"", b"first"),
        (gzip.compress(b" second") + gzip.compress(b" third"), b"first second third"),
        (bytes(512), b"first"),
        (b"more", None),
        (gzip.compress(b" second")[:-3], None),
        (20 * gzip.compress(b"x"), None),
    ],
)
def test_nothing_behind_a_member_is_dropped(
    follows: bytes, whole: bytes | None
) -> None:
    """A few members are joined and padding is no content; anything else is refused."""
    holding = HeldBytes(_MIB).arriving()

    found = inflated(gzip.compress(b"first") + follows, _MIB, holding)

    assert whole == found


@pytest.mark.parametrize("encoding", ["br", "zstd", "identity, gzip", "x"])
def test_other_formats_are_refused(encoding: str, gateway: Any) -> None:
    """The refusal names the formats that are read."""
    answer = gateway.request("POST", _CLASSIFY, b"x", {"Content-Encoding": encoding})

    assert 415 == answer.status
    assert "expected gzip or deflate" in answer.json["error"]["message"]


@pytest.mark.parametrize(
    "body", [b"", b"hello", gzip.compress(b"x" * 999)[:-9], b"\x1f\x8b"]
)
def test_damaged_bodies_are_refused(body: bytes) -> None:
    """What is not compressed, or not whole, is the caller's fault."""
    with pytest.raises(InvalidRequest, match="is not, or is cut short"):
        inflate(_request(body, "gzip"), _MIB, HeldBytes(_MIB).arriving())


def test_bombs_end_at_the_limits() -> None:
    """10 kB that inflate to 10 MB are refused by the body's limit, and by the memory."""
    bomb = gzip.compress(bytes(10 * _MIB))
    with pytest.raises(TooLarge, match="1,048,576"):
        inflate(_request(bomb, "gzip"), _MIB, HeldBytes(64 * _MIB).arriving())
    with pytest.raises(Overloaded):
        inflate(_request(bomb, "gzip"), 64 * _MIB, HeldBytes(_MIB).arriving())


def test_inflated_bytes_are_held_only_meanwhile(gateway: Any, picture: bytes) -> None:
    """Many compressed requests, good and bad, leave no bytes counted."""
    headers = {"Content-Encoding": "gzip"}
    large = gzip.compress(bytes(9 * _MIB))

    statuses = [
        gateway.request("POST", _CLASSIFY, body, headers).status
        for body in [large, gzip.compress(picture)] * 12
    ]

    assert [413, 200] * 12 == statuses


def test_an_encoding_is_unsupported() -> None:
    """The error has the class of its status."""
    with pytest.raises(UnsupportedMediaType):
        inflate(_request(b"", "br"), _MIB, HeldBytes(_MIB).arriving())
