"""uvicorn's server for the HTTP port of one process, which drains without loss."""

from __future__ import annotations

import asyncio
import signal
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING, Any

import uvicorn

from inkling_serving.http_api.protocol import BoundedProtocol
from inkling_serving.security import CertificateFiles

if TYPE_CHECKING:
    from inkling_serving.settings import Settings

__all__ = ["HttpServer"]

# The time in which a client that is accepted at the end must agree on how to encrypt.
_HANDSHAKE_S = 1.0
_LOOK_AT_CERTIFICATE_S = 1


class HttpServer(uvicorn.Server):
    """Shares its listener with other processes, and answers what waits at the end."""

    def __init__(
        self,
        settings: Settings,
        application: Callable[[], Any],
        *,
        when_started: Callable[[], None],
        supervised: bool,
    ) -> None:
        """Take the parts.

        Args:
            settings: Certificate and drain time.
            application: Makes the ASGI application.
            when_started: Is called once connections are accepted.
            supervised: Whether a supervisor passes the signals of a terminal on.
        """
        self._certificate = CertificateFiles(settings)
        super().__init__(
            _config(settings, application, self._certificate, self._renew_certificate)
        )
        self._when_started = when_started
        self._supervised = supervised

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to end; end at once where this is the second signal."""
        if self._supervised and sig == signal.SIGINT:
            return  # a terminal sends it to all processes
        self.force_exit = self.should_exit
        super().handle_exit(sig, frame)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and say so."""
        await super().startup(sockets)
        self._when_started()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept the connections that wait, and answer them like the others."""
        waiting: list[socket.socket] = []
        for listener in sockets or []:
            waiting += await _last(listener)
        for server in self.servers:
            server.close()
        taken = [asyncio.create_task(self._take(one)) for one in waiting]
        if taken:
            await asyncio.wait(taken, timeout=_HANDSHAKE_S)
        await super().shutdown(sockets)

    async def _take(self, connection: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        with suppress(OSError):  # a client that left, or that speaks no TLS
            await loop.connect_accepted_socket(
                lambda: BoundedProtocol(
                    self.config, self.server_state, self.lifespan.state
                ),
                connection,
                ssl=self.config.ssl,
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


async def _last(listener: socket.socket) -> list[socket.socket]:
    """Return the connections that wait on a listener of this process's gateway."""
    last: Any = getattr(listener, "last", None)
    return await last() if last else []


def _config(
    settings: Settings,
    application: Callable[[], Any],
    certificate: CertificateFiles,
    notify: Callable[..., Any],
) -> uvicorn.Config:
    return uvicorn.Config(
        application,
        factory=True,
        # The standard loop was as fast as uvloop in our measurements, and keeps
        # signals that uvloop loses while it starts.
        loop="asyncio",
        http=BoundedProtocol,
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        # asyncio accepts as many connections at a time as may wait.
        backlog=1,
        ssl_context_factory=(
            (lambda *_: certificate.context()) if settings.tls_certificate else None
        ),
        timeout_graceful_shutdown=int(settings.drain_timeout_s),
        callback_notify=notify,
        timeout_notify=_LOOK_AT_CERTIFICATE_S,
    )
