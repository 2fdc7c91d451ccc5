# SPDX-License-Identifier: Apache-2.0
"""`inkling evaluate`: the same figures whoever is asked, and nothing silently left out."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import (
    average_precision_score,
    precision_recall_fscore_support,
)

import inkling
from inkling.cli.main import main
from inkling.errors import InklingError, InvalidRequest, NotReady
from inkling.model.repository import Repository
from inkling.types import Origin, Prediction, Score
from inkling_training.data.labelled_folder import Labelled, find
from inkling_training.evaluation.tally import Share, Tally
from inkling_training.figures.reliability import expected_calibration_error, reliability
from tests.support.colour_models import COLOURS, colour

_DIGITS = tuple("0123456789")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 digits of two writers, as names say: anna/7_003.png; some are hard to read."""
    from inkling_training.data.datasets import load

    split, folder = load("digits").test, tmp_path_factory.mktemp("pictures")
    random = np.random.default_rng(0)
    for number in range(60):
        pixels = split.pixels[number].copy()
        if number % 3 == 0:
            pixels[random.random(pixels.shape) < 0.4] = 255
        writer = folder / ("anna" if number % 2 else "ben")
        writer.mkdir(exist_ok=True)
        name = f"{split.labels[number]}_{number:03}.png"
        Image.fromarray(pixels).save(writer / name)
    return folder


@dataclass(frozen=True)
class _Done:
    """The result of a command."""

    returncode: int
    stdout: str
    stderr: str


