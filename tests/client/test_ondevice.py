# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import dataclasses
import io
import json
import os
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import inkling
from inkling.contract import Contract
from inkling.errors import BrokenVersion, InklingError, InvalidContract, InvalidRequest
from inkling.model.bundle import read_bundle
from inkling.model.loading import check_golden, load_version
from inkling.model.repository import (
    CONTRACT_FILE,
    FORMATS,
    GOLDEN_FILE,
    MANIFEST_FILE,
    Repository,
    VersionFiles,
)
from inkling.model.runner import TFLiteRunner
from tests.support.machine import memory_bytes

_THREADS = 8

# The import system as it is where LiteRT is not installed. (None in sys.modules would
# blame the submodule.)
_WITHOUT_LITERT = """
import sys
from pathlib import Path

class Without:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "ai_edge_litert":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Without())
from inkling.model.ondevice import OnDeviceClassifier
from inkling.errors import MissingDependency
from inkling.model.repository import Repository

files = Repository(Path(sys.argv[1])).newest("mlp")
try:
    OnDeviceClassifier(files.path)
except MissingDependency as error:
    print(error.message)
"""


@pytest.fixture(scope="module")
def mlp(published: Path) -> VersionFiles:
    """The files of the trained MLP."""
    return Repository(published).newest("mlp")


@pytest.fixture(scope="module")
def inputs(mlp: VersionFiles) -> np.ndarray:
    """All golden inputs, and one made of noise: 33 in all."""
    with np.load(mlp.path / GOLDEN_FILE) as golden:
        known = golden["inputs"]
    noise = np.random.default_rng(33).random(known.shape[1:], np.float32)
    return np.concatenate([known, noise[np.newaxis]])


def _runner(files: VersionFiles, tflite_format: str = "float32") -> TFLiteRunner:
    bundle = read_bundle(files.tflite(tflite_format).read_bytes())
    return TFLiteRunner(bundle.model, files.contract())


def _changed(
    files: VersionFiles, root: Path, change: Callable[[Path], None]
) -> VersionFiles:
    """Publish a copy of a version, changed before its manifest was written."""
    with Repository(root).publishing(files.model) as publication:
        for path in files.path.rglob("*"):
            if path.is_file() and path.name != MANIFEST_FILE:
                target = publication.path / path.relative_to(files.path)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(path.read_bytes())
        change(publication.path)
        return publication.commit()


def _golden(**values: np.ndarray | None) -> Callable[[Path], None]:
    """Change arrays of the golden file; None removes one."""

    def change(version: Path) -> None:
        with np.load(version / GOLDEN_FILE) as golden:
            arrays = {**golden, **values}
        kept = {name: array for name, array in arrays.items() if array is not None}
        np.savez_compressed(version / GOLDEN_FILE, **kept)

    return change


def _text(name: str, text: str | bytes) -> Callable[[Path], None]:
    data = text.encode() if isinstance(text, str) else text
    return lambda version: (version / name).write_bytes(data) and None


@pytest.mark.parametrize(
    ("model", "tflite_format", "calls"),
    [
        ("cnn", "float32", 4000),
        ("mlp", "float32", 4000),
        ("mlp", "int8", 4000),
        pytest.param("cnn", "float32", 100_000, marks=pytest.mark.soak),
    ],
)
def test_threads_get_the_same_answers(
    published: Path, inputs: np.ndarray, model: str, tflite_format: str, calls: int
) -> None:
    """8 threads at once get scores that are equal to the last bit."""
    runner = _runner(Repository(published).newest(model), tflite_format)
    expected = [runner.run(row[np.newaxis]).tobytes() for row in inputs]
    start = threading.Barrier(_THREADS)

    def work(thread: int) -> int:
        start.wait()
        wrong = 0
        for call in range(thread, calls, _THREADS):
            row = call % len(inputs)
            scores = runner.run(inputs[row : row + 1])
            wrong += scores.tobytes() != expected[row]
        return wrong

    with ThreadPoolExecutor(_THREADS) as pool:
        assert list(pool.map(work, range(_THREADS))) == [0] * _THREADS


def test_threads_with_batches_of_many_sizes(
    mlp: VersionFiles, inputs: np.ndarray
) -> None:
    """Threads that change the batch size do not disturb each other."""
    runner = _runner(mlp)
    single = np.concatenate([runner.run(row[np.newaxis]) for row in inputs])

    def work(thread: int) -> float:
        rng = np.random.default_rng(thread)
        worst = 0.0
        for _ in range(200):
            rows = rng.integers(0, len(inputs), rng.integers(1, 34))
            difference = np.abs(runner.run(inputs[rows]) - single[rows])
            worst = max(worst, float(difference.max()))
        return worst

    with ThreadPoolExecutor(_THREADS) as pool:
        assert max(pool.map(work, range(_THREADS))) <= 1e-6


