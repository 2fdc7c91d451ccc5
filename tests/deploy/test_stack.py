# SPDX-License-Identifier: Apache-2.0
"""The images and the Compose file, run on a container engine and broken on purpose.

TensorFlow Serving's place is taken by a gateway, which speaks its protocols. The tests
of this file build on one another: they share one running system.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import shutil
import ssl
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme

import inkling
from inkling.v1 import classifier_pb2 as pb
from inkling.v1.classifier_pb2_grpc import ClassifierStub
from tests.support import own_engine
from tests.support.callers import Callers, calling, watching
from tests.support.machine import until, within
from tests.support.own_engine import OwnEngine

ROOT = Path(__file__).parent.parent.parent
pytestmark = [pytest.mark.stack, pytest.mark.timeout(900)]

_FILES = [ROOT / "docker-compose.yml", ROOT / "docker-compose.cpu.yml"]
_FILES += [Path(__file__).parent / "stack.yml"]
_GATEWAY, _ENGINE = "inkling-gateway-1", "inkling-tensorflow-serving-1"
_FRONT, _INNER = "inkling_front", "inkling_engine"
_HTTP, _GRPC = ("127.0.0.1", 8080), "127.0.0.1:8081"
_RECOVERY_S = 1.5
# What a caller may get beside its answer while the engine or the gateway is away.
_AWAY = {"503", "none", "UNAVAILABLE", "DEADLINE_EXCEEDED"}
# What gRPC answers to calls that cross the GOAWAY of a server that ends.
_CROSSED = "CANCELLED"


@dataclass
class Stack:
    """The running system."""

    engine: OwnEngine
    models: Path
    say: Callable[[str], None]

    def compose(self, *words: str) -> str:
        variables = {"MODELS_DIR": str(self.models)}
        return self.engine.compose(_FILES, *words, variables=variables)

    def inside(self, container: str, script: str) -> str:
        return self.engine.docker("exec", container, "sh", "-c", script)

    def ready(self) -> bool:
        return _status(_HTTP, "/readyz") == 200

    def engine_answers(self) -> bool:
        """Whether the engine itself could answer, wherever it is now."""
        address = self.engine.address(_ENGINE, _INNER)
        return bool(address) and _status((address, 8501), "/readyz") == 200


def _status(where: tuple[str, int], path: str) -> int:
    connection = http.client.HTTPConnection(*where, timeout=2)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return 0
    finally:
        connection.close()


@pytest.fixture(scope="module")
def engine(request: pytest.FixtureRequest) -> Iterator[OwnEngine]:
    """A container engine with the images; skipped where none can run."""
    if why := own_engine.missing_tools("mmdebstrap", "prometheus"):
        pytest.skip(f"{why}; NO image was built or run")
    folder = Path(request.config.cache.mkdir("stack"))  # type: ignore[union-attr]
    with own_engine.running(folder) as running:
        began = time.monotonic()
        base = running.have_base()
        built = running.make("images", "IMAGES=gateway loadtest")
        took = time.monotonic() - began
        print(f"base {base}; images in {took:.0f} s:\n{built}")
        _debian_prometheus(running, folder / "prometheus")
        with running.entered():
            yield running


def _debian_prometheus(engine: OwnEngine, context: Path) -> None:
    """Build an image around Debian's Prometheus, in place of its maker's."""
    context.mkdir(exist_ok=True)
    for name in ("prometheus", "promtool"):
        found = shutil.which(name)
        assert found
        shutil.copy(found, context)
    (context / "Dockerfile").write_text(
        f"FROM {own_engine.BASE_IMAGE}\n"
        "COPY prometheus promtool /bin/\n"
        'ENTRYPOINT ["/bin/prometheus"]\n'
    )
    engine.docker("build", "--quiet", "--tag", "debian-prometheus", context)


@pytest.fixture(scope="module")
def stack(
    engine: OwnEngine, published: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    """The Compose file, brought up with its monitoring."""
    place = tmp_path_factory.mktemp("stack")
    # Containers run as another user, who must be able to reach the models.
    for folder in (place, *place.parents[:2]):
        folder.chmod(0o755)
    models = Path(shutil.copytree(published, place / "models"))
    running = Stack(engine, models, print)
    began = time.monotonic()
    try:
        # Grafana has no package in Debian; its image cannot be had.
        running.compose(
            "up", "--detach", "--wait", "--no-build", "gateway", "prometheus"
        )
        until(running.ready, 60)
        print(f"up and ready in {time.monotonic() - began:.1f} s")
        yield running
    finally:
        print(running.compose("logs", "--no-color", "--tail", "60"))
        running.compose("--profile", "*", "down", "--volumes", "--timeout", "50")


@pytest.fixture
def callers(picture: bytes) -> Callers:
    """Callers of the published ports."""
    return Callers(_HTTP, _GRPC, picture)


def _only(found: dict[str, Any], label: str, *more: str) -> None:
    """Fail if an outcome is neither the right label nor one of those that may be."""
    for protocol, outcomes in found.items():
        assert outcomes[label], (protocol, outcomes)
        assert set(outcomes) <= {label, *more}, (protocol, outcomes)


def test_the_images_say_what_they_hold(engine: OwnEngine) -> None:
    """Labels, a bill of materials, no pip; the gateway's own part is within 150 MB."""
    for name, own in (("gateway", "serving"), ("loadtest", "loadtest")):
        image = f"inkling-{name}"
        text = engine.docker("image", "inspect", image)
        labels = json.loads(text)[0]["Config"]["Labels"]
        within_it = ["run", "--rm", "--network=none", "--entrypoint=sh", image, "-c"]
        bill = json.loads(engine.docker(*within_it, f"cat {labels['inkling.sbom']}"))
        size = engine.docker(*within_it, "du -sb --apparent-size /opt/inkling")
        names = {each["name"].lower() for each in bill["components"]}
        megabytes = int(size.split()[0]) / 1e6
        print(f"{name}: /opt/inkling {megabytes:.0f} MB, {len(names)} distributions")

        assert labels["org.opencontainers.image.version"] == inkling.__version__
        assert len(labels["org.opencontainers.image.revision"]) == 40
        assert {"inkling", f"inkling-{own}", "numpy"} <= names
        assert not {"pip", "uv", "hatchling"} & names
        assert name != "gateway" or megabytes <= 150