def _evaluate(*words: object) -> _Done:
    """Run the command in this process, which has imported all that it draws with."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        try:
            code = main(["evaluate", *map(str, words)])
        except SystemExit as done:  # argparse ends in this way
            code = int(str(done.code))
    return _Done(code, out.getvalue(), err.getvalue())


_WAYS: dict[str, Callable[[Path, Any], list[str]]] = {
    "repository": lambda models, _: ["--models-dir", str(models)],
    "device": lambda models, _: ["--on-device", str(models / "mlp" / "1")],
    "gRPC": lambda _, gateway: ["--server", gateway.grpc_target],
    "HTTP": lambda _, gateway: ["--server", gateway.url],
}


@pytest.mark.parametrize("way", _WAYS)
def test_figures_are_right_whoever_is_asked(
    way: str, published: Path, gateway: Any, pictures: Path, tmp_path: Path
) -> None:
    """What the command counts is what classifying one by one says."""
    files = sorted(pictures.glob("*/*"))
    with inkling.connect(Repository(published).newest("mlp").path) as classifier:
        expected = list(classifier.classify_many(files))
    wrong = {
        str(file): one.label
        for file, one in zip(files, expected, strict=True)
        if one.label != file.name[0]
    }
    assert 0 < len(wrong) < 60

    flags = _WAYS[way](published, gateway)
    flags += ["--model", "mlp", "--json", "--output", str(tmp_path / "new" / "out")]
    done = _evaluate("--pictures", pictures, *flags)

    assert 0 == done.returncode, done.stderr
    found = json.loads(done.stdout)
    assert {"right": 60 - len(wrong), "of": 60} == {
        name: found["accuracy"][name] for name in ("right", "of")
    }
    assert wrong == {one["picture"]: one["answer"] for one in found["mistakes"]}
    anna = sum("anna" in file for file in wrong)
    assert 30 - anna == found["by_source"]["anna"]["alone"]["right"]
    assert 30 - len(wrong) + anna == found["by_source"]["anna"]["without"]["right"]
    counts = np.array(found["confusion"])
    assert (60, 60 - len(wrong)) == (counts.sum(), counts.trace())
    _check_files(tmp_path / "new" / "out", found)


def _check_files(folder: Path, figures: dict[str, Any]) -> None:
    """All files are there, and the page needs none of the others."""
    drawn = ["confusion.png", "mistakes.png", "reliability.png"]
    names = {path.name for path in folder.iterdir()}
    assert {"evaluation.json", "report.html", *drawn} == names
    assert figures == json.loads((folder / "evaluation.json").read_text())
    page = (folder / "report.html").read_text()
    assert len(drawn) == page.count('src="data:image/png;base64,') == page.count("src=")
    assert "href=" not in page


def test_nothing_is_silently_left_out(
    published: Path, pictures: Path, tmp_path: Path
) -> None:
    """Refused pictures, unknown labels and abstentions are told; the rest is counted."""
    for label in ("7", "3", "<cat>"):
        (tmp_path / label).mkdir()
    good = next(pictures.glob("anna/*"))
    (tmp_path / "3" / "good.png").write_bytes(good.read_bytes())
    (tmp_path / "<cat>" / "tom.png").write_bytes(good.read_bytes())
    Image.new("L", (90, 90), 255).save(tmp_path / "7" / "blank.png")
    (tmp_path / "7" / "cut.png").write_bytes(good.read_bytes()[:60])
    (tmp_path / "7" / "one.gif").write_bytes(b"GIF89a")
    (tmp_path / "7" / ".DS_Store").write_bytes(b"hidden")
    (tmp_path / "stray.png").write_bytes(good.read_bytes())

    out = tmp_path / "out"
    flags = ["--models-dir", published, "--abstain", "--output", out]
    done = _evaluate("--pictures", tmp_path, *flags)

    assert 1 == done.returncode
    assert "abstained: 1 empty" in done.stdout
    for words in ("cut.png: ", "one.gif: ", "<cat> (1)", "1, such as "):
        assert words in done.stderr
    found = json.loads((out / "evaluation.json").read_text())
    assert {"<cat>": 1} == found["unknown_labels"]
    assert [str(tmp_path / "stray.png")] == found["unlabelled"]
    assert 2 == len(found["failures"])
    # The digit may be one that this model is not sure of.
    coverage, abstained = found["coverage"], found["abstained"]
    assert (1, 2) == (abstained["empty"], coverage["of"])
    assert 2 == coverage["right"] + sum(abstained.values())
    assert "&lt;cat&gt;" in (out / "report.html").read_text()


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--pictures", "nowhere"], 1, "nowhere is not a folder"),
        (["--pictures", "empty"], 1, "no pictures with labels"),
        (["--pictures", "dogs"], 1, "there are dog; it knows 0, 1"),
        (["--pictures", "csv"], 1, "file,label"),
        (["--pictures", ".", "--model", "nobody"], 1, "inkling train nobody"),
        (["--pictures", ".", "--server", "http://127.0.0.1:9"], 1, "cannot be reached"),
        (["--pictures", ".", "--server", "http://"], 1, "not the address of a gateway"),
        (["--pictures", ".", "--server", "non sense"], 1, "host:port"),
        (["--pictures", ".", "--on-device", "no.tflite"], 1, "no.tflite does not"),
        (["--pictures", ".", "--output", "text"], 1, "text cannot be written"),
        ([], 2, "--pictures"),
        (["--pictures", ".", "--server", "a:1", "--on-device", "b"], 2, "not allowed"),
    ],
)
def test_refusals(
    words: list[str],
    code: int,
    message: str,
    published: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A line that says what is wrong, with exit code 1; wrong arguments exit with 2."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dogs" / "dog").mkdir(parents=True)
    Image.new("L", (28, 28)).save(tmp_path / "dogs" / "dog" / "rex.png")
    (tmp_path / "empty").mkdir()
    (tmp_path / "csv").mkdir()
    (tmp_path / "csv" / "labels.csv").write_text("name,label\n7.png,7\n")
    (tmp_path / "text").write_text("a file")

    done = _evaluate(*words, "--models-dir", published)

    assert (code, "") == (done.returncode, done.stdout)
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_gateways_are_asked_about_unknown_models(gateway: Any, pictures: Path) -> None:
    """The gateway's own refusal is shown, and a gRPC port is no HTTP port."""
    for server in (gateway.url, gateway.grpc_target):
        flags = ["--server", server, "--model", "nobody"]
        done = _evaluate("--pictures", pictures, *flags)
        assert (1, True) == (done.returncode, "/v1/models lists" in done.stderr)

    server = f"http://{gateway.grpc_target}"
    done = _evaluate("--pictures", pictures, "--server", server)
    assert (1, True) == (done.returncode, "address" in done.stderr)


