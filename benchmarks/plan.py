# SPDX-License-Identifier: Apache-2.0
"""The plan of the benchmark: the servers, and the load that each of them gets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.closed_loop import http_request
from benchmarks.models import SMALL, Picture
from benchmarks.photo_model import NAME as PHOTO
from inkling.model.repository import Repository
from inkling.v1.classifier_pb2 import ClassifyRequest

__all__ = [
    "CNN_32",
    "GRPC_32",
    "MLP_1",
    "MLP_32",
    "MLP_64",
    "PHOTOS",
    "PHOTO_GROUPS",
    "PICTURES",
    "PICTURE_GROUPS",
    "REMOTE_32",
    "Cell",
    "ServerPlan",
    "cells",
    "servers",
    "stand_in",
]

_UVICORN = ("uvicorn", "--port", "{http}", "--log-level", "warning", "--no-access-log")

_ONE = ("--workers", "1")

MLP_32, MLP_1, MLP_64 = (
    f"MLP, 28 px, {n} connection{'s' * (n > 1)}" for n in (32, 1, 64)
)
CNN_32 = "CNN, 28 px, 32 connections"
GRPC_32 = "MLP, 28 px, gRPC, 32 connections"
# The pictures that people have, by the names that `benchmarks.models.pictures` gives.
PICTURES = ("280 px PNG", "640 px JPEG", "12 MP JPEG")
PICTURE_GROUPS = {name: f"MLP, {name}, 8 connections" for name in PICTURES}
# The same for a MobileNetV2 of 224 px, by the names that `benchmarks.models.photos`
# gives.
PHOTOS = {"640x480 JPEG": 16, "12 MP JPEG": 8}
PHOTO_GROUPS = {
    name: f"MobileNetV2, {name}, {n} connections" for name, n in PHOTOS.items()
}
REMOTE_32 = "MLP, 28 px, by TensorFlow Serving's protocol, 32 connections"

# The columns are group, name, server, load and connections. Rows whose ratio is
# reported are near each other.
_ROWS: tuple[tuple[str, str, str, str, int], ...] = (
    (MLP_32, "FastAPI + SavedModel", "fastapi_tf", "def", 32),
    (MLP_32, "Inkling", "ours", "mlp", 32),
    (MLP_32, "Inkling, uncounted", "uncounted", "mlp", 32),
    (MLP_32, "FastAPI + LiteRT, async def", "fastapi_lite", "async", 32),
    (MLP_32, "FastAPI + LiteRT, def", "fastapi_lite", "def", 32),
    (MLP_32, "Inkling int8", "int8", "mlp", 32),
    (MLP_32, "Inkling without the classification", "idle", "mlp", 32),
    (MLP_32, "bare uvicorn", "echo", "nothing", 32),
    (MLP_32, "Inkling, a worker a core", "cores", "mlp", 32),
    (MLP_32, "Flask + model.predict", "tutorial", "predict", 32),
    (MLP_1, "FastAPI + SavedModel", "fastapi_tf", "def", 1),
    (MLP_1, "Inkling", "ours", "mlp", 1),
    (MLP_1, "Inkling, 32 pictures in one", "ours", "many", 1),
    (MLP_1, "FastAPI + LiteRT, async def", "fastapi_lite", "async", 1),
    (MLP_1, "FastAPI + LiteRT, def", "fastapi_lite", "def", 1),
    (MLP_64, "FastAPI + SavedModel", "fastapi_tf", "def", 64),
    (MLP_64, "Inkling", "ours", "mlp", 64),
    (MLP_64, "FastAPI + LiteRT, async def", "fastapi_lite", "async", 64),
    (CNN_32, "Inkling", "ours", "cnn", 32),
    (CNN_32, "FastAPI + SavedModel", "fastapi_cnn", "def", 32),
    (CNN_32, "Inkling int8", "int8", "cnn", 32),
    (GRPC_32, "Inkling", "ours", "grpc", 32),
    (GRPC_32, "Inkling without the classification", "idle", "grpc", 32),
    (GRPC_32, "bare grpc.server", "grpc_echo", "grpc", 32),
    *(
        row
        for name, group in PICTURE_GROUPS.items()
        for row in (
            (group, "Inkling, HTTP", "sample", f"{name} sample", 8),
            (group, "FastAPI + LiteRT, async def", "fastapi_lite", f"{name} async", 8),
            (group, "Inkling, gRPC", "sample", f"{name} grpc", 8),
            (group, "Inkling, HTTP, digit contract", "ours", f"{name} mlp", 8),
        )
    ),
    *(
        (group, who, server, f"{name} {load}", PHOTOS[name])
        for name, group in PHOTO_GROUPS.items()
        for who, server, load in (
            ("Inkling", "photo", "photo"),
            ("FastAPI + LiteRT, async def", "fastapi_photo_lite", "photo async"),
            ("FastAPI + LiteRT, def", "fastapi_photo_lite", "photo def"),
            ("FastAPI + SavedModel", "fastapi_photo_tf", "photo def"),
            ("Inkling int8", "photo_int8", "photo"),
            ("Inkling, TensorFlow Serving's protocol", "photo_remote", "photo"),
        )
    ),
    (REMOTE_32, "one each, 1 at a time", "remote_single", "mlp", 32),
    (REMOTE_32, "coalesced", "remote", "mlp", 32),
    (REMOTE_32, "one each, 16 at a time", "remote_each", "mlp", 32),
)


@dataclass(frozen=True)
class ServerPlan:
    """The start of a server.

    Attributes:
        command: The arguments after `python -m`.
        model: The SavedModel or TFLite file that a peer serves, or None.
        cores: `server` for the servers' core, `generator` for the generators' core, or
            `all`.
    """

    command: tuple[str, ...]
    model: Path | None = None
    cores: str = "server"


@dataclass(frozen=True)
class Cell:
    """One measurement: a server under one kind of load.

    Attributes:
        group: What is sent: cells of a group answer the same.
        name: Who answers, as the report says it.
        server: Its key.
        request: The whole HTTP request, or the message.
        expected: What must stand in the answer.
        connections: How many requests are under way.
        client: What sends it: `http` or `grpc`.
    """

    group: str
    name: str
    server: str
    request: bytes
    expected: bytes
    connections: int
    client: str = "http"


def stand_in(models_dir: Path, model: str) -> ServerPlan:
    """Return the stand-in for TensorFlow Serving, which uses the generators' core."""
    command = ("benchmarks.peers.tensorflow_serving", str(models_dir), model, "{grpc}")
    return ServerPlan(command, cores="generator")


