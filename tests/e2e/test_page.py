# SPDX-License-Identifier: Apache-2.0
"""The page in a real browser: drawing, answers, and the stages of the preprocessing."""

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, features
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By

from inkling.capture.store import Store
from tests.support.browser import opened, wait
from tests.support.colour_models import SCRIPT, SIZE, colour
from tests.support.machine import until
from tests.support.reverse_proxy import proxied


def test_drawing_is_classified(browser: webdriver.Chrome, gateway: Any) -> None:
    """A stroke on the canvas gets a label, bars, the stages and the version."""
    browser.get(gateway.url + "/")
    wait(browser, "document.body.dataset.connection === 'ready'")
    canvas = browser.find_element(By.ID, "canvas")

    # A one: a line from the upper middle downwards.
    stroke = ActionChains(browser, duration=20)
    stroke.move_to_element_with_offset(canvas, 0, -90).click_and_hold()
    for _ in range(9):
        stroke.move_by_offset(0, 20)
    stroke.release().perform()
    wait(browser, "document.body.dataset.answer === 'done'")

    answer = browser.find_element(By.ID, "answer").text
    stages = browser.find_elements(By.CSS_SELECTOR, "#stages figure")
    bars = browser.find_elements(By.CSS_SELECTOR, "#bars .bar")
    facts = browser.find_element(By.ID, "facts").text
    assert answer in tuple("0123456789")
    assert len(bars) == 10
    assert len(stages) >= 3
    assert "1" in facts
    assert [e for e in browser.get_log("browser") if e["level"] == "SEVERE"] == []


def test_a_picture_is_classified(
    browser: webdriver.Chrome,
    gateway: Any,
    tmp_path: Path,
    sample: Any,
    encode: Any,
) -> None:
    """A chosen file goes to the model that was picked, and Clear takes it away."""
    picture = tmp_path / "three.png"
    picture.write_bytes(encode(255 - sample))
    browser.get(gateway.url + "/")
    wait(browser, "document.body.dataset.connection === 'ready'")
    browser.execute_script(
        "const m = document.querySelector('#model'); m.value = 'mlp';"
        "m.dispatchEvent(new Event('change', {bubbles: true}));"
    )

    browser.find_element(By.ID, "file").send_keys(str(picture))
    wait(browser, "document.body.dataset.answer === 'done'")

    expected = gateway.request("POST", "/v1/models/mlp:classify", picture.read_bytes())
    assert (
        expected.json["results"][0]["label"]
        == browser.find_element(By.ID, "answer").text
    )
    browser.find_element(By.ID, "clear").click()
    wait(browser, "document.body.dataset.answer === 'empty'")


def test_that_was_wrong(
    browser: webdriver.Chrome,
    published: Path,
    tmp_path: Path,
    picture: bytes,
    start_gateway: Any,
) -> None:
    """On a captured answer the page asks for the right label, and the store has it."""
    capture, file = tmp_path / "capture", tmp_path / "three.png"
    file.write_bytes(picture)
    flags = ("--capture", str(capture), "--capture-share", "1")
    with start_gateway(published, *flags) as gateway:
        browser.get(gateway.url + "/")
        wait(browser, "document.body.dataset.connection === 'ready'")
        browser.find_element(By.ID, "file").send_keys(str(file))
        wait(browser, "!document.querySelector('#feedback').hidden")
        browser.find_element(By.ID, "wrong").click()
        store = Store(capture)

        def is_noted() -> bool:
            browser.execute_script(
                "const r = document.querySelector('#right'); r.value = '8';"
                "r.dispatchEvent(new Event('change'));"
            )
            return [one.label for one in store.labelled("cnn")] == ["8"]

        until(is_noted)
        wait(browser, "document.querySelector('#thanks').textContent.includes('8')")
        store.close()


def test_a_phone_has_room(browser: webdriver.Chrome, gateway: Any) -> None:
    """At a width of 360 pixels the page does not scroll to the side."""
    browser.set_window_size(360, 740)
    browser.get(gateway.url + "/")
    wait(browser, "document.body.dataset.connection === 'ready'")

    width = "document.documentElement"
    assert browser.execute_script(f"return {width}.scrollWidth <= {width}.clientWidth")


