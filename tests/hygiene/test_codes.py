# SPDX-License-Identifier: Apache-2.0
"""One mistake, one code word, over whatever protocol and before whatever engine."""

from __future__ import annotations

import base64
import json
import shutil
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import grpc
import numpy as np
import pytest
from PIL import Image

import inkling
from inkling.errors import ErrorCode, InklingError
from inkling.gateway.status import error_from_rpc
from inkling.model.repository import Repository
from inkling.v1 import classifier_pb2 as pb
from inkling.v1.classifier_pb2_grpc import ClassifierStub
from inkling_serving.engines.stub import ENGINE_ERRORS
from inkling_serving.open_inference_wire import open_inference_pb2 as inference
from inkling_serving.tensorflow_serving_wire import (
    tensorflow_serving_pb2 as serving_wire,
)
from inkling_serving.tensorflow_serving_wire.tensors import tensor_of
from tests.support.gateway_process import serving
from tests.support.machine import free_port, until
from tests.support.official_server import OfficialServer

_PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJ"
    "RU5ErkJggg=="
)
_JSON = {"Content-Type": "application/json"}


@dataclass(frozen=True)
class Bad:
    """A request that must be refused, independent of a protocol."""

    code: str
    images: tuple[bytes, ...] = (_PNG,)
    model: str = "mlp"
    version: int | None = None
    version_label: str | None = None
    top_k: int = 1
    device: bool = False


def _image(code: str, image: bytes) -> Bad:
    return Bad(code, images=(image,), device=True)


def _chunk(kind: bytes, content: bytes) -> bytes:
    checksum = zlib.crc32(kind + content)
    return (
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)
    )


def _png_of(width: int, height: int) -> bytes:
    """Return a PNG whose header states a size that its data does not have."""
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return _PNG[:8] + _chunk(b"IHDR", head) + _PNG[33:]


def _png_with(count: int) -> bytes:
    """Return a PNG with so many bytes of data, far more than its pixel needs."""
    return _PNG[:33] + _chunk(b"IDAT", bytes(count)) + _PNG[33:]


_TABLE = {
    "no image": Bad("invalid_request", images=()),
    "empty image": _image("invalid_image", b""),
    "one byte": _image("invalid_image", b"\x89"),
    "text": _image("invalid_image", b"hello"),
    "zeros": _image("invalid_image", bytes(1000)),
    "PNG signature alone": _image("invalid_image", _PNG[:8]),
    "PNG cut in the header": _image("invalid_image", _PNG[:20]),
    "PNG cut in the pixels": _image("invalid_image", _PNG[:45]),
    "JPEG signature alone": _image("invalid_image", b"\xff\xd8\xff"),
    "GIF": _image("invalid_image", b"GIF89a\x01\x00\x01\x00"),
    "WebP": _image("invalid_image", b"RIFF\0\0\0\0WEBPVP8 "),
    "TIFF": _image("unsupported_media_type", b"II*\x00\x08\x00"),
    "BMP": _image("invalid_image", b"BM\0\0\0\0"),
    "PDF": _image("unsupported_media_type", b"%PDF-1.7"),
    "SVG": _image("unsupported_media_type", b"<svg/>"),
    "50,000 x 50,000": _image("too_large", _png_of(50_000, 50_000)),
    "3,000 x 3,000, no rows": _image("invalid_image", _png_of(3000, 3000)),
    "8 MiB and more": _image("too_large", _png_with(8 << 20)),
    "11 MiB": Bad("too_large", images=(bytes(11 << 20),)),
    "33 images": Bad("too_large", images=(_PNG,) * 33),
    "good and bad": Bad("invalid_image", images=(_PNG, b"hello")),
    "unknown model": Bad("model_not_found", model="nobody"),
    "empty name": Bad("invalid_request", model=""),
    "capitals": Bad("invalid_request", model="MLP"),
    "dots": Bad("invalid_request", model=".."),
    "space": Bad("invalid_request", model="m lp"),
    "NUL": Bad("invalid_request", model="mlp\0"),
    "emoji": Bad("invalid_request", model="\U0001f600"),
    "65 characters": Bad("invalid_request", model="x" * 65),
    "unknown version": Bad("model_not_found", version=99),
    "version 0": Bad("model_not_found", version=0),
    "version -1": Bad("model_not_found", version=-1),
    "version 2**63-1": Bad("model_not_found", version=2**63 - 1),
    "unknown label": Bad("model_not_found", version_label="nobody"),
    "empty label": Bad("model_not_found", version_label=""),
    "odd label": Bad("model_not_found", version_label="é x"),
    "label of an unknown model": Bad(
        "model_not_found", model="nobody", version_label="stable"
    ),
    "top_k -1": Bad("invalid_request", top_k=-1),
    "a broken model": Bad("not_ready", model="broken"),
    "a version of a broken model": Bad("not_ready", model="broken", version=1),
    "a bad picture for a broken model": Bad(
        "not_ready", model="broken", images=(b"hello",)
    ),
    "a bad picture for an unknown model": Bad(
        "model_not_found", model="nobody", images=(b"hello",)
    ),
}