def test_no_framework_is_loaded(published: Path, pictures: Path) -> None:
    """An evaluation needs neither TensorFlow nor Keras."""
    code = (
        "import sys; from inkling.cli.main import main; main(sys.argv[1:]);"
        "assert not {'tensorflow', 'keras'} & set(sys.modules)"
    )
    words = ["evaluate", "--pictures", pictures, "--models-dir", published]
    command = [sys.executable, "-c", code, *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)

    assert 0 == done.returncode, done.stderr


_CSV = "\ufefffile,label,source\na.png,7,x\nsub/b.png,top/bottom,\nc.png,?,x\n"


@pytest.mark.parametrize(
    ("files", "expected", "unknown"),
    [
        (["7/a.png", "3/b.JPG"], ["3/b.JPG 3 ", "7/a.png 7 "], {}),
        (["7/x/a.png", "y/7/b.png"], ["7/x/a.png 7 x", "y/7/b.png 7 y"], {}),
        (["7/3_001.png", "cat/3_001.png"], ["7/3_001.png 7 "], {"cat": 1}),
        (["7_1.png", "s/3_2.jpeg"], ["7_1.png 7 ", "s/3_2.jpeg 3 s"], {}),
        (["top_bottom_1.png"], ["top_bottom_1.png top/bottom "], {}),
        (["top_bottom/1.png", "notes.txt"], ["top_bottom/1.png top/bottom "], {}),
        (["7/.hidden.png", "7/.git/x.png", "7/a.png"], ["7/a.png 7 "], {}),
        (["7_1.png", "x_1.png", "y.png"], ["7_1.png 7 "], {"x": 1}),
        (["labels.csv"], ["a.png 7 x", "sub/b.png top/bottom "], {"?": 1}),
    ],
    ids=" ".join,
)
def test_labels_are_found(
    files: list[str], expected: list[str], unknown: dict[str, int], tmp_path: Path
) -> None:
    """By CSV, by folder, or by name; what is between is the source."""
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(_CSV)

    found = find(tmp_path, (*_DIGITS, "top/bottom"))

    shown = [
        f"{one.path.relative_to(tmp_path)} {one.label} {one.source}"
        for one in found.pictures
    ]
    assert (expected, unknown) == (shown, dict(found.unknown))
    assert [tmp_path / "y.png"] * ("y.png" in files) == found.unlabelled


@pytest.mark.parametrize(
    ("right", "of", "low", "high"),
    [(0, 10, 0.0, 0.2775), (5, 10, 0.2366, 0.7634), (10, 10, 0.7225, 1.0)],
)
def test_intervals_are_wilsons(right: int, of: int, low: float, high: float) -> None:
    """As in the tables of Newcombe (1998), and of nothing everything is possible."""
    assert (low, high) == pytest.approx(Share(right, of).interval, abs=5e-5)
    assert ((0.0, 1.0), None, "-") == (
        Share(0, 0).interval,
        Share(0, 0).value,
        str(Share(0, 0)),
    )


def test_calibration_error() -> None:
    """0 where scores are shares, the mean distance elsewhere, weighted by pictures."""
    scores = np.array([0.75] * 4 + [0.95] * 2)
    right = np.array([True, True, True, False, False, True])

    assert 0.45 * 2 / 6 == pytest.approx(expected_calibration_error(scores, right))
    assert 0.0 == expected_calibration_error(np.array([]), np.array([], bool))
    assert [1.0, 0.0] == [
        expected_calibration_error(np.array([score]), np.array([False]))
        for score in (1.0, 0.0)
    ]
    assert 2 == len(reliability(scores, right).axes)


