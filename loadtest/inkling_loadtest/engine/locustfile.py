"""What Locust loads: the users and the shape; with them come the options and the report."""

from __future__ import annotations

from inkling_loadtest.engine.users import GrpcPictures, HttpPictures
from inkling_loadtest.engine.wiring import LoadShape, register

__all__ = ["GrpcPictures", "HttpPictures", "LoadShape"]

register()
