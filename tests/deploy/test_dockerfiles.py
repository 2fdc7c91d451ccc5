"""The Dockerfiles: what they say, and their install steps done for real."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from inkling_serving.settings import Settings
from tests.support.machine import until

ROOT = Path(__file__).parent.parent.parent
DOCKERFILES = ("gateway", "training", "loadtest")
_LINE = re.compile(r"([A-Z]+) +(.+)", re.DOTALL)
_START_TIMEOUT_S = 30


@dataclass(frozen=True)
class Instruction:
    """One instruction of a Dockerfile, with its lines joined."""

    name: str
    text: str


def _stages(name: str) -> list[list[Instruction]]:
    """Return the instructions of each stage; what stands before the first is left out."""
    text = (ROOT / "deploy" / "docker" / f"{name}.Dockerfile").read_text()
    text = re.sub(r"^#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", " ")
    stages: list[list[Instruction]] = []
    for line in filter(None, map(str.strip, text.splitlines())):
        match = _LINE.fullmatch(line)
        assert match, line
        if match[1] == "FROM":
            stages.append([])
        if stages:
            stages[-1].append(Instruction(match[1], " ".join(match[2].split())))
    return stages


def _said(stage: list[Instruction], name: str) -> list[str]:
    return [each.text for each in stage if each.name == name]


@pytest.mark.parametrize("name", DOCKERFILES)
def test_two_stages_on_one_base(name: str) -> None:
    """Both stages come from one image that a release pins by its digest."""
    text = (ROOT / "deploy" / "docker" / f"{name}.Dockerfile").read_text()
    build, runtime = _stages(name)

    assert re.search(
        r"^ARG PYTHON_IMAGE=python:3\.\d+-slim-\w+(@sha256:\w+)?$", text, re.M
    )
    assert _said(build, "FROM") == ["${PYTHON_IMAGE} AS build"]
    assert _said(runtime, "FROM") == ["${PYTHON_IMAGE}"]


@pytest.mark.parametrize("name", DOCKERFILES)
def test_what_runs_is_bare(name: str) -> None:
    """The last stage takes over the environment, and neither source, tools nor packages."""
    build, runtime = _stages(name)

    assert _said(runtime, "COPY") == ["--from=build /opt/inkling /opt/inkling"]
    assert any("venv" in run and "/opt/inkling" in run for run in _said(build, "RUN"))
    for run in _said(runtime, "RUN"):
        assert run.startswith("install -d -o 10001 -g 10001 /")
    for run in [*_said(build, "RUN"), *_said(runtime, "RUN")]:
        assert not re.search(r"apt|curl|wget|gcc|chmod", run)
    assert not _said(build, "ADD")
    assert not _said(runtime, "ADD")


@pytest.mark.parametrize("name", DOCKERFILES)
def test_it_runs_as_nobody(name: str) -> None:
    """The user is compose's, and nothing is set up after it but how it starts."""
    _, runtime = _stages(name)
    names = [each.name for each in runtime]
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())

    assert [compose["services"][name]["user"]] == _said(runtime, "USER")
    assert not {"RUN", "COPY"} & set(names[names.index("USER") :])
    assert json.loads(_said(runtime, "ENTRYPOINT")[0]) == ["inkling"]
    assert (
        f"deploy/docker/{name}.Dockerfile"
        == (compose["services"][name]["build"]["dockerfile"])
    )


@pytest.mark.parametrize("name", DOCKERFILES)
def test_it_says_where_it_comes_from(name: str) -> None:
    """Title, licence, source and revision are labels, the last two given by the build."""
    _, runtime = _stages(name)
    [labels] = _said(runtime, "LABEL")
    found = dict(re.findall(r'org\.opencontainers\.image\.(\w+)="([^"]*)"', labels))

    assert f"Inkling {name}" == found["title"]
    assert found["licenses"] == "Apache-2.0"
    assert (found["source"], found["revision"]) == ("${SOURCE}", "${REVISION}")
    assert _said(runtime, "ARG") == ["SOURCE=", "REVISION=unknown"]


def test_bytecode_is_compiled_once() -> None:
    """Python finds its bytecode in the image, as it cannot write any when it runs."""
    for name in DOCKERFILES:
        build, runtime = _stages(name)
        assert "--compile-bytecode" in _said(build, "RUN")[-1]
        assert not any("DONTWRITE" in text for text in _said(runtime, "ENV"))


def test_variables_are_settings() -> None:
    """Every INKLING_ variable of the gateway's image is a setting of the gateway."""
    _, runtime = _stages("gateway")
    [text] = _said(runtime, "ENV")
    variables = dict(pair.split("=", 1) for pair in text.split())
    mine = {k: v for k, v in variables.items() if k.startswith("INKLING_")}

    assert Path("/models") == Settings.from_env(mine).models_dir
    # Whoever starts the image says that it may be reached.
    assert Settings.from_env(mine).host == "127.0.0.1"


