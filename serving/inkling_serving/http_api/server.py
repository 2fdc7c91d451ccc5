"""uvicorn's server for the HTTP port of one process; it drains and loses nothing."""

from __future__ import annotations

import asyncio
import signal
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import TYPE_CHECKING, Any

import uvicorn

from inkling_serving.http_api.protocol import BoundedProtocol
from inkling_serving.runtime.listeners import Listener
from inkling_serving.security import CertificateFiles

if TYPE_CHECKING:
    from inkling_serving.settings import Settings

__all__ = ["HttpServer"]

# The seconds for the TLS handshakes of connections that are accepted at the end.
_HANDSHAKE_S = 1.0
_LOOK_AT_CERTIFICATE_S = 1


class HttpServer(uvicorn.Server):
    """Shares its listener with other processes; answers waiting clients at the end."""

    def __init__(
        self,
        settings: Settings,
        application: Callable[[], Any],
        *,
        when_started: Callable[[], None],
        supervised: bool,
    ) -> None:
        """Create the server.

        Args:
            settings: The settings; the certificate and the drain time come from them.
            application: Makes the ASGI application.
            when_started: Is called once the server accepts connections.
            supervised: Whether a supervisor passes a terminal's signals on.
        """
        super().__init__(_config(settings, application, self._renew_certificate))
        self._when_started = when_started
        self._supervised = supervised
        self._certificate = CertificateFiles(settings)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to drain; a second signal ends the server at once."""
        if self._supervised and sig == signal.SIGINT:
            return  # a terminal sends SIGINT to all processes
        self.force_exit = self.should_exit
        super().handle_exit(sig, frame)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and call `when_started`."""
        await super().startup(sockets)
        self._when_started()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept the connections that still wait, then drain all of them."""
        waiting: list[socket.socket] = []
        for listener in sockets or []:
            assert isinstance(listener, Listener)
            waiting += await listener.last()
        for server in self.servers:
            server.close()
        taken = [asyncio.create_task(self._take(one)) for one in waiting]
        if taken:
            await asyncio.wait(taken, timeout=_HANDSHAKE_S)
        await super().shutdown(sockets)

    async def _take(self, connection: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        with suppress(OSError):  # the client has left, or does not use TLS
            await loop.connect_accepted_socket(
                lambda: BoundedProtocol(
                    self.config, self.server_state, self.lifespan.state
                ),
                connection,
                ssl=self.config.ssl,
            )

    async def _renew_certificate(self) -> None:
        """Read the certificate again where its files have changed."""
        if self.config.ssl is not None and self._certificate.changed():
            self._certificate.load_into(self.config.ssl)


def _config(
    settings: Settings, application: Callable[[], Any], notify: Callable[..., Any]
) -> uvicorn.Config:
    return uvicorn.Config(
        application,
        factory=True,
        # The standard event loop was as fast as uvloop in our measurements, and does
        # not lose signals while it starts, as uvloop does.
        loop="asyncio",
        http=BoundedProtocol,
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        # asyncio accepts up to `backlog` connections at a time.
        backlog=1,
        ssl_certfile=settings.tls_certificate or None,
        ssl_keyfile=settings.tls_key or None,
        ssl_ca_certs=settings.tls_client_ca or None,
        ssl_cert_reqs=ssl.CERT_REQUIRED if settings.tls_client_ca else ssl.CERT_NONE,
        timeout_graceful_shutdown=int(settings.drain_timeout_s),
        callback_notify=notify,
        timeout_notify=_LOOK_AT_CERTIFICATE_S,
    )
