# SPDX-License-Identifier: Apache-2.0
"""Bodies in each envelope, at their limits and beyond."""

from __future__ import annotations

import base64
import json
import re
import time
import tracemalloc
from typing import Any
from urllib.parse import urlencode

import pytest

from inkling.errors import (
    InklingError,
    InvalidImage,
    InvalidRequest,
    TooLarge,
    UnsupportedMediaType,
)
from inkling_serving.http_api.envelope.request_body import Envelope, envelope_of
from tests.support.machine import within

_PNG = b"\x89PNG\r\n\x1a\nrest"
_JPEG = b"\xff\xd8\xff\xe0rest"
_MAX = 4
_FORM = "multipart/form-data; boundary=b"


def _asked(body: bytes, kind: str | None = None, **headers: str) -> list[bytes]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    if kind is not None:
        named["content-type"] = kind
    return _taken(envelope_of(named, body, _MAX))


def _taken(envelope: Envelope) -> list[bytes]:
    """Return the images; an error in the place of one is raised."""
    for image in envelope.images:
        if isinstance(image, InklingError):
            raise image
    return [image for image in envelope.images if isinstance(image, bytes)]


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


@pytest.mark.parametrize(
    "changed",
    [
        _PNG.replace(b"\r", b"").replace(b"\n", b""),
        _PNG.replace(b"\r\n", b"\n"),
        _PNG.replace(b"\n", b"\r\n"),
        _PNG.decode("utf-8", "replace").encode(),
        _JPEG.decode("utf-8", "replace").encode(),
        _PNG.decode("latin-1").encode(),
        _JPEG.decode("latin-1").encode(),
    ],
)
def test_a_picture_that_was_handled_as_a_text_is_named(changed: bytes) -> None:
    """`curl -d @file` drops line ends; a script may read a file as a text."""
    for kind in (None, "application/x-www-form-urlencoded", "text/plain"):
        with pytest.raises(InvalidImage, match="--data-binary"):
            _asked(changed, kind)


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
    """Nor where its own name holds the words; a form of fields alone has no picture."""
    with pytest.raises(InvalidRequest, match="no picture"):
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
        b"preamble" * 4_000 + b"\r\n" + _part(b"x") + _LAST,
        b"--b\r\n" + b"X: y\r\n" * 4_000 + b"\r\nx\r\n" + _LAST,
        b"--b\r\nContent-Type: image/png\r\n\r\nx\r\n" + _LAST,
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


_BASE64 = base64.b64encode(_PNG)


@pytest.mark.parametrize(
    "kind",
    [
        "Multipart/Form-Data; boundary=b",
        "multipart/form-data;BOUNDARY=b",
        'multipart/form-data; boundary="b"',
        "multipart/form-data; charset=utf-8; boundary=b; x=y",
        'multipart/form-data ; x="; boundary" ; boundary = "b"',
        "multipart/mixed; boundary=b",
    ],
)
def test_the_type_of_a_form_is_read_as_the_standard_says(kind: str) -> None:
    """In any case, with the parameters in any order, quoted or not."""
    assert [b"x"] == _asked(_part(b"x") + _LAST, kind)


@pytest.mark.parametrize(
    ("written", "boundary"),
    [
        ('"a b"', "a b"),
        ('"a b "', "a b"),
        ("=_Part_1:2/3?=", "=_Part_1:2/3?="),
        ('"b"', "b"),
        ("b" * 70, "b" * 70),
        ("'()+_,-./:=?", "'()+_,-./:=?"),
    ],
)
def test_boundaries_may_have_any_letter_of_the_standard(
    written: str, boundary: str
) -> None:
    """RFC 2046 allows marks and spaces; clients leave out the quotes that they need."""
    body = (_part(b"x") + _LAST).replace(b"--b", b"--" + boundary.encode())

    assert [b"x"] == _asked(body, f"multipart/form-data; boundary={written}")