def test_the_builder_is_given_what_is_copied() -> None:
    """.dockerignore lets through what the Dockerfiles copy, and nothing else."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    let_through = {rule[1:] for rule in rules if rule.startswith("!")}
    copied = {
        text.split()[0]
        for name in DOCKERFILES
        for text in _said(_stages(name)[0], "COPY")
    }

    assert rules[0] == "*"
    assert copied == let_through
    assert all((ROOT / source).exists() for source in copied)
    assert {"**/__pycache__", "**/dist"} == set(rules[len(let_through) + 1 :])


class Replay:
    """The build stage of a Dockerfile, done in a folder instead of an image."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.environment = root / "opt" / "inkling"
        kept = ("VIRTUAL_ENV", "PYTHONDONTWRITEBYTECODE", "PYTHONPATH")
        self._environ = {k: v for k, v in os.environ.items() if k not in kept}
        python = str(Path(sys.executable).parent)
        self._environ["PATH"] = python + os.pathsep + self._environ["PATH"]

    def prepare(self, stage: list[Instruction]) -> None:
        """Copy what is copied."""
        (self.root / "src").mkdir(parents=True)
        assert _said(stage, "WORKDIR") == ["/src"]
        for text in _said(stage, "COPY"):
            source, target = text.split()
            place = self.root / "src" / target
            if (ROOT / source).is_dir():
                ignored = shutil.ignore_patterns("__pycache__", "dist")
                shutil.copytree(ROOT / source, place, ignore=ignored)
            else:
                shutil.copy(ROOT / source, place)

    def run(
        self, step: str, *, tools: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Do a RUN step, with its paths under the folder."""
        step = re.sub(r"--mount=\S+ ", "", step)
        step = step.replace("/tools", str(tools or self.root / "tools"))
        step = step.replace("/opt/inkling", str(self.environment))
        return subprocess.run(
            ["bash", "-c", step],
            cwd=self.root / "src",
            env=self._environ,
            capture_output=True,
            text=True,
            timeout=240,
        )


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Replay:
    """The gateway, installed as its Dockerfile says."""
    build, _ = _stages("gateway")
    replay = Replay(tmp_path_factory.mktemp("gateway-image"))
    replay.prepare(build)
    for step in _said(build, "RUN"):
        done = replay.run(step)
        assert done.returncode == 0, done.stdout + done.stderr
    return replay


def _locked() -> dict[str, set[str]]:
    """Return the versions that the lock file allows, by distribution."""
    found: dict[str, set[str]] = {}
    lock = (ROOT / "requirements.lock").read_text()
    for name, version in re.findall(r"^([\w.-]+)==([\w.+]+)", lock, re.MULTILINE):
        found.setdefault(name, set()).add(version)
    return found


def _installed(environment: Path) -> dict[str, str]:
    """Return the versions of what is installed, by normalised name."""
    code = (
        "from importlib.metadata import distributions\n"
        "for each in distributions(): print(each.name, each.version)"
    )
    python = environment / "bin" / "python"
    done = subprocess.run(
        [python, "-I", "-c", code], check=True, capture_output=True, text=True
    )
    pairs = (line.split() for line in done.stdout.splitlines())
    return {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in pairs}


def test_the_gateway_is_its_closure(built: Replay) -> None:
    """Nothing but what the gateway needs, at locked versions; no TensorFlow, no pip."""
    found, locked = _installed(built.environment), _locked()
    ours = {name for name in found if name.startswith("inkling")}
    size = sum(
        file.stat().st_size for file in built.environment.rglob("*") if file.is_file()
    )

    assert {"inkling", "inkling-serving"} == ours
    assert {
        name: version
        for name, version in found.items()
        if name not in ours and version not in locked.get(name, ())
    } == {}
    assert not {"tensorflow", "keras", "pip", "uv", "locust", "pytest"} & set(found)
    assert {"ai-edge-litert", "flask", "grpcio", "uvicorn"} <= set(found)
    assert size < 250 * 10**6
    assert any(built.environment.rglob("inkling_serving/__pycache__/server.*.pyc"))


def test_the_installed_gateway_explains_itself(built: Replay) -> None:
    """`inkling --help` there knows serving, and nothing of training."""
    help_text = subprocess.run(
        [built.environment / "bin" / "inkling", "--help"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout

    commands = set(re.findall(r"^ {4}(\w+) ", help_text, re.MULTILINE))
    assert {"classify", "doctor", "models", "serve", "up"} == commands


@contextmanager
def _started(replay: Replay, variables: dict[str, str], log: Path) -> Iterator[int]:
    """Start what the image starts, without its address; yield the HTTP port."""
    _, runtime = _stages("gateway")
    [entry], [command] = _said(runtime, "ENTRYPOINT"), _said(runtime, "CMD")
    program, *arguments = [*json.loads(entry), *json.loads(command)]
    environ = {k: v for k, v in os.environ.items() if not k.startswith("INKLING_")}
    environ.pop("PYTHONPATH", None)
    with log.open("w") as output:
        process = subprocess.Popen(
            [replay.environment / "bin" / program, *arguments],
            env={**environ, **variables},
            stderr=output,
            cwd=log.parent,
        )
    try:
        yield _port_of(process, log)
    finally:
        process.send_signal(signal.SIGTERM)
        code = process.wait(_START_TIMEOUT_S)
    assert code == 0, log.read_text()


def _port_of(process: subprocess.Popen[bytes], log: Path) -> int:
    give_up = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < give_up and process.poll() is None:
        match = re.search(r"listening on http://[^:]+:(\d+)/", log.read_text())
        if match:
            return int(match[1])
        time.sleep(0.02)
    raise AssertionError(log.read_text())


def test_the_installed_gateway_lives_without_its_engine(
    built: Replay, tmp_path: Path
) -> None:
    """Started as compose starts it, it is well by the image's own check, and not ready."""
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    variables = {
        **compose["services"]["gateway"]["environment"],
        "INKLING_HOST": "127.0.0.1",
        "INKLING_HTTP_PORT": "0",
        "INKLING_GRPC_PORT": "0",
        "INKLING_TENSORFLOW_SERVING": "127.0.0.1:1",
    }
    [check] = _said(_stages("gateway")[1], "HEALTHCHECK")
    _, code = json.loads(check.partition(" CMD ")[2])[1:]
    python = built.environment / "bin" / "python"

    assert code.count(f"'127.0.0.1', {Settings().http_port},") == 1
    assert (
        subprocess.run(
            [python, "-c", code.replace("8080", "1")], capture_output=True
        ).returncode
        != 0
    )
    with _started(built, variables, tmp_path / "log") as port:
        mine = code.replace(str(Settings().http_port), str(port))
        _wait_until_well([str(python), "-c", mine])
        ready = mine.replace("/livez", "/readyz")
        assert subprocess.run([python, "-c", ready]).returncode == 1


def _wait_until_well(command: list[str]) -> None:
    until(
        lambda: subprocess.run(command, capture_output=True).returncode == 0,
        _START_TIMEOUT_S,
    )


def test_a_wrong_hash_is_refused(built: Replay, tmp_path: Path) -> None:
    """The hashes of the lock file are held, though it is given as constraints."""
    build, _ = _stages("gateway")
    replay = Replay(tmp_path / "image")
    replay.prepare(build)
    lock = replay.root / "src" / "requirements.lock"
    text = lock.read_text()
    block = re.search(r"^flask==.*?(?=^[a-z])", text, re.MULTILINE | re.DOTALL)
    assert block
    wrong = re.sub(r"sha256:.{8}", "sha256:00000000", block[0])
    lock.write_text(text.replace(block[0], wrong))
    done = replay.run(_said(build, "RUN")[-1], tools=built.root / "tools")

    assert done.returncode != 0
    assert "Hash mismatch for `flask" in done.stderr


@pytest.mark.parametrize(
    ("image", "needed", "unwanted"),
    [
        (
            "training",
            {"tensorflow", "keras", "tensorflow-serving-api"},
            {"flask", "uvicorn", "locust", "pytest"},
        ),
        ("loadtest", {"locust", "grpcio"}, {"tensorflow", "uvicorn"}),
    ],
)
def test_others_would_be_their_closures(
    built: Replay, tmp_path: Path, image: str, needed: set[str], unwanted: set[str]
) -> None:
    """Resolved but not downloaded: what each image needs, at locked versions."""
    build, _ = _stages(image)
    first, install = _said(build, "RUN")
    replay = Replay(tmp_path / "image")
    replay.prepare(build)
    done = replay.run(
        install.replace("pip install", "pip install --dry-run"),
        tools=built.root / "tools",
    )
    # " + name==1.0", and " + name @ file:///..." for what is built from a folder.
    found = dict(re.findall(r"^ \+ ([\w.-]+)(?:==| @ )(\S+)", done.stderr, re.M))
    ours = {name for name in found if name.startswith("inkling")}
    locked = _locked()

    assert done.returncode == 0, done.stderr
    assert _said(_stages("gateway")[0], "RUN")[0] == first
    assert {"inkling", f"inkling-{image}"} == ours
    assert needed <= set(found)
    assert not unwanted & set(found)
    assert {
        name: version
        for name, version in found.items()
        if name not in ours and version not in locked.get(name, ())
    } == {}
