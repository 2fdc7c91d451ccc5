"""What the target says of itself before it is loaded."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Sequence
from typing import Any

import grpc

from inkling.errors import InklingError, ModelNotFound, NotReady
from inkling.gateway.status import error_from_rpc
from inkling.v1 import classifier_pb2 as pb
from inkling.v1.classifier_pb2_grpc import ClassifierStub
from inkling_loadtest.options import Options

__all__ = ["CHANNEL_OPTIONS", "labels_of"]

_TIMEOUT_S = 5.0

# Every user is a connection of its own, as users are; and what failed has failed.
CHANNEL_OPTIONS: Sequence[tuple[str, int]] = (
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_retries", 0),
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
)


def labels_of(options: Options) -> tuple[str, ...]:
    """Return the labels of the model that will be asked.

    Raises:
        NotReady: Nothing answers at the target, or the model cannot.
        ModelNotFound: It does not serve the model.
    """
    over = _over_grpc if options.protocol == "grpc" else _over_http
    return over(options)


def _over_http(options: Options) -> tuple[str, ...]:
    url = f"{options.target}/v1/models/{options.model}"
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as response:
            model = json.load(response)
    except urllib.error.HTTPError as error:
        if error.code == 404:
            raise _no_such_model(options) from None
        raise NotReady(
            f"{url} answers {error.code}; is it an Inkling gateway?"
        ) from None
    except (OSError, ValueError) as error:
        raise _nobody(options, error) from None
    served = [v for v in _listed(model, "versions") if v.get("state") == "AVAILABLE"]
    if not served:
        raise NotReady(f"{options.model} has no version that is available at {url}.")
    return tuple(served[0].get("labels", ()))


def _over_grpc(options: Options) -> tuple[str, ...]:
    with grpc.insecure_channel(options.address, list(CHANNEL_OPTIONS)) as channel:
        stub = ClassifierStub(channel)  # type: ignore[no-untyped-call]
        request = pb.GetModelRequest(model=options.model)
        try:
            model = stub.GetModel(request, timeout=_TIMEOUT_S)
        except grpc.RpcError as error:
            raise _grpc_error(options, error) from None
    served = [v for v in model.versions if v.contract_json]
    if not served:
        raise NotReady(f"{options.model} has no version that is available.")
    return tuple(json.loads(served[0].contract_json)["labels"])


def _grpc_error(options: Options, error: Any) -> InklingError:
    if error.code() == grpc.StatusCode.NOT_FOUND:
        return _no_such_model(options)
    if error.code() == grpc.StatusCode.UNAVAILABLE:
        return _nobody(options, error.details())
    return error_from_rpc(error.code(), error.details() or "", ())


def _no_such_model(options: Options) -> ModelNotFound:
    return ModelNotFound(
        f"{options.target} serves no model {options.model!r:.70}; name one that it "
        "does with --model."
    )


def _nobody(options: Options, why: object) -> NotReady:
    port = "--http-port" if options.protocol == "http" else "--grpc-port"
    return NotReady(
        f"{options.target} gives no answer ({str(why)[:200]}). Start the gateway with: "
        f"inkling serve --models-dir models, and name its {port} in --target."
    )


def _listed(model: Any, name: str) -> list[dict[str, Any]]:
    found = model.get(name, []) if isinstance(model, dict) else []
    return found if isinstance(found, list) else []
