"""docker-compose.yml, alone and with its override, against the code that it starts."""

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from google.protobuf import text_format
from tensorflow_serving.config import model_server_config_pb2

from inkling.cli.main import parser
from inkling_serving.http_api.handlers import OPEN_PATHS
from inkling_serving.runtime.metrics import Metrics
from inkling_serving.runtime.timings import Trace
from inkling_serving.settings import FOREIGN_VARIABLES, Settings

ROOT = Path(__file__).parent.parent.parent
FILES = {
    "gpu": ("docker-compose.yml",),
    "cpu": ("docker-compose.yml", "docker-compose.cpu.yml"),
}
TMP = "/tmp:size=64m,mode=1777,noexec,nosuid,nodev"
_RESET = object()
_VARIABLE = re.compile(r"\$(?:\$|\{(\w+):-([^}]*)\})")


class _Loader(yaml.SafeLoader):
    """YAML with Compose's tag `!reset`, which takes away what another file set."""


_Loader.add_constructor("!reset", lambda *_: _RESET)


def _merged(base: Any, over: Any, key: str = "") -> Any:
    """Merge as Compose does: mappings by key, lists appended, command lines replaced."""
    if isinstance(base, dict) and isinstance(over, dict):
        names = [name for name in {**base, **over} if over.get(name) is not _RESET]
        return {
            name: _merged(base[name], over[name], name)
            if name in base and name in over
            else {**base, **over}[name]
            for name in names
        }
    if isinstance(base, list) and key not in ("command", "entrypoint", "test"):
        return base + over
    return over


