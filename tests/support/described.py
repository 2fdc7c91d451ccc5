# SPDX-License-Identifier: Apache-2.0
"""Compares real answers with the OpenAPI document of the gateway that gave them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any
from urllib.parse import unquote

from jsonschema import Draft202012Validator

from tests.support.gateway_process import Answer, GatewayProcess

__all__ = ["Described", "DescribedGateway", "closed", "described_by"]

# The headers of answers that are HTTP's own, or that browsers ask for.
_UNTOLD = re.compile(
    r"(date|server|connection|vary|etag|accept-ranges|cache-control|content-.*"
    r"|last-modified|x-content-type-options|access-control-.*)$"
)

_REQUEST_LINE = re.compile(rb"([A-Z]+) (\S+) HTTP/1\.[01]\r\n")


def closed(schema: Any) -> Any:
    """Return a schema whose objects may have no other members than it names."""
    if isinstance(schema, list):
        return [closed(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    found = {key: closed(value) for key, value in schema.items()}
    return {"additionalProperties": False, **found} if "properties" in found else found


@dataclass(frozen=True)
class Described:
    """The OpenAPI document of a gateway."""

    document: Mapping[str, Any]

    @cached_property
    def _components(self) -> Any:
        return closed(self.document["components"])

    @cached_property
    def _patterns(self) -> list[tuple[re.Pattern[str], str]]:
        # A path without names in it comes before one with a name in the same place.
        paths = sorted(self.document["paths"], key=lambda path: path.count("{"))
        return [
            (re.compile(re.sub(r"\\{\w+\\}", "[^/:]+", re.escape(path))), path)
            for path in paths
        ]

    def operation(self, method: str, path: str) -> dict[str, Any] | None:
        """Return the description of an address; None if the document does not have it."""
        for pattern, written in self._patterns:
            found = self.document["paths"][written]
            if pattern.fullmatch(path) and method.lower() in found:
                operation: dict[str, Any] = found[method.lower()]
                return operation
        return None

    def _response(self, method: str, path: str, status: int) -> dict[str, Any]:
        operation = self.operation(method, path)
        if operation is None:
            is_foreign = re.match(r"/v2(/|$)|.*(:predict|/metadata)$", path)
            name = "OtherErrorMessage" if is_foreign else "OtherError"
            response = {"$ref": f"#/components/responses/{name}"}
        else:
            responses = operation["responses"]
            response = responses.get(str(status)) or responses["default"]
        if "$ref" in response:
            name = response["$ref"].rpartition("/")[2]
            response = self.document["components"]["responses"][name]
        return response

    def check(
        self, method: str, path: str, status: int, headers: Mapping[str, str], body: Any
    ) -> None:
        """Check an answer: its status, its headers, the type of its body, its JSON.

        Args:
            method: The method of the request; HEAD has the answer of GET, without body.
            path: The path of the request, without the query.
            status: The answer's status.
            headers: The answer's headers by their names in lower case.
            body: The answer's body.
        """
        shown = "GET" if method == "HEAD" else method
        response = self._response(shown, path, status)
        told = {name.lower() for name in response["headers"]}
        untold = {name for name in headers if not _UNTOLD.match(name)} - told
        assert not untold, f"{method} {path} answers {status} with the headers {untold}"
        if "x-inkling-error-code" in headers:
            code = headers["x-inkling-error-code"]
            text = response["description"]
            assert f"`{code}`" in text or text.startswith("Any other"), (path, code)
        if "content" not in response:
            assert not body
            return
        kind = headers["content-type"].partition(";")[0]
        assert kind in response["content"], f"{method} {path} answers {kind}"
        if kind == "application/json" and method != "HEAD":
            self._validate(json.loads(body), response["content"][kind]["schema"])

    def _validate(self, value: Any, schema: Mapping[str, Any]) -> None:
        whole = {**schema, "components": self._components}
        Draft202012Validator(whole).validate(value)

    def check_text(self, request: bytes, text: bytes) -> None:
        """Check the last of the answers to the last request that was sent."""
        head, _, body = text[text.rindex(b"HTTP/1.1 ") :].partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines)
        lines_sent = _REQUEST_LINE.findall(request) or [(b"", b"")]
        method, target = (word.decode("latin-1") for word in lines_sent[-1])
        status = int(first.split()[1])
        self.check(method, target.partition("?")[0], status, headers, body)


@dataclass(frozen=True)
class DescribedGateway(GatewayProcess):
    """A gateway whose answers are all compared with its document."""

    described: Described

    def request(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> Answer:
        answer = super().request(method, path, body, headers)
        written = unquote(path.partition("?")[0])
        # The pages, and what no page and no address is.
        if written != "/" and not written.startswith(("/page/", "/docs")):
            found = answer.headers, answer.body
            self.described.check(method, written, answer.status, *found)
        return answer


def described_by(gateway: GatewayProcess) -> DescribedGateway:
    """Return a running gateway, together with the document that it answers."""
    document = gateway.request("GET", "/openapi.json").json
    values = {f.name: getattr(gateway, f.name) for f in fields(GatewayProcess)}
    return DescribedGateway(**values, described=Described(document))
