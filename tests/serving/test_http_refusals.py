# SPDX-License-Identifier: Apache-2.0
"""Bad requests: one table, through both doors, and what only the real door can show."""

import base64
import http.client
import json
import shutil
import struct
import subprocess
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

import numpy as np
import pytest

from inkling.image.budget import DEFAULT_LIMITS
from inkling.model.repository import Repository
from inkling_serving.engines.embedded import EmbeddedEngine
from inkling_serving.http_api.flask_app import create_app
from inkling_serving.http_api.handlers import Handlers
from inkling_serving.keys import ApiKeys
from inkling_serving.runtime.held_bytes import HeldBytes
from inkling_serving.runtime.metrics import Metrics
from inkling_serving.service import Service
from inkling_serving.settings import Settings
from tests.support.described import DescribedGateway
from tests.support.http_bytes import converse
from tests.support.machine import within

Encode = Callable[..., bytes]
_CLASSIFY = "/v1/models/mlp:classify"
_EXPLAIN = "/v1/models/mlp:explain"
_MAX_BODY = 10 * 1024 * 1024
_MAX_IMAGE = 8 * 1024 * 1024
_MAX_BATCH = 32
# The smallest PNG: one black pixel.
_PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJ"
    "RU5ErkJggg=="
)
_B64 = base64.b64encode(_PNG).decode()
_AS_JSON = {"Content-Type": "application/json"}
_AS_FORM = {"Content-Type": "multipart/form-data; boundary=frontier"}


@dataclass(frozen=True)
class Bad:
    """A request that must be refused, and how."""

    name: str
    status: int
    code: str
    method: str = "POST"
    path: str = _CLASSIFY
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


def _body(name: str, status: int, code: str, body: bytes, **headers: str) -> Bad:
    return Bad(name, status, code, body=body, headers=headers)


def _chunk(name: bytes, data: bytes) -> bytes:
    crc = struct.pack(">I", zlib.crc32(name + data))
    return struct.pack(">I", len(data)) + name + data + crc


def _png_of(length: int) -> bytes:
    """Return a PNG in a file of this many bytes."""
    padding = _chunk(b"prVt", bytes(length - len(_PNG) - 12))
    return _PNG[:33] + padding + _PNG[33:]


def _as_json(name: str, body: bytes | str, status: int = 400) -> Bad:
    body = body.encode() if isinstance(body, str) else body
    code = "too_large" if status == 413 else "invalid_request"
    return Bad(name, status, code, body=body, headers=_AS_JSON)


def _form(
    name: str, body: bytes, status: int = 400, code: str = "invalid_request"
) -> Bad:
    return Bad(name, status, code, body=body, headers=_AS_FORM)


def _named(name: str, path: str, status: int = 400) -> Bad:
    code = {400: "invalid_request", 404: "not_found"}[status]
    return Bad(name, status, code, path=path, body=_PNG)


def _missing(name: str, path: str) -> Bad:
    return Bad(name, 404, "model_not_found", path=path, body=_PNG)


def _part(content: bytes, filename: str | None = "f.png") -> bytes:
    of_file = b'; filename="%s"' % filename.encode() if filename else b""
    head = b'--frontier\r\nContent-Disposition: form-data; name="f"' + of_file
    return head + b"\r\n\r\n" + content + b"\r\n"


def _field(name: str, content: bytes) -> bytes:
    return _part(content, None).replace(b'"f"', b'"%b"' % name.encode())


def _rle_bmp() -> bytes:
    header = struct.pack("<IiiHHIIiiII", 40, 4, 4, 1, 8, 1, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 2000, 0, 0, 1078) + header + bytes(1946)


_END = b"--frontier--\r\n"
_INVALID = (400, "invalid_image")
_FOREIGN = (415, "unsupported_media_type")

