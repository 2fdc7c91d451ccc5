# SPDX-License-Identifier: Apache-2.0
"""Drives a client library of another server against a gateway: a program of its own.

python foreign_clients.py CLIENT HTTP_ADDRESS GRPC_ADDRESS PICTURE INPUT.npy

It prints one line of JSON: the versions of the packages, the scores of each way to ask,
and what else worked. The exit code 3 says that a package is missing. The program imports
nothing of Inkling's, so that it runs wherever the client is installed.
"""

from __future__ import annotations

import asyncio
import base64
import importlib
import io
import json
import queue
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

_MISSING = 3


@dataclass
class Found:
    """What a client has answered.

    Attributes:
        packages: The packages that were used.
        scores: The scores of the picture, by the way it was asked.
        facts: Whether each further operation did as it should.
    """

    packages: tuple[str, ...]
    scores: dict[str, list[float]] = field(default_factory=dict)
    facts: dict[str, bool] = field(default_factory=dict)

    def score(self, way: str, values: Any) -> None:
        """Keep the scores of one way."""
        self.scores[way] = np.asarray(values, float).reshape(-1).tolist()


@dataclass(frozen=True)
class Place:
    """The gateway, a picture and the model input of the same picture."""

    http: str
    grpc: str
    picture: bytes
    inputs: np.ndarray

    @property
    def b64(self) -> str:
        """The picture in base64."""
        return base64.b64encode(self.picture).decode()


def _is_refused(call: Callable[[], Any]) -> bool:
    """Return whether a call raises the client's own error with words."""
    try:
        call()
    except Exception as error:  # noqa: BLE001 - each client has errors of its own
        return "model" in str(error)
    return False


def _best(text: Any) -> int:
    return int((text.decode() if isinstance(text, bytes) else str(text)).split(":")[1])


def _triton_inputs(module: Any, place: Place, kind: str, **binary: bool) -> list[Any]:
    if kind == "FP32":
        one = module.InferInput("inputs", list(place.inputs.shape), "FP32")
        one.set_data_from_numpy(place.inputs, **binary)
        return [one]
    content = place.picture if binary.get("binary_data", True) else place.b64.encode()
    one = module.InferInput("inputs", [1], "BYTES")
    one.set_data_from_numpy(np.array([content], object), **binary)
    return [one]


def _triton_http(place: Place) -> Found:
    import tritonclient.http as module

    found = Found(("tritonclient",))
    client = module.InferenceServerClient(place.http)
    for kind in ("BYTES", "FP32"):
        for binary in (True, False):
            inputs = _triton_inputs(module, place, kind, binary_data=binary)
            wanted = [module.InferRequestedOutput("scores", binary_data=binary)]
            answer = client.infer("mlp", inputs, outputs=wanted, request_id="a1")
            way = f"{kind} {'binary' if binary else 'JSON'}"
            found.score(way, answer.as_numpy("scores"))
            found.facts[f"id, {way}"] = answer.get_response()["id"] == "a1"
    pictures = _triton_inputs(module, place, "BYTES")
    best = int(np.argmax(found.scores["BYTES binary"]))
    for binary in (True, False):
        wanted = [
            module.InferRequestedOutput("scores", binary_data=binary, class_count=2)
        ]
        texts = client.infer("mlp", pictures, outputs=wanted).as_numpy("scores")
        found.facts[f"classification, {binary}"] = _best(texts[0][0]) == best
    found.score(
        "async_infer",
        client.async_infer("mlp", pictures).get_result().as_numpy("scores"),
    )
    _triton_facts(client, found, lambda: client.infer("nobody", pictures))
    metadata = client.get_model_metadata("mlp")
    found.facts["metadata"] = metadata["inputs"][0]["name"] == "inputs"
    found.facts["config"] = client.get_model_config("mlp")["max_batch_size"] > 1
    found.facts["index"] = client.get_model_repository_index()[-1]["state"] == "READY"
    [stats] = client.get_inference_statistics("mlp")["model_stats"]
    found.facts["statistics"] = stats["inference_stats"]["success"]["count"] > 0
    return found


def _triton_facts(client: Any, found: Found, ask_nobody: Callable[[], Any]) -> None:
    found.facts |= {
        "live": client.is_server_live(),
        "ready": client.is_server_ready(),
        "model ready": client.is_model_ready("mlp", "1"),
        "unknown model": _is_refused(ask_nobody),
        "unload": _is_refused(lambda: client.unload_model("mlp")),
    }
    client.load_model("mlp")


