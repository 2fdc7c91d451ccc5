# SPDX-License-Identifier: Apache-2.0
"""The options of a connection to a gateway, the same over gRPC and HTTP."""

from __future__ import annotations

import dataclasses
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from inkling.errors import InvalidRequest
from inkling.model.repository import check_model_name
from inkling.network.address import Address
from inkling.network.proxies import Proxy, proxy_for

__all__ = ["CALLER_KEY", "Connection", "read_api_key"]

# The header, and the key of the metadata, that carries the key of the caller.
CALLER_KEY = "x-inkling-caller"

_DEFAULT_TIMEOUT_S = 5.0
_MAX_TIMEOUT_S = 86400.0
_MAX_VERSION = 2**63 - 1
_MAX_CALLER = 256


@dataclass(frozen=True)
class Connection:
    """Where a gateway is, which model is asked, and how the connection is secured.

    Attributes:
        target: The address, in one of the forms of `inkling.network.address`.
        model: Which model is asked.
        version: Which of its versions; None for the one that the gateway
            answers with: `stable`, or the newest that is available.
        version_label: The version with this label instead.
        timeout_s: Seconds that a call may take, with all its attempts.
        tls: Whether a gRPC connection is encrypted, as `grpcs://` and `https://` say.
        root_certificates: A PEM file of the authorities to trust instead of the usual
            ones, which are the system's over HTTP and gRPC's own over gRPC.
        client_certificate: A PEM file with the certificate chain that the client
            shows, for a gateway that asks for one (mutual TLS).
        client_key: The PEM file with that certificate's key, without a password.
        api_key: Sent with every call as a bearer token; `repr` leaves it out.
        caller: A key of the user for whom is asked, such as a customer number. While
            the gateway gives a share of the requests to another version, callers with
            the same key get the same version.
        use_proxy: Whether the proxies of the environment are used (`http_proxy`,
            `https_proxy`, `grpc_proxy`, `all_proxy`, `no_proxy`); loopback never is
            reached through one.
    """

    target: str
    model: str = "cnn"
    version: int | None = None
    version_label: str | None = None
    timeout_s: float = _DEFAULT_TIMEOUT_S
    tls: bool = False
    root_certificates: str | Path | None = None
    client_certificate: str | Path | None = None
    client_key: str | Path | None = None
    api_key: str | None = field(default=None, repr=False)
    caller: str | None = None
    use_proxy: bool = True

    def __post_init__(self) -> None:
        address = self.address
        if address.scheme == "http" and (self.tls or self.has_certificates):
            raise InvalidRequest(
                f"{self.target:.100} is not encrypted, but tls or certificates are "
                "given; write https://."
            )
        _ = self.proxy  # a proxy that cannot be used is refused now
        check_model_name(self.model)
        _check_version(self.version, self.version_label)
        _check_timeout(self.timeout_s)
        if self.api_key is not None:
            _check_key(self.api_key)
        if self.caller is not None:
            _check_caller(self.caller)
        if bool(self.client_certificate) != bool(self.client_key):
            raise InvalidRequest(
                "client_certificate and client_key go together; one is missing."
            )
        if self.has_certificates:
            _ = self.context

    @classmethod
    def to(cls, target: str, options: Mapping[str, Any]) -> Connection:
        """Return a connection with these options.

        Raises:
            InvalidRequest: An option does not exist, or a value is impossible.
        """
        known = {item.name for item in dataclasses.fields(cls)} - {"target"}
        unknown = sorted(set(options) - known)
        if unknown:
            raise InvalidRequest(
                f"Unknown options for a gateway: {', '.join(unknown)[:200]}; known "
                f"are: {', '.join(sorted(known))}."
            )
        return cls(target, **options)

    @cached_property
    def address(self) -> Address:
        """Where the gateway is, and which protocol is spoken there."""
        return Address.parse(self.target)

    @cached_property
    def proxy(self) -> Proxy | None:
        """The proxy that leads to the gateway; None for a direct connection."""
        return proxy_for(self.address) if self.use_proxy else None

    @property
    def shown(self) -> str:
        """The address and, if there is one, the proxy, for messages."""
        target = self.target.rstrip("/")
        return f"{target} (through {self.proxy})" if self.proxy else target

    @property
    def has_certificates(self) -> bool:
        """Whether a file of certificates is named, which only TLS can use."""
        return bool(self.root_certificates or self.client_certificate)

    @property
    def is_encrypted(self) -> bool:
        """Whether a connection with these options is encrypted."""
        return self.tls or self.has_certificates or self.address.is_encrypted

    @property
    def headers(self) -> dict[str, str]:
        """The headers with the API key and the key of the caller, in lower case."""
        key = {"authorization": f"Bearer {self.api_key}"} if self.api_key else {}
        return {**key, **({CALLER_KEY: self.caller} if self.caller else {})}

    @cached_property
    def context(self) -> ssl.SSLContext:
        """The context of `tls_context`, made once."""
        return self.tls_context()

    def tls_context(self) -> ssl.SSLContext:
        """Return the trusted authorities and the client's certificate for TLS.

        Raises:
            InvalidRequest: A file cannot be read, or is not PEM.
        """
        roots = self.root_certificates
        try:
            context = ssl.create_default_context(cafile=roots)
        except OSError:  # ssl.SSLError is one
            raise InvalidRequest(
                f"root_certificates {roots} cannot be read; expected a PEM file of "
                "certificates."
            ) from None
        if self.client_certificate and self.client_key:
            try:
                # With an empty password OpenSSL does not ask for one on the terminal.
                context.load_cert_chain(
                    self.client_certificate, self.client_key, password=""
                )
            except OSError:
                raise InvalidRequest(
                    f"client_certificate {self.client_certificate} and client_key "
                    f"{self.client_key} cannot be used; expected readable PEM files "
                    "without a password that belong together."
                ) from None
        return context


