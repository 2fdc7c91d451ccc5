# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import argparse
import dataclasses
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from inkling.cli.main import main
from inkling.errors import InvalidRequest
from inkling_serving import settings
from inkling_serving.runtime.cores import usable_cores
from inkling_serving.settings import Settings

# A value for each setting that is not its default.
_OTHERS: dict[str, Any] = {
    "models_dir": Path("/elsewhere/models"),
    "model_name": "cnn",
    "host": "127.0.0.2",
    "http_port": 9090,
    "grpc_port": 9091,
    "api_key_file": "/elsewhere/keys",
    "quota_requests_per_s": 12.5,
    "quota_pixels_per_s": 1e6,
    "quota_burst_s": 4.5,
    "tls_certificate": "/elsewhere/chain.pem",
    "tls_key": "/elsewhere/key.pem",
    "tls_client_ca": "/elsewhere/clients.pem",
    "cors_origin": "https://app.example",
    "device_files": False,
    "max_connections": 77,
    "max_held_bytes": 2**26 + 1,
    "client_share": 0.5,
    "grpc_reflection": True,
    "grpc_channelz": True,
    "grpc_compression": "gzip",
    "grpc_max_streams": 3,
    "grpc_keepalive_s": 5.5,
    "grpc_max_connection_idle_s": 6.5,
    "grpc_max_connection_age_s": 7.5,
    "grpc_max_connection_age_grace_s": 8.5,
    "expect_gpu": True,
    "engine": "tensorflow_serving",
    "tensorflow_serving": "a:1,b:2",
    "tensorflow_serving_root_certificates": "/elsewhere/roots.pem",
    "tensorflow_serving_certificate": "/elsewhere/client.pem",
    "tensorflow_serving_key": "/elsewhere/client-key.pem",
    "served_models": "one,two",
    "engine_batch": 8,
    "engine_calls": 5,
    "tflite_format": "int8",
    "poll_s": 2.5,
    "workers": 3,
    "threads": 7,
    "queue": 5,
    "queue_timeout_s": 0.75,
    "max_batch": 9,
    "max_body_bytes": 12345,
    "max_image_bytes": 2345,
    "max_image_pixels": 345,
    "body_timeout_s": 1.25,
    "keep_alive_s": 61.5,
    "drain_delay_s": 3.5,
    "drain_timeout_s": 12.0,
    "log_level": "debug",
    "log_format": "json",
    "access_log": 0.5,
    "trace_endpoint": "http://127.0.0.1:4317",
    "trace_share": 0.25,
    "capture": "captures",
    "capture_share": 0.5,
    "capture_max_bytes": 32 * 1024 * 1024,
    "capture_max_age_s": 60.0,
    "capture_redaction": "cat",
}
_NAMES = [item.name for item in dataclasses.fields(Settings)]


