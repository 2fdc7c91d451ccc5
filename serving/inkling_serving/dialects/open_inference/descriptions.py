# SPDX-License-Identifier: Apache-2.0
"""What the Open Inference Protocol and Triton's extensions tell of server and models.

The objects are those of REST; gRPC has the same fields in messages.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING

import grpc

from inkling.errors import InvalidRequest, ModelNotFound
from inkling_serving.dialects.open_inference.tensors import INPUT, OUTPUT
from inkling_serving.engines.base import State
from inkling_serving.grpc_api.errors import StatusError

if TYPE_CHECKING:
    from inkling.contract import Contract
    from inkling_serving.dialects.open_inference import rest_json
    from inkling_serving.runtime.metrics import Metrics, Served
    from inkling_serving.service import Service, Target

__all__ = [
    "check_load",
    "index",
    "model_config",
    "model_metadata",
    "not_unloaded",
    "server_metadata",
    "statistics",
]

# The form in which every version of a repository is published.
_PLATFORM = "tensorflow_savedmodel"
_EXTENSIONS = (
    "binary_tensor_data",
    "classification",
    "model_configuration",
    "model_repository",
    "statistics",
)
# This server has no cache; perf_analyzer reads these two, too.
_DURATIONS = (
    *("success", "fail", "queue", "compute_input", "compute_infer"),
    *("compute_output", "cache_hit", "cache_miss"),
)
_NS = 1_000_000_000
_MS = 1_000


def server_metadata() -> rest_json.ServerMetadata:
    """Return the name, the version and the extensions of this server."""
    return {
        "name": "inkling",
        "version": version("inkling-serving"),
        "extensions": list(_EXTENSIONS),
    }


def model_metadata(service: Service, target: Target) -> rest_json.ModelMetadata:
    """Return the input and the output of a model; the size -1 means any size.

    Raises:
        InklingError: `Service.contract` raised an error.
    """
    number, contract = service.contract(target)
    versions = [v.version for v in service.model(target.model).versions if v.contract]
    if target.version is not None or target.version_label is not None:
        versions = [number]
    size = [-1, *contract.input_shape]
    return {
        "name": target.model,
        "versions": [str(one) for one in sorted(versions)],
        "platform": _PLATFORM,
        "inputs": [{"name": INPUT, "datatype": "FP32", "shape": size}],
        "outputs": [
            {"name": OUTPUT, "datatype": "FP32", "shape": [-1, len(contract.labels)]}
        ],
    }


def model_config(service: Service, target: Target) -> rest_json.ModelConfig:
    """Return Triton's configuration of a model; its shapes are without the batch.

    Raises:
        InklingError: `Service.contract` raised an error.
    """
    contract: Contract = service.contract(target)[1]
    return {
        "name": target.model,
        "platform": _PLATFORM,
        "backend": "tensorflow",
        "max_batch_size": service.max_batch,
        "input": [
            {"name": INPUT, "data_type": "TYPE_FP32", "dims": [*contract.input_shape]}
        ],
        "output": [
            {"name": OUTPUT, "data_type": "TYPE_FP32", "dims": [len(contract.labels)]}
        ],
    }


def index(service: Service, only_ready: bool) -> list[rest_json.IndexRow]:
    """Return each version of each model, with its state."""
    rows: list[rest_json.IndexRow] = [
        {
            "name": model.name,
            "version": str(one.version),
            "state": "READY" if one.state == State.AVAILABLE else "UNAVAILABLE",
            "reason": "" if one.state == State.AVAILABLE else one.reason or "",
        }
        for model in service.models()
        for one in model.versions
    ]
    return [row for row in rows if not only_ready or row["state"] == "READY"]


def check_load(service: Service, model: str, has_parameters: bool) -> None:
    """Check that a model is loaded, because the engine loads all that are published.

    Raises:
        InvalidRequest: The caller brings a configuration or files.
        ModelNotFound: The engine does not have the model.
        StatusError: The model is not ready.
    """
    if has_parameters:
        raise InvalidRequest(
            "This server takes no configuration and no files with a load; publish the "
            "model with: inkling publish"
        )
    if not service.model(model).ready:
        raise StatusError(
            grpc.StatusCode.FAILED_PRECONDITION,
            f"The model {model!r} cannot be loaded by a request: the server loads "
            "each published version by itself, and no version of it is ready.",
        )


def not_unloaded(service: Service, model: str) -> StatusError:
    """Return the refusal to unload a model.

    Raises:
        ModelNotFound: The engine does not have the model.
    """
    service.model(model)
    return StatusError(
        grpc.StatusCode.FAILED_PRECONDITION,
        f"The model {model!r} cannot be unloaded by a request: the server serves what "
        "its repository holds. Remove the version's directory from the repository.",
    )


def statistics(
    service: Service, metrics: Metrics, model: str, number: str
) -> rest_json.Statistics:
    """Return the counts and durations of versions, over all processes of the gateway.

    Args:
        service: Knows the models.
        metrics: The counts.
        model: Only this model; all of them if empty.
        number: Only this version; all of them if empty.

    Raises:
        ModelNotFound: The engine does not have the model, or the version.
    """
    if model:
        service.model(model)
    served = {(one.model, one.version): one for one in metrics.served()}
    asked = [
        (one.name, str(version.version))
        for one in service.models()
        for version in one.versions
        if model in ("", one.name) and number in ("", str(version.version))
    ]
    if not asked and model:
        raise ModelNotFound(f"The model {model!r} has no version {number[:20]!r}.")
    return {"model_stats": [_statistics(*one, served.get(one)) for one in asked]}


def _statistics(
    model: str, number: str, served: Served | None
) -> rest_json.ModelStatistics:
    if served is None:
        return _counted((model, number), 0, 0, 0, {})
    ok, failed = served.answered, served.failed
    phases = served.phases
    made = (phases["decode"] + phases["preprocess"], phases["engine"], phases["encode"])
    durations = {
        "success": (ok.count, ok.seconds),
        "fail": (failed.count, failed.seconds),
        "queue": (served.count, phases["queue"]),
        "compute_input": (served.count, made[0]),
        "compute_infer": (served.count, made[1]),
        "compute_output": (served.count, made[2]),
    }
    last_ms = int(served.last * _MS)
    return _counted((model, number), last_ms, served.images, ok.count, durations)


def _counted(
    named: tuple[str, str],
    last_ms: int,
    images: int,
    calls: int,
    durations: dict[str, tuple[int, float]],
) -> rest_json.ModelStatistics:
    return {
        "name": named[0],
        "version": named[1],
        "last_inference": last_ms,
        "inference_count": images,
        "execution_count": calls,
        "inference_stats": {
            name: _duration(*durations.get(name, (0, 0))) for name in _DURATIONS
        },
        "batch_stats": [],
    }


def _duration(count: int, seconds: float) -> rest_json.Duration:
    return {"count": count, "ns": int(seconds * _NS)}
