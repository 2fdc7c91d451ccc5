# SPDX-License-Identifier: Apache-2.0
"""Folders and tables of pictures as people have them: understood, or told what to do."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from inkling.errors import InvalidRequest
from inkling_training.data.folder import load_folder
from inkling_training.data.labelled_folder import find
from inkling_training.data.labels_csv import read_table
from inkling_training.data.layout import layout_of
from inkling_training.errors import DatasetUnavailable

_CUBE = "grüner Würfel"
_NFC, _NFD = (unicodedata.normalize(form, _CUBE) for form in ("NFC", "NFD"))

Fill = Callable[..., None]


@pytest.fixture
def fill() -> Fill:
    """Put different pictures into a folder: `fill(folder, 12)`."""
    made = 0

    def filled(folder: Path, count: int, ending: str = "png") -> None:
        nonlocal made
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(count):
            made += 1
            pixels = np.random.default_rng(made).integers(0, 255, (20, 20, 3), np.uint8)
            Image.fromarray(pixels).save(
                folder / f"{number}.{ending}",
                "PNG" if "n" in ending.lower() else "JPEG",
            )

    return filled


def _sizes(folder: Path) -> tuple[int, int, int]:
    found = load_folder(folder, size=16, ink=False)
    return len(found.train), len(found.validation), len(found.test)


def test_train_and_test_folders_are_kept(tmp_path: Path, fill: Fill) -> None:
    """The test set is the test folder, in any capitals; validation is cut from training."""
    for label in ("cat", "dog"):
        fill(tmp_path / "Train" / label, 20)
        fill(tmp_path / "TEST" / label, 5)

    found = load_folder(tmp_path, size=16, ink=False)

    assert ("cat", "dog") == found.contract.labels
    assert (36, 4, 10) == (len(found.train), len(found.validation), len(found.test))
    fill(tmp_path / "valid" / "cat", 3)
    assert (40, 3, 10) == _sizes(tmp_path)


@pytest.mark.parametrize(
    "names",
    [("training_set", "test_set"), ("train-images", "Test Images"), ("TRAIN", "dev")],
)
def test_names_of_splits(names: tuple[str, str], tmp_path: Path, fill: Fill) -> None:
    """Splits are found under the names that data sets on the web give them."""
    for name in names:
        for label in ("cat", "dog"):
            fill(tmp_path / name / label, 1)

    layout = layout_of(tmp_path)

    assert ("cat", "dog") == layout.labels
    assert {"train", "validation" if "dev" in names else "test"} == {
        file.split for file in layout.files
    }


def test_copies_of_test_pictures_are_not_trained_on(tmp_path: Path, fill: Fill) -> None:
    """A picture that lies in both folders counts as a test picture only."""
    for label in ("cat", "dog"):
        fill(tmp_path / "train" / label, 20)
        fill(tmp_path / "test" / label, 5)
    for path in (tmp_path / "test" / "cat").iterdir():
        (tmp_path / "train" / "cat" / f"copy-{path.name}").write_bytes(
            path.read_bytes()
        )

    assert (36, 4, 10) == _sizes(tmp_path)


def test_what_is_no_split_is_said(
    tmp_path: Path, fill: Fill, capsys: pytest.CaptureFixture[str]
) -> None:
    """Folders beside the splits, such as unlabelled tests, are named and left out."""
    for label in ("cat", "dog"):
        fill(tmp_path / "train" / label, 20)
    fill(tmp_path / "test", 5)
    fill(tmp_path / "annotations", 1)

    assert (30, 4, 6) == _sizes(tmp_path)
    assert "Left out 2 folders" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("label", "words"), [("Cat", "Is it cat"), ("bird", "they have cat, dog")]
)
def test_test_labels_must_be_trained(
    label: str, words: str, tmp_path: Path, fill: Fill
) -> None:
    """A label that only the test folder has is refused, with the near match."""
    for name in ("train/cat", "train/dog", f"test/{label}"):
        fill(tmp_path / name, 1)

    with pytest.raises(DatasetUnavailable, match=words):
        load_folder(tmp_path, size=16, ink=False)


def test_a_folder_called_test_can_be_a_label(tmp_path: Path, fill: Fill) -> None:
    """Without folders in them, `train` and `test` are labels as any other."""
    for label in ("train", "test"):
        fill(tmp_path / label, 12)

    assert ("test", "train") == layout_of(tmp_path).labels


def test_nested_folders_links_and_litter(
    tmp_path: Path, fill: Fill, capsys: pytest.CaptureFixture[str]
) -> None:
    """Pictures count at any depth and through links; loops and litter do not."""
    pets = tmp_path / "pets"
    fill(pets / "cat" / "2026" / "may", 12, "PNG")
    fill(tmp_path / "elsewhere", 12, "JPG")
    (pets / "dog").symlink_to(tmp_path / "elsewhere")
    (pets / "cat" / "again").symlink_to(pets / "cat")
    (pets / "cat" / "gone.png").symlink_to("nowhere.png")
    os.mkfifo(pets / "cat" / "pipe.png")
    (pets / "cat" / "Thumbs.db").write_bytes(b"")
    for name in ("__MACOSX", ".ipynb_checkpoints", "@eaDir", "lost+found"):
        (pets / name).mkdir()

    assert 24 == sum(_sizes(pets))

    said = capsys.readouterr().out
    assert "gone.png (is a link to a file that is not there)" in said
    assert "pipe.png (cannot be read)" in said
    assert "Thumbs.db" not in said


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        (
            {"cat": 12, "empty": 0},
            "empty has 0 different pictures .* take the label away",
        ),
        ({"cat": 12}, "only the subfolder cat"),
        ({"pets/cat": 1, "pets/dog": 1}, "only the subfolder pets.* give that folder"),
        ({_NFC: 1, _NFD: 1}, r"'gru\\u0308ner .* and 'gr\\xfcner .* the same label"),
        ({"cat": 1, "cat ": 1}, "'cat' and 'cat ' spell the same label"),
    ],
    ids=["empty folder", "one label", "one too high", "two forms", "a space"],
)
def test_folders_that_are_refused_say_what_to_do(
    counts: dict[str, int], words: str, tmp_path: Path, fill: Fill
) -> None:
    """Empty folders, one label only, and two spellings of one label."""
    for name, count in counts.items():
        fill(tmp_path / name, count)

    with pytest.raises(DatasetUnavailable, match=words):
        load_folder(tmp_path, size=16, ink=False)


def test_names_that_are_not_unicode(tmp_path: Path, fill: Fill) -> None:
    """A label must be text; the folder of the data set and the files need not be."""
    place = Path(os.fsdecode(os.path.join(os.fsencode(tmp_path), b"d\xe9mo")))
    for label in ("cat", "dog"):
        fill(place / label, 12)
        file = os.fsdecode(b"\xe9t\xe9.png")
        (place / label / "0.png").rename(place / label / file)

    name = load_folder(place, size=16, ink=False).name
    assert r"d\udce9mo" == name

    fill(place / os.fsdecode(b"\xe9"), 1)
    with pytest.raises(DatasetUnavailable, match="cannot be a label"):
        load_folder(place, size=16, ink=False)


def test_labels_are_composed(tmp_path: Path, fill: Fill) -> None:
    """A model that is trained on a Mac's decomposed folders has composed labels."""
    for label in (_NFD, "cat "):
        fill(tmp_path / label, 12)

    assert ("cat", _NFC) == load_folder(tmp_path, size=16, ink=False).contract.labels


