"""The load test for plain Locust: `locust -f loadtest/locustfile.py --host http://...`."""

from inkling_loadtest.engine.locustfile import GrpcPictures, HttpPictures, LoadShape

__all__ = ["GrpcPictures", "HttpPictures", "LoadShape"]