_BODIES = [
    # I1, I2, I10: no picture.
    _body("empty", 400, "invalid_request", b""),
    _body("one byte", *_INVALID, b"\x89"),
    _body("text", *_INVALID, b"hello"),
    _body("zeros", *_INVALID, bytes(1000)),
    _body("PNG cut in the header", *_INVALID, _PNG[:20]),
    _body("PNG cut in the pixels", *_INVALID, _PNG[:45]),
    _body("PNG signature alone", *_INVALID, _PNG[:8]),
    _body("JPEG signature alone", *_INVALID, b"\xff\xd8\xff"),
    # I7: other formats, by their first bytes.
    _body("GIF without a frame", *_INVALID, b"GIF89a\x01\x00\x01\x00\x00\x00\x00"),
    _body("WebP without a frame", *_INVALID, b"RIFF\x00\x00\x00\x00WEBPVP8 "),
    _body("BMP without pixels", *_INVALID, b"BM" + bytes(12) + b"\x28" + bytes(39)),
    _body("two letters of a BMP", *_INVALID, b"BM\x00\x00\x00\x00"),
    _body("TIFF", *_FOREIGN, b"II*\x00\x08\x00\x00\x00"),
    _body("TIFF, the other end", *_FOREIGN, b"MM\x00*\x00\x00\x00\x08"),
    _body("ICO", *_FOREIGN, b"\x00\x00\x01\x00\x01\x00"),
    _body("PSD", *_FOREIGN, b"8BPS\x00\x01"),
    _body("JPEG 2000", *_FOREIGN, b"\x00\x00\x00\x0cjP  \r\n\x87\n"),
    _body("PostScript", *_FOREIGN, b"%!PS-Adobe-3.0 EPSF-3.0"),
    _body("PDF", *_FOREIGN, b"%PDF-1.7"),
    _body("SVG", *_FOREIGN, b"<svg/>"),
    _body("HTML", *_FOREIGN, b"<!doctype html>"),
    _body("HEIC", *_FOREIGN, b"\x00\x00\x00\x18ftypheic"),
    _body("AVIF", *_FOREIGN, b"\x00\x00\x00\x18ftypavif"),
    _body("BMP in runs", *_FOREIGN, _rle_bmp()),
    # I3, I4: pictures that are too large.
    _body(
        "50,000 x 50,000",
        413,
        "too_large",
        _PNG[:8]
        + _chunk(b"IHDR", b"\x00\x00\xc3\x50" * 2 + b"\x08" + bytes(4))
        + _PNG[33:],
    ),
    _body(
        "bytes of an image",
        413,
        "too_large",
        _PNG[:33] + _chunk(b"IDAT", bytes(_MAX_IMAGE)) + _PNG[33:],
    ),
    _body("bytes of a body", 413, "too_large", bytes(_MAX_BODY + 1)),
    # I12: types.
    _body(
        "form without a boundary",
        *_FOREIGN,
        b"x",
        **{"Content-Type": "multipart/form-data"},
    ),
    _body("lying PNG", *_INVALID, b"hello", **{"Content-Type": "image/png"}),
    _body("two encodings", *_FOREIGN, _PNG, **{"Content-Encoding": "identity, br"}),
]

