# SPDX-License-Identifier: Apache-2.0
"""A TFLite file that carries its contract, so that a device needs no other file.

The contract is in a zip archive behind the model, as TFLite's own metadata is. Readers
of models ignore the archive, and any tool for zip files shows it. The archive also
states the SHA-256 of the model, because LiteRT runs a damaged model without an error.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
import zlib
from dataclasses import dataclass

from inkling.contract import Contract
from inkling.errors import BrokenVersion

__all__ = ["Bundle", "read_bundle"]

_MEMBER = "inkling.json"
_FORMAT = 1
_MAX_DESCRIPTION = 1024 * 1024


@dataclass(frozen=True)
class Bundle:
    """A TFLite model with its name, format and contract.

    Attributes:
        model: The bytes of the TFLite file, for LiteRT.
        name: The model's name.
        tflite_format: `float32`, `float16` or `int8`.
        contract: The contract of the model.
    """

    model: bytes
    name: str
    tflite_format: str
    contract: Contract

    def to_bytes(self) -> bytes:
        """Return the bytes of the file: the model, and the archive behind it."""
        described = {
            "format": _FORMAT,
            "name": self.name,
            "tflite_format": self.tflite_format,
            "sha256": hashlib.sha256(self.model).hexdigest(),
            "contract_hash": self.contract.hash,
            "contract": self.contract.json,
        }
        file = io.BytesIO(self.model)
        with zipfile.ZipFile(file, "a") as archive:
            # A bare ZipInfo has a fixed date, so the same model gives the same file.
            member = zipfile.ZipInfo(_MEMBER)
            archive.writestr(member, json.dumps(described, indent=1, sort_keys=True))
        return file.getvalue()


def read_bundle(content: bytes) -> Bundle:
    """Return the model and the contract in the bytes of a TFLite file.

    Raises:
        BrokenVersion: The file carries no contract, or it was changed after Inkling
            wrote it.
        InvalidContract: This version of Inkling does not support the contract.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            member = archive.infolist()[0]
            start = member.header_offset
            if member.file_size > _MAX_DESCRIPTION:
                raise ValueError("the description is too long")
            described = json.loads(archive.read(_MEMBER))
        model, contract = content[:start], Contract.from_json(described["contract"])
        named = described["name"], described["tflite_format"]
        digests = described["sha256"], described["contract_hash"]
    except (
        zipfile.BadZipFile,
        zlib.error,
        KeyError,
        IndexError,
        ValueError,
        TypeError,
        NotImplementedError,
        RecursionError,
        RuntimeError,
        EOFError,
    ):
        raise BrokenVersion(
            "The TFLite file carries no contract, or is damaged. Use a file from a "
            "version that Inkling published."
        ) from None
    bundle = Bundle(model, *named, contract)
    # The second comparison finds changes in bytes that a zip reader ignores.
    right = (hashlib.sha256(model).hexdigest(), contract.hash)
    if digests != right or bundle.to_bytes() != content:
        raise BrokenVersion(
            "The TFLite file differs from the published one (by its SHA-256). Copy the "
            "file again."
        )
    return bundle
