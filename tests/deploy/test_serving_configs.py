"""The text protos that TensorFlow Serving is started with, against schema and code."""

import ast
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import (
    descriptor_pb2,
    descriptor_pool,
    message_factory,
    text_format,
)
from google.protobuf import wrappers_pb2 as wrappers
from google.protobuf.message import Message
from tensorflow_serving.config import model_server_config_pb2

from inkling.model.repository import check_model_name
from inkling_serving.settings import Settings

ROOT = Path(__file__).parent.parent.parent
CONFIGS = ROOT / "deploy" / "tensorflow_serving"
_Field = descriptor_pb2.FieldDescriptorProto
_INT64 = {"type_name": ".google.protobuf.Int64Value"}

# The package tensorflow-serving-api leaves these two schemas out. Here they are, in the
# order of their numbers, as in servables/tensorflow/session_bundle_config.proto and
# config/monitoring_config.proto of TensorFlow Serving.
_SCHEMAS: dict[str, dict[str, dict[str, Any]]] = {
    "BatchingParameters": {
        "max_batch_size": _INT64,
        "batch_timeout_micros": _INT64,
        "max_enqueued_batches": _INT64,
        "num_batch_threads": _INT64,
        "thread_pool_name": {"type_name": ".google.protobuf.StringValue"},
        "allowed_batch_sizes": {
            "type": _Field.TYPE_INT64,
            "label": _Field.LABEL_REPEATED,
        },
        "pad_variable_length_inputs": {"type": _Field.TYPE_BOOL},
    },
    "PrometheusConfig": {
        "enable": {"type": _Field.TYPE_BOOL},
        "path": {"type": _Field.TYPE_STRING},
    },
    "MonitoringConfig": {
        "prometheus_config": {"type_name": ".schemas.PrometheusConfig"},
    },
}


def _described() -> descriptor_pb2.FileDescriptorProto:
    described = descriptor_pb2.FileDescriptorProto(
        name="schemas.proto",
        package="schemas",
        syntax="proto3",
        dependency=["google/protobuf/wrappers.proto"],
    )
    usual = {"type": _Field.TYPE_MESSAGE, "label": _Field.LABEL_OPTIONAL}
    for name, fields in _SCHEMAS.items():
        message = described.message_type.add(name=name)
        for number, (field, kind) in enumerate(fields.items(), start=1):
            message.field.add(name=field, number=number, **{**usual, **kind})
    return described


def _empty(schema: str) -> Message:
    """Return a message of one of the schemas above."""
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(wrappers.DESCRIPTOR.serialized_pb)
    pool.AddSerializedFile(_described().SerializeToString())
    found = pool.FindMessageTypeByName(f"schemas.{schema}")
    message: Message = message_factory.GetMessageClass(found)()
    return message


def _parsed(file: str, schema: str) -> Any:
    """Read a config file by its schema; a name that is not in it is an error."""
    return text_format.Parse((CONFIGS / file).read_text(), _empty(schema))


@pytest.fixture(scope="module")
def batching() -> Any:
    """The parameters of server-side batching."""
    return _parsed("batching.config", "BatchingParameters")


def _constant(path: str, name: str) -> Any:
    """Read a constant without importing its module, which would import TensorFlow."""
    for node in ast.parse((ROOT / path).read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name:
            return ast.literal_eval(node.value)
    raise AssertionError(f"{path} has no {name}")


def test_models_are_well_formed() -> None:
    """By TensorFlow Serving's own schema: good names, absolute paths, two versions each."""
    text = (CONFIGS / "models.config").read_text()
    config = text_format.Parse(text, model_server_config_pb2.ModelServerConfig())
    models = config.model_config_list.config

    assert Settings().model_names == [check_model_name(model.name) for model in models]
    for model in models:
        assert Path(model.base_path).is_absolute()
        assert model.name == Path(model.base_path).name
        assert model.model_platform == "tensorflow"
        # A request names its version: with one, a swap would refuse those under way.
        assert model.model_version_policy.latest.num_versions == 2
        # A label whose version is not there yet stops the server at its start.
        assert not model.version_labels


def test_batches_are_those_that_were_warmed_up(batching: Any) -> None:
    """Every size that batching pads to is one that training wrote a warm-up request for."""
    warm = _constant("training/inkling_training/release/export.py", "_WARMUP_BATCHES")

    assert list(warm) == list(batching.allowed_batch_sizes)
    assert sorted(set(warm)) == list(batching.allowed_batch_sizes)
    assert batching.max_batch_size.value == batching.allowed_batch_sizes[-1]


def test_a_full_call_fits_into_a_batch(batching: Any) -> None:
    """What a gateway sends at once is not refused as larger than a batch."""
    settings = Settings(engine="tensorflow_serving")

    assert settings.engine_batch <= batching.max_batch_size.value
    assert settings.max_batch <= batching.max_batch_size.value
    # All threads of a gateway with a full call each, twice.
    assert 2 * settings.work_threads <= batching.max_enqueued_batches.value


def test_batching_is_bounded(batching: Any) -> None:
    """Waiting is short, and the queue ends: the defaults are no limits for a service."""
    assert 0 <= batching.batch_timeout_micros.value <= 5_000
    assert 1 <= batching.num_batch_threads.value <= 16
    assert batching.HasField("max_enqueued_batches")
    assert batching.max_enqueued_batches.value <= 1_000
    # Every input of a model has one shape.
    assert not batching.pad_variable_length_inputs


def test_monitoring_is_on() -> None:
    """Prometheus's page is served, at the path that TensorFlow Serving documents."""
    monitoring = _parsed("monitoring.config", "MonitoringConfig")

    assert monitoring.prometheus_config.enable
    assert monitoring.prometheus_config.path == "/monitoring/prometheus/metrics"


def test_a_wrong_name_would_be_seen() -> None:
    """The schema refuses a field that TensorFlow Serving does not have."""
    with pytest.raises(text_format.ParseError):
        text_format.Parse("max_batch: { value: 1 }", _empty("BatchingParameters"))
