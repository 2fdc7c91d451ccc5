# SPDX-License-Identifier: Apache-2.0
"""The manifests: valid for three releases of Kubernetes, and right for the gateway.

There is no API server here. With `kubectl` on the path the overlays are built as they are
applied; without it, that part is skipped aloud.
"""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from inkling.cli.main import parser
from inkling_serving.http_api.routes import ROUTES
from inkling_serving.settings import Settings
from tests.support.gateway_process import GatewayProcess

ROOT = Path(__file__).parent.parent.parent
_DEPLOY = ROOT / "deploy"
_KUBERNETES = _DEPLOY / "kubernetes"
_RELEASES = ("1.32", "1.34", "1.37")
_OVERLAYS = ("cpu", "gpu", "kserve")
# Kinds of other projects, for which kubernetes-validate has no schema.
_NO_SCHEMA = {
    "InferenceService",
    "PrometheusRule",
    "ScaledObject",
    "ServiceMonitor",
    "ServingRuntime",
}
_KUBECTL = os.environ.get("INKLING_TEST_KUBECTL") or shutil.which("kubectl")
_kubectl = pytest.mark.skipif(
    not _KUBECTL, reason="kubectl is not on the path: the overlays were not built"
)
_OWN_METRIC = re.compile(r"\b(inkling_(?!waiting|latency)[a-z_]+)")

Manifest = dict[str, Any]


def _read(path: Path) -> list[Manifest]:
    return [one for one in yaml.safe_load_all(path.read_text()) if one]


def _kustomizations() -> Iterator[tuple[Path, Manifest]]:
    for path in sorted(_KUBERNETES.rglob("kustomization.yaml")):
        [found] = _read(path)
        yield path.parent, found


def _whole() -> list[tuple[str, Manifest]]:
    """Return the manifests that are whole by themselves: no patches."""
    return [
        (f"{folder.name}/{name}", one)
        for folder, found in _kustomizations()
        for name in found.get("resources", [])
        if (folder / name).is_file()
        for one in _read(folder / name)
    ]


def _built(folder: Path) -> list[Manifest]:
    assert _KUBECTL
    done = subprocess.run(
        [_KUBECTL, "kustomize", str(folder)],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "KUBECONFIG": os.devnull},
    )
    assert done.returncode == 0, done.stderr
    return [one for one in yaml.safe_load_all(done.stdout) if one]


def _check_schemas(manifests: list[Manifest]) -> None:
    for one in manifests:
        for release in _RELEASES:
            if one["kind"] not in _NO_SCHEMA:
                kubernetes_validate.validate(one, release, strict=True)


def _pods(manifests: list[Manifest]) -> Iterator[tuple[str, Manifest]]:
    """Yield the name and the pod of each workload."""
    for one in manifests:
        spec = one.get("spec", {})
        if one["kind"] == "CronJob":
            spec = spec["jobTemplate"]["spec"]
        if "template" in spec:
            yield one["metadata"]["name"], spec["template"]["spec"]
        elif one["kind"] == "ServingRuntime":
            yield one["metadata"]["name"], spec
        elif one["kind"] == "InferenceService" and "transformer" in spec:
            yield one["metadata"]["name"], spec["transformer"]


def _containers(manifests: list[Manifest]) -> list[Manifest]:
    return [
        container
        for _, pod in _pods(manifests)
        for container in [*pod.get("initContainers", []), *pod["containers"]]
    ]


def _is_gateway(container: Manifest) -> bool:
    return bool(container["image"].startswith("inkling-gateway"))


def _settings(container: Manifest) -> Settings:
    """Return what the gateway of a container would start with; raise if it would not."""
    environ = {one["name"]: one["value"] for one in container.get("env", [])}
    assert not Settings.remarks(environ)
    words = [word.replace("{{.Name}}", "cnn") for word in container["args"]]
    names = {field.name for field in dataclasses.fields(Settings)}
    flags = vars(parser().parse_args(words)).items()
    return Settings.from_env(environ, **{k: v for k, v in flags if k in names})


def test_every_manifest_follows_the_schemas() -> None:
    """Each whole manifest is valid for three releases; kinds without a schema are named."""
    manifests = [one for _, one in _whole()]
    unchecked = {one["kind"] for one in manifests} & _NO_SCHEMA

    _check_schemas(manifests)

    assert _NO_SCHEMA == unchecked


@pytest.mark.parametrize("kind", sorted(_NO_SCHEMA))
def test_a_kind_without_a_schema_is_said(kind: str) -> None:
    """Manifests of other projects' kinds are checked against the code alone."""
    found = [name for name, one in _whole() if one["kind"] == kind]

    assert found
    pytest.skip(f"no schema of {kind}: {', '.join(found)} met no schema")


def test_a_wrong_manifest_would_be_seen() -> None:
    """A misspelt field of a container is refused."""
    [deployment] = _read(_KUBERNETES / "base" / "deployment.yaml")
    deployment["spec"]["template"]["spec"]["containers"][0]["readynessProbe"] = {}

    with pytest.raises(kubernetes_validate.ValidationError):
        _check_schemas([deployment])


