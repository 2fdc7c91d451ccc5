# SPDX-License-Identifier: Apache-2.0
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

import inkling
from inkling.cli.main import main
from inkling.image.preprocess import to_input
from inkling.model.repository import Repository
from inkling_training.data.datasets import Dataset
from inkling_training.data.folder import load_folder
from inkling_training.errors import DatasetUnavailable

Make = Callable[..., Path]

_COLOURS = {"blue": (40, 60, 230), "red": (230, 40, 40)}


def _picture(label: str, number: int, mode: str = "RGB") -> Image.Image:
    """Return a wide photo with a rectangle in the colour of its label, each different."""
    random = np.random.default_rng([number, len(label)])
    noise = random.integers(90, 150, (48, 64, 3), np.uint8)
    picture = Image.fromarray(noise)
    left, top = random.integers(4, 30, 2).tolist()
    shown = (left, top, left + 28, top + 16)
    ImageDraw.Draw(picture).rectangle(shown, _COLOURS.get(label, (9, 9, 9)))
    return picture.convert(mode)


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Make a folder of pictures, PNG and JPEG in turn: `make(red=40, blue=40)`."""

    def made(mode: str = "RGB", **counts: int) -> Path:
        folder = tmp_path / "pictures"
        for label, count in counts.items():
            (folder / label).mkdir(parents=True)
            for number in range(count):
                suffix = ("png", "jpg")[number % 2]
                _picture(label, number, mode).save(
                    folder / label / f"{number}.{suffix}", quality=95
                )
        return folder

    return made


def _parts(dataset: Dataset) -> list[set[tuple[int, bytes]]]:
    return [
        {(int(label), p.tobytes()) for label, p in zip(s.labels, s.pixels, strict=True)}
        for s in (dataset.train, dataset.validation, dataset.test)
    ]


def test_each_label_is_split_alike(make: Make) -> None:
    """Every picture is in one split; each split has its share of every label."""
    found = load_folder(make(red=40, blue=20), size=32, ink=False)

    train, validation, test = _parts(found)
    assert found.contract.labels == ("blue", "red")
    assert len(train | validation | test) == 60
    splits = (found.train, found.validation, found.test)
    counts = [np.bincount(split.labels).tolist() for split in splits]
    assert counts == [[15, 30], [2, 4], [3, 6]]


def test_every_format_is_the_same_picture(make: Make) -> None:
    """WebP, BMP and PNG of the same pixels give the same inputs."""
    folder = make(red=12, blue=12)
    formats = (("PNG", {}), ("BMP", {}), ("WEBP", {"lossless": True}))
    found = []
    for kind, options in formats:
        for path in sorted(folder.glob("*/*")):
            picture = Image.open(path).convert("RGB")
            path.unlink()
            picture.save(path.with_suffix(f".{kind.lower()}"), kind, **options)
        data = load_folder(folder, size=16, ink=False)
        found.append({one for part in _parts(data) for one in part})

    assert len(found[0]) == 24
    assert found[0] == found[1] == found[2]


def test_names_do_not_decide_on_the_split(make: Make) -> None:
    """A picture that is renamed stays in its split, at its place."""
    folder = make(red=20, blue=20)
    before = load_folder(folder, size=32, ink=False)
    (folder / "red" / "0.png").rename(folder / "red" / "zebra.png")

    after = load_folder(folder, size=32, ink=False)

    assert before.contract == after.contract
    assert np.array_equal(before.train.pixels, after.train.pixels)
    assert np.array_equal(before.test.labels, after.test.labels)


def test_another_picture_makes_another_dataset(make: Make) -> None:
    """The digest in the contract changes with a picture and with a label."""
    folder = make(red=20, blue=20)
    before = load_folder(folder, size=32, ink=False).contract
    (folder / "red" / "0.png").rename(folder / "blue" / "20.png")

    after = load_folder(folder, size=32, ink=False).contract

    assert before.training_data.digest != after.training_data.digest
    assert before.training_data.name == after.training_data.name == "pictures"


@pytest.mark.parametrize(("ink", "mode"), [(False, "RGB"), (False, "L"), (True, "RGB")])
def test_pictures_are_prepared_as_served_ones(ink: bool, mode: str, make: Make) -> None:
    """A training input is, bit for bit, what a gateway makes of the file."""
    folder = make(mode, red=12, blue=12)

    found = load_folder(folder, size=24, ink=ink)

    channels = 3 if (mode, ink) == ("RGB", False) else 1
    assert found.contract.input_shape == (24, 24, channels)
    assert found.train.pixels.shape[1:] == ((24, 24, 3) if channels == 3 else (24, 24))
    kind = "photo_of_one_object" if ink else "sample"
    assert found.contract.kind == kind
    splits = (found.train, found.validation, found.test)
    inputs = {one.tobytes() for s in splits for one in s.inputs(found.contract)}
    files = [path.read_bytes() for path in folder.rglob("*.*")]
    assert inputs == {to_input(file, found.contract).tobytes() for file in files}


def test_files_that_are_no_pictures_are_skipped_by_name(
    make: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    """Files that cannot be decoded are named and counted; hidden files are ignored."""
    folder = make(red=12, blue=12)
    for name in ("a.txt", "b.gif", "c.png", "d.jpg"):
        (folder / "red" / name).write_bytes(b"GIF8 or not")
    for name in (".DS_Store", ".cache/1.png"):
        (folder / "blue" / name).parent.mkdir(exist_ok=True)
        (folder / "blue" / name).write_bytes(b"hidden")
    (folder / ".git").mkdir()
    (folder / "blue" / "again.png").write_bytes(
        (folder / "blue" / "0.png").read_bytes()
    )

    found = load_folder(folder, size=16, ink=False)

    text = capsys.readouterr().out
    assert sum(map(len, _parts(found))) == 24
    assert found.contract.labels == ("blue", "red")
    assert [n for n in ("a.txt (", "b.gif (", "c.png (") if n not in text] == []
    assert "Skipped 4 files in all" in text
    assert "copies of other pictures: 1." in text
    assert ".DS_Store" not in text


def test_folders_that_cannot_be_used_are_refused(make: Make, tmp_path: Path) -> None:
    """The refusal says what is missing, and where."""
    folder = make(red=12, blue=9)
    flat, single = tmp_path / "flat", tmp_path / "single"
    flat.mkdir()
    (flat / "1.png").write_bytes(b"")
    (single / "cat").mkdir(parents=True)
    (single / ".hidden").mkdir()
    cases = {
        None: "--data-dir",
        tmp_path / "nowhere": "nowhere is not a folder",
        flat: "no subfolder",
        single: "only the subfolder cat",
        folder: "blue has 9 different pictures .* at least 10",
    }
    for path, words in cases.items():
        with pytest.raises(DatasetUnavailable, match=words):
            load_folder(path, size=16, ink=False)


def test_train_publish_and_classify_without_code(
    make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One command makes a model from a folder of pictures; it labels a new one correctly."""
    folder = make(red=60, blue=60)
    where = [
        "--models-dir",
        str(tmp_path / "models"),
        "--runs-dir",
        str(tmp_path / "r"),
    ]
    command = ["train", "cnn", "--dataset", "folder", "--data-dir", str(folder)]

    code = main([*command, "--name", "hues", "--size", "16", "--epochs", "12", *where])

    assert code == 0, capsys.readouterr()
    files = Repository(tmp_path / "models").newest("hues")
    assert files.contract().labels == ("blue", "red")
    assert files.accuracy("int8") >= 0.9
    assert files.metrics()["caught"] == {}
    photo = io.BytesIO()
    _picture("red", 999).resize((640, 480)).save(photo, "JPEG")
    with inkling.connect(str(files.path)) as classifier:
        assert classifier.classify(photo.getvalue()).label == "red"


def test_command_names_a_folder_that_is_missing(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without pictures the command ends before any training, and says what to name."""
    monkeypatch.delenv("INKLING_DATA_DIR", raising=False)
    where = ["--models-dir", str(tmp_path / "m"), "--runs-dir", str(tmp_path / "r")]

    assert main(["train", "cnn", "--dataset", "folder", *where]) == 1

    assert "--data-dir" in capsys.readouterr().err