def test_the_containers_are_confined(stack: Stack) -> None:
    """As written: nobody, no capabilities, no new privileges, nothing to write on."""
    for container in (_GATEWAY, _ENGINE, "inkling-prometheus-1"):
        status = stack.inside(container, "cat /proc/1/status; id -u; id -g")
        found = dict(line.split(":\t") for line in status.splitlines() if ":\t" in line)

        assert {"0000000000000000"} == {found["CapBnd"], found["CapEff"]}, container
        assert found["NoNewPrivs"] == "1"
        assert status.splitlines()[-2:] == ["10001", "10001"]
        assert (
            "no" == stack.inside(container, "touch /opt/x && echo yes || echo no")[:2]
        )
        limits = json.loads(stack.engine.docker("inspect", container))[0]["HostConfig"]
        assert 0 < limits["Memory"] <= 8 * 2**30
        assert 0 < limits["PidsLimit"] <= 1024
        assert limits["NanoCpus"] == 2 * 10**9
    log = (stack.engine.folder / "engine.log").read_text()
    assert "separator are deprecated" not in log
    published_ports = json.loads(stack.engine.docker("inspect", _ENGINE))[0]
    assert not any(published_ports["HostConfig"]["PortBindings"].values())


def test_both_protocols_classify(stack: Stack, picture: bytes) -> None:
    """The same picture gets the same label and the same probability on both ports."""
    answers = []
    for target in (f"http://{_HTTP[0]}:{_HTTP[1]}", _GRPC):
        with inkling.connect(target, model="cnn") as classifier:
            answers.append(classifier.classify(picture))

    assert {"3"} == {each.label for each in answers}
    assert answers[0].probability == pytest.approx(answers[1].probability, abs=1e-6)