def read_api_key(path: str | Path) -> str:
    """Return the first key of a file that has a key on each line.

    Raises:
        InvalidRequest: The file cannot be read as text, or is empty.
    """
    try:
        keys = Path(path).read_text(encoding="utf-8").split()
    except (OSError, ValueError):
        keys = []
    if not keys:
        raise InvalidRequest(f"{path} cannot be read; expected a file with an API key.")
    return keys[0]


def _check_version(version: int | None, label: str | None) -> None:
    if version is not None and (
        type(version) is not int or not abs(version) <= _MAX_VERSION
    ):
        raise InvalidRequest(f"version is {version!r:.40}; expected a whole number.")
    if label is not None and (
        not isinstance(label, str) or not label or not {"/", ":"}.isdisjoint(label)
    ):
        raise InvalidRequest(
            f"version_label is {label!r:.40}; expected a name such as stable, without "
            '"/" and ":".'
        )
    if version is not None and label is not None:
        raise InvalidRequest("Give a version or a version_label, not both.")


def _check_timeout(timeout_s: float) -> None:
    number = isinstance(timeout_s, int | float)
    if not number or not 0 < timeout_s <= _MAX_TIMEOUT_S:
        raise InvalidRequest(
            f"timeout_s is {timeout_s!r:.40}; expected seconds above 0, no more than "
            "a day."
        )


def _check_key(key: str) -> None:
    # gRPC's own refusal would quote the key.
    text = isinstance(key, str)
    if not text or not key or not key.isascii() or not key.isprintable() or " " in key:
        raise InvalidRequest(
            "api_key must be one word of printable ASCII characters; is it the "
            "content of the key file, and not its path?"
        )


def _check_caller(caller: str) -> None:
    text = isinstance(caller, str) and caller.isascii() and caller.isprintable()
    if not text or not 0 < len(caller.strip()) == len(caller) <= _MAX_CALLER:
        raise InvalidRequest(
            f"caller is {caller!r:.60}; expected 1 to {_MAX_CALLER} printable ASCII "
            "characters without spaces around them."
        )
