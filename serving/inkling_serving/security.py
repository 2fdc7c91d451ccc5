# SPDX-License-Identifier: Apache-2.0
"""The certificates and origins of the gateway; the check of all files at the start."""

from __future__ import annotations

import logging
import os
import re
import ssl
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from inkling.errors import InvalidRequest
from inkling_serving.engines.credentials import engine_credentials
from inkling_serving.keys import ApiKeys
from inkling_serving.runtime.files import state_of
from inkling_serving.runtime.poller import Repeating

if TYPE_CHECKING:
    import grpc

    from inkling_serving.settings import Settings

__all__ = [
    "ANY_ORIGIN",
    "CertificateFiles",
    "check_certificates",
    "check_security",
    "cors_origins",
    "grpc_credentials",
]

_log = logging.getLogger(__name__)

_LOOK_S = 1.0
# Linux gives a path to a file without a name.
_DESCRIPTORS = "/proc/self/fd"
ANY_ORIGIN = "*"
# An origin as browsers and apps send it (RFC 6454, section 6.2).
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^\s/@?#,*]+")
_DEFAULT_PORTS = {"http": ":80", "https": ":443"}


class CertificateFiles:
    """The files of the gateway's certificate; they may be replaced while it serves.

    All processes look at them. A process that starts later gets the content that the
    supervisor could use last, should the files be bad.
    """

    def __init__(self, settings: Settings) -> None:
        """Read the files; without a certificate there is none.

        Raises:
            OSError: A file cannot be read.
        """
        paths = settings.tls_certificate, settings.tls_key, settings.tls_client_ca
        self._paths = paths if settings.tls_certificate else ()
        self._state = self._looked_at()
        self._pems = self._read()

    def renewed(self) -> ssl.SSLContext | None:
        """Return a context with the files where they were replaced and can be used.

        While a certificate and a key do not match, as between two writes, the gateway
        keeps using the previous ones.
        """
        state = self._looked_at()
        if state == self._state:
            return None
        self._state = state
        try:
            pems = self._read()
            context = _context(*pems)
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            _log.warning("the new certificate cannot be used yet: %s", error)
            return None
        self._pems = pems
        _log.info("the certificate was replaced; new connections get the new one")
        return context

    def watch(self) -> Repeating:
        """Look at the files once a second from now on, until `stop` is called."""

        def look() -> None:
            self.renewed()

        look()
        return Repeating("reading the certificate", look, lambda: _LOOK_S)

    def context(self) -> ssl.SSLContext:
        """Return a context with the certificate, its key and the clients' authorities.

        Raises:
            OSError: The content cannot be used, or the certificate and the key do not
                match.
        """
        return _context(*self._pems)

    def configuration(self) -> grpc.ServerCertificateConfiguration:
        """Return the same for grpcio."""
        import grpc  # noqa: PLC0415 - a WSGI server needs only the keys

        certificate, key, authorities = self._pems
        pairs = [(key, certificate)]
        return grpc.ssl_server_certificate_configuration(pairs, authorities or None)

    def _read(self) -> tuple[bytes, ...]:
        return tuple(Path(path).read_bytes() if path else b"" for path in self._paths)

    def _looked_at(self) -> tuple[tuple[int, ...], ...]:
        return tuple(state_of(path) for path in self._paths if path)


def _context(certificate: bytes, key: bytes, authorities: bytes) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with _as_file(certificate) as chain, _as_file(key) as private:
        # With no password at all, OpenSSL asks for one at the terminal.
        context.load_cert_chain(chain, private, password="")
    if authorities:
        with _as_file(authorities) as file:
            context.load_verify_locations(file)
        context.verify_mode = ssl.CERT_REQUIRED
        # A client that resumes a session shows no certificate, so it could go on after
        # its authority was taken out of the file. Sessions of TLS 1.2 cannot be
        # forbidden here.
        context.num_tickets = 0
        context.minimum_version = ssl.TLSVersion.TLSv1_3
    return context


