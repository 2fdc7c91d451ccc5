# SPDX-License-Identifier: Apache-2.0
"""Debian's Chromium, headless, on the gateway's page."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.support.ui import WebDriverWait

__all__ = ["chromium", "opened", "wait"]

_TIMEOUT_S = 20
_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1280,860",
    # A camera that shows a test picture, and is allowed without a question.
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
)


@contextmanager
def chromium(profile: Path) -> Iterator[webdriver.Chrome]:
    """Run a browser with a profile of its own; skip aloud where there is none."""
    program, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (program and driver):
        pytest.skip("no chromium and chromedriver here; the page was NOT checked")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for flag in (*_FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    running = webdriver.Chrome(options, webdriver.ChromeService(driver))
    try:
        yield running
    finally:
        running.quit()


def wait(browser: webdriver.Chrome, script: str) -> Any:
    """Return the value of a script once it is true."""
    return WebDriverWait(browser, _TIMEOUT_S).until(
        lambda b: b.execute_script(f"return {script}")
    )


def opened(browser: webdriver.Chrome, url: str, model: str) -> None:
    """Open the page at an address, and choose a model."""
    browser.get(url)
    wait(browser, "document.body.dataset.connection === 'ready'")
    browser.execute_script(
        "const m = document.querySelector('#model'); m.value = arguments[0];"
        "m.dispatchEvent(new Event('change', {bubbles: true}));",
        model,
    )