@dataclass(frozen=True)
class Doors:
    """A gateway before each engine, and the engine that can be told to fail."""

    gateways: dict[str, Any]
    engine: OfficialServer
    version_dir: Path


@pytest.fixture(scope="module")
def doors(published: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Doors]:
    """An embedded gateway and one before TensorFlow Serving's protocol; one model broken."""
    folder = tmp_path_factory.mktemp("codes")
    models_dir = folder / "models"
    shutil.copytree(published, models_dir)
    shutil.copytree(models_dir / "mlp", models_dir / "broken")
    (models_dir / "broken" / "1" / "saved_model.pb").write_bytes(b"")
    engine = OfficialServer(models_dir)
    engine.hidden_models.add("broken")
    flags = ["--engine", "tensorflow_serving", "--tensorflow-serving", engine.address]
    flags += ["--served-models", "mlp,cnn,broken"]
    with (
        serving(models_dir, log=folder / "log") as embedded,
        serving(folder, *flags, log=folder / "log2") as remote,
    ):
        for process in (embedded, remote):
            until(lambda p=process: p.request("GET", "/readyz").status == 200)
        gateways = {"embedded": embedded, "TensorFlow Serving": remote}
        yield Doors(gateways, engine, Repository(models_dir).newest("mlp").path)
    engine.stop()


def _target_path(bad: Bad) -> str:
    path = f"/v1/models/{quote(bad.model, safe='')}"
    if bad.version is not None:
        path += f"/versions/{bad.version}"
    elif bad.version_label is not None:
        path += f"/labels/{quote(bad.version_label, safe='')}"
    return path


def _over_http(gateway: Any, bad: Bad) -> str:
    path = _target_path(bad)
    images = [{"b64": base64.b64encode(image).decode()} for image in bad.images]
    body = json.dumps({"images": images}).encode()
    answer = gateway.request("POST", f"{path}:classify?top_k={bad.top_k}", body, _JSON)
    if answer.status == 200:
        return "ok"
    code: str = answer.json["error"]["code"]
    assert code == answer.headers["x-inkling-error-code"]
    return code


def _request(bad: Bad) -> pb.ClassifyRequest:
    return pb.ClassifyRequest(
        model=bad.model,
        version=bad.version,
        version_label=bad.version_label,
        images=bad.images,
        top_k=bad.top_k,
    )


def _over_grpc(gateway: Any, bad: Bad) -> str:
    with grpc.insecure_channel(
        gateway.grpc_target,
        [("grpc.max_send_message_length", -1), ("grpc.enable_retries", 0)],
    ) as channel:
        stub = ClassifierStub(channel)  # type: ignore[no-untyped-call]
        try:
            stub.Classify(_request(bad), timeout=10)
        except grpc.RpcError as error:
            trailing = list(error.trailing_metadata() or ())
            return error_from_rpc(error.code(), error.details(), trailing).code
    return "ok"