def test_the_load_test_reports(stack: Stack) -> None:
    """The service of the Compose file meets objectives, from a container of its own."""
    words = ["loadtest", "--target=http://gateway:8080", "--allow-remote"]
    words += ["--rate=5", "--duration=10s", "--report=/reports/latest"]
    # It is to work; a machine that does other things as well says nothing of speed.
    words += ["--slo=p99<8s,errors<0.1%,refused<0.1%"]
    stack.compose("run", "--rm", "--no-deps", "loadtest", *words)
    reading = ["run", "--rm", "--no-deps", "--entrypoint=cat", "loadtest"]
    report = json.loads(stack.compose(*reading, "/reports/latest/report.json"))
    counts = report["total"]["counts"]
    print(f"load test: {counts}")

    assert 10 < counts["offered"] == counts["right"]


def test_prometheus_scrapes_the_gateway(stack: Stack, picture: bytes) -> None:
    """A real Prometheus has the gateway's counts, which are those that it was asked."""
    address = stack.engine.address("inkling-prometheus-1", "inkling_monitoring")

    def asked(query: str) -> float:
        quoted = urllib.request.quote(query)  # type: ignore[attr-defined]
        url = f"http://{address}:9090/api/v1/query?query={quoted}"
        with urllib.request.urlopen(url, timeout=10) as response:
            found = json.load(response)["data"]["result"]
        return float(found[0]["value"][1]) if found else -1.0

    count = 'sum(inkling_requests_total{protocol="http",model="mlp",code="ok"})'
    until(lambda: asked('up{job="gateway"}') == 1, 60)
    before = max(0.0, asked(count))
    for _ in range(20):
        connection = http.client.HTTPConnection(*_HTTP, timeout=10)
        connection.request("POST", "/v1/models/mlp:classify", picture)
        assert connection.getresponse().status == 200
        connection.close()

    until(lambda: asked(count) == before + 20, 60)


def _squatters(engine: OwnEngine, address: str) -> list[str]:
    """Start containers until one of them has an address; return their names."""
    names: list[str] = []
    found = ""
    while found != address:
        names.append(f"squatter-{len(names)}")
        words = ["run", "--detach", f"--name={names[-1]}", f"--network={_INNER}"]
        engine.docker(*words, "--entrypoint=sleep", "inkling-gateway", "1000")
        found = engine.address(names[-1], _INNER)
        assert len(names) < 20, f"nobody got {address}"
    return names


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_an_engine_comes_back_elsewhere(
    how: str, stack: Stack, callers: Callers
) -> None:
    """Callers hear 503 while it is away, and answers soon after it can give them."""
    engine = stack.engine
    before = engine.address(_ENGINE, _INNER)
    with calling(callers), watching(_HTTP) as readiness:
        until(lambda: len(callers.noted) > 50)
        gone = time.monotonic()
        engine.docker(how, _ENGINE)
        until(lambda: readiness.statuses[-1] == 503)
        noticed = readiness.changes[-1][0] - gone
        others = _squatters(engine, before)
        engine.docker("start", _ENGINE)
        until(stack.engine_answers, 60)
        back = time.monotonic()
        until(lambda: callers.first("3", back, "http"), 60)
        until(lambda: callers.first("3", back, "grpc"), 60)
        until(lambda: readiness.statuses[-1] == 200, 60)
        time.sleep(2)  # a readiness that flaps does it now
    engine.docker("rm", "--force", *others)
    found = callers.outcomes()
    recovered = {
        protocol: round((callers.first("3", back, protocol) or 0) - back, 2)
        for protocol in found
    }
    print(
        f"engine {how}: noticed after {noticed:.2f} s, answers {recovered} s after its "
        f"return, /readyz {readiness.statuses}, {found}"
    )

    assert before != engine.address(_ENGINE, _INNER)
    _only(found, "3", *_AWAY - {"none"})
    assert [200, 503, 200] == readiness.statuses
    within(max(recovered.values()), _RECOVERY_S)


