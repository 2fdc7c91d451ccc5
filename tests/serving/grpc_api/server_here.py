# SPDX-License-Identifier: Apache-2.0
"""The gRPC server in the process of the tests, over an engine that can be held up."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import grpc

from inkling.contract import Contract
from inkling.image.budget import DEFAULT_LIMITS
from inkling.v1.classifier_pb2_grpc import ClassifierStub
from inkling_serving.grpc_api.server import GrpcServer
from inkling_serving.keys import ApiKeys
from inkling_serving.runtime.held_bytes import HeldBytes
from inkling_serving.runtime.listeners import reserved
from inkling_serving.runtime.metrics import Metrics
from inkling_serving.runtime.thread_pool import ThreadPool
from inkling_serving.service import Service
from inkling_serving.settings import Settings
from tests.support.held_engine import HeldEngine

__all__ = ["Here", "served_here"]


@dataclass(frozen=True)
class Here:
    """A gRPC server of this process."""

    port: int
    server: GrpcServer
    engine: HeldEngine
    metrics: Metrics
    held: HeldBytes

    @contextmanager
    def channel(self, **options: Any) -> Iterator[grpc.Channel]:
        """Open a channel with a connection of its own, which tries no call twice."""
        options = {"enable_retries": 0, "use_local_subchannel_pool": 1, **options}
        pairs = [(f"grpc.{name}", value) for name, value in options.items()]
        with grpc.insecure_channel(f"127.0.0.1:{self.port}", pairs) as channel:
            yield channel

    @contextmanager
    def stub(self, **options: Any) -> Iterator[Any]:
        """Open such a channel, and return the generated client on it."""
        with self.channel(**options) as channel:
            yield ClassifierStub(channel)  # type: ignore[no-untyped-call]


@contextmanager
def served_here(
    contract: Contract, threads: int = 2, queue: int = 64, **settings: Any
) -> Iterator[Here]:
    """Serve until the block ends; then the server must have ended within 20 s."""
    holder = reserved("127.0.0.1", 0, "--grpc-port")
    port = holder.getsockname()[1]
    wanted, engine, metrics = Settings(**settings), HeldEngine(contract), Metrics()
    pool = ThreadPool(threads, queue, wanted.queue_timeout_s)
    service = Service(engine, DEFAULT_LIMITS, 32, wanted.quotas())
    held, keys = HeldBytes(wanted.held_bytes), ApiKeys(wanted.api_key_file)
    server = GrpcServer(service, pool, metrics, held, wanted, keys)
    server.start("127.0.0.1", port)
    try:
        yield Here(port, server, engine, metrics, held)
    finally:
        engine.free.set()
        assert server.end().wait(20)
        server.close()
        pool.close()
        holder.close()
