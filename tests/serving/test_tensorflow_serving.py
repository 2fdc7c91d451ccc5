# SPDX-License-Identifier: Apache-2.0
"""TensorFlow Serving's protocol, both ways, against its own classes.

Their client stubs against our gateway; and our engine against a server that is built on
their servicers and runs the published SavedModel in TensorFlow.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.framework import types_pb2
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

import inkling
from inkling.errors import (
    DeadlineExceeded,
    InklingError,
    InternalError,
    ModelNotFound,
    NotReady,
    Overloaded,
)
from inkling.image.preprocess import to_input
from inkling.model.repository import Repository
from inkling_serving.engines.stub import ENGINE_ERRORS
from inkling_serving.engines.tensorflow_serving import TensorFlowServingEngine
from inkling_serving.settings import Settings
from inkling_serving.tensorflow_serving_wire import tensorflow_serving_pb2 as wire
from inkling_serving.tensorflow_serving_wire.tensors import (
    array_of,
    strings_of,
    strings_tensor,
    tensor_of,
)
from tests.support.digits import all_digits
from tests.support.gateway_process import Killable, serving
from tests.support.machine import (
    TooSlow,
    free_port,
    listens,
    memory_bytes,
    until,
    within,
)
from tests.support.official_server import OfficialServer, meta_graph, saved_model

_REAL_ADDRESS = os.environ.get("TEST_TFS_ADDRESS", "")
_INVALID = grpc.StatusCode.INVALID_ARGUMENT
_NOT_FOUND = grpc.StatusCode.NOT_FOUND
_AVAILABLE = get_model_status_pb2.ModelVersionStatus.AVAILABLE


@contextmanager
def _engine(*addresses: str, **settings: Any) -> Iterator[TensorFlowServingEngine]:
    settings = {"poll_s": 0.1, **settings}
    engine = TensorFlowServingEngine(
        Settings(
            engine="tensorflow_serving",
            tensorflow_serving=",".join(addresses),
            **settings,
        )
    )
    try:
        yield engine
    finally:
        engine.close()


@pytest.fixture(scope="module")
def _shared_engine(_official: OfficialServer) -> Iterator[TensorFlowServingEngine]:
    _official.reset()
    with _engine(_official.address) as engine:
        yield engine


@pytest.fixture
def engine(
    _shared_engine: TensorFlowServingEngine, official: OfficialServer
) -> TensorFlowServingEngine:
    """Our engine in this process, in front of `official`."""
    until(lambda: all(model.ready for model in _shared_engine.status()))
    official.reset()
    return _shared_engine


@pytest.fixture(scope="module")
def inputs(published: Path) -> np.ndarray:
    """64 model inputs, all different."""
    from inkling.image.preprocess import pixels_to_input

    contract = Repository(published).newest("cnn").contract()
    pixels = all_digits()[:64]
    return np.stack([pixels_to_input(one, contract) for one in pixels])


@pytest.fixture(scope="module")
def scores(published: Path, inputs: np.ndarray) -> np.ndarray:
    """What the published SavedModel says of `inputs`."""
    path = Repository(published).newest("cnn").path
    signature = saved_model(path).signatures["serving_default"]
    found: np.ndarray = signature(inputs=tf.constant(inputs))["scores"].numpy()
    return found


# (a) Their stubs against our gateway.


@dataclass(frozen=True)
class Stubs:
    """The clients of tensorflow-serving-api."""

    prediction: Any
    model: Any


@contextmanager
def _stubs(target: str) -> Iterator[Stubs]:
    with grpc.insecure_channel(target) as channel:
        yield Stubs(
            prediction_service_pb2_grpc.PredictionServiceStub(channel),
            model_service_pb2_grpc.ModelServiceStub(channel),
        )


@pytest.fixture(scope="module")
def stubs(gateway: Any) -> Iterator[Stubs]:
    """Those clients in front of an embedded gateway."""
    with _stubs(gateway.grpc_target) as made:
        yield made


def _predict(inputs: Any = None, **spec: Any) -> Any:
    request = predict_pb2.PredictRequest()
    request.model_spec.name = spec.pop("name", "cnn")
    version = spec.pop("version", None)
    if version is not None:
        request.model_spec.version.value = version
    for field, value in spec.items():
        setattr(request.model_spec, field, value)
    if inputs is not None:
        tensor = inputs
        if isinstance(inputs, np.ndarray):
            tensor = tf.make_tensor_proto(inputs)
        request.inputs["inputs"].CopyFrom(tensor)
    return request


def _as_float_val(array: np.ndarray) -> Any:
    tensor = tf.make_tensor_proto(array)
    tensor.ClearField("tensor_content")
    del tensor.float_val[:]
    tensor.float_val.extend(array.ravel().tolist())
    return tensor


def _one_value(shape: tuple[int, ...], value: float = 0.0) -> Any:
    return tf.make_tensor_proto(np.float32(value), shape=list(shape))


@pytest.mark.parametrize("form", ["tensor_content", "float_val"])
@pytest.mark.parametrize("rows", [1, 32])
def test_predict_with_their_stub(
    form: str, rows: int, stubs: Stubs, inputs: np.ndarray, scores: np.ndarray
) -> None:
    """Their client gets the SavedModel's scores from the embedded engine."""
    batch = inputs[:rows]
    tensor = _as_float_val(batch)
    if form == "tensor_content":
        tensor = tf.make_tensor_proto(batch)
        assert tensor.tensor_content

    answer = stubs.prediction.Predict(_predict(tensor), timeout=5)

    found = tf.make_ndarray(answer.outputs["scores"])
    assert list(answer.outputs) == ["scores"]
    assert (np.float32, (rows, 10)) == (found.dtype, found.shape)
    assert np.abs(scores[:rows] - found).max() < 1e-5
    spec = answer.model_spec
    assert (
        spec.name,
        spec.version.value,
        spec.signature_name,
    ) == ("cnn", 1, "serving_default")


