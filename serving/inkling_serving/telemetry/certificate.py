# SPDX-License-Identifier: Apache-2.0
"""The end of a certificate's validity, from its file.

Python's ssl shows it of a peer's certificate only, and a library for X.509 would be the
largest dependency of the gateway. The end stands at a fixed place (RFC 5280, 4.1).
"""

from __future__ import annotations

import re
import ssl
from datetime import UTC, datetime
from pathlib import Path

__all__ = ["end_of"]

_BEGIN, _END = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
_VERSION_TAG, _UTC_TIME = 0xA0, 0x17
_TIME = re.compile(rb"[0-9]{12,14}Z")


def end_of(path: str) -> float | None:
    """Return when a file's first certificate ends, in seconds since 1970.

    None stands for a file that has no certificate that can be read.
    """
    try:
        text = Path(path).read_text(encoding="ascii")
        der = ssl.PEM_cert_to_DER_cert(_first(text))
        return _end(der).timestamp()
    except (OSError, ValueError, IndexError):
        return None


def _first(text: str) -> str:
    start = text.index(_BEGIN)
    return text[start : text.index(_END, start) + len(_END)] + "\n"


def _end(der: bytes) -> datetime:
    fields = _parts(_parts(_parts(der)[0][1])[0][1])
    if fields[0][0] == _VERSION_TAG:
        fields = fields[1:]
    # The serial number, the signature's algorithm and the issuer stand before it.
    tag, text = _parts(fields[3][1])[1]
    if not _TIME.fullmatch(text):
        raise ValueError(text)
    digits = text.decode()
    if tag == _UTC_TIME:
        digits = ("19" if digits >= "5" else "20") + digits
    return datetime.strptime(digits, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)


def _parts(der: bytes) -> list[tuple[int, bytes]]:
    """Return the tags and contents that follow each other in DER."""
    found = []
    while der:
        tag, size, at = der[0], der[1], 2
        if size & 0x80:
            at += size & 0x7F
            size = int.from_bytes(der[2:at], "big")
        if at + size > len(der):
            raise ValueError("the certificate is cut short")
        found.append((tag, der[at : at + size]))
        der = der[at + size :]
    return found
