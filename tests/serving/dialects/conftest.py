# SPDX-License-Identifier: Apache-2.0
"""All answers to other people's protocols are as the OpenAPI document says."""

from __future__ import annotations

import pytest

from tests.support.described import DescribedGateway


@pytest.fixture(scope="session")
def gateway(described: DescribedGateway) -> DescribedGateway:
    """The gateway of all tests, with each answer compared with its document."""
    return described
