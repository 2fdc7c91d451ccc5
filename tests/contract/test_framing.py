# SPDX-License-Identifier: Apache-2.0
"""A digit is framed alike however it was cut, reduced or coloured (from `ink-2` on)."""

from __future__ import annotations

import hashlib
import io
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from inkling.contract import Contract
from inkling.image.budget import Budget, TakesLonger
from inkling.image.crop import cut_of
from inkling.image.grey import to_grey
from inkling.image.preprocess import explain, pixels_to_input, to_input
from inkling.image.sample import is_framed
from tests.support import handwriting as hand
from tests.support.digits import all_digits
from tests.support.machine import within

# Shared ink of two inputs, as a share of all ink of both. Between two different clear
# digits it is 0.36 to 0.65, so the input has to be most like the right digit as well.
_ALIKE = 0.45
_WHITE, _BLACK = (255, 255, 255), (0, 0, 0)


@pytest.fixture(scope="module")
def ink_1(digit_contract: Contract) -> Contract:
    """The contract of the digit models that were published before `ink-2`."""
    return replace(digit_contract, finder="ink-1", grey="luminance", format=1)


@pytest.fixture
def ink_2(digit_contract: Contract) -> Contract:
    """The contract of the digit models that were published before `ink-3`."""
    return replace(digit_contract, finder="ink-2")


def _overlap(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.minimum(found, expected).sum() / np.maximum(found, expected).sum())


def _wide(sample: np.ndarray, contract: Contract) -> np.ndarray:
    """Return the model input for the same digit with a wide margin."""
    ink = hand.on_page(sample, 280, 0.5, 0.5, 0.5)
    return pixels_to_input(hand.painted(ink, _BLACK, _WHITE), contract)


@pytest.fixture(scope="module")
def assert_alike(
    clear_digits: list[np.ndarray], digit_contract: Contract
) -> Callable[..., None]:
    """Assert that a picture is framed as the digit (by default 3) with a margin is."""
    wide = [_wide(sample, digit_contract) for sample in clear_digits]

    def check(picture: np.ndarray | bytes, digit: int = 3) -> None:
        prepare = to_input if isinstance(picture, bytes) else pixels_to_input
        found = prepare(picture, digit_contract)
        overlaps = [_overlap(found, expected) for expected in wide]
        assert digit == int(np.argmax(overlaps))
        assert overlaps[digit] > _ALIKE

    return check


@pytest.mark.parametrize("digit", range(10))
@pytest.mark.parametrize("scale", [1, 2, 3, 12])
@pytest.mark.parametrize("margin", [0, 1, 2])
def test_a_digit_cut_along_its_outline(
    digit: int,
    scale: int,
    margin: int,
    clear_digits: list[np.ndarray],
    assert_alike: Callable[..., None],
) -> None:
    """A digit that touches the frame on all sides is framed as one with a margin."""
    sample = clear_digits[digit]
    dark = np.uint8(255 - 255 * hand.outlined(sample, scale, margin))

    assert_alike(dark, digit)
    assert_alike(255 - dark, digit)


@pytest.mark.parametrize("digit", range(10))
@pytest.mark.parametrize(
    "margins", [(9, 0, 9, 9), (0, 0, 9, 9), (0, 9, 0, 9), (0, 0, 0, 9), (9, 0, 9, 0)]
)
def test_a_digit_cut_on_some_sides(
    digit: int,
    margins: tuple[int, int, int, int],
    clear_digits: list[np.ndarray],
    assert_alike: Callable[..., None],
) -> None:
    """A digit that touches the frame on one, two or three sides is framed alike."""
    ink = hand.cut(hand.grown(clear_digits[digit], 3), *margins)

    assert_alike(np.uint8(255 - 255 * ink), digit)


_COLOURS = {
    "coloured paper": ((20, 20, 30), (120, 180, 240)),
    "pen on paper": ((40, 50, 110), (225, 220, 205)),
    "chalk": ((230, 230, 210), (30, 60, 45)),
    "equally light": hand.equally_light(0.0, 0.4),
}


@pytest.mark.parametrize("digit", range(10))
@pytest.mark.parametrize("colours", _COLOURS)
def test_a_noisy_or_coloured_digit_that_touches_the_frame(
    digit: int,
    colours: str,
    clear_digits: list[np.ndarray],
    assert_alike: Callable[..., None],
) -> None:
    """A cut digit is found on coloured paper, in noise and in a JPEG."""
    ink = hand.outlined(clear_digits[digit], 4)
    pixels = hand.noisy(hand.painted(ink, *_COLOURS[colours]), 6, digit)

    assert_alike(pixels, digit)
    assert_alike(hand.photographed(pixels), digit)


@pytest.mark.parametrize("colour", [0, 110, 255])
def test_a_cut_digit_on_a_transparent_ground(
    colour: int, sample: np.ndarray, assert_alike: Callable[..., None]
) -> None:
    """Opaque strokes on a transparent ground are framed alike, whatever their grey."""
    ink = hand.outlined(sample, 2)
    pixels = np.full((*ink.shape, 4), colour, np.uint8)
    pixels[..., 3] = np.uint8(ink * 255)

    assert_alike(pixels)


