# SPDX-License-Identifier: Apache-2.0
"""Asks for each picture alone, before the load; these answers are the references."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial

from inkling import Classifier
from inkling.errors import (
    InklingError,
    InternalError,
    InvalidRequest,
    ModelNotFound,
    PermissionDenied,
    TooLarge,
    Unauthenticated,
    UnsupportedMediaType,
)
from inkling.types import Prediction
from inkling_loadtest.answers.references import References, Verdict, failed, reply_of
from inkling_loadtest.load.pictures import LabelledPicture

__all__ = ["learn"]

_RETRIES = 5
_RETRY_AFTER_S = 0.3
# Errors that another attempt would meet again.
_LASTING = (
    InvalidRequest,
    ModelNotFound,
    PermissionDenied,
    TooLarge,
    Unauthenticated,
    UnsupportedMediaType,
)


def learn(
    classifier: Classifier,
    references: References,
    pictures: Sequence[LabelledPicture],
    threshold: float | None = None,
) -> None:
    """Ask for each picture twice, and let the references remember the answers.

    Args:
        classifier: The gateway.
        references: They get the answers.
        pictures: The pictures.
        threshold: That of the requests of the load; None for a model whose pictures
            have one label each.

    Raises:
        InternalError: An answer is missing, or the second differs from the first.
    """
    places = range(len(pictures))
    for place in (*places, *places):
        ask = partial(classifier.classify, pictures[place].image, threshold=threshold)
        verdict = _verdict(ask, references, place)
        if verdict.outcome != "right":
            raise InternalError(
                "A picture that was asked for alone, before the load, got no reliable "
                f"answer: {verdict.reason}. {verdict.detail}"
            )


def _verdict(
    ask: Callable[[], Prediction], references: References, place: int
) -> Verdict:
    verdict = failed("no answer")
    for attempt in range(_RETRIES + 1):
        # Refusals and lost requests are measured under load, not here.
        time.sleep(_RETRY_AFTER_S if attempt else 0)
        try:
            prediction = ask()
        except InklingError as error:
            verdict = failed(error.code, error.message)
            if isinstance(error, _LASTING):
                break
        else:
            return references.judge([place], reply_of(prediction))
    return verdict