_TABLES = {
    "commas": "file,label\na/1.png,cat\nb.png,dog\n",
    "semicolons": "file;label\na/1.png;cat\nb.png;dog\n",
    "tabs": "file\tlabel\na/1.png\tcat\nb.png\tdog\n",
    "bars": "file|label\na/1.png|cat\nb.png|dog\n",
    "spaces": "file, label\na/1.png, cat\n b.png ,dog \n",
    "capitals": "Filename,Label\na/1.png,cat\nb.png,dog\n",
    "other names": "image path,class\na/1.png,cat\nb.png,dog\n",
    "other order": "label,file\ncat,a/1.png\ndog,b.png\n",
    "more columns": "id,file,label,split\n1,a/1.png,cat,x\n2,b.png,dog,y\n",
    "quotes": '"file","label"\r\n"a/1.png","cat"\r\n"b.png","dog"\r\n',
    "byte order mark": "\ufefffile,label\na/1.png,cat\nb.png,dog\n",
    "CRLF": "file,label\r\na/1.png,cat\r\nb.png,dog\r\n",
    "CR": "file,label\ra/1.png,cat\rb.png,dog\r",
    "no last line end": "file,label\na/1.png,cat\nb.png,dog",
    "backslashes": "file,label\na\\1.png,cat\n.\\b.png,dog\n",
    "capitals of files": "file,label\nA/1.PNG,cat\nB.png,dog\n",
    "comments": "# made by hand\n\nfile,label\n# cats\na/1.png,cat\n\nb.png,dog\n",
    "Excel's": "sep=;\nfile;label;;\na/1.png;cat;;\nb.png;dog;;\n;;;\n",
    "invisible": "file,label\na/1.png,cat\u00a0\nb.png,\u200bdog\n",
}


