# SPDX-License-Identifier: Apache-2.0
"""The page's column of this device: LiteRT.js beside the server, in a real browser."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support import expected_conditions
from selenium.webdriver.support.ui import WebDriverWait

from tests.support.browser import opened, wait
from tests.support.colour_models import colour
from tests.support.gateway_process import serving
from tests.support.reverse_proxy import proxied

_TOLD = ("console-api", True)
_KEY = "a-secret-key-of-some-length"


def _fetched(browser: webdriver.Chrome) -> list[str]:
    """Return the addresses that the page has loaded so far."""
    script = "return performance.getEntriesByType('resource').map(e => e.name)"
    found: list[str] = browser.execute_script(script)
    return found


def _of_device(browser: webdriver.Chrome) -> list[str]:
    return [one for one in _fetched(browser) if "device.js" in one or "litert" in one]


def _choose(browser: webdriver.Chrome, path: Path, content: bytes) -> None:
    path.write_bytes(content)
    browser.execute_script("document.body.dataset.answer = 'busy'")
    browser.find_element(By.ID, "file").send_keys(str(path))
    wait(browser, "document.body.dataset.answer === 'done'")


def _compared(browser: webdriver.Chrome, rows: int) -> list[list[str]]:
    """Return the table of the comparison, row by row, once both have answered."""
    wait(browser, "['agrees', 'differs', 'failed'].includes(device.dataset.state)")
    note = browser.find_element(By.ID, "device-note").text
    assert browser.find_element(By.ID, "device").get_attribute("data-state") == (
        "agrees"
    ), note
    wait(browser, f"document.querySelectorAll('#device-rows tr').length === {rows}")
    script = (
        "return [...document.querySelectorAll('#device-rows tr')]"
        ".map(row => [...row.children].map(cell => cell.textContent))"
    )
    table: list[list[str]] = browser.execute_script(script)
    return table


def _change_model(browser: webdriver.Chrome, name: str) -> None:
    browser.execute_script(
        "device.dataset.state = 'off'; model.value = arguments[0];"
        "model.dispatchEvent(new Event('change', {bubbles: true}))",
        name,
    )


def _tolerance(gateway: Any, model: str) -> float:
    [version] = gateway.request("GET", f"/v1/models/{model}").json["versions"]
    allowed: float = json.loads(version["contract_json"])["tolerances"]["float32"]
    return allowed


def _check(browser: webdriver.Chrome, gateway: Any, model: str, rows: int) -> None:
    """Both columns show the answer of the page, and scores that agree."""
    *labels, times = _compared(browser, rows)
    answer = browser.find_element(By.ID, "answer").text
    assert labels[0][0] in answer
    assert [row[1] for row in labels] == [row[2] for row in labels]
    assert all("ms" in time for time in times[1:])
    difference = browser.find_element(By.ID, "device").get_attribute("data-difference")
    assert difference is not None
    assert 0 <= float(difference) <= _tolerance(gateway, model)
    print(f"\n{model}: differs by {float(difference):.1e}; {times}")


# Gives the device the picture of another digit's ink: none.
_ALTERED = """
const whole = window.fetch;
window.fetch = async (...asked) => {
  const response = await whole(...asked);
  if (!String(asked[0]).includes(":explain")) return response;
  const reply = await response.json(), length = atob(reply.model_input.b64).length;
  reply.model_input.b64 = btoa(String.fromCharCode(0).repeat(length));
  return new Response(JSON.stringify(reply), response);
};
"""
# Lets the device ask for a file that comes with another length.
_FAILING = """
window.fetch = async () => new Response("no");
const reply = {model: "cnn", model_input: {b64: "", shape: []}, results: [{top: []}]};
const tflite = {sha256: "x", bytes: 9};
(await import("./page/device.js")).compare(reply, {version: 1, tflite}, 1);
"""


def test_digits_agree_on_this_device(
    browser: webdriver.Chrome, gateway: Any, picture: bytes, tmp_path: Path
) -> None:
    """Nothing is loaded before the click; then both models agree, or it is told."""
    opened(browser, gateway.url + "/", "cnn")
    _choose(browser, tmp_path / "three.png", picture)
    assert browser.find_element(By.ID, "compare").is_displayed()
    assert not browser.find_element(By.ID, "device-table").is_displayed()
    assert [] == _of_device(browser)

    browser.find_element(By.ID, "compare").click()
    _check(browser, gateway, "cnn", 6)
    assert len(browser.find_elements(By.CSS_SELECTOR, "#bars .bar")) == 10
    assert any("/v1/models/cnn/versions/1/tflite/" in one for one in _fetched(browser))
    assert all(one.startswith(gateway.url) for one in _fetched(browser))

    before = _of_device(browser)
    _change_model(browser, "mlp")
    _check(browser, gateway, "mlp", 6)
    browser.find_element(By.ID, "clear").click()
    wait(browser, "document.body.dataset.answer === 'empty'")
    assert not browser.find_element(By.ID, "device").is_displayed()
    assert before == _of_device(browser)
    # LiteRT.js writes to the console what it does, as errors.
    severe = [e for e in browser.get_log("browser") if e["level"] == "SEVERE"]
    told = [e for e in severe if (e["source"], "litert" in e["message"]) != _TOLD]
    assert [] == told

    # A device that computes something else is not said to agree; nor is one that fails.
    browser.execute_script(_ALTERED)
    _choose(browser, tmp_path / "three.png", picture)
    wait(browser, "device.dataset.state === 'differs'")
    assert "the contract allows" in browser.find_element(By.ID, "device-note").text
    browser.execute_script(_FAILING)
    wait(browser, "device.dataset.state === 'failed'")
    assert "2 bytes; expected 9" in browser.find_element(By.ID, "device-note").text


def test_colours_agree_on_this_device(
    browser: webdriver.Chrome, photo_gateway: Any, tmp_path: Path
) -> None:
    """Pictures in colour, with one label, several labels, and one of two, agree, too."""
    opened(browser, photo_gateway.url + "/", "photos")
    file = io.BytesIO()
    colour(230, 20, 120).save(file, "PNG")
    _choose(browser, tmp_path / "one.png", file.getvalue())
    browser.find_element(By.ID, "compare").click()
    _check(browser, photo_gateway, "photos", 6)
    _change_model(browser, "several")
    _check(browser, photo_gateway, "several", 4)
    _change_model(browser, "pair")
    _check(browser, photo_gateway, "pair", 3)

    script = "return (await import('./page/device.js')).scoresOf([2, -1, 3], 'logits')"
    powers = np.exp([2, -1, 3])
    assert np.allclose(powers / powers.sum(), browser.execute_script(script))


def test_the_device_needs_the_key_and_stays_under_the_path(
    browser: webdriver.Chrome, published: Path, picture: bytes, tmp_path: Path
) -> None:
    """Under a path and with an API key, the page loads all of it from there."""
    keys = tmp_path / "keys"
    keys.write_text(_KEY)
    flags = ["--api-key-file", str(keys)]
    with (
        serving(published, *flags, log=tmp_path / "log") as gateway,
        proxied("/inkling", gateway.port) as proxy,
    ):
        browser.get(f"{proxy.url}/inkling/")
        asked = WebDriverWait(browser, 20).until(expected_conditions.alert_is_present())
        asked.send_keys(_KEY)
        asked.accept()
        wait(browser, "document.body.dataset.connection === 'ready'")
        _choose(browser, tmp_path / "three.png", picture)
        browser.find_element(By.ID, "compare").click()
        _compared(browser, 6)
        elsewhere = list(proxy.elsewhere)
        without = gateway.request("GET", "/v1/models/cnn/tflite").status

    assert [] == elsewhere
    assert 401 == without