def _filled_in(value: Any) -> Any:
    """Put the defaults in place of the variables, in all values."""
    if isinstance(value, dict):
        return {key: _filled_in(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_filled_in(each) for each in value]
    if isinstance(value, str):
        return _VARIABLE.sub(lambda m: m[2] if m[1] else "$", value)
    return value


def _project(kind: str) -> dict[str, Any]:
    project: dict[str, Any] = {}
    for name in FILES[kind]:
        over = yaml.load((ROOT / name).read_text(), _Loader)
        project = _merged(project, over)
    return _filled_in(project)


@pytest.fixture(scope="module", params=FILES)
def project(request: pytest.FixtureRequest) -> dict[str, Any]:
    """The project as Compose sees it with nothing set."""
    return _project(request.param)


@pytest.fixture(scope="module")
def services(project: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Its services by name."""
    return project["services"]


def _flags(service: dict[str, Any]) -> dict[str, str]:
    pairs = [
        argument.removeprefix("--").split("=", 1) for argument in service["command"]
    ]
    assert len(pairs) == len(dict(pairs))
    return dict(pairs)


def _mounts(service: dict[str, Any]) -> dict[str, tuple[str, bool]]:
    """Return what is mounted: target -> (source, whether it can be written to)."""
    found = {}
    for mount in service.get("volumes", []):
        if isinstance(mount, dict):
            found[mount["target"]] = (mount["source"], not mount.get("read_only"))
        else:
            source, target, *mode = mount.split(":")
            found[target] = (source, mode != ["ro"])
    return found


def _dockerfile_says(service: dict[str, Any], instruction: str) -> list[str]:
    text = (ROOT / service["build"]["dockerfile"]).read_text().replace("\\\n", " ")
    return re.findall(rf"^{instruction} +(.+)$", text, re.MULTILINE)


def test_there_is_nothing_but_these(services: dict[str, Any]) -> None:
    """The services are known, and those beside the system start only when asked for."""
    always = {name for name, each in services.items() if not each.get("profiles")}

    assert {"training", "tensorflow-serving", "gateway"} == always
    assert {name: services[name]["profiles"] for name in set(services) - always} == {
        "loadtest": ["loadtest"],
        "prometheus": ["monitoring"],
        "grafana": ["monitoring"],
    }


def test_every_service_is_hardened(services: dict[str, Any]) -> None:
    """Each is nobody, read-only, without capabilities, and bounded in all it can use."""
    for name, service in services.items():
        assert service["user"] == "10001:10001", name
        assert service["read_only"] is True
        assert TMP in service["tmpfs"]
        assert all("noexec,nosuid,nodev" in place for place in service["tmpfs"])
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert service["init"] is True
        # A load test that says no is not asked again.
        restart = "no" if name == "loadtest" else r"on-failure:\d"
        assert re.fullmatch(restart, service["restart"])
        assert 0 < service["pids_limit"] <= 1024
        assert re.fullmatch(r"\dg", service["mem_limit"])
        # More than the machine has would be refused.
        assert service["cpus"] == 2
        assert not {"privileged", "cap_add", "devices", "pid", "ipc"} & set(service)
        assert not any("docker.sock" in str(v) for v in service.get("volumes", []))


def test_every_service_has_a_health_check(services: dict[str, Any]) -> None:
    """In compose or in its image; what runs once says with its exit code how it is."""
    for name, service in services.items():
        check = service.get("healthcheck", {})
        in_image = (
            _dockerfile_says(service, "HEALTHCHECK") if "build" in service else []
        )
        runs_once = name in ("training", "loadtest")

        assert runs_once == check.get("disable", False), name
        assert check.get("test") or in_image
        assert not (check.get("test") and in_image)
        if runs_once:
            assert in_image == ["NONE"]


def test_only_gateway_and_grafana_are_published(services: dict[str, Any]) -> None:
    """TensorFlow Serving is reached from its own network only; ports are this machine's."""
    published = {
        name: each["ports"] for name, each in services.items() if "ports" in each
    }

    assert {"gateway", "grafana"} == set(published)
    assert all(
        p.startswith("127.0.0.1:") for ports in published.values() for p in ports
    )
    assert services["tensorflow-serving"]["networks"] == ["engine"]
    assert all(each.get("network_mode") is None for each in services.values())


def test_the_engine_network_leads_nowhere(project: dict[str, Any]) -> None:
    """It is internal, and only gateway, engine and Prometheus are in it."""
    networks = project["networks"]
    services = project["services"]
    used = {name for each in services.values() for name in each["networks"]}

    assert networks["engine"] == {"internal": True}
    assert set(networks) == used
    assert {"tensorflow-serving", "gateway", "prometheus"} == {
        name for name, each in services.items() if "engine" in each["networks"]
    }


def test_the_gateways_settings_exist(services: dict[str, Any]) -> None:
    """Every variable is a setting, and together they are those that the rest supposes."""
    gateway, engine = services["gateway"], services["tensorflow-serving"]
    settings = Settings.from_env(gateway["environment"])

    assert all(name.startswith("INKLING_") for name in gateway["environment"])
    assert settings.engine == "tensorflow_serving"
    assert [f"tensorflow-serving:{_flags(engine)['port']}"] == settings.addresses
    assert [
        f"127.0.0.1:{port}:{port}" for port in (settings.http_port, settings.grpc_port)
    ] == gateway["ports"]
    assert [f"{Settings().http_port} {Settings().grpc_port}"] == _dockerfile_says(
        gateway, "EXPOSE"
    )
    assert settings.host == "0.0.0.0"


def test_variables_for_people_are_not_settings() -> None:
    """No variable in the files would be refused by a gateway started beside them."""
    for name in FILES["cpu"]:
        text = (ROOT / name).read_text()
        variables = {m[1] for m in _VARIABLE.finditer(text) if m[1]}
        assert {v for v in variables if v.startswith("INKLING_")} <= FOREIGN_VARIABLES
        assert text.count("${") == sum(1 for m in _VARIABLE.finditer(text) if m[1])


def test_command_lines_parse(services: dict[str, Any]) -> None:
    """What training and gateway are started with is understood, and names the models."""
    training = parser().parse_args(services["training"]["command"])
    gateway = parser().parse_args(services["gateway"]["command"])
    settings = Settings.from_env(services["gateway"]["environment"])

    assert settings.model_names == training.models
    assert gateway.run
    for name in ("training", "gateway"):
        assert _dockerfile_says(services[name], "ENTRYPOINT") == ['["inkling"]']


def test_models_are_written_by_training_only(project: dict[str, Any]) -> None:
    """The volume is training's to write, the engine's to read, and nobody else's."""
    mounts = {name: _mounts(each) for name, each in project["services"].items()}
    with_models = {
        name: writable
        for name, each in mounts.items()
        for source, writable in each.values()
        if source == "models"
    }

    assert with_models == {"training": True, "tensorflow-serving": False}
    assert {"models", "runs", "reports"} == set(project["volumes"])
    assert mounts["gateway"] == {}
    assert mounts["training"]["/data"] == ("./data", False)
    # All other sources are folders of the repository, and cannot be written to.
    for each in mounts.values():
        for source, writable in each.values():
            if source.startswith("./deploy"):
                assert (ROOT / source).is_dir()
                assert not writable


def test_training_finds_its_folders(services: dict[str, Any]) -> None:
    """Where its image looks is where the volumes are, owned by the user that it runs as."""
    training = services["training"]
    [environment] = _dockerfile_says(training, "ENV")
    variables = dict(pair.split("=", 1) for pair in environment.split())
    [created] = [
        r for r in _dockerfile_says(training, "RUN") if r.startswith("install")
    ]
    targets = set(_mounts(training))

    assert {"/models", "/runs", "/data"} == targets
    assert variables["INKLING_MODELS_DIR"] == "/models"
    assert variables["INKLING_DATA_DIR"] == "/data"
    assert variables["HOME"] == "/runs"
    assert created == "install -d -o 10001 -g 10001 /models /runs"
    # `--runs-dir` is relative.
    options = parser().parse_args(training["command"])
    [directory] = _dockerfile_says(training, "WORKDIR")[1:]
    assert Path("/runs") == directory / options.runs_dir


def test_tensorflow_serving_is_told_right(services: dict[str, Any]) -> None:
    """Its flags exist, its files are mounted, and what must be off is off."""
    engine = services["tensorflow-serving"]
    flags = _flags(engine)

    assert engine["entrypoint"] == ["tensorflow_model_server"]
    # From tensorflow_serving/model_servers/main.cc.
    assert {
        name: value for name, value in flags.items() if not name.endswith("_file")
    } == {
        "port": "8500",
        "rest_api_port": "8501",
        "enable_batching": "true",
        "file_system_poll_wait_seconds": "1",
        "num_load_threads": "2",
        "max_num_load_retries": "2",
        "load_retry_interval_micros": "1000000",
        "enable_serialization_as_tensor_content": "true",
        "enable_grpc_healthcheck_service": "true",
        "enable_profiler": "false",
    }
    files = {name: value for name, value in flags.items() if name.endswith("_file")}
    assert {
        "model_config_file",
        "batching_parameters_file",
        "monitoring_config_file",
    } == set(files)
    for path in files.values():
        assert _on_host(engine, path).is_file(), path


def _on_host(service: dict[str, Any], path: str) -> Path:
    """Return the file of the repository that a path in a container is."""
    for target, (source, _) in _mounts(service).items():
        if path.startswith(target + "/"):
            return ROOT / source / path.removeprefix(target + "/")
    raise AssertionError(f"{path} is not mounted")


def test_the_engine_serves_what_training_publishes(services: dict[str, Any]) -> None:
    """Names and base paths in models.config are those of training, mounts and gateway."""
    engine = services["tensorflow-serving"]
    text = _on_host(engine, _flags(engine)["model_config_file"]).read_text()
    config = text_format.Parse(text, model_server_config_pb2.ModelServerConfig())
    found = {model.name: model.base_path for model in config.model_config_list.config}
    [models_at] = [
        t for t, (source, _) in _mounts(engine).items() if source == "models"
    ]
    [models_from] = [
        target
        for target, (source, _) in _mounts(services["training"]).items()
        if source == "models"
    ]
    names = parser().parse_args(services["training"]["command"]).models

    assert {name: f"{models_at}/{name}" for name in names} == found
    assert models_from == models_at


def test_they_start_and_stop_in_order(services: dict[str, Any]) -> None:
    """Training, then the engine, then the gateway; and the gateway has time to drain."""
    after = {name: each.get("depends_on", {}) for name, each in services.items()}
    drain_s = Settings.from_env(services["gateway"]["environment"]).drain_timeout_s

    assert after["training"] == {}
    assert after["tensorflow-serving"] == {
        "training": {"condition": "service_completed_successfully"}
    }
    assert after["gateway"] == {"tensorflow-serving": {"condition": "service_started"}}
    assert services["gateway"]["stop_grace_period"] == "40s"
    assert drain_s < 40
    assert services["tensorflow-serving"]["stop_grace_period"] == "10s"


def test_the_override_takes_the_gpu_away() -> None:
    """The override changes image, reservation and expectation, and nothing else."""
    gpu, cpu = _project("gpu"), _project("cpu")
    with_gpu = gpu["services"]["tensorflow-serving"]
    without = cpu["services"]["tensorflow-serving"]
    [device] = with_gpu.pop("deploy")["resources"]["reservations"]["devices"]

    assert device == {"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}
    assert "deploy" not in without
    assert with_gpu.pop("image") == without.pop("image") + "-gpu"
    expected = [
        project["services"]["gateway"]["environment"].pop("INKLING_EXPECT_GPU")
        for project in (gpu, cpu)
    ]
    assert expected == ["true", "false"]
    assert gpu == cpu


def test_one_variable_is_the_image() -> None:
    """TENSORFLOW_SERVING_IMAGE stands in one place."""
    text = (ROOT / "docker-compose.yml").read_text()

    assert text.count("${TENSORFLOW_SERVING_IMAGE:-") == 1
    assert text.count("tensorflow/serving:") == 1


def test_the_engines_health_check_works(gateway: Any, services: dict[str, Any]) -> None:
    """Run as it stands, against the same status page: well, no such model, no server."""
    engine = services["tensorflow-serving"]
    kind, *command = engine["healthcheck"]["test"]
    script = command[-1]
    rest_port = _flags(engine)["rest_api_port"]
    models = parser().parse_args(services["training"]["command"]).models

    assert kind == "CMD"
    assert f"for model in {' '.join(models)};" in script
    assert script.count(rest_port) == 1
    run = _checker(command[:-1], script.replace(rest_port, str(gateway.port)))
    assert run(lambda text: text) == 0
    assert run(lambda text: text.replace("mlp cnn", "mlp nosuch")) == 1
    assert run(lambda text: text.replace(str(gateway.port), "1")) == 1


def _checker(shell: list[str], script: str) -> Callable[..., int]:
    def run(change: Callable[[str], str]) -> int:
        command = [*shell, change(script)]
        return subprocess.run(command, capture_output=True, timeout=10).returncode

    return run


def test_the_load_test_can_run(services: dict[str, Any]) -> None:
    """Its options are the command's, it asks the gateway, and may write its report."""
    load = services["loadtest"]
    options = parser().parse_args(load["command"])
    [report] = [word for word in load["command"] if word.startswith("--report=")]
    [mount] = load["volumes"]
    place = mount.split(":")[1]

    assert options.run
    assert f"--target=http://gateway:{Settings().http_port}" in load["command"]
    assert report.removeprefix("--report=").startswith(place + "/")
    assert f"-g 10001 {place}" in _dockerfile_says(load, "RUN")[-1]
    assert set(load["networks"]) <= set(services["gateway"]["networks"])


def test_the_dashboard_draws_what_there_is(services: dict[str, Any]) -> None:
    """Grafana finds the dashboard, and each metric in it is one that the gateway has."""
    dashboards = _on_host(services["grafana"], "/etc/grafana/dashboards/inkling.json")
    text = dashboards.read_text()
    asked = set(re.findall(r"\b((?:inkling|process)_[a-z_]+)", text)) - {"process_id"}
    trace = Trace()
    trace.model, trace.version = "cnn", 1
    metrics = Metrics()
    metrics.observe("http", "ok", trace)

    for panel in json.loads(text)["panels"]:
        assert panel["targets"][0]["expr"]
    for name in asked:
        assert re.search(rf"^{name}[ {{]", metrics.exposition().decode(), re.M), name


def test_prometheus_and_grafana_look_at_the_right_place(
    services: dict[str, Any],
) -> None:
    """What is scraped is the engine's and the gateway's, and Grafana asks Prometheus."""
    prometheus, engine = services["prometheus"], services["tensorflow-serving"]
    config_file = _on_host(prometheus, _flags(prometheus)["config.file"])
    job, own = yaml.safe_load(config_file.read_text())["scrape_configs"]
    monitoring = _on_host(engine, _flags(engine)["monitoring_config_file"]).read_text()
    provisioning = _on_host(
        services["grafana"], "/etc/grafana/provisioning/datasources/prometheus.yml"
    )
    [source] = yaml.safe_load(provisioning.read_text())["datasources"]
    port = _flags(engine)["rest_api_port"]

    assert [{"targets": [f"tensorflow-serving:{port}"]}] == job["static_configs"]
    assert f'path: "{job["metrics_path"]}"' in monitoring
    assert [{"targets": [f"gateway:{Settings().http_port}"]}] == own["static_configs"]
    assert own["metrics_path"] in OPEN_PATHS
    assert source["url"] == "http://prometheus:9090"
    assert {"monitoring"} == set(prometheus["networks"]) & set(
        services["grafana"]["networks"]
    )
    storage = _flags(prometheus)["storage.tsdb.path"]
    assert any(place.startswith(storage + ":") for place in prometheus["tmpfs"])