@pytest.fixture
def two(tmp_path: Path, fill: Fill) -> Path:
    """A folder with the pictures of the tables."""
    fill(tmp_path / "a", 2)
    (tmp_path / "a" / "0.png").rename(tmp_path / "b.png")
    return tmp_path


@pytest.mark.parametrize("text", _TABLES.values(), ids=_TABLES)
def test_tables_are_understood(text: str, two: Path) -> None:
    """Whatever parts the cells and ends the lines, the table says the same."""
    (two / "Labels.CSV").write_bytes(text.encode())

    rows = read_table(two / "Labels.CSV")

    assert [("a/1.png", "cat"), ("b.png", "dog")] == [
        (row.path.resolve().relative_to(two.resolve()).as_posix(), row.label)
        for row in rows
    ]
    assert 2 == len(find(two, ("cat", "dog")).pictures)


def test_tables_in_utf16_are_understood(two: Path) -> None:
    """Excel's "Unicode text" has tabs and two bytes for each character."""
    text = f"file\tlabel\r\na/1.png\t{_NFD}\r\nb.png\tdog\r\n"
    (two / "labels.csv").write_bytes(text.encode("utf-16"))

    assert [_NFC, "dog"] == [row.label for row in read_table(two / "labels.csv")]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"", "is empty; expected a first row"),
        (b"a/1.png,cat\n", "begins with 'a/1.png,cat'; expected a first row"),
        (b"name label\n1.png cat\n", "begins with 'name label'"),
        (b"file,label\na/1.png,cat\nb.png\n", "Line 3 .* no file or no label: 'b.png'"),
        (b"file,label\n,cat\n", "Line 2 "),
        (b"# x\nfile,label\nb.png,T-shirt, red\n", "Line 3 .* more cells .* quotes"),
        (
            "file,label\nb.png,Würfel\n".encode("cp1252"),
            'is not UTF-8; save it as "CSV UTF-8"',
        ),
        (
            b"file,label\nb.png,\0\n" + b'"' + b"x" * 200_000,
            "is not a table of text|Line",
        ),
    ],
    ids=[
        "empty",
        "no header",
        "other columns",
        "short",
        "no file",
        "long",
        "code page",
        "binary",
    ],
)
def test_tables_that_are_refused_name_the_line(
    text: bytes, words: str, two: Path
) -> None:
    """The message says which line is wrong, and what is expected; for training, too."""
    (two / "labels.csv").write_bytes(text)

    with pytest.raises(InvalidRequest, match=words):
        find(two, ("cat", "dog"))
    with pytest.raises(DatasetUnavailable, match=words):
        load_folder(two, size=16, ink=False)