@pytest.mark.parametrize("model", ["mlp", "cnn"])
@pytest.mark.parametrize("tflite_format", FORMATS)
def test_batches_are_single_answers(
    published: Path, inputs: np.ndarray, model: str, tflite_format: str
) -> None:
    """Batches of 1 to 33, in any order of sizes, give the scores of single inputs."""
    runner = _runner(Repository(published).newest(model), tflite_format)
    single = np.concatenate([runner.run(row[np.newaxis]) for row in inputs])

    for size in [*range(1, 34), *np.random.default_rng(1).integers(1, 34, 20)]:
        scores = runner.run(inputs[-size:])
        assert ((size, 10), np.float32) == (scores.shape, scores.dtype)
        assert np.abs(scores - single[-size:]).max() <= 1e-6


def test_inputs_in_another_memory_order(mlp: VersionFiles, inputs: np.ndarray) -> None:
    """Views, reversed arrays and arrays in Fortran's order give the same scores."""
    runner = _runner(mlp)
    expected = runner.run(inputs)

    assert expected.tobytes() == runner.run(np.asfortranarray(inputs)).tobytes()
    assert expected[::-1].tobytes() == runner.run(inputs[::-1]).tobytes()
    assert expected[::2].tobytes() == runner.run(inputs[::2]).tobytes()


def test_scores_are_the_callers_own(mlp: VersionFiles, inputs: np.ndarray) -> None:
    """Scores do not change when the next inputs are run."""
    runner = _runner(mlp)
    first = runner.run(inputs[:1])
    kept = first.copy()
    runner.run(inputs[1:2])

    assert kept.tobytes() == first.tobytes()


def test_threads_that_end_leave_no_memory(published: Path, inputs: np.ndarray) -> None:
    """The interpreters of 150 threads that have ended are freed."""
    runner = _runner(Repository(published).newest("cnn"))

    def serve(threads: int) -> None:
        for _ in range(threads):
            thread = threading.Thread(target=runner.run, args=(inputs,))
            thread.start()
            thread.join()

    serve(30)
    before = memory_bytes(os.getpid())
    serve(150)

    assert memory_bytes(os.getpid()) - before < 32 * 2**20


@pytest.mark.parametrize("eighth", range(8))
def test_truncated_models_are_refused(mlp: VersionFiles, eighth: int) -> None:
    """A TFLite file that was cut short is a BrokenVersion; the process does not crash."""
    model = mlp.tflite("float32").read_bytes()

    with pytest.raises(BrokenVersion, match="cannot load"):
        TFLiteRunner(model[: len(model) * eighth // 8], mlp.contract())


@pytest.mark.parametrize(
    "model",
    [b"", b"\x00" * 1000, b"garbage", b"\x1c\x00\x00\x00TFL3" + b"\xff" * 1000,
     os.urandom(5000), b"\x89PNG\r\n\x1a\n" * 100],
    ids=["empty", "zeros", "text", "header only", "noise", "a picture"],
)  # fmt: skip
def test_garbage_is_refused(digit_contract: Contract, model: bytes) -> None:
    """Bytes that are not a TFLite file are a BrokenVersion."""
    with pytest.raises(BrokenVersion, match="cannot load"):
        TFLiteRunner(model, digit_contract)


@pytest.mark.parametrize(
    "change",
    [
        {"height": 32, "width": 32},
        {"height": 56, "width": 14, "box": 14},
        {"channels": 3, "grey": "luminance"},
        {"labels": tuple("012345678")},
        {"labels": tuple("0123456789a")},
    ],
    ids=["size", "same pixels", "channels", "fewer labels", "more labels"],
)
def test_models_that_are_not_as_their_contract(
    mlp: VersionFiles, change: dict[str, object]
) -> None:
    """Another input shape or class count than the contract's is refused."""
    contract = dataclasses.replace(mlp.contract(), **change)

    with pytest.raises(BrokenVersion, match="its contract states"):
        TFLiteRunner(mlp.tflite("float32").read_bytes(), contract)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38, -0.1, 1.1, 255.0])
def test_inputs_out_of_range_are_refused(mlp: VersionFiles, value: float) -> None:
    """An input with a value that the contract's scaling cannot give is refused."""
    array = np.zeros((1, 28, 28, 1), np.float32)
    array[0, 14, 14, 0] = value

    with pytest.raises(InvalidRequest):
        _runner(mlp).run(array)


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        ((0, 28, 28, 1), "float32"),
        ((28, 28, 1), "float32"),
        ((1, 28, 28), "float32"),
        ((1, 28, 28, 3), "float32"),
        ((1, 1, 28, 28), "float32"),
        ((1, 28, 28, 1), "float64"),
        ((1, 28, 28, 1), "float16"),
        ((1, 28, 28, 1), "uint8"),
        ((1, 28, 28, 1), "object"),
        ((), "float32"),
    ],
)
def test_inputs_of_another_form_are_refused(
    mlp: VersionFiles, shape: tuple[int, ...], dtype: str
) -> None:
    """Inputs must be float32 of shape (n, 28, 28, 1) with n at least 1."""
    with pytest.raises(InvalidRequest):
        _runner(mlp).run(np.zeros(shape, dtype))