def test_each_file_is_part_of_a_kustomization() -> None:
    """Each name leads to a file or a folder, and each manifest is named by one."""
    named = set()
    for folder, found in _kustomizations():
        names = [*found.get("resources", []), *found.get("components", [])]
        names += [patch["path"] for patch in found.get("patches", [])]
        for name in names:
            path = (folder / name).resolve()
            assert path.is_file() or (path / "kustomization.yaml").is_file(), name
            named.add(path)
    rest = {
        path.resolve()
        for path in _KUBERNETES.rglob("*.yaml")
        if path.name != "kustomization.yaml"
    } - named

    # The values of another chart, and what no overlay can have beside something else.
    assert {"adapter-rules.yaml"} == {path.name for path in rest}


def test_the_rules_are_those_of_prometheus() -> None:
    """The PrometheusRule has the rules that promtool tests."""
    folder = _KUBERNETES / "components" / "prometheus-operator"
    [rule] = _read(folder / "prometheus-rule.yaml")
    [rules] = _read(_DEPLOY / "prometheus" / "rules.yml")

    assert rules == rule["spec"]


def test_what_scales_and_alerts_is_measured(
    gateway: GatewayProcess, picture: bytes
) -> None:
    """Each of our metrics in rules and autoscalers is on the gateway's page."""
    gateway.request("POST", "/v1/models/cnn:classify", picture)
    page = gateway.request("GET", "/metrics").body.decode()
    files = [
        _DEPLOY / "prometheus" / "rules.yml",
        _KUBERNETES / "components" / "hpa" / "adapter-rules.yaml",
        _KUBERNETES / "components" / "keda" / "scaledobject.yaml",
    ]
    names = {n for f in files for n in _OWN_METRIC.findall(f.read_text())}
    # Only with a certificate, and only before TensorFlow Serving.
    names -= {"inkling_certificate_end_timestamp_seconds", "inkling_version_on_gpu"}
    names -= {"inkling_drift"}  # it needs 200 pictures

    assert len(names) > 4
    for name in names:
        assert re.search(rf"^{name}[ {{]", page, re.MULTILINE), name


def test_kserve_gets_a_gateway_that_starts() -> None:
    """Flags, ports, probes and the user of both containers are the gateway's own."""
    manifests = [one for name, one in _whole() if name.startswith("kserve/")]
    containers = [one for one in _containers(manifests) if _is_gateway(one)]

    assert 2 == len(containers)
    for one in containers:
        _check_gateway(one, {"HTTP"})
    embedded, transformer = map(_settings, containers)
    assert (Path("/mnt/models"), "cnn") == (embedded.models_dir, embedded.model_name)
    [service] = [one for one in manifests if one["kind"] == "Service"]
    address = f"{service['metadata']['name']}:{service['spec']['ports'][0]['port']}"
    assert [address] == transformer.addresses
    services = {o["metadata"]["name"] for o in manifests if "Inference" in o["kind"]}
    assert set(transformer.model_names) <= services


def _check_gateway(container: Manifest, schemes: set[str]) -> None:
    settings = _settings(container)
    assert "0.0.0.0" == settings.host
    ports = {port.get("name"): port["containerPort"] for port in container["ports"]}
    assert set(ports.values()) <= {settings.http_port, settings.grpc_port}
    paths = {route.rule for route in ROUTES if route.method == "GET"}
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        asked = container.get(probe, {})
        if "grpc" in asked:
            assert settings.grpc_port == asked["grpc"]["port"]
        if "httpGet" in asked:
            get = asked["httpGet"]
            assert get["path"] in paths
            assert settings.http_port == ports.get(get["port"], get["port"])
            assert get.get("scheme", "HTTP") in schemes
    assert container.get("livenessProbe", {})["httpGet"]["path"] == "/livez"


def test_the_gateway_has_time_to_end() -> None:
    """The pod may take longer than drain delay and drain, and notices leave before."""
    [deployment] = _read(_KUBERNETES / "base" / "deployment.yaml")
    pod = deployment["spec"]["template"]["spec"]
    settings = _settings(pod["containers"][0])
    probe = pod["containers"][0]["readinessProbe"]

    end_s = settings.drain_delay_s + settings.drain_timeout_s + 5
    assert end_s < pod["terminationGracePeriodSeconds"]
    assert probe["periodSeconds"] * probe["failureThreshold"] < settings.drain_delay_s
    _check_gateway(pod["containers"][0], {"HTTP"})


def test_every_container_is_confined() -> None:
    """As nobody, the user of the image, read-only, without capabilities, in limits."""
    dockerfile = (_DEPLOY / "docker" / "gateway.Dockerfile").read_text()
    [user] = re.findall(r"^USER (\d+):\d+$", dockerfile, re.MULTILINE)
    manifests = [one for _, one in _whole()]
    for path in _KUBERNETES.glob("components/models-*/gateway.yaml"):
        [patch] = _read(path)
        for one in patch["spec"]["template"]["spec"]["initContainers"]:
            _check_confined(one)
    for name, pod in _pods(manifests):
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod), name
        context = pod.get("securityContext", {})
        for one in pod["containers"]:
            _check_confined(one)
            own = {**context, **one["securityContext"]}
            assert (True, int(user)) == (own["runAsNonRoot"], own["runAsUser"]), name