@pytest.mark.parametrize("width", [1, 2, 4])
@pytest.mark.parametrize("light", [True, False])
def test_a_narrow_one(width: int, light: bool, digit_contract: Contract) -> None:
    """A one of 20 rows and a few columns, all of them ink, is an upright stroke."""
    ink = np.full((20, width), 230, np.uint8)
    ink[[0, -1]] = 60
    seen = pixels_to_input(ink if light else 255 - ink, digit_contract)[..., 0]

    rows, columns = np.nonzero(seen > 0.5)
    assert np.ptp(rows) >= 17
    assert np.ptp(columns) <= 7


def test_a_desk_is_no_ink(
    sample: np.ndarray, assert_alike: Callable[..., None]
) -> None:
    """A desk along any sides of the picture is not taken for a digit's stroke."""
    page = hand.painted(
        hand.on_page(sample, 280, 0.4, 0.5, 0.5), (40, 40, 60), (220, 215, 205)
    )
    for sides in range(1, 15):
        photo = page.copy()
        for number, place in enumerate(
            (np.s_[:, :30], np.s_[:30], np.s_[:, -30:], np.s_[-30:])
        ):
            if sides >> number & 1:
                photo[place] = (70, 50, 35)
        grey = Image.fromarray(photo).convert("L")

        assert cut_of(grey, 280, None) is None
        assert_alike(photo)


def test_samples_stay_as_they_are(digit_contract: Contract) -> None:
    """Every sample of the bundled digits is the model input, bit for bit."""
    for sample in all_digits():
        found = np.rint(pixels_to_input(sample, digit_contract)[..., 0] * 255)
        assert np.array_equal(sample, found)


def test_all_of_mnist_stays_as_it_is(data_dir: Path, digit_contract: Contract) -> None:
    """All of MNIST's digits are samples; Fashion-MNIST's contract frames nothing."""
    with np.load(data_dir / "mnist.npz", allow_pickle=False) as mnist:
        for part in ("x_train", "x_test"):
            for pixels in mnist[part]:
                assert is_framed(pixels[..., np.newaxis], digit_contract)
    fashion = replace(digit_contract, kind="sample", finder="none", centring="none")
    with np.load(data_dir / "fashion_mnist.npz", allow_pickle=False) as clothes:
        for pixels in clothes["x_test"][::10]:
            found = pixels_to_input(pixels, replace(fashion, polarity="as_is"))
            assert np.array_equal(pixels, np.rint(found[..., 0] * 255))


@pytest.mark.parametrize("digit", range(10))
@pytest.mark.parametrize(
    "place",
    [(0.4, 0, 0), (0.5, 1, 0.3), (0.45, 0.5, 0.5), (1, 0.5, 0.5), (0.72, 0, 1)],
    ids=["corner", "right", "small", "whole", "shifted"],
)
def test_a_small_drawing_is_framed(
    digit: int,
    place: tuple[float, float, float],
    clear_digits: list[np.ndarray],
    digit_contract: Contract,
    assert_alike: Callable[..., None],
    encode: Callable[..., bytes],
) -> None:
    """A drawing of 28x28 that is not framed like a sample is framed, in every mode."""
    sample = clear_digits[digit]
    light = hand.reduced(hand.on_page(sample, 280, *place))
    transparent = np.zeros((28, 28, 4), np.uint8)
    transparent[..., 3] = light
    forms = (light, 255 - light, np.stack([255 - light] * 3, axis=-1), transparent)

    for pixels in forms:
        with pytest.raises(TakesLonger):
            to_input(encode(pixels), digit_contract, Budget(quick_ns=1_000_000))
        assert_alike(pixels, digit)


def test_what_the_finder_framed_is_a_sample(
    clear_digits: list[np.ndarray], digit_contract: Contract
) -> None:
    """The finder's own result is framed like a sample, so it is never framed again."""
    for sample in clear_digits:
        once = np.rint(_wide(sample, digit_contract) * 255).astype(np.uint8)
        again = pixels_to_input(once, digit_contract)
        assert np.array_equal(once, np.rint(again * 255))


def test_the_check_of_a_sample_takes_microseconds(
    sample: np.ndarray, digit_contract: Contract
) -> None:
    """Telling a sample from a drawing costs next to nothing beside a classification."""
    pixels = sample[..., np.newaxis]
    is_framed(pixels, digit_contract)
    started = time.process_time()
    for _ in range(1000):
        is_framed(pixels, digit_contract)

    within((time.process_time() - started) / 1000, 60e-6)


