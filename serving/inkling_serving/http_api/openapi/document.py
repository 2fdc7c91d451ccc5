# SPDX-License-Identifier: Apache-2.0
"""Makes the OpenAPI 3.1 document of a table of addresses.

msgspec makes the schemas from the types of the operations.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import msgspec
from msgspec import Meta

from inkling.errors import ErrorCode
from inkling_serving import __version__
from inkling_serving.http_api.openapi import answers
from inkling_serving.http_api.openapi.error_responses import (
    FORMS,
    error_responses,
    response_name,
)
from inkling_serving.http_api.openapi.operation import Group, Header
from inkling_serving.http_api.refusals import has_quota, protocol_of, status_of
from inkling_serving.keys import Role

if TYPE_CHECKING:
    from inkling_serving.http_api.openapi.operation import Content, Operation
    from inkling_serving.settings import Settings

__all__ = ["Address", "document"]

_Json = dict[str, Any]
_SCHEMA = "#/components/schemas/{name}"
_PLACE = re.compile(r"<name:(\w+)>")
_Number = Annotated[int, Meta(description="The version's number.")]
_NAMES: dict[str, Any] = {
    "model": Annotated[str, Meta(min_length=1, description="The model's name.")],
    "version": _Number,
    "sha256": Annotated[
        str, Meta(pattern="^[0-9a-f]{64}$", description="The file's SHA-256.")
    ],
    "version_label": Annotated[
        str, Meta(description="A label of a version, such as `stable`.")
    ],
}
_NumberOrLabel = Annotated[
    str, Meta(description="The version's number, or a label of it.")
]
_RequestId = Annotated[str, Meta(pattern="^[A-Za-z0-9._-]{1,64}$")]
_HEADERS = {
    "X-Request-Id": Header(_RequestId, "The id of the request, which the log has."),
    "X-Inkling-Error-Code": Header(ErrorCode, "The code word of the error."),
    "Retry-After": Header(int, "Try again after these seconds."),
    "RateLimit": Header(str, "What is left of the key's quotas (IETF's draft)."),
    "RateLimit-Policy": Header(str, "The quotas of a key (IETF's draft)."),
    "WWW-Authenticate": Header(str, "How to show a key."),
    "Allow": Header(str, "With the status 405: the methods of the address."),
}
_REQUEST_HEADERS = {
    "X-Request-Id": Header(_RequestId, "An id of your own for the request.")
}
_TAG = Header(str, "The SHA-256 of the answer, in quotes.")
_KEY, _CERTIFICATE = "apiKey", "clientCertificate"
_KEY_TEXT = (
    "A key may ask for the addresses of its roles; each key may ask for those with the "
    f"role `{Role.READ}`."
)


class Address(Protocol):
    """A row of the table of addresses."""

    @property
    def method(self) -> str:
        """The method in capital letters."""

    @property
    def rule(self) -> str:
        """The path as a rule of Flask."""

    @property
    def operation(self) -> Operation:
        """What the address does."""


def document(addresses: Iterable[Address], settings: Settings) -> _Json:
    """Return the document of a gateway with these addresses and settings.

    It is for the JSON of an OpenAPI 3.1 document. The address of the server in it is
    relative, so that it holds behind a reverse proxy, too.
    """
    return _Document(settings).of(addresses)


class _Document:
    """The document while it is made; the types that it needs become schemas."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._schemas: _Json = {}
        self._refusals: set[str] = set()

    def of(self, addresses: Iterable[Address]) -> _Json:
        paths: dict[str, _Json] = {}
        for one in filter(self._is_on, addresses):
            path = _PLACE.sub(r"{\1}", one.rule)
            paths.setdefault(path, {})[one.method.lower()] = self._operation(one, path)
        errors = error_responses()
        for kind in (*FORMS.values(), answers.Prediction, answers.RefusedImage):
            self._schema(kind)
        return {
            "openapi": "3.1.0",
            "info": self._info(),
            "servers": [{"url": "."}],
            "tags": [{"name": str(group)} for group in Group],
            "paths": paths,
            "components": {
                "schemas": self._schemas,
                "responses": {n: errors[n] for n in errors if n in self._refusals},
                "headers": {n: self._header(h) for n, h in _HEADERS.items()},
                **self._security_schemes(),
            },
        }

    def _is_on(self, address: Address) -> bool:
        setting = address.operation.setting
        return not setting or bool(getattr(self._settings, setting))

    def _info(self) -> _Json:
        limits = self._settings
        return {
            "title": "Inkling",
            "summary": "A gateway that classifies pictures.",
            "description": (
                f"A request has at most {limits.max_batch:,} pictures and "
                f"{limits.max_body_bytes:,} bytes; a picture has at most "
                f"{limits.max_image_bytes:,} bytes, and {limits.max_image_pixels:,} "
                "pixels after it was reduced while it was read. A body may be "
                "compressed, with the Content-Encoding gzip or deflate. Each GET "
                "address also answers HEAD."
            ),
            "version": __version__,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        }

    def _schema(self, kind: Any) -> _Json:
        """Return the schema of a type; the classes in it become components."""
        [schema], classes = msgspec.json.schema_components([kind], ref_template=_SCHEMA)
        self._schemas |= classes
        return schema

    def _header(self, header: Header) -> _Json:
        return {"description": header.description, "schema": self._schema(header.type)}

    def _content(self, content: Content) -> _Json:
        return {media: {"schema": self._schema(k)} for media, k in content.items()}

    def _security_schemes(self) -> _Json:
        """Return all that a request may have to show; tools offer to enter it."""
        found: _Json = {}
        if self._settings.api_key_file:
            found[_KEY] = {
                "type": "http",
                "scheme": "bearer",
                "description": _KEY_TEXT,
            }
        if self._settings.tls_client_ca:
            found[_CERTIFICATE] = {"type": "mutualTLS"}
        return {"securitySchemes": found} if found else {}

    def _needs_key(self, operation: Operation) -> bool:
        return bool(self._settings.api_key_file) and operation.role is not None

    def _security(self, operation: Operation) -> _Json:
        """Return what a request must show: a key with a role, a certificate."""
        needed: _Json = {}
        if self._needs_key(operation):
            needed[_KEY] = [str(operation.role)]
        if self._settings.tls_client_ca:
            needed[_CERTIFICATE] = []
        return {"security": [needed]} if needed else {}

    def _operation(self, address: Address, path: str) -> _Json:
        operation = address.operation
        parts = {"/versions/": "Version", "/labels/": "Label"}
        of = "".join(word for part, word in parts.items() if part in address.rule)
        shown: _Json = {
            "operationId": operation.id + of,
            "summary": operation.summary + ".",
            "tags": [str(operation.group)],
            "parameters": [*self._parameters(operation, _PLACE.findall(address.rule))],
            "responses": self._responses(operation, path),
            **self._security(operation),
        }
        if operation.description:
            shown["description"] = operation.description
        if operation.body:
            shown["requestBody"] = {
                "required": operation.needs_body,
                "content": self._content(operation.body),
            }
        return shown

    def _parameters(self, operation: Operation, names: list[str]) -> Iterator[_Json]:
        types = dict(_NAMES)
        if operation.group == Group.OPEN_INFERENCE:
            types["version"] = _NumberOrLabel
        for name in names:
            schema = self._schema(types[name])
            yield _parameter("path", name, schema) | {"required": True}
        if operation.options:
            _, classes = msgspec.json.schema_components([operation.options])
            options = classes[operation.options.__name__]["properties"]
            for name, schema in options.items():
                yield _parameter("query", name, schema)
        headers = {**operation.headers, **_REQUEST_HEADERS}
        if operation.has_tag:
            headers["If-None-Match"] = Header(str, "The ETag of what you have.")
        for name, header in headers.items():
            yield {"in": "header", "name": name, **self._header(header)}

    def _responses(self, operation: Operation, path: str) -> _Json:
        is_ours = protocol_of(path) == "http"
        codes = [*operation.errors]
        if self._needs_key(operation):
            codes.append(ErrorCode.UNAUTHENTICATED)
            if operation.role is not Role.READ:
                codes.append(ErrorCode.PERMISSION_DENIED)
            if self._settings.has_quotas and has_quota(path):
                codes.append(ErrorCode.QUOTA_EXCEEDED)
        statuses = sorted({status_of(code, is_ours) for code in codes})
        found: _Json = {}
        if operation.answer:
            found |= self._successes(operation)
        for status in statuses:
            found[str(status.value)] = self._refusal(response_name(status, is_ours))
        return {**found, "default": self._refusal(response_name(None, is_ours))}

    def _successes(self, operation: Operation) -> _Json:
        headers = {n: self._header(h) for n, h in operation.answer_headers.items()}
        headers["X-Request-Id"] = {"$ref": "#/components/headers/X-Request-Id"}
        if operation.has_tag:
            headers["ETag"] = self._header(_TAG)
        answer: _Json = {
            "description": "The answer.",
            "headers": headers,
            "content": self._content(operation.answer),
        }
        if not operation.has_tag:
            return {"200": answer}
        same = {"description": "You have the answer already.", "headers": headers}
        return {"200": answer, "304": same}

    def _refusal(self, name: str) -> _Json:
        self._refusals.add(name)
        return {"$ref": f"#/components/responses/{name}"}


def _parameter(place: str, name: str, schema: _Json) -> _Json:
    """Return a parameter, whose description is not that of its type."""
    rest = {key: value for key, value in schema.items() if key != "description"}
    return {
        "in": place,
        "name": name,
        "description": schema["description"],
        "schema": rest,
    }