@pytest.mark.parametrize(
    "change",
    [
        lambda body: b"This is a message in several parts.\r\n" + body,
        lambda body: b"\r\n" + body,
        lambda body: body + b"\r\nepilogue" + bytes(50_000),
        lambda body: body.removesuffix(b"\r\n"),
        lambda body: body.replace(b"\r\n", b"\n"),
        lambda body: body.replace(b"--b\r\n", b"--b  \t\r\n"),
        lambda body: body.replace(b"Content-Disposition", b"content-DISPOSITION"),
        lambda body: body.replace(b"form-data; ", b"form-data;\r\n "),
        lambda body: body.replace(b"\r\n\r\n", b"\r\nX-Other: y\r\n\r\n"),
    ],
    ids=[
        "preamble",
        "empty line before",
        "epilogue",
        "no line end",
        "lines without CR",
        "blanks behind the boundary",
        "small letters",
        "folded head",
        "other headers",
    ],
)
def test_forms_are_read_as_the_standard_says(change: Any) -> None:
    """What RFC 2046 allows around and in the parts does not matter to the files."""
    assert [b"one", b"two"] == _asked(
        change(_part(b"one") + _part(b"two") + _LAST), _FORM
    )


@pytest.mark.parametrize(
    ("head", "content", "expected"),
    [
        (b'name="f"\r\nContent-Type: image/png', b"x", b"x"),
        (b'name="f"\r\nContent-Type: application/octet-stream', b"x", b"x"),
        (b'name="f"', _PNG, _PNG),
        (b'name="images[]"', _JPEG, _JPEG),
        (b'name="f"', b"data:image/png;base64," + _BASE64, _PNG),
        (b'name="f"', _BASE64, _PNG),
        (b'name="f"; filename="blob"', b"data:image/png;base64," + _BASE64, _PNG),
        (
            b'name="f"; filename="f"\r\nContent-Transfer-Encoding: BASE64',
            base64.encodebytes(_PNG * 20),
            _PNG * 20,
        ),
        (b'name="f"; filename="f"\r\nContent-Transfer-Encoding: binary', b"x", b"x"),
    ],
)
def test_a_picture_needs_no_file_name(
    head: bytes, content: bytes, expected: bytes
) -> None:
    """The type, the first bytes, a data: URL or base64 tell that a part is a picture."""
    assert [expected] == _asked(_part(content, b"form-data; " + head) + _LAST, _FORM)


def test_a_file_may_be_named_in_latin_1() -> None:
    """Older clients write names outside ASCII so, and not in UTF-8 (RFC 7578, 4.2)."""
    named = _part(_PNG, b'form-data; name="x"; filename="\xe4.png"') + _LAST
    found = envelope_of({"content-type": _FORM}, named, _MAX)

    assert ([_PNG], ["\xe4.png"]) == (list(found.images), list(found.names))


def test_a_field_without_a_chosen_file_is_passed_over() -> None:
    """A browser sends it as an empty file without a name."""
    unused = _part(b"", b'form-data; name="second"; filename=""')

    assert [_PNG] == _asked(_part(_PNG) + unused + _LAST, _FORM)


@pytest.mark.parametrize(
    ("head", "words"),
    [
        (b'name="f"\r\nContent-Type: multipart/mixed; boundary=c', "multipart itself"),
        (
            b'name="f"; filename="f"\r\nContent-Transfer-Encoding: quoted-printable',
            "quoted-printable",
        ),
    ],
)
def test_old_forms_are_told_what_to_do(head: bytes, words: str) -> None:
    """Nested parts and other encodings are not read."""
    with pytest.raises(UnsupportedMediaType, match=words):
        _asked(_part(b"x", b"form-data; " + head) + _LAST, _FORM)


def test_files_have_names() -> None:
    """A message can name a picture by its file, or by its field."""
    body = (
        _part(b"x", b"form-data; name=\"a\"; filename*=UTF-8''%e2%82%ac.png")
        + _part(b"x", 'form-data; name="a"; filename="ü.png"'.encode())
        + _part(_PNG, b'form-data; name="photo"')
        + _LAST
    )

    assert ["€.png", "ü.png", "photo"] == envelope_of(
        {"content-type": _FORM}, body, _MAX
    ).names


