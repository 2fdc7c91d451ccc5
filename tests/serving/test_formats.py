# SPDX-License-Identifier: Apache-2.0
"""A picture gets the answer of its PNG in every format, on every path."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import numpy as np
import pytest
from PIL import Image

import inkling
from inkling.model.repository import Repository
from tests.support.picture_files import encoded

_CLASSIFY = "/v1/models/mlp:classify?top_k=10"
_JSON = {"Content-Type": "application/json"}
_FORM = {"Content-Type": "multipart/form-data; boundary=b"}
_FIELDS = {"Content-Type": "application/x-www-form-urlencoded"}


@pytest.fixture(scope="module")
def page(sample: np.ndarray) -> Image.Image:
    """A digit on paper, which has to be found, with a transparent corner."""
    grey = 250 - np.kron(sample, np.ones((9, 9), np.uint8)) // 2
    picture = Image.fromarray(grey).convert("RGBA")
    picture.paste((0, 0, 0, 0), (0, 0, 20, 20))
    return picture


def _as_gif(page: Image.Image) -> bytes:
    grey = page.convert("RGB").convert("L").point(lambda value: max(value, 1))
    grey.paste(0, (0, 0, 20, 20))
    return encoded(grey, "GIF", transparency=0)


_FORMATS: dict[str, Callable[[Image.Image], bytes]] = {
    "WebP": lambda page: encoded(page, "WEBP", lossless=True, exact=True),
    "GIF": _as_gif,
    "BMP": lambda page: encoded(page.convert("RGB"), "BMP"),
}


def _as_png(name: str, page: Image.Image) -> bytes:
    return encoded(page.convert("RGB") if name == "BMP" else page, "PNG")


def _part(content: bytes, more: str) -> bytes:
    head = f'--b\r\nContent-Disposition: form-data; name="x"{more}\r\n\r\n'
    return head.encode() + content + b"\r\n--b--\r\n"


def _text(image: bytes) -> str:
    return base64.b64encode(image).decode()


_BODIES: dict[str, Callable[[bytes], tuple[bytes, dict[str, str]]]] = {
    "bare": lambda image: (image, {}),
    "bare, as curl names it": lambda image: (image, _FIELDS),
    "bare, as JSON": lambda image: (image, _JSON),
    "file of a form": lambda image: (_part(image, '; filename="x"'), _FORM),
    "field of a form": lambda image: (_part(image, ""), _FORM),
    "base64 of a form": lambda image: (_part(_text(image).encode(), ""), _FORM),
    "JSON": lambda image: (
        json.dumps({"images": [{"b64": _text(image)}]}).encode(),
        _JSON,
    ),
    "data: URL in JSON": lambda image: (
        json.dumps(
            {"images": [{"b64": f"data:image/x;base64,{_text(image)}"}]}
        ).encode(),
        _JSON,
    ),
    "data: URL": lambda image: (f"data:image/x;base64,{_text(image)}".encode(), {}),
    "base64": lambda image: (_text(image).encode(), {}),
    "base64url, as curl names it": lambda image: (
        base64.urlsafe_b64encode(image).rstrip(b"="),
        _FIELDS,
    ),
    "base64 in lines": lambda image: (base64.encodebytes(image), {}),
    "field": lambda image: (urlencode({"image": _text(image)}).encode(), _FIELDS),
}


@pytest.mark.parametrize("name", _FORMATS)
def test_http(name: str, gateway: Any, page: Image.Image) -> None:
    """Every form of a body has the answer of the PNG, to the last digit."""
    image = _FORMATS[name](page)
    expected = gateway.request("POST", _CLASSIFY, _as_png(name, page)).json["results"]

    for form, make in _BODIES.items():
        answer = gateway.request("POST", _CLASSIFY, *make(image))
        assert (form, 200) == (form, answer.status), answer.body
        assert (form, expected) == (form, answer.json["results"])


@pytest.mark.parametrize("name", _FORMATS)
def test_other_protocols(name: str, gateway: Any, page: Image.Image) -> None:
    """TensorFlow Serving's REST and the Open Inference Protocol read it, too."""
    image, png = _FORMATS[name](page), _as_png(name, page)

    def scores(picture: bytes) -> list[Any]:
        rows = json.dumps({"instances": [{"b64": _text(picture)}]}).encode()
        data = {"name": "inputs", "datatype": "BYTES", "shape": [1]}
        tensor = {"inputs": [{**data, "data": [_text(picture)]}]}
        raw = {"Inference-Header-Content-Length": "0"}
        answers = [
            gateway.request("POST", "/v1/models/mlp:predict", rows),
            gateway.request(
                "POST", "/v2/models/mlp/infer", json.dumps(tensor).encode()
            ),
            gateway.request("POST", "/v2/models/mlp/infer", picture, raw),
        ]
        assert [200] * 3 == [answer.status for answer in answers]
        return [
            answers[0].json["predictions"],
            answers[1].json["outputs"][0]["data"],
            answers[2].body[-40:],
        ]

    assert scores(png) == scores(image)


@pytest.mark.parametrize("name", _FORMATS)
def test_library(
    name: str, gateway: Any, published: Path, page: Image.Image, tmp_path: Path
) -> None:
    """Bytes, a path, a file and a Pillow image are one picture, near and far."""
    image, png = _FORMATS[name](page), _as_png(name, page)
    path = tmp_path / "picture"
    path.write_bytes(image)
    loaded = Image.open(io.BytesIO(image))
    loaded.load()
    files = Repository(published).newest("mlp").tflite("float32")
    for target in (gateway.grpc_target, gateway.url, str(files)):
        model = {} if target == str(files) else {"model": "mlp"}
        with inkling.connect(target, **model) as classifier:
            expected = classifier.classify(png, top_k=10).top
            pictures = (image, path, str(path), io.BytesIO(image), loaded)
            for picture in (*pictures, Image.open(io.BytesIO(image))):
                found = classifier.classify(picture, top_k=10).top
                assert expected == found, (target, type(picture))


def test_an_animation_is_its_first_frame(gateway: Any, page: Image.Image) -> None:
    """A sticker or a GIF has one answer: that of its first frame."""
    first = page.convert("RGB").convert("L")
    others = [Image.new("L", page.size, value) for value in (9, 200)]
    still = gateway.request("POST", _CLASSIFY, encoded(first, "PNG")).json["results"]

    for kind in ("GIF", "WEBP"):
        options = {"lossless": True} if kind == "WEBP" else {}
        image = encoded(first, kind, save_all=True, append_images=others, **options)
        assert still == gateway.request("POST", _CLASSIFY, image).json["results"]


def test_the_formats_that_are_not_read_are_named(gateway: Any) -> None:
    """The message names the format that came, and those that are read."""
    for image, name in (
        (b"\x00\x00\x00\x18ftypheic\0\0\0\0mif1heic", "HEIC"),
        (b"\x00\x00\x00\x1cftypmif1\0\0\0\0mif1avifmiaf", "AVIF"),
        (b"\x00\x00\x00\x18ftypisom\0\0\0\0isommp42", "a video"),
        (b"II*\0\x08\0\0\0", "TIFF"),
    ):
        answer = gateway.request("POST", _CLASSIFY, image)
        assert 415 == answer.status
        expected = f"The picture is {name}; expected PNG, JPEG, WebP, GIF or BMP."
        assert answer.json["error"]["message"].startswith(expected)