def servers(
    models_dir: Path, sample_dir: Path, photo_dir: Path, backends: tuple[int, int]
) -> Mapping[str, ServerPlan]:
    """Return all servers.

    Args:
        models_dir: The repository with the digit models.
        sample_dir: The repository with the MLP under the sample contract.
        photo_dir: The repository with the MobileNetV2.
        backends: The ports of TensorFlow Serving's stand-ins with the MLP, and with the
            MobileNetV2.
    """
    repository = Repository(models_dir)
    serve = _serve(models_dir)
    one = (*serve, *_ONE)
    remote = (*one, *_engine("mlp", backends[0]))
    fastapi = (*_UVICORN, "benchmarks.peers.fastapi_app:app")
    flask = ("flask", "--app", "benchmarks.peers.flask_app", "run", "--port", "{http}")
    mlp, cnn = repository.newest("mlp"), repository.newest("cnn")
    lite = mlp.tflite("float32")
    photo = (*_serve(photo_dir), *_ONE)
    photo_files = Repository(photo_dir).newest(PHOTO)
    photo_remote = (*photo, *_engine(PHOTO, backends[1]))
    return {
        "ours": ServerPlan(("inkling", *one)),
        "int8": ServerPlan(("inkling", *one, "--tflite-format", "int8")),
        "cores": ServerPlan(("inkling", *serve), cores="all"),
        "sample": ServerPlan(("inkling", *_serve(sample_dir), *_ONE)),
        "uncounted": ServerPlan(("benchmarks.variants", "metrics", *one)),
        "idle": ServerPlan(("benchmarks.variants", "work", *one)),
        "fastapi_tf": ServerPlan(fastapi, mlp.path),
        "fastapi_cnn": ServerPlan(fastapi, cnn.path),
        "fastapi_lite": ServerPlan(fastapi, lite),
        "tutorial": ServerPlan(flask, mlp.path),
        "photo": ServerPlan(("inkling", *photo)),
        "photo_int8": ServerPlan(("inkling", *photo, "--tflite-format", "int8")),
        "photo_remote": ServerPlan(("inkling", *photo_remote)),
        "fastapi_photo_tf": ServerPlan(fastapi, photo_files.path),
        "fastapi_photo_lite": ServerPlan(fastapi, photo_files.tflite("float32")),
        "grpc_echo": ServerPlan(("benchmarks.peers.echo", "{grpc}")),
        "echo": ServerPlan(
            (*_UVICORN, "--lifespan", "off", "benchmarks.peers.echo:app")
        ),
        "remote": ServerPlan(("inkling", *remote)),
        "remote_single": ServerPlan(("inkling", *remote, "--engine-batch", "1")),
        "remote_each": ServerPlan(("benchmarks.variants", "coalescing", *remote)),
    }


