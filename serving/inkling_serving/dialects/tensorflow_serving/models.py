# SPDX-License-Identifier: Apache-2.0
"""TensorFlow Serving's view of our models, which its gRPC and its REST share.

Signatures, states, and the errors with TensorFlow Serving's statuses and words, from
its sources (predict_util.cc, server_core.cc, get_model_status_impl.cc).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import grpc

from inkling.errors import ErrorCode, InvalidRequest, ModelNotFound
from inkling.model.repository import check_model_name
from inkling_serving.grpc_api.errors import StatusError
from inkling_serving.tensorflow_serving_wire import tensorflow_serving_pb2 as wire

if TYPE_CHECKING:
    from inkling.contract import Contract
    from inkling_serving.engines.base import VersionStatus
    from inkling_serving.service import Service, Target

__all__ = [
    "DEFAULT_SIGNATURE",
    "ERROR_UNKNOWN",
    "INVALID",
    "SIGNATURES",
    "Signature",
    "contract_of",
    "copied",
    "shapes",
    "understood",
    "versions_of",
]

INVALID = grpc.StatusCode.INVALID_ARGUMENT
DEFAULT_SIGNATURE = "serving_default"
# The error code of a version that cannot be served, google.rpc.Code.UNKNOWN.
ERROR_UNKNOWN = 2
# The output of a model's `device` signature on a CPU; LiteRT always runs on the CPU.
_CPU = 0
# The contract has some kilobytes, so the number of copies in a response is limited.
_MAX_COPIES = 1024


@dataclass(frozen=True)
class Signature:
    """The only input and the only output of a signature, and their types."""

    input: str
    dtype: wire.DataType
    output: str
    output_dtype: wire.DataType


SIGNATURES = {
    DEFAULT_SIGNATURE: Signature("inputs", wire.DT_FLOAT, "scores", wire.DT_FLOAT),
    "contract": Signature("asked", wire.DT_INT32, "contract", wire.DT_STRING),
    "device": Signature("asked", wire.DT_INT32, "device", wire.DT_INT32),
}


def shapes(contract: Contract) -> dict[str, tuple[int, ...]]:
    """Return the shape of each input and output; the size -1 means any size."""
    return {
        "inputs": (-1, *contract.input_shape),
        "scores": (-1, len(contract.labels)),
        "asked": (-1,),
        "contract": (-1,),
        "device": (-1,),
    }


def understood(target: Target) -> Target:
    """Return the target that is meant: version 0, which no model has, is the default.

    The client of OpenVINO Model Server always names a version, and that one so.
    """
    return replace(target, version=None) if target.version == 0 else target


def contract_of(service: Service, target: Target) -> tuple[int, Contract]:
    """Return the number of the version that would answer, and its contract.

    Raises:
        StatusError: The model, version or label is not served.
        NotReady: The version cannot answer yet.
    """
    try:
        check_model_name(target.model)
        return service.contract(target)
    except (ModelNotFound, InvalidRequest) as error:
        raise _not_found(target, error.code) from None


def versions_of(service: Service, target: Target) -> tuple[VersionStatus, ...]:
    """Return the status of all versions of a model, or of the only one that is named.

    Raises:
        StatusError: There is none.
    """
    code = ErrorCode.MODEL_NOT_FOUND
    try:
        versions = service.model(target.model).versions
    except (ModelNotFound, InvalidRequest) as error:
        versions, code = (), error.code
    asked = "any versions"
    if target.version is not None:
        asked = f"version {target.version}"
        versions = tuple(v for v in versions if v.version == target.version)
    if not versions:
        raise StatusError(
            grpc.StatusCode.NOT_FOUND,
            f"Could not find {asked} of model {target.model}",
            code,
        )
    return versions


def copied(
    service: Service, target: Target, signature: str, count: int
) -> tuple[int, str | int]:
    """Return the version, and what `contract` or `device` answers in each row.

    Raises:
        StatusError: The target is not served, or the rows are too many.
    """
    version, contract = contract_of(service, target)
    if count > _MAX_COPIES:
        raise StatusError(INVALID, f"at most {_MAX_COPIES} copies are given")
    return version, contract.json if signature == "contract" else _CPU


def _not_found(target: Target, code: ErrorCode) -> StatusError:
    """Return TensorFlow Serving's error for a target that is not served."""
    if target.version_label is not None:
        return StatusError(
            INVALID,
            f"Unrecognized servable version label: {target.version_label}",
            code,
        )
    asked = f"Latest({target.model})"
    if target.version is not None:
        asked = f"Specific({target.model}, {target.version})"
    return StatusError(
        grpc.StatusCode.NOT_FOUND, f"Servable not found for request: {asked}", code
    )
