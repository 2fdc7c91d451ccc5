# SPDX-License-Identifier: Apache-2.0
"""The settings of the gateway, from INKLING_* variables and command-line flags."""

from __future__ import annotations

import argparse
import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inkling.errors import InvalidRequest
from inkling.image.budget import DEFAULT_LIMITS, Limits
from inkling.model.repository import FORMATS, check_model_name
from inkling_serving.capture_settings import CaptureOptions
from inkling_serving.engine_addresses import engine_address
from inkling_serving.environment import given_settings, remarks, variable_of
from inkling_serving.quotas import Quotas
from inkling_serving.runtime.cores import usable_cores
from inkling_serving.setting_fields import (
    check_choice,
    check_range,
    kind_of,
    parsed,
    setting,
)
from inkling_serving.telemetry.trace_settings import TraceOptions

__all__ = ["Settings", "add_flags", "from_flags"]

_MAX_PORT = 65535
_DAY_S = 86400.0


@dataclass(frozen=True, kw_only=True)
class Settings(CaptureOptions, TraceOptions):
    """The settings of the gateway; each field is a flag and an INKLING_* variable.

    The help text in each field's metadata documents it. Sizes are in bytes, times in
    seconds.

    Raises:
        InvalidRequest: A value is out of its range, or is not one of the choices.
    """

    models_dir: Path = setting(Path("models"), "directory of the model repository")
    model_name: str = setting(
        "",
        "name of the only model, if the directory of models holds its versions, as "
        "KServe mounts them",
    )
    host: str = setting(
        "127.0.0.1", "address to listen on; 0.0.0.0 means all network interfaces"
    )
    http_port: int = setting(8080, "port for HTTP; 0 means any free port", 0, _MAX_PORT)
    grpc_port: int = setting(8081, "port for gRPC; 0 means any free port", 0, _MAX_PORT)
    api_key_file: str = setting(
        "", "file with the API keys that callers must send, one per line"
    )
    cors_origin: str = setting(
        "",
        "origins whose pages may call the gateway from a browser, separated by commas, "
        "such as https://app.example; * means all, but not together with API keys",
    )
    device_files: bool = setting(
        True,
        "false keeps the models' TFLite files from devices; the page then shows only "
        "what the server answers",
    )
    quota_requests_per_s: float = setting(
        0.0, "requests per second that each API key may send; 0 is no quota", 0
    )
    quota_pixels_per_s: float = setting(
        0.0,
        "pixels of decoded pictures per second that each API key may send; 0 is no "
        "quota",
        0,
    )
    quota_burst_s: float = setting(
        10.0,
        "seconds of its quota that a key saves up while it sends nothing",
        1,
        _DAY_S,
    )
    tls_certificate: str = setting(
        "", "PEM file with the certificate chain for both ports"
    )
    tls_key: str = setting("", "PEM file with the certificate's key")
    tls_client_ca: str = setting(
        "",
        "PEM file with the authorities whose certificates clients must show on both "
        "ports; without it no client certificate is asked for",
    )
    grpc_reflection: bool = setting(
        False, "true lets tools such as grpcurl list the gRPC methods"
    )
    grpc_channelz: bool = setting(
        False, "true adds gRPC's channelz service, which describes the connections"
    )
    grpc_compression: str = setting(
        "none", "how gRPC responses are compressed: none, deflate or gzip"
    )
    grpc_max_streams: int = setting(
        64,
        "streams (ClassifyStream, ModelStreamInfer) open at once, per process",
        1,
        128,
    )
    grpc_keepalive_s: float = setting(
        60.0,
        "seconds between pings on an idle gRPC connection; 0 sends none",
        0,
        _DAY_S,
    )
    grpc_max_connection_idle_s: float = setting(
        0.0, "seconds without a call after which a gRPC connection ends; 0 is never", 0
    )
    grpc_max_connection_age_s: float = setting(
        0.0,
        "seconds after which a gRPC connection ends, so that clients spread over new "
        "replicas; 0 is never",
        0,
    )
    grpc_max_connection_age_grace_s: float = setting(
        30.0, "seconds that calls may take after their connection's age ended it", 0
    )
    engine: str = setting(
        "embedded", "engine that runs the models: embedded or tensorflow_serving"
    )
    tensorflow_serving: str = setting(
        "127.0.0.1:8500", "gRPC addresses of TensorFlow Serving, separated by commas"
    )
    tensorflow_serving_root_certificates: str = setting(
        "",
        "PEM file with the authorities that signed TensorFlow Serving's certificate; "
        "given means TLS",
    )
    tensorflow_serving_certificate: str = setting(
        "", "PEM file with the certificate chain that TensorFlow Serving asks for"
    )
    tensorflow_serving_key: str = setting("", "PEM file with that certificate's key")
    served_models: str = setting(
        "mlp,cnn", "models to request from TensorFlow Serving, separated by commas"
    )
    expect_gpu: bool = setting(
        False, "true logs a warning if TensorFlow Serving runs a model on the CPU"
    )
    engine_batch: int = setting(
        32, "largest number of pictures in one call of TensorFlow Serving", 1
    )
    engine_calls: int = setting(
        0,
        "calls of TensorFlow Serving under way at once, per model version and process; "
        "0 is one for each address, at least two",
        0,
    )
    tflite_format: str = setting(
        "float32", "TFLite file that the embedded engine runs: float32, float16 or int8"
    )
    poll_s: float = setting(
        1.0,
        "seconds between two checks of the model repository or of TensorFlow Serving",
        0.01,
        _DAY_S,
    )
    workers: int = setting(
        0,
        "gateway processes that share the ports; 0 means one for each usable core",
        0,
    )
    threads: int = setting(
        0,
        "threads per process for large pictures; 0 means the usable cores divided by "
        "the workers, or 16 with the engine tensorflow_serving",
        0,
    )
    queue: int = setting(
        64,
        "largest number of requests that wait for a thread; further requests are "
        "refused as overloaded",
        0,
    )
    queue_timeout_s: float = setting(
        2.0,
        "seconds that a request waits for a thread before it is refused as overloaded",
        0,
        _DAY_S,
    )
    max_connections: int = setting(
        1000,
        "connections that may be open on each port, per process; over HTTP, a new one "
        "beyond them ends the one that is idle for the longest time",
        1,
    )
    max_held_bytes: int = setting(
        64 * 1024 * 1024,
        "bytes of requests that a process holds at once, at least two bodies; beyond "
        "them, requests are refused as overloaded",
        1,
    )
    client_share: float = setting(
        1.0,
        "share of --max-connections (HTTP) and --max-held-bytes that one client's "
        "address may take; 1 is no limit of its own, as behind a proxy",
        *(0.01, 1),
    )
    max_batch: int = setting(32, "largest number of pictures in one request", 1)
    max_body_bytes: int = setting(
        10 * 1024 * 1024, "largest size of a request body, in bytes", 1
    )
    max_image_bytes: int = setting(
        DEFAULT_LIMITS.max_bytes, "largest size of one encoded picture, in bytes", 1
    )
    max_image_pixels: int = setting(
        DEFAULT_LIMITS.max_pixels, "largest number of pixels of one decoded picture", 1
    )
    body_timeout_s: float = setting(
        10.0, "seconds in which a request body must arrive", 0, _DAY_S
    )
    keep_alive_s: float = setting(
        75.0,
        "seconds that an HTTP connection may be idle after a response; more than the "
        "idle timeout of the load balancer in front",
        1,
        _DAY_S,
    )
    drain_delay_s: float = setting(
        0.0,
        "seconds after SIGTERM in which readiness is refused and requests are still "
        "served, so that load balancers can turn away",
        0,
        _DAY_S,
    )
    drain_timeout_s: float = setting(
        30.0, "seconds that open requests may take after SIGTERM", 0, _DAY_S
    )
    log_level: str = setting(
        "info", "lowest level of log lines: debug, info, warning or error"
    )
    log_format: str = setting(
        "text", "form of the log's lines: text, or json with one object per line"
    )
    access_log: float = setting(
        0.0, "share of the requests that the log has a line for, 0 to 1", 0, 1
    )

    def __post_init__(self) -> None:
        for item in dataclasses.fields(self):
            check_range(item, getattr(self, item.name))
        if not self.host.strip():
            raise InvalidRequest(
                "INKLING_HOST is empty; expected an address such as 127.0.0.1, or "
                "0.0.0.0 for all network interfaces."
            )
        if self.model_name:
            check_model_name(self.model_name)
        check_choice(self, "engine", ("embedded", "tensorflow_serving"))
        check_choice(self, "tflite_format", FORMATS)
        check_choice(self, "grpc_compression", ("none", "deflate", "gzip"))
        check_choice(self, "log_format", ("text", "json"))
        check_choice(self, "log_level", ("debug", "info", "warning", "error"))
        if self.engine == "tensorflow_serving" and not self.addresses:
            engine_address("")

    @property
    def has_quotas(self) -> bool:
        """Whether the requests of a key are limited."""
        return bool(self.quota_requests_per_s or self.quota_pixels_per_s)

    def quotas(self) -> Quotas:
        """Return new quotas for one process: its share of the keys' quotas."""
        share = 1 / self.workers_wanted
        return Quotas(
            self.quota_requests_per_s * share,
            self.quota_pixels_per_s * share,
            self.quota_burst_s,
        )

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
    def held_bytes_of_client(self) -> int | None:
        """The bytes that one address may hold, or None for no limit."""
        share = int(self.client_share * self.held_bytes)
        return max(share, 2 * self.max_body_bytes) if self.client_share < 1 else None

    @property
    def connections_of_client(self) -> int | None:
        """The HTTP connections that one address may have; None is no limit."""
        share = int(self.client_share * self.max_connections)
        return max(1, share) if self.client_share < 1 else None

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
        known = {variable_of(item.name): item for item in dataclasses.fields(cls)}
        values = {
            known[variable].name: parsed(known[variable], text)
            for variable, text in given_settings(environ, known).items()
        }
        given = {name: value for name, value in flags.items() if value is not None}
        return cls(**{**values, **given})

    @classmethod
    def remarks(cls, environ: Mapping[str, str]) -> list[str]:
        """Return a sentence for each INKLING_* variable that is no setting."""
        names = [variable_of(item.name) for item in dataclasses.fields(cls)]
        return remarks(environ, names)

    def to_env(self) -> dict[str, str]:
        """Return the variables from which `from_env` makes the same settings."""
        return {
            variable_of(item.name): str(getattr(self, item.name))
            for item in dataclasses.fields(self)
        }


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add one flag for each setting; an absent flag leaves the variable in force."""
    for item in dataclasses.fields(Settings):
        shown, name = item.default, variable_of(item.name)
        parser.add_argument(
            "--" + item.name.replace("_", "-"),
            type=kind_of(item),
            default=argparse.SUPPRESS,
            metavar=item.name.rpartition("_")[2].upper(),
            help=f"{item.metadata['help']} ({name}, default: {shown})",
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
