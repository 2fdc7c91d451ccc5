"""`inkling up`: serves at once, and trains beside that the models that are missing.

Training and gateway are processes of their own, started through the command line, so
that the gateway loads no TensorFlow, and neither imports the other.
"""

from __future__ import annotations

import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from inkling.errors import DeadlineExceeded, InklingError, InvalidRequest, NotReady
from inkling.gateway.connection import read_api_key
from inkling.gateway.probes import Probes, trusting_only
from inkling.model.repository import Repository

if TYPE_CHECKING:
    from inkling_serving.settings import Settings

__all__ = ["ClientFiles", "up"]

# The PEM files of a client's certificate and of its key.
ClientFiles = tuple[str, str]

_INKLING = (sys.executable, "-m", "inkling")
_ASK_AGAIN_S = 0.2
_READY_TIMEOUT_S = 30.0
# The addresses on which a gateway listens that listens on all, by what it is told.
_OWN_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}


def up(
    settings: Settings,
    models: Sequence[str],
    data_dir: str | None,
    client: ClientFiles | None = None,
) -> int:
    """Serve, train what is missing, and stay until stopped; return the exit code.

    Args:
        settings: The gateway's.
        models: The models to train, where they are not published yet, and to serve.
        data_dir: Where the pictures to train on are.
        client: What to show to the gateway if it asks for a client's certificate.

    Raises:
        InklingError: The gateway did not start, or a file cannot be used.
    """
    settings = _with_http_port(settings)
    repository = Repository(settings.models_dir)
    missing = [name for name in models if not repository.versions(name)]
    environ = {**os.environ, **settings.to_env()}
    if environ.get("INKLING_TLS_CLIENT_CA") and client is None:
        raise InvalidRequest(
            "With --tls-client-ca the gateway asks for a certificate, also when "
            "inkling up asks whether it is ready: name one that it accepts with "
            "--client-certificate and --client-key."
        )
    with (
        _probes(settings, client) as probes,
        _running([*_INKLING, "serve"], environ) as process,
    ):
        gateway = _Gateway(settings, probes, process)
        gateway.wait_for("/livez", probes.is_live)
        if len(missing) < len(models):
            gateway.announce()
        for name in missing:
            code = _train(name, settings, data_dir, environ)
            if code != 0 and not gateway.announced:
                return code
            if code != 0:
                print(f"{name} was not published; what is served goes on.", flush=True)
            elif not gateway.announced:
                gateway.announce()
        ready = probes.ready_models()
        served = ", ".join(name for name in models if name in ready)
        print(f"\nServing {served}. Ctrl-C stops.", flush=True)
        return process.wait()


class _Gateway:
    """The gateway's process, and how it is asked."""

    def __init__(
        self, settings: Settings, probes: Probes, process: subprocess.Popen[bytes]
    ) -> None:
        self.announced = False
        self._settings, self._probes, self._process = settings, probes, process

    def announce(self) -> None:
        """Wait until a model is ready, and say how it is asked."""
        self.wait_for("/readyz", self._probes.is_ready)
        name, url = self._probes.ready_models()[0], _url(self._settings)
        words = ["curl", "--data-binary", "@picture.png"]
        shown = shlex.join([*words, f"{url}/v1/models/{name}:classify"])
        if self._settings.api_key_file:
            keys = shlex.quote(self._settings.api_key_file)
            shown += f' -H "Authorization: Bearer $(head -n 1 {keys})"'
        print(
            f"\nReady. Draw at {url}/ or send a picture:\n  {shown}\n{self._notes()}",
            flush=True,
        )
        self.announced = True

    def wait_for(self, path: str, is_there: Callable[[], bool]) -> None:
        """Wait until a probe is true.

        Raises:
            InklingError: The gateway ended, or the probe was not true in time.
        """
        give_up, why = time.monotonic() + _READY_TIMEOUT_S, ""
        while time.monotonic() < give_up:
            if self._process.poll() is not None:
                raise InklingError("The gateway stopped; its message is above.")
            try:
                if is_there():
                    return
                why = ""
            except (NotReady, DeadlineExceeded) as error:
                why = f" {error.message}"
            time.sleep(_ASK_AGAIN_S)
        raise InklingError(
            f"The gateway was not ready at {path} within {_READY_TIMEOUT_S:g} s.{why}"
        )

    def _notes(self) -> str:
        if not self._settings.tls_certificate:
            return ""
        return (
            "Browsers and curl trust the address only by a name that is in the "
            "certificate.\n"
        )


def _probes(settings: Settings, client: ClientFiles | None) -> Probes:
    """Return what asks the gateway, with its key and its own certificate.

    The certificate need not be for the address that is asked here, which is the
    loopback's as a rule: the gateway is known by its certificate, not by a name.
    """
    options: dict[str, Any] = {}
    if settings.api_key_file:
        options["api_key"] = read_api_key(settings.api_key_file)
    tls = None
    if settings.tls_certificate:
        tls = trusting_only(settings.tls_certificate, client)
    return Probes(_url(settings), tls, **options)


def _url(settings: Settings) -> str:
    """Return the address of the HTTP port, as seen from this machine."""
    host = _OWN_ADDRESS.get(settings.host, settings.host)
    shown = f"[{host}]" if ":" in host else host
    scheme = "https" if settings.tls_certificate else "http"
    return f"{scheme}://{shown}:{settings.http_port}"


def _with_http_port(settings: Settings) -> Settings:
    """Return the settings with a free port in place of port 0.

    The gateway alone would learn its port, and tell it to its log, which may be off.
    Between here and there another process may take the port; the gateway then stops
    and says so.
    """
    if settings.http_port:
        return settings
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.bind((settings.host, 0))
            return replace(settings, http_port=probe.getsockname()[1])
    except OSError:
        return settings  # the gateway cannot listen there either, and says so


def _train(
    name: str, settings: Settings, data_dir: str | None, environ: dict[str, str]
) -> int:
    command = [*_INKLING, "train", name, "--models-dir", str(settings.models_dir)]
    if data_dir:
        command += ["--data-dir", data_dir]
    with _running(command, environ) as training:
        return training.wait()


@contextmanager
def _running(
    command: Sequence[str], environ: dict[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process, and end it with us whatever happens."""
    # Whatever ends us ends the process too.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    process = subprocess.Popen(command, env=environ)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.wait()
