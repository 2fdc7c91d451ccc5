# SPDX-License-Identifier: Apache-2.0
"""The API keys of the gateway, from a file, and the roles that each key has."""

from __future__ import annotations

import hmac
import logging
import re
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from inkling.errors import InvalidRequest, PermissionDenied, Unauthenticated
from inkling_serving.runtime.files import state_of
from inkling_serving.runtime.poller import Repeating

__all__ = ["ApiKeys", "Key", "Role"]

_log = logging.getLogger(__name__)

_MIN_KEY = 16
_LOOK_S = 1.0
_SCHEME = "bearer"
_NAME = re.compile(r"name=([A-Za-z0-9][A-Za-z0-9._@-]{0,63})")


class Role(StrEnum):
    """What a key may do. Every key has the role `read`."""

    READ = "read"
    PREDICT = "predict"
    FEEDBACK = "feedback"
    ADMIN = "admin"


# A line without roles was written before there were roles.
_WITHOUT_ROLES = frozenset({Role.PREDICT})


@dataclass(frozen=True)
class Key:
    """A key of the file.

    Attributes:
        name: The name for the log: the one that the file gives to the key, or else
            `key` and the number of its line.
        roles: What the key may do beside reading.
        secret: The key itself.
    """

    name: str
    roles: frozenset[Role]
    secret: bytes = field(repr=False)

    def may(self, role: Role) -> bool:
        """Return whether a request that needs this role may have this key."""
        return role is Role.READ or role in self.roles


class ApiKeys:
    """The keys of a file, one on each line; with two keys, a caller may send either.

    After the key, a line may have roles and a name, such as `KEY admin name=anna`. A
    line without roles stands for the role `predict`.

    The file may be replaced while the gateway serves. All processes look at it, and a
    process that starts later gets the keys of the supervisor, should the file be bad.
    """

    def __init__(self, path: str) -> None:
        """Read the keys; with an empty `path`, callers need no key.

        Raises:
            InvalidRequest: The file cannot be read, has no key, has a key that is too
                short or cannot be sent in a header, or has another word after a key.
        """
        self._path = path
        self._state = state_of(path) if path else ()
        self._wanted = _keys(path)

    def renew(self) -> None:
        """Read the file again if it was replaced; a bad file keeps the former keys."""
        state = state_of(self._path) if self._path else ()
        if state == self._state:
            return
        self._state = state
        try:
            self._wanted = _keys(self._path)
        except InvalidRequest as error:
            _log.warning("the API keys stay as they were: %s", error.message)
        else:
            _log.info("the file of API keys was replaced; its keys are valid now")

    def watch(self) -> Repeating:
        """Look at the file once a second from now on, until `stop` is called."""
        self.renew()
        return Repeating("reading the API keys", self.renew, lambda: _LOOK_S)

    def check(
        self, authorization: str | bytes | None, role: Role = Role.READ
    ) -> Key | None:
        """Check the header `Authorization`, and return its key.

        The duration of the comparison does not depend on how similar the keys are.

        Args:
            authorization: The value of the header; None without it.
            role: The role that the request needs.

        Returns:
            The key; None if callers need no key.

        Raises:
            Unauthenticated: The header does not contain a valid key.
            PermissionDenied: The key does not have the role.
        """
        if not self._wanted:
            return None
        given = authorization or b""
        if isinstance(given, str):
            given = given.encode()
        # The scheme is case-insensitive (RFC 9110, section 11.1); the key is not.
        scheme, _, secret = given.partition(b" ")
        known = scheme.lower() == _SCHEME.encode()
        secret = secret.strip()
        right = [k for k in self._wanted if hmac.compare_digest(secret, k.secret)]
        if not known or not right:
            came = "a wrong key" if given else "no key"
            raise Unauthenticated(
                f"This server requires an API key; the request has {came}. Send the "
                "header Authorization: Bearer KEY."
            )
        if not right[0].may(role):
            has = ", ".join(sorted({Role.READ, *right[0].roles}))
            raise PermissionDenied(
                f"This request needs a key with the role {role}; the key has: {has}. "
                "The file of API keys gives roles to keys: KEY ROLE."
            )
        return right[0]


def _keys(path: str) -> list[Key]:
    if not path:
        return []
    lines = enumerate(_text(path).splitlines(), start=1)
    found = [_key(number, line.split()) for number, line in lines if line.strip()]
    if not found:
        raise _bad("The file is empty.")
    if len({key.secret for key in found}) < len(found):
        raise _bad("Two lines have the same key.")
    return found


def _key(number: int, words: list[str]) -> Key:
    secret, *rest = words
    if len(secret) < _MIN_KEY or not (secret.isascii() and secret.isprintable()):
        raise _bad(f"Line {number} begins with something else.")
    roles, name = set(), f"key {number}"
    for word in rest:
        if match := _NAME.fullmatch(word):
            name = match[1]
        elif word in set(Role):
            roles.add(Role(word))
        else:  # it may be another key, so that it is not quoted
            raise _bad(f"Line {number} has another word after its key.")
    return Key(name, frozenset(roles) or _WITHOUT_ROLES, secret.encode())


def _bad(fault: str) -> InvalidRequest:
    return InvalidRequest(
        "The file of INKLING_API_KEY_FILE must have one key on each line; a key has "
        f"{_MIN_KEY} or more printable ASCII characters, and its roles "
        f"({', '.join(Role)}) and name=NAME may follow. {fault} Make a key with: "
        "openssl rand -hex 24"
    )


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, ValueError):
        raise InvalidRequest(
            f"The file of INKLING_API_KEY_FILE cannot be read as UTF-8 text: {path}"
        ) from None
