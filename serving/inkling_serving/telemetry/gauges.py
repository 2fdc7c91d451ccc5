# SPDX-License-Identifier: Apache-2.0
"""The gateway's state as metrics: its versions, their GPU, and its certificate."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from prometheus_client.core import GaugeMetricFamily, Metric

from inkling_serving.telemetry.certificate import end_of

if TYPE_CHECKING:
    from inkling_serving.engines.base import ModelStatus
    from inkling_serving.settings import Settings

__all__ = ["state_of"]


def state_of(models: Sequence[ModelStatus], settings: Settings) -> Iterator[Metric]:
    """Yield the metrics of the models, the GPU and the certificate.

    Args:
        models: The status of all models.
        settings: The gateway's settings.
    """
    states = GaugeMetricFamily(
        "inkling_version_state",
        "1 for the state of each version: AVAILABLE, LOADING or FAILED.",
        labels=("model", "version", "state"),
    )
    on_gpu = GaugeMetricFamily(
        "inkling_version_on_gpu",
        "Whether TensorFlow Serving runs a version on a GPU.",
        labels=("model", "version"),
    )
    for model in models:
        for one in model.versions:
            labels = (model.name, str(one.version))
            states.add_metric((*labels, str(one.state)), 1)
            if one.on_gpu is not None:
                on_gpu.add_metric(labels, one.on_gpu)
    yield states
    yield on_gpu
    yield GaugeMetricFamily(
        "inkling_gpu_expected",
        "Whether the settings expect a GPU.",
        float(settings.expect_gpu),
    )
    end = end_of(settings.tls_certificate) if settings.tls_certificate else None
    if end is not None:
        yield GaugeMetricFamily(
            "inkling_certificate_end_timestamp_seconds",
            "When the certificate ends, in seconds since 1970.",
            end,
        )