def _parsed(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    settings.add_flags(parser)
    return parser.parse_args(words)


def _flags(*words: str) -> dict[str, Any]:
    return vars(_parsed(*words))


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _variable(name: str) -> str:
    return "INKLING_" + name.upper()


def test_every_setting_is_tested_here() -> None:
    """A new setting needs a row above."""
    assert set(_OTHERS) == set(_NAMES)
    assert all(getattr(Settings(), name) != value for name, value in _OTHERS.items())


@pytest.mark.parametrize("name", _OTHERS)
def test_every_setting_is_a_variable(name: str) -> None:
    """A variable sets its field, with the field's type, and no other."""
    found = Settings.from_env({_variable(name): str(_OTHERS[name])})

    assert dataclasses.replace(Settings(), **{name: _OTHERS[name]}) == found
    assert type(_OTHERS[name]) is type(getattr(found, name))


@pytest.mark.parametrize("name", _OTHERS)
def test_every_setting_is_a_flag(name: str) -> None:
    """A flag sets its field, with the field's type, and no other."""
    found = Settings.from_env({}, **_flags(_flag(name), str(_OTHERS[name])))

    assert dataclasses.replace(Settings(), **{name: _OTHERS[name]}) == found
    assert type(_OTHERS[name]) is type(getattr(found, name))


@pytest.mark.parametrize("name", _OTHERS)
def test_flags_outrank_variables(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where both are given, the flag counts, even if it says the default."""
    default = getattr(Settings(), name)
    for variable in [name for name in os.environ if name.startswith("INKLING_")]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv(_variable(name), str(_OTHERS[name]))

    assert Settings() == settings.from_flags(_parsed(_flag(name), str(default)))
    assert _OTHERS[name] == getattr(settings.from_flags(_parsed()), name)


def test_nothing_given_is_the_default() -> None:
    """Without flags and variables every setting has its default."""
    assert Settings() == Settings.from_env({"PATH": "/bin", "HTTP_PORT": "1"})


@pytest.mark.parametrize(
    ("variable", "hint"),
    [
        ("INKLING_HTTP_PROT", "Did you mean INKLING_HTTP_PORT?"),
        ("INKLING_MODEL_DIR", "Did you mean INKLING_MODELS_DIR?"),
        ("INKLING_WORKER", "Did you mean INKLING_WORKERS?"),
        ("INKLING_TFLITE", "Did you mean INKLING_TFLITE_FORMAT?"),
        ("INKLING_ZZZZZZZZZZZZZZZZZZZZ", "inkling serve --help"),
    ],
)
def test_unknown_variables_are_passed_over(variable: str, hint: str) -> None:
    """An unknown variable changes nothing, and a remark names the nearest setting."""
    [remark] = Settings.remarks({variable: "1", "OTHER_VARIABLE": "1"})

    assert Settings() == Settings.from_env({variable: "1"})
    assert remark.startswith(f"{variable} is no setting")
    assert hint in remark


def test_variables_of_other_parts_pass() -> None:
    """The gateway lets the training's own variables pass, without a remark."""
    environ = {"INKLING_DATA_DIR": "/data"}

    assert Settings() == Settings.from_env(environ)
    assert [] == Settings.remarks(environ)


def _links(name: str, address: str, ports: dict[str, int]) -> dict[str, str]:
    """Return the variables that Kubernetes sets for a Service, in its own words."""
    first = next(iter(ports.values()))
    shown = f"[{address}]" if ":" in address else address
    found = {
        f"{name}_SERVICE_HOST": address,
        f"{name}_SERVICE_PORT": str(first),
        f"{name}_PORT": f"tcp://{shown}:{first}",
    }
    for label, port in ports.items():
        prefix = f"{name}_PORT_{port}_TCP"
        found |= {
            f"{name}_SERVICE_PORT_{label}": str(port),
            prefix: f"tcp://{shown}:{port}",
            f"{prefix}_PROTO": "tcp",
            f"{prefix}_PORT": str(port),
            f"{prefix}_ADDR": address,
        }
    return found


@pytest.mark.parametrize(
    ("name", "num_clashes"),
    [
        ("INKLING", 0),
        ("INKLING_GATEWAY", 0),
        ("INKLING_HTTP", 1),
        ("INKLING_GRPC", 1),
        ("INKLING_TENSORFLOW_SERVING", 0),
    ],
)
@pytest.mark.parametrize("address", ["10.96.0.12", "fd00::1"])
def test_links_to_services_are_no_settings(
    name: str, num_clashes: int, address: str
) -> None:
    """Kubernetes' variables change nothing; one that has a setting's name is remarked."""
    environ = _links(name, address, {"HTTP": 80, "GRPC_WEB": 8081})
    remarks = Settings.remarks(environ)

    assert Settings() == Settings.from_env(environ)
    assert num_clashes == len(remarks), remarks
    assert all("names a service of the cluster" in one for one in remarks)


@pytest.mark.parametrize(
    "environ",
    [
        {"INKLING_PORT": "udp://172.17.0.2:8080", "INKLING_PORT_53_UDP": "udp://a:53"},
        {
            "INKLING_NAME": "/web/inkling",
            "INKLING_PORT_8080_TCP_START": "tcp://172.17.0.2:8080",
            "INKLING_PORT_8080_TCP_PORT_END": "8090",
        },
    ],
)
def test_dockers_links_are_no_settings(environ: dict[str, str]) -> None:
    """The variables of Docker's legacy links change nothing, and are not remarked."""
    assert Settings() == Settings.from_env(environ)
    assert [] == Settings.remarks(environ)


def test_a_port_beside_a_link_counts() -> None:
    """The pod's own value replaces a link of the same name; a URL elsewhere is wrong."""
    assert 9090 == Settings.from_env({"INKLING_HTTP_PORT": "9090"}).http_port
    with pytest.raises(InvalidRequest, match="INKLING_WORKERS"):
        Settings.from_env({"INKLING_WORKERS": "tcp://10.0.0.1:80"})


@pytest.mark.parametrize("name", _OTHERS)
def test_empty_variables_are_as_none(name: str) -> None:
    """Compose's `${NAME:-}` sets a variable to nothing, which is the default."""
    assert Settings() == Settings.from_env({_variable(name): ""})
    assert Settings() == Settings.from_env({_variable(name): " "})


def test_empty_variables_of_other_commands_are_as_none(tmp_path: Path) -> None:
    """An empty INKLING_MODELS_DIR is not the folder of the shell."""
    environ = {**os.environ, "INKLING_MODELS_DIR": "", "INKLING_DATA_DIR": ""}
    (tmp_path / "no-model" / "1").mkdir(parents=True)
    (tmp_path / "no-model" / "1" / "manifest.json").write_text("{}")
    command = [sys.executable, "-m", "inkling", "models"]
    done = subprocess.run(
        command, env=environ, cwd=tmp_path, capture_output=True, text=True
    )

    assert 0 == done.returncode, done.stderr
    assert "no-model" not in done.stdout


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("http_port", "eighty"),
        ("http_port", "8080.0"),
        ("http_port", "-1"),
        ("http_port", "65536"),
        ("grpc_port", "65536"),
        ("grpc_reflection", "maybe"),
        ("engine", "embeded"),
        ("engine_batch", "0"),
        ("poll_s", "soon"),
        ("poll_s", "0"),
        ("poll_s", "-1"),
        ("poll_s", "nan"),
        ("poll_s", "inf"),
        ("poll_s", "1e300"),
        ("workers", "-1"),
        ("workers", "1.5"),
        ("threads", "-1"),
        ("queue", "-1"),
        ("max_batch", "0"),
        ("max_body_bytes", "10MB"),
        ("max_body_bytes", "0"),
        ("max_image_bytes", "0"),
        ("max_image_pixels", "0"),
        ("body_timeout_s", "-0.1"),
        ("body_timeout_s", "nan"),
        ("drain_timeout_s", "-1"),
        ("drain_timeout_s", "nan"),
        ("drain_timeout_s", "inf"),
        ("tflite_format", "float64"),
        ("log_level", "chatty"),
        ("log_level", "INFO"),
    ],
)
def test_bad_values_are_named(name: str, value: str) -> None:
    """A value out of range is refused at the start, and the message names its setting."""
    with pytest.raises(InvalidRequest, match=_variable(name)):
        Settings.from_env({_variable(name): value})


