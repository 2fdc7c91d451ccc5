"""Who may ask, and what encrypts the asking: API keys and TLS, both from files."""

from __future__ import annotations

import hmac
import ssl
from pathlib import Path
from typing import TYPE_CHECKING

from inkling.errors import InvalidRequest, Unauthenticated
from inkling_serving.engines.credentials import engine_credentials

if TYPE_CHECKING:
    from inkling_serving.settings import Settings

__all__ = ["ApiKeys", "check_security", "grpc_context"]

_MIN_KEY = 16


class ApiKeys:
    """The keys of a file, one a line; with two, old and new both work for a while."""

    def __init__(self, path: str) -> None:
        """Read the keys; an empty `path` asks nobody for one.

        Raises:
            InvalidRequest: The file cannot be read, has no key, or one that is too
                short or could not be sent in a header.
        """
        self._wanted = [f"Bearer {key}".encode() for key in _keys(path)]

    def check(self, authorization: str | bytes | None) -> None:
        """Return if the header holds one of the keys, or if none is needed.

        It takes as long for a key that is nearly right as for one that is not.

        Raises:
            Unauthenticated: It holds none.
        """
        if not self._wanted:
            return
        given = authorization or b""
        if isinstance(given, str):
            given = given.encode()
        right = [hmac.compare_digest(given, wanted) for wanted in self._wanted]
        if True not in right:
            came = "a wrong one" if given else "none"
            raise Unauthenticated(
                f"This server asks for an API key, and {came} came. Send the header "
                "Authorization: Bearer KEY."
            )


def _keys(path: str) -> list[str]:
    if not path:
        return []
    keys = _text(path, "INKLING_API_KEY_FILE").split()
    printable = all(key.isascii() and key.isprintable() for key in keys)
    if not keys or not printable or min(map(len, keys)) < _MIN_KEY:
        raise InvalidRequest(
            f"The file of INKLING_API_KEY_FILE must have a key on each line, each of "
            f"{_MIN_KEY} or more ASCII letters. Make one with: openssl rand -hex 24"
        )
    return keys


def check_security(settings: Settings) -> None:
    """Find out before anything starts whether the files can be used.

    Raises:
        InvalidRequest: A file is missing, unreadable, or not what it should be.
    """
    ApiKeys(settings.api_key_file)
    engine_credentials(settings)
    if bool(settings.tls_certificate) != bool(settings.tls_key):
        raise InvalidRequest(
            "INKLING_TLS_CERTIFICATE and INKLING_TLS_KEY go together; one is missing."
        )
    if settings.tls_certificate:
        try:
            grpc_context(settings)
        except OSError:  # ssl.SSLError is one
            raise InvalidRequest(
                "The files of INKLING_TLS_CERTIFICATE and INKLING_TLS_KEY must be "
                "readable, in PEM form, without a password, and belong together."
            ) from None


def grpc_context(settings: Settings) -> ssl.SSLContext | None:
    """Return what encrypts the gRPC port; None for a port in the clear."""
    if not settings.tls_certificate:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(settings.tls_certificate, settings.tls_key)
    # gRPC's clients speak with nobody who has not agreed on HTTP/2.
    context.set_alpn_protocols(["h2"])
    return context


def _text(path: str, variable: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, ValueError):
        raise InvalidRequest(
            f"The file of {variable} cannot be read as text: {path}"
        ) from None