_JSON = [
    # I11: base64.
    *[
        _as_json(f"base64 {text!r:.24}", json.dumps({"images": [{"b64": text}]}))
        for text in (
            "!!!!",
            "A",
            "A=A",
            _B64 + "!",
            _B64 + "=" + _B64,
            "é",
            "data:,",
            "data:image/png," + _B64,
        )
    ],
    *[
        Bad(
            f"base64 of no picture {text!r}",
            *_INVALID,
            body=json.dumps({"images": [{"b64": text}]}).encode(),
        )
        for text in ("AAA", "AA-_", "AAAA\n", " AAAA", "data:;base64,AAAA")
    ],
    Bad("no base64 at all", *_INVALID, body=b'{"images": [{"b64": ""}]}'),
    # I13: not JSON, or not such JSON.
    *[
        _as_json(f"{text!r:.40}", text)
        for text in (
            "{",
            "null",
            "1",
            '"x"',
            "[]",
            "{}",
            "x",
            '{"images"}',
            "{'images': []}",
            '{"images": []}',
            '{"images": null}',
            '{"images": {}}',
            '{"images": "x"}',
            '{"images": [null]}',
            '{"images": [1]}',
            '{"images": ["x"]}',
            '{"images": [[]]}',
            '{"images": [{}]}',
            '{"images": [{"b64": null}]}',
            '{"images": [{"b64": 1}]}',
            '{"images": [{"b64": ["x"]}]}',
            '{"images": [{"b64": NaN}]}',
            '{"images": [{"b64": Infinity}]}',
            '{"images": [{"b64": -Infinity}]}',
            '{"images": [{"b64": 1e999}]}',
            '{"images": [{"b64": "\\ud800"}]}',
            '{"images": [{"b64": "\\x"}]}',
            '{"images": [{"b64": "\x00"}]}',
            '{"images": [{"b64": "AAAA"}],}',
            '{"images": [], "images": []}',
            '{"images": [{"b64": "A", "b64": "A"}]}',
            '{"images": [{"b64": "AAAA"}]} x',
            '{"images": [{"b64": "AAAA", "top_k": 3}]}',
            '{"images": [{"b64": "AAAA"}], "topk": 3}',
            '{"images": [{"b64": "AAAA"}], "top_k": 0}',
            '{"images": [{"b64": "AAAA"}], "top_k": 1.5}',
            '{"images": [{"b64": "AAAA"}], "partial": "yes"}',
            '{"image": [{"b64": "AAAA"}]}',
            '{"instances": [{"b64": "AAAA"}]}',
            "[" * 500 + "]" * 500,
            '{"images": ' + "[" * 400 + "]" * 400 + "}",
            '{"images": ' + "9" * 5000 + "}",
        )
    ],
    _as_json("UTF-16", f'{{"images": [{{"b64": "{_B64}"}}]}}'.encode("utf-16")),
    _as_json("UTF-8 with a mark", b"\xef\xbb\xbf" + b'{"images": []}'),
    _as_json("Latin-1", '{"images": [{"b64": "é"}]}'.encode("latin-1")),
    # I14: much structure in few bytes; I16: the number of images.
    _as_json("100,000 deep", "[" * 100_000, 413),
    _as_json("many lists", b'{"images": [' + b"[]," * 300_000 + b"[]]}", 413),
    _as_json("many objects", b'{"images": [' + b"{}," * 300_000 + b"{}]}", 413),
    _as_json("33 images", json.dumps({"images": [{"b64": _B64}] * 33}), 413),
]

_FORMS = [
    _form("no parts", _END),
    _form("no file", _part(b"hello", None) + _END),
    _form("another boundary", b"--other\r\n\r\nx\r\n--other--\r\n"),
    _form("no end", _part(_PNG)),
    _form("cut in a header", b"--frontier\r\nContent-Dispo"),
    _form("part without headers", b"--frontier\r\n\r\nx\r\n" + _END),
    _form("part without a name", b"--frontier\r\nX: y\r\n\r\nx\r\n" + _END),
    _form("header without a colon", b"--frontier\r\nhello\r\n\r\nx\r\n" + _END),
    _form("text only", b"hello"),
    _form("misspelt option", _part(_PNG) + _field("topk", b"3") + _END),
    _form("option without a value", _part(_PNG) + _field("top_k", b"") + _END),
    _form(
        "an option twice",
        _part(_PNG) + _field("top_k", b"3") + _field("top_k", b"2") + _END,
    ),
    _form("name in Latin-1", _part(_PNG).replace(b"f.png", b"\xe9.png") + _END),
    _form("part without a disposition", b"--frontier\r\nA: b\r\n\r\nx\r\n" + _END),
    _form(
        "nested parts",
        _field("f", b"x").replace(
            b"\r\n\r\n", b"\r\nContent-Type: multipart/mixed\r\n\r\n"
        )
        + _END,
        *_FOREIGN,
    ),
    _form("empty file", _part(b"") + _END, *_INVALID),
    _form("text as a file", _part(b"hello") + _END, *_INVALID),
    _form("a TIFF as a file", _part(b"II*\x00") + _END, *_FOREIGN),
    _form("33 files", _part(_PNG) * 33 + _END, 413, "too_large"),
    _form("73 files", _part(_PNG) * 73 + _END, 413, "too_large"),
    _form("600 kB header", _part(_PNG, "f" * 600_000) + _END),
    Bad(
        "boundary of 20 kB",
        415,
        "unsupported_media_type",
        body=b"x",
        headers={"Content-Type": "multipart/form-data; boundary=" + "a" * 20_000},
    ),
]

