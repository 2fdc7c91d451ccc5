# SPDX-License-Identifier: Apache-2.0
"""A name server for tests, since the machine's own names cannot be moved."""

from __future__ import annotations

import socket
import struct
import threading

__all__ = ["NameServer"]

_ADDRESS, _CLASS_INTERNET = 1, 1


class NameServer:
    """Answers questions for IPv4 addresses over UDP, on a port of the loopback.

    Attributes:
        addresses: The addresses of each name; a test may change them at any time.
        asked: How many questions came.
    """

    def __init__(self, **addresses: list[str]) -> None:
        self.addresses = addresses
        self.asked = 0
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def target(self, name: str, port: int) -> str:
        """Return what gRPC is to connect to, so that it asks this server."""
        return f"dns://127.0.0.1:{self._socket.getsockname()[1]}/{name}:{port}"

    def stop(self) -> None:
        """End the server."""
        self._socket.sendto(b"", self._socket.getsockname())
        self._thread.join()
        self._socket.close()

    def _run(self) -> None:
        while True:
            question, asker = self._socket.recvfrom(4096)
            if not question:
                return
            self.asked += 1
            self._socket.sendto(self._answer(question), asker)

    def _answer(self, message: bytes) -> bytes:
        """RFC 1035, section 4: the question again, and a record for each address."""
        labels, place = [], 12
        while length := message[place]:
            labels.append(message[place + 1 : place + 1 + length].decode())
            place += 1 + length
        [kind] = struct.unpack_from(">H", message, place + 1)
        known = self.addresses.get(".".join(labels), [])
        found = known if kind == _ADDRESS else []
        head = message[:2] + struct.pack(">5H", 0x8180, 1, len(found), 0, 0)
        answer = head + message[12 : place + 5]
        for address in found:
            # The name is the one at byte 12; the record may be kept for a second.
            record = struct.pack(">HHHIH", 0xC00C, _ADDRESS, _CLASS_INTERNET, 1, 4)
            answer += record + socket.inet_aton(address)
        return answer
