# SPDX-License-Identifier: Apache-2.0
"""Pictures for the tests of the dialects, and what our own address says of them."""

from __future__ import annotations

import base64
import io
import json
from typing import Any

import numpy as np
from PIL import Image


def two_pictures() -> list[bytes]:
    """Return a sample of the model's size, and a photo of a dark stroke, as PNG."""
    found = []
    for side, paper, ink in ((28, 0, 255), (120, 230, 20)):
        pixels = np.full((side, side), paper, np.uint8)
        pixels[side // 5 : -side // 5, side // 2 - side // 10 : side // 2] = ink
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG")
        found.append(file.getvalue())
    return found


def b64(picture: bytes) -> str:
    """Return a picture in base64."""
    return base64.b64encode(picture).decode()


def classified(gateway: Any, pictures: list[bytes]) -> np.ndarray:
    """Return the scores that `:classify` gives, by index."""
    body = json.dumps({"images": [{"b64": b64(one)} for one in pictures]}).encode()
    answer = gateway.request("POST", "/v1/models/mlp:classify?top_k=10", body).json
    rows = np.zeros((len(pictures), 10), np.float32)
    for row, result in zip(rows, answer["results"], strict=True):
        for score in result["top"]:
            row[score["index"]] = score["probability"]
    return rows