@pytest.mark.parametrize("how", ["stop", "kill", "restart"])
def test_a_gateway_comes_back(how: str, stack: Stack, callers: Callers) -> None:
    """Callers hear 503 or nothing while it is away, and answers once it is ready."""
    with calling(callers):
        until(lambda: len(callers.noted) > 50)
        gone = time.monotonic()
        stack.engine.docker(how, _GATEWAY)
        began = time.monotonic()
        if how != "restart":
            stack.engine.docker("start", _GATEWAY)
        until(stack.ready, 60)
        ready = time.monotonic()
        until(lambda: callers.first("3", ready, "http"), 60)
        until(lambda: callers.first("3", ready, "grpc"), 60)
    found = callers.outcomes()
    recovered = {
        protocol: round((callers.first("3", ready, protocol) or 0) - ready, 2)
        for protocol in found
    }
    print(
        f"gateway {how}: ended after {began - gone:.2f} s, ready "
        f"{ready - began:.2f} s later, answers {recovered} s after that, {found}"
    )

    _only(found, "3", *_AWAY, _CROSSED)
    within(max(recovered.values()), _RECOVERY_S)


def test_a_bad_version_changes_nothing(stack: Stack, callers: Callers) -> None:
    """A version with a damaged file is not served, and no caller notices it."""
    with calling(callers), watching(_HTTP) as readiness:
        until(lambda: len(callers.noted) > 50)
        shutil.copytree(stack.models / "mlp" / "1", stack.models / "mlp" / ".staging-x")
        damaged = stack.models / "mlp" / ".staging-x" / "tflite" / "float32.tflite"
        damaged.write_bytes(damaged.read_bytes()[:-100] + bytes(100))
        (stack.models / "mlp" / ".staging-x").rename(stack.models / "mlp" / "2")
        until(lambda: "FAILED" in _state(stack.engine.address(_ENGINE, _INNER)), 30)
        asked = len(callers.noted)
        until(lambda: len(callers.noted) > asked + 100)
    shutil.rmtree(stack.models / "mlp" / "2")
    found = callers.outcomes()
    print(f"bad version: {found}, /readyz {readiness.statuses}")

    _only(found, "3")
    assert [200] == readiness.statuses


def _state(address: str) -> str:
    connection = http.client.HTTPConnection(address, 8501, timeout=5)
    try:
        connection.request("GET", "/v1/models/mlp")
        return connection.getresponse().read().decode()
    finally:
        connection.close()


def test_a_full_disk_changes_nothing(stack: Stack, callers: Callers) -> None:
    """With no byte left on /tmp, requests, probes and metrics go on; so does a restart."""
    with calling(callers), watching(_HTTP) as readiness:
        until(lambda: len(callers.noted) > 50)
        for container in (_GATEWAY, _ENGINE):
            fill = "cat /dev/zero > /tmp/full 2>/dev/null; df /tmp | tail -n 1"
            assert "100%" in stack.inside(container, fill)
        asked = len(callers.noted)
        until(lambda: len(callers.noted) > asked + 200)
        assert _status(_HTTP, "/metrics") == 200
    found = callers.outcomes()
    print(f"full disk: {found}, /readyz {readiness.statuses}")
    for container in (_GATEWAY, _ENGINE):
        stack.inside(container, "rm /tmp/full")

    _only(found, "3")
    assert [200] == readiness.statuses


