# SPDX-License-Identifier: Apache-2.0
"""Which proxy leads to a server, by the conventions of curl, Python and gRPC.

One function decides for every connection that a command, the client library or an
engine makes. Loopback is never reached through a proxy. Otherwise `http_proxy`,
`https_proxy`, `grpc_proxy`, `all_proxy` and `no_proxy` count, in small letters first.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from urllib.parse import SplitResult, unquote, urlsplit

from inkling.errors import InvalidRequest
from inkling.network.address import Address

__all__ = ["Proxy", "grpc_proxy_options", "proxy_for"]

# gRPC's own order, and curl's all_proxy as the last.
_VARIABLES = {
    "grpc": ("grpc_proxy", "https_proxy", "http_proxy", "all_proxy"),
    "grpcs": ("grpc_proxy", "https_proxy", "http_proxy", "all_proxy"),
    "http": ("http_proxy", "all_proxy"),
    "https": ("https_proxy", "all_proxy"),
}
_USUAL_PORT = 80


@dataclass(frozen=True)
class Proxy:
    """An HTTP proxy.

    Attributes:
        host: Its name or IP address.
        port: Its port.
        variable: The variable that names it.
        user: Its user name and password, as the URL has them; empty without.
    """

    host: str
    port: int
    variable: str
    user: str = ""

    @property
    def headers(self) -> dict[str, str]:
        """The header that carries user name and password, if there are any."""
        if not self.user:
            return {}
        token = base64.b64encode(unquote(self.user).encode()).decode()
        return {"proxy-authorization": f"Basic {token}"}

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"the proxy http://{host}:{self.port} of {self.variable}"


def proxy_for(
    address: Address, environ: Mapping[str, str] = os.environ
) -> Proxy | None:
    """Return the proxy that leads to an address; None for a direct connection.

    Raises:
        InvalidRequest: A variable names a proxy that Inkling cannot use.
    """
    if address.is_loopback or _is_exempt(address, environ):
        return None
    for variable in _VARIABLES[address.scheme]:
        name, value = _value_of(variable, environ)
        if value:
            return _proxy(name, value, address)
    return None


def grpc_proxy_options(proxy: Proxy | None) -> Sequence[tuple[str, object]]:
    """Return the channel options that make gRPC use this proxy, and no other."""
    if proxy is None:
        return (("grpc.enable_http_proxy", 0),)
    host = f"[{proxy.host}]" if ":" in proxy.host else proxy.host
    user = f"{proxy.user}@" if proxy.user else ""
    return (("grpc.http_proxy", f"http://{user}{host}:{proxy.port}"),)


def _value_of(variable: str, environ: Mapping[str, str]) -> tuple[str, str]:
    """Return the name and the value of a variable, in small letters if it is set so."""
    if variable in environ:
        return variable, environ[variable].strip()
    # In a CGI script, HTTP_PROXY would be a header of the request (CVE-2016-1000110).
    if variable == "http_proxy" and "REQUEST_METHOD" in environ:
        return variable, ""
    return variable.upper(), environ.get(variable.upper(), "").strip()


def _proxy(name: str, value: str, address: Address) -> Proxy:
    try:
        url = urlsplit(value if "://" in value else f"http://{value}")
        host, port = url.hostname, url.port
    except ValueError:
        url, host, port = SplitResult("", "", "", "", ""), None, None
    if url.scheme != "http" or not host:
        scheme = f"{url.scheme}://" if url.scheme else "none"
        raise InvalidRequest(
            f"{name} names a proxy of the kind {scheme:.20}, which Inkling cannot use "
            f"for {address.host:.100}; expected http://HOST:PORT. Unset {name}, or add "
            f"{address.host:.100} to no_proxy."
        )
    user = url.netloc.rpartition("@")[0]
    return Proxy(host, port or _USUAL_PORT, name, user)


def _is_exempt(address: Address, environ: Mapping[str, str]) -> bool:
    """Return whether `no_proxy` has the host: by name, suffix, port, IP or network."""
    _, listed = _value_of("no_proxy", environ)
    if address.is_grpc:
        listed = _value_of("no_grpc_proxy", environ)[1] or listed
    entries = [entry.strip() for entry in listed.split(",") if entry.strip()]
    if not entries:
        return False
    try:
        found = ip_address(address.host)
    except ValueError:
        host = address.host.rstrip(".").lower()
        return any(_is_of(host, entry.lower(), address.port) for entry in entries)
    return any(entry == "*" or _is_in(found, entry, address.port) for entry in entries)


def _is_of(host: str, entry: str, port: int) -> bool:
    """Return whether a name is the entry, or ends with it at a dot."""
    suffix = entry.removeprefix("*").removesuffix(f":{port}").lstrip(".")
    return entry == "*" or (bool(suffix) and f".{host}".endswith(f".{suffix}"))


def _is_in(found: object, entry: str, port: int) -> bool:
    """Return whether an IP address is the entry, or in its network (CIDR)."""
    for text in (entry.strip("[]"), entry.removesuffix(f":{port}").strip("[]")):
        try:
            return found in ip_network(text, strict=False)
        except ValueError:
            continue
    return False
