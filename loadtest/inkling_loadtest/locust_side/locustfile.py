# SPDX-License-Identifier: Apache-2.0
"""What Locust loads: the users, the shape, and what listens to its events."""

from __future__ import annotations

from inkling_loadtest.locust_side.events import LoadShape, register
from inkling_loadtest.locust_side.users import GrpcPictures, HttpPictures

__all__ = ["GrpcPictures", "HttpPictures", "LoadShape"]

register()
