"""Who is asked what pictures show: a model on this device, or a gateway."""

from __future__ import annotations

import base64
import http.client
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from PIL import Image

import inkling
from inkling.errors import InklingError, InternalError, InvalidRequest, NotReady
from inkling.gateway.status import error_of
from inkling.image.pictures import encoded
from inkling.image.preprocess import explain
from inkling.model.repository import check_model_name
from inkling.types import Origin, Prediction, Score

__all__ = ["HttpRespondent", "LibraryRespondent", "Respondent"]

_TIMEOUT_S = 30.0
_NO_GATEWAY = "{} did not answer as a gateway of Inkling does; is this its address?"


class Respondent(Protocol):
    """Answers pictures, and shows what the model saw of one."""

    labels: tuple[str, ...]

    def outcomes(
        self, pictures: Iterable[Path], abstain: bool
    ) -> Iterator[Prediction | InklingError]:
        """Yield for each picture, in order, its prediction or why there is none."""

    def shown(self, picture: Path) -> tuple[Image.Image, Image.Image]:
        """Return a picture upright, and what the model saw of it.

        Raises:
            InklingError: As for its classification.
        """

    def close(self) -> None:
        """Let go of connections and models."""


class LibraryRespondent:
    """A classifier of `inkling.connect`: over gRPC or on this device."""

    def __init__(self, target: str | Path, model: str) -> None:
        """Connect, and learn the contract.

        Raises:
            InklingError: As `inkling.connect` and `Classifier.contract` say.
        """
        on_device = isinstance(target, Path)
        options: dict[str, Any] = {} if on_device else {"timeout_s": _TIMEOUT_S}
        self._classifier = inkling.connect(target, model=model, **options)
        self._contract = self._classifier.contract()
        self.labels = self._contract.labels

    def outcomes(
        self, pictures: Iterable[Path], abstain: bool
    ) -> Iterator[Prediction | InklingError]:
        """As `Respondent.outcomes`."""
        return self._classifier.outcomes(pictures, abstain=abstain)

    def shown(self, picture: Path) -> tuple[Image.Image, Image.Image]:
        """As `Respondent.shown`; prepared here, by the same code and contract."""
        _, stages = explain(encoded(picture), self._contract)
        upright = [stage for stage in stages if stage.name in ("decoded", "upright")]
        return upright[-1].picture, stages[-1].picture

    def close(self) -> None:
        """Close the classifier."""
        self._classifier.close()


class HttpRespondent:
    """A gateway's HTTP port, asked over one connection."""

    def __init__(self, url: str, model: str) -> None:
        """Ask the gateway for the model's labels.

        Args:
            url: Such as `http://127.0.0.1:8080`; a path before `/v1` is kept.
            model: Which model is asked.

        Raises:
            InvalidRequest: The address is none.
            NotReady: Nobody answers there, or no version of the model is available.
            InklingError: What the gateway refuses.
        """
        self._url, self._path, self._connection = _connection(url)
        self._path += f"/v1/models/{check_model_name(model)}"
        versions = _field(self._json("GET", self._path), "versions", url)
        ready = [version for version in versions if version["state"] == "AVAILABLE"]
        if not ready:
            raise NotReady(f'No version of the model "{model}" is available at {url}.')
        self.labels = tuple(ready[0]["labels"])

    def outcomes(
        self, pictures: Iterable[Path], abstain: bool
    ) -> Iterator[Prediction | InklingError]:
        """As `Respondent.outcomes`."""
        path = f"{self._path}:classify?abstain={'true' if abstain else 'false'}"
        for picture in pictures:
            try:
                answer = self._json("POST", path, encoded(picture))
                yield _prediction(answer, self._url)
            except InklingError as error:
                yield error

    def shown(self, picture: Path) -> tuple[Image.Image, Image.Image]:
        """As `Respondent.shown`; the gateway explains."""
        answer = self._json("POST", f"{self._path}:explain", encoded(picture))
        stages = _field(answer, "stages", self._url)
        upright = [stage for stage in stages if stage["name"] in ("decoded", "upright")]
        return _picture(upright[-1]), _picture(stages[-1])

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _json(self, method: str, path: str, body: bytes | None = None) -> Any:
        """Return the answer to a request.

        Raises:
            InklingError: The gateway refused it, or is not there.
        """
        try:
            return _parsed(*self._answer(method, path, body), self._url)
        except TimeoutError:
            raise NotReady(
                f"{self._url} did not answer within {_TIMEOUT_S:.0f} s."
            ) from None
        except (OSError, http.client.HTTPException):
            raise NotReady(
                f"{self._url} cannot be reached, or is no HTTP port. Start a gateway "
                "with: inkling serve"
            ) from None

    def _answer(self, method: str, path: str, body: bytes | None) -> tuple[int, bytes]:
        for _ in range(2):
            try:
                # Who refuses a body early answers before it is all sent.
                with suppress(BrokenPipeError, ConnectionResetError):
                    self._connection.request(method, path, body)
                response = self._connection.getresponse()
                return response.status, response.read()
            except ConnectionError:
                # A server may close a connection that it kept; the next is a new one.
                self._connection.close()
        raise ConnectionError("closed twice")


def _connection(url: str) -> tuple[str, str, http.client.HTTPConnection]:
    """Return an address as shown, its path, and an unopened connection to its host."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if not host:
        raise InvalidRequest(
            f"{url!r:.100} is no address; expected one such as http://127.0.0.1:8080."
        )
    kinds = {"http": http.client.HTTPConnection, "https": http.client.HTTPSConnection}
    connection = kinds[parts.scheme](host, port, timeout=_TIMEOUT_S)
    return url, parts.path.rstrip("/"), connection


def _parsed(status: int, body: bytes, url: str) -> Any:
    try:
        answer = json.loads(body)
    except ValueError:
        raise InternalError(_NO_GATEWAY.format(url)) from None
    if status == http.client.OK:
        return answer
    refusal = _field(answer, "error", url)
    raise error_of(refusal["code"], refusal["message"])


def _field(answer: Any, name: str, url: str) -> Any:
    value = answer.get(name) if isinstance(answer, Mapping) else None
    if not value:
        raise InternalError(_NO_GATEWAY.format(url))
    return value


def _prediction(answer: Any, url: str) -> Prediction:
    [result] = _field(answer, "results", url)
    top = tuple(
        Score(score["label"], score["index"], score["probability"])
        for score in result["top"]
    )
    origin = Origin(answer["model"], answer["version"], answer["contract"])
    return Prediction(top, origin, result.get("abstained"))


def _picture(stage: Mapping[str, Any]) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(stage["image"]["b64"])))
