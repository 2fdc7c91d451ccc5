# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
from PIL import Image, ImageDraw

from inkling.contract import Contract
from inkling.image.ink import framed, is_dark_ink
from inkling.image.morphology import along_columns, along_rows, parts, square

_SIZE = (400, 300)


def _ignore(*_: object) -> None:
    """Ignore the notes of the finder."""


def _framed(picture: Image.Image, contract: Contract) -> np.ndarray:
    return np.asarray(framed(picture, contract, _ignore))


def _written(
    paper: Image.Image, at: tuple[int, int] = (160, 80), ink: int = 40, width: int = 9
) -> Image.Image:
    """Return the paper with a seven written on it, 80 pixels high."""
    picture = paper.copy()
    x, y = at
    points = [(x, y), (x + 60, y), (x + 20, y + 80)]
    ImageDraw.Draw(picture).line(points, fill=ink, width=width, joint="curve")
    return picture


def _plain(light: int = 220) -> Image.Image:
    return Image.new("L", _SIZE, light)


def _shaded() -> Image.Image:
    slope = np.linspace(90, 230, _SIZE[0])[np.newaxis].repeat(_SIZE[1], axis=0)
    slope += np.random.default_rng(0).normal(0, 3, slope.shape)
    return Image.fromarray(slope.astype(np.uint8))


def _squared() -> Image.Image:
    picture = _plain()
    draw = ImageDraw.Draw(picture)
    for place in range(15, 400, 25):
        draw.line([(place, 0), (place, 300)], fill=150, width=2)
        draw.line([(0, place), (400, place)], fill=150, width=2)
    return picture


def _on_desk() -> Image.Image:
    picture = _plain()
    ImageDraw.Draw(picture).rectangle([0, 0, 60, 300], fill=20)
    return picture


@pytest.mark.parametrize(
    "picture",
    [
        _written(_plain(), (20, 10)),
        _written(_shaded()),
        _written(_squared(), ink=25),
        _written(_on_desk(), (200, 120)),
        _written(_plain(), width=4),
        Image.eval(_written(_plain()), lambda value: 255 - value),
        _written(_plain()).resize((1600, 1200)),
        _written(_plain()).resize((120, 90), Image.Resampling.BOX),
        _written(_plain(), ink=180),
        _written(_plain()).convert("RGB"),
    ],
    ids=[
        "in a corner",
        "uneven light",
        "squared paper",
        "beside a desk",
        "thin pen",
        "light on dark",
        "large",
        "small",
        "faint pencil",
        "colour mode",
    ],
)
def test_writing_is_found_on_any_paper(
    picture: Image.Image, digit_contract: Contract
) -> None:
    """The same seven comes out nearly the same, however it was photographed."""
    expected = _framed(_written(_plain()), digit_contract).astype(int)
    found = _framed(picture, digit_contract).astype(int)

    overlap = np.minimum(expected, found).sum() / np.maximum(expected, found).sum()
    assert overlap > 0.6


def test_the_frame_is_mnists(digit_contract: Contract) -> None:
    """The writing fills a 20-pixel box, its centre of mass at the centre, ink at 255."""
    found = _framed(_written(_plain()), digit_contract).astype(float)
    rows, columns = np.nonzero(found > 127)
    mass = found.sum()
    across = (found.sum(axis=0) @ np.arange(28)) / mass
    down = (found.sum(axis=1) @ np.arange(28)) / mass

    assert max(np.ptp(rows), np.ptp(columns)) + 1 in (19, 20, 21)
    assert abs(across - 14) < 0.6
    assert abs(down - 14) < 0.6
    assert found.max() == 255
    assert found[0].max() == 0


@pytest.mark.parametrize("light", [0, 128, 255])
def test_empty_paper_is_an_empty_sample(light: int, digit_contract: Contract) -> None:
    """A picture without ink becomes an input of zeros."""
    assert _framed(_plain(light), digit_contract).max() == 0


@pytest.mark.parametrize(
    "size", [(1, 1), (1, 300), (300, 1), (2, 2), (3, 5), (27, 28), (5000, 3), (29, 29)]
)
@pytest.mark.parametrize("noise", [False, True])
def test_any_size_is_framed(
    size: tuple[int, int], noise: bool, digit_contract: Contract
) -> None:
    """A picture of any size, however thin or noisy, becomes an input."""
    pixels = np.zeros(size[::-1], np.uint8)
    if noise:
        pixels = np.random.default_rng(0).integers(0, 256, pixels.shape, np.uint8)

    assert _framed(Image.fromarray(pixels), digit_contract).shape == (28, 28)


@pytest.mark.parametrize("width", [4, 12, 24])
def test_ink_is_told_from_paper(width: int) -> None:
    """Ink is separated from paper: dark or light, thick or thin, in good light or bad."""
    for paper in (_plain(), _plain(120), _shaded()):
        dark = _written(paper, ink=30, width=width)
        light = Image.eval(dark, lambda value: 255 - value)

        assert is_dark_ink(dark)
        assert not is_dark_ink(light)


@pytest.mark.parametrize("seed", range(20))
def test_parts_are_those_of_a_flood_fill(seed: int) -> None:
    """Joining runs of pixels finds the same parts as a flood fill from pixel to pixel."""
    random = np.random.default_rng(seed)
    mask = random.random((random.integers(1, 30), random.integers(1, 30))) < 0.4
    found = parts(mask, np.ones(mask.shape, np.float32))

    expected = _flooded(mask)
    assert expected.max() == len(found)
    pairs = set(
        zip(expected.ravel().tolist(), found.labels.ravel().tolist(), strict=True)
    )
    assert len(pairs) == len(set(expected.ravel().tolist()))
    for number in range(1, len(found) + 1):
        rows, columns = np.nonzero(found.labels == number)
        assert found.weight[number - 1] == len(rows)
        assert (columns.min(), rows.min()) == (
            found.left[number - 1],
            found.top[number - 1],
        )
        assert columns.max() + 1 == found.right[number - 1]
        assert rows.max() + 1 == found.bottom[number - 1]


def _flooded(mask: np.ndarray) -> np.ndarray:
    """Label the parts of a mask by a flood fill, pixel by pixel."""
    labels = np.zeros(mask.shape, int)
    for start in np.argwhere(mask):
        if labels[tuple(start)]:
            continue
        number = labels.max() + 1
        front = [tuple(start)]
        while front:
            row, column = front.pop()
            inside = 0 <= row < mask.shape[0] and 0 <= column < mask.shape[1]
            if not inside or not mask[row, column] or labels[row, column]:
                continue
            labels[row, column] = number
            front += [(row + i, column + j) for i in (-1, 0, 1) for j in (-1, 0, 1)]
    return labels


@pytest.mark.parametrize("length", [1, 2, 3, 5, 8, 13])
def test_windows_are_those_of_a_plain_loop(length: int) -> None:
    """The extreme of each window is the same by doubling as by a plain loop."""
    values = np.random.default_rng(0).random((11, 17)).astype(np.float32)
    padded = np.pad(values, ((0, 0), ((length - 1) // 2, length // 2)), mode="edge")
    expected = np.stack(
        [padded[:, at : at + length].max(axis=1) for at in range(17)], axis=1
    )

    assert np.array_equal(expected, along_rows(values, length, np.maximum))
    assert np.array_equal(expected.T, along_columns(values.T, length, np.maximum))
    both = along_columns(expected, length, np.maximum)
    assert np.array_equal(both, square(values, length, np.maximum))