@pytest.mark.parametrize("hue", np.arange(0, 1, 0.125).tolist())
@pytest.mark.parametrize("apart", [0.3, 0.5])
def test_ink_as_light_as_its_paper(
    hue: float, apart: float, sample: np.ndarray, assert_alike: Callable[..., None]
) -> None:
    """Ink and paper of one luminance and two colours are told apart, in a JPEG too."""
    colours = hand.equally_light(hue, hue + apart)
    page = hand.painted(hand.on_page(sample, 200, 0.6, 0.4, 0.5), *colours)

    assert_alike(page)
    noisy = hand.photographed(hand.noisy(page, 4, 0))
    assert_alike(noisy)


@pytest.mark.parametrize(
    ("ink", "paper"),
    [
        ((20, 20, 20), (250, 250, 250)),
        ((30, 50, 160), (240, 240, 240)),
        ((210, 40, 40), (250, 250, 250)),
        ((150, 170, 230), (240, 240, 240)),
        ((60, 45, 70), (240, 192, 108)),
    ],
    ids=["black", "blue", "red", "faint blue", "under a lamp"],
)
def test_ordinary_ink_keeps_its_luminance(
    ink: tuple[int, int, int],
    paper: tuple[int, int, int],
    sample: np.ndarray,
    ink_2: Contract,
    ink_1: Contract,
) -> None:
    """Where luminance shows the ink, the input is that of `ink-1`, beside any desk."""
    page = hand.painted(hand.on_page(sample, 280, 0.5, 0.6, 0.5), ink, paper)
    page[:, :36] = (200, 110, 50)

    assert "luminance" == to_grey(Image.fromarray(page), ink_2)[1]
    assert np.array_equal(pixels_to_input(page, ink_1), pixels_to_input(page, ink_2))


def test_the_projection_is_explained(
    sample: np.ndarray, digit_contract: Contract
) -> None:
    """The explanation names the projection, and says that a margin was added."""
    page = hand.painted(
        hand.on_page(sample, 280, 0.6, 0.5, 0.5), *hand.equally_light(0, 0.4)
    )
    cut = np.uint8(255 - 255 * hand.outlined(sample, 3))

    decisions = [_decisions(pixels, digit_contract) for pixels in (page, cut)]

    assert "the red channel" in decisions[0]["grey"]
    assert "touches the frame" in decisions[1]["margin"]


def _decisions(pixels: np.ndarray, contract: Contract) -> dict[str, str]:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    _, stages, _ = explain(file.getvalue(), contract)
    return {stage.name: stage.decision for stage in stages}


def test_ink_of_several_colours(
    sample: np.ndarray, assert_alike: Callable[..., None]
) -> None:
    """A digit whose halves have two colours, one of them yellow, is seen whole."""
    ink = hand.on_page(sample, 280, 0.6, 0.5, 0.5)
    page = hand.painted(ink, (255, 235, 40), _WHITE)
    page[140:] = hand.painted(ink, (90, 225, 255), _WHITE)[140:]

    assert_alike(page)


def test_grey_of_a_sample_contract(digit_contract: Contract) -> None:
    """Under grey `contrast`, a sample in two equally light colours is not blank."""
    contract = replace(
        digit_contract, kind="sample", finder="none", centring="none", polarity="as_is"
    )
    ink = np.zeros((28, 28), np.float32)
    ink[6:22, 12:16] = 1
    pixels = hand.painted(ink, *hand.equally_light(0, 0.4))

    assert np.ptp(pixels_to_input(pixels, contract)) > 0.4
    plain = replace(contract, grey="luminance")
    assert np.ptp(pixels_to_input(pixels, plain)) < 0.05


def _pages() -> Iterator[np.ndarray]:
    """Yield pictures that `ink-2` prepares differently, and pages with a desk."""
    for number, (ink, paper) in enumerate([(20, 235), (240, 30), (90, 160)]):
        page = Image.new("RGB", (300, 400), (paper, paper, paper - 10))
        pen = ImageDraw.Draw(page)
        stroke = [(110, 120), (190, 120), (140, 260)]
        pen.line(stroke, fill=(ink, ink // 2, ink), width=9 + 4 * number)
        pen.rectangle([0, 0, 25 * number, 400], fill=(60, 50, 40))
        yield np.asarray(page)
    yield np.asarray(Image.new("L", (28, 28), 7))
    small = np.zeros((28, 28), np.uint8)
    small[2:9, 20:23] = 200
    yield small
    frame = np.zeros((40, 32), np.uint8)
    frame[:, :6] = frame[:6] = frame[:, -6:] = frame[-6:] = 255
    yield frame


def test_ink_1_never_changes(ink_1: Contract) -> None:
    """The inputs of a model published with `ink-1` stay as they were, bit for bit."""
    found = hashlib.sha256()
    for page in _pages():
        pixels = np.rint(pixels_to_input(page, ink_1) * 255).astype(np.uint8)
        found.update(pixels.tobytes())

    expected = "e4af035a91433d3fb358fb475dc2e0f229b40d74a9d00208ad673518069dc75f"
    assert expected == found.hexdigest()
    assert ink_1.hash.startswith("sha256:2e407f7bce3a2f5b")
    assert '"format":1' in ink_1.json
    assert Contract.from_json(ink_1.json) == ink_1
