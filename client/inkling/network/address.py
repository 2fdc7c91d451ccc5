# SPDX-License-Identifier: Apache-2.0
"""The address of a server, in each of the forms that commands and settings take."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from urllib.parse import urlsplit

from inkling.errors import InvalidRequest

__all__ = ["GRPC_PORT", "HTTP_PORT", "Address", "is_loopback", "is_unspecified"]

# The ports of a gateway.
GRPC_PORT, HTTP_PORT = 8081, 8080
# The usual ports of URLs, for addresses without a port.
_PORTS = {"grpc": GRPC_PORT, "grpcs": GRPC_PORT, "http": 80, "https": 443}
# Targets in gRPC's own syntax, which gRPC itself reads.
_RESOLVERS = ("dns:", "ipv4:", "ipv6:", "unix:", "unix-abstract:", "xds:")
# A misspelt path of a model is not the name of a host.
_FILES = (".tflite", ".keras", ".h5", ".pb")
_FORMS = (
    'expected "host:port" of its gRPC port, such as localhost:8081 or '
    "grpc://localhost:8081, or the URL of its HTTP port, such as "
    "http://localhost:8080; grpcs:// and https:// are encrypted"
)


@dataclass(frozen=True)
class Address:
    """Where a server is, and which protocol is spoken there.

    Attributes:
        scheme: `grpc`, `grpcs` (with TLS), `http` or `https`.
        host: A name or an IP address without brackets; empty for a local socket.
        port: The port; 0 where gRPC's own syntax does not state one.
        path: The path before `/v1` of a URL, without a slash at its end.
        grpc_target: The target for gRPC; empty for `http` and `https`.
    """

    scheme: str
    host: str
    port: int
    path: str = ""
    grpc_target: str = ""

    @classmethod
    def parse(cls, text: str, *, needs_port: bool = False) -> Address:
        """Read `host:port`, `host`, `[::1]:port`, a URL, or a target of gRPC's syntax.

        Args:
            text: The address; without a scheme it is a gRPC address.
            needs_port: Refuse an address without a port, instead of the usual port.

        Raises:
            InvalidRequest: The text has another form.
        """
        if text.lower().startswith(_RESOLVERS):
            return _of_resolver(text)
        try:
            return _of_url(_with_scheme(text), needs_port)
        except ValueError:  # UnicodeError is one
            raise InvalidRequest(
                f"{text!r:.100} is not the address of a gateway, and not a TFLite file "
                f"or directory that exists; {_FORMS}."
            ) from None

    @property
    def is_grpc(self) -> bool:
        """Whether gRPC is spoken there."""
        return self.scheme in ("grpc", "grpcs")

    @property
    def is_encrypted(self) -> bool:
        """Whether the address itself asks for TLS."""
        return self.scheme in ("grpcs", "https")

    @property
    def is_loopback(self) -> bool:
        """Whether it is an address of this machine that no network reaches."""
        return not self.host or is_loopback(self.host) or is_unspecified(self.host)

    @property
    def host_and_port(self) -> str:
        """Such as `localhost:8081` or `[::1]:8081`."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def url(self) -> str:
        """The address as a URL, such as `http://localhost:8080`."""
        return f"{self.scheme}://{self.host_and_port}{self.path}"


def is_loopback(host: str) -> bool:
    """Return whether a name or an IP address is this machine's loopback."""
    name = host.rstrip(".").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    found = _ip(host)
    mapped = getattr(found, "ipv4_mapped", None)
    return bool(found and (mapped or found).is_loopback)


def is_unspecified(host: str) -> bool:
    """Return whether an address means all addresses of this machine."""
    found = _ip(host)
    return bool(found and found.is_unspecified)


def _ip(host: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(host.strip("[]"))
    except ValueError:
        pass
    if host and not set(host) - set("0123456789."):
        try:
            # As the system reads it: 127.1 is 127.0.0.1.
            return ip_address(socket.inet_ntoa(socket.inet_aton(host)))
        except OSError:
            pass
    return None


def _with_scheme(text: str) -> str:
    if "://" in text:
        return text
    if text.count(":") > 1 and not text.startswith("["):
        ip_address(text)  # an IPv6 address without a port
        text = f"[{text}]"
    return f"grpc://{text}"


def _of_url(text: str, needs_port: bool) -> Address:
    """Return the address of a URL.

    Raises:
        ValueError: It is none.
        InvalidRequest: It has parts that an address does not have.
    """
    url = urlsplit(text)
    host, port = url.hostname or "", url.port
    host.encode("idna")
    if "@" in url.netloc or url.query or url.fragment or not text.isprintable():
        raise InvalidRequest(
            "The address of a gateway has a host, a port and, over HTTP, perhaps a "
            "path, and nothing else; give an API key with api_key or --api-key-file."
        )
    usual = _PORTS.get(url.scheme)
    path = url.path.rstrip("/")
    is_grpc = url.scheme in ("grpc", "grpcs")
    if usual is None or not host or port == 0 or url.netloc.endswith(":"):
        raise ValueError(text)
    if (is_grpc and (path or host.endswith(_FILES))) or " " in host:
        raise ValueError(text)
    if port is None and needs_port:
        raise ValueError(text)
    made = Address(url.scheme, host, port or usual, path)
    target = made.host_and_port if is_grpc else ""
    return Address(made.scheme, made.host, made.port, path, target)


def _of_resolver(text: str) -> Address:
    """Return the address of a target such as `dns:///host:8081` or `unix:/a/socket`."""
    scheme, _, rest = text.partition(":")
    if scheme.lower().startswith("unix"):
        return Address("grpc", "", 0, grpc_target=text)
    first = rest.rpartition("/")[2].partition(",")[0]
    host, _, port = first.rpartition(":")
    if not port.isdecimal() or first.endswith("]"):
        host, port = first, "0"
    if not host:
        raise InvalidRequest(f"{text!r:.100} names no host; {_FORMS}.")
    return Address("grpc", host.strip("[]"), int(port), grpc_target=text)
