# SPDX-License-Identifier: Apache-2.0
"""The TLS credentials for connections to TensorFlow Serving, from PEM files."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import TYPE_CHECKING

import grpc

from inkling.errors import InvalidRequest

if TYPE_CHECKING:
    from inkling_serving.settings import Settings

__all__ = ["engine_credentials"]

_ROOTS = "INKLING_TENSORFLOW_SERVING_ROOT_CERTIFICATES"
_CERTIFICATE = "INKLING_TENSORFLOW_SERVING_CERTIFICATE"
_KEY = "INKLING_TENSORFLOW_SERVING_KEY"


def engine_credentials(settings: Settings) -> grpc.ChannelCredentials | None:
    """Return the credentials for TLS; None for connections without TLS.

    Raises:
        InvalidRequest: A file is missing, cannot be read, or has the wrong content.
    """
    roots = settings.tensorflow_serving_root_certificates
    certificate = settings.tensorflow_serving_certificate
    key = settings.tensorflow_serving_key
    if bool(certificate) != bool(key):
        raise InvalidRequest(
            f"{_CERTIFICATE} and {_KEY} go together; one of them is missing."
        )
    if certificate and not roots:
        raise InvalidRequest(
            f"{_CERTIFICATE} needs {_ROOTS}, the authorities that signed TensorFlow "
            "Serving's own certificate."
        )
    if not roots:
        return None
    _check(roots, certificate, key)
    return grpc.ssl_channel_credentials(
        Path(roots).read_bytes(),
        Path(key).read_bytes() if key else None,
        Path(certificate).read_bytes() if certificate else None,
    )


def _check(roots: str, certificate: str, key: str) -> None:
    """Check the files; gRPC would only log an error at the first connection."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(roots)
    except OSError:  # ssl.SSLError is an OSError
        raise InvalidRequest(
            f"The file of {_ROOTS} must be readable, and hold certificates in PEM form."
        ) from None
    if not certificate:
        return
    try:
        # A key with a password cannot be used; without `password`, OpenSSL would ask
        # for the password on the terminal.
        context.load_cert_chain(certificate, key, password="")
    except (OSError, ValueError):
        raise InvalidRequest(
            f"The files of {_CERTIFICATE} and {_KEY} must be readable, in PEM form, "
            "without a password, and belong together."
        ) from None
