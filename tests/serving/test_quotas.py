# SPDX-License-Identifier: Apache-2.0
"""The quotas of API keys, the same over HTTP, gRPC, streams and the dialects."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

import inkling
from inkling.contract import Contract
from inkling.errors import InvalidRequest, QuotaExceeded
from inkling.v1 import classifier_pb2 as pb
from inkling.v1.classifier_pb2_grpc import ClassifierStub
from inkling_serving.open_inference_wire import open_inference_pb2 as inference
from inkling_serving.quotas import Quotas
from inkling_serving.runtime.timings import Timings
from inkling_serving.security import check_security
from inkling_serving.settings import Settings
from inkling_serving.tensorflow_serving_wire import tensorflow_serving_pb2 as wire
from inkling_serving.tensorflow_serving_wire.tensors import tensor_of
from tests.serving.http_api.server_here import served_here
from tests.support.gateway_process import GatewayProcess, serving

_KEY, _OTHER = "a-key-of-one-caller", "a-key-of-another-caller"
_PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJ"
    "RU5ErkJggg=="
)
_CLASSIFY = "/v1/models/mlp:classify"
# Three requests at once; the next one comes back after 1000 s, so no test waits for it.
_THREE = {"quota_requests_per_s": 0.001, "quota_burst_s": 3000.0}


def _of(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@pytest.fixture
def key_file(tmp_path: Path) -> str:
    """The file with the keys of two callers."""
    path = tmp_path / "keys"
    path.write_text(f"{_KEY}\n{_OTHER}\n")
    return str(path)


def _admitted(quotas: Quotas, key: str = _KEY) -> Timings:
    timings = Timings()
    timings.admit(quotas.of(f"Bearer {key}"))
    return timings


def test_each_key_has_requests_of_its_own_in_each_process() -> None:
    """Two processes give a key half of its six requests each, and others theirs."""
    settings = Settings(
        workers=2, quota_requests_per_s=0.002, quota_burst_s=3000, api_key_file="keys"
    )
    quotas = settings.quotas()
    for _ in range(3):
        _admitted(quotas)

    with pytest.raises(QuotaExceeded) as refusal:
        _admitted(quotas)

    assert 990 < refusal.value.retry_after_s <= 1000
    assert "requests" in refusal.value.message
    _admitted(quotas, _OTHER)


def test_a_picture_beyond_the_quota_is_a_debt() -> None:
    """A picture may be larger than the bucket; the next request waits until it is paid."""
    settings = Settings(
        workers=1, quota_pixels_per_s=10, quota_burst_s=10, api_key_file="keys"
    )
    quotas = settings.quotas()
    _admitted(quotas).spend(10_100)

    with pytest.raises(QuotaExceeded) as refusal:
        _admitted(quotas)

    assert 990 < refusal.value.retry_after_s <= 1001
    assert "pixels" in refusal.value.message


def test_a_quota_comes_back() -> None:
    """What was used comes back at the rate of the quota, up to the burst."""
    settings = Settings(
        workers=1, quota_requests_per_s=1e6, quota_burst_s=1, api_key_file="keys"
    )
    quotas = settings.quotas()
    for _ in range(1000):
        timings = _admitted(quotas)

    assert timings.allowance is not None
    assert timings.allowance.headers()["ratelimit-policy"] == '"requests";q=1000000;w=1'


def test_a_quota_needs_keys() -> None:
    """Without keys there is nobody whom a quota could belong to."""
    with pytest.raises(InvalidRequest, match="INKLING_API_KEY_FILE"):
        check_security(Settings(quota_requests_per_s=1))


def test_http_refuses_with_429_and_says_when(
    digit_contract: Contract, key_file: str
) -> None:
    """The headers count down; a refusal has Retry-After, and another key is answered."""
    with served_here(
        digit_contract, workers=1, api_key_file=key_file, **_THREE
    ) as here:
        asked = [here.request("GET", "/v1/models", None, _of(_KEY)) for _ in range(4)]
        other = here.request("GET", "/v1/models", None, _of(_OTHER))
        free = here.request("GET", "/metrics", None, _of(_KEY))
        body = here.request("POST", _CLASSIFY, _PNG, _of(_KEY))
        dialect = here.request("POST", "/v1/models/mlp:predict", b"{}", _of(_KEY))
        v2 = here.request("POST", "/v2/models/mlp/infer", b"{}", _of(_KEY))

    assert [200, 200, 200, 429] == [one.status for one in asked]
    assert asked[0].headers["ratelimit-policy"] == '"requests";q=3;w=3000'
    left = [one.headers["ratelimit"].split(";")[1] for one in asked]
    assert ["r=2", "r=1", "r=0", "r=0"] == left
    assert 990 < int(asked[3].headers["retry-after"]) <= 1000
    assert "quota_exceeded" == asked[3].json["error"]["code"]
    assert (200, 200) == (other.status, free.status)
    for refused in (body, dialect, v2):
        assert (429, "quota_exceeded") == (
            refused.status,
            refused.headers["x-inkling-error-code"],
        )
        assert "retry-after" in refused.headers
    assert "ratelimit" not in free.headers


def test_http_takes_the_pixels_of_a_picture(
    digit_contract: Contract, key_file: str
) -> None:
    """After a picture, its pixels are gone; a picture that is refused costs none."""
    quota = {"quota_pixels_per_s": 0.01, "quota_burst_s": 1000.0}
    with served_here(digit_contract, workers=1, api_key_file=key_file, **quota) as here:
        here.engine.free.set()
        path = f"/v1/models/{here.engine.model}:classify"
        bad = here.request("POST", path, _PNG[:50], _of(_KEY))
        good = here.request("POST", path, _PNG, _of(_KEY))

    assert '"pixels";r=10;t=0' == bad.headers["ratelimit"]
    assert 200 == good.status, good.body
    assert '"pixels";r=9;t=100' == good.headers["ratelimit"]


@pytest.fixture(scope="module")
def gateway(
    published: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[], tuple[GatewayProcess, str]]]:
    """A gateway with three requests for each of many keys; the call gives a new key."""
    folder = tmp_path_factory.mktemp("quotas")
    keys = [f"key-number-{number:06}" for number in range(16)]
    (folder / "keys").write_text("\n".join(keys))
    flags = ["--api-key-file", str(folder / "keys")]
    for name, value in _THREE.items():
        flags += ["--" + name.replace("_", "-"), str(value)]
    unused = iter(keys)
    with serving(published, *flags, log=folder / "log") as started:
        yield lambda: (started, next(unused))


def _classify(channel: grpc.Channel, metadata: Any) -> None:
    request = pb.ClassifyRequest(model="mlp", images=[_PNG])
    ClassifierStub(channel).Classify(request, metadata=metadata)  # type: ignore[no-untyped-call]


def _infer(channel: grpc.Channel, metadata: Any) -> None:
    request = inference.ModelRequest(name="mlp")
    channel.unary_unary(
        "/inference.GRPCInferenceService/ModelMetadata",
        lambda message: message.SerializeToString(),
    )(request, metadata=metadata)


def _predict(channel: grpc.Channel, metadata: Any) -> None:
    request = wire.PredictRequest()
    request.model_spec.name = "mlp"
    inputs = np.zeros((1, 28, 28, 1), np.float32)
    request.inputs["inputs"].CopyFrom(tensor_of(inputs))
    channel.unary_unary(
        "/tensorflow.serving.PredictionService/Predict",
        lambda message: message.SerializeToString(),
    )(request, metadata=metadata)


@pytest.mark.parametrize("ask", [_classify, _infer, _predict])
def test_grpc_refuses_with_resource_exhausted(
    gateway: Callable[[], tuple[GatewayProcess, str]],
    ask: Callable[[grpc.Channel, Any], None],
) -> None:
    """Each service refuses the fourth call, with its code word and the time to wait."""
    served, key = gateway()
    metadata = (("authorization", f"Bearer {key}"),)
    with grpc.insecure_channel(served.grpc_target) as channel:
        for _ in range(3):
            ask(channel, metadata)
        with pytest.raises(grpc.RpcError) as refusal:
            ask(channel, metadata)

    assert grpc.StatusCode.RESOURCE_EXHAUSTED is refusal.value.code()
    trailing = dict(refusal.value.trailing_metadata())
    assert "quota_exceeded" == trailing["inkling-error-code"]
    assert 990_000 < int(trailing["grpc-retry-pushback-ms"]) <= 1_000_000


def test_each_message_of_a_stream_counts(
    gateway: Callable[[], tuple[GatewayProcess, str]],
) -> None:
    """The stream stays open, and its fourth message is refused alone."""
    served, key = gateway()
    asked = pb.ClassifyRequest(model="mlp", images=[_PNG])
    messages = [pb.ClassifyStreamRequest(id=str(n), request=asked) for n in range(4)]
    with grpc.insecure_channel(served.grpc_target) as channel:
        stub = ClassifierStub(channel)  # type: ignore[no-untyped-call]
        metadata = (("authorization", f"Bearer {key}"),)
        answers = list(stub.ClassifyStream(iter(messages), metadata=metadata))

    codes = sorted(answer.error.code for answer in answers)
    assert 4 == len(codes)
    assert 1 == codes.count("quota_exceeded")


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_the_client_raises_an_error_of_its_own_kind(
    gateway: Callable[[], tuple[GatewayProcess, str]], protocol: str
) -> None:
    """QuotaExceeded, told apart from Overloaded; it waits no longer than its deadline."""
    served, key = gateway()
    target = served.url if protocol == "http" else served.grpc_target
    with inkling.connect(target, model="mlp", api_key=key, timeout_s=20) as one:
        for _ in range(3):
            one.contract()
        with pytest.raises(QuotaExceeded, match="quota of requests"):
            one.contract()


def test_all_protocols_share_one_quota(
    gateway: Callable[[], tuple[GatewayProcess, str]],
) -> None:
    """Requests over HTTP are missing over gRPC; the metrics count the refusal."""
    served, key = gateway()
    for _ in range(3):
        answer = served.request("GET", "/v1/models", None, _of(key))
        assert 200 == answer.status, answer.body

    with (
        inkling.connect(served.grpc_target, model="mlp", api_key=key) as one,
        pytest.raises(QuotaExceeded),
    ):
        one.contract()

    found = served.request("GET", "/metrics", None, _of(key)).body.decode()
    assert 'inkling_requests_total{code="quota_exceeded",model="",protocol="grpc"}' in (
        found
    )


def test_the_document_has_429_where_there_is_a_quota(
    digit_contract: Contract, key_file: str
) -> None:
    """With a quota, addresses that count have 429 in /openapi.json, and others not."""
    with served_here(
        digit_contract, workers=1, api_key_file=key_file, **_THREE
    ) as here:
        found = json.loads(here.request("GET", "/openapi.json").body)

    paths = found["paths"]
    assert "429" in paths["/v1/models"]["get"]["responses"]
    assert "429" not in paths["/livez"]["get"]["responses"]
    assert "429" not in paths["/metrics"]["get"]["responses"]
    assert "TooManyRequests" in found["components"]["responses"]
