# SPDX-License-Identifier: Apache-2.0
"""What this package overrides of uvicorn is still what it was when it was written."""

from __future__ import annotations

import inspect
import socket
import threading
from asyncio import selector_events, sslproto
from dataclasses import dataclass, field
from typing import Any

import pytest
import uvicorn
from uvicorn.config import STARTUP_FAILURE
from uvicorn.protocols.http.httptools_impl import (
    HttpToolsProtocol,
    RequestResponseCycle,
)

from inkling_serving.http_api.protocol import BoundedProtocol
from inkling_serving.http_api.server import HttpServer

_SOCKETS = "(self, sockets: 'list[socket.socket] | None' = None) -> 'None'"
# What is overridden or called, with its signature.
_PROTOCOL = {
    "__init__": (
        "(self, config: 'Config', server_state: 'ServerState', app_state: "
        "'dict[str, Any]', _loop: 'asyncio.AbstractEventLoop | None' = None) -> 'None'"
    ),
    "connection_made": "(self, transport: 'asyncio.Transport') -> 'None'",
    "connection_lost": "(self, exc: 'Exception | None') -> 'None'",
    "data_received": "(self, data: 'bytes') -> 'None'",
    "on_body": "(self, body: 'bytes') -> 'None'",
    "on_header": "(self, name: 'bytes', value: 'bytes') -> 'None'",
    "on_headers_complete": "(self) -> 'None'",
    "on_message_begin": "(self) -> 'None'",
    "on_message_complete": "(self) -> 'None'",
    "on_response_complete": "(self) -> 'None'",
    "eof_received": "(self) -> 'None'",
    "timeout_keep_alive_handler": "(self) -> 'None'",
    "send_400_response": "(self, msg: 'str') -> 'None'",
    "shutdown": "(self) -> 'None'",
    "_unset_keepalive_if_required": "(self) -> 'None'",
    "_unsupported_upgrade_warning": "(self) -> 'None'",
}
_SERVER = {
    "__init__": "(self, config: 'Config') -> 'None'",
    "handle_exit": "(self, sig: 'int', frame: 'FrameType | None') -> 'None'",
    "on_tick": "(self, counter: 'int') -> 'bool'",
    "run": _SOCKETS,
    "startup": _SOCKETS,
    "shutdown": _SOCKETS,
}


@pytest.mark.parametrize(
    ("owner", "known"), [(HttpToolsProtocol, _PROTOCOL), (uvicorn.Server, _SERVER)]
)
def test_signatures_are_those_that_are_relied_on(
    owner: type, known: dict[str, str]
) -> None:
    """A new uvicorn with other methods fails here, and not in a gateway."""
    found = {name: str(inspect.signature(getattr(owner, name))) for name in known}

    assert known == found


@pytest.mark.parametrize(
    ("ours", "theirs", "known"),
    [
        (BoundedProtocol, HttpToolsProtocol, _PROTOCOL),
        (HttpServer, uvicorn.Server, _SERVER),
    ],
)
def test_every_override_is_known_here(
    ours: type, theirs: type, known: dict[str, str]
) -> None:
    """Who overrides another method of uvicorn writes its signature down above."""
    overridden = {name for name in vars(ours) if callable(getattr(theirs, name, None))}

    assert overridden - known.keys() <= {"__doc__", "__module__"}


@dataclass
class Exchange:
    """One request to uvicorn, with what its objects were while it was answered."""

    server: uvicorn.Server
    connection: dict[str, Any] = field(default_factory=dict)
    cycle: Any = None
    open: tuple[bool, bool] = (True, True)
    tasks: int = 0
    state: Any = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer as an ASGI application."""
        await receive()
        if scope["type"] == "lifespan":
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
            return
        [connection] = self.server.server_state.connections
        self.connection = dict(vars(connection))
        self.cycle, self.state = self.connection["cycle"], scope["state"]
        self.open = (self.cycle.response_complete, self.cycle.more_body)
        self.tasks = len(self.server.server_state.tasks)
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})


@pytest.fixture(scope="module")
def exchange() -> Exchange:
    """A request that uvicorn itself has answered, without anything of ours."""

    async def late(scope: Any, receive: Any, send: Any) -> None:
        await found(scope, receive, send)

    config = uvicorn.Config(late, http=HttpToolsProtocol, ws="none", log_config=None)
    found = Exchange(uvicorn.Server(config))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        run = threading.Thread(
            target=found.server.run, kwargs={"sockets": [listener]}, daemon=True
        )
        run.start()
        with socket.create_connection(listener.getsockname(), 10) as client:
            client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert client.recv(100).startswith(b"HTTP/1.1 204 ")
        found.server.should_exit = True
        run.join(10)
        assert not run.is_alive()
    return found


def test_names_of_ours_are_none_of_uvicorns(exchange: Exchange) -> None:
    """What this package adds to a connection does not hide anything of uvicorn's."""
    added = {"_in_head", "ending", "_refused", "_deadline", "_pieces", "_others"}
    added |= {"_early", "_received", "_missing", "_tail", "_half_closed", "_resting"}
    defined = {name for name in vars(BoundedProtocol) if name not in _PROTOCOL}

    assert not added & exchange.connection.keys()
    assert not {n for n in defined if n[:2] != "__" and hasattr(HttpToolsProtocol, n)}


def test_attributes_are_those_that_are_relied_on(exchange: Exchange) -> None:
    """A connection, its request and the server have what is read and set here."""
    connection, server = exchange.connection, exchange.server
    wanted = {"app_state", "config", "cycle", "flow", "headers", "loop", "parser"}
    wanted |= {"scope", "server_state", "tasks", "transport"}

    assert wanted <= connection.keys()
    assert isinstance(exchange.cycle, RequestResponseCycle)
    assert (False, False) == exchange.open
    assert (True, True) == (exchange.cycle.response_complete, exchange.cycle.keep_alive)
    assert 1 == exchange.tasks
    assert connection["tasks"] is server.server_state.tasks
    assert connection["app_state"] is server.lifespan.state
    assert exchange.state is not server.lifespan.state
    assert (False, True) == (server.force_exit, server.should_exit)
    assert 1 == len(server.servers)
    assert server.config.ssl is None


def test_asyncios_buffers_have_a_size_that_can_be_set() -> None:
    """Each connection has one, with and without TLS."""
    assert sslproto.SSLProtocol.max_size
    assert selector_events._SelectorTransport.max_size


def test_uvicorns_exit_code_is_known() -> None:
    """The supervisor gives up after a worker that ends with it."""
    assert 3 == STARTUP_FAILURE
