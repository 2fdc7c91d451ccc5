"""The requests, encoded before the load begins so that sending one costs little."""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from inkling.v1 import classifier_pb2 as pb
from inkling_loadtest.load.pictures import LabelledPicture

__all__ = ["Body", "Deck", "Shot", "grpc_shots", "http_shots"]

_BOUNDARY = "inkling-loadtest-8f2c41d0"
_FORM_FILES = 3
_NUM_GROUPS = 40
_LENGTH = 2000

_Payload = TypeVar("_Payload")
_Pack = Callable[[Sequence[LabelledPicture]], _Payload]


@dataclass(frozen=True, slots=True)
class Body:
    """The body of an HTTP request and what is said of it."""

    content: bytes
    headers: dict[str, str]


@dataclass(frozen=True, slots=True)
class Shot(Generic[_Payload]):
    """A request: its kind, the places of its pictures, and what is sent."""

    kind: str
    pictures: tuple[int, ...]
    payload: _Payload


class Deck(Generic[_Payload]):
    """Requests in an order that is the same for the same seed, over and over."""

    def __init__(
        self,
        shots: Mapping[str, Sequence[Shot[_Payload]]],
        mix: Mapping[str, int],
        seed: str,
    ) -> None:
        """Take the shots of each kind, and how often each kind comes."""
        chance = random.Random(seed)
        weights = [mix[kind] for kind in shots]
        kinds = chance.choices(list(shots), weights, k=_LENGTH)
        self._order = [chance.choice(shots[kind]) for kind in kinds]
        self._next = 0

    def draw(self) -> Shot[_Payload]:
        """Return the next request."""
        shot = self._order[self._next]
        self._next = (self._next + 1) % _LENGTH
        return shot


def http_shots(
    pictures: Sequence[LabelledPicture], kinds: Container[str], batch: int, seed: str
) -> dict[str, list[Shot[Body]]]:
    """Return requests of the kinds `image`, `form`, `json` and `batch`, by kind."""
    packs: Mapping[str, tuple[_Pack[Body], int]] = {
        "image": (_image, 1),
        "form": (_form, _FORM_FILES),
        "json": (_json, 1),
        "batch": (_json, batch),
    }
    return _shots(pictures, kinds, packs, seed)


def grpc_shots(
    pictures: Sequence[LabelledPicture],
    kinds: Container[str],
    batch: int,
    seed: str,
    model: str,
) -> dict[str, list[Shot[pb.ClassifyRequest]]]:
    """Return requests of the kinds `unary`, `stream` and `batch`, by kind."""

    def pack(some: Sequence[LabelledPicture]) -> pb.ClassifyRequest:
        return pb.ClassifyRequest(model=model, images=[p.image for p in some], top_k=1)

    packs = {"unary": (pack, 1), "stream": (pack, 1), "batch": (pack, batch)}
    return _shots(pictures, kinds, packs, seed)


def _shots(
    pictures: Sequence[LabelledPicture],
    kinds: Container[str],
    packs: Mapping[str, tuple[_Pack[_Payload], int]],
    seed: str,
) -> dict[str, list[Shot[_Payload]]]:
    return {
        kind: [
            Shot(kind, group, pack([pictures[place] for place in group]))
            for group in _groups(len(pictures), size, f"{seed} {kind}")
        ]
        for kind, (pack, size) in packs.items()
        if kind in kinds
    }


def _groups(count: int, size: int, seed: str) -> list[tuple[int, ...]]:
    """Return places of pictures: each alone, or groups in which neighbours differ."""
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
    # As curl --data-binary sends it: the server knows a picture by its first bytes.
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
