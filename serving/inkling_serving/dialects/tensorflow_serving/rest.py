# SPDX-License-Identifier: Apache-2.0
"""TensorFlow Serving's REST: the JSON of `:predict`, of the status and the metadata.

The forms are those of http_rest_api_util.cc and json_tensor.cc. Beyond them, a row may
be `{"b64": picture}`: the picture is then prepared as the contract prescribes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from inkling.errors import InklingError, InvalidRequest
from inkling_serving.base64_text import decoded
from inkling_serving.dialects.json_values import array_of, document_of
from inkling_serving.dialects.tensorflow_serving.models import (
    DEFAULT_SIGNATURE,
    INVALID,
    SIGNATURES,
    contract_of,
    copied,
    shapes,
    versions_of,
)
from inkling_serving.engines.base import State
from inkling_serving.grpc_api.errors import StatusError
from inkling_serving.service import Target
from inkling_serving.tensorflow_serving_wire import tensorflow_serving_pb2 as wire

if TYPE_CHECKING:
    from inkling.contract import Contract
    from inkling_serving.dialects.tensorflow_serving import rest_json
    from inkling_serving.engines.base import VersionStatus
    from inkling_serving.runtime.timings import Timings
    from inkling_serving.service import Given, Service

__all__ = ["metadata", "predict", "statuses", "version_statuses"]

_EXPECTED = '{"instances": [{"b64": "..."}]}'
_ROW, _COLUMN = "instances", "inputs"
_PICTURE = "b64"


def predict(
    service: Service, target: Target, body: bytes, timings: Timings
) -> rest_json.PredictAnswer:
    """Return the answer to `:predict`.

    Raises:
        InvalidRequest: The JSON is malformed, or its values are not the model's.
        InklingError: `Service.predict` raised an error.
    """
    document = document_of(body, _EXPECTED)
    is_row = _is_row(document)
    signature = _signature(document)
    rows = _rows(document, is_row, SIGNATURES[signature].input)
    contract_of(service, target)
    if signature == DEFAULT_SIGNATURE:
        found = service.predict(target, _given(rows), timings=timings)
        values: Any = found.values
    else:
        count = array_of(rows, "The request").size
        values = [copied(service, target, signature, count)[1]] * count
    return {"predictions": values} if is_row else {"outputs": values}


def version_statuses(versions: Sequence[VersionStatus]) -> rest_json.VersionStatuses:
    """Return the states of versions, the newest first."""
    return {"model_version_status": [_status(version) for version in versions]}


def statuses(service: Service, target: Target) -> rest_json.VersionStatuses:
    """Return the state of one version, which a number or a label names."""
    if target.version_label is not None:
        version, _ = contract_of(service, target)
        target = Target(target.model, version)
    return version_statuses(versions_of(service, target))


def metadata(service: Service, target: Target) -> rest_json.SignatureMetadata:
    """Return the signatures of the version that would answer."""
    version, contract = contract_of(service, target)
    return {
        "model_spec": {
            "name": target.model,
            "signature_name": "",
            "version": str(version),
        },
        # The key comes twice: once for the kind of metadata, once for the names.
        "metadata": {"signature_def": {"signature_def": _signatures(contract)}},
    }


def _is_row(document: dict[str, Any]) -> bool:
    is_row, is_column = _ROW in document, _COLUMN in document
    if is_row == is_column:
        raise InvalidRequest(
            f'The JSON has {"both" if is_row else "neither of"} "instances" and '
            f'"inputs"; expected exactly one, such as {_EXPECTED}.'
        )
    return is_row


def _signature(document: dict[str, Any]) -> str:
    signature = document.get("signature_name", DEFAULT_SIGNATURE)
    if not isinstance(signature, str):
        raise InvalidRequest("The signature_name in the JSON must be a text.")
    signature = signature or DEFAULT_SIGNATURE
    if signature not in SIGNATURES:
        raise StatusError(
            INVALID,
            f'Serving signature name: "{signature[:80]}" not found in signature def',
        )
    return signature


def _rows(document: dict[str, Any], is_row: bool, name: str) -> list[Any]:
    """Return the rows of a request, without the name of the input around them."""
    found = document[_ROW if is_row else _COLUMN]
    if is_row:
        if not isinstance(found, list) or not found:
            raise InvalidRequest(
                f'"instances" is no list, or is empty; expected {_EXPECTED}.'
            )
        return [_unnamed(row, name) for row in found]
    found = _unnamed(found, name)
    rows = found if isinstance(found, list) else [found]
    if not rows:
        raise InvalidRequest('"inputs" is empty; expected at least one row.')
    return rows


def _unnamed(value: Any, name: str) -> Any:
    """Return a value that may stand under the name of the model's only input."""
    if not isinstance(value, dict) or _PICTURE in value:
        return value
    if set(value) != {name}:
        came = ", ".join(repr(key[:40]) for key in list(value)[:4]) or "none"
        raise InvalidRequest(
            f"The request names the inputs {came}; the model has one, {name!r}. A "
            'picture is {"b64": "..."}.'
        )
    return value[name]


def _given(rows: list[Any]) -> Given:
    """Return the pictures, or the array of inputs, of the rows."""
    if any(isinstance(row, dict) for row in rows):
        return [_picture(row) for row in rows]
    array = array_of(rows, "The input")
    with np.errstate(over="ignore"):  # the contract's range refuses infinity in words
        return array.astype(np.float32)


def _picture(row: Any) -> bytes | InklingError:
    text = row.get(_PICTURE) if isinstance(row, dict) and len(row) == 1 else None
    if not isinstance(text, str):
        return InvalidRequest(
            'This row is not {"b64": "..."} with a picture in base64, as other rows '
            "of the request are."
        )
    try:
        return decoded(text)
    except InvalidRequest as error:
        return error.with_traceback(None)  # its frames hold the text


def _signatures(contract: Contract) -> dict[str, rest_json.SignatureDef]:
    sizes = shapes(contract)
    return {
        key: {
            "inputs": {form.input: _info(form.input, form.dtype, sizes)},
            "outputs": {form.output: _info(form.output, form.output_dtype, sizes)},
            "method_name": "tensorflow/serving/predict",
            "defaults": {},
        }
        for key, form in SIGNATURES.items()
    }


def _info(
    name: str, dtype: int, sizes: dict[str, tuple[int, ...]]
) -> rest_json.TensorInfo:
    dims: list[rest_json.Dimension] = [
        {"size": str(size), "name": ""} for size in sizes[name]
    ]
    return {
        "dtype": wire.DataType.Name(dtype),
        "tensor_shape": {"dim": dims, "unknown_rank": False},
        "name": f"{name}:0",
    }


def _status(version: VersionStatus) -> rest_json.VersionState:
    is_served = version.state == State.AVAILABLE
    return {
        "version": str(version.version),
        "state": "AVAILABLE" if is_served else "END",
        "status": {
            "error_code": "OK" if is_served else "UNKNOWN",
            "error_message": "" if is_served else version.reason or "",
        },
    }