def _over_a_stream(gateway: Any, bad: Bad) -> str:
    with grpc.insecure_channel(gateway.grpc_target) as channel:
        stub = ClassifierStub(channel)  # type: ignore[no-untyped-call]
        request = pb.ClassifyStreamRequest(id="x", request=_request(bad))
        [answer] = stub.ClassifyStream(iter([request]), timeout=10)
        code: str = answer.error.code or "ok"
        return code


def _by_other_http(gateway: Any, path: str, document: Any) -> str:
    answer = gateway.request("POST", path, json.dumps(document).encode(), _JSON)
    if answer.status == 200:
        return "ok"
    assert isinstance(answer.json["error"], str), answer.body
    code: str = answer.headers["x-inkling-error-code"]
    return code


def _by_serving_http(gateway: Any, bad: Bad) -> str:
    rows = [{"b64": base64.b64encode(image).decode()} for image in bad.images]
    path = f"{_target_path(bad)}:predict"
    return _by_other_http(gateway, path, {"instances": rows})


def _inference_version(bad: Bad) -> str:
    return str(bad.version) if bad.version is not None else bad.version_label or ""


def _by_inference_http(gateway: Any, bad: Bad) -> str:
    path = f"/v2/models/{quote(bad.model, safe='')}"
    if version := _inference_version(bad):
        path += f"/versions/{quote(version, safe='')}"
    one = {
        "name": "inputs",
        "datatype": "BYTES",
        "shape": [len(bad.images)],
        "data": [base64.b64encode(image).decode() for image in bad.images],
    }
    wanted = {"name": "scores", "parameters": {"classification": bad.top_k}}
    document = {"inputs": [one], "outputs": [wanted]}
    return _by_other_http(gateway, f"{path}/infer", document)


def _by_inference_grpc(gateway: Any, bad: Bad) -> str:
    request = inference.ModelInferRequest(
        model_name=bad.model, model_version=_inference_version(bad)
    )
    one = request.inputs.add(name="inputs", datatype="BYTES", shape=[len(bad.images)])
    one.contents.bytes_contents.extend(bad.images)
    wanted = request.outputs.add(name="scores")
    wanted.parameters["classification"].int64_param = bad.top_k
    return _by_other_grpc(
        gateway, "/inference.GRPCInferenceService/ModelInfer", request
    )


def _by_serving_grpc(gateway: Any, bad: Bad) -> str:
    """TensorFlow Serving's gRPC takes no pictures; its errors are those of the target."""
    request = serving_wire.PredictRequest()
    request.model_spec.name = bad.model
    if bad.version is not None:
        request.model_spec.version.value = bad.version
    elif bad.version_label is not None:
        request.model_spec.version_label = bad.version_label
    inputs = np.zeros((1, 28, 28, 1), np.float32)
    request.inputs["inputs"].CopyFrom(tensor_of(inputs))
    method = "/tensorflow.serving.PredictionService/Predict"
    return _by_other_grpc(gateway, method, request)


def _by_other_grpc(gateway: Any, method: str, request: Any) -> str:
    options = [("grpc.max_send_message_length", -1), ("grpc.enable_retries", 0)]
    with grpc.insecure_channel(gateway.grpc_target, options) as channel:
        try:
            channel.unary_unary(method)(request.SerializeToString(), timeout=10)
        except grpc.RpcError as error:
            trailing = list(error.trailing_metadata() or ())
            return error_from_rpc(error.code(), error.details(), trailing).code
    return "ok"


def _by_other_protocols(gateway: Any, bad: Bad) -> dict[str, str]:
    """Return the codes of the dialects in which the mistake can be made."""
    found = {}
    if bad.top_k == 1:
        found["TensorFlow Serving's REST"] = _by_serving_http(gateway, bad)
    if bad.version_label != "":  # an empty version is the newest
        found["Open Inference over REST"] = _by_inference_http(gateway, bad)
        found["Open Inference over gRPC"] = _by_inference_grpc(gateway, bad)
    if bad.images == (_PNG,) and bad.top_k == 1:
        found["TensorFlow Serving's gRPC"] = _by_serving_grpc(gateway, bad)
    return found