def test_errors_that_are_not_a_pictures_end_it() -> None:
    """A gateway that is gone says nothing of the pictures; other labels mean nothing."""
    tally, picture = Tally(_DIGITS), Labelled(Path("7.png"), "7")
    other = Prediction((Score("cat", 0, 0.9),), Origin("cnn", 2, "sha256:x"))
    outcomes: list[Prediction | InklingError] = [NotReady("gone"), other]

    for outcome, expected in zip(outcomes, (NotReady, InvalidRequest), strict=True):
        with pytest.raises(expected):
            tally.add(picture, outcome)
    assert (0.0, []) == (tally.calibration_error, tally.failures)


# Pictures with several labels, and with one of two.


def _coloured(folder: Path) -> dict[str, frozenset[str]]:
    """Write pictures of mixed colours; return the labels of each, some of them wrong."""
    chance, truth = np.random.default_rng(3), {}
    for number in range(40):
        shares = chance.integers(0, 256, 3).tolist()
        colour(*shares, side=20 + number).save(folder / f"{number}.png")
        limit = 90 if number % 5 == 0 else 128
        found = [c for c, s in zip(COLOURS, shares, strict=True) if s >= limit]
        truth[f"{number}.png"] = frozenset(found)
    return truth


def _table(form: str, truth: dict[str, frozenset[str]]) -> str:
    """Return a labels.csv, in each form in which people write several labels."""
    if form == "columns":
        head = ",".join(("image", *COLOURS))
        flags = {
            n: ",".join(str(int(c in of)) for c in COLOURS) for n, of in truth.items()
        }
        return "\n".join([head, *(f"{name},{row}" for name, row in flags.items())])
    if form == "rows":
        pairs = [(n, c) for n, of in truth.items() for c in (sorted(of) or [""])]
    else:
        pairs = [(name, form.join(sorted(of))) for name, of in truth.items()]
    return "\n".join(["file;label", *(f'{name};"{label}"' for name, label in pairs)])


def _scores(colours: Path, files: list[Path]) -> np.ndarray:
    """Return the scores of all labels, shape (pictures, labels)."""
    found = np.zeros((len(files), len(COLOURS)))
    with inkling.connect(Repository(colours).newest("several").path) as classifier:
        for place, row in enumerate(classifier.classify_many(files, len(COLOURS))):
            for score in row.top:
                found[place, score.index] = score.probability
    return found


def _of_label(figures: dict[str, Any]) -> tuple[float, float, float, int]:
    """Return precision, recall, F1 and the number of pictures with the label."""
    precision, recall = figures["precision"]["share"], figures["recall"]["share"]
    return precision, recall, figures["f1"], figures["recall"]["of"]


@pytest.mark.parametrize("form", ["columns", "rows", "|", ",", " "])
def test_pictures_with_several_labels(form: str, colours: Path, tmp_path: Path) -> None:
    """The figures are scikit-learn's, whichever way the table tells the labels."""
    truth = _coloured(tmp_path)
    (tmp_path / "labels.csv").write_text(_table(form, truth))
    flags = ["--models-dir", colours, "--model", "several", "--threshold", "0.4"]
    wanted = np.array([[c in labels for c in COLOURS] for labels in truth.values()])
    scores = _scores(colours, [tmp_path / name for name in truth])
    given, out = scores >= 0.4, tmp_path / "out"

    done = _evaluate("--pictures", tmp_path, *flags, "--json", "--output", out)

    assert 0 == done.returncode, done.stderr
    found = json.loads(done.stdout)
    assert (40, 0.4) == (found["pictures"], found["threshold"])
    exact = (wanted == given).all(axis=1)
    assert 0 < exact.sum() < 40
    assert [int(exact.sum()), 40] == [found["exact"]["right"], found["exact"]["of"]]
    assert [n for n, right in zip(truth, exact, strict=True) if not right] == [
        Path(one["picture"]).name for one in found["mistakes"]
    ]
    by_label = np.transpose(precision_recall_fscore_support(wanted, given))
    for place, label in enumerate(COLOURS):
        assert by_label[place] == pytest.approx(_of_label(found["by_label"][label]))
    micro = precision_recall_fscore_support(wanted, given, average="micro")
    assert micro[:2] == pytest.approx(
        (found["precision"]["share"], found["recall"]["share"])
    )
    assert by_label[:, 2].mean() == pytest.approx(found["macro_f1"])
    precise = average_precision_score(wanted, scores)
    assert precise == pytest.approx(found["mean_average_precision"])
    assert {"evaluation.json", "report.html", "reliability.png", "mistakes.png"} == {
        path.name for path in out.iterdir()
    }
    assert "Pictures with other labels" in (out / "report.html").read_text()


