# SPDX-License-Identifier: Apache-2.0
"""The roles of the keys that may call each gRPC method."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from inkling_serving.keys import Role

__all__ = ["ROLES", "role_of"]

_CLASSIFIER = "/inkling.v1.Classifier/"
_ADMIN = "/inkling.v1.Admin/"
_PREDICTION = "/tensorflow.serving.PredictionService/"
_INFERENCE = "/inference.GRPCInferenceService/"
# Health checks need no key, because they contain no information about the models.
_HEALTH = "/grpc.health.v1.Health/"

ROLES: Mapping[str, Role | None] = MappingProxyType(
    {
        _CLASSIFIER + "Classify": Role.PREDICT,
        _CLASSIFIER + "ClassifyStream": Role.PREDICT,
        _CLASSIFIER + "GiveFeedback": Role.FEEDBACK,
        _CLASSIFIER + "ListModels": Role.READ,
        _CLASSIFIER + "GetModel": Role.READ,
        _ADMIN + "ListLabels": Role.ADMIN,
        _ADMIN + "Promote": Role.ADMIN,
        _ADMIN + "RollBack": Role.ADMIN,
        _PREDICTION + "Predict": Role.PREDICT,
        _PREDICTION + "GetModelMetadata": Role.READ,
        "/tensorflow.serving.ModelService/GetModelStatus": Role.READ,
        _INFERENCE + "ServerLive": Role.READ,
        _INFERENCE + "ServerReady": Role.READ,
        _INFERENCE + "ServerMetadata": Role.READ,
        _INFERENCE + "ModelReady": Role.READ,
        _INFERENCE + "ModelMetadata": Role.READ,
        _INFERENCE + "ModelConfig": Role.READ,
        _INFERENCE + "ModelStatistics": Role.READ,
        _INFERENCE + "ModelInfer": Role.PREDICT,
        _INFERENCE + "ModelStreamInfer": Role.PREDICT,
        _INFERENCE + "RepositoryIndex": Role.READ,
        _INFERENCE + "RepositoryModelLoad": Role.ADMIN,
        _INFERENCE + "RepositoryModelUnload": Role.ADMIN,
        _HEALTH + "Check": None,
        _HEALTH + "Watch": None,
        _HEALTH + "List": None,
    }
)


def role_of(method: str) -> Role | None:
    """Return the role for a method; None if it needs no key.

    Any key is asked for where there is no such method, and by the services that
    describe the server to tools (reflection, channelz).
    """
    return ROLES.get(method, Role.READ)