_NAMES = [
    # I17: no such model, version or label.
    _missing("unknown model", "/v1/models/gone:classify"),
    _missing("unknown version", "/v1/models/mlp/versions/99:classify"),
    _missing("version 0", "/v1/models/mlp/versions/0:classify"),
    _missing("version of 18 digits", f"/v1/models/mlp/versions/{'9' * 18}:classify"),
    _missing("version of 19 digits", f"/v1/models/mlp/versions/{'9' * 19}:classify"),
    _missing("version -1", "/v1/models/mlp/versions/-1:classify"),
    _missing("unknown label", "/v1/models/mlp/labels/gone:classify"),
    _missing("version of an unknown model", "/v1/models/gone/versions/1:classify"),
    Bad("unknown model's status", 404, "model_not_found", "GET", "/v1/models/gone"),
    *[
        _named(f"version {version}", f"/v1/models/mlp/versions/{version}:classify")
        for version in (
            "1e30",
            "latest",
            "",
            "1.0",
            "+1",
            "%31%0a",
            "%D9%A1",
        )
    ],
    # I18: names that can be no model's, Triton's traversal names among them.
    *[
        _named(f"name {name!r:.24}", f"/v1/models/{name}:classify")
        for name in (
            "",
            ".",
            "..",
            "...",
            "%2e%2e",
            "%2e",
            "%00",
            "mlp%00",
            "%ff",
            "%c0%ae%c0%ae",
            "%20",
            "mlp%20",
            "%0a",
            "mlp%0a",
            "MLP",
            "m%c3%bcp",
            "-mlp",
            "_mlp",
            ".mlp",
            "%5c..%5cmlp",
            "..%5c..",
            "mlp;x",
            "mlp%3fx",
            "~",
            "~root",
            "$HOME",
            "%25%32%65",
            "%E2%80%AE",
            "x" * 65,
            "x" * 10_000,
            "..%00/".strip("/"),
        )
    ],
    *[
        _named(f"path {name!r:.24}", f"/v1/models/{name}:classify", 404)
        for name in (
            "../mlp",
            "../../etc/passwd",
            "..%2fmlp",
            "%2e%2e%2fmlp",
            "./mlp",
            "mlp/..",
            "mlp/../../mlp",
            "/etc/passwd",
            "%2fetc%2fpasswd",
            "mlp/",
            "mlp%2f",
            "mlp:x",
            "mlp%3aclassify",
            "..%252fmlp/1",
        )
        if not name.startswith("..%252f")
    ],
    *[
        Bad(
            f"status of {name!r:.24}",
            400,
            "invalid_request",
            "GET",
            f"/v1/models/{name}",
        )
        for name in ("..", "%2e%2e", "%00", "%ff", "x" * 10_000, "MLP", "%20")
    ],
]

