# SPDX-License-Identifier: Apache-2.0
"""`inference.GRPCInferenceService`, by the protocol's document and Triton's extensions."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf import descriptor_pool

from inkling.image.preprocess import to_input
from inkling.model.repository import Repository
from inkling.v1.classifier_pb2 import ClassifyStreamRequest
from inkling.v1.classifier_pb2_grpc import ClassifierStub
from inkling_serving.open_inference_wire import open_inference_pb2 as pb
from tests.serving.dialects.pictures import classified, two_pictures

_INVALID = grpc.StatusCode.INVALID_ARGUMENT
_NOT_FOUND = grpc.StatusCode.NOT_FOUND
# The messages of each method.
_METHODS = {
    "ServerLive": (pb.ServerLiveRequest, pb.ServerLiveResponse),
    "ServerReady": (pb.ServerReadyRequest, pb.ServerReadyResponse),
    "ServerMetadata": (pb.ServerMetadataRequest, pb.ServerMetadataResponse),
    "ModelReady": (pb.ModelRequest, pb.ModelReadyResponse),
    "ModelMetadata": (pb.ModelRequest, pb.ModelMetadataResponse),
    "ModelConfig": (pb.ModelRequest, pb.ModelConfigResponse),
    "ModelStatistics": (pb.ModelRequest, pb.ModelStatisticsResponse),
    "ModelInfer": (pb.ModelInferRequest, pb.ModelInferResponse),
    "RepositoryIndex": (pb.RepositoryIndexRequest, pb.RepositoryIndexResponse),
    "RepositoryModelLoad": (pb.RepositoryModelRequest, pb.RepositoryModelResponse),
    "RepositoryModelUnload": (pb.RepositoryModelRequest, pb.RepositoryModelResponse),
}


@pytest.fixture(scope="module")
def pictures() -> list[bytes]:
    """A sample of the model's size, and a photo of a dark stroke."""
    return two_pictures()


@pytest.fixture(scope="module")
def inputs(published: Path, pictures: list[bytes]) -> np.ndarray:
    """What the contract makes of the pictures."""
    contract = Repository(published).newest("mlp").contract()
    return np.stack([to_input(one, contract) for one in pictures])


@pytest.fixture(scope="module")
def call(gateway: Any) -> Iterator[Callable[..., Any]]:
    """Call a method of the service by its name, with the fields of its request."""
    with grpc.insecure_channel(gateway.grpc_target) as channel:

        def called(method: str, request: Any = None, **fields: Any) -> Any:
            made, answered = _METHODS[method]
            return channel.unary_unary(
                f"/inference.GRPCInferenceService/{method}",
                made.SerializeToString,
                answered.FromString,
            )(request or made(**fields), timeout=10)

        yield called


@pytest.fixture(scope="module")
def stream(gateway: Any) -> Iterator[Callable[..., Any]]:
    """Open a stream of inferences, from an iterator of requests."""
    with grpc.insecure_channel(gateway.grpc_target) as channel:
        opened = channel.stream_stream(
            "/inference.GRPCInferenceService/ModelStreamInfer",
            pb.ModelInferRequest.SerializeToString,
            pb.ModelStreamInferResponse.FromString,
        )
        yield lambda requests: opened(iter(requests), timeout=20)


def _packed(texts: list[bytes]) -> bytes:
    return b"".join(len(one).to_bytes(4, "little") + one for one in texts)


def _request(
    datatype: str, shape: Any, raw: bytes | None = None, **contents: Any
) -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(model_name="mlp", id="é-1")
    one = request.inputs.add(name="inputs", datatype=datatype, shape=shape)
    if contents:
        one.contents.CopyFrom(pb.InferTensorContents(**contents))
    if raw is not None:
        request.raw_input_contents.append(raw)
    return request


def _scores(response: pb.ModelInferResponse) -> np.ndarray:
    [output], [raw] = response.outputs, response.raw_output_contents
    assert ("scores", "FP32") == (output.name, output.datatype)
    return np.frombuffer(raw, "<f4").reshape(output.shape)


