# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the tests of the page: a browser, and a gateway with models of photos."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver

from tests.support.browser import chromium
from tests.support.gateway_process import serving


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[webdriver.Chrome]:
    """Debian's Chromium, headless, with a profile of its own."""
    with chromium(tmp_path / "profile") as running:
        yield running


@pytest.fixture(scope="module")
def photo_gateway(
    colours: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Any]:
    """A gateway over models of photos, and no model of drawings."""
    with serving(colours, log=tmp_path_factory.mktemp("photos") / "log") as gateway:
        yield gateway
