"""What Locust loads: the users, the shape, and what listens to its events."""

from __future__ import annotations

from inkling_loadtest.locust_side.users import GrpcPictures, HttpPictures
from inkling_loadtest.locust_side.wiring import LoadShape, register

__all__ = ["GrpcPictures", "HttpPictures", "LoadShape"]

register()
