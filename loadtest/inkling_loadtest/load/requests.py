# SPDX-License-Identifier: Apache-2.0
"""The requests, encoded before the load begins, so that sending one costs little."""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from inkling.v1 import classifier_pb2 as pb
from inkling_loadtest.load.pictures import LabelledPicture

__all__ = [
    "Body",
    "PreparedRequest",
    "RequestSequence",
    "grpc_requests",
    "http_requests",
]

_BOUNDARY = "inkling-loadtest-8f2c41d0"
_FORM_FILES = 3
_NUM_GROUPS = 40
_LENGTH = 2000

_Payload = TypeVar("_Payload")
_Pack = Callable[[Sequence[LabelledPicture]], _Payload]


@dataclass(frozen=True, slots=True)
class Body:
    """The body of an HTTP request and the headers that describe it."""

    content: bytes
    headers: dict[str, str]


@dataclass(frozen=True, slots=True)
class PreparedRequest(Generic[_Payload]):
    """An encoded request.

    Attributes:
        kind: One of the kinds in `options.MIXES`.
        pictures: The places of its pictures in the list of all pictures.
        payload: The message or the body that is sent.
    """

    kind: str
    pictures: tuple[int, ...]
    payload: _Payload


class RequestSequence(Generic[_Payload]):
    """An endless sequence of requests, the same for the same seed."""

    def __init__(
        self,
        requests: Mapping[str, Sequence[PreparedRequest[_Payload]]],
        mix: Mapping[str, int],
        seed: str,
    ) -> None:
        """Take the requests of each kind, and the weights of the kinds."""
        chance = random.Random(seed)
        weights = [mix[kind] for kind in requests]
        kinds = chance.choices(list(requests), weights, k=_LENGTH)
        self._order = [chance.choice(requests[kind]) for kind in kinds]
        self._next = 0

    def next(self) -> PreparedRequest[_Payload]:
        """Return the next request."""
        request = self._order[self._next]
        self._next = (self._next + 1) % _LENGTH
        return request


def http_requests(
    pictures: Sequence[LabelledPicture], kinds: Container[str], batch: int, seed: str
) -> dict[str, list[PreparedRequest[Body]]]:
    """Return requests of the kinds `image`, `form`, `json` and `batch`, by kind."""
    packs: Mapping[str, tuple[_Pack[Body], int]] = {
        "image": (_image, 1),
        "form": (_form, _FORM_FILES),
        "json": (_json, 1),
        "batch": (_json, batch),
    }
    return _requests(pictures, kinds, packs, seed)


def grpc_requests(
    pictures: Sequence[LabelledPicture],
    kinds: Container[str],
    batch: int,
    seed: str,
    model: str,
    threshold: float | None = None,
) -> dict[str, list[PreparedRequest[pb.ClassifyRequest]]]:
    """Return requests of the kinds `unary`, `stream` and `batch`, by kind."""

    def pack(some: Sequence[LabelledPicture]) -> pb.ClassifyRequest:
        images = [picture.image for picture in some]
        return pb.ClassifyRequest(
            model=model, images=images, top_k=1, threshold=threshold
        )

    packs = {"unary": (pack, 1), "stream": (pack, 1), "batch": (pack, batch)}
    return _requests(pictures, kinds, packs, seed)


def _requests(
    pictures: Sequence[LabelledPicture],
    kinds: Container[str],
    packs: Mapping[str, tuple[_Pack[_Payload], int]],
    seed: str,
) -> dict[str, list[PreparedRequest[_Payload]]]:
    return {
        kind: [
            PreparedRequest(kind, group, pack([pictures[place] for place in group]))
            for group in _groups(len(pictures), size, f"{seed} {kind}")
        ]
        for kind, (pack, size) in packs.items()
        if kind in kinds
    }


def _groups(count: int, size: int, seed: str) -> list[tuple[int, ...]]:
    """Return the places of the pictures of each request, one or `size` of them."""
    if size == 1:
        return [(place,) for place in range(count)]
    chance = random.Random(seed)
    return [
        tuple(chance.choices(range(count), k=size))
        if size > count
        else tuple(chance.sample(range(count), k=size))
        for _ in range(_NUM_GROUPS)
    ]


def _image(pictures: Sequence[LabelledPicture]) -> Body:
    # The type that curl --data-binary sends; the server reads the first bytes.
    headers = {"Content-Type": "application/octet-stream"}
    return Body(pictures[0].image, headers)


def _form(pictures: Sequence[LabelledPicture]) -> Body:
    parts = [
        f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="{place}"; '
        f'filename="{place}.png"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n".encode()
        + picture.image
        + b"\r\n"
        for place, picture in enumerate(pictures)
    ]
    content = b"".join([*parts, f"--{_BOUNDARY}--\r\n".encode()])
    return Body(content, {"Content-Type": f"multipart/form-data; boundary={_BOUNDARY}"})


def _json(pictures: Sequence[LabelledPicture]) -> Body:
    images = [{"b64": base64.b64encode(p.image).decode()} for p in pictures]
    content = json.dumps({"images": images}).encode()
    return Body(content, {"Content-Type": "application/json"})