def test_every_form_gives_the_scores_of_classify(
    gateway: Any,
    call: Callable[..., Any],
    pictures: list[bytes],
    inputs: np.ndarray,
) -> None:
    """Pictures and inputs, raw or typed: one answer, that of `:classify`."""
    expected = classified(gateway, pictures)
    forms = {
        "BYTES, raw": _request("BYTES", [2], _packed(pictures)),
        "BYTES": _request("BYTES", [2, 1], bytes_contents=pictures),
        "FP32, raw": _request("FP32", inputs.shape, inputs.tobytes()),
        "FP32": _request("FP32", inputs.shape, fp32_contents=inputs.reshape(-1)),
    }
    for name, request in forms.items():
        response = call("ModelInfer", request)
        np.testing.assert_allclose(_scores(response), expected, atol=1e-5, err_msg=name)
        assert ("mlp", "1", "é-1") == (
            response.model_name,
            response.model_version,
            response.id,
        )
        assert response.parameters["contract"].string_param.startswith("sha256:")


def test_a_sample_is_answered_at_once(
    gateway: Any, call: Callable[..., Any], pictures: list[bytes]
) -> None:
    """A picture that needs no thread, raw and typed."""
    expected = classified(gateway, pictures[:1])
    for request in (
        _request("BYTES", [1], _packed(pictures[:1])),
        _request("BYTES", [1], bytes_contents=pictures[:1]),
    ):
        found = _scores(call("ModelInfer", request))
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_pixels_get_the_contracts_scale(call: Callable[..., Any]) -> None:
    """UINT8 pixels, raw and typed, are the inputs times 255."""
    pixels = np.random.default_rng(0).integers(0, 256, (2, 28, 28, 1), np.uint8)
    floats = (pixels / np.float32(255)).astype(np.float32)
    expected = _scores(
        call("ModelInfer", _request("FP32", floats.shape, floats.tobytes()))
    )

    raw = call("ModelInfer", _request("UINT8", pixels.shape, pixels.tobytes()))
    typed = call(
        "ModelInfer",
        _request("UINT8", pixels.shape, uint_contents=pixels.reshape(-1).tolist()),
    )

    np.testing.assert_allclose(_scores(raw), expected, atol=1e-5)
    np.testing.assert_allclose(_scores(typed), expected, atol=1e-5)


def test_classification(
    gateway: Any, call: Callable[..., Any], pictures: list[bytes]
) -> None:
    """The parameter `classification` gives texts `score:index:label`."""
    request = _request("BYTES", [2], _packed(pictures))
    output = request.outputs.add(name="scores")
    output.parameters["classification"].int64_param = 2

    response = call("ModelInfer", request)

    assert ("BYTES", [2, 2]) == (
        response.outputs[0].datatype,
        list(response.outputs[0].shape),
    )
    raw = response.raw_output_contents[0]
    first = raw[4 : 4 + int.from_bytes(raw[:4], "little")].decode()
    best = int(np.argmax(classified(gateway, pictures[:1])))
    assert first.endswith(f":{best}:{best}")


def test_health_metadata_and_repository(call: Callable[..., Any]) -> None:
    """Server and model tell that they live, are ready, and what they take."""
    assert call("ServerLive").live
    assert call("ServerReady").ready
    assert call("ModelReady", name="mlp").ready
    assert call("ModelReady", name="mlp", version="1").ready
    assert "classification" in call("ServerMetadata").extensions
    metadata = call("ModelMetadata", name="mlp")
    assert (["1"], [-1, 28, 28, 1]) == (
        list(metadata.versions),
        list(metadata.inputs[0].shape),
    )
    config = call("ModelConfig", name="mlp").config
    assert (32, [28, 28, 1], pb.TYPE_FP32) == (
        config.max_batch_size,
        list(config.input[0].dims),
        config.input[0].data_type,
    )
    index = call("RepositoryIndex", ready=True).models
    assert [("cnn", "1", "READY"), ("mlp", "1", "READY")] == [
        (one.name, one.version, one.state) for one in index
    ]
    call("RepositoryModelLoad", model_name="mlp")
    with pytest.raises(grpc.RpcError) as caught:
        call("RepositoryModelUnload", model_name="mlp")
    assert grpc.StatusCode.FAILED_PRECONDITION == caught.value.code()


