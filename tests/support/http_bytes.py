# SPDX-License-Identifier: Apache-2.0
"""Bytes to and from an HTTP port, without a library that would correct them."""

from __future__ import annotations

import re
import socket
import time
from contextlib import suppress
from dataclasses import dataclass

_PAUSE_S = 0.02
_LENGTH = re.compile(rb"\r\ncontent-length: (\d+)\r\n", re.IGNORECASE)


@dataclass(frozen=True)
class Heard:
    """Everything that a server sent until it closed the connection."""

    statuses: tuple[int, ...]
    text: bytes


def converse(port: int, *parts: bytes, timeout_s: float = 30) -> Heard:
    """Send each part as a segment; return all that the server sends until it closes."""
    with socket.create_connection(("127.0.0.1", port), timeout_s) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for place, part in enumerate(parts):
            if place:
                time.sleep(_PAUSE_S)
            with suppress(ConnectionError):
                connection.sendall(part)
        text = b""
        with suppress(ConnectionResetError):
            while piece := connection.recv(65_536):
                text += piece
    answers = text.split(b"HTTP/1.1 ")[1:]
    return Heard(tuple(int(answer[:3]) for answer in answers), text)


def whole_answer(connection: socket.socket) -> bytes:
    """Return one answer of the length that it states; fewer bytes where it was cut short."""
    text = b""
    while b"\r\n\r\n" not in text:
        if not (piece := connection.recv(65_536)):
            return b""
        text += piece
    found = _LENGTH.search(text)
    assert found, text
    end = text.index(b"\r\n\r\n") + 4 + int(found.group(1))
    while len(text) < end:
        if not (piece := connection.recv(65_536)):
            return b""
        text += piece
    return text