_ADDRESSES = [
    *[
        Bad(f"address {path!r:.24}", 404, "not_found", "GET", path)
        for path in (
            "/nothing",
            "/v1",
            "/v1/",
            "/v1/models/",
            "/v1/models/mlp/",
            "/v3",
            "/livez/",
            "/LIVEZ",
            "/livez%00",
            "/v1/models/mlp/versions",
            "/v1/models/mlp/version/1",
            "/v1//models",
            "/page",
            "/page/",
            "/page/nothing.js",
            "/page/../app.py",
            "/page/%2e%2e/app.py",
            "/page/..%2fapp.py",
            "/page/..%5capp.py",
            "/page/%00",
            "/page/" + "x" * 10_000,
            "/%ff",
            "/%2e%2e/%2e%2e/etc/passwd",
            "/.git/config",
            "/static/x",
            "/favicon.ico",
            "/v1/models/mlp:regress",
            "/x" * 2000,
        )
    ],
    *[
        Bad(f"{method} {path}", 405, "method_not_allowed", method, path)
        for method, path in [
            ("HEAD", _CLASSIFY),
            ("PATCH", _CLASSIFY),
            ("DELETE", _CLASSIFY),
            ("GET", _EXPLAIN),
            ("PROPFIND", _EXPLAIN),
            ("POST", "/v1/models"),
            ("DELETE", "/v1/models/mlp"),
            ("PUT", "/v1/models/mlp"),
            ("PROPFIND", "/v1/models"),
            ("POST", "/livez"),
            ("POST", "/readyz"),
            ("TRACE", "/livez"),
            ("POST", "/"),
            ("PUT", "/"),
            ("POST", "/page/page.js"),
        ]
    ],
    *[
        Bad(
            f"?{query!r:.24}",
            400,
            "invalid_request",
            "POST",
            f"{_CLASSIFY}?{query}",
            _PNG,
        )
        for query in (
            "top_k=0",
            "top_k=-1",
            "top_k=x",
            "top_k=1.5",
            "top_k=1e3",
            "top_k=%20",
            "top_k=",
            "top_k=1_0",
            "top_k=%D9%A1",
            "top_k=NaN",
            "top_k=1&top_k=0",
            "top_k=%00",
            "top_k=2&top_k=4",
            "topk=3",
            "Top_K=3",
            "other=5",
            "utm_source=x",
            "=1",
            "partial=1",
            "abstain=true&abstain=false",
            "a=" + "x" * 5000,
            "&".join(f"a{number}=1" for number in range(20)),
        )
    ],
    *[
        Bad(f"GET {path}", 400, "invalid_request", "GET", path)
        for path in ("/v1/models?name=mlp", "/v1/models/mlp?top_k=3")
    ],
    Bad("explain partial", 400, "invalid_request", path=_EXPLAIN + "?partial=true"),
    Bad(
        "two values of an option",
        400,
        "invalid_request",
        path=_CLASSIFY + "?top_k=2",
        headers=_AS_JSON,
        body=json.dumps({"images": [{"b64": _B64}], "top_k": 3}).encode(),
    ),
    Bad(
        "explain two",
        400,
        "invalid_request",
        path=_EXPLAIN,
        headers=_AS_JSON,
        body=json.dumps({"images": [{"b64": _B64}] * 2}).encode(),
    ),
    Bad("explain nothing", 400, "invalid_request", path=_EXPLAIN),
    Bad("explain text", *_INVALID, path=_EXPLAIN, body=b"hello"),
    Bad(
        "explain elsewhere",
        404,
        "model_not_found",
        path="/v1/models/gone:explain",
        body=_PNG,
    ),
]

_TABLE = [*_BODIES, *_JSON, *_FORMS, *_NAMES, *_ADDRESSES]


@dataclass(frozen=True)
class Refusal:
    """What of an answer both doors must have in common."""

    status: int
    code: str
    message: str
    allow: str | None
    retry_after: str | None
    content_type: str | None


def _refusal(status: int, headers: Any, body: bytes) -> Refusal:
    # An answer to HEAD has no body.
    error = json.loads(body)["error"] if body else {"code": "", "message": ""}
    found = {name.lower(): value for name, value in headers}
    assert not body or error["request_id"] == found["x-request-id"]
    wanted = (found.get(name) for name in ("allow", "retry-after", "content-type"))
    return Refusal(status, error["code"], error["message"], *wanted)


@pytest.fixture(scope="module")
def app(published: Path) -> Iterator[Any]:
    """A test client of Flask's application over the real engine."""
    engine = EmbeddedEngine(Repository(published), "float32", poll_s=60)
    service = Service(engine, DEFAULT_LIMITS, _MAX_BATCH)
    settings = Settings(max_body_bytes=_MAX_BODY, max_batch=_MAX_BATCH)
    held = HeldBytes(settings.max_held_bytes)
    handlers = Handlers(service, Metrics(), ApiKeys(""), settings, held)
    yield create_app(settings, handlers).test_client()
    engine.close()