@contextmanager
def _as_file(content: bytes) -> Iterator[str]:
    """Yield the path of a file that only this process can read, for OpenSSL."""
    if os.path.isdir(_DESCRIPTORS):
        descriptor = os.memfd_create("inkling")
        path = f"{_DESCRIPTORS}/{descriptor}"
    else:
        descriptor, path = tempfile.mkstemp()
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(content)
        yield path
    finally:
        os.close(descriptor)
        if not path.startswith(_DESCRIPTORS):
            os.unlink(path)


def check_security(settings: Settings) -> None:
    """Check all files before the gateway starts.

    Raises:
        InvalidRequest: A file is missing, cannot be read, or has the wrong content, or
            a quota is set without a file of keys.
    """
    ApiKeys(settings.api_key_file)
    if settings.has_quotas and not settings.api_key_file:
        raise InvalidRequest(
            "A quota is set without INKLING_API_KEY_FILE; expected a file of keys, "
            "because each key has a quota of its own."
        )
    cors_origins(settings)
    engine_credentials(settings)
    check_certificates(settings)


def check_certificates(settings: Settings) -> None:
    """Check the files of the certificate before a process starts.

    Raises:
        InvalidRequest: A file is missing, cannot be read, or has the wrong content.
    """
    if bool(settings.tls_certificate) != bool(settings.tls_key):
        raise InvalidRequest(
            "INKLING_TLS_CERTIFICATE and INKLING_TLS_KEY go together; one of them is "
            "missing."
        )
    if settings.tls_client_ca and not settings.tls_certificate:
        raise InvalidRequest(
            "INKLING_TLS_CLIENT_CA needs INKLING_TLS_CERTIFICATE and INKLING_TLS_KEY, "
            "because clients send certificates only over TLS."
        )
    if settings.tls_certificate:
        try:
            CertificateFiles(settings).context()
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            raise InvalidRequest(
                f"TLS cannot be used ({error}). The files of INKLING_TLS_CERTIFICATE, "
                "INKLING_TLS_KEY and, if set, INKLING_TLS_CLIENT_CA must be readable "
                "PEM files without a password, and the certificate must match the key."
            ) from None


def cors_origins(settings: Settings) -> list[str]:
    """Return the origins whose pages may call the gateway, as browsers send them.

    Raises:
        InvalidRequest: An origin is malformed, or all are allowed beside API keys.
    """
    origins = [o.strip().rstrip("/").lower() for o in settings.cors_origin.split(",")]
    for origin in filter(None, origins):
        if origin != ANY_ORIGIN and not _ORIGIN.fullmatch(origin):
            raise InvalidRequest(
                f"INKLING_CORS_ORIGIN has the origin {origin!r:.100}; expected a "
                "scheme, a host and perhaps a port, such as https://app.example:8443, "
                "or *."
            )
    if ANY_ORIGIN in origins and settings.api_key_file:
        raise InvalidRequest(
            "INKLING_CORS_ORIGIN is *, and INKLING_API_KEY_FILE is set. Name the "
            "origins whose pages may send a key."
        )
    return [_without_default_port(origin) for origin in origins if origin]


def _without_default_port(origin: str) -> str:
    return origin.removesuffix(_DEFAULT_PORTS.get(origin.partition(":")[0], ":"))


def grpc_credentials(
    settings: Settings, files: CertificateFiles
) -> grpc.ServerCredentials | None:
    """Return the credentials of the gRPC port; None for a port without TLS.

    At each handshake, grpcio asks whether the certificate has changed.
    """
    import grpc  # noqa: PLC0415 - a WSGI server needs only the keys

    if not settings.tls_certificate:
        return None

    def renewed() -> grpc.ServerCertificateConfiguration | None:
        return files.configuration() if files.renewed() else None

    return grpc.dynamic_ssl_server_credentials(
        files.configuration(),
        renewed,  # type: ignore[arg-type] # grpcio allows None; its stubs do not
        require_client_authentication=bool(settings.tls_client_ca),
    )
