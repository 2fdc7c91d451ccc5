# SPDX-License-Identifier: Apache-2.0
"""The HTTP server in the process of the tests, over an engine that can be held up."""

from __future__ import annotations

import http.client
import json
import signal
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

from inkling.contract import Contract
from inkling.image.budget import DEFAULT_LIMITS
from inkling_serving.http_api.asgi_app import AsgiApp
from inkling_serving.http_api.handlers import Handlers
from inkling_serving.http_api.server import HttpServer
from inkling_serving.keys import ApiKeys
from inkling_serving.runtime.held_bytes import HeldBytes
from inkling_serving.runtime.listeners import Listener, bound
from inkling_serving.runtime.metrics import Metrics
from inkling_serving.runtime.thread_pool import ThreadPool
from inkling_serving.service import Service
from inkling_serving.settings import Settings
from tests.support.gateway_process import Answer
from tests.support.held_engine import HeldEngine

__all__ = ["LOOP", "Here", "handlers_over", "served_here"]

# The name of the thread in which the event loop runs.
LOOP = "the loop"


@dataclass(frozen=True)
class Here:
    """An HTTP server of this process."""

    port: int
    engine: HeldEngine
    server: HttpServer
    held: HeldBytes

    def request(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> Answer:
        """Ask over a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            found = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, found, response.read())
        finally:
            connection.close()

    def in_background(self, *words: Any) -> tuple[threading.Thread, list[Answer]]:
        """Ask in a thread; return it, and where the answer will be."""
        answers: list[Answer] = []
        thread = threading.Thread(target=lambda: answers.append(self.request(*words)))
        thread.start()
        return thread, answers


def handlers_over(engine: HeldEngine, settings: Settings) -> Handlers:
    """Return the handlers of a gateway with this engine."""
    service = Service(engine, DEFAULT_LIMITS, settings.max_batch, settings.quotas())
    keys = ApiKeys(settings.api_key_file)
    held = HeldBytes(settings.max_held_bytes)
    return Handlers(service, Metrics(), keys, settings, held)


@asynccontextmanager
async def _nothing_beside() -> AsyncIterator[None]:
    yield


@contextmanager
def served_here(
    contract: Contract,
    *,
    host: str = "127.0.0.1",
    quick: bool = False,
    threads: int = 2,
    queue: int = 64,
    **settings: Any,
) -> Iterator[Here]:
    """Serve until the block ends; then the server must end within 20 s."""
    wanted, engine = Settings(**settings), HeldEngine(contract, quick=quick)
    pool = ThreadPool(threads, queue, wanted.queue_timeout_s)
    handlers = handlers_over(engine, wanted)
    listener = Listener(fileno=bound(host, 0, "--http-port").detach())
    started = threading.Event()
    held = HeldBytes(wanted.held_bytes)
    server = HttpServer(
        wanted,
        lambda: AsgiApp(handlers, pool, held, wanted, _nothing_beside),
        held=held,
        when_started=started.set,
        supervised=False,
    )
    port = listener.getsockname()[1]
    run = threading.Thread(
        target=server.run, kwargs={"sockets": [listener]}, name=LOOP, daemon=True
    )
    run.start()
    assert started.wait(20)
    try:
        yield Here(port, engine, server, held)
    finally:
        engine.free.set()
        if not server.should_exit:
            server.handle_exit(signal.SIGTERM, None)
        run.join(20)
        assert not run.is_alive()
        pool.close()


def code_of(answer: Answer) -> str:
    """Return the code word of a refusal."""
    return str(json.loads(answer.body)["error"]["code"])
