# SPDX-License-Identifier: Apache-2.0
"""The settings of the gateway, from INKLING_* variables and command-line flags."""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inkling.errors import InvalidRequest
from inkling.image.budget import DEFAULT_LIMITS, Limits
from inkling.model.repository import FORMATS, check_model_name
from inkling_serving.capture_settings import CaptureOptions
from inkling_serving.engine_addresses import engine_address
from inkling_serving.environment import PREFIX, given_settings, remarks
from inkling_serving.fields import setting as _setting
from inkling_serving.runtime.cores import usable_cores

__all__ = ["Settings", "add_flags", "from_flags"]

_MAX_PORT = 65535
_DAY_S = 86400.0


@dataclass(frozen=True, kw_only=True)
class Settings(CaptureOptions):
    """The settings of the gateway; each field is a flag and an INKLING_* variable.

    The help text in each field's metadata documents it. Sizes are in bytes, times in
    seconds.

    Raises:
        InvalidRequest: A value is out of its range, or is not one of the choices.
    """

    models_dir: Path = _setting(Path("models"), "directory of the model repository")
    host: str = _setting(
        "127.0.0.1", "address to listen on; 0.0.0.0 means all network interfaces"
    )
    http_port: int = _setting(
        8080, "port for HTTP; 0 means any free port", 0, _MAX_PORT
    )
    grpc_port: int = _setting(
        8081, "port for gRPC; 0 means any free port", 0, _MAX_PORT
    )
    api_key_file: str = _setting(
        "", "file with the API keys that callers must send, one per line"
    )
    cors_origin: str = _setting(
        "",
        "origins whose pages may call the gateway from a browser, separated by commas, "
        "such as https://app.example; * means all, but not together with API keys",
    )
    device_files: bool = _setting(
        True,
        "false keeps the models' TFLite files from devices; the page then shows only "
        "what the server answers",
    )
    tls_certificate: str = _setting(
        "", "PEM file with the certificate chain for both ports"
    )
    tls_key: str = _setting("", "PEM file with the certificate's key")
    tls_client_ca: str = _setting(
        "",
        "PEM file with the authorities whose certificates clients must show on both "
        "ports; without it no client certificate is asked for",
    )
    grpc_reflection: bool = _setting(
        False, "true lets tools such as grpcurl list the gRPC methods"
    )
    grpc_channelz: bool = _setting(
        False, "true adds gRPC's channelz service, which describes the connections"
    )
    grpc_compression: str = _setting(
        "none", "how gRPC responses are compressed: none, deflate or gzip"
    )
    grpc_max_streams: int = _setting(
        64,
        "streams (ClassifyStream, ModelStreamInfer) open at once, per process",
        1,
        128,
    )
    grpc_keepalive_s: float = _setting(
        60.0,
        "seconds between pings on an idle gRPC connection; 0 sends none",
        0,
        _DAY_S,
    )
    grpc_max_connection_idle_s: float = _setting(
        0.0, "seconds without a call after which a gRPC connection ends; 0 is never", 0
    )
    grpc_max_connection_age_s: float = _setting(
        0.0,
        "seconds after which a gRPC connection ends, so that clients spread over new "
        "replicas; 0 is never",
        0,
    )
    grpc_max_connection_age_grace_s: float = _setting(
        30.0, "seconds that calls may take after their connection's age ended it", 0
    )
    engine: str = _setting(
        "embedded", "engine that runs the models: embedded or tensorflow_serving"
    )
    tensorflow_serving: str = _setting(
        "127.0.0.1:8500", "gRPC addresses of TensorFlow Serving, separated by commas"
    )
    tensorflow_serving_root_certificates: str = _setting(
        "",
        "PEM file with the authorities that signed TensorFlow Serving's certificate; "
        "given means TLS",
    )
    tensorflow_serving_certificate: str = _setting(
        "", "PEM file with the certificate chain that TensorFlow Serving asks for"
    )
    tensorflow_serving_key: str = _setting("", "PEM file with that certificate's key")
    served_models: str = _setting(
        "mlp,cnn", "models to request from TensorFlow Serving, separated by commas"
    )
    expect_gpu: bool = _setting(
        False, "true logs a warning if TensorFlow Serving runs a model on the CPU"
    )
    engine_batch: int = _setting(
        32, "largest number of pictures in one call of TensorFlow Serving", 1
    )
    engine_calls: int = _setting(
        0,
        "calls of TensorFlow Serving under way at once, per model version and process; "
        "0 is one for each address, at least two",
        0,
    )
    tflite_format: str = _setting(
        "float32", "TFLite file that the embedded engine runs: float32, float16 or int8"
    )
    poll_s: float = _setting(
        1.0,
        "seconds between two checks of the model repository or of TensorFlow Serving",
        0.01,
        _DAY_S,
    )
    workers: int = _setting(
        0,
        "gateway processes that share the ports; 0 means one for each usable core",
        0,
    )
    threads: int = _setting(
        0,
        "threads per process for large pictures; 0 means the usable cores divided by "
        "the workers, or 16 with the engine tensorflow_serving",
        0,
    )
    queue: int = _setting(
        64,
        "largest number of requests that wait for a thread; further requests are "
        "refused as overloaded",
        0,
    )
    queue_timeout_s: float = _setting(
        2.0,
        "seconds that a request waits for a thread before it is refused as overloaded",
        0,
        _DAY_S,
    )
    max_connections: int = _setting(
        1000,
        "connections that may be open on each port, per process; over HTTP, a new one "
        "beyond them ends the one that is idle for the longest time",
        1,
    )
    max_held_bytes: int = _setting(
        64 * 1024 * 1024,
        "bytes of requests that a process holds at once, at least two bodies; beyond "
        "them, requests are refused as overloaded",
        1,
    )
    max_batch: int = _setting(32, "largest number of pictures in one request", 1)
    max_body_bytes: int = _setting(
        10 * 1024 * 1024, "largest size of a request body, in bytes", 1
    )
    max_image_bytes: int = _setting(
        DEFAULT_LIMITS.max_bytes, "largest size of one encoded picture, in bytes", 1
    )
    max_image_pixels: int = _setting(
        DEFAULT_LIMITS.max_pixels, "largest number of pixels of one decoded picture", 1
    )
    body_timeout_s: float = _setting(
        10.0, "seconds in which a request body must arrive", 0, _DAY_S
    )
    keep_alive_s: float = _setting(
        75.0,
        "seconds that an HTTP connection may be idle after a response; more than the "
        "idle timeout of the load balancer in front",
        1,
        _DAY_S,
    )
    drain_delay_s: float = _setting(
        0.0,
        "seconds after SIGTERM in which readiness is refused and requests are still "
        "served, so that load balancers can turn away",
        0,
        _DAY_S,
    )
    drain_timeout_s: float = _setting(
        30.0, "seconds that open requests may take after SIGTERM", 0, _DAY_S
    )
    log_level: str = _setting(
        "info", "lowest level of log lines: debug, info, warning or error"
    )

    log_format: str = _setting(
        "text", "form of the log's lines: text, or json with one object per line"
    )
    access_log: float = _setting(
        0.0, "share of the requests that the log has a line for, 0 to 1", 0, 1
    )

    def __post_init__(self) -> None:
        for item in dataclasses.fields(self):
            low, value = item.metadata["low"], getattr(self, item.name)
            high = item.metadata["high"]
            if low is not None and not low <= value <= high:
                upper = "or more" if high == math.inf else f"to {high:g}"
                raise InvalidRequest(
                    f"{_variable(item.name)} is {value}; expected {low:g} {upper}."
                )
        if not self.host.strip():
            raise InvalidRequest(
                "INKLING_HOST is empty; expected an address such as 127.0.0.1, or "
                "0.0.0.0 for all network interfaces."
            )
        _check_choice(self, "engine", ("embedded", "tensorflow_serving"))
        _check_choice(self, "tflite_format", FORMATS)
        _check_choice(self, "grpc_compression", ("none", "deflate", "gzip"))
        _check_choice(self, "log_format", ("text", "json"))
        _check_choice(self, "log_level", ("debug", "info", "warning", "error"))
        if self.engine == "tensorflow_serving" and not self.addresses:
            engine_address("")

    @property
    def workers_wanted(self) -> int:
        """The number of gateway processes."""
        return self.workers or usable_cores()

    @property
    def work_threads(self) -> int:
        """The number of threads for large pictures in each process."""
        remote = self.engine == "tensorflow_serving"
        share = max(1, usable_cores() // self.workers_wanted)
        return self.threads or (16 if remote else share)

    @property
    def held_bytes(self) -> int:
        """The bytes of requests that a process may hold: at least two bodies."""
        return max(self.max_held_bytes, 2 * self.max_body_bytes)

    @property
    def addresses(self) -> list[str]:
        """The addresses of TensorFlow Serving, as gRPC takes them.

        Raises:
            InvalidRequest: One of them is no address.
        """
        return [engine_address(text) for text in _listed(self.tensorflow_serving)]

    @property
    def engine_calls_at_once(self) -> int:
        """The number of open calls to TensorFlow Serving, of any size.

        The default is one for each address, and at least two. An address may stand for
        several servers; `engine_calls` then sets a larger number.
        """
        return self.engine_calls or max(2, len(self.addresses))

    @property
    def model_names(self) -> list[str]:
        """The models to request from TensorFlow Serving.

        Raises:
            InvalidRequest: A name is invalid.
        """
        return [check_model_name(name) for name in _listed(self.served_models)]

    @property
    def limits(self) -> Limits:
        """The limits of one picture and of the pictures of a request."""
        return Limits(max_bytes=self.max_image_bytes, max_pixels=self.max_image_pixels)

    @classmethod
    def from_env(cls, environ: Mapping[str, str], **flags: Any) -> Settings:
        """Return the settings from variables and flags; a flag overrides its variable.

        Args:
            environ: Environment variables.
            flags: Values by the names of the fields; None means that a flag is absent.

        Raises:
            InvalidRequest: A value is invalid.
        """
        known = {_variable(item.name): item for item in dataclasses.fields(cls)}
        values = {
            known[variable].name: _parsed(known[variable], text)
            for variable, text in given_settings(environ, known).items()
        }
        given = {name: value for name, value in flags.items() if value is not None}
        return cls(**{**values, **given})

    @classmethod
    def remarks(cls, environ: Mapping[str, str]) -> list[str]:
        """Return a sentence for each INKLING_* variable that is no setting."""
        names = [_variable(item.name) for item in dataclasses.fields(cls)]
        return remarks(environ, names)

    def to_env(self) -> dict[str, str]:
        """Return the variables from which `from_env` makes the same settings."""
        return {
            _variable(item.name): str(getattr(self, item.name))
            for item in dataclasses.fields(self)
        }


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add one flag for each setting; an absent flag leaves the variable in force."""
    for item in dataclasses.fields(Settings):
        shown = item.default
        parser.add_argument(
            "--" + item.name.replace("_", "-"),
            type=_kind(item),
            default=argparse.SUPPRESS,
            metavar=item.name.rpartition("_")[2].upper(),
            help=f"{item.metadata['help']} ({_variable(item.name)}, default: {shown})",
        )


def from_flags(options: argparse.Namespace) -> Settings:
    """Return the settings from the environment and the parsed flags.

    Raises:
        InvalidRequest: A value is invalid.
    """
    names = {item.name for item in dataclasses.fields(Settings)}
    flags = {name: value for name, value in vars(options).items() if name in names}
    return Settings.from_env(os.environ, **flags)


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _variable(name: str) -> str:
    return PREFIX + name.upper()


def _kind(item: dataclasses.Field[Any]) -> Callable[[str], Any]:
    if isinstance(item.default, bool):
        return _switch
    kinds: dict[str, Callable[[str], Any]] = {"models_dir": Path, "host": _host}
    return kinds.get(item.name, type(item.default))


def _host(text: str) -> str:
    """Return an address as the system takes it: [::1] has brackets in URLs only."""
    return text.strip().removeprefix("[").removesuffix("]")


def _switch(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ValueError(text)
    return text.lower() == "true"


def _parsed(item: dataclasses.Field[Any], text: str) -> Any:
    kind = _kind(item)
    try:
        return kind(text)
    except ValueError:
        raise InvalidRequest(
            f"{_variable(item.name)} is {text!r:.60}; expected a value of type "
            f"{type(item.default).__name__}."
        ) from None


def _check_choice(settings: Settings, name: str, choices: tuple[str, ...]) -> None:
    value = getattr(settings, name)
    if value not in choices:
        near = difflib.get_close_matches(str(value), choices, n=1) or choices
        raise InvalidRequest(
            f"{_variable(name)} is {value!r:.60}; expected one of "
            f"{', '.join(choices)}. Did you mean {near[0]}?"
        )