@pytest.mark.parametrize("model", ["mlp", "cnn"])
@pytest.mark.parametrize("tflite_format", FORMATS)
def test_published_versions_load(
    published: Path, inputs: np.ndarray, model: str, tflite_format: str
) -> None:
    """Every format of a trained version passes its own golden check."""
    files = Repository(published).newest(model)

    scores = load_version(files, tflite_format).run(inputs)

    assert scores.shape == (33, 10)
    assert np.abs(scores.sum(axis=1) - 1).max() < 0.05


@pytest.mark.parametrize("tflite_format", FORMATS)
def test_weights_of_another_model_are_refused(
    published: Path, mlp: VersionFiles, tmp_path: Path, tflite_format: str
) -> None:
    """The golden check refuses a file of other weights that fits the contract."""
    file = Repository(published).newest("cnn").tflite(tflite_format)
    bundle = read_bundle(file.read_bytes())
    other = dataclasses.replace(bundle, contract=mlp.contract()).to_bytes()
    name = f"tflite/{tflite_format}.tflite"
    files = _changed(
        mlp, tmp_path, lambda path: (path / name).write_bytes(other) and None
    )

    with pytest.raises(BrokenVersion, match="golden"):
        load_version(files, tflite_format)


def _npz(**arrays: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def _contract(**values: object) -> Callable[[Path], None]:
    """Change fields of the contract."""

    def change(version: Path) -> None:
        path = version / CONTRACT_FILE
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))

    return change


def _contract_everywhere(**values: object) -> Callable[[Path], None]:
    """Change fields of the contract, in the TFLite file that carries it too."""

    def change(version: Path) -> None:
        _contract(**values)(version)
        contract = Contract.from_json((version / CONTRACT_FILE).read_bytes())
        path = version / "tflite/float32.tflite"
        bundle = read_bundle(path.read_bytes())
        path.write_bytes(dataclasses.replace(bundle, contract=contract).to_bytes())

    return change


def _open_bracket(version: Path) -> None:
    """Leave a bracket open in the header of a golden array."""
    with zipfile.ZipFile(version / GOLDEN_FILE) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    members["scores.npy"] = members["scores.npy"].replace(b"(32, 10)", b"(32, 10(")
    with zipfile.ZipFile(version / GOLDEN_FILE, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)


_NO_ROWS = np.zeros((0, 28, 28, 1), np.float32)
_GOLDEN_FAULTS: dict[str, Callable[[Path], None]] = {
    "file missing": lambda version: (version / GOLDEN_FILE).unlink(),
    "file empty": _text(GOLDEN_FILE, b""),
    "file is text": _text(GOLDEN_FILE, "golden"),
    "file cut short": _text(GOLDEN_FILE, _npz(inputs=_NO_ROWS)[:-30]),
    "no inputs": _golden(inputs=None),
    "no scores": _golden(scores=None),
    "no rows": _golden(inputs=_NO_ROWS, scores=np.zeros((0, 10), np.float32)),
    "fewer scores": _golden(scores=np.zeros((5, 10), np.float32)),
    "inputs of float64": _golden(inputs=np.zeros((32, 28, 28, 1))),
    "inputs out of range": _golden(inputs=np.full((32, 28, 28, 1), 9, np.float32)),
    "scores are not numbers": _golden(scores=np.full((32, 10), np.nan, np.float32)),
    "scores of text": _golden(scores=np.full((32, 10), "0.1")),
    "header unreadable": _open_bracket,
    "pickled": _golden(scores=np.array([{}], dtype=object)),
}


@pytest.mark.parametrize("change", _GOLDEN_FAULTS.values(), ids=_GOLDEN_FAULTS.keys())
def test_broken_golden_files_are_refused(
    mlp: VersionFiles, tmp_path: Path, change: Callable[[Path], None]
) -> None:
    """A version whose golden file is damaged or empty is a BrokenVersion."""
    files = _changed(mlp, tmp_path, change)

    with pytest.raises(BrokenVersion):
        load_version(files, "float32")


def test_one_golden_row_does_not_speak_for_all(
    mlp: VersionFiles, inputs: np.ndarray, tmp_path: Path
) -> None:
    """Golden scores with one row for many inputs are refused, and not broadcast."""
    twice = np.repeat(inputs[:1], 2, axis=0)
    change = _golden(inputs=twice, scores=_runner(mlp).run(inputs[:1]))

    with pytest.raises(BrokenVersion):
        load_version(_changed(mlp, tmp_path, change), "float32")


