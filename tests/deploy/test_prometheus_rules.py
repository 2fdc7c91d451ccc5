# SPDX-License-Identifier: Apache-2.0
"""The alerts, and the page of metrics, by Prometheus's own tool."""

from __future__ import annotations

import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest
import trustme
from prometheus_client.core import Metric

from inkling.contract import Contract
from inkling_serving.engines.base import ModelStatus, State, VersionStatus
from inkling_serving.runtime.metrics import Metrics
from inkling_serving.settings import Settings
from inkling_serving.telemetry.certificate import end_of
from inkling_serving.telemetry.gauges import state_of
from tests.support.gateway_process import GatewayProcess

_PROMETHEUS = Path(__file__).parent.parent.parent / "deploy" / "prometheus"
_PROMTOOL = shutil.which("promtool")
# Beyond 2049, certificates state the year in four digits.
_END = datetime(2051, 3, 4, 5, 6, 7, tzinfo=UTC)
_promtool = pytest.mark.skipif(
    not _PROMTOOL, reason="promtool is not on the path (Debian: prometheus)"
)


def _run(*words: str, given: bytes = b"") -> str:
    assert _PROMTOOL
    done = subprocess.run(
        [_PROMTOOL, *words], input=given, capture_output=True, timeout=60
    )
    said = (done.stdout + done.stderr).decode()
    assert done.returncode == 0, said
    return said


@_promtool
def test_the_alerts_fire_when_they_should() -> None:
    """The rules answer promtool's made-up series as the file of tests says."""
    _run("test", "rules", str(_PROMETHEUS / "rules_test.yml"))


@_promtool
def test_the_configuration_is_valid() -> None:
    """The configuration, and the rules that it names."""
    said = _run("check", "config", str(_PROMETHEUS / "prometheus.yml"))

    assert "1 rule files found" in said


@_promtool
def test_the_metrics_follow_the_conventions(
    gateway: GatewayProcess, picture: bytes
) -> None:
    """`promtool check metrics` has nothing to say about the page."""
    gateway.request("POST", "/v1/models/cnn:classify", picture)
    page = gateway.request("GET", "/metrics").body

    assert "" == _run("check", "metrics", given=page).strip()


def _values(metrics: list[Metric]) -> dict[tuple[str, ...], float]:
    return {
        (sample.name, *sample.labels.values()): sample.value
        for metric in metrics
        for sample in metric.samples
    }


def test_the_state_is_measured(digit_contract: Contract, tmp_path: Path) -> None:
    """Versions with their states, a GPU that is missed, and the certificate's end."""
    issued = trustme.CA().issue_cert("localhost", not_after=_END)
    chain = tmp_path / "chain.pem"
    for blob in issued.cert_chain_pems:
        blob.write_to_path(chain, append=True)
    versions = (
        VersionStatus(2, State.FAILED, "broken"),
        VersionStatus(1, State.AVAILABLE, contract=digit_contract, on_gpu=False),
    )
    settings = Settings(tls_certificate=str(chain), expect_gpu=True)

    found = list(state_of([ModelStatus("cnn", versions)], settings))

    values = _values(found)
    assert 1 == values["inkling_version_state", "cnn", "2", "FAILED"]
    assert 1 == values["inkling_version_state", "cnn", "1", "AVAILABLE"]
    assert 0 == values["inkling_version_on_gpu", "cnn", "1"]
    assert 1 == values["inkling_gpu_expected",]
    end = values["inkling_certificate_end_timestamp_seconds",]
    assert _END.timestamp() == pytest.approx(end, abs=1)
    assert b"inkling_certificate_end" in Metrics().exposition(found)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n",
        "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n",
    ],
)
def test_a_file_without_a_certificate_has_no_end(text: str, tmp_path: Path) -> None:
    """A file that is being written takes the metric away, and nothing else."""
    path = tmp_path / "chain.pem"
    path.write_text(text)

    assert end_of(str(path)) is None
