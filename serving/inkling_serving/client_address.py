# SPDX-License-Identifier: Apache-2.0
"""The address of a client, as far as it counts for the share of one client."""

from __future__ import annotations

import ipaddress
from urllib.parse import unquote

__all__ = ["client_of", "client_of_peer"]

# A client of IPv6 has a whole network (RFC 6177), and any address in it.
_IPV6_BITS = 64


def client_of(address: str) -> str:
    """Return an IPv4 address, or the network of an IPv6 address."""
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv4Address):
        return str(found)
    if found.ipv4_mapped:
        return str(found.ipv4_mapped)
    return str(ipaddress.ip_network((found, _IPV6_BITS), strict=False))


def client_of_peer(peer: str) -> str:
    """Return the client of a gRPC call by its peer, such as `ipv4:127.0.0.1:5000`."""
    host = unquote(peer).partition(":")[2].rpartition(":")[0]
    try:
        return client_of(host.removeprefix("[").removesuffix("]"))
    except ValueError:  # a Unix socket, for one
        return peer