def test_sources_of_pictures_with_several_labels(colours: Path, tmp_path: Path) -> None:
    """Each source has its own figures, and the surest wrong statement comes first."""
    truth = _coloured(tmp_path)
    sources = ["phone" if number % 5 == 0 else "camera" for number in range(40)]
    rows = [
        f"{name},{'|'.join(sorted(labels))},{source}"
        for (name, labels), source in zip(truth.items(), sources, strict=True)
    ]
    (tmp_path / "labels.csv").write_text("\n".join(["file,label,source", *rows]))
    wanted = np.array([[c in labels for c in COLOURS] for labels in truth.values()])
    scores = _scores(colours, [tmp_path / name for name in truth])
    given = scores >= 0.5
    words = ["--pictures", tmp_path, "--models-dir", colours, "--model", "several"]

    found = json.loads(_evaluate(*words, "--json").stdout)
    shown = _evaluate(*words).stdout

    exact = (wanted == given).all(axis=1)
    for source, figures in found["by_source"].items():
        own = np.array(sources) == source
        assert figures["exact"]["right"] == exact[own].sum()
        assert figures["without"]["right"] == exact[~own].sum()
        precision, recall, *_ = precision_recall_fscore_support(
            wanted[own], given[own], average="micro"
        )
        assert (precision, recall) == pytest.approx(
            (figures["precision"]["share"], figures["recall"]["share"])
        )
    assert sorted(found["by_source"]) == ["camera", "phone"]
    assert "SOURCE" in shown
    sure = np.where(given, scores, 1 - scores)
    worst = np.where(wanted == given, 0, sure).max(axis=1)[~exact]
    assert [one["probability"] for one in found["mistakes"]] == pytest.approx(worst)


def test_folders_of_several_labels(colours: Path, tmp_path: Path) -> None:
    """The same picture in two folders has both labels, as one in a folder of two."""
    for labels, shares in {
        ("red", "blue"): (250, 10, 250),
        ("green",): (0, 250, 0),
        ("red+green",): (250, 250, 0),
    }.items():
        for label in labels:
            (tmp_path / label).mkdir(exist_ok=True)
            colour(*shares).save(tmp_path / label / "x.png")

    words = ["--pictures", tmp_path, "--models-dir", colours, "--model", "several"]
    done = _evaluate(*words)
    wrong = _evaluate(*words, "--threshold", "2")

    assert 0 == done.returncode, done.stderr
    assert "several 1, " in done.stdout
    assert "about 3 pictures" in done.stdout
    assert "exact        100.00%" in done.stdout
    assert "mAP          100.00%" in done.stdout
    assert (1, True) == (wrong.returncode, "from 0 to 1" in wrong.stderr)


