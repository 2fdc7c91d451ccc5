"""Bodies in each envelope, at their limits and beyond."""

from __future__ import annotations

import base64
import json
import time
import tracemalloc
from typing import Any

import pytest

from inkling.errors import (
    InklingError,
    InvalidRequest,
    TooLarge,
    UnsupportedMediaType,
)
from inkling_serving.http_api.request_body import envelope_of
from tests.support.machine import within

_PNG = b"\x89PNG\r\n\x1a\nrest"
_JPEG = b"\xff\xd8\xff\xe0rest"
_MAX = 4
_FORM = "multipart/form-data; boundary=b"


def _asked(body: bytes, kind: str | None = None, **headers: str) -> list[bytes]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    if kind is not None:
        named["content-type"] = kind
    return envelope_of(named, body, _MAX).images


def _json(images: Any, **more: Any) -> bytes:
    return json.dumps({"images": images, **more}).encode()


def _b64(*images: bytes) -> list[dict[str, str]]:
    return [{"b64": base64.b64encode(image).decode()} for image in images]


def _part(
    content: bytes, head: bytes = b'form-data; name="x"; filename="p.png"'
) -> bytes:
    return b"--b\r\nContent-Disposition: " + head + b"\r\n\r\n" + content + b"\r\n"


_LAST = b"--b--\r\n"


# Bare.


@pytest.mark.parametrize("body", [_PNG, _JPEG])
@pytest.mark.parametrize(
    "kind",
    [None, "image/png", "application/json", _FORM, "application/x-www-form-urlencoded"],
)
def test_a_picture_is_one_whatever_it_is_called(body: bytes, kind: str | None) -> None:
    """What starts like a PNG or JPEG is one image, under any type."""
    assert [body] == _asked(body, kind)


@pytest.mark.parametrize("body", [b"GIF89a", b"hello", b"[1]", b"\x89PN", b"x{"])
def test_anything_else_is_handed_on(body: bytes) -> None:
    """The decoder says what is wrong with it."""
    assert [body] == _asked(body, "image/gif")


@pytest.mark.parametrize("encoding", ["gzip", "GZIP", "br", "identity, gzip", "x"])
def test_compressed_bodies_are_refused(encoding: str) -> None:
    """A compressed picture gains nothing and could be a bomb."""
    with pytest.raises(UnsupportedMediaType, match="compressed"):
        _asked(_PNG, content_encoding=encoding)


@pytest.mark.parametrize("encoding", ["identity", " Identity ", ""])
def test_identity_is_no_compression(encoding: str) -> None:
    """The name for no encoding is accepted."""
    assert [_PNG] == _asked(_PNG, content_encoding=encoding)


def test_nothing_is_told_how_to_send_something() -> None:
    """An empty body gets the command that sends a picture."""
    with pytest.raises(InvalidRequest, match="curl --data-binary"):
        _asked(b"")


# Forms.


@pytest.mark.parametrize(
    "head",
    [
        b'form-data; name="x"; filename="p.png"',
        b"form-data; name=x; filename=p.png",
        b"form-data; name=\"x\"; filename*=utf-8''p.png",
        b'form-data; filename="a;b.png"; name="x"',
        b'FORM-DATA; NAME="x"; FileName="p.png"',
        b'form-data; name="a\\"b"; filename=""',
    ],
)
def test_a_file_is_known_by_its_name(head: bytes) -> None:
    """However the parameter of the file's name is written."""
    assert [b"content"] == _asked(_part(b"content", head) + _LAST, _FORM)


@pytest.mark.parametrize(
    "head",
    [
        b'form-data; name="x"',
        b'form-data; name="; filename=x"',
        b'form-data; name="a\\"; filename=x"',
        b"form-data; name=filename",
    ],
)
def test_a_field_is_no_file(head: bytes) -> None:
    """Nor where its own name holds the words; a form of fields alone has no file."""
    with pytest.raises(InvalidRequest, match="no file"):
        _asked(_part(b"content", head) + _LAST, _FORM)


def test_files_keep_their_order_and_bytes() -> None:
    """Line ends and dashes inside a file are the file's."""
    files = [b"", b"\r\n", b"-b--", b"\r\n--", b"a\r\n\r\nb\r\n"]
    body = b"".join(_part(one) for one in files) + _LAST

    assert files == _asked(body, _FORM)


@pytest.mark.parametrize(
    "body",
    [
        b"hello",
        _part(b"x"),
        _part(b"x") + b"--b",
        b"--b\r\nContent-Disposition: form-data\r\n",
        b"preamble\r\n" + _part(b"x") + _LAST,
        b"--b\r\n" + b"X: y\r\n" * 2_000 + b"\r\nx\r\n" + _LAST,
    ],
)
def test_damaged_forms_are_refused(body: bytes) -> None:
    """A form without its end, its start or a head of reasonable size."""
    with pytest.raises(InvalidRequest, match="damaged"):
        _asked(body, _FORM)


