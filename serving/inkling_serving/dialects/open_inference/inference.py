# SPDX-License-Identifier: Apache-2.0
"""An inference of the Open Inference Protocol, the same over REST and gRPC."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from inkling.errors import InvalidRequest
from inkling.types import check_top_k, predictions
from inkling_serving.dialects.open_inference.tensors import BYTES, OUTPUT
from inkling_serving.service import Target

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from inkling.types import Origin
    from inkling_serving.answers import Scores
    from inkling_serving.runtime.timings import Timings
    from inkling_serving.service import Given, Service

__all__ = [
    "Inferred",
    "Wanted",
    "check_parameters",
    "infer",
    "target_of",
    "timeout_of",
    "wanted_of",
]

_NUMBER = re.compile(r"-?[0-9]{1,19}")
_MICROSECONDS = 1e-6
# A longer timeout is none: a day is beyond every limit of ours.
_MAX_TIMEOUT_US = 86_400_000_000
_SHARED_MEMORY = "shared_memory_region"


@dataclass(frozen=True)
class Wanted:
    """What a request wants of the output.

    Attributes:
        classes: How many labels each row has, as texts; 0 for all scores.
        binary: Whether the values are raw bytes; None where the output does not say.
    """

    classes: int = 0
    binary: bool | None = None


@dataclass(frozen=True)
class Inferred:
    """The output of an inference.

    Attributes:
        origin: The model, version and contract that answered.
        datatype: FP32 or BYTES.
        shape: The output's shape.
        values: The scores, or the texts `score:index:label` in the order of rows.
    """

    origin: Origin
    datatype: Literal["FP32", "BYTES"]
    shape: tuple[int, ...]
    values: npt.NDArray[np.float32] | list[bytes]


def target_of(model: str, version: str) -> Target:
    """Return the target; a version that is no number is a version label."""
    if _NUMBER.fullmatch(version):
        return Target(model, int(version))
    return Target(model, None, version or None)


def wanted_of(outputs: Sequence[tuple[str, Mapping[str, Any]]]) -> Wanted:
    """Return what a request wants, from the names and parameters of its outputs.

    Raises:
        InvalidRequest: The model has no such output, or a parameter is malformed.
    """
    if len(outputs) > 1:
        raise InvalidRequest(
            f"The request wants {len(outputs)} outputs; the model has one, {OUTPUT!r}."
        )
    for name, parameters in outputs:
        if name != OUTPUT:
            raise InvalidRequest(
                f"unexpected inference output {str(name)[:40]!r}; the model has one, "
                f"{OUTPUT!r}."
            )
        check_parameters(parameters)
        binary = parameters.get("binary_data")
        if binary is not None and not isinstance(binary, bool):
            raise InvalidRequest("The parameter binary_data must be true or false.")
        return Wanted(_classes(parameters), binary)
    return Wanted()


def timeout_of(parameters: Mapping[str, Any]) -> float | None:
    """Return the seconds of the parameter `timeout`, which is in microseconds.

    Raises:
        InvalidRequest: The parameter is no whole number, or shared memory is asked for.
    """
    check_parameters(parameters)
    timeout = parameters.get("timeout", 0)
    if type(timeout) is not int or timeout < 0:
        raise InvalidRequest(
            "The parameter timeout must be a whole number of microseconds, 0 or more."
        )
    return timeout * _MICROSECONDS if 0 < timeout <= _MAX_TIMEOUT_US else None


def infer(
    service: Service,
    target: Target,
    given: Given,
    wanted: Wanted,
    timings: Timings,
    timeout_s: float | None = None,
    quickly: bool = False,
) -> Inferred:
    """Return the output for pictures, pixels or model inputs.

    Raises:
        TakesLonger: As in `Service.classify`.
        InklingError: `Service.predict` raised an error.
    """
    found = service.predict(target, given, timeout_s, timings, quickly=quickly)
    if not wanted.classes:
        return Inferred(found.origin, "FP32", found.values.shape, found.values)
    texts = _classified(found, wanted.classes)
    rows, labels = found.values.shape
    return Inferred(found.origin, BYTES, (rows, min(wanted.classes, labels)), texts)


def check_parameters(parameters: Mapping[str, Any]) -> None:
    """Check the parameters of a request, an input or an output.

    Raises:
        InvalidRequest: They ask for shared memory.
    """
    if _SHARED_MEMORY in parameters:
        raise InvalidRequest(
            "This server has no shared memory; send the values in the request."
        )


def _classes(parameters: Mapping[str, Any]) -> int:
    classes = parameters.get("classification", 0)
    if type(classes) is not int:
        raise InvalidRequest("The parameter classification must be a whole number.")
    return check_top_k(classes) if classes else 0


def _classified(found: Scores, classes: int) -> list[bytes]:
    """Return Triton's texts for the likeliest labels: `score:index:label`."""
    labels = found.contract.labels
    rows = predictions(found.values, labels, classes, found.origin)
    return [
        f"{score.probability:f}:{score.index}:{score.label}".encode()
        for row in rows
        for score in row.top
    ]