def _through_the_front(gateway: Any, bad: Bad) -> Refusal:
    answer = gateway.request(bad.method, bad.path, bad.body, bad.headers)
    return _refusal(answer.status, answer.headers.items(), answer.body)


def _through_flask(app: Any, bad: Bad) -> Refusal:
    path, _, query = bad.path.partition("?")
    # As PEP 3333 has it; the test client's own reading of an address tidies it up.
    exact = {
        "PATH_INFO": unquote_to_bytes(path).decode("latin-1"),
        "QUERY_STRING": query,
    }
    response = app.open(
        "/",
        method=bad.method,
        data=bad.body,
        headers=bad.headers,
        environ_overrides=exact,
        follow_redirects=False,
    )
    return _refusal(response.status_code, response.headers.items(), response.data)


@pytest.mark.parametrize(
    "bad", _TABLE, ids=lambda bad: bad.name.encode("unicode_escape").decode()
)
def test_refusals(described: DescribedGateway, app: Any, bad: Bad) -> None:
    """Each bad request is refused with its status and code, alike at both doors.

    The refusal has the form that the OpenAPI document gives.
    """
    front, flask = _through_the_front(described, bad), _through_flask(app, bad)
    code = bad.code if bad.method != "HEAD" else ""

    assert (bad.status, code) == (front.status, front.code)
    assert front == flask
    for secret in ("0x", "Traceback", "/work", "site-packages", ".py"):
        assert secret not in front.message


def test_every_refusal_left_the_gateway_well(gateway: Any) -> None:
    """After all of these, a picture is still classified."""
    assert gateway.request("POST", _CLASSIFY, _PNG).status == 200


@pytest.mark.parametrize(("excess", "status"), [(0, 200), (1, 413)])
def test_image_limit_is_exact(gateway: Any, excess: int, status: int) -> None:
    """An image of the limit is decoded; one byte more is not."""
    body = _png_of(_MAX_IMAGE + excess)

    assert status == gateway.request("POST", _CLASSIFY, body).status


_HEAD = f"POST {_CLASSIFY} HTTP/1.1\r\nHost: x\r\n".encode()


@pytest.mark.parametrize("attempt", range(5))
@pytest.mark.parametrize("framing", ["announced", "chunked"])
def test_refusal_reaches_a_client_that_is_still_sending(
    gateway: Any, framing: str, attempt: int
) -> None:
    """413 is read by a client that goes on sending; the connection is not just cut."""
    if framing == "announced":
        parts = [b"Content-Length: 30000000\r\n\r\n", *[bytes(1_000_000)] * 30]
    else:
        chunk = b"%x\r\n%b\r\n" % (1_000_000, bytes(1_000_000))
        parts = [b"Transfer-Encoding: chunked\r\n\r\n", *[chunk] * 30, b"0\r\n\r\n"]

    heard = converse(gateway.port, _HEAD, *parts)

    assert heard.statuses == (413,)
    assert b'"too_large"' in heard.text


# The gateway discards the rest of the film for a second; beside other tests, curl needs
# longer to send it.
@pytest.mark.alone
@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")
def test_curl_reads_the_refusal_of_a_large_file(gateway: Any, tmp_path: Path) -> None:
    """A user who sends a film reads why it was refused."""
    (tmp_path / "film").write_bytes(bytes(60_000_000))
    command = ["curl", "-sS", "-m", "20", "-H", "Expect:", "--data-binary", "@film"]
    done = subprocess.run(
        [*command, gateway.url + _CLASSIFY],
        cwd=tmp_path,
        capture_output=True,
        check=False,
    )

    assert b'"too_large"' in done.stdout, done.stderr


@pytest.mark.parametrize("sent", [0, 100, _MAX_BODY + 1])
def test_rest_of_a_refused_body_is_no_request(gateway: Any, sent: int) -> None:
    """What follows an early refusal is never taken for another request."""
    smuggled = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"
    head = _HEAD + b"Content-Length: %d\r\n\r\n" % (_MAX_BODY + 1)

    heard = converse(gateway.port, head + bytes(sent) + smuggled * 3)

    assert heard.statuses == (413,)


