# SPDX-License-Identifier: Apache-2.0
"""Finds out why a server that takes connections gives no answer of the right kind.

gRPC says "Socket closed" where a server speaks TLS, or HTTP/1.1. So after a failure one
more connection is made, which looks at what the server really speaks.
"""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache
from types import MappingProxyType

from inkling.network.address import Address

__all__ = ["certificate_fault", "speaks", "tls_fault"]

_TIMEOUT_S, _LOOK_EVERY_S = 1.0, 5.0
# The beginning of every HTTP/2 connection: its preface, and an empty frame of settings.
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
_SETTINGS_FRAME = 4
# OpenSSL's X509_V_ERR_* in words.
_CERTIFICATE_FAULTS: Mapping[int, str] = MappingProxyType(
    {
        9: "is not valid yet",
        10: "has expired",
        18: "is signed by itself",
        19: "is signed by an authority that is not trusted",
        20: "is signed by an authority that is not trusted",
        21: "is signed by an authority that is not trusted",
        62: "is for another host name",
        64: "is for another address",
    }
)


def certificate_fault(error: ssl.SSLCertVerificationError) -> str:
    """Return what is wrong with a server's certificate, and the remedy."""
    fault = _CERTIFICATE_FAULTS.get(error.verify_code, "is not valid")
    return (
        f"its certificate {fault}; root_certificates (--root-certificates FILE) names "
        "the authorities to trust"
    )


def tls_fault(error: ssl.SSLError) -> str:
    """Return why a TLS handshake with a server failed."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return certificate_fault(error)
    if "ALERT" in (error.reason or ""):
        return (
            "it refuses the TLS connection; does it ask for a client certificate "
            "(client_certificate and client_key)?"
        )
    return (
        "it does not speak TLS; use http:// in place of https://, or for gRPC leave "
        "out tls and certificates"
    )


def speaks(address: Address, context: ssl.SSLContext | None) -> str:
    """Return why a server does not answer; an empty text if the reason is not known.

    Args:
        address: The server, to which a direct connection is made.
        context: What encrypts the connections to it; None without TLS.
    """
    if not address.port:
        return ""
    return _looked(address, context, int(time.monotonic() / _LOOK_EVERY_S))


@lru_cache(maxsize=64)
def _looked(address: Address, context: ssl.SSLContext | None, period: int) -> str:
    """Look at a server; many calls that fail together need one look."""
    del period
    try:
        if context is None and _handshakes(address):
            encrypted = "grpcs://" if address.is_grpc else "https://"
            return (
                f"it speaks TLS; use {encrypted}{address.host_and_port} "
                "(for gRPC also --tls), and --root-certificates FILE if its authority "
                "is not a public one"
            )
        first = _first_bytes(address, context)
    except ssl.SSLError as error:
        return tls_fault(error)
    except OSError:
        return ""
    return _of_another_protocol(address, first)


def _of_another_protocol(address: Address, first: bytes) -> str:
    if address.is_grpc and first.startswith(b"HTTP/1"):
        return (
            "it is an HTTP port; give it as http://HOST:PORT, or give the gRPC port, "
            "which is 8081 by default"
        )
    if not address.is_grpc and first[3:4] == bytes([_SETTINGS_FRAME]):
        return (
            f"it is a gRPC port; give it as {address.host_and_port} without http://, "
            "or give the HTTP port, which is 8080 by default"
        )
    return ""


def _handshakes(address: Address) -> bool:
    """Return whether the server answers the beginning of a TLS handshake."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2", "http/1.1"])
    with _connected(address) as sock:
        try:
            with context.wrap_socket(sock, server_hostname=address.host):
                return True
        except ssl.SSLError as error:
            # An alert is TLS, too.
            return "ALERT" in (error.reason or "")
        except OSError:
            return False


def _first_bytes(address: Address, context: ssl.SSLContext | None) -> bytes:
    """Begin with HTTP/2, and return the beginning of the answer.

    Raises:
        OSError: There is no connection; `ssl.SSLError` says that TLS is the reason.
    """
    with _connected(address) as plain:
        sock = plain
        if context is not None:
            with suppress(NotImplementedError):
                context.set_alpn_protocols(["h2"] if address.is_grpc else ["http/1.1"])
            sock = context.wrap_socket(plain, server_hostname=address.host)
        with sock:
            sock.sendall(_PREFACE)
            return sock.recv(16)


def _connected(address: Address) -> socket.socket:
    return socket.create_connection((address.host, address.port), _TIMEOUT_S)
