# SPDX-License-Identifier: Apache-2.0
"""uvicorn's server for the HTTP port of one process; it drains and loses nothing."""

from __future__ import annotations

import asyncio
import math
import signal
import socket
import ssl
import time
from asyncio import sslproto
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING, Any

import uvicorn

from inkling_serving.http_api.connections import Connections
from inkling_serving.http_api.protocol import ENDING, BoundedProtocol
from inkling_serving.runtime.ending import Ending
from inkling_serving.runtime.listeners import ACCEPTS, Listener
from inkling_serving.security import CertificateFiles

if TYPE_CHECKING:
    from inkling_serving.runtime.held_bytes import HeldBytes
    from inkling_serving.settings import Settings

__all__ = ["HttpServer"]

# The seconds for a TLS handshake, as over gRPC, and for its end; asyncio's own limits
# are 60 s and 30 s.
_HANDSHAKE_S, _TLS_END_S = 5.0, 5.0
# asyncio has a buffer of 256 KiB for each connection with TLS while it is open;
# 400 connections took 113 MiB. A record of TLS has 16 KiB at most.
_TLS_BUFFER_BYTES = 32 * 1024
# The seconds for the handshakes of connections that are accepted at the end.
_LAST_HANDSHAKE_S = 1.0
_LOOK_AT_CERTIFICATE_S = 1
# Two signals within these seconds are one that was sent to all processes.
_ECHO_S = 0.5


class HttpServer(uvicorn.Server):
    """Shares its listener with other processes; answers waiting clients at the end."""

    def __init__(
        self,
        settings: Settings,
        application: Callable[[], Any],
        *,
        held: HeldBytes,
        when_started: Callable[[], None],
        supervised: bool,
        ending: Ending | None = None,
        certificates: CertificateFiles | None = None,
    ) -> None:
        """Create the server.

        Args:
            settings: The settings; the certificate and the drain time come from them.
            application: Makes the ASGI application.
            held: Counts the bytes of all requests of the process.
            when_started: Is called once the server accepts connections.
            supervised: Whether a supervisor passes a terminal's signals on.
            ending: The steps of the end; by default there is nothing beside HTTP.
            certificates: The certificate; by default it is read from its files.
        """
        self._ending = ending or Ending(settings.drain_delay_s)
        self._certificate = certificates or CertificateFiles(settings)
        super().__init__(
            _config(settings, application, self._certificate, self._renew_certificate)
        )
        self._connections = Connections(
            settings.max_connections, held, settings.connections_of_client
        )
        self._when_started = when_started
        self._signalled_at = -math.inf
        self._supervised = supervised

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin the end; each further signal ends what still delays it.

        A second signal ends the delay in which requests are served. The next one ends
        the server without waiting for open requests.
        """
        if self._supervised and (sig == signal.SIGINT or self._is_echo()):
            return  # a terminal sends SIGINT to all processes
        self._ending.tell()
        if self._ending.is_over:
            self.force_exit = self.should_exit
            super().handle_exit(sig, frame)

    def _is_echo(self) -> bool:
        """Return whether the supervisor passes on a signal that was sent to all.

        systemd sends SIGTERM to all processes of a service at once.
        """
        before, self._signalled_at = self._signalled_at, time.monotonic()
        return self._signalled_at - before < _ECHO_S

    async def on_tick(self, counter: int) -> bool:
        """Take the steps of the end; uvicorn calls this ten times a second."""
        self._ending.take_steps()
        self.should_exit = self.should_exit or self._ending.is_over
        return await super().on_tick(counter)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and call `when_started`.

        uvicorn would listen without a limit on the time of a TLS handshake.
        """
        await super().startup([])
        if hasattr(sslproto.SSLProtocol, "max_size"):
            sslproto.SSLProtocol.max_size = _TLS_BUFFER_BYTES
        loop = asyncio.get_running_loop()
        for listener in sockets or []:
            server = await loop.create_server(
                self._protocol,
                sock=listener,
                backlog=self.config.backlog,
                ssl=self.config.ssl,
                ssl_handshake_timeout=_HANDSHAKE_S if self.config.ssl else None,
                ssl_shutdown_timeout=_TLS_END_S if self.config.ssl else None,
            )
            self.servers.append(server)
        self._when_started()

    def _protocol(self) -> BoundedProtocol:
        return BoundedProtocol(
            self.config,
            self.server_state,
            self.lifespan.state,
            others=self._connections,
        )

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept the connections that still wait, then drain all of them."""
        waiting: list[socket.socket] = []
        for listener in sockets or []:
            assert isinstance(listener, Listener)
            waiting += await listener.last()
        for server in self.servers:
            server.close()
        # From Python 3.12 on, uvicorn would wait for clients that have connected and do
        # not begin with TLS, although they have asked for nothing.
        self.servers.clear()
        taken = [asyncio.create_task(self._take(one)) for one in waiting]
        if taken:
            await asyncio.wait(taken, timeout=_LAST_HANDSHAKE_S)
        # TLS handshakes that are still under way make connections later.
        self.lifespan.state[ENDING] = True
        await super().shutdown(sockets)

    async def _take(self, connection: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        with suppress(OSError):  # the client has left, or does not use TLS
            await loop.connect_accepted_socket(
                self._protocol,
                connection,
                ssl=self.config.ssl,
                ssl_handshake_timeout=_HANDSHAKE_S if self.config.ssl else None,
                ssl_shutdown_timeout=_TLS_END_S if self.config.ssl else None,
            )

    async def _renew_certificate(self) -> None:
        """Hand new connections over to a new context where the files have changed.

        The context of the listener cannot be exchanged, and one that is loaded anew
        would go on to trust the authorities that were in its file before.
        """
        if self.config.ssl is None:
            return
        renewed = self._certificate.renewed()
        if renewed is not None:
            self.config.ssl.sni_callback = partial(_hand_over, renewed)


def _hand_over(
    to: ssl.SSLContext, connection: ssl.SSLObject, name: str | None, _: ssl.SSLContext
) -> None:
    del name  # it is asked for all names, and where a client sends none
    connection.context = to


def _config(
    settings: Settings,
    application: Callable[[], Any],
    certificate: CertificateFiles,
    notify: Callable[..., Any],
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
        # asyncio accepts up to `backlog` connections at a time; our listener takes
        # fewer.
        backlog=ACCEPTS,
        ssl_context_factory=(
            (lambda *_: certificate.context()) if settings.tls_certificate else None
        ),
        timeout_keep_alive=settings.keep_alive_s,  # type: ignore[arg-type] # a delay
        timeout_graceful_shutdown=int(settings.drain_timeout_s),
        callback_notify=notify,
        timeout_notify=_LOOK_AT_CERTIFICATE_S,
    )