@dataclass
class _Renewable:
    """A hardened gateway with TLS, whose certificate can be made anew.

    Attributes:
        answers: The status of each request so far.
    """

    engine: OwnEngine
    folder: Path
    picture: bytes

    def __post_init__(self) -> None:
        self.authority = trustme.CA()
        self.authority.cert_pem.write_to_path(self.folder / "root.pem")
        self.answers: list[int] = []
        self.issue()

    def issue(self) -> None:
        """Put another certificate and its key in place."""
        made = self.authority.issue_cert("localhost")
        parts = {"key": made.private_key_pem, "chain": made.cert_chain_pems[0]}
        for name, blob in parts.items():
            blob.write_to_path(self.folder / "new")
            (self.folder / "new").chmod(0o644)
            (self.folder / "new").rename(self.folder / f"{name}.pem")

    def start(self, models: Path) -> None:
        """Start the container."""
        words = ["run", "--detach", "--name=renewed", "--read-only", "--cap-drop=ALL"]
        words += ["--security-opt=no-new-privileges=true", "--tmpfs=/tmp:size=16m"]
        words += [f"--volume={models}:/models:ro", f"--volume={self.folder}:/tls:ro"]
        words += ["inkling-gateway", "serve", "--host=0.0.0.0", "--workers=1"]
        words += ["--tls-certificate=/tls/chain.pem", "--tls-key=/tls/key.pem"]
        self.engine.docker(*words)
        self.address = self.engine.address("renewed", "bridge")

    def connection(self) -> http.client.HTTPSConnection:
        context = ssl.create_default_context(cafile=str(self.folder / "root.pem"))
        context.check_hostname = False
        return http.client.HTTPSConnection(
            self.address, 8080, timeout=10, context=context
        )

    def ask(self, connection: http.client.HTTPSConnection) -> str:
        """Classify; return the number of the certificate that the gateway showed."""
        connection.request("POST", "/v1/models/mlp:classify", self.picture)
        shown = connection.sock.getpeercert()  # type: ignore[attr-defined]
        answer = connection.getresponse()
        answer.read()
        self.answers.append(answer.status)
        return str(shown["serialNumber"])

    def shown(self) -> str:
        """Return the number of the certificate of a new connection; "" without one."""
        with contextlib.closing(self.connection()) as connection:
            try:
                return self.ask(connection)
            except (OSError, http.client.HTTPException):
                return ""

    def label(self) -> str:
        """Return the label that the gRPC port gives over TLS."""
        roots = (self.folder / "root.pem").read_bytes()
        options = [("grpc.ssl_target_name_override", "localhost")]
        credentials = grpc.ssl_channel_credentials(roots)
        target = f"{self.address}:8081"
        with grpc.secure_channel(target, credentials, options) as channel:
            request = pb.ClassifyRequest(model="mlp", images=[self.picture])
            answer = ClassifierStub(channel).Classify(request, timeout=10)
        return str(answer.results[0].top[0].label)


def test_a_certificate_is_renewed(
    engine: OwnEngine, published: Path, tmp_path: Path, picture: bytes
) -> None:
    """A hardened gateway with TLS shows a new certificate without a lost request."""
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)
    gateway = _Renewable(engine, tmp_path, picture)
    gateway.start(published)
    try:
        until(gateway.shown, 60)
        first = gateway.shown()
        with contextlib.closing(gateway.connection()) as kept:
            gateway.ask(kept)
            began = time.monotonic()
            gateway.issue()
            until(lambda: gateway.ask(kept) == first and gateway.shown() != first)
        print(f"certificate renewed after {time.monotonic() - began:.2f} s")
        second = gateway.shown()

        assert second not in ("", first)
        assert {200} == set(gateway.answers)
        assert gateway.label() == "3"
    finally:
        engine.docker("rm", "--force", "renewed")


def test_it_is_taken_down_with_nothing_lost(stack: Stack, callers: Callers) -> None:
    """Until its ports close every caller is answered; each container ends with 0."""
    containers = (_GATEWAY, _ENGINE)
    with calling(callers):
        until(lambda: len(callers.noted) > 50)
        told = time.monotonic()
        stack.compose("stop", "--timeout", "50", "gateway")
        ended = time.monotonic()
    stack.compose("stop", "--timeout", "50")
    in_delay = [each for each in callers.noted if each.began < told + 4.5]
    print(f"taken down in {ended - told:.2f} s: {callers.outcomes()}")

    assert {"3"} == {each.outcome for each in in_delay}
    assert not {"500", "502", "504", "INTERNAL"} & {e.outcome for e in callers.noted}
    for container in containers:
        state = json.loads(stack.engine.docker("inspect", container))[0]["State"]
        assert (state["ExitCode"], state["OOMKilled"]) == (0, False), container
        assert "Traceback" not in stack.engine.docker("logs", container)
