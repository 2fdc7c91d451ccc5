# SPDX-License-Identifier: Apache-2.0
"""The classifier behind a gateway's HTTP port."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from inkling.errors import InvalidImage
from inkling.gateway.connection import Connection
from inkling.gateway.http_answers import no_gateway
from inkling.gateway.http_transport import Exchange, HttpTransport
from inkling.gateway.remote import RemoteClassifier
from inkling.gateway.versions import contract_of
from inkling.image.formats.catalogue import EXPECTED
from inkling.types import ClassifyOptions, Origin, Prediction, Score

if TYPE_CHECKING:
    from inkling.contract import Contract

__all__ = ["HttpClassifier"]


class HttpClassifier(RemoteClassifier):
    """A classifier behind a gateway's HTTP port; it connects on first use."""

    # Each call under way has a connection of its own.
    _window = 8

    def __init__(self, target: str, **options: Any) -> None:
        """Take the address of the gateway; nothing is sent yet.

        Args:
            target: `http://host:port` or `https://host:port` of the gateway; a path
                stands before `/v1` in every request.
            options: The attributes of `inkling.gateway.connection.Connection`.

        Raises:
            InvalidRequest: The address or an option is impossible.
        """
        self._connection = Connection.to(target, options)
        self._transport = HttpTransport(self._connection)

    def contract(self) -> Contract:
        """Return the contract of the version that answers now, as the gateway has it.

        Raises:
            InklingError: No version is ready, or the gateway cannot be reached.
        """
        path = f"/v1/models/{quote(self._connection.model, safe='')}"
        found = self._transport.json("GET", path)
        try:
            versions = [_version(version) for version in found["versions"]]
        except (KeyError, TypeError):
            raise no_gateway(self._transport.target) from None
        return contract_of(self._connection, versions)

    def close(self) -> None:
        """Close the connections, and end the calls under way; a later call connects."""
        self._transport.close()

    @property
    def _generation(self) -> int:
        return self._transport.pool.generation

    def _begin(self, image: bytes, options: ClassifyOptions) -> _HttpCall:
        if not image:
            # The gateway would take it for a request without a body.
            raise InvalidImage(f"The picture is empty; expected {EXPECTED}.")
        query = {"top_k": str(options.top_k)} if options.top_k > 1 else {}
        if options.abstain:
            query["abstain"] = "true"
        if options.threshold is not None:
            query["threshold"] = repr(options.threshold)
        path = _classify_path(self._connection)
        if query:
            path += f"?{urlencode(query)}"
        exchange = self._transport.begin("POST", path, image)
        return _HttpCall(exchange, self._transport.target)


class _HttpCall:
    """A classification under way."""

    def __init__(self, exchange: Exchange, target: str) -> None:
        self._exchange, self._target = exchange, target

    def result(self) -> Prediction:
        answer = self._exchange.json()
        try:
            return _prediction(answer)
        except (KeyError, TypeError, ValueError):
            raise no_gateway(self._target) from None

    def cancel(self) -> None:
        self._exchange.cancel()


@dataclass(frozen=True)
class _Version:
    version: int
    version_labels: list[str]
    contract_json: str


def _classify_path(connection: Connection) -> str:
    path = f"/v1/models/{quote(connection.model, safe='')}"
    if connection.version is not None:
        path += f"/versions/{connection.version}"
    elif connection.version_label is not None:
        path += f"/labels/{quote(connection.version_label, safe='')}"
    return f"{path}:classify"


def _version(found: Any) -> _Version:
    labels, contract = found["version_labels"], found.get("contract_json", "")
    return _Version(found["version"], labels, contract)


def _prediction(answer: Any) -> Prediction:
    [result] = answer["results"]
    origin = Origin(answer["model"], answer["version"], answer["contract"])
    top, labels = _scores(result["top"]), None
    if "labels" in result:
        labels = _scores(result["labels"])
    if not top:
        raise ValueError("no label")
    return Prediction(top, origin, result.get("abstained"), labels)


def _scores(found: Any) -> tuple[Score, ...]:
    return tuple(Score(s["label"], s["index"], s["probability"]) for s in found)
