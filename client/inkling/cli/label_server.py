# SPDX-License-Identifier: Apache-2.0
"""Moves version labels through a gateway, for a key of the role `admin`."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TypeVar
from urllib.parse import quote

import grpc

from inkling.gateway.channel import channel_options, credentials, error_of_call
from inkling.gateway.connection import Connection
from inkling.gateway.http_transport import HttpTransport
from inkling.model.version_labels import Move
from inkling.v1 import admin_pb2 as pb
from inkling.v1.admin_pb2_grpc import AdminStub

__all__ = ["LabelServer"]

_T = TypeVar("_T")
# The gateway checks all files of a version before it answers.
_TIMEOUT_S = 120.0


class LabelServer:
    """Asks one gateway, over gRPC or HTTP, to move the labels of one model.

    No request is sent twice, because a second rollback would lead one version further.
    """

    def __init__(self, target: str, model: str, options: dict[str, Any]) -> None:
        """Take the address, the model, and the options of `Connection`.

        Raises:
            InvalidRequest: The address, the model or an option is impossible.
        """
        options = {"timeout_s": _TIMEOUT_S, "model": model, **options}
        self._connection = Connection.to(target, options)

    def promote(self, version: int | None, label: str, share: float | None) -> Move:
        """Let a label name a version; None takes the label away.

        Without a share, the label keeps the share that it has.

        Raises:
            InklingError: The gateway refused, or cannot be reached.
        """
        model = self._connection.model
        if self._connection.address.is_grpc:
            request = pb.PromoteRequest(
                model=model, label=label, version=version, share=share
            )
            return self._called(lambda stub: stub.Promote, request)
        shared = {} if share is None else {"share": share}
        return self._posted(label, "promote", {"version": version} | shared)

    def roll_back(self, label: str) -> Move:
        """Let a label name the version before; raises as `promote`."""
        if self._connection.address.is_grpc:
            request = pb.RollBackRequest(model=self._connection.model, label=label)
            return self._called(lambda stub: stub.RollBack, request)
        return self._posted(label, "rollback", None)

    def _posted(self, label: str, verb: str, body: Any) -> Move:
        transport = HttpTransport(self._connection)
        path = f"/v1/models/{self._connection.model}/labels/{quote(label, safe='')}"
        content = b"" if body is None else json.dumps(body).encode()
        try:
            answer = transport.begin("POST", f"{path}:{verb}", content).answer()
        finally:
            transport.close()
        return Move(**answer.json(self._connection.shown))

    def _called(self, method: Callable[[Any], Any], request: Any) -> Move:
        connection = self._connection
        secured = credentials(connection)
        options = (*channel_options(connection), ("grpc.enable_retries", 0))
        address = connection.address.grpc_target
        channel = (
            grpc.secure_channel(address, secured, options)
            if secured
            else grpc.insecure_channel(address, options)
        )
        with channel:
            call = method(AdminStub(channel))  # type: ignore[no-untyped-call]
            metadata = tuple(connection.headers.items())
            try:
                found = call(request, timeout=connection.timeout_s, metadata=metadata)
            except grpc.RpcError as error:
                raise error_of_call(connection, error) from None  # type: ignore[arg-type]
        return Move(
            time=found.time,
            who=found.who,
            by=found.by,
            label=found.label,
            before=found.before if found.HasField("before") else None,
            after=found.after if found.HasField("after") else None,
            share=found.share if found.HasField("share") else None,
            why=found.why if found.HasField("why") else None,
        )