def test_overload(
    start_gateway: Callable[..., Any], published: Path, encode: Encode
) -> None:
    """What cannot be answered is refused at once; probes are answered meanwhile."""
    rng = np.random.default_rng(0)
    large = encode(rng.integers(0, 256, (1500, 1500, 3), np.uint8), "JPEG")
    answers: list[Any] = []
    with start_gateway(published, "--threads", "1", "--queue", "0") as own:
        start = threading.Barrier(9)

        def send() -> None:
            start.wait()
            for _ in range(3):
                answers.append(own.request("POST", _CLASSIFY, large))

        clients = [threading.Thread(target=send) for _ in range(8)]
        for client in clients:
            client.start()
        start.wait()
        probes = []
        while any(client.is_alive() for client in clients):
            began = time.monotonic()
            probes.append(
                (own.request("GET", "/livez").status, time.monotonic() - began)
            )
        for client in clients:
            client.join()
        after = own.request("POST", _CLASSIFY, large).status

    refused = [answer for answer in answers if answer.status != 200]
    assert {200, 503} == {answer.status for answer in answers}
    assert {"overloaded"} == {answer.json["error"]["code"] for answer in refused}
    assert {"1"} == {answer.headers["retry-after"] for answer in refused}
    assert {200} == {status for status, _ in probes}
    assert after == 200
    within(max(seconds for _, seconds in probes), 1)


@pytest.mark.parametrize(
    ("host", "status"),
    [
        (b"Host: x", 200),
        (b"Host: ..", 200),
        (b"Host: example.org:8080", 200),
        (b"Host: [::1]:8080", 200),
        (b"Host:", 200),
        (b"Host: a b", 400),
        (b"Host: a/b", 400),
        (b"Host: user@a", 400),
        (b"Host: a:b", 400),
    ],
)
def test_host_must_be_one(gateway: Any, host: bytes, status: int) -> None:
    """Any well-formed host means the same; a malformed one is refused (RFC 9112, 3.2)."""
    head = b"GET /v1/models HTTP/1.1\r\nConnection: close\r\n" + host + b"\r\n\r\n"

    heard = converse(gateway.port, head)

    assert heard.statuses == (status,)


@pytest.mark.parametrize(
    ("path", "methods"),
    [
        ("/v1/models/mlp:classify", {"POST", "OPTIONS"}),
        ("/v1/models", {"GET", "HEAD", "OPTIONS"}),
    ],
)
def test_options_name_the_methods(gateway: Any, path: str, methods: set[str]) -> None:
    """OPTIONS is answered with the methods of an address."""
    answer = gateway.request("OPTIONS", path)

    assert 200 == answer.status
    assert methods == set(answer.headers["allow"].split(", "))


def test_range_that_cannot_be_had(gateway: Any) -> None:
    """A range beyond the file is not called a missing address."""
    answer = gateway.request("GET", "/", headers={"Range": "bytes=99999999-"})

    assert answer.status in (200, 416)


def test_bytes_behind_the_end_of_a_png(gateway: Any) -> None:
    """What stands behind a PNG's last chunk is not counted as chunks."""
    assert gateway.request("POST", _CLASSIFY, _PNG + bytes(20_000)).status == 200


def test_picture_beside_a_failed_one(gateway: Any) -> None:
    """One bad picture refuses the request as a whole, and the error names it."""
    body = _part(_PNG) + _part(b"hello", "notes.txt") + _END

    answer = gateway.request("POST", _CLASSIFY, body, _AS_FORM)

    error = answer.json["error"]
    assert (400, "invalid_image", 1) == (answer.status, error["code"], error["index"])
    assert error["message"].startswith("Image 2 of 2 (notes.txt): ")


def test_client_that_leaves_in_the_middle(gateway: Any) -> None:
    """Clients that hang up while sending leave nothing behind."""
    for _ in range(50):
        connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=30)
        connection.putrequest("POST", _CLASSIFY)
        connection.putheader("Content-Length", "1000")
        connection.endheaders(b"\x89PNG")
        connection.close()

    assert gateway.request("POST", _CLASSIFY, _PNG).status == 200