def test_statistics(call: Callable[..., Any], pictures: list[bytes]) -> None:
    """Each answered picture is counted once, and its phases last longer than nothing."""
    [before] = call("ModelStatistics", name="mlp").model_stats
    call("ModelInfer", _request("BYTES", [2], _packed(pictures)))
    [after] = call("ModelStatistics", name="mlp", version="1").model_stats

    assert 2 == after.inference_count - before.inference_count
    assert 1 == after.execution_count - before.execution_count
    stats, old = after.inference_stats, before.inference_stats
    assert 1 == stats.success.count - old.success.count
    assert stats.compute_infer.ns > old.compute_infer.ns
    assert 2 == len(call("ModelStatistics").model_stats)


def _wants(name: str) -> pb.ModelInferRequest:
    request = _request("BYTES", [1], _packed([b"x"]))
    request.outputs.add(name=name)
    return request


def _timed(value: int) -> pb.ModelInferRequest:
    request = _request("BYTES", [1], _packed([b"x"]))
    request.parameters["timeout"].int64_param = value
    return request


_TWICE = _request("FP32", [1], bytes(4))
_TWICE.raw_input_contents.append(b"")
_REFUSED = {
    "no inputs": (pb.ModelInferRequest(model_name="mlp"), _INVALID, "invalid_request"),
    "two raw inputs": (_TWICE, _INVALID, "invalid_request"),
    "raw and typed": (
        _request("FP32", [1], bytes(4), fp32_contents=[1.0]),
        _INVALID,
        "invalid_request",
    ),
    "typed as another type": (
        _request("FP32", [1], int_contents=[1]),
        _INVALID,
        "invalid_request",
    ),
    "typed, too many": (
        _request("FP32", [1], fp32_contents=[1.0, 2.0]),
        _INVALID,
        "invalid_request",
    ),
    "nothing": (_request("FP32", [1]), _INVALID, "invalid_request"),
    "another type": (_request("FP16", [1], b""), _INVALID, "invalid_request"),
    "vast shape": (_request("FP32", [1 << 62] * 3, b""), _INVALID, "too_large"),
    "pixels": (
        _request("UINT8", [1], uint_contents=[256]),
        _INVALID,
        "invalid_request",
    ),
    "range": (
        _request("FP32", [1, 28, 28, 1], np.full(784, np.nan, "<f4").tobytes()),
        _INVALID,
        "invalid_request",
    ),
    "no picture": (
        _request("BYTES", [1], _packed([b"hello"])),
        _INVALID,
        "invalid_image",
    ),
    "33 pictures": (
        _request("BYTES", [33], _packed([b""] * 33)),
        _INVALID,
        "too_large",
    ),
    "another output": (_wants("x"), _INVALID, "invalid_request"),
    "negative timeout": (_timed(-1), _INVALID, "invalid_request"),
    "model": (
        pb.ModelInferRequest(
            model_name="no",
            inputs=_request("BYTES", [1]).inputs,
            raw_input_contents=[_packed([b"x"])],
        ),
        _NOT_FOUND,
        "model_not_found",
    ),
}


@pytest.mark.parametrize("case", _REFUSED)
def test_refused(call: Callable[..., Any], case: str) -> None:
    """Each mistake has a status, words, and one code word in the trailing metadata."""
    request, status, code = _REFUSED[case]

    with pytest.raises(grpc.RpcError) as caught:
        call("ModelInfer", request)

    assert status == caught.value.code(), caught.value.details()
    assert ("inkling-error-code", code) in tuple(caught.value.trailing_metadata())


def test_timeout_is_in_microseconds(call: Callable[..., Any]) -> None:
    """A timeout of one microsecond passes before a photo is prepared."""
    request = _timed(1)
    request.raw_input_contents[0] = _packed([two_pictures()[1]])

    with pytest.raises(grpc.RpcError) as caught:
        call("ModelInfer", request)

    assert grpc.StatusCode.DEADLINE_EXCEEDED == caught.value.code()