def _check_confined(container: Manifest) -> None:
    context = container["securityContext"]
    assert context["readOnlyRootFilesystem"] is True
    assert context["allowPrivilegeEscalation"] is False
    assert {"drop": ["ALL"]} == context["capabilities"]
    assert {"cpu", "memory"} <= set(container["resources"]["limits"])


def test_tensorflow_serving_is_reached_by_gateways_only() -> None:
    """Its policy lets gateways to gRPC and Prometheus to REST; no Service is outside."""
    manifests = _read(_KUBERNETES / "overlays" / "gpu" / "tensorflow-serving.yaml")
    [policy] = [one for one in manifests if one["kind"] == "NetworkPolicy"]
    [service] = [one for one in manifests if one["kind"] == "Service"]
    [deployment] = [one for one in manifests if one["kind"] == "Deployment"]
    [pod_labels] = [deployment["spec"]["template"]["metadata"]["labels"]]
    [gateway] = _read(_KUBERNETES / "base" / "deployment.yaml")

    assert policy["spec"]["podSelector"]["matchLabels"].items() <= pod_labels.items()
    assert {"Ingress", "Egress"} == set(policy["spec"]["policyTypes"])
    ours, monitoring = policy["spec"]["ingress"]
    [allowed] = ours["from"]
    labels = gateway["spec"]["template"]["metadata"]["labels"]
    assert allowed == {"podSelector": {"matchLabels": labels}}
    assert [8500] == [port["port"] for port in ours["ports"]]
    assert [8501] == [port["port"] for port in monitoring["ports"]]
    assert "None" == service["spec"]["clusterIP"]
    assert not any(
        one["spec"].get("type", "ClusterIP") != "ClusterIP"
        for _, one in _whole()
        if one["kind"] == "Service"
    )


def test_tensorflow_serving_has_the_flags_of_compose() -> None:
    """Both start it alike, but for the health service that only Compose asks."""
    manifests = _read(_KUBERNETES / "overlays" / "gpu" / "tensorflow-serving.yaml")
    [deployment] = [one for one in manifests if one["kind"] == "Deployment"]
    [container] = deployment["spec"]["template"]["spec"]["containers"]
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    theirs = compose["services"]["tensorflow-serving"]["command"]

    assert {"--enable_grpc_healthcheck_service=true"} == {*theirs} - {
        *container["args"]
    }
    assert {*container["args"]} <= {*theirs}


def test_jobs_run_commands_that_exist() -> None:
    """The nightly job is a command of ours, with its options."""
    manifests = [one for _, one in _whole() if one["kind"] == "CronJob"]
    [container] = _containers(manifests)

    assert parser().parse_args(container["args"]).run


@_kubectl
@pytest.mark.parametrize("overlay", _OVERLAYS)
def test_an_overlay_is_built(overlay: str) -> None:
    """It is built by kubectl; the result is valid, and its gateways would start."""
    manifests = _built(_KUBERNETES / "overlays" / overlay)
    schemes = {"HTTP"} if overlay == "kserve" else {"HTTPS"}

    _check_schemas(manifests)
    gateways = [one for one in _containers(manifests) if _is_gateway(one)]
    assert gateways
    for one in gateways:
        _check_gateway(one, schemes)
    for name, pod in _pods(manifests):
        volumes = {volume["name"] for volume in pod["volumes"]}
        for one in pod["containers"]:
            mounted = {mount["name"] for mount in one["volumeMounts"]}
            assert mounted <= volumes, name
    _check_engine(gateways[0], manifests)


def _check_engine(container: Manifest, manifests: list[Manifest]) -> None:
    """Check that the Service of the engine, if there is one, exists."""
    settings = _settings(container)
    if settings.engine == "tensorflow_serving":
        names = {o["metadata"]["name"] for o in manifests if o["kind"] == "Service"}
        assert {one.partition(":")[0] for one in settings.addresses} <= names


@_kubectl
@pytest.mark.parametrize("component", ["models-bucket", "models-image", "keda"])
def test_a_component_is_built(component: str, tmp_path: Path) -> None:
    """Each other place of models, and each autoscaler, goes onto the base."""
    where = os.path.relpath(_KUBERNETES, tmp_path.resolve())
    (tmp_path / "kustomization.yaml").write_text(
        f"resources: [{where}/base]\ncomponents: [{where}/components/{component}]\n"
    )

    manifests = _built(tmp_path)

    _check_schemas(manifests)
    [(_, pod)] = _pods(manifests)
    volumes = {volume["name"] for volume in pod["volumes"]}
    for one in _containers(manifests):
        assert {mount["name"] for mount in one["volumeMounts"]} <= volumes
    assert component == "keda" or "initContainers" in pod
