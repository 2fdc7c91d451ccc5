"""`inkling up`: a gateway at once, and the training beside it that fills it.

Training and gateway are processes of their own, started through the command line, so
the gateway holds no TensorFlow and neither knows the other's code.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from inkling.errors import InklingError
from inkling.model.repository import Repository

if TYPE_CHECKING:
    from inkling_serving.settings import Settings

__all__ = ["up"]

_INKLING = (sys.executable, "-m", "inkling")
_ASK_AGAIN_S = 0.2
_READY_TIMEOUT_S = 30.0


def up(settings: Settings, models: Sequence[str], data_dir: str | None) -> int:
    """Serve, train what is missing, and stay until stopped; return the exit code.

    Raises:
        InklingError: The gateway did not start.
    """
    repository = Repository(settings.models_dir)
    missing = [name for name in models if not repository.versions(name)]
    environ = {**os.environ, **settings.to_env()}
    with _running([*_INKLING, "serve"], environ) as gateway:
        _wait_for(gateway, settings, "/livez")
        if len(missing) < len(models):
            _announce(gateway, settings)
        announced = len(missing) < len(models)
        for name in missing:
            code = _train(name, settings, data_dir, environ)
            if code != 0 and not announced:
                return code
            if code != 0:
                print(f"{name} was not published; what is served goes on.", flush=True)
            elif not announced:
                _announce(gateway, settings)
                announced = True
        ready = {model["name"] for model in _models(settings) if model["ready"]}
        served = ", ".join(name for name in models if name in ready)
        print(f"\nServing {served}. Ctrl-C stops.", flush=True)
        return gateway.wait()


def _train(
    name: str, settings: Settings, data_dir: str | None, environ: dict[str, str]
) -> int:
    command = [*_INKLING, "train", name, "--models-dir", str(settings.models_dir)]
    if data_dir:
        command += ["--data-dir", data_dir]
    with _running(command, environ) as training:
        return training.wait()


def _announce(gateway: subprocess.Popen[bytes], settings: Settings) -> None:
    _wait_for(gateway, settings, "/readyz")
    host = "127.0.0.1" if settings.host in ("0.0.0.0", "::") else settings.host
    url = f"http://{host}:{settings.http_port}"
    name = next(m["name"] for m in _models(settings) if m["ready"])
    print(
        f"\nReady. Draw at {url}/ or send a picture:\n"
        f"  curl --data-binary @picture.png {url}/v1/models/{name}:classify\n",
        flush=True,
    )


def _models(settings: Settings) -> list[dict[str, object]]:
    _, body = _get(settings, "/v1/models")
    models: list[dict[str, object]] = json.loads(body)["models"]
    return models


def _wait_for(gateway: subprocess.Popen[bytes], settings: Settings, path: str) -> None:
    give_up = time.monotonic() + _READY_TIMEOUT_S
    while time.monotonic() < give_up:
        if gateway.poll() is not None:
            raise InklingError("The gateway stopped; its message is above.")
        try:
            if _get(settings, path)[0] == http.client.OK:
                return
        except OSError:
            pass
        time.sleep(_ASK_AGAIN_S)
    raise InklingError(
        f"The gateway did not answer {path} within {_READY_TIMEOUT_S:g} s."
    )


def _get(settings: Settings, path: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(
        settings.host, settings.http_port, timeout=5
    )
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


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
