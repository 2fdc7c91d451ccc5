# SPDX-License-Identifier: Apache-2.0
"""The load test for plain Locust: `locust -f loadtest/locustfile.py --host http://...`."""

from inkling_loadtest.locust_side.locustfile import (
    GrpcPictures,
    HttpPictures,
    LoadShape,
)

__all__ = ["GrpcPictures", "HttpPictures", "LoadShape"]
