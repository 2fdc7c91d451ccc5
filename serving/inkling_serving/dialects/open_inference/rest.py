# SPDX-License-Identifier: Apache-2.0
"""An inference over REST: JSON, with Triton's binary tensors before or behind it.

A body is JSON; or JSON of the length in `Inference-Header-Content-Length`, and then the
raw bytes of its tensors; or, with the length 0, the raw bytes of the only input alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson

from inkling.errors import InvalidRequest
from inkling.image.formats.catalogue import format_of
from inkling_serving.dialects.json_values import document_of
from inkling_serving.dialects.open_inference.inference import (
    Wanted,
    check_parameters,
    timeout_of,
    wanted_of,
)
from inkling_serving.dialects.open_inference.tensors import (
    INPUT,
    OUTPUT,
    Tensor,
    from_json,
    from_raw,
    only_element,
    tensor_of,
    to_raw,
)

if TYPE_CHECKING:
    from inkling.contract import Contract
    from inkling_serving.dialects.open_inference import rest_json
    from inkling_serving.dialects.open_inference.inference import Inferred
    from inkling_serving.service import Given

__all__ = [
    "JSON_LENGTH",
    "InferRequest",
    "body_of",
    "is_raw",
    "only_picture",
    "raw_request",
    "request_of",
]

JSON_LENGTH = "inference-header-content-length"
_EXPECTED = (
    '{"inputs": [{"name": "inputs", "datatype": "BYTES", "shape": [1], '
    '"data": ["..."]}]}'
)
# A body is looked at before a thread has parsed it only if its JSON is this short.
_SHORT = 1024


@dataclass(frozen=True)
class InferRequest:
    """An inference as it came.

    Attributes:
        given: The pictures, pixels or model inputs.
        wanted: What the caller wants of the output.
        binary: Whether the output is binary where it does not say.
        id: The caller's id, or None.
        timeout_s: The caller's limit in seconds, or None.
    """

    given: Given
    wanted: Wanted = Wanted()
    binary: bool = False
    id: str | None = None
    timeout_s: float | None = None


def request_of(headers: Mapping[str, str], body: bytes) -> InferRequest:
    """Return the request of a body with JSON.

    Raises:
        InvalidRequest: The body is malformed.
        TooLarge: It has too many values.
    """
    text, rest = _parts(headers, body)
    document = document_of(text, _EXPECTED)
    parameters = _parameters(document, "The request")
    binary = parameters.get("binary_data_output", False)
    if not isinstance(binary, bool):
        raise InvalidRequest("The parameter binary_data_output must be true or false.")
    name = document.get("id")
    if name is not None and not isinstance(name, str):
        raise InvalidRequest("The id in the JSON must be a text.")
    wanted = wanted_of(
        [
            (one.get("name", ""), _parameters(one, "The output"))
            for one in _objects(document, "outputs")
        ]
    )
    given = _given(_objects(document, "inputs"), rest)
    return InferRequest(given, wanted, binary, name, timeout_of(parameters))


def raw_request(body: bytes, contract: Contract) -> InferRequest:
    """Return the request of a body that is the only input alone.

    It is model inputs if its length is theirs, or pixels, and else one picture.
    """
    size = math.prod(contract.input_shape)
    # No encoded picture may be taken for inputs: each starts with its format's name.
    is_picture = format_of(body) is not None
    for datatype, width in (("FP32", 4), ("UINT8", 1)):
        count, over = divmod(len(body), size * width)
        if count and not over and not is_picture:
            tensor = Tensor(INPUT, datatype, (count, *contract.input_shape))
            return InferRequest(from_raw(tensor, body), binary=True)
    return InferRequest([body], binary=True)


def is_raw(headers: Mapping[str, str]) -> bool:
    """Return whether a body is the only input alone."""
    return headers.get(JSON_LENGTH, "").strip() == "0"


def only_picture(headers: Mapping[str, str], body: bytes) -> bytes:
    """Return the only picture of a body with a short JSON; nothing of another body."""
    length = headers.get(JSON_LENGTH, "")
    if not length.isdecimal() or len(length) > 4 or int(length) > _SHORT:
        return b""
    return body if is_raw(headers) else only_element(memoryview(body)[int(length) :])


def body_of(asked: InferRequest, found: Inferred) -> tuple[bytes, int | None]:
    """Return the body of a response, and the length of its JSON if that is not all."""
    output: rest_json.InferOutput = {
        "name": OUTPUT,
        "datatype": found.datatype,
        "shape": list(found.shape),
    }
    is_binary = asked.binary if asked.wanted.binary is None else asked.wanted.binary
    raw = b""
    if is_binary:
        raw = to_raw(found.values)
        output["parameters"] = {"binary_data_size": len(raw)}
    elif isinstance(found.values, list):
        output["data"] = [text.decode() for text in found.values]
    else:
        output["data"] = found.values.reshape(-1)
    document: rest_json.InferAnswer = {
        "model_name": found.origin.model,
        "model_version": str(found.origin.version),
        "parameters": {"contract": found.origin.contract},
        "outputs": [output],
    }
    if asked.id is not None:
        document["id"] = asked.id
    text = orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)
    return (text + raw, len(text)) if is_binary else (text, None)


def _parts(headers: Mapping[str, str], body: bytes) -> tuple[bytes, memoryview]:
    """Return the JSON of a body, and the raw bytes after it."""
    given = headers.get(JSON_LENGTH)
    if given is None:
        return body, memoryview(b"")
    length = int(given) if given.isdecimal() and len(given) < 20 else -1
    if not 0 < length <= len(body):
        raise InvalidRequest(
            f"The header Inference-Header-Content-Length is {given[:20]!r}; expected "
            f"the bytes of the JSON, from 0 to {len(body)}."
        )
    return body[:length], memoryview(body)[length:]


def _given(inputs: list[dict[str, Any]], rest: memoryview) -> Given:
    if len(inputs) != 1:
        raise InvalidRequest(
            f"expected 1 inputs but got {len(inputs)}; the model has one, {INPUT!r}."
        )
    [one] = inputs
    tensor = tensor_of(one.get("name"), one.get("datatype"), one.get("shape"))
    parameters = _parameters(one, "The input")
    check_parameters(parameters)
    size = parameters.get("binary_data_size")
    if size is None:
        if rest:
            raise InvalidRequest(
                f"{len(rest)} bytes follow the JSON, and no input has the parameter "
                "binary_data_size."
            )
        return from_json(tensor, one.get("data"))
    if type(size) is not int or size != len(rest):
        raise InvalidRequest(
            f"The parameter binary_data_size is {str(size)[:20]}; {len(rest)} bytes "
            "follow the JSON."
        )
    return from_raw(tensor, rest)


def _objects(document: dict[str, Any], name: str) -> list[dict[str, Any]]:
    found = document.get(name, [])
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise InvalidRequest(f"The {name} in the JSON are no list of objects.")
    return found


def _parameters(holder: dict[str, Any], what: str) -> dict[str, Any]:
    found = holder.get("parameters", {})
    if not isinstance(found, dict):
        raise InvalidRequest(f"{what} has parameters that are no object.")
    return found