@pytest.mark.parametrize(
    "boundary", ["", "b" * 71, "\xe9", '""'], ids=["none", "long", "letters", "empty"]
)
def test_boundaries_are_those_of_the_standard(boundary: str) -> None:
    """One to seventy ASCII letters; a library sets a right one."""
    with pytest.raises(UnsupportedMediaType, match="boundary"):
        _asked(b"--b", f"multipart/form-data; boundary={boundary}")
    with pytest.raises(UnsupportedMediaType, match="boundary"):
        _asked(b"--b", "multipart/form-data")


def test_parts_are_counted() -> None:
    """Twice as many as images may come and eight more; one more is too many."""
    most = 2 * _MAX + 8

    assert most == len(_asked(_part(b"x") * most + _LAST, _FORM))
    with pytest.raises(TooLarge, match="16 parts"):
        _asked(_part(b"x") * (most + 1) + _LAST, _FORM)


def test_fields_are_bounded() -> None:
    """64 KiB of a field are passed over; a picture in a field is told what to do."""
    field, file = b'form-data; name="x"', _part(b"x")

    assert [b"x"] == _asked(_part(bytes(65_536), field) + file + _LAST, _FORM)
    with pytest.raises(TooLarge, match="as a file"):
        _asked(_part(bytes(65_537), field) + file + _LAST, _FORM)


# JSON.


def test_json_holds_images_and_may_let_abstain() -> None:
    """Both members are read, also without the type."""
    body = _json(_b64(_PNG, b"two"), abstain=True)

    for kind in ("application/json", "application/json; charset=utf-8", "text/plain"):
        found = envelope_of({"content-type": kind}, body, _MAX)
        assert ([_PNG, b"two"], True) == (found.images, found.abstain)
    assert [] == _asked(_json([]))


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"null", "list of images"),
        (b"[]", "list of images"),
        (b"{}", "list of images"),
        (b'{"images": {}}', "list of images"),
        (b'{"images": [1]}', 'no "b64"'),
        (b'{"images": [{"b64": 1}]}', 'no "b64"'),
        (b'{"images": [{"b64": "!!!!"}]}', "not base64"),
        (b'{"images": [{"b64": "QQ"}]}', "not base64"),
        (b'{"images": [{"b64": "Q\\nQ=="}]}', "not base64"),
        (b'{"images": [{"b64": "_-8="}]}', "not base64"),
        (b'{"images": [{"b64": "\\u00e9"}]}', "not base64"),
        (b'{"images": [], "abstain": 1}', "true or false"),
        (b'{"images": [], "images": []}', "not JSON"),
        (b'{"images": NaN}', "not JSON"),
        (b'{"images": Infinity}', "not JSON"),
        (b"{'images': []}", "not JSON"),
        (b'{"images": []', "not JSON"),
        (
            b'{"images": "' + b"9" * 5_000 + b'", "n": ' + b"9" * 5_000 + b"}",
            "not JSON",
        ),
        ('{"é": 1}'.encode(), "ASCII"),
        ("\ufeff{}".encode(), "ASCII"),
        ('{"images": []}'.encode("utf-16"), "ASCII"),
    ],
)
def test_wrong_json_is_told_what_is_wrong(body: bytes, words: str) -> None:
    """Each mistake has its message."""
    with pytest.raises(InvalidRequest, match=words):
        _asked(body, "application/json")


@pytest.mark.parametrize("letter", [b"[", b"{", b'{"":', b"[]", b'"",', b":"])
def test_structure_is_bounded_before_it_is_parsed(letter: bytes) -> None:
    """A megabyte of brackets costs next to nothing."""
    body = b'{"images": ' + letter * (1_000_000 // len(letter))
    tracemalloc.start()
    started = time.perf_counter()
    with pytest.raises(InklingError):
        _asked(body, "application/json")
    took = time.perf_counter() - started
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert peak < 3_000_000
    within(took, 2)


def test_as_many_images_as_allowed_fit() -> None:
    """The bound on structure leaves room for the images, written with any spaces."""
    body = json.dumps({"images": _b64(*[b"x"] * _MAX)}, indent=8).encode()

    assert _MAX == len(_asked(body, "application/json"))


def test_a_hostile_head_costs_little() -> None:
    """A part's head of quotes and semicolons is matched in linear time."""
    head = b"form-data" + b'; a="' * 1_600
    started = time.perf_counter()
    with pytest.raises(InvalidRequest):
        _asked(_part(b"x", head[:8_000]) * 16 + _LAST, _FORM)

    within(time.perf_counter() - started, 2)