@pytest.mark.parametrize(
    "value",
    [
        *("", " , ", "a", "a:", ":8500", "a:port", "a:-1", "a:65536", "a:1,b"),
        *("http://a:8501", "grpcs://a:8500", "a:8500/v1"),
    ],
)
def test_addresses_of_the_engine_are_checked(value: str) -> None:
    """Each must be HOST:PORT, if TensorFlow Serving is asked for at all."""
    with pytest.raises(InvalidRequest, match="INKLING_TENSORFLOW_SERVING .*HOST:PORT"):
        Settings(engine="tensorflow_serving", tensorflow_serving=value)
    assert Settings(tensorflow_serving=value).engine == "embedded"


@pytest.mark.parametrize(
    ("value", "calls", "expected"),
    [
        ("a:1", 0, 2),
        ("10.0.0.1:1, [::1]:2", 0, 2),
        ("a:1,b:1,dns:///c:1,unix:/tmp/socket", 0, 4),
        ("a:1,b:1,c:1", 1, 1),
        ("grpc://a:1, grpc://[::1]:2,ipv4:10.0.0.1:1", 0, 3),
    ],
)
def test_calls_are_as_many_as_addresses(value: str, calls: int, expected: int) -> None:
    """Without a number, one call for each address is under way, at least two."""
    found = Settings(
        engine="tensorflow_serving", tensorflow_serving=value, engine_calls=calls
    )

    assert expected == found.engine_calls_at_once