@pytest.mark.parametrize("address", ["/inkling/", "/inkling", "/a/b/page/index.html"])
def test_the_page_works_under_a_path(
    browser: webdriver.Chrome,
    gateway: Any,
    picture: bytes,
    tmp_path: Path,
    address: str,
) -> None:
    """Behind a reverse proxy or a notebook, every address stays below its path."""
    (tmp_path / "three.png").write_bytes(picture)
    prefix = address.removesuffix("/page/index.html").rstrip("/")
    with proxied(prefix, gateway.port) as proxy:
        browser.get(proxy.url + address)
        wait(browser, "document.body.dataset.connection === 'ready'")
        browser.find_element(By.ID, "file").send_keys(str(tmp_path / "three.png"))
        wait(browser, "document.body.dataset.answer === 'done'")
        command = browser.find_element(By.ID, "curl").text
        elsewhere = list(proxy.elsewhere)

    assert f"{proxy.url}{prefix}/v1/models/" in command
    # A browser may fetch the page's files before the page adds the slash to its address.
    early = () if address.endswith("/") else ("/page/",)
    assert [] == [path for path in elsewhere if not path.startswith(early)]


def _three(kind: str, sample: Any) -> bytes:
    """Return a drawn three, dark on white, as a file of a kind."""
    large = Image.fromarray(255 - sample).resize((280, 280)).convert("RGB")
    file = io.BytesIO()
    if kind == "svg":
        large.save(file, "PNG")
        inner = base64.b64encode(file.getvalue()).decode()
        return (
            '<svg xmlns="http://www.w3.org/2000/svg" width="280" height="280"><image '
            f'width="280" height="280" href="data:image/png;base64,{inner}"/></svg>'
        ).encode()
    if kind == "large.png":
        noise = np.random.default_rng(0).integers(0, 9, (1900, 1900, 3), np.uint8)
        sheet = Image.fromarray(246 + noise)
        sheet.paste(large.resize((900, 900)), (500, 500))
        sheet.save(file, "PNG", compress_level=0)  # more bytes than the server takes
        return file.getvalue()
    if kind == "wide.png":
        sheet = Image.new("RGB", (9000, 3000), "white")  # more pixels than it takes
        sheet.paste(large.resize((2000, 2000)), (3500, 500))
        sheet.save(file, "PNG")
        return file.getvalue()
    large.save(file, kind.upper())
    return file.getvalue()