def _everywhere(doors: Doors, bad: Bad) -> dict[str, str]:
    found = {}
    for engine, gateway in doors.gateways.items():
        found[f"HTTP, {engine}"] = _over_http(gateway, bad)
        found[f"gRPC, {engine}"] = _over_grpc(gateway, bad)
        for name, code in _by_other_protocols(gateway, bad).items():
            found[f"{name}, {engine}"] = code
        if sum(map(len, bad.images)) < 9 << 20:
            found[f"stream, {engine}"] = _over_a_stream(gateway, bad)
    return found


@pytest.mark.parametrize("case", _TABLE)
def test_one_mistake_has_one_code(case: str, doors: Doors) -> None:
    """Every protocol, streams and the device answer one mistake with one code, before each engine."""
    bad = _TABLE[case]

    found = _everywhere(doors, bad)
    if bad.device:
        with inkling.connect(doors.version_dir) as classifier:
            try:
                classifier.classify(bad.images[0])
            except InklingError as error:
                found["device"] = error.code

    expected = dict.fromkeys(found, bad.code)
    if case == "version 0":
        # Clients of TensorFlow Serving write the default version so: protobuf has no
        # other way to say that a number is not set.
        expected |= {name: "ok" for name in found if "TensorFlow Serving's" in name}
    assert expected == found


@pytest.mark.parametrize("status", [s for s in grpc.StatusCode if s.value[0]])
def test_failures_of_an_engine_have_one_code(
    status: grpc.StatusCode, doors: Doors
) -> None:
    """Each of the 16 statuses of an engine is one code over every protocol."""
    doors.engine.reset()
    doors.engine.abort = status
    gateway, good = doors.gateways["TensorFlow Serving"], Bad("")

    found = {_over_http(gateway, good), _over_grpc(gateway, good)}
    found.add(_over_a_stream(gateway, good))
    found |= set(_by_other_protocols(gateway, good).values())
    doors.engine.reset()

    assert {ENGINE_ERRORS[status].code} == found


def test_garbage_of_an_engine_has_one_code(doors: Doors) -> None:
    """An engine's answer without scores is `internal` over every protocol."""
    doors.engine.reset()
    doors.engine.alter = lambda response: response.outputs.clear()
    gateway, good = doors.gateways["TensorFlow Serving"], Bad("")

    found = [_over_http(gateway, good), _over_grpc(gateway, good)]
    doors.engine.reset()

    assert ["internal"] * 2 == found


def test_addresses_that_are_not_there_have_one_code(doors: Doors) -> None:
    """An unknown address over HTTP and an unknown method over gRPC are `not_found`."""
    for gateway in doors.gateways.values():
        over_http = gateway.request("GET", "/v1/nothing").json["error"]["code"]
        with grpc.insecure_channel(gateway.grpc_target) as channel:
            call = channel.unary_unary("/inkling.v1.Classifier/Nothing")
            with pytest.raises(grpc.RpcError) as caught:
                call(b"", timeout=5)
        error = caught.value
        over_grpc = error_from_rpc(error.code(), error.details(), ()).code

        assert [ErrorCode.NOT_FOUND] * 2 == [over_http, over_grpc]


def test_nothing_to_serve_has_one_code(tmp_path: Path, sample: np.ndarray) -> None:
    """An empty repository and an engine that is down have one code over every protocol."""
    nobody = f"127.0.0.1:{free_port()}"
    flags = ["--engine", "tensorflow_serving", "--tensorflow-serving", nobody]
    Image.fromarray(sample).save(tmp_path / "3.png")
    good = Bad("", images=((tmp_path / "3.png").read_bytes(),))
    with (
        serving(tmp_path, log=tmp_path / "log") as embedded,
        serving(tmp_path, *flags, log=tmp_path / "log2") as remote,
    ):
        found = {
            name: (
                gateway.request("GET", "/readyz").json["error"]["code"],
                _over_http(gateway, good),
                _over_grpc(gateway, good),
            )
            for name, gateway in (("embedded", embedded), ("remote", remote))
        }

    # Without a repository no model is known; a remote engine's models are, by name.
    assert ("not_ready", "model_not_found", "model_not_found") == found["embedded"]
    assert ("not_ready", "not_ready", "not_ready") == found["remote"]
