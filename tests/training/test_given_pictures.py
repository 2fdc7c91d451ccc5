# SPDX-License-Identifier: Apache-2.0
"""The pictures that are given with a model: their labels, and those that are golden."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from inkling.contract import Contract
from inkling.errors import InvalidRequest
from inkling.image.budget import Budget
from inkling.image.decoding import decode
from inkling.image.preprocess import to_input
from inkling_training.preparation.meaning import right_answers
from inkling_training.preparation.pictures import Pictures, read_pictures

_WIDTH, _HEIGHT = 900, 500
_TURNED = 6


def _photo(mode: str) -> Image.Image:
    """Return a gradient with noise, whose left third is transparent in `RGBA`."""
    rows, columns = np.mgrid[:_HEIGHT, :_WIDTH]
    pixels = np.empty((_HEIGHT, _WIDTH, 4), np.uint8)
    pixels[..., 0] = 240 * rows // _HEIGHT
    pixels[..., 1] = 240 * columns // _WIDTH
    pixels[..., 2] = 120
    noise = np.random.default_rng(1).integers(0, 12, pixels.shape, np.uint8)
    pixels[..., :3] += noise[..., :3]
    pixels[..., 3] = np.where(columns < _WIDTH // 3, 0, 255)
    return Image.fromarray(pixels).convert(mode)


def _file(picture: Image.Image, kind: str) -> bytes:
    exif, file = Image.Exif(), io.BytesIO()
    exif[ExifTags.Base.Orientation] = _TURNED
    picture.save(file, kind, exif=exif, quality=100, lossless=True)
    return file.getvalue()


@pytest.mark.parametrize(
    ("mode", "kind"),
    [("RGBA", "PNG"), ("RGB", "PNG"), ("L", "PNG"), ("RGB", "JPEG"), ("RGBA", "WEBP")],
)
def test_a_scaled_golden_picture_gives_the_same_input(
    mode: str, kind: str, colour_contract: Contract
) -> None:
    """Whatever a contract depends on is still there: opacity, turn, proportions."""
    image = _file(_photo(mode), kind)
    assert len(image) > 200_000

    [small] = Pictures((image,), None, False, "").golden()

    assert len(small) < 200_000
    found = decode(small, 8192, Budget())
    assert (found.picture.mode, found.orientation) == (mode, _TURNED)
    for exif in (True, False):
        for alpha in ("dropped", "white", "black"):
            contract = replace(colour_contract, exif=exif, alpha=alpha)
            near = to_input(small, contract) - to_input(image, contract)
            assert np.abs(near).max() < 0.03 * 255 * contract.scale[0]


_LABELS = ("wet", "cold", "dark")


def _written(folder: Path, names: str) -> None:
    for place, name in enumerate(names.split()):
        (folder / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (40, 30), (50 * place, 90, 120)).save(folder / name)


def _truth(folder: Path, contract: Contract) -> list[list[int]]:
    """Return the places of the labels of each picture, in a fixed order."""
    found, notes = read_pictures(folder, _LABELS, contract)
    assert (notes, len(found.images)) == ([], len(found.labels))
    rows = found.labels if found.labels.ndim > 1 else np.eye(3)[found.labels]
    return sorted(np.flatnonzero(row).tolist() for row in rows)


def test_pictures_may_have_several_labels(
    tmp_path: Path, colour_contract: Contract
) -> None:
    """A table names all of them, or none; so do folders with the same picture."""
    contract = replace(colour_contract, labels=_LABELS, outputs="sigmoid")
    (tmp_path / "table").mkdir()
    _written(tmp_path / "table", "1.png 2.png 3.png")
    rows = "file,label\n1.png,wet|dark\n2.png,\n3.png,cold\n"
    (tmp_path / "table" / "labels.csv").write_text(rows)
    (tmp_path / "folders").mkdir()
    _written(tmp_path / "folders", "wet/1.png cold/2.png")
    (tmp_path / "folders" / "dark").mkdir()
    same = (tmp_path / "folders" / "wet" / "1.png").read_bytes()
    (tmp_path / "folders" / "dark" / "1.png").write_bytes(same)

    assert _truth(tmp_path / "table", contract) == [[], [0, 2], [1]]
    assert _truth(tmp_path / "folders", contract) == [[0, 2], [1]]


def test_a_table_names_the_labels(tmp_path: Path, colour_contract: Contract) -> None:
    """A labels.csv is read for any model; a label that the model lacks is named."""
    contract = replace(colour_contract, labels=_LABELS)
    _written(tmp_path, "1.png 2.png")
    (tmp_path / "labels.csv").write_text("file,label\n1.png,dark\n2.png,wet\n")

    assert _truth(tmp_path, contract) == [[0], [2]]

    (tmp_path / "labels.csv").write_text("file,label\n1.png,dark\n2.png,wett\n")
    with pytest.raises(InvalidRequest, match=r"wett .* no label .* Is it wet\?"):
        read_pictures(tmp_path, _LABELS, contract)


def test_a_right_answer_is_one_of_the_labels() -> None:
    """The most probable label counts, whether a picture has one label or several."""
    scores = np.float32([[0.9, 0.1, 0.8], [0.2, 0.1, 0.3], [0.1, 0.7, 0.2]])
    several = np.array([[1, 0, 1], [1, 0, 0], [0, 0, 0]], np.bool_)

    assert right_answers(scores, several).tolist() == [True, False, False]
    assert right_answers(scores, np.array([0, 2, 0])).tolist() == [True, True, False]
