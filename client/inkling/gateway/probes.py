# SPDX-License-Identifier: Apache-2.0
"""The state of a gateway, asked over HTTP: is it live, is it ready, which models."""

from __future__ import annotations

import ssl
from http import HTTPStatus
from pathlib import Path
from typing import Any, Self

from inkling.errors import InvalidRequest
from inkling.gateway.connection import Connection
from inkling.gateway.http_transport import HttpTransport

__all__ = ["Probes", "trusting_only"]

_TIMEOUT_S = 5.0


class Probes:
    """Asks the HTTP port of one gateway, once per question and without retries."""

    def __init__(
        self, url: str, tls: ssl.SSLContext | None = None, **options: Any
    ) -> None:
        """Take the address of the gateway.

        Args:
            url: Such as `http://127.0.0.1:8080`.
            tls: Replaces the certificates that the options name.
            options: The attributes of `inkling.gateway.connection.Connection`.

        Raises:
            InvalidRequest: The address or an option is impossible.
        """
        options = {"timeout_s": _TIMEOUT_S, **options}
        self._transport = HttpTransport(Connection.to(url, options), tls)

    def is_live(self) -> bool:
        """Whether the gateway's process answers.

        Raises:
            NotReady: The address cannot be reached.
            DeadlineExceeded: There was no answer in time.
        """
        return self._transport.once("GET", "/livez").status == HTTPStatus.OK

    def is_ready(self) -> bool:
        """Whether any model can answer; raises as `is_live`."""
        return self._transport.once("GET", "/readyz").status == HTTPStatus.OK

    def ready_models(self) -> list[str]:
        """Return the names of the models that can answer.

        Raises:
            InklingError: The gateway refused to tell, or cannot be reached.
        """
        found = self._transport.json("GET", "/v1/models")
        return [model["name"] for model in found["models"] if model["ready"]]

    def close(self) -> None:
        """Close the connections."""
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def trusting_only(
    certificate: str | Path, client: tuple[str | Path, str | Path] | None = None
) -> ssl.SSLContext:
    """Return a context that trusts exactly the server with this certificate.

    The host name in the certificate does not matter, since only the owner of its key
    can show it. The authority that signed it is not trusted.

    Args:
        certificate: A PEM file; of a chain the first certificate is the server's.
        client: PEM files with the client's certificate and its key.

    Raises:
        InvalidRequest: A file cannot be used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    # The chain of trust ends at the certificate itself.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    try:
        text = Path(certificate).read_text(encoding="ascii")
        end = "-----END CERTIFICATE-----"
        context.load_verify_locations(cadata=text[: text.index(end) + len(end)])
        if client:
            context.load_cert_chain(*client, password="")
    except (OSError, ValueError):
        raise InvalidRequest(
            f"{certificate}, or the client's certificate or key, cannot be used; "
            "expected readable PEM files."
        ) from None
    return context