def _triton_grpc(place: Place) -> Found:
    import tritonclient.grpc as module

    found = Found(("tritonclient", "grpcio", "protobuf"))
    client = module.InferenceServerClient(place.grpc)
    pictures = _triton_inputs(module, place, "BYTES")
    for way, inputs, options in (
        ("BYTES", pictures, {"request_id": "a1"}),
        ("BYTES, gzip", pictures, {"compression_algorithm": "gzip"}),
        ("FP32", _triton_inputs(module, place, "FP32"), {}),
    ):
        answer = client.infer("mlp", inputs, **options)
        found.score(way, answer.as_numpy("scores"))
        if options.get("request_id"):
            found.facts["id"] = answer.get_response().id == "a1"
    wanted = [module.InferRequestedOutput("scores", class_count=2)]
    texts = client.infer("mlp", pictures, outputs=wanted).as_numpy("scores")
    best = int(np.argmax(found.scores["BYTES"]))
    found.facts["classification"] = _best(texts[0][0]) == best
    _triton_stream(client, found, pictures)
    _triton_facts(client, found, lambda: client.infer("nobody", pictures))
    found.facts["metadata"] = (
        client.get_model_metadata("mlp").inputs[0].name == "inputs"
    )
    found.facts["config"] = client.get_model_config("mlp").config.max_batch_size > 1
    found.facts["index"] = len(client.get_model_repository_index().models) > 0
    [stats] = client.get_inference_statistics("mlp").model_stats
    found.facts["statistics"] = stats.inference_stats.success.count > 0
    return found


def _triton_stream(client: Any, found: Found, pictures: list[Any]) -> None:
    """Send three requests in a stream; the second one names no model."""
    answers: queue.SimpleQueue[tuple[Any, Any]] = queue.SimpleQueue()
    client.start_stream(lambda result, error: answers.put((result, error)))
    for name in ("mlp", "nobody", "mlp"):
        client.async_stream_infer(name, pictures, request_id=name)
    [first, second, third] = [answers.get(timeout=20) for _ in range(3)]
    client.stop_stream()
    found.score("stream", first[0].as_numpy("scores"))
    found.score("stream, after an error", third[0].as_numpy("scores"))
    found.facts["id in a stream"] = first[0].get_response().id == "mlp"
    found.facts["error in a stream"] = "model" in str(second[1])


async def _triton_aio(module: Any, address: str, place: Place) -> Found:
    found = Found(("tritonclient",))
    async with module.InferenceServerClient(address) as client:
        for kind in ("BYTES", "FP32"):
            inputs = _triton_inputs(module, place, kind)
            answer = await client.infer("mlp", inputs)
            found.score(kind, answer.as_numpy("scores"))
        inputs = _triton_inputs(module, place, "BYTES")
        wanted = [module.InferRequestedOutput("scores", class_count=2)]
        answer = await client.infer("mlp", inputs, outputs=wanted)
        best = int(np.argmax(found.scores["BYTES"]))
        found.facts = {
            "classification": _best(answer.as_numpy("scores")[0][0]) == best,
            "live": await client.is_server_live(),
            "ready": await client.is_model_ready("mlp"),
            "metadata": bool(await client.get_model_metadata("mlp")),
            "statistics": bool(await client.get_inference_statistics("mlp")),
            "index": bool(await client.get_model_repository_index()),
        }
    return found


def _triton_http_aio(place: Place) -> Found:
    import tritonclient.http.aio as module

    return asyncio.run(_triton_aio(module, place.http, place))


def _triton_grpc_aio(place: Place) -> Found:
    import tritonclient.grpc.aio as module

    async def both() -> Found:
        found = await _triton_aio(module, place.grpc, place)
        pictures = _triton_inputs(module, place, "BYTES")

        async def requests() -> Any:
            for name in ("a", "b"):
                yield {"model_name": "mlp", "inputs": pictures, "request_id": name}

        async with module.InferenceServerClient(place.grpc) as client:
            answers = client.stream_infer(requests())
            results = [result async for result, error in answers if error is None]
        found.score("stream", results[-1].as_numpy("scores"))
        names = [result.get_response().id for result in results]
        found.facts["order of a stream"] = names == ["a", "b"]
        return found

    return asyncio.run(both())


