"""The gateway's settings: one frozen value, from INKLING_* variables and flags."""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from inkling.errors import InvalidRequest
from inkling.image.decoding import DEFAULT_LIMITS, Limits
from inkling.model.repository import FORMATS, check_model_name
from inkling_serving.runtime.cores import usable_cores

__all__ = ["FOREIGN_VARIABLES", "Settings", "add_flags", "from_flags"]

_PREFIX = "INKLING_"
# Variables of other parts of Inkling, which the gateway lets pass.
FOREIGN_VARIABLES = frozenset({"INKLING_DATA_DIR"})


_MAX_PORT = 65535
_DAY_S = 86400.0


def _setting(
    default: Any, help_text: str, low: float | None = None, high: float = math.inf
) -> Any:
    metadata = {"help": help_text, "low": low, "high": high}
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the gateway is told; each field is a flag and an INKLING_* variable."""

    models_dir: Path = _setting(Path("models"), "the model repository")
    host: str = _setting("127.0.0.1", "address to listen on; 0.0.0.0 is everyone's")
    http_port: int = _setting(8080, "port for HTTP; 0 takes a free one", 0, _MAX_PORT)
    grpc_port: int = _setting(8081, "port for gRPC; 0 takes a free one", 0, _MAX_PORT)
    api_key_file: str = _setting(
        "", "file with the API keys that callers must send, one a line"
    )
    tls_certificate: str = _setting(
        "", "PEM file with the certificate chain for both ports"
    )
    tls_key: str = _setting("", "PEM file with the certificate's key")
    grpc_reflection: bool = _setting(
        False, "true lets tools such as grpcurl ask for the methods"
    )
    engine: str = _setting(
        "embedded", "what runs the models: embedded or tensorflow_serving"
    )
    tensorflow_serving: str = _setting(
        "127.0.0.1:8500", "gRPC addresses of TensorFlow Serving, with commas between"
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
        "mlp,cnn", "the models to ask TensorFlow Serving for, with commas between"
    )
    expect_gpu: bool = _setting(
        False, "true warns where TensorFlow Serving runs a model on the CPU"
    )
    engine_batch: int = _setting(
        32, "pictures in one call of TensorFlow Serving, at most", 1
    )
    engine_calls: int = _setting(
        0,
        "calls of TensorFlow Serving under way at once, per model version and process; "
        "0 is one for each address, at least two",
        0,
    )
    tflite_format: str = _setting(
        "float32", "which TFLite file to run: float32, float16 or int8"
    )
    poll_s: float = _setting(
        1.0, "seconds between looks at the repository", 0.01, _DAY_S
    )
    workers: int = _setting(
        0,
        "gateway processes that share the port; 0 is one for each core that may be "
        "used",
        0,
    )
    threads: int = _setting(
        0,
        "big pictures worked on at once, per process; 0 shares the cores out, or is "
        "16 where TensorFlow Serving does the work",
        0,
    )
    queue: int = _setting(
        64, "requests that may wait for a thread; more are refused as overloaded", 0
    )
    queue_timeout_s: float = _setting(
        2.0, "seconds that a request may wait for a thread", 0, _DAY_S
    )
    max_batch: int = _setting(32, "pictures in one request", 1)
    max_body_bytes: int = _setting(
        10 * 1024 * 1024, "size of a request's body in bytes", 1
    )
    max_image_bytes: int = _setting(
        DEFAULT_LIMITS.max_bytes, "size of one encoded picture in bytes", 1
    )
    max_image_pixels: int = _setting(
        DEFAULT_LIMITS.max_pixels, "pixels of one picture as decoded", 1
    )
    body_timeout_s: float = _setting(
        10.0, "seconds that a body may take to arrive", 0, _DAY_S
    )
    drain_timeout_s: float = _setting(
        30.0, "seconds that requests under way may take after SIGTERM", 0, _DAY_S
    )
    log_level: str = _setting("info", "debug, info, warning or error")

    def __post_init__(self) -> None:
        for item in dataclasses.fields(self):
            low, value = item.metadata["low"], getattr(self, item.name)
            high = item.metadata["high"]
            if low is not None and not low <= value <= high:
                most = "more" if high == math.inf else f"up to {high:g}"
                raise InvalidRequest(
                    f"{_variable(item.name)} is {value}; expected {low:g} or {most}."
                )
        _check_choice(self, "engine", ("embedded", "tensorflow_serving"))
        _check_choice(self, "tflite_format", FORMATS)
        _check_choice(self, "log_level", ("debug", "info", "warning", "error"))
        if self.engine == "tensorflow_serving":
            _check_addresses(self.addresses)

    @property
    def workers_wanted(self) -> int:
        """Processes to serve in."""
        return self.workers or usable_cores()

    @property
    def work_threads(self) -> int:
        """Threads to work on requests in."""
        remote = self.engine == "tensorflow_serving"
        share = max(1, usable_cores() // self.workers_wanted)
        return self.threads or (16 if remote else share)

    @property
    def addresses(self) -> list[str]:
        """The addresses of TensorFlow Serving."""
        return _listed(self.tensorflow_serving)

    @property
    def engine_calls_at_once(self) -> int:
        """Calls of TensorFlow Serving under way at once.

        A name may stand for more servers than one, and how many may change at any
        time; who has more of them says so with `engine_calls`.
        """
        return self.engine_calls or max(2, len(self.addresses))

    @property
    def model_names(self) -> list[str]:
        """The models to ask TensorFlow Serving for."""
        return [check_model_name(name) for name in _listed(self.served_models)]

    @property
    def limits(self) -> Limits:
        """What one picture may cost."""
        return Limits(max_bytes=self.max_image_bytes, max_pixels=self.max_image_pixels)

    @classmethod
    def from_env(cls, environ: Mapping[str, str], **flags: Any) -> Settings:
        """Return the settings; a flag that is given outranks its variable.

        Raises:
            InvalidRequest: A variable is unknown, or a value cannot be read.
        """
        known = {_variable(item.name): item for item in dataclasses.fields(cls)}
        for name in environ:
            if name.startswith(_PREFIX) and name not in known:
                _refuse_unknown(name, list(known))
        values = {
            item.name: _parsed(item, environ[variable])
            for variable, item in known.items()
            if variable in environ
        }
        given = {name: value for name, value in flags.items() if value is not None}
        return cls(**{**values, **given})

    def to_env(self) -> dict[str, str]:
        """Return the variables that `from_env` reads back; for child processes."""
        return {
            _variable(item.name): str(getattr(self, item.name))
            for item in dataclasses.fields(self)
        }


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add one flag per setting; none has a default, so that variables can count."""
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
    """Return the settings from the environment and the parsed flags."""
    names = {item.name for item in dataclasses.fields(Settings)}
    flags = {name: value for name, value in vars(options).items() if name in names}
    return Settings.from_env(os.environ, **flags)


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _check_addresses(addresses: list[str]) -> None:
    """Accept HOST:PORT, and URIs that gRPC knows, such as dns:///a:1 or unix:/a/b."""
    for address in addresses or [""]:
        host, _, port = address.rpartition(":")
        has_port = port.isdecimal() and int(port) <= _MAX_PORT
        if not host or not (has_port or address.startswith("unix:")):
            raise InvalidRequest(
                f"INKLING_TENSORFLOW_SERVING has the address {address!r:.100}; "
                "expected HOST:PORT, such as 127.0.0.1:8500, or several with commas "
                "between."
            )


def _variable(name: str) -> str:
    return _PREFIX + name.upper()


def _refuse_unknown(name: str, known: list[str]) -> None:
    if name in FOREIGN_VARIABLES or name.startswith("INKLING_TEST_"):
        return
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"Did you mean {near[0]}?" if near else "inkling serve --help lists all."
    raise InvalidRequest(f"There is no setting {name}. {hint}")


def _kind(item: dataclasses.Field[Any]) -> Callable[[str], Any]:
    if isinstance(item.default, bool):
        return _switch
    return Path if item.name == "models_dir" else type(item.default)


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
            f"{', '.join(choices)}, perhaps {near[0]}."
        )