def test_the_page_encodes_anew_what_the_server_does_not_read(
    browser: webdriver.Chrome, gateway: Any, tmp_path: Path, sample: Any
) -> None:
    """What the browser can show is classified; what it cannot is told what to do."""
    kinds = ["webp", "gif", "bmp", "svg", "large.png", "wide.png"]
    kinds += ["avif"] if features.check("avif") else []
    browser.get(gateway.url + "/")
    wait(browser, "document.body.dataset.connection === 'ready'")
    found = {}
    for kind in kinds:
        (tmp_path / f"three.{kind}").write_bytes(_three(kind, sample))
        browser.find_element(By.ID, "file").send_keys(str(tmp_path / f"three.{kind}"))
        wait(browser, "['done', 'error'].includes(document.body.dataset.answer)")
        found[kind] = browser.find_element(By.ID, "answer").text
        browser.find_element(By.ID, "clear").click()
        wait(browser, "document.body.dataset.answer === 'empty'")

    assert dict.fromkeys(kinds, "3") == found

    (tmp_path / "photo.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(100))
    browser.find_element(By.ID, "file").send_keys(str(tmp_path / "photo.heic"))
    wait(browser, "document.body.dataset.answer === 'error'")
    words = browser.find_element(By.ID, "status-text").text
    assert "photo.heic" in words
    assert "PNG or JPEG" in words


def _handed(browser: webdriver.Chrome, event: str, shares: tuple[int, ...]) -> str:
    """Drop or paste a picture of one colour; return the answer to it."""
    file = io.BytesIO()
    colour(*shares).save(file, "PNG")
    browser.execute_script(
        "const bytes = Uint8Array.from(atob(arguments[1]), c => c.charCodeAt(0));"
        "const data = new DataTransfer();"
        "data.items.add(new File([bytes], 'one.png', {type: 'image/png'}));"
        "const options = {bubbles: true, cancelable: true, dataTransfer: data,"
        "  clipboardData: data};"
        "const kind = {drop: DragEvent, paste: ClipboardEvent}[arguments[0]];"
        "document.body.dataset.answer = 'busy';"
        "document.body.dispatchEvent(new kind(arguments[0], options));",
        event,
        base64.b64encode(file.getvalue()).decode(),
    )
    wait(browser, "document.body.dataset.answer === 'done'")
    return browser.find_element(By.ID, "answer").text


def test_photos_are_dropped_pasted_and_chosen(
    browser: webdriver.Chrome, photo_gateway: Any, tmp_path: Path
) -> None:
    """A model of photos has no paper to draw on, five bars, and its input's own size."""
    opened(browser, photo_gateway.url + "/", "photos")
    stroke = ActionChains(browser, duration=20)
    stroke.drag_and_drop_by_offset(browser.find_element(By.ID, "canvas"), 40, 40)
    stroke.perform()
    assert not browser.find_element(By.ID, "undo").is_displayed()
    assert "Draw" not in browser.find_element(By.ID, "invite").text

    assert _handed(browser, "drop", (250, 30, 30)) == "red"
    assert _handed(browser, "paste", (20, 30, 240)) == "blue"
    colour(0, 230, 0, side=300).save(tmp_path / "green.jpg")
    browser.find_element(By.ID, "file").send_keys(str(tmp_path / "green.jpg"))
    wait(browser, "document.querySelector('#answer').textContent === 'green'")

    bars = browser.find_elements(By.CSS_SELECTOR, "#bars .bar")
    assert len(bars) == 5
    seen = browser.find_element(By.CSS_SELECTOR, "#seen img")
    size = "return [arguments[0].naturalHeight, arguments[0].naturalWidth]"
    assert [*SIZE] == browser.execute_script(size, seen)
    assert {"height": SIZE[0], "width": SIZE[1]} == seen.size
    assert "48 × 40 pixels" in browser.find_element(By.ID, "seen").text
    stages = browser.find_elements(By.CSS_SELECTOR, "#stages figure")
    assert "model input" not in [s.get_attribute("data-stage") for s in stages]
    assert [e for e in browser.get_log("browser") if e["level"] == "SEVERE"] == []


def test_labels_are_text(browser: webdriver.Chrome, photo_gateway: Any) -> None:
    """A label in HTML is shown as it is written, and runs nothing."""
    opened(browser, photo_gateway.url + "/", "photos")
    assert SCRIPT in browser.find_element(By.ID, "invite").text

    assert _handed(browser, "drop", (0, 0, 0)) == SCRIPT
    bar = browser.find_element(By.CSS_SELECTOR, "#bars .bar .label")
    assert bar.text == SCRIPT
    assert browser.find_elements(By.CSS_SELECTOR, "img[src=x]") == []


def test_a_photo_is_taken(browser: webdriver.Chrome, photo_gateway: Any) -> None:
    """The camera is shown, a photo of it is classified, and the camera is let go."""
    opened(browser, photo_gateway.url + "/", "photos")
    camera = browser.find_element(By.ID, "camera")

    camera.click()
    wait(browser, "document.querySelector('#video').videoWidth > 0")
    track = "document.querySelector('#video').srcObject.getTracks()[0]"
    browser.execute_script(f"window.track = {track}")
    assert camera.text == "Take it"
    camera.click()
    wait(browser, "document.body.dataset.answer === 'done'")

    assert browser.execute_script("return window.track.readyState") == "ended"
    assert not browser.find_element(By.ID, "video").is_displayed()
    assert camera.text == "Take a photo"


def test_several_labels_and_their_threshold(
    browser: webdriver.Chrome, photo_gateway: Any
) -> None:
    """All labels at or above the threshold are shown, and the slider changes them."""
    opened(browser, photo_gateway.url + "/", "several")

    def moved(threshold: float) -> tuple[str, list[str]]:
        browser.execute_script(
            "const t = document.querySelector('#threshold'); t.value = arguments[0];"
            "t.dispatchEvent(new Event('input', {bubbles: true}));",
            threshold,
        )
        bars = browser.find_elements(By.CSS_SELECTOR, "#bars .bar .label")
        return browser.find_element(By.ID, "answer").text, [b.text for b in bars]

    assert _handed(browser, "drop", (230, 20, 210)) == "red, blue"
    assert moved(0.5) == ("red, blue", ["red", "blue"])
    assert moved(0) == ("red, blue, green", ["red", "blue", "green"])
    assert moved(1) == ("No label", [])
    assert "the most probable is red" in browser.find_element(By.ID, "sure").text
    assert "'" + photo_gateway.url in browser.find_element(By.ID, "curl").text
    assert "?threshold=1'" in browser.find_element(By.ID, "curl").text
    path = "/v1/models/several:classify?threshold=0.5"
    file = io.BytesIO()
    colour(230, 20, 210).save(file, "PNG")
    [result] = photo_gateway.request("POST", path, file.getvalue()).json["results"]
    assert moved(0.5)[1] == [score["label"] for score in result["labels"]]


def test_models_of_drawings_keep_their_paper(
    browser: webdriver.Chrome, gateway: Any
) -> None:
    """A model of digits has the paper, and neither camera nor threshold."""
    opened(browser, gateway.url + "/", "cnn")

    assert not browser.find_element(By.ID, "camera").is_displayed()
    assert not browser.find_element(By.ID, "several").is_displayed()
    assert browser.find_element(By.ID, "undo").is_displayed()