def _kserve_rest(place: Place) -> Found:
    import kserve

    async def run() -> Found:
        found, url = Found(("kserve", "httpx")), f"http://{place.http}"
        first = kserve.InferenceRESTClient(kserve.RESTConfig(protocol="v1"))
        for way, row in (
            ("v1 picture", {"b64": place.b64}),
            ("v1 FP32", place.inputs[0].tolist()),
        ):
            answer = await first.infer(url, {"instances": [row]}, model_name="mlp")
            found.score(way, answer["predictions"])
        client = kserve.InferenceRESTClient(kserve.RESTConfig(protocol="v2"))
        for kind in ("BYTES", "FP32"):
            for binary in (True, False):
                request = _kserve_request(kserve, place, kind, binary)
                answer = await client.infer(url, request, model_name="mlp")
                found.score(f"v2 {kind} {binary}", answer.outputs[0].as_numpy())
                found.facts[f"id, {kind} {binary}"] = answer.id == "a1"
        found.facts |= {
            "v1 model ready": await first.is_model_ready(url, "mlp"),
            "live": await client.is_server_live(url),
            "ready": await client.is_server_ready(url),
            "model ready": await client.is_model_ready(url, "mlp"),
            "unknown model": not await client.is_model_ready(url, "nobody"),
        }
        return found

    return asyncio.run(run())


def _kserve_request(kserve: Any, place: Place, kind: str, binary: bool) -> Any:
    if kind == "FP32":
        one = kserve.InferInput("inputs", list(place.inputs.shape), "FP32")
        one.set_data_from_numpy(place.inputs, binary_data=binary)
    else:
        content = place.picture if binary else place.b64.encode()
        one = kserve.InferInput("inputs", [1], "BYTES")
        one.set_data_from_numpy(np.array([content], object), binary_data=binary)
    return kserve.InferRequest("mlp", [one], request_id="a1")


def _kserve_grpc(place: Place) -> Found:
    import kserve

    async def run() -> Found:
        found = Found(("kserve", "grpcio", "protobuf"))
        client = kserve.InferenceGRPCClient(place.grpc)
        for kind, binary in (("BYTES", True), ("FP32", True), ("FP32", False)):
            request = _kserve_request(kserve, place, kind, binary)
            answer = await client.infer(request)
            found.score(
                f"{kind} {'raw' if binary else 'typed'}", answer.outputs[0].as_numpy()
            )
        found.facts = {
            "live": await client.is_server_live(),
            "ready": await client.is_server_ready(),
            "model ready": await client.is_model_ready("mlp"),
        }
        return found

    return asyncio.run(run())


def _requests(place: Place) -> Found:
    import requests

    found, models = Found(("requests",)), f"http://{place.http}/v1/models/mlp"
    for way, document in (
        ("row", {"instances": [{"b64": place.b64}]}),
        ("column", {"inputs": {"inputs": [{"b64": place.b64}]}}),
        ("FP32", {"instances": place.inputs.tolist()}),
    ):
        answer = requests.post(f"{models}:predict", json=document, timeout=10).json()
        found.score(way, answer.get("predictions", answer.get("outputs")))
    status = requests.get(models, timeout=10).json()
    metadata = requests.get(f"{models}/metadata", timeout=10).json()
    nobody = requests.post(
        f"{models}/versions/9:predict", json={"instances": [1]}, timeout=10
    )
    found.facts = {
        "status": status["model_version_status"][0]["state"] == "AVAILABLE",
        "metadata": metadata["model_spec"]["name"] == "mlp",
        "unknown version": nobody.json()["error"].startswith("Servable not found"),
    }
    return found


def _httpx(place: Place) -> Found:
    import httpx

    found, base = Found(("httpx",)), f"http://{place.http}/v2"
    one = {"name": "inputs", "datatype": "BYTES", "shape": [1], "data": [place.b64]}
    answer = httpx.post(f"{base}/models/mlp/infer", json={"inputs": [one]}).json()
    found.score("BYTES", answer["outputs"][0]["data"])
    found.facts["ready"] = httpx.get(f"{base}/health/ready").is_success
    return found


def _generated(place: Place) -> Found:
    """Drive the client that is generated from the gateway's OpenAPI document."""
    found = Found(("openapi-python-client", "httpx"))
    with tempfile.TemporaryDirectory() as folder:
        generate = [
            str(Path(sys.executable).with_name("openapi-python-client")),
            *("generate", "--url", f"http://{place.http}/openapi.json"),
            *("--meta", "none", "--output-path", f"{folder}/generated"),
        ]
        done = subprocess.run(generate, check=True, capture_output=True, text=True)
        # This generator leaves out bodies of plain text, and says so.
        faults = re.findall(r"^(?:Unable|Unsupported|Cannot).*", done.stdout, re.M)
        found.facts["whole"] = set(faults) <= {"Unsupported content type text/plain"}
        sys.path.insert(0, folder)
        _ask_generated(place, found)
    return found