def test_one_value_fills_the_shape(stubs: Stubs) -> None:
    """The shorthand of one value for all is read as TensorFlow reads it."""
    short = stubs.prediction.Predict(_predict(_one_value((2, 28, 28, 1), 0.5)))
    whole = stubs.prediction.Predict(_predict(np.full((2, 28, 28, 1), 0.5, np.float32)))

    assert np.array_equal(
        tf.make_ndarray(whole.outputs["scores"]),
        tf.make_ndarray(short.outputs["scores"]),
    )


def test_their_stub_asks_for_a_contract(stubs: Stubs, published: Path) -> None:
    """The `contract` signature answers one copy a row, as the SavedModel does."""
    request = _predict(signature_name="contract")
    request.inputs["asked"].CopyFrom(tf.make_tensor_proto(np.zeros(3, np.int32)))

    answer = stubs.prediction.Predict(request)

    contract = Repository(published).newest("cnn").contract()
    found = tf.make_ndarray(answer.outputs["contract"]).tolist()
    assert [contract.json.encode()] * 3 == found


def test_their_stub_asks_for_the_device(stubs: Stubs) -> None:
    """The `device` signature answers 0, a CPU, a row, as the SavedModel does on one."""
    request = _predict(signature_name="device")
    request.inputs["asked"].CopyFrom(tf.make_tensor_proto(np.zeros(3, np.int32)))

    answer = stubs.prediction.Predict(request)

    assert [0, 0, 0] == tf.make_ndarray(answer.outputs["device"]).tolist()


def test_metadata_is_the_saved_models(stubs: Stubs, published: Path) -> None:
    """GetModelMetadata unpacks, and its signatures are those of the SavedModel."""
    request = get_model_metadata_pb2.GetModelMetadataRequest()
    request.model_spec.name = "mlp"
    request.metadata_field.append("signature_def")

    answer = stubs.prediction.GetModelMetadata(request)
    found = get_model_metadata_pb2.SignatureDefMap()

    assert answer.metadata["signature_def"].Unpack(found)
    assert (answer.model_spec.name, answer.model_spec.version.value) == ("mlp", 1)
    real = meta_graph(Repository(published).newest("mlp").path).signature_def
    keys = {key for key in real if not key.startswith("__")}
    assert keys == set(found.signature_def)
    for key in keys:
        assert _ports(real[key].inputs) == _ports(found.signature_def[key].inputs)
        assert _ports(real[key].outputs) == _ports(found.signature_def[key].outputs)
        assert real[key].method_name == found.signature_def[key].method_name


def _ports(infos: Any) -> dict[str, tuple[int, list[int]]]:
    return {
        alias: (info.dtype, [dim.size for dim in info.tensor_shape.dim])
        for alias, info in infos.items()
        # tf.saved_model.save flattens names; the alias is what clients see.
    }


def _status(name: str | None = "cnn", version: int | None = None) -> Any:
    request = get_model_status_pb2.GetModelStatusRequest()
    if name is not None:
        request.model_spec.name = name
    if version is not None:
        request.model_spec.version.value = version
    return request


@pytest.mark.parametrize("version", [None, 1])
def test_status_with_their_stub(version: int | None, stubs: Stubs) -> None:
    """GetModelStatus says AVAILABLE and OK; a version label is passed over."""
    answer = stubs.model.GetModelStatus(_status(version=version))
    labelled = _status()
    labelled.model_spec.version_label = "nobody"

    [found] = answer.model_version_status
    assert (found.version, found.state) == (1, _AVAILABLE)
    assert (found.status.error_code, found.status.error_message) == (0, "")
    assert len(stubs.model.GetModelStatus(labelled).model_version_status) == 1


def _metadata(*fields: str, name: str = "cnn") -> Any:
    request = get_model_metadata_pb2.GetModelMetadataRequest()
    request.model_spec.name = name
    request.metadata_field.extend(fields)
    return request


def _inputs(**tensors: Any) -> Any:
    request = _predict()
    for alias, tensor in tensors.items():
        request.inputs[alias].CopyFrom(tensor)
    return request


def _filtered(*names: str) -> Any:
    request = _predict(_one_value((1, 28, 28, 1)))
    request.output_filter.extend(names)
    return request


def _short_content() -> Any:
    tensor = tf.make_tensor_proto(np.zeros((1, 28, 28, 1), np.float32))
    tensor.tensor_content = tensor.tensor_content[:-4]
    return tensor


