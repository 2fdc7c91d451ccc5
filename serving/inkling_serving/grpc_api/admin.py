# SPDX-License-Identifier: Apache-2.0
"""Answers `inkling.v1.Admin`: moves version labels for keys of the role `admin`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, TypeVar

from inkling.v1 import admin_pb2 as pb
from inkling.v1.admin_pb2_grpc import AdminServicer
from inkling_serving.grpc_api.calls import Calls
from inkling_serving.keys import Role

if TYPE_CHECKING:
    import grpc

    from inkling.model.version_labels import Move
    from inkling_serving.admin import Admin
    from inkling_serving.keys import ApiKeys, Key
    from inkling_serving.runtime.timings import Timings

__all__ = ["AdminCalls"]

_T = TypeVar("_T")


class AdminCalls(AdminServicer):
    """Answers `inkling.v1.Admin`."""

    def __init__(self, admin: Admin, keys: ApiKeys, calls: Calls) -> None:
        """Create the servicer."""
        self._admin = admin
        self._keys = keys
        self._calls = calls

    def ListLabels(
        self, request: pb.ListLabelsRequest, context: grpc.ServicerContext
    ) -> pb.ListLabelsResponse:
        """Return the labels of a model, and their last moves."""

        def answer(key: Key | None) -> pb.ListLabelsResponse:
            labels = self._admin.labels(key, request.model)
            moves = self._admin.moves(key, request.model)
            return pb.ListLabelsResponse(
                labels=[
                    pb.VersionLabel(label=name, version=one.version, share=one.share)
                    for name, one in sorted(labels.items())
                ],
                moves=[_move(one) for one in moves],
            )

        return self._answer(context, answer)

    def Promote(
        self, request: pb.PromoteRequest, context: grpc.ServicerContext
    ) -> pb.Move:
        """Let a label name a version, or take the label away."""
        version = request.version if request.HasField("version") else None
        share = request.share if request.HasField("share") else None

        def answer(key: Key | None) -> pb.Move:
            model, label = request.model, request.label
            return _move(self._admin.promote(key, model, version, label, share))

        return self._answer(context, answer)

    def RollBack(
        self, request: pb.RollBackRequest, context: grpc.ServicerContext
    ) -> pb.Move:
        """Let a label name the version that it named before."""
        return self._answer(
            context,
            lambda key: _move(self._admin.roll_back(key, request.model, request.label)),
        )

    def _answer(
        self, context: grpc.ServicerContext, answer: Callable[[Key | None], _T]
    ) -> _T:
        def answered(timings: Timings) -> _T:
            sent = dict(context.invocation_metadata()).get("authorization")
            key = self._keys.check(sent, Role.ADMIN)
            return self._calls.pooled(context, lambda _: answer(key), timings)

        return self._calls.answer(context, answered)


def _move(move: Move) -> pb.Move:
    return pb.Move(**asdict(move))
