"""A TFLite file that carries its contract, so that it can travel alone.

The contract is in a zip archive behind the model, as TFLite's own metadata is: readers
of models pass over it, and any tool for zip files shows it. What is in it also says the
sha256 of the model, because LiteRT runs a damaged model without noticing.
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
    """A TFLite model with what is known of it.

    Attributes:
        model: The bytes for LiteRT.
        name: The model's name.
        tflite_format: `float32`, `float16` or `int8`.
        contract: What the model expects of an image.
    """

    model: bytes
    name: str
    tflite_format: str
    contract: Contract

    def to_bytes(self) -> bytes:
        """Return the file: the model, and the archive behind it."""
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
            # A ZipInfo of its own has a fixed date: same model, same file.
            member = zipfile.ZipInfo(_MEMBER)
            archive.writestr(member, json.dumps(described, indent=1, sort_keys=True))
        return file.getvalue()


def read_bundle(content: bytes) -> Bundle:
    """Read a TFLite file that Inkling published, and check it.

    Raises:
        BrokenVersion: It carries no contract, or model or contract were changed.
        InvalidContract: Its contract cannot be followed here.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            member = archive.infolist()[0]
            start = member.header_offset
            if member.file_size > _MAX_DESCRIPTION:
                raise ValueError("no contract is as long")
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
            "The TFLite file carries no contract, or is damaged. Take the file from a "
            "version that Inkling published."
        ) from None
    bundle = Bundle(model, *named, contract)
    # The second comparison finds what a zip reader passes over.
    right = (hashlib.sha256(model).hexdigest(), contract.hash)
    if digests != right or bundle.to_bytes() != content:
        raise BrokenVersion(
            "The TFLite file is not the one that was published (its sha256 differs). "
            "Copy it again."
        )
    return bundle