def test_golden_scores_may_differ_by_the_tolerance(
    mlp: VersionFiles, tmp_path: Path
) -> None:
    """Scores within the contract's tolerance pass; just over it they do not."""
    runner = _runner(mlp)
    with np.load(mlp.path / GOLDEN_FILE) as golden:
        known, scores = golden["inputs"], runner.run(golden["inputs"])
    tolerance = mlp.contract().tolerances["float32"]
    for factor, passes in ((0.5, True), (2.0, False)):
        moved = scores.copy()
        moved[7, 3] += np.float32(tolerance * factor)
        change = _golden(inputs=known, scores=moved)
        files = _changed(mlp, tmp_path / str(factor), change)
        if passes:
            check_golden(runner, files, "float32")
        else:
            with pytest.raises(BrokenVersion, match="the contract allows"):
                check_golden(runner, files, "float32")


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (_text("tflite/float32.tflite", b"TFL3"), BrokenVersion),
        (lambda version: (version / "tflite/float32.tflite").unlink(), BrokenVersion),
        (lambda version: (version / CONTRACT_FILE).unlink(), BrokenVersion),
        (_text(CONTRACT_FILE, "{}"), InvalidContract),
        (_text(CONTRACT_FILE, b"\xff"), InvalidContract),
        (_contract(format=99), InvalidContract),
        (_contract(polarity="as_is"), BrokenVersion),
        (_contract_everywhere(labels=list("01234567")), BrokenVersion),
        (_contract_everywhere(height=32, width=32), BrokenVersion),
        (_contract_everywhere(scale=[1 / 127.5], offset=[-1.0]), BrokenVersion),
        (_contract_everywhere(polarity="as_is"), BrokenVersion),
        (_contract_everywhere(box=16), BrokenVersion),
    ],
    ids=[
        "broken tflite", "no tflite", "no contract", "empty contract",
        "contract not UTF-8", "contract of a later format",
        "contract not the file's", "fewer labels",
        "another size", "another scale", "another polarity", "another box",
    ],
)  # fmt: skip
def test_versions_that_lack_what_is_needed_are_refused(
    mlp: VersionFiles,
    tmp_path: Path,
    change: Callable[[Path], None],
    error: type[InklingError],
) -> None:
    """A version that contradicts itself is refused when it is loaded."""
    files = _changed(mlp, tmp_path, change)

    with pytest.raises(error):
        load_version(files, "float32")


def test_version_that_changed_after_publishing_is_refused(
    models_dir: Path,
) -> None:
    """One flipped bit in the TFLite file is found before it is loaded."""
    files = Repository(models_dir).newest("cnn")
    path = files.tflite("float32")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)

    with pytest.raises(BrokenVersion, match="SHA-256"):
        load_version(files, "float32")


@pytest.mark.timeout(60)  # to open a pipe is to wait for ever
@pytest.mark.parametrize("target", ["pipe", "/dev/zero", "gone", "int8.tflite"])
def test_files_that_cannot_be_read_are_named(target: str, tmp_path: Path) -> None:
    """A link to a pipe, to a device, to nothing or to itself is refused with the reason."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "int8.tflite").symlink_to(target)

    with pytest.raises(InklingError, match=r"int8\.tflite (is|does)"):
        inkling.connect(tmp_path / "int8.tflite")


@pytest.mark.parametrize("beneath", ["", "mlp"])
def test_a_folder_above_a_version_leads_to_it(published: Path, beneath: str) -> None:
    """For the directory of a model or of all, the error names a version in it."""
    folder = published / beneath
    with pytest.raises(InvalidRequest, match=r"such as .*/(mlp|cnn)/1\.$") as caught:
        inkling.connect(str(folder))

    assert str(caught.value).startswith(f"{folder} is not the directory of a version")


def test_a_file_named_by_its_hash_is_loaded(published: Path, tmp_path: Path) -> None:
    """A file of a content-addressed store needs no ending, nor does a link to it."""
    source = Repository(published).newest("mlp").tflite("int8")
    blob = tmp_path / "8f14e45fceea167a5a36dedd4bea2543"
    blob.write_bytes(source.read_bytes())
    (tmp_path / "model").symlink_to(blob.name)

    for path in (blob, tmp_path / "model"):
        with inkling.connect(path) as classifier:
            assert (
                "mlp" == classifier.classify(np.zeros((28, 28), np.uint8)).origin.model
            )


def test_missing_litert_is_named(published: Path) -> None:
    """Without LiteRT the error says what to install."""
    command = [sys.executable, "-c", _WITHOUT_LITERT, str(published)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert done.stderr == ""
    assert "pip install inkling[ondevice]" in done.stdout
