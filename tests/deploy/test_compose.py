# SPDX-License-Identifier: Apache-2.0
"""The Compose files: each name, port, path and command in them exists where it points."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from google.protobuf import text_format
from tensorflow_serving.config import model_server_config_pb2

from inkling.cli.main import parser
from inkling_serving.environment import FOREIGN_VARIABLES
from inkling_serving.settings import Settings

ROOT = Path(__file__).parent.parent.parent
_VARIABLE = re.compile(r"\$\{(\w+):-([^}]*)\}")

Services = dict[str, dict[str, Any]]


class _Loader(yaml.SafeLoader):
    """YAML with Compose's tag `!reset`, which takes away a value of the other file."""


_Loader.add_constructor("!reset", lambda *_: None)


def _read(name: str) -> dict[str, Any]:
    """Return a Compose file with the defaults in place of its variables."""
    text = _VARIABLE.sub(r"\2", (ROOT / name).read_text()).replace("$$", "$")
    found: dict[str, Any] = yaml.load(text, _Loader)
    return found


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    """docker-compose.yml."""
    return _read("docker-compose.yml")


@pytest.fixture(scope="module")
def services(project: dict[str, Any]) -> Services:
    """Its services by name."""
    return project["services"]


def _flags(service: dict[str, Any]) -> dict[str, str]:
    pairs = [word.removeprefix("--").split("=", 1) for word in service["command"]]
    assert len(pairs) == len(dict(pairs))
    return dict(pairs)


def _mounts(service: dict[str, Any]) -> dict[str, tuple[str, bool]]:
    """Return the mounts: target -> (source, whether it can be written to)."""
    found = {}
    for mount in service.get("volumes", []):
        if isinstance(mount, dict):
            found[mount["target"]] = (mount["source"], not mount.get("read_only"))
        else:
            source, target, *mode = mount.split(":")
            found[target] = (source, mode != ["ro"])
    return found


def _on_host(service: dict[str, Any], path: str) -> Path:
    """Return the file of the repository that a path in a container is."""
    for target, (source, _) in _mounts(service).items():
        if path.startswith(target + "/"):
            return ROOT / source / path.removeprefix(target + "/")
    raise AssertionError(f"{path} is not mounted")


def _dockerfile_says(service: dict[str, Any], instruction: str) -> list[str]:
    text = (ROOT / service["build"]["dockerfile"]).read_text().replace("\\\n", " ")
    return re.findall(rf"^{instruction} +(.+)$", text, re.MULTILINE)


def test_every_service_is_confined(project: dict[str, Any], services: Services) -> None:
    """Each runs as nobody, read-only, without capabilities, in bounded memory."""
    for name, service in services.items():
        assert service["user"] == "10001:10001", name
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges=true"]
        assert {"mem_limit", "pids_limit", "cpus"} <= set(service)
        assert not {"privileged", "cap_add", "network_mode", "pid"} & set(service)
        assert all(p.startswith("127.0.0.1:") for p in service.get("ports", []))
    assert project["networks"]["engine"] == {"internal": True}
    assert services["tensorflow-serving"]["networks"] == ["engine"]
    assert "ports" not in services["tensorflow-serving"]


def test_names_within_the_file_exist(
    project: dict[str, Any], services: Services
) -> None:
    """Networks, volumes, folders and services are there; a condition can come true."""
    for name, service in services.items():
        assert set(service["networks"]) <= set(project["networks"])
        for source, writable in _mounts(service).values():
            if source.startswith("./deploy"):
                assert (ROOT / source).is_dir()
                assert not writable
            else:
                assert source in project["volumes"] or source == "./data", name
        for other, wait in service.get("depends_on", {}).items():
            checked = services[other].get("healthcheck", {}).get("test")
            checked = checked or _dockerfile_says(services[other], "HEALTHCHECK")
            assert wait["condition"] != "service_healthy" or checked, name


def test_the_gateway_is_set_right(services: Services) -> None:
    """Every variable is a setting; ports, models and time to drain fit the others'."""
    gateway, engine = services["gateway"], services["tensorflow-serving"]
    settings = Settings.from_env(gateway["environment"])
    ports = [settings.http_port, settings.grpc_port]
    training = parser().parse_args(services["training"]["command"])

    assert settings.engine == "tensorflow_serving"
    assert settings.host == "0.0.0.0"
    assert [f"tensorflow-serving:{_flags(engine)['port']}"] == settings.addresses
    assert [f"127.0.0.1:{port}:{port}" for port in ports] == gateway["ports"]
    assert [" ".join(map(str, ports))] == _dockerfile_says(gateway, "EXPOSE")
    assert settings.model_names == training.models
    end_s = settings.drain_delay_s + settings.drain_timeout_s + 5
    assert 5 <= settings.drain_delay_s
    assert end_s < int(gateway["stop_grace_period"].rstrip("s"))
    assert parser().parse_args(gateway["command"]).run


def test_variables_for_people_are_not_settings() -> None:
    """No variable of the files would be refused by a gateway started beside them."""
    text = (ROOT / "docker-compose.yml").read_text()
    variables = {match[1] for match in _VARIABLE.finditer(text)}

    assert text.count("${") == len(_VARIABLE.findall(text))
    assert {v for v in variables if v.startswith("INKLING_")} <= FOREIGN_VARIABLES