def test_a_table_can_be_trained_on(tmp_path: Path, fill: Fill) -> None:
    """`labels.csv` trains as folders do; files that are not there are named."""
    fill(tmp_path / "all", 24, "jpg")
    lines = [f"all/{n}.jpg;{('cat', 'dog')[n % 2]}" for n in range(24)]
    table = "\n".join(
        ["Datei-Nr;File;Label", *(f"{n};{line}" for n, line in enumerate(lines))]
    )
    (tmp_path / "labels.csv").write_text(table + "\n99;all/none.jpg;cat\n")

    found = load_folder(tmp_path, size=16, ink=False)

    assert ("cat", "dog") == found.contract.labels
    assert 24 == len(found.train) + len(found.validation) + len(found.test)


def test_contradictions_are_told(
    tmp_path: Path, fill: Fill, capsys: pytest.CaptureFixture[str]
) -> None:
    """One picture under two labels is a mistake that the folder's owner wants to know."""
    for label in ("cat", "dog"):
        fill(tmp_path / label, 12)
    (tmp_path / "dog" / "x.png").write_bytes((tmp_path / "cat" / "0.png").read_bytes())

    load_folder(tmp_path, size=16, ink=False)

    assert "under two labels: 1, the first under cat and dog" in capsys.readouterr().out


# Evaluation.


@pytest.mark.parametrize(
    ("folder", "label"), [(_NFC, _NFD), (_NFD, _NFC), (_NFD, _NFD)]
)
@pytest.mark.parametrize("form", ["folder", "file", "table"])
def test_normal_forms_meet(folder: str, label: str, form: str, two: Path) -> None:
    """A folder, a file or a table in one form means the model's label in the other."""
    name = {"folder": f"{folder}/1.png", "file": f"{folder}_1.png"}.get(form, "a/1.png")
    (two / name).parent.mkdir(exist_ok=True)
    (two / "a" / "1.png").rename(two / name)
    if form == "table":
        (two / "labels.csv").write_text(f"file,label\n{name},{folder}\n")

    found = find(two, ("cat", label))

    assert [(two / name, label)] == [(one.path, one.label) for one in found.pictures]


def test_two_forms_in_one_published_model_stay_apart(two: Path) -> None:
    """A model that has both is asked about each as it is spelled."""
    for name in (_NFC, _NFD):
        (two / name).mkdir()
        (two / name / "1.png").write_bytes(b"")

    found = find(two, (_NFC, _NFD))

    assert {(_NFC, _NFC), (_NFD, _NFD)} == {
        (one.path.parent.name, one.label) for one in found.pictures
    }


def test_every_file_of_an_evaluation_is_accounted_for(tmp_path: Path) -> None:
    """All endings of accepted formats are read, in any capitals; the rest is counted."""
    read = ["a.png", "b.JPG", "c.jpeg", "d.jfif", "e.JPE", "f.mpo", "g.pjp", "h.gif"]
    other = ["notes.txt", "movie.mp4", "IMG_0001"]
    (tmp_path / "7").mkdir()
    for name in [*read, *other, "Thumbs.db", "._a.png"]:
        (tmp_path / "7" / name).write_bytes(b"x")

    found = find(tmp_path, ("7", "8"))

    assert read == [one.path.name for one in found.pictures]
    assert sorted(other) == sorted(path.name for path in found.others)


def test_other_files_are_told(
    published: Path, picture: bytes, tmp_path: Path, capsys: Any
) -> None:
    """The command says what it passed over, and which folder is a label by other capitals."""
    from inkling.cli.main import main

    for name in ("3/a.png", "Three/b.png"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(picture)
    (tmp_path / "3" / "notes.txt").write_text("")
    files = str(published / "mlp" / "1")

    assert 0 == main(["evaluate", "--pictures", str(tmp_path), "--on-device", files])

    said = capsys.readouterr().err
    assert "Passed over, since they are no pictures: 1, such as" in said
    assert "Three (1)" in said