_GOOD = _one_value((1, 28, 28, 1))
_C1: dict[str, tuple[Any, grpc.StatusCode, str]] = {
    "no model_spec": (predict_pb2.PredictRequest(), _INVALID, "Missing ModelSpec"),
    "no model_spec, metadata": (
        get_model_metadata_pb2.GetModelMetadataRequest(),
        _INVALID,
        "Missing ModelSpec",
    ),
    "no model_spec, status": (
        get_model_status_pb2.GetModelStatusRequest(),
        _INVALID,
        "Missing ModelSpec",
    ),
    "empty name": (
        _predict(_GOOD, name=""),
        _INVALID,
        "ModelSpec has no name specified.",
    ),
    "unknown model": (
        _predict(_GOOD, name="nobody"),
        _NOT_FOUND,
        "Servable not found for request: Latest(nobody)",
    ),
    "unknown model of an odd name": (
        _predict(_GOOD, name="No Body!"),
        _NOT_FOUND,
        "Servable not found for request: Latest(No Body!)",
    ),
    "unknown model, metadata": (
        _metadata("signature_def", name="nobody"),
        _NOT_FOUND,
        "Servable not found for request: Latest(nobody)",
    ),
    "unknown model and signature": (
        _predict(_GOOD, name="nobody", signature_name="nothing"),
        _NOT_FOUND,
        "Servable not found for request: Latest(nobody)",
    ),
    "unknown version": (
        _predict(_GOOD, version=99),
        _NOT_FOUND,
        "Servable not found for request: Specific(cnn, 99)",
    ),
    "negative version": (
        _predict(_GOOD, version=-1),
        _NOT_FOUND,
        "Servable not found for request: Specific(cnn, -1)",
    ),
    "unknown label": (
        _predict(_GOOD, version_label="nobody"),
        _INVALID,
        "Unrecognized servable version label: nobody",
    ),
    "label of an unknown model": (
        _predict(_GOOD, name="nobody", version_label="stable"),
        _INVALID,
        "Unrecognized servable version label: stable",
    ),
    "unknown signature": (
        _predict(_GOOD, signature_name="nothing"),
        grpc.StatusCode.FAILED_PRECONDITION,
        'Serving signature key "nothing" not found.',
    ),
    "no inputs": (
        _predict(),
        _INVALID,
        "input size does not match signature: 0!=1 len({}) != len({inputs}). "
        "Sent extra: {}. Missing but required: {inputs}.",
    ),
    "two inputs": (
        _inputs(inputs=_GOOD, more=_GOOD),
        _INVALID,
        "input size does not match signature: 2!=1 len({inputs,more}) != "
        "len({inputs}). Sent extra: {more}. Missing but required: {}.",
    ),
    "another input": (
        _inputs(images=_GOOD),
        _INVALID,
        "Signature input alias: inputs(feed name: ",
    ),
    "malformed tensor": (
        _predict(_short_content()),
        _INVALID,
        "tensor parsing error: inputs",
    ),
    "unknown output": (
        _filtered("labels"),
        _INVALID,
        "output tensor alias not found in signature: labels Outputs expected to be "
        "in the set {scores}.",
    ),
    "repeated output": (
        _filtered("scores", "scores"),
        _INVALID,
        "duplicate output tensor alias: scores",
    ),
    "double": (
        _predict(tf.make_tensor_proto(0.0, tf.float64, [1, 28, 28, 1])),
        _INVALID,
        "Expects arg[0] to be float but double is provided",
    ),
    "uint8": (
        _predict(tf.make_tensor_proto(0, tf.uint8, [1, 28, 28, 1])),
        _INVALID,
        "Expects arg[0] to be float but uint8 is provided",
    ),
    "string": (
        _predict(tf.make_tensor_proto("x", tf.string, [1])),
        _INVALID,
        "Expects arg[0] to be float but string is provided",
    ),
    "half": (
        _predict(tf.make_tensor_proto(0.0, tf.float16, [1, 28, 28, 1])),
        _INVALID,
        "Expects arg[0] to be float but half is provided",
    ),
    "bool": (
        _predict(tf.make_tensor_proto(True, tf.bool, [1, 28, 28, 1])),
        _INVALID,
        "Expects arg[0] to be float but bool is provided",
    ),
    "no metadata_field": (
        _metadata(),
        _INVALID,
        "GetModelMetadataRequest must specify at least one metadata_field",
    ),
    "another metadata_field": (
        _metadata("weights"),
        _INVALID,
        "Metadata field weights is not supported",
    ),
    "status of an unknown model": (
        _status("nobody"),
        _NOT_FOUND,
        "Could not find any versions of model nobody",
    ),
    "status of an odd name": (
        _status("No Body!"),
        _NOT_FOUND,
        "Could not find any versions of model No Body!",
    ),
    "status of an empty name": (
        _status(""),
        _NOT_FOUND,
        "Could not find any versions of model ",
    ),
    "status of an unknown version": (
        _status("cnn", 9),
        _NOT_FOUND,
        "Could not find version 9 of model cnn",
    ),
    "status of a version of an unknown model": (
        _status("nobody", 9),
        _NOT_FOUND,
        "Could not find version 9 of model nobody",
    ),
}  # fmt: skip
# What TensorFlow Serving lets through and we refuse, with its code and our words.
_STRICTER = {
    "rank 2": _predict(_one_value((1, 784))),
    "rank 3": _predict(_one_value((1, 28, 28))),
    "27 rows": _predict(_one_value((1, 27, 28, 1))),
    "no rows": _predict(np.zeros((0, 28, 28, 1), np.float32)),
    "NaN": _predict(_one_value((1, 28, 28, 1), float("nan"))),
    "infinite": _predict(_one_value((1, 28, 28, 1), float("inf"))),
    "255": _predict(_one_value((1, 28, 28, 1), 255.0)),
    "33 rows": _predict(_one_value((33, 28, 28, 1))),
}


def _called(stubs: Stubs, request: Any) -> Any:
    if isinstance(request, predict_pb2.PredictRequest):
        return stubs.prediction.Predict(request, timeout=10)
    if isinstance(request, get_model_metadata_pb2.GetModelMetadataRequest):
        return stubs.prediction.GetModelMetadata(request, timeout=10)
    return stubs.model.GetModelStatus(request, timeout=10)