def test_the_models_are_where_each_looks(services: Services) -> None:
    """Training and the side-car write the volume, and only the engine reads it."""
    engine, training = services["tensorflow-serving"], services["training"]
    config = text_format.Parse(
        _on_host(engine, _flags(engine)["model_config_file"]).read_text(),
        model_server_config_pb2.ModelServerConfig(),
    )
    at = {
        name: {target: writable for target, (source, writable) in _mounts(each).items()}
        for name, each in services.items()
        if "models" in [source for source, _ in _mounts(each).values()]
    }
    names = parser().parse_args(training["command"]).models
    [environment] = _dockerfile_says(training, "ENV")

    assert {"training", "sidecar", "tensorflow-serving"} == set(at)
    sidecar = parser().parse_args(services["sidecar"]["command"])
    assert sidecar.model in names
    assert str(sidecar.capture) in _mounts(services["gateway"])
    assert (at["training"]["/models"], at["tensorflow-serving"]["/models"]) == (
        True,
        False,
    )
    assert {name: f"/models/{name}" for name in names} == {
        model.name: model.base_path for model in config.model_config_list.config
    }
    assert {"INKLING_MODELS_DIR=/models", "INKLING_DATA_DIR=/data"} <= set(
        environment.split()
    )


def test_what_containers_write_is_theirs(services: Services) -> None:
    """A volume is mounted where the image has made a folder for its user."""
    for name in ("training", "sidecar", "gateway", "loadtest"):
        made = " ".join(_dockerfile_says(services[name], "RUN"))
        for target, (_, writable) in _mounts(services[name]).items():
            assert not writable or re.search(
                rf"-o 10001 -g 10001 [^&]*{target}\b", made
            )
    load = services["loadtest"]
    assert parser().parse_args(load["command"]).run
    assert f"--target=http://gateway:{Settings().http_port}" in load["command"]
    [report] = [word for word in load["command"] if word.startswith("--report=")]
    assert str(Path(report.removeprefix("--report=")).parent) in _mounts(load)


def test_files_named_on_command_lines_are_mounted(services: Services) -> None:
    """Each file that a flag names is a file of the repository."""
    for name in ("tensorflow-serving", "prometheus"):
        for flag, value in _flags(services[name]).items():
            if flag.endswith(("_file", ".file")):
                assert _on_host(services[name], value).is_file(), flag


def test_the_override_takes_the_gpu_away() -> None:
    """It changes services that exist, to the same version of TensorFlow Serving."""
    gpu, cpu = (_read(f"docker-compose{kind}.yml")["services"] for kind in ("", ".cpu"))
    engine = gpu["tensorflow-serving"]
    [device] = engine["deploy"]["resources"]["reservations"]["devices"]

    assert set(cpu) <= set(gpu)
    assert device["capabilities"] == ["gpu"]
    assert cpu["tensorflow-serving"]["deploy"] is None
    assert engine["image"] == cpu["tensorflow-serving"]["image"] + "-gpu"
    for services, expected in ((gpu, True), (cpu, False)):
        environment = services["gateway"]["environment"]
        assert Settings.from_env(environment).expect_gpu is expected


def test_the_engines_health_check_works(gateway: Any, services: Services) -> None:
    """Run as it stands, against the same status page: well, no such model, no server."""
    engine = services["tensorflow-serving"]
    kind, *shell, script = engine["healthcheck"]["test"]
    rest_port = _flags(engine)["rest_api_port"]
    models = " ".join(parser().parse_args(services["training"]["command"]).models)
    assert kind == "CMD"
    assert script.count(rest_port) == 1

    def run(port: int, models: str) -> int:
        text = script.replace(rest_port, str(port)).replace("mlp cnn", models)
        return subprocess.run(
            [*shell, text], capture_output=True, timeout=10
        ).returncode

    assert f"in {models};" in script
    assert run(gateway.port, models) == 0
    assert run(gateway.port, "mlp nosuch") == 1
    assert run(1, models) == 1


def test_what_is_watched_exists(
    gateway: Any, services: Services, picture: bytes
) -> None:
    """Prometheus scrapes pages that are served; the dashboard draws metrics on them."""
    prometheus, grafana = services["prometheus"], services["grafana"]
    engine = services["tensorflow-serving"]
    config = yaml.safe_load(
        _on_host(prometheus, _flags(prometheus)["config.file"]).read_text()
    )
    theirs, own = config["scrape_configs"]
    [source] = yaml.safe_load(
        _on_host(
            grafana, "/etc/grafana/provisioning/datasources/prometheus.yml"
        ).read_text()
    )["datasources"]
    gateway.request("POST", "/v1/models/cnn:classify", picture)
    metrics = gateway.request("GET", own["metrics_path"]).body.decode()
    dashboard = _on_host(grafana, "/etc/grafana/dashboards/inkling.json").read_text()
    monitoring = _on_host(engine, _flags(engine)["monitoring_config_file"]).read_text()

    rest = f"tensorflow-serving:{_flags(engine)['rest_api_port']}"
    assert [{"targets": [rest]}] == theirs["static_configs"]
    assert f'path: "{theirs["metrics_path"]}"' in monitoring
    assert [{"targets": [f"gateway:{Settings().http_port}"]}] == own["static_configs"]
    assert source["url"] == "http://prometheus:9090"
    assert all(p["targets"][0]["expr"] for p in json.loads(dashboard)["panels"])
    for name in set(re.findall(r"\b((?:inkling|process)_[a-z_]+)", dashboard)):
        assert re.search(rf"^{name}[ {{]", metrics, re.M) or name == "process_id", name