def test_a_form_may_hold_options() -> None:
    """Fields with the names of options are options; a page's own fields are not."""
    fields = {b"top_k": b"3", b"abstain": b"true", b"csrf": b"x", b"note": b"hello"}
    parts = [_part(v, b'form-data; name="%b"' % name) for name, v in fields.items()]
    body = b"".join(parts) + _part(_PNG) + _LAST

    found = envelope_of({"content-type": _FORM}, body, _MAX)

    assert [("top_k", 3), ("abstain", True)] == list(found.options)


@pytest.mark.parametrize("name", [b"topk", b"top-k", b"Top_K", b"abstian", b"timings"])
def test_a_misspelt_field_is_refused(name: bytes) -> None:
    """A field that is nearly an option is told which."""
    field = _part(b"3", b'form-data; name="%b"' % name)

    with pytest.raises(InvalidRequest, match="Did you mean"):
        _asked(field + _part(_PNG) + _LAST, _FORM)


_FIELDS = "application/x-www-form-urlencoded"


@pytest.mark.parametrize("count", [1, 300, *range(20, 23)])
def test_fields_of_a_page_may_hold_a_picture(count: int) -> None:
    """Older scripts send a canvas as a field with a data: URL, short or long."""
    picture = _PNG + bytes(count) + b"\xff" * count + bytes(range(256)) * count
    url = "data:image/png;base64," + base64.b64encode(picture).decode()
    body = urlencode({"top_k": "2", "image": url, "other": "a b"}).encode()

    found = envelope_of({"content-type": _FIELDS}, body, _MAX)

    assert [picture] == found.images
    assert [("top_k", 2)] == list(found.options)


@pytest.mark.parametrize("body", [b"hello", b"GIF89a=\xff"])
def test_other_bodies_of_that_type_are_handed_on(body: bytes) -> None:
    """The command curl names every body so; the decoder says what is wrong with it."""
    assert [body] == _asked(body, _FIELDS)


def test_fields_without_a_picture_are_refused() -> None:
    """Where there are fields, one of them must be a picture, and few may come."""
    with pytest.raises(InvalidRequest, match="no picture"):
        _asked(b"a=b&c", _FIELDS)
    with pytest.raises(TooLarge, match="16 fields"):
        _asked(b"a=b" + b"&c=d" * 16, _FIELDS)


# Base64.


@pytest.mark.parametrize(
    "written",
    [
        lambda text: text,
        lambda text: "data:image/png;base64," + text,
        lambda text: "DATA:image/PNG; charset=x ;BASE64," + text,
        lambda text: text.replace("+", "-").replace("/", "_"),
        lambda text: text.rstrip("="),
        lambda text: text + "=" * 3,
        lambda text: f"  {text}\r\n",
        lambda text: "\r\n".join(re.findall(".{1,76}", text)),
        lambda text: "data:;base64,\n" + "\n".join(re.findall(".{1,64}", text)),
        lambda text: text.replace("+", " "),
    ],
    ids=[
        "plain",
        "data: URL",
        "capitals",
        "url alphabet",
        "no padding",
        "more padding",
        "blanks around",
        "lines",
        "data: URL of lines",
        "spaces for plus signs",
    ],
)
def test_base64_is_read_as_it_is_written(written: Any) -> None:
    """In JSON, alone and in a part: Android breaks lines, forms turn + into a space."""
    picture = _PNG + bytes(range(256))
    text = written(base64.b64encode(picture).decode())
    encoded = text.encode()

    assert [picture] == _asked(_json([{"b64": text}]), "application/json")
    assert [picture] == _asked(encoded, "text/plain")
    assert [picture] == _asked(_part(encoded, b'form-data; name="f"') + _LAST, _FORM)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("!!!!", "not base64"),
        ("A", "not base64"),
        ("QUJD\u00e9", "not base64"),
        ("QU=JD", "not base64"),
        ("QUJD\n QUJD", "not base64"),
        ("data:,", "empty canvas"),
        ("data:image/svg+xml,<svg/>", "not in base64"),
        ("data:image/png;base64", "not in base64"),
        ("data:" + "x" * 300 + ";base64,QUJD", "not in base64"),
    ],
)
def test_what_is_no_base64_is_told_so(text: str, words: str) -> None:
    """Where a picture cannot be had from a text, the message says what is missing."""
    with pytest.raises(InvalidRequest, match=words):
        _asked(_json([{"b64": text}]), "application/json")