def _ask_generated(place: Place, found: Found) -> None:
    def operation(name: str) -> Any:
        return importlib.import_module(f"generated.api.{name}")

    models = importlib.import_module("generated.models")
    types = importlib.import_module("generated.types")
    client = importlib.import_module("generated").Client(f"http://{place.http}")
    classify = operation("classification.classify")
    file = types.File(io.BytesIO(place.picture), "picture.png", "image/png")
    bodies = {
        "a picture": lambda: types.File(io.BytesIO(place.picture)),
        "form": lambda: models.ClassifyForm(images=[file]),
        "JSON": lambda: models.ClassifyRequest([models.EncodedImage(place.b64)]),
        "encoded form": lambda: models.EncodedForm(image=place.b64),
    }
    for way, body in bodies.items():
        answer = classify.sync("mlp", client=client, body=body(), top_k=10)
        top = sorted(answer.results[0].top, key=lambda score: score.index)
        found.score(way, [score.probability for score in top])
    rows = models.PredictRequest(instances=[{"b64": place.b64}])
    predict = operation("tensor_flow_serving.predict")
    found.score(":predict", predict.sync("mlp", client=client, body=rows).predictions)
    given = models.InferInput.from_dict(
        {"name": "inputs", "datatype": "BYTES", "shape": [1], "data": [place.b64]}
    )
    infer = operation("open_inference_protocol.infer")
    inferred = infer.sync("mlp", client=client, body=models.InferQuery([given]))
    found.score("/infer", inferred.outputs[0].data)
    listed = operation("models.list_models").sync(client=client)
    refused = classify.sync("no", client=client, body=bodies["a picture"]())
    found.facts |= {
        "models": "mlp" in [model.name for model in listed.models],
        "ready": operation("state.ready").sync(client=client).ready,
        "error": refused.error.code.value == "model_not_found",
    }


def _curl(place: Place) -> Found:
    found = Found(())
    base = f"http://{place.http}/v2"

    def curl(*words: str, content: bytes = b"") -> bytes:
        done = subprocess.run(
            ["curl", "-sSf", *words], input=content, capture_output=True, check=True
        )
        return done.stdout

    whole = ("-H", "Inference-Header-Content-Length: 0", "--data-binary", "@-")
    for way, content in (("picture", place.picture), ("FP32", place.inputs.tobytes())):
        answer = curl(*whole, f"{base}/models/mlp/infer", content=content)
        found.score(way, np.frombuffer(answer[-40:], "<f4"))
    found.facts = {
        "metadata": json.loads(curl(f"{base}/models/mlp"))["name"] == "mlp",
        "statistics": bool(json.loads(curl(f"{base}/models/stats"))["model_stats"]),
    }
    return found


def _ovms(place: Place) -> Found:
    import ovmsclient

    found = Found(("ovmsclient", "grpcio", "protobuf"))
    for kind, client in (
        ("gRPC", ovmsclient.make_grpc_client(place.grpc)),
        ("REST", ovmsclient.make_http_client(place.http)),
    ):
        found.score(f"FP32, {kind}", client.predict({"inputs": place.inputs}, "mlp"))
        status = client.get_model_status("mlp")
        found.facts[f"status, {kind}"] = status[1]["state"] == "AVAILABLE"
        # Over REST it understands only OpenVINO's own form, and hands on another one.
        metadata = json.dumps(client.get_model_metadata("mlp"))
        found.facts[f"metadata, {kind}"] = '"inputs": {"inputs"' in metadata
        found.facts[f"unknown model, {kind}"] = _is_refused(
            partial(client.get_model_status, "nobody")
        )
    return found


CLIENTS: dict[str, Callable[[Place], Found]] = {
    "tritonclient HTTP": _triton_http,
    "tritonclient HTTP, asyncio": _triton_http_aio,
    "tritonclient gRPC": _triton_grpc,
    "tritonclient gRPC, asyncio": _triton_grpc_aio,
    "kserve REST": _kserve_rest,
    "kserve gRPC": _kserve_grpc,
    "ovmsclient": _ovms,
    "requests": _requests,
    "httpx": _httpx,
    "generated from OpenAPI": _generated,
    "curl": _curl,
}


def main(client: str, http: str, grpc: str, picture: str, inputs: str) -> int:
    """Drive a client; return the exit code."""
    place = Place(http, grpc, Path(picture).read_bytes(), np.load(inputs))
    try:
        found = CLIENTS[client](place)
    except (ModuleNotFoundError, FileNotFoundError) as error:
        print(error)
        return _MISSING
    packages = {name: version(name) for name in found.packages}
    shown = {"packages": packages, "scores": found.scores, "facts": found.facts}
    print(json.dumps(shown))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
