# SPDX-License-Identifier: Apache-2.0
"""The text protos that TensorFlow Serving is started with, against schema and code."""

import ast
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import descriptor_pb2, message_factory, text_format, wrappers_pb2
from google.protobuf.descriptor_pool import DescriptorPool
from tensorflow_serving.config import model_server_config_pb2

from inkling.model.repository import check_model_name
from inkling_serving.settings import Settings

ROOT = Path(__file__).parent.parent.parent
_CONFIGS = ROOT / "deploy" / "tensorflow_serving"
_INT64, _STRING = ".google.protobuf.Int64Value", ".google.protobuf.StringValue"
_BOOL, _TEXT = descriptor_pb2.FieldDescriptorProto.TYPE_BOOL, 9

# The package tensorflow-serving-api leaves these schemas out. Here are their fields, in
# the order of their numbers, as in servables/tensorflow/session_bundle_config.proto and
# config/monitoring_config.proto of TensorFlow Serving.
_SCHEMAS: dict[str, dict[str, str | int]] = {
    "BatchingParameters": {
        "max_batch_size": _INT64,
        "batch_timeout_micros": _INT64,
        "max_enqueued_batches": _INT64,
        "num_batch_threads": _INT64,
        "thread_pool_name": _STRING,
        "allowed_batch_sizes": 3,  # repeated int64
        "pad_variable_length_inputs": _BOOL,
    },
    "PrometheusConfig": {"enable": _BOOL, "path": _TEXT},
    "MonitoringConfig": {"prometheus_config": ".schemas.PrometheusConfig"},
}


def _parsed(text: str, schema: str) -> Any:
    """Read a text proto by its schema; a name that is not in it is an error."""
    described = descriptor_pb2.FileDescriptorProto(name="schemas.proto")
    described.package, described.syntax = "schemas", "proto3"
    described.dependency.append(wrappers_pb2.DESCRIPTOR.name)
    for name, fields in _SCHEMAS.items():
        message = described.message_type.add(name=name)
        for number, (field, kind) in enumerate(fields.items(), start=1):
            label = 3 if kind == 3 else 1  # repeated, or optional
            made = message.field.add(name=field, number=number, label=label)
            made.type = kind if isinstance(kind, int) else 11  # a message
            if isinstance(kind, str):
                made.type_name = kind
    pool = DescriptorPool()
    pool.AddSerializedFile(wrappers_pb2.DESCRIPTOR.serialized_pb)
    pool.AddSerializedFile(described.SerializeToString())
    kind = message_factory.GetMessageClass(
        pool.FindMessageTypeByName(f"schemas.{schema}")
    )
    return text_format.Parse(text, kind())


def _constant(path: str, name: str) -> Any:
    """Read a constant without importing its module, which would import TensorFlow."""
    for node in ast.parse((ROOT / path).read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name:
            return ast.literal_eval(node.value)
    raise AssertionError(f"{path} has no {name}")


def test_models_are_well_formed() -> None:
    """By TensorFlow Serving's own schema: good names, absolute paths, two versions each."""
    text = (_CONFIGS / "models.config").read_text()
    config = text_format.Parse(text, model_server_config_pb2.ModelServerConfig())
    models = config.model_config_list.config

    assert Settings().model_names == [check_model_name(model.name) for model in models]
    for model in models:
        assert model.base_path == f"/models/{model.name}"
        assert model.model_platform == "tensorflow"
        # A request names its version: with one, a swap would refuse those under way.
        assert model.model_version_policy.latest.num_versions == 2
        # A label whose version is not there yet stops the server at its start.
        assert not model.version_labels


def test_a_full_call_fits_into_a_warm_batch() -> None:
    """Batches are padded to sizes that were warmed up; a gateway's call fits, twice."""
    text = (_CONFIGS / "batching.config").read_text()
    batching = _parsed(text, "BatchingParameters")
    warm = _constant("training/inkling_training/release/export.py", "_WARMUP_BATCHES")
    settings = Settings(engine="tensorflow_serving")

    assert list(warm) == sorted(set(warm)) == list(batching.allowed_batch_sizes)
    assert batching.max_batch_size.value == batching.allowed_batch_sizes[-1]
    assert settings.engine_batch <= batching.max_batch_size.value
    assert settings.max_batch <= batching.max_batch_size.value
    assert 2 * settings.work_threads <= batching.max_enqueued_batches.value <= 1_000
    assert 0 <= batching.batch_timeout_micros.value <= 5_000
    # Every input of a model has one shape.
    assert not batching.pad_variable_length_inputs


def test_monitoring_is_on() -> None:
    """Prometheus's page is served, at the path that TensorFlow Serving documents."""
    text = (_CONFIGS / "monitoring.config").read_text()
    monitoring = _parsed(text, "MonitoringConfig")

    assert monitoring.prometheus_config.enable
    assert monitoring.prometheus_config.path == "/monitoring/prometheus/metrics"


def test_a_wrong_name_would_be_seen() -> None:
    """The schema refuses a field that TensorFlow Serving does not have."""
    with pytest.raises(text_format.ParseError):
        _parsed("max_batch: { value: 1 }", "BatchingParameters")