def test_one_of_two_labels(colours: Path, tmp_path: Path) -> None:
    """A binary model has accuracy, precision and recall, and F1 of its second label."""
    kinds = [("light", 250)] * 6 + [("light", 60)] * 2 + [("dark", 20)] * 4
    for number, (label, share) in enumerate(kinds):
        (tmp_path / label).mkdir(exist_ok=True)
        colour(share, share, share).save(tmp_path / label / f"{number}.png")

    words = ["--pictures", tmp_path, "--models-dir", colours, "--model", "pair"]
    found = json.loads(_evaluate(*words, "--json").stdout)
    shown = _evaluate(*words).stdout
    refused = _evaluate(*words, "--threshold", "0.5")

    assert [10, 12] == [found["accuracy"][name] for name in ("right", "of")]
    light = found["by_label"]["light"]
    assert (1.0, 0.75) == (light["precision"]["share"], light["recall"]["share"])
    assert {"label": "light", "f1": pytest.approx(6 / 7)} == found["second_label"]
    assert "F1           85.71%, of light" in shown
    assert (1, True) == (refused.returncode, "exclude each other" in refused.stderr)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("file,red,blue\na.png,1,0.5\n", "under blue; expected 1"),
        ("file,cat,dog\na.png,1,0\n", "file and label"),
        ("file,label\n,red\n", "has no file"),
    ],
)
def test_odd_tables_of_several_labels(
    table: str, message: str, colours: Path, tmp_path: Path
) -> None:
    """A table that says nothing clear is refused, and the message names the place."""
    (tmp_path / "labels.csv").write_text(table)

    words = ["--models-dir", colours, "--model", "several"]
    done = _evaluate("--pictures", tmp_path, *words)

    assert (1, True) == (done.returncode, message in done.stderr), done.stderr


def test_withheld_pictures_are_named_and_judged(
    published: Path, pictures: Path, tmp_path: Path
) -> None:
    """With abstaining, each withheld picture is named, and each source has its figures."""
    flags = ["--models-dir", published, "--model", "mlp"]
    plain = json.loads(_evaluate("--pictures", pictures, "--json", *flags).stdout)
    done = _evaluate("--pictures", pictures, "--json", "--abstain", *flags)
    found = json.loads(done.stdout)
    answers = {one["picture"]: one["answer"] for one in plain["mistakes"]}

    withheld = {one["picture"]: one for one in found["withheld"]}
    assert withheld, "no picture was withheld, so that nothing is shown"
    wrong = [one for one in withheld.values() if one["likeliest"] != one["truth"]]
    assert {one["picture"] for one in wrong} == answers.keys() & withheld.keys()
    assert found["wrong_withheld"]["right"] == len(wrong)
    assert sum(found["abstained"].values()) == len(withheld)
    for source, figures in found["by_source"].items():
        own = [one for one in withheld if f"/{source}/" in one]
        assert figures["pictures"] == 30
        assert figures["withheld"]["right"] == len(own)
        assert figures["alone"]["of"] == 30 - len(own)
        assert figures["wrong_withheld"]["of"] == len(own)
        assert 0 <= figures["expected_calibration_error"] <= 1
    shown = _evaluate("--pictures", pictures, "--abstain", *flags).stdout
    assert (
        f"withheld     {len(wrong)} of {len(withheld)} would have been wrong" in shown
    )
    heads = [line.split() for line in shown.splitlines() if line.startswith("SOURCE")]
    assert heads[0][-3:] == ["WITHHELD", "WRONG", "ECE"]


def test_copies_are_said(published: Path, pictures: Path, tmp_path: Path) -> None:
    """Two paths with the same bytes make one picture count twice, which is said."""
    first, other = sorted((pictures / "anna").iterdir())[:2]
    for name in ("7_a.png", "7_b.png", "7_c.png"):
        (tmp_path / name).write_bytes(first.read_bytes())
    (tmp_path / "3_a.png").write_bytes(other.read_bytes())

    done = _evaluate(
        *("--pictures", tmp_path, "--models-dir", published, "--model", "mlp"), "--json"
    )

    same = [str(tmp_path / f"7_{name}.png") for name in "abc"]
    assert json.loads(done.stdout)["copies"] == [same]
    assert f"1 pictures have copies, and each copy counts: {same[0]} has" in done.stderr