@pytest.mark.parametrize(
    ("name", "value", "choice"),
    [("tflite_format", "int-8", "int8"), ("log_level", "warn", "warning")],
)
def test_near_choices_are_offered(name: str, value: str, choice: str) -> None:
    """A value near one of the choices is answered with that one."""
    with pytest.raises(InvalidRequest, match=f"Did you mean {choice}"):
        Settings.from_env({_variable(name): value})


@pytest.mark.parametrize(
    ("text", "expected"),
    [("true", True), ("false", False), ("True", True), ("False", False)],
)
def test_switches_are_read_as_they_are_meant(text: str, expected: bool) -> None:
    """A switch that is set to false is off, as a variable and as a flag."""
    by_variable = Settings.from_env({"INKLING_GRPC_REFLECTION": text})
    by_flag = Settings.from_env({}, **_flags("--grpc-reflection", text))

    assert (expected, expected) == (
        by_variable.grpc_reflection,
        by_flag.grpc_reflection,
    )


@pytest.mark.parametrize(
    "given", [{}, _OTHERS, {"poll_s": 1 / 3, "models_dir": Path("a b/ü")}]
)
def test_settings_survive_the_environment(given: dict[str, Any]) -> None:
    """What `to_env` writes, `from_env` reads back equal: workers rely on it."""
    there = Settings(**given)

    assert there == Settings.from_env(there.to_env())
    assert {_variable(name) for name in _NAMES} == set(there.to_env())


def test_help_names_variable_and_default() -> None:
    """The help of each flag names its variable and its default."""
    command = [sys.executable, "-m", "inkling", "serve", "--help"]
    environ = {**os.environ, "COLUMNS": "500"}
    done = subprocess.run(
        command, env=environ, capture_output=True, text=True, check=True
    )

    for name in _NAMES:
        default = getattr(Settings(), name)
        assert f"({_variable(name)}, default: {default})" in done.stdout


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("INKLING_WORKERS", "many", "INKLING_WORKERS is 'many'"),
        ("INKLING_HTTP_PORT", "70000", "INKLING_HTTP_PORT"),
    ],
)
def test_serve_refuses_bad_settings(
    tmp_path: Path, variable: str, value: str, message: str
) -> None:
    """`inkling serve` exits with 1 and one line that names the setting."""
    command = [sys.executable, "-m", "inkling", "serve", "--models-dir", str(tmp_path)]
    environ = {k: v for k, v in os.environ.items() if not k.startswith("INKLING_")}
    done = subprocess.run(
        command,
        env={**environ, variable: value},
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )

    assert message in done.stderr
    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr


_QUOTAS: dict[str, tuple[str, dict[str, str], int]] = {
    "no cgroups": ("", {}, 4),
    "no limit": ("0::/\n", {"cpu.max": "max 100000\n"}, 4),
    "docker --cpus 2": ("0::/\n", {"cpu.max": "200000 100000\n"}, 2),
    "half a core": ("0::/\n", {"cpu.max": "50000 100000\n"}, 1),
    "one core and a half": ("0::/\n", {"cpu.max": "150000 100000\n"}, 2),
    "more than there is": ("0::/\n", {"cpu.max": "6400000 100000\n"}, 4),
    "a service of systemd": (
        "0::/system.slice/inkling.service\n",
        {
            "system.slice/cpu.max": "300000 100000\n",
            "system.slice/inkling.service/cpu.max": "max 100000\n",
        },
        3,
    ),
    "version 1": (
        "4:cpu,cpuacct:/docker/1\n0::/\n",
        {"cpu/cpu.cfs_quota_us": "200000\n", "cpu/cpu.cfs_period_us": "100000\n"},
        2,
    ),
    "version 1, no limit": (
        "4:cpu,cpuacct:/\n",
        {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"},
        4,
    ),
    "nonsense": ("0::/\n", {"cpu.max": "many\n", "cpu/cpu.cfs_quota_us": "1"}, 4),
}


@pytest.mark.parametrize(("groups", "files", "cores"), _QUOTAS.values(), ids=_QUOTAS)
def test_a_container_has_the_cores_it_is_allowed(
    groups: str,
    files: dict[str, str],
    cores: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The number of usable cores is that of the affinity and of the control group."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3})
    files = {f"sys/fs/cgroup/{name}": text for name, text in files.items()}
    for name, text in {"proc/self/cgroup": groups, **files}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)

    assert cores == usable_cores(tmp_path)


def test_affinity_is_the_limit() -> None:
    """A process that is bound to one core has one worker, with one thread."""
    code = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))});"
        "from inkling_serving.settings import Settings as S;"
        "print(S().workers_wanted, S().work_threads, S(workers=3).workers_wanted)"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)

    assert "1 1 3" == done.stdout.strip()


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["serve", "--http-prot", "1"], "Did you mean --http-port?"),
        (["train", "--datset", "mnist", "mlp"], "Did you mean --dataset?"),
        (["loadtest", "--targt=http://127.0.0.1:1"], "Did you mean --target?"),
        (["classify", "--on-devise", "a.tflite", "b.png"], "Did you mean --on-device?"),
        (["sevre"], "Did you mean serve?"),
        (["train", "mpl"], "Did you mean mlp?"),
    ],
)
def test_misspelt_words_on_the_command_line_are_refused(
    words: list[str], hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A misspelt flag, command or choice is an error that names the nearest one."""
    with pytest.raises(SystemExit) as ended:
        main(words)

    assert 2 == ended.value.code
    assert hint in capsys.readouterr().err


def test_serve_starts_among_the_variables_of_others(tmp_path: Path) -> None:
    """The log has a remark for each; the start goes on."""
    environ = {k: v for k, v in os.environ.items() if not k.startswith("INKLING_")}
    environ |= _links("INKLING", "10.96.0.12", {"HTTP": 80})
    environ |= {"INKLING_HTTP_PROT": "1", "INKLING_HTTP_PORT": "tcp://10.0.0.1:80"}
    # An address that no machine has (RFC 5737), so that the gateway ends at once.
    environ["INKLING_HOST"] = "192.0.2.1"
    command = [sys.executable, "-m", "inkling", "serve", "--models-dir", str(tmp_path)]
    done = subprocess.run(
        command, env=environ, capture_output=True, text=True, timeout=60
    )
    # The log is written by a thread of its own, beside the refusal.
    lines = sorted(done.stderr.splitlines(), key=lambda line: " WARNING " not in line)
    *warnings, refusal = lines

    assert 1 == done.returncode
    assert "Cannot listen on 192.0.2.1 port 8080" in refusal
    assert [True, True] == [" WARNING " in line for line in warnings], done.stderr
    assert "INKLING_HTTP_PORT=tcp://10.0.0.1:80 names a service" in warnings[0]
    assert "Did you mean INKLING_HTTP_PORT?" in warnings[1]
