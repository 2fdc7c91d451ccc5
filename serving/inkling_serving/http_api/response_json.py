# SPDX-License-Identifier: Apache-2.0
"""Turns the service's answers into the JSON of HTTP responses."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from PIL import Image

from inkling.errors import InklingError
from inkling_serving.http_api.openapi import answers as shapes

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from inkling.image.preprocess import Stage
    from inkling.model.version_labels import Move
    from inkling.types import Prediction, Score
    from inkling_serving.answers import Answer, Explanation
    from inkling_serving.comparison import Compared
    from inkling_serving.engines.base import ModelStatus, VersionStatus
    from inkling_serving.telemetry.drift import Drifted

__all__ = [
    "answer_json",
    "comparison_json",
    "error_json",
    "explanation_json",
    "model_json",
    "move_json",
]

# The longer side, in pixels, of a stage's picture in an explanation, and that of the
# model input, which is shown as the model sees it.
_STAGE_SIDE, _INPUT_SIDE = 320, 1024
_DIGITS = 4


def answer_json(answer: Answer) -> shapes.Answer:
    """Return the predictions, and the version that made them."""
    return {
        "model": answer.origin.model,
        "version": answer.origin.version,
        "contract": answer.origin.contract,
        "results": [_result_json(result) for result in answer.results],
    }


def error_json(error: InklingError) -> shapes.Error:
    """Return the code and message of an error, and the image it is about, if any."""
    shown = shapes.Error(code=error.code, message=error.message)
    if error.index is not None:
        shown["index"] = error.index
    return shown


def _result_json(
    result: Prediction | InklingError,
) -> shapes.Prediction | shapes.RefusedImage:
    if isinstance(result, InklingError):
        return {"error": error_json(result)}
    return _prediction_json(result)


def _prediction_json(result: Prediction) -> shapes.Prediction:
    shown: shapes.Prediction = {
        "label": result.label,
        "index": result.index,
        "probability": result.probability,
        "top": _scores_json(result.top),
    }
    # Only a caller that asked for abstention or with a threshold gets these fields.
    if result.abstained:
        shown["abstained"] = result.abstained
    if result.labels is not None:
        shown["labels"] = _scores_json(result.labels)
    return shown


def _scores_json(scores: Sequence[Score]) -> list[shapes.Score]:
    return [
        {"label": s.label, "index": s.index, "probability": s.probability}
        for s in scores
    ]


def explanation_json(found: Explanation, *, with_input: bool) -> shapes.Explanation:
    """Return the prediction and the stages, each with its picture as a PNG in base64.

    Args:
        found: The explanation.
        with_input: Whether to add the values of the model input.
    """
    answer = answer_json(found.answer)
    shown: shapes.Explanation = {
        "model": answer["model"],
        "version": answer["version"],
        "contract": answer["contract"],
        "results": answer["results"],
        "stages": _stages_json(found.stages),
    }
    if with_input:
        shown["model_input"] = _tensor_json(found.inputs)
    return shown


def _tensor_json(values: npt.NDArray[np.float32]) -> shapes.InputValues:
    content = values.astype("<f4", copy=False).tobytes()
    return {
        "shape": list(values.shape),
        "dtype": "float32",
        "b64": base64.b64encode(content).decode(),
    }


def _stages_json(stages: Sequence[Stage]) -> list[shapes.Stage]:
    # The last stage is the model input; its picture has its own size.
    sides = [_STAGE_SIDE] * (len(stages) - 1) + [_INPUT_SIDE]
    return [_stage_json(*one) for one in zip(stages, sides, strict=True)]


def _stage_json(stage: Stage, side: int) -> shapes.Stage:
    picture, file = stage.picture, io.BytesIO()
    width, height = picture.size
    if picture.mode not in ("1", "L", "RGB", "RGBA"):
        picture = picture.convert("RGB")
    picture.thumbnail((side, side), Image.Resampling.BILINEAR)
    picture.save(file, "PNG")
    encoded = base64.b64encode(file.getvalue()).decode()
    return {
        "name": stage.name,
        "decision": stage.decision,
        "width": width,
        "height": height,
        "image": {"b64": encoded},
    }


def comparison_json(
    version: str, shadow: str, found: Compared
) -> shapes.ShadowComparison:
    """Return the comparison of a version with a shadow; without pictures, null."""
    count = found.pictures
    return {
        "version": int(version),
        "shadow": int(shadow),
        "pictures": count,
        "agreement": found.agreed / count if count else None,
        "largest_difference": found.difference,
        "engine_ms": 1000 * found.seconds / count if count else None,
        "shadow_engine_ms": 1000 * found.shadow_seconds / count if count else None,
        "dropped": found.dropped,
        "failed": found.failed,
    }


def move_json(move: Move) -> shapes.LabelMove:
    """Return a move of a version label."""
    return {
        "time": move.time,
        "who": move.who,
        "by": move.by,
        "label": move.label,
        "before": move.before,
        "after": move.after,
        "share": move.share,
        "why": move.why,
    }


def model_json(
    status: ModelStatus,
    *,
    with_files: bool,
    drifts: Mapping[tuple[str, str], Drifted],
) -> shapes.Model:
    """Return the status of a model, with the newest version first.

    Args:
        status: The status.
        drifts: The drift by model and version.
        with_files: Whether to name the files that devices may have.
    """
    return {
        "name": status.name,
        "ready": status.ready,
        "versions": [
            _version_json(
                status, one, with_files, drifts.get((status.name, str(one.version)))
            )
            for one in status.versions
        ],
        "shares": dict(status.shares),
    }


def _drift_json(found: Drifted) -> shapes.VersionDrift:
    return {
        "pictures": found.pictures,
        "has_baseline": found.has_baseline,
        "index": {name: round(one, _DIGITS) for name, one in found.index.items()},
    }


def _version_json(
    model: ModelStatus,
    status: VersionStatus,
    with_file: bool,
    drift: Drifted | None,
) -> shapes.Version:
    shown: shapes.Version = {
        "version": status.version,
        "state": status.state,
        "version_labels": model.labels_of(status.version),
        "reason": status.reason,
    }
    contract = status.contract
    if contract is not None:
        shown = {
            **shown,
            "contract": contract.hash,
            "contract_json": contract.json,
            "labels": list(contract.labels),
            "kind": contract.kind,
            "outputs": contract.outputs,
            "input": {
                "height": contract.height,
                "width": contract.width,
                "channels": contract.channels,
            },
            "dataset": contract.training_data.name,
            "accuracy": status.accuracy,
        }
    if drift is not None:
        shown["drift"] = _drift_json(drift)
    if with_file and status.device_file is not None:
        shown["tflite"] = {
            "format": status.device_file.tflite_format,
            "bytes": len(status.device_file.content),
            "sha256": status.device_file.sha256,
        }
    return shown
