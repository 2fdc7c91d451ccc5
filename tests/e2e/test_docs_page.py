# SPDX-License-Identifier: Apache-2.0
"""The page at /docs in a real browser: what it shows, tries, and asks for."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from inkling_serving.http_api.routes import ROUTES
from tests.support.browser import wait
from tests.support.reverse_proxy import proxied

_TIMEOUT_S = 30


def _open(browser: webdriver.Chrome, url: str) -> None:
    browser.get(url)
    wait(browser, "document.querySelectorAll('.opblock').length > 0")


def _asked_for(browser: webdriver.Chrome) -> set[str]:
    """Return the addresses of all that the page has loaded, but for data: URLs."""
    found = browser.execute_script(
        "return performance.getEntriesByType('resource').map(one => one.name)"
    )
    return {url for url in found if not url.startswith("data:")}


def _try(browser: webdriver.Chrome, name: str) -> Any:
    """Open an operation, fill the model in, and return its part of the page."""
    part = browser.find_element(By.CSS_SELECTOR, f"[id$='-{name}']")
    part.find_element(By.CSS_SELECTOR, ".opblock-summary-control").click()
    wait(browser, f"document.querySelector('[id$=\"-{name}\"] .execute')")
    return part


def _answer(browser: webdriver.Chrome, part: Any) -> Any:
    """Send the request; return the JSON of the answer as the page shows it."""
    part.find_element(By.CSS_SELECTOR, ".execute").click()
    shown = WebDriverWait(browser, _TIMEOUT_S).until(
        lambda _: part.find_elements(
            By.CSS_SELECTOR, ".live-responses-table .response .highlight-code code"
        )
    )
    return json.loads(shown[0].text)


def test_every_address_is_shown(browser: webdriver.Chrome, gateway: Any) -> None:
    """The page has each address, within the page's Content-Security-Policy."""
    _open(browser, gateway.url + "/docs")

    shown = browser.find_elements(By.CSS_SELECTOR, ".opblock")
    title = browser.find_element(By.CSS_SELECTOR, ".info .title").text
    assert len(ROUTES) == len(shown)
    assert "Inkling" in title
    assert [] == [e for e in browser.get_log("browser") if e["level"] == "SEVERE"]
    policy = gateway.request("GET", "/docs").headers["content-security-policy"]
    assert policy == gateway.request("GET", "/").headers["content-security-policy"]
    assert "unsafe-inline" not in policy


def test_a_picture_is_tried(
    browser: webdriver.Chrome, gateway: Any, picture: bytes, tmp_path: Path
) -> None:
    """Under a path, a chosen file is classified, and nothing is asked for elsewhere."""
    (tmp_path / "three.png").write_bytes(picture)
    prefix = "/a/inkling"
    with proxied(prefix, gateway.port) as proxy:
        _open(browser, f"{proxy.url}{prefix}/docs")
        part = _try(browser, "classify")
        part.find_element(By.CSS_SELECTOR, "[data-param-name=model] input").send_keys(
            "mlp"
        )
        file = part.find_element(By.CSS_SELECTOR, "input[type=file]")
        file.send_keys(str(tmp_path / "three.png"))
        answer = _answer(browser, part)
        asked, elsewhere = _asked_for(browser), list(proxy.elsewhere)

    expected = gateway.request("POST", "/v1/models/mlp:classify", picture).json
    assert expected == answer
    assert f"{proxy.url}{prefix}/v1/models/mlp:classify" in asked
    assert all(url.startswith(f"{proxy.url}{prefix}/") for url in asked)
    assert [] == elsewhere
    assert [] == [e for e in browser.get_log("browser") if e["level"] == "SEVERE"]


def test_a_key_is_entered(
    browser: webdriver.Chrome,
    published: Path,
    tmp_path: Path,
    start_gateway: Callable[..., Any],
) -> None:
    """The page needs no key; a request that needs one is sent with the key entered."""
    keys = tmp_path / "keys"
    keys.write_text("a-key-of-enough-letters\n")
    with start_gateway(published, "--api-key-file", str(keys)) as gateway:
        _open(browser, gateway.url + "/docs")
        refused = _answer(browser, _try(browser, "listModels"))
        browser.find_element(By.CSS_SELECTOR, ".authorize").click()
        field = browser.find_element(By.CSS_SELECTOR, ".auth-container input")
        field.send_keys("a-key-of-enough-letters")
        browser.find_element(By.CSS_SELECTOR, ".auth-btn-wrapper .authorize").click()
        browser.find_element(By.CSS_SELECTOR, ".auth-btn-wrapper .btn-done").click()
        part = browser.find_element(By.CSS_SELECTOR, "[id$='-listModels']")
        part.find_element(By.CSS_SELECTOR, ".btn-clear").click()
        allowed = _answer(browser, part)

    assert "unauthenticated" == refused["error"]["code"]
    assert {"cnn", "mlp"} == {model["name"] for model in allowed["models"]}