def _serve(models_dir: Path) -> tuple[str, ...]:
    """Return the arguments of `inkling` for a gateway."""
    ports = ("--http-port", "{http}", "--grpc-port", "{grpc}", "--log-level", "warning")
    return ("serve", "--models-dir", str(models_dir), *ports)


def _engine(model: str, port: int) -> tuple[str, ...]:
    """Return the options of a gateway in front of TensorFlow Serving's stand-in."""
    engine = ("--engine", "tensorflow_serving", "--served-models", model)
    return (*engine, "--tensorflow-serving", f"127.0.0.1:{port}")


def cells(found: Mapping[str, Picture], photos: Mapping[str, bytes]) -> list[Cell]:
    """Return all measurements, in the order in which each round makes them."""
    loads = {**_loads(found), **_photo_loads(photos)}
    return [
        Cell(group, name, server, *loads[load], connections, _client(load))
        for group, name, server, load, connections in _ROWS
    ]


def _loads(found: Mapping[str, Picture]) -> Mapping[str, tuple[bytes, bytes]]:
    """Return the requests by name, each with what its answer must hold."""
    small = found[SMALL]
    loads = {"nothing": (http_request("/", small.image), b"")}
    for size, picture in found.items():
        prefix = "" if size == SMALL else f"{size} "
        ours, by_hand = _answer(picture.label), _answer(picture.label_as_sample)
        for name, model, expected in (
            ("mlp", "mlp", ours),
            ("cnn", "cnn", b'"label":'),
            ("sample", "mlp", by_hand),
        ):
            path = f"/v1/models/{model}:classify"
            loads[prefix + name] = http_request(path, picture.image), expected
        for path in ("def", "async", "predict"):
            loads[prefix + path] = http_request(f"/{path}", picture.image), b'"label"'
        message = ClassifyRequest(model="mlp", images=[picture.image])
        loads[prefix + "grpc"] = message.SerializeToString(), b""
    many = _form("/v1/models/mlp:classify", [small.image] * 32)
    loads["many"] = many, _answer(small.label)
    return loads


def _photo_loads(photos: Mapping[str, bytes]) -> Mapping[str, tuple[bytes, bytes]]:
    # The scores of a model with random weights are nearly equal, so that any label may
    # come first.
    expected = b'"label":'
    paths = {
        "photo": f"/v1/models/{PHOTO}:classify",
        "photo async": "/async",
        "photo def": "/def",
    }
    return {
        f"{size} {name}": (http_request(path, image, "image/jpeg"), expected)
        for size, image in photos.items()
        for name, path in paths.items()
    }


def _client(load: str) -> str:
    return "grpc" if load.endswith("grpc") else "http"


def _answer(label: str) -> bytes:
    return f'"label":"{label}"'.encode()


def _form(path: str, images: list[bytes]) -> bytes:
    boundary = "inkling-benchmark"
    named = 'Content-Disposition: form-data; name="image"; filename="image.png"'
    head = f"--{boundary}\r\n{named}\r\n\r\n"
    parts = [head.encode() + image + b"\r\n" for image in images]
    body = b"".join([*parts, f"--{boundary}--\r\n".encode()])
    return http_request(path, body, f"multipart/form-data; boundary={boundary}")
