# SPDX-License-Identifier: Apache-2.0
"""The gRPC server of one gateway process: grpcio's server with our settings."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import grpc
from grpc_health.v1.health_pb2_grpc import add_HealthServicer_to_server

from inkling.errors import InvalidRequest, MissingDependency
from inkling.v1.admin_pb2_grpc import add_AdminServicer_to_server
from inkling.v1.classifier_pb2_grpc import add_ClassifierServicer_to_server
from inkling_serving.admin import Admin
from inkling_serving.grpc_api.admin import AdminCalls
from inkling_serving.grpc_api.calls import Calls
from inkling_serving.grpc_api.classifier import Classifier
from inkling_serving.grpc_api.health import Health
from inkling_serving.grpc_api.interceptors import KeyInterceptor, MessageInterceptor
from inkling_serving.grpc_api.open_streams import OpenStreams
from inkling_serving.security import CertificateFiles, grpc_credentials

if TYPE_CHECKING:
    from inkling_serving.keys import ApiKeys
    from inkling_serving.runtime.held_bytes import HeldBytes
    from inkling_serving.runtime.metrics import Metrics
    from inkling_serving.runtime.thread_pool import ThreadPool
    from inkling_serving.service import Service
    from inkling_serving.settings import Settings

__all__ = ["GrpcServer"]

# The most calls of a process that have a thread or wait for one. The interceptors
# refuse calls much earlier; beyond this number, grpcio does, without a thread.
_MAX_CALLS = 1024
_MAX_CALLS_OF_CONNECTION = 128
# Bytes of a message that a client may send before a thread reads the message.
_LOOKAHEAD_BYTES = 64 * 1024
# Clients may send a ping every 10 s; grpcio answers more frequent pings with GOAWAY.
_MIN_PING_INTERVAL_MS = 10_000
# gRPC counts in 32 bits; this is its word for never.
_MAX_MS = 2**31 - 1
# The time for idle clients to close their connections at the end.
_GOODBYE_S, _LOOK_S = 1.0, 0.1
# A connection that has not agreed on TLS and HTTP/2 by then is closed, as over HTTP.
_MAX_GREETING_MS = 5_000
_COMPRESSION = {
    "none": grpc.Compression.NoCompression,
    "deflate": grpc.Compression.Deflate,
    "gzip": grpc.Compression.Gzip,
}


class GrpcServer:
    """Serves `inkling.v1`, health, and the dialects on the gRPC port."""

    def __init__(
        self,
        service: Service,
        pool: ThreadPool,
        metrics: Metrics,
        held: HeldBytes,
        settings: Settings,
        keys: ApiKeys,
        certificates: CertificateFiles | None = None,
    ) -> None:
        """Create the server; `start` starts it.

        By default it reads the certificate of the settings itself.
        """
        self._certificates = certificates or CertificateFiles(settings)
        self._settings = settings
        self._streams = OpenStreams(pool, held, settings.grpc_max_streams)
        classifier = Classifier(service, pool, metrics, self._streams)
        self._health = Health(service)
        self._messages = MessageInterceptor(
            settings.body_timeout_s, held, settings.max_body_bytes
        )
        self._server = grpc.server(
            self._messages.calls.threads,
            interceptors=[
                KeyInterceptor(keys),
                self._messages,
            ],
            options=_options(settings),
            maximum_concurrent_rpcs=_MAX_CALLS,
            compression=_COMPRESSION[settings.grpc_compression],
        )
        add_ClassifierServicer_to_server(classifier, self._server)  # type: ignore[no-untyped-call]
        calls = Calls(service, pool, metrics, "grpc")
        admin = AdminCalls(Admin(settings.models_dir, settings.model_name), keys, calls)
        add_AdminServicer_to_server(admin, self._server)  # type: ignore[no-untyped-call]
        add_HealthServicer_to_server(self._health.servicer, self._server)
        if settings.grpc_reflection:
            _add_reflection(self._server)
        if settings.grpc_channelz:
            _add_channelz(self._server)

    @property
    def server(self) -> grpc.Server:
        """The grpcio server, to which other servicers can be added."""
        return self._server

    @property
    def streams(self) -> OpenStreams:
        """The open streams, to which those of other servicers belong, too."""
        return self._streams

    def start(self, host: str, port: int) -> None:
        """Listen on the port, which other processes of the gateway may share.

        Raises:
            InvalidRequest: The server cannot listen on the address.
        """
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        credentials = grpc_credentials(self._settings, self._certificates)
        try:
            if credentials is None:
                self._server.add_insecure_port(address)
            else:
                self._server.add_secure_port(address, credentials)
        except RuntimeError:
            raise InvalidRequest(f"Cannot listen on {address} for gRPC.") from None
        self._server.start()

    def leave(self) -> None:
        """Report NOT_SERVING from now on, and go on to serve."""
        self._health.leave()

    def end(self) -> threading.Event:
        """Accept no more calls; return an event that is set once all calls ended."""
        self._health.end()
        self._streams.end()
        ended: threading.Event = self._server.stop(self._settings.drain_timeout_s)
        threading.Thread(target=self._end_idle, args=(ended,), daemon=True).start()
        return ended

    def _end_idle(self, ended: threading.Event) -> None:
        """Close the connections of clients that do not answer, once no call is open.

        grpcio waits for these connections as long as for calls.
        """
        ended.wait(_GOODBYE_S)
        while not (self._messages.idle or ended.wait(_LOOK_S)):
            pass
        self._server.stop(0)

    def close(self) -> None:
        """Stop the remaining threads, once all calls have ended."""
        self._health.stop()
        self._messages.stop()


def _options(settings: Settings) -> list[tuple[str, Any]]:
    options: dict[str, Any] = {
        # Each process of a gateway listens on the port; the kernel spreads connections.
        "grpc.so_reuseport": 1,
        "grpc.max_receive_message_length": settings.max_body_bytes,
        # The message interceptor inflates messages, within limits.
        "grpc.per_message_decompression": 0,
        "grpc.max_allowed_incoming_connections": settings.max_connections,
        # grpcio would let a client with a fast network send more, up to megabytes.
        "grpc.http2.lookahead_bytes": _LOOKAHEAD_BYTES,
        "grpc.http2.bdp_probe": 0,
        "grpc.max_concurrent_streams": _MAX_CALLS_OF_CONNECTION,
        "grpc.http2.min_ping_interval_without_data_ms": _MIN_PING_INTERVAL_MS,
        "grpc.keepalive_permit_without_calls": 1,
        "grpc.server_handshake_timeout_ms": _MAX_GREETING_MS,
        "grpc.enable_channelz": int(settings.grpc_channelz),
    }
    in_seconds = {
        "grpc.keepalive_time_ms": settings.grpc_keepalive_s,
        "grpc.max_connection_idle_ms": settings.grpc_max_connection_idle_s,
        "grpc.max_connection_age_ms": settings.grpc_max_connection_age_s,
        "grpc.max_connection_age_grace_ms": settings.grpc_max_connection_age_grace_s,
    }
    options |= {n: int(min(1000 * s, _MAX_MS)) for n, s in in_seconds.items() if s}
    return list(options.items())


def _add_reflection(server: grpc.Server) -> None:
    from grpc_reflection.v1alpha import reflection  # noqa: PLC0415 - only if asked
    from grpc_reflection.v1alpha import reflection_pb2 as wire  # noqa: PLC0415

    names = (
        *("inkling.v1.Classifier", "inkling.v1.Admin"),
        *("grpc.health.v1.Health", reflection.SERVICE_NAME),
    )
    reflection.enable_server_reflection(names, server)
    # grpcio-reflection has only v1alpha. Tools ask for v1 first; both are the same.
    method = grpc.stream_stream_rpc_method_handler(
        reflection.ReflectionServicer(names).ServerReflectionInfo,
        wire.ServerReflectionRequest.FromString,
        wire.ServerReflectionResponse.SerializeToString,
    )
    handler = grpc.method_handlers_generic_handler(
        "grpc.reflection.v1.ServerReflection", {"ServerReflectionInfo": method}
    )
    server.add_generic_rpc_handlers((handler,))


def _add_channelz(server: grpc.Server) -> None:
    try:
        from grpc_channelz.v1 import channelz  # noqa: PLC0415 - an extra
    except ModuleNotFoundError:
        raise MissingDependency("channelz", "inkling-serving[channelz]") from None
    channelz.add_channelz_servicer(server)
