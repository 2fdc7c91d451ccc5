"""Asks for each picture alone, before the load: what is right is what was said then."""

from __future__ import annotations

import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from typing import Any

import grpc

from inkling.errors import InternalError
from inkling.v1.classifier_pb2_grpc import ClassifierStub
from inkling_loadtest.answers import verdicts
from inkling_loadtest.answers.references import FALSE, References, Verdict
from inkling_loadtest.gateway import CHANNEL_OPTIONS
from inkling_loadtest.load.requests import Shot
from inkling_loadtest.options import Options

__all__ = ["learn"]

_RETRIES = 5
_RETRY_AFTER_S = 0.3


def learn(
    options: Options,
    references: References,
    singles: Mapping[str, Sequence[Shot[Any]]],
) -> None:
    """Ask for each picture twice, and let the references remember the answers.

    Raises:
        InternalError: An answer is missing, or the second differs from the first.
    """
    [shots] = singles.values()
    ask = _ask_grpc if options.protocol == "grpc" else _ask_http
    for shot in (*shots, *shots):
        verdict = ask(options, references, shot)
        for _ in range(_RETRIES):
            if verdict.outcome == "right" or verdict.reason in FALSE:
                break
            # What is refused or lost at first is for the load to find, not for this.
            time.sleep(_RETRY_AFTER_S)
            verdict = ask(options, references, shot)
        if verdict.outcome != "right":
            raise InternalError(
                "A picture that was asked for alone, before the load, got no answer to "
                f"rely on: {verdict.reason}. {verdict.detail}"
            )


def _ask_http(options: Options, references: References, shot: Shot[Any]) -> Verdict:
    url = f"{options.target}/v1/models/{options.model}:classify"
    request = urllib.request.Request(url, shot.payload.content, shot.payload.headers)
    try:
        with urllib.request.urlopen(request, timeout=options.timeout_s) as response:
            return verdicts.of_http(references, shot.pictures, 200, response.read())
    except urllib.error.HTTPError as error:
        return verdicts.of_http(references, shot.pictures, error.code, error.read())
    except OSError as error:
        return verdicts.of_http_error(error)


def _ask_grpc(options: Options, references: References, shot: Shot[Any]) -> Verdict:
    with grpc.insecure_channel(options.address, list(CHANNEL_OPTIONS)) as channel:
        stub = ClassifierStub(channel)  # type: ignore[no-untyped-call]
        try:
            response = stub.Classify(shot.payload, timeout=options.timeout_s)
        except grpc.RpcError as error:
            return verdicts.of_rpc_error(error)  # type: ignore[arg-type]
        return verdicts.of_unary(references, shot.pictures, response)