# JSON.


def test_json_holds_images_and_may_let_abstain() -> None:
    """Both members are read, also without the type."""
    body = _json(_b64(_PNG, b"two"), abstain=True)

    for kind in (
        "application/json",
        "Application/JSON; charset=utf-8",
        "application/vnd.api+json",
        "text/plain",
    ):
        for marked in (body, b"\xef\xbb\xbf" + body, b"\r\n " + body):
            found = envelope_of({"content-type": kind}, marked, _MAX)
            assert [_PNG, b"two"] == found.images
            assert [("abstain", True)] == list(found.options)
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
        (b'{"images": [], "abstain": 1}', "true or false"),
        (b'{"images": [], "top_k": true}', "whole number"),
        (b'{"images": [], "top_k": "3"}', "whole number"),
        (b'{"images": [], "top_k": 0}', "top_k is 0"),
        (b'{"images": [], "images": []}', "'images' twice"),
        (b'{"images": [{"b64": "", "b64": ""}]}', "'b64' twice"),
        (b'{"images": [], "topk": 3}', "Did you mean top_k"),
        (b'{"image": []}', "Did you mean images"),
        (b'{"images": [{"base64": ""}]}', "Did you mean b64"),
        (b'{"images": [{"b64": "", "topk": 3}]}', "unknown key 'topk'"),
        (b'{"images": NaN}', "not JSON"),
        (b'{"images": Infinity}', "not JSON"),
        (b"{'images': []}", "not JSON"),
        (b'{"images": []', "not JSON"),
        (
            b'{"images": "' + b"9" * 5_000 + b'", "n": ' + b"9" * 5_000 + b"}",
            "not JSON",
        ),
        ('{"é": 1}'.encode(), "ASCII"),
        ("\ufeff{}".encode(), "list of images"),
        ('{"images": []}'.encode("utf-16"), "UTF-16"),
        ('{"images": []}'.encode("utf-16-le"), "UTF-16"),
        ('{"images": []}'.encode("utf-32"), "UTF-16 or UTF-32"),
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


@pytest.mark.parametrize(
    "body",
    [
        b'{"images": [' + b"1" * 70_000 + b"]}",
        b'{"images": [0.' + b"1" * 70_000 + b"]}",
        b'{"images": []' + b" " * 70_000 + b"}",
        b'{"images": [{"b64": "AA=="}]}' + b"\n" * 70_000,
    ],
)
def test_what_is_beside_the_texts_is_bounded(body: bytes) -> None:
    """A number of a million digits would stop all other threads while it is read."""
    with pytest.raises(TooLarge, match="blanks and numbers"):
        _asked(body, "application/json")


@pytest.mark.parametrize("cut", [0, 1, 2, 3])
def test_a_long_text_in_base64_is_decoded_in_pieces(cut: int) -> None:
    """The bytes are those of the whole; padding between two pieces is refused."""
    content = _PNG + bytes(range(256)) * 2000 + bytes(cut)
    text = base64.b64encode(content)
    piece = 256 * 1024
    padded = text[: piece - 4] + b"AAA=" + text[piece:]

    assert [content] == _asked(_json([{"b64": text.decode()}]))
    assert [content] == _asked(_json([{"b64": text.rstrip(b"=").decode()}]))
    with pytest.raises(InvalidRequest, match="not base64"):
        _asked(_json([{"b64": padded.decode()}]))