def _refused(stubs: Stubs, request: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as caught:
        _called(stubs, request)
    return caught.value.code(), caught.value.details()


@pytest.mark.parametrize("case", _C1)
def test_codes_and_messages_are_theirs(case: str, stubs: Stubs) -> None:
    """Table C1: the very code and message of TensorFlow Serving."""
    request, status, words = _C1[case]

    found = _refused(stubs, request)

    exact = not words.endswith("feed name: ")
    assert (status, words) == (found[0], found[1] if exact else found[1][: len(words)])


@pytest.mark.parametrize("case", _STRICTER)
def test_inputs_are_checked_more_strictly(case: str, stubs: Stubs) -> None:
    """What would be answered silently, or with a graph's error, is INVALID_ARGUMENT."""
    status, words = _refused(stubs, _STRICTER[case])

    assert status == _INVALID
    assert "0x" not in words
    assert "Traceback" not in words


def _with_shape(*sizes: int, **values: Any) -> Any:
    tensor = wire.Tensor(dtype=wire.DT_FLOAT, **values)
    for size in sizes:
        tensor.tensor_shape.dim.add(size=size)
    return tensor


@pytest.mark.parametrize(
    ("sizes", "values"),
    [
        ((-1, 28, 28, 1), {"float_val": [0.0]}),
        ((-1, -28, 28, 1), {"float_val": [0.0]}),
        ((2**31, 2**31), {"float_val": [0.0]}),
        ((2**62, 2**62), {"tensor_content": b"1234"}),
        ((1,) * 300, {"float_val": [0.0]}),
        ((100_000, 28, 28, 1), {"float_val": [0.0]}),
        ((), {}),
        ((), {"float_val": [0.0]}),
        ((1, 28, 28, 1), {}),
        ((1, 28, 28, 1), {"tensor_content": b"123"}),
        ((1, 28, 28, 1), {"float_val": [0.0] * 783}),
    ],
    ids=lambda value: str(value)[:30],
)
def test_impossible_shapes_are_refused(
    sizes: tuple[int, ...], values: dict[str, Any], gateway: Any
) -> None:
    """I16: overflowing, negative and lying shapes are INVALID_ARGUMENT, at no cost."""
    request = wire.PredictRequest()
    request.model_spec.name = "cnn"
    request.inputs["inputs"].CopyFrom(_with_shape(*sizes, **values))
    before = memory_bytes(gateway.process.pid, "VmHWM") / 2**20

    found = _raw(gateway.grpc_target, request.SerializeToString())

    grown = memory_bytes(gateway.process.pid, "VmHWM") / 2**20 - before
    assert (found[0], grown <= 64) == (_INVALID, True), (found, grown)


def test_asking_a_million_times_for_the_contract_costs_nothing(gateway: Any) -> None:
    """A few bytes cannot make an answer of a gigabyte: the batch limit holds here too."""
    request = wire.PredictRequest()
    request.model_spec.name = "cnn"
    request.model_spec.signature_name = "contract"
    tensor = wire.Tensor(dtype=wire.DT_INT32, int_val=[0])
    tensor.tensor_shape.dim.add(size=200_000)
    request.inputs["asked"].CopyFrom(tensor)
    before = memory_bytes(gateway.process.pid, "VmHWM") / 2**20

    found = _raw(gateway.grpc_target, request.SerializeToString())

    grown = memory_bytes(gateway.process.pid, "VmHWM") / 2**20 - before
    assert (found[0], grown <= 64) == (_INVALID, True), (found[0], grown)


def _raw(target: str, body: bytes) -> tuple[grpc.StatusCode, str]:
    with grpc.insecure_channel(
        target, [("grpc.max_receive_message_length", -1)]
    ) as channel:
        call = channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
        try:
            return grpc.StatusCode.OK, str(len(call(body, timeout=20)))
        except grpc.RpcError as error:
            return error.code(), error.details()


@pytest.mark.parametrize(
    "text",
    ["x" * 3000, "é" * 3000, "\U0001f600" * 3000, "a\nb" * 1000, "%" * 3000],
    ids=["ascii", "latin", "emoji", "newlines", "percent"],
)
@pytest.mark.parametrize("field", ["signature_name", "version_label", "output_filter"])
def test_long_texts_of_the_caller_are_cut(field: str, text: str, stubs: Stubs) -> None:
    """G11: what is quoted back is cut and fits into gRPC's metadata, whatever it is."""
    request = _predict(_GOOD)
    if field == "output_filter":
        request.output_filter.append(text)
    else:
        setattr(request.model_spec, field, text)
    expected = _INVALID
    if field == "signature_name":
        expected = grpc.StatusCode.FAILED_PRECONDITION

    for _ in range(5):
        status, words = _refused(stubs, request)
        assert expected == status, words[:200]
        assert words.endswith("...TRUNCATED")
        assert len(words) <= 1024 + len("...TRUNCATED")


def test_malformed_messages_are_the_callers_mistake(gateway: Any) -> None:
    """G1: bytes that are no PredictRequest are INVALID_ARGUMENT."""
    assert _raw(gateway.grpc_target, b"\xff\xff\xff")[0] == _INVALID


# The wire.


def test_our_messages_are_theirs(inputs: np.ndarray) -> None:
    """What we write, their classes read to equal values, and the other way round."""
    ours = wire.PredictRequest()
    ours.model_spec.name, ours.model_spec.version.value = "cnn", 7
    ours.model_spec.signature_name = "serving_default"
    ours.inputs["inputs"].CopyFrom(tensor_of(inputs[:2]))
    ours.output_filter.append("scores")

    theirs = predict_pb2.PredictRequest.FromString(ours.SerializeToString())
    again = wire.PredictRequest.FromString(theirs.SerializeToString())

    assert (theirs.model_spec.name, theirs.model_spec.version.value) == ("cnn", 7)
    assert theirs.model_spec.signature_name == "serving_default"
    assert list(theirs.output_filter) == ["scores"]
    assert np.array_equal(inputs[:2], tf.make_ndarray(theirs.inputs["inputs"]))
    assert ours == again


@pytest.mark.parametrize("dtype", ["float32", "float64", "int32", "int64"])
@pytest.mark.parametrize("shape", [(), (1,), (3,), (0, 4), (2, 3), (1, 2, 3, 4)])
def test_tensors_are_theirs(dtype: str, shape: tuple[int, ...]) -> None:
    """Their tensors, in both forms, are the arrays that TensorFlow makes of them."""
    array = (np.arange(np.prod(shape)).reshape(shape) * 3 - 2).astype(dtype)
    as_values = tf.make_tensor_proto(array.ravel().tolist(), dtype, shape)
    as_bytes = tf.make_tensor_proto(array)

    for theirs in (as_values, as_bytes):
        found = array_of(wire.Tensor.FromString(theirs.SerializeToString()))
        assert np.array_equal(array, found)
        assert array.shape == found.shape
    if dtype == "float32":
        ours = types_tensor(tensor_of(array))
        assert np.array_equal(array, tf.make_ndarray(ours))


def types_tensor(tensor: Any) -> Any:
    """Return our tensor as theirs."""
    from tensorflow.core.framework import tensor_pb2

    return tensor_pb2.TensorProto.FromString(tensor.SerializeToString())


def test_texts_are_theirs() -> None:
    """A tensor of texts goes both ways."""
    theirs = types_tensor(strings_tensor("é{}", 2))

    assert ["é{}".encode()] * 2 == tf.make_ndarray(theirs).tolist()
    assert theirs.dtype == types_pb2.DT_STRING
    back = wire.Tensor.FromString(tf.make_tensor_proto(["a", "b"]).SerializeToString())
    assert strings_of(back) == [b"a", b"b"]


def test_data_types_have_their_numbers() -> None:
    """Our enumeration is a part of theirs, number by number."""
    for name, number in wire.DataType.items():
        assert types_pb2.DataType.Value(name) == number


# (b) Our engine against their servicers.


@pytest.mark.parametrize("expect_gpu", [True, False])
def test_a_gpu_that_is_missing_is_said(
    official: OfficialServer, caplog: pytest.LogCaptureFixture, expect_gpu: bool
) -> None:
    """The real SavedModel says that it runs on a CPU; a warning, if a GPU was asked for."""
    caplog.set_level("INFO")
    with _engine(official.address, expect_gpu=expect_gpu) as engine:
        until(lambda: all(model.ready for model in engine.status()))

    said = [r for r in caplog.records if "cnn version 1 runs on the CPU" in r.message]
    assert ["WARNING" if expect_gpu else "INFO"] == [r.levelname for r in said]


@pytest.mark.parametrize("as_content", [False, True], ids=["float_val", "content"])
def test_scores_are_the_saved_models(
    as_content: bool,
    start_official: Callable[..., OfficialServer],
    published: Path,
    inputs: np.ndarray,
    scores: np.ndarray,
) -> None:
    """Contract and scores come over the wire, however the server writes its tensors."""
    server = start_official(as_content=as_content)
    with _engine(server.address) as engine:
        servable = engine.select("cnn")
        found = servable.predict(inputs)

    assert np.array_equal(scores, found)
    assert np.float32 == found.dtype
    assert Repository(published).newest("cnn").contract() == servable.contract


def test_every_request_names_its_version(
    engine: TensorFlowServingEngine, official: OfficialServer, inputs: np.ndarray
) -> None:
    """A request says which version, so that a swap cannot mix two."""
    engine.select("cnn").predict(inputs[:3], 2.0)
    engine.select("mlp", 1).predict(inputs[:1])

    found = [(seen.model, seen.version, seen.rows) for seen in official.seen]
    assert found == [("cnn", 1, 3), ("mlp", 1, 1)]
    assert all(seen.remaining_s is not None for seen in official.seen)
    left = official.seen[0].remaining_s or 0
    assert left < 2.1
    within(2 - left, 1)


def test_unknown_names_are_not_found(engine: TensorFlowServingEngine) -> None:
    """A model, version or label that is not served is ModelNotFound without asking."""
    for model, version, label in [
        ("nobody", None, None),
        ("cnn", 9, None),
        ("cnn", None, "stable"),
    ]:
        with pytest.raises(ModelNotFound):
            engine.select(model, version, label)


def test_labels_are_those_of_the_repository(
    official: OfficialServer, tmp_path: Path
) -> None:
    """A label leads to a version that TensorFlow Serving has loaded, and `stable` first."""
    (tmp_path / "cnn").mkdir()
    labels = tmp_path / "cnn" / "labels.json"
    labels.write_text('{"stable": 1}')
    with _engine(official.address, models_dir=str(tmp_path)) as engine:
        assert engine.select("cnn", version_label="stable").version == 1
        assert engine.select("cnn").version == 1
        labels.write_text('{"stable": 2, "old": 1}')
        until(lambda: "old" in engine.status()[0].version_labels)
        # The server does not have version 2.
        assert engine.select("cnn").version == 1
        [cnn] = [model for model in engine.status() if model.name == "cnn"]
        assert (cnn.default, cnn.labels_of(1)) == (1, ["old", "stable"])
    labels.write_text('{"stable": 2}')
    # As with the embedded engine: the label says that the version is to come.
    with (
        _engine(official.address, models_dir=str(tmp_path)) as engine,
        pytest.raises(NotReady),
    ):
        engine.select("cnn")


_MAPPING = {
    "CANCELLED": DeadlineExceeded,
    "UNKNOWN": NotReady,
    "INVALID_ARGUMENT": InternalError,
    "DEADLINE_EXCEEDED": DeadlineExceeded,
    "NOT_FOUND": NotReady,
    "ALREADY_EXISTS": InternalError,
    "PERMISSION_DENIED": NotReady,
    "RESOURCE_EXHAUSTED": Overloaded,
    "FAILED_PRECONDITION": NotReady,
    "ABORTED": NotReady,
    "OUT_OF_RANGE": InternalError,
    "UNIMPLEMENTED": InternalError,
    "INTERNAL": InternalError,
    "UNAVAILABLE": NotReady,
    "DATA_LOSS": InternalError,
    "UNAUTHENTICATED": NotReady,
}


def test_the_mapping_is_complete() -> None:
    """B9: every status but OK has its error."""
    assert {status.name: kind for status, kind in ENGINE_ERRORS.items()} == _MAPPING
    assert {s.name for s in grpc.StatusCode} - {"OK"} == set(_MAPPING)


@pytest.mark.parametrize("status", _MAPPING)
def test_every_status_is_its_error(
    status: str,
    engine: TensorFlowServingEngine,
    official: OfficialServer,
    inputs: np.ndarray,
) -> None:
    """B9: each status that the engine ends with is one class, without its words."""
    official.abort = grpc.StatusCode[status]

    with pytest.raises(InklingError) as caught:
        engine.select("cnn").predict(inputs[:1], 3.0)

    assert _MAPPING[status] is type(caught.value)
    assert "words of the engine" not in caught.value.message
    assert "secret" not in caught.value.message
    tries = 2 if status in ("UNAVAILABLE", "UNKNOWN", "CANCELLED") else 1
    # gRPC's throttling, which all channels to a server share, may forbid the second.
    assert 1 <= len(official.seen) <= tries


def _set(array: np.ndarray, as_content: bool = False) -> Callable[[Any], None]:
    def alter(response: Any) -> None:
        tensor = tf.make_tensor_proto(array)
        if not as_content and array.dtype == np.float32:
            tensor = _as_float_val(array)
        response.outputs["scores"].CopyFrom(tensor)

    return alter


def _row(*values: float) -> np.ndarray:
    return np.array([[*values, *[0.0] * (10 - len(values))]], np.float32)


def _pop(response: Any) -> None:
    del response.outputs["scores"]


def _rename(response: Any) -> None:
    response.outputs["logits"].CopyFrom(response.outputs["scores"])
    _pop(response)


def _lying(response: Any) -> None:
    response.outputs["scores"].tensor_shape.dim[0].size = 7


def _huge(response: Any) -> None:
    response.outputs["more"].CopyFrom(
        tf.make_tensor_proto(np.zeros(4 * 1024 * 1024, np.float32))
    )


_GARBAGE: dict[str, Callable[[Any], None]] = {
    "no output": _pop,
    "another output": _rename,
    "rank 1": _set(_row(1.0)[0]),
    "nine classes": _set(_row(1.0)[:, :9]),
    "two rows": _set(np.repeat(_row(1.0), 2, axis=0)),
    "no rows": _set(np.zeros((0, 10), np.float32)),
    "scalar": _set(np.float32(1.0)),
    "lying shape": _lying,
    "NaN": _set(_row(float("nan"), 1.0)),
    "all NaN": _set(np.full((1, 10), np.nan, np.float32)),
    "infinite": _set(_row(float("inf"), float("-inf"), 1.0)),
    "sum of 2": _set(_row(1.0, 1.0)),
    "sum of 0": _set(_row(0.0)),
    "logits that sum to 1": _set(_row(3.0, -2.0)),
    "double": _set(_row(1.0).astype(np.float64)),
    "int64": _set(_row(1.0).astype(np.int64)),
    "int32": _set(_row(1.0).astype(np.int32)),
    "strings": _set(np.array([["1"] * 10])),
    "half": _set(_row(1.0).astype(np.float16)),
    "16 MiB": _huge,
}


@pytest.mark.parametrize("case", _GARBAGE)
def test_garbage_is_not_forwarded(
    case: str,
    engine: TensorFlowServingEngine,
    official: OfficialServer,
    inputs: np.ndarray,
) -> None:
    """B7: an answer that is no scores is InternalError; the next good one is answered."""
    official.alter = _GARBAGE[case]
    servable = engine.select("cnn")

    with pytest.raises(InklingError) as caught:
        servable.predict(inputs[:1], 5.0)
    official.reset()

    assert InternalError is type(caught.value)
    assert servable.predict(inputs[:1], 5.0).shape == (1, 10)


def test_a_slow_engine_ends_with_the_deadline(
    engine: TensorFlowServingEngine, official: OfficialServer, inputs: np.ndarray
) -> None:
    """B5: the caller's deadline ends the call, and the engine's part of it too."""
    official.delay_s = 5.0
    started = time.monotonic()
    with pytest.raises(DeadlineExceeded):
        engine.select("cnn").predict(inputs[:1], 0.3)
    took = time.monotonic() - started
    left = until(lambda: official.under_way == 0)

    assert took >= 0.28
    within(took, 1)
    within(left, 1)


def test_a_short_deadline_is_held_beside_a_long_one(
    engine: TensorFlowServingEngine, official: OfficialServer, inputs: np.ndarray
) -> None:
    """F8: whoever calls for all still answers its own caller in its own time."""
    official.delay_s = 1.5
    servable = engine.select("cnn")

    def timed(timeout_s: float) -> tuple[float, type]:
        started = time.monotonic()
        try:
            servable.predict(inputs[:1], timeout_s)
        except InklingError as error:
            return time.monotonic() - started, type(error)
        return time.monotonic() - started, type(None)

    with ThreadPoolExecutor(16) as pool:
        first = pool.submit(timed, 0.4)
        until(lambda: len(official.seen) == 1)
        # Whichever of them calls next, the patient one decides how long that may take.
        later = [pool.submit(timed, 0.6) for _ in range(12)]
        patient = [pool.submit(timed, 5.0)]
        found = [call.result(10) for call in (first, *later)]
        assert {type(None)} == {call.result(10)[1] for call in patient}

    assert {DeadlineExceeded} == {kind for _, kind in found}
    within(max(took for took, _ in found), 1.1)  # not the 1.5 s of the engine


def test_a_model_without_a_contract_says_so(
    start_official: Callable[..., OfficialServer],
) -> None:
    """B8: a SavedModel that nobody of ours published is not served, with the reason."""
    server = start_official()
    server.hidden_signatures.add("contract")
    with _engine(server.address) as engine:
        [cnn, _] = engine.status()
        with pytest.raises(NotReady):
            engine.select("cnn")

    [version] = cnn.versions
    assert not cnn.ready
    assert "contract" in (version.reason or ""), version.reason


def test_one_missing_model_leaves_the_other(
    start_official: Callable[..., OfficialServer], inputs: np.ndarray
) -> None:
    """A model that the server does not have is not ready; the other one answers."""
    server = start_official()
    server.hidden_models.add("mlp")
    with _engine(server.address) as engine:
        assert engine.select("cnn").predict(inputs[:1]).shape == (1, 10)
        with pytest.raises(NotReady):
            engine.select("mlp")
        server.hidden_models.clear()
        within(until(lambda: all(model.ready for model in engine.status())), 3)
        assert engine.select("mlp").predict(inputs[:1]).shape == (1, 10)


def test_a_new_version_is_followed(
    start_official: Callable[..., OfficialServer],
    models_dir: Path,
    inputs: np.ndarray,
) -> None:
    """A version that appears is asked from then on; a kept servable stays the old one."""
    import shutil

    server = start_official(models_dir)
    with _engine(server.address) as engine:
        until(lambda: all(model.ready for model in engine.status()))
        old = engine.select("cnn")
        shutil.copytree(models_dir / "cnn" / "1", models_dir / "cnn" / "2.part")
        (models_dir / "cnn" / "2.part").rename(models_dir / "cnn" / "2")
        within(until(lambda: engine.select("cnn").version == 2), 5)
        old.predict(inputs[:1])
        engine.select("cnn").predict(inputs[:1])

    assert [seen.version for seen in server.seen] == [1, 2]


@pytest.mark.parametrize("stopped", [0, 1])
def test_of_two_servers_one_may_die(
    stopped: int,
    start_official: Callable[..., OfficialServer],
    inputs: np.ndarray,
    scores: np.ndarray,
) -> None:
    """Two addresses: both work, one dies under load, and no request is lost."""
    servers = [start_official(), start_official()]
    with _engine(*[server.address for server in servers]) as engine:
        servable = engine.select("cnn")
        for _ in range(20):
            servable.predict(inputs[:1])
        assert all(server.seen for server in servers)
        with ThreadPoolExecutor(4) as pool:
            calls = [
                pool.submit(servable.predict, inputs[i % 64][None], 3.0)
                for i in range(60)
            ]
            servers[stopped].stop()
            calls += [
                pool.submit(servable.predict, inputs[i % 64][None], 3.0)
                for i in range(60)
            ]
            found = [call.result(10) for call in calls]
        assert engine.status()[0].ready

    for i, row in enumerate(found):
        assert np.abs(scores[(i % 60) % 64] - row[0]).max() < 1e-5


def test_waiting_requests_share_a_call(
    engine: TensorFlowServingEngine,
    official: OfficialServer,
    inputs: np.ndarray,
    scores: np.ndarray,
) -> None:
    """32 threads on a server that takes 20 ms a call: few calls, each answer its own."""
    official.delay_s, official.lock_step = 0.02, True
    servable = engine.select("cnn")
    started = time.monotonic()
    with ThreadPoolExecutor(32) as pool:
        places = [i % 64 for i in range(640)]
        found = list(
            pool.map(lambda i: servable.predict(inputs[i][None], 10.0), places)
        )
    took = time.monotonic() - started

    rows = [seen.rows for seen in official.seen]
    print(
        f"640 requests were {len(rows)} calls, at most {max(rows)} a call, {took:.2f} s"
    )
    assert sum(rows) == 640
    assert max(rows) <= 32
    for place, row in zip(places, found, strict=True):
        assert np.abs(scores[place] - row[0]).max() < 1e-5
    if len(rows) > 80:
        raise TooSlow(f"{len(rows)} calls: what waited was not there in time")


def test_a_lone_request_is_not_delayed(
    engine: TensorFlowServingEngine, official: OfficialServer, inputs: np.ndarray
) -> None:
    """Nothing waits for company: alone, requests take what the engine takes."""
    servable = engine.select("cnn")
    servable.predict(inputs[:1])
    times = []
    for _ in range(30):
        started = time.monotonic()
        servable.predict(inputs[:1])
        times.append(time.monotonic() - started)

    print(f"alone: median {1000 * sorted(times)[15]:.1f} ms")
    assert {1} == {seen.rows for seen in official.seen}
    within(sorted(times)[15], 0.05)


def test_a_failed_call_fails_only_those_in_it(
    engine: TensorFlowServingEngine, official: OfficialServer, inputs: np.ndarray
) -> None:
    """All in one failed call get its error, and the next ones are answered."""
    servable = engine.select("cnn")
    official.delay_s, official.abort = 0.1, grpc.StatusCode.INTERNAL
    with ThreadPoolExecutor(8) as pool:
        calls = [pool.submit(servable.predict, inputs[:1], 5.0) for _ in range(8)]
        errors = [call.exception(10) for call in calls]
    official.reset()

    assert {InternalError} == {type(error) for error in errors}
    assert servable.predict(inputs[:1]).shape == (1, 10)


def test_attempts_stay_few_in_an_outage(
    engine: TensorFlowServingEngine, official: OfficialServer, inputs: np.ndarray
) -> None:
    """F16: 200 calls to an engine that is UNAVAILABLE are at most 240 attempts."""
    official.abort = grpc.StatusCode.UNAVAILABLE
    servable = engine.select("cnn")
    for _ in range(200):
        with pytest.raises(NotReady):
            servable.predict(inputs[:1], 1.0)

    print(f"{len(official.seen)} attempts for 200 calls")
    assert len(official.seen) <= 240


# (c), (d) Gateways before engines.


@pytest.fixture(scope="module")
def chained(
    gateway: Any, published: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Any]:
    """A gateway whose engine is another gateway's TensorFlow Serving protocol."""
    folder = tmp_path_factory.mktemp("chained")
    flags = ("--engine", "tensorflow_serving", "--tensorflow-serving")
    with serving(folder, *flags, gateway.grpc_target, log=folder / "log") as process:
        until(lambda: process.request("GET", "/readyz").status == 200)
        yield process


def test_a_gateway_before_a_gateway(
    chained: Any, gateway: Any, sample: np.ndarray, encode: Any
) -> None:
    """Gateway to gateway: the same answer over HTTP and gRPC, contract included."""
    picture = encode(sample)
    path = "/v1/models/cnn:classify?top_k=3"
    with inkling.connect(gateway.grpc_target) as classifier:
        expected = classifier.classify(picture, 3)
    with inkling.connect(chained.grpc_target) as classifier:
        found = classifier.classify(picture, 3)
    over_http = chained.request("POST", path, picture)

    assert expected == found
    assert over_http.status == 200
    assert expected.label == over_http.json["results"][0]["label"]
    assert expected.origin.contract == over_http.json["contract"]
    models = chained.request("GET", "/v1/models").json["models"]
    assert [(m["name"], m["ready"]) for m in models] == [("cnn", True), ("mlp", True)]


def test_their_stub_through_two_gateways(
    chained: Any, inputs: np.ndarray, scores: np.ndarray
) -> None:
    """The protocol goes through: their client, a gateway, its engine, another gateway."""
    with _stubs(chained.grpc_target) as stubs:
        answer = stubs.prediction.Predict(_predict(inputs[:5]), timeout=5)

    assert np.abs(scores[:5] - tf.make_ndarray(answer.outputs["scores"])).max() < 1e-5


def _front(make: Callable[..., Killable], engine_port: int, *flags: str) -> Killable:
    address = f"127.0.0.1:{engine_port}"
    words = ("--engine", "tensorflow_serving", "--tensorflow-serving", address)
    return make(*words, *flags).start()


def test_the_engine_is_down_at_the_start(
    killable: Callable[..., Killable],
    start_official: Callable[..., OfficialServer],
    sample: np.ndarray,
    encode: Any,
) -> None:
    """B1: live, not ready, refusals within 50 ms; ready within 2 s of the engine."""
    port = free_port()
    front = _front(killable, port)
    until(lambda: front.get("/livez")[0] == 200)
    ready = front.get("/readyz")
    times = []
    for _ in range(20):
        started = time.monotonic()
        status, answer = front.request(
            "POST", "/v1/models/cnn:classify", encode(sample)
        )
        times.append(time.monotonic() - started)
        assert (status, answer["error"]["code"]) == (503, "not_ready")
    server = start_official(port=port)
    took = until(lambda: front.get("/readyz")[0] == 200)
    until(
        lambda: (
            front.request("POST", "/v1/models/mlp:classify", encode(sample))[0] == 200
        )
    )

    print(f"refused in at most {1000 * max(times):.0f} ms; ready {took:.2f} s after it")
    assert (ready[0], ready[1]["error"]["code"]) == (503, "not_ready")
    assert server.port == port
    assert front.end(signal.SIGTERM) == 0
    within(sorted(times)[-2], 0.05)
    within(took, 2)


@dataclass(frozen=True)
class Try:
    """One request of a load: when, how long, and what came."""

    started: float
    took: float
    status: int


class Load:
    """Threads that classify without a pause until they are told to stop."""

    def __init__(self, front: Killable, picture: bytes, threads: int = 4) -> None:
        self.tries: list[Try] = []
        self._front, self._picture = front, picture
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(threads)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        until(lambda: len(self.tries) > 20)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        path = "/v1/models/cnn:classify"
        while not self._stop.is_set():
            started = time.monotonic()
            status, _ = self._front.request("POST", path, self._picture)
            took = time.monotonic() - started
            self.tries.append(Try(started, took, status))
            if status != 200:
                time.sleep(0.01)

    def first_success_after(self, moment: float) -> float:
        until(
            lambda: any(t.status == 200 and t.started > moment for t in self.tries[:]),
        )
        ends = [
            t.started + t.took
            for t in self.tries
            if t.status == 200 and t.started > moment
        ]
        return min(ends) - moment


def test_the_engine_is_killed_and_comes_back(
    killable: Callable[..., Killable], sample: np.ndarray, encode: Any
) -> None:
    """B2, B4, F7: SIGKILL under load, then a restart on the same port; never a 500."""
    back = killable().start().wait_ready()
    front = _front(killable, back.grpc_port).wait_ready()
    with Load(front, encode(sample)) as load:
        killed = time.monotonic()
        back.end()
        unready = until(lambda: front.get("/readyz")[0] == 503)
        time.sleep(2.0)
        back.start()
        until(lambda: listens(back.grpc_port))
        returned = time.monotonic()
        recovery = load.first_success_after(returned)
    refusals = [t for t in load.tries if t.status == 503 and t.started > killed + 0.2]
    slow = sorted(t.took for t in refusals)

    print(
        f"{len(refusals)} refusals, p99 {1000 * slow[int(0.99 * len(slow))]:.0f} ms, "
        f"worst {1000 * slow[-1]:.0f} ms; unready after {unready:.2f} s; first success "
        f"{recovery:.2f} s after the port was back"
    )
    assert {200, 503} == {t.status for t in load.tries}
    within(slow[int(0.9 * len(slow))], 0.05)
    within(unready, 2)
    within(recovery, 1.5)


def test_what_waited_is_taken_off_the_deadline(
    killable: Callable[..., Killable],
    official: OfficialServer,
    sample: np.ndarray,
    encode: Any,
) -> None:
    """F8: the engine gets what is left of the caller's time, waiting included."""
    front = _front(killable, official.port, "--threads", "1").wait_ready()
    official.delay_s = 0.5
    picture = encode(sample)
    with inkling.connect(front.target, timeout_s=5) as classifier:
        official.seen.clear()
        with ThreadPoolExecutor(2) as pool:
            calls = [pool.submit(classifier.classify, picture) for _ in range(2)]
            for call in calls:
                call.result(10)

    left = [seen.remaining_s or 0 for seen in official.seen]
    print(f"the engine was given {left[0]:.2f} s and {left[1]:.2f} s of 5 s")
    assert left[1] <= 5 - 0.4


# The same against a real server.


@pytest.mark.skipif(
    not _REAL_ADDRESS,
    reason="TEST_TFS_ADDRESS names no TensorFlow Serving; NOTHING was checked "
    "against a real one",
)
def test_a_real_server(inputs: np.ndarray) -> None:
    """A real TensorFlow Serving that serves mlp and cnn: contract, scores, coalescing."""
    with _engine(_REAL_ADDRESS) as engine:
        assert [model.ready for model in engine.status()] == [True, True]
        servable = engine.select("cnn")
        alone = np.concatenate([servable.predict(row[None]) for row in inputs])
        with ThreadPoolExecutor(32) as pool:
            together = list(pool.map(lambda row: servable.predict(row[None]), inputs))

    assert servable.contract.input_shape == (28, 28, 1)
    assert np.abs(alone - np.concatenate(together)).max() < 1e-5


@pytest.mark.skipif(
    not _REAL_ADDRESS,
    reason="TEST_TFS_ADDRESS names no TensorFlow Serving; NOTHING was checked "
    "against a real one",
)
def test_a_real_server_has_these_codes_and_messages() -> None:
    """Table C1 against TensorFlow Serving itself, but for labels, which it has none of."""
    with _stubs(_REAL_ADDRESS) as stubs:
        found = {
            case: _refused(stubs, _C1[case][0]) for case in _C1 if "label" not in case
        }

    for case, (status, words) in found.items():
        assert (case, *_C1[case][1:]) == (case, status, words[: len(_C1[case][2])])


def test_wire_image_of_a_picture(
    published: Path, sample: np.ndarray, encode: Any
) -> None:
    """What we prepare is what their client would send: the same bytes on the wire."""
    contract = Repository(published).newest("cnn").contract()
    batch = to_input(encode(sample), contract)[None]

    ours = tensor_of(batch).SerializeToString(deterministic=True)
    theirs = tf.make_tensor_proto(batch).SerializeToString(deterministic=True)

    assert theirs == ours
