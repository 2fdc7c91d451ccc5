# SPDX-License-Identifier: Apache-2.0
"""`inkling up`: serves at once, and meanwhile trains the models that are missing.

The training and the gateway run as separate processes of the command line. So the
gateway does not load TensorFlow, and neither package imports the other.
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
# An address of this machine for each value of --host that means all addresses.
_OWN_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}


def up(
    settings: Settings,
    models: Sequence[str],
    data_dir: str | None,
    client: ClientFiles | None = None,
) -> int:
    """Serve, train the missing models, and wait for the end; return the exit code.

    Args:
        settings: The gateway's settings.
        models: The models to serve; those that are not published yet are trained.
        data_dir: The directory of the training pictures.
        client: The client certificate, if the gateway requires one.

    Raises:
        InklingError: The gateway did not start, or a file cannot be used.
    """
    settings = _with_http_port(settings)
    repository = Repository(settings.models_dir)
    missing = [name for name in models if not repository.versions(name)]
    environ = {**os.environ, **settings.to_env()}
    if environ.get("INKLING_TLS_CLIENT_CA") and client is None:
        raise InvalidRequest(
            "With --tls-client-ca, inkling up itself needs a client certificate to ask "
            "whether the gateway is ready. Set --client-certificate and --client-key."
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
                print(
                    f"{name} was not published; the other models are still served.",
                    flush=True,
                )
            elif not gateway.announced:
                gateway.announce()
        ready = probes.ready_models()
        served = ", ".join(name for name in models if name in ready)
        print(f"\nServing {served}. Ctrl-C stops.", flush=True)
        return process.wait()


class _Gateway:
    """The gateway's process, and the probes that ask it."""

    def __init__(
        self, settings: Settings, probes: Probes, process: subprocess.Popen[bytes]
    ) -> None:
        self.announced = False
        self._settings, self._probes, self._process = settings, probes, process

    def announce(self) -> None:
        """Wait until a model is ready, and print an example of a request."""
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
        """Wait until a probe returns True.

        Raises:
            InklingError: The gateway ended, or the probe did not return True in time.
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
            "Browsers and curl accept the address only if its name is in the "
            "certificate.\n"
        )


def _probes(settings: Settings, client: ClientFiles | None) -> Probes:
    """Return probes that use the gateway's API key and trust only its certificate.

    The certificate need not name the address that the probes use, which is usually
    the loopback: the probes recognise the gateway by the certificate itself.
    """
    # Its own gateway is on this machine, whatever --host says.
    options: dict[str, Any] = {"use_proxy": False}
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
    """Return the settings with a free port instead of port 0.

    Otherwise, only the gateway and its log would know the port, and the log may be off.
    Another process may take the port before the gateway does; the gateway then stops
    with a message.
    """
    if settings.http_port:
        return settings
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.bind((settings.host, 0))
            return replace(settings, http_port=probe.getsockname()[1])
    except OSError:
        return settings  # the gateway cannot listen there either, and reports the error


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
    """Run a process, and end it when this process ends."""
    # These signals raise KeyboardInterrupt here, so that the process is ended, too.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    process = subprocess.Popen(command, env=environ)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.wait()