def test_unknown_models_are_not_found(call: Callable[..., Any]) -> None:
    """Ready, metadata, configuration and statistics of nothing are NOT_FOUND."""
    for method in ("ModelReady", "ModelMetadata", "ModelConfig", "ModelStatistics"):
        with pytest.raises(grpc.RpcError) as caught:
            call(method, name="no")
        assert _NOT_FOUND == caught.value.code(), method


def test_names_do_not_collide_with_other_clients() -> None:
    """No message of ours has a name of tritonclient's or kserve's in the common pool."""
    assert "inkling.wire.open_inference" == pb.DESCRIPTOR.package
    with pytest.raises(KeyError):
        descriptor_pool.Default().FindMessageTypeByName("inference.ModelInferRequest")


def _named(name: str, datatype: str, shape: Any, raw: bytes) -> pb.ModelInferRequest:
    request = _request(datatype, shape, raw)
    request.id = name
    return request


def test_stream_answers_in_order(
    gateway: Any, stream: Callable[..., Any], pictures: list[bytes]
) -> None:
    """Quick and slow requests by turns, and wrong ones, are answered in their order.

    A wrong request gets its error and its code word, and the stream goes on.
    """
    sample, photo = (_packed([one]) for one in pictures)
    kinds = {"sample": sample, "photo": photo, "wrong": _packed([b"?"])}
    names = [f"{kind}-{n}" for n in range(12) for kind in ("photo", "sample", "wrong")]
    asked = [
        _named(name, "BYTES", [1], kinds[name.partition("-")[0]]) for name in names
    ]
    expected = dict(
        zip(("sample", "photo"), classified(gateway, pictures), strict=True)
    )
    answers = list(stream(asked))

    assert names == [answer.infer_response.id for answer in answers]
    for name, answer in zip(names, answers, strict=True):
        response, kind = answer.infer_response, name.partition("-")[0]
        assert response.parameters["triton_final_response"].bool_param
        if kind == "wrong":
            code = response.parameters["inkling-error-code"].string_param
            assert ("invalid_image", []) == (code, list(response.outputs))
            assert "PNG" in answer.error_message
        else:
            assert "" == answer.error_message
            np.testing.assert_allclose(_scores(response)[0], expected[kind], atol=1e-6)


def test_stream_answers_before_the_next_request(
    stream: Callable[..., Any], pictures: list[bytes]
) -> None:
    """A client that waits for each answer before it sends the next request gets it."""
    requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
    answers = stream(iter(requests.get, None))
    for n in range(3):
        requests.put(_named(str(n), "BYTES", [1], _packed(pictures[:1])))
        assert str(n) == next(answers).infer_response.id
    requests.put(None)
    assert [] == list(answers)


def test_streams_of_all_services_have_the_same_places(
    published: Path, start_gateway: Any
) -> None:
    """Of two streams with one place, one ends as overloaded: the new one, or the idle one."""
    with (
        start_gateway(published, "--grpc-max-streams", "1") as own,
        grpc.insecure_channel(own.grpc_target) as channel,
    ):
        ours: queue.SimpleQueue[Any] = queue.SimpleQueue()
        first = ClassifierStub(channel).ClassifyStream(  # type: ignore[no-untyped-call]
            iter(ours.get, None), timeout=20
        )
        request = {"model": "mlp", "images": [two_pictures()[0]]}
        ours.put(ClassifyStreamRequest(id="a", request=request))
        assert "a" == next(first).id
        second = channel.stream_stream(
            "/inference.GRPCInferenceService/ModelStreamInfer",
            pb.ModelInferRequest.SerializeToString,
            pb.ModelStreamInferResponse.FromString,
        )(iter([_request("BYTES", [1], _packed(two_pictures()[:1]))]), timeout=20)
        ends = [_end_of(second)]
        ours.put(None)
        ends.append(_end_of(first))

    assert ["ok", "overloaded"] == sorted(ends)


def _end_of(stream: Any) -> str:
    """Return the code word with which a stream ends, or `ok`."""
    try:
        list(stream)
    except grpc.RpcError as error:
        return str(dict(error.trailing_metadata())["inkling-error-code"])
    return "ok"
