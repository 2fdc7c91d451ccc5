# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import io
import json
import random
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import inkling
from inkling.contract import Contract
from inkling.errors import BrokenVersion, InklingError, InvalidContract
from inkling.model.bundle import Bundle, read_bundle
from inkling.model.repository import FORMATS, Repository


@pytest.fixture
def tflite(published: Path) -> Path:
    """A float32 file that was published."""
    return Repository(published).newest("cnn").path / "tflite" / "float32.tflite"


@pytest.fixture
def bundle(digit_contract: Contract) -> Bundle:
    """A bundle around a few bytes, for tests that do not run the model."""
    return Bundle(bytes(range(64)), "mlp", "float32", digit_contract)


def _edited(content: bytes, change: Callable[[dict[str, object]], object]) -> bytes:
    """Return the file with its description changed, in an archive that is valid again."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        start = archive.infolist()[0].header_offset
        described = json.loads(archive.read("inkling.json"))
    change(described)
    file = io.BytesIO(content[:start])
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr("inkling.json", json.dumps(described))
    return file.getvalue()


@pytest.mark.parametrize("name", ["mlp", "a" * 64])
@pytest.mark.parametrize("model", [b"x", bytes(100_000), b"PK\x05\x06" * 50, b""])
def test_round_trip(name: str, model: bytes, digit_contract: Contract) -> None:
    """A bundle reads back as it was written, whatever the model's bytes are."""
    expected = Bundle(model, name, "int8", digit_contract)

    assert expected == read_bundle(expected.to_bytes())


def test_same_model_same_file(bundle: Bundle) -> None:
    """The bytes depend on model and contract alone, not on when or where."""
    script = (
        "import sys, time; time.time = lambda: 2e9\n"
        "from inkling.model.bundle import read_bundle\n"
        "content = sys.stdin.buffer.read()\n"
        "sys.stdout.buffer.write(read_bundle(content).to_bytes())"
    )
    content = bundle.to_bytes()
    elsewhere = subprocess.run(
        [sys.executable, "-c", script],
        input=content,
        capture_output=True,
        check=True,
        timeout=30,
        env={"PATH": "", "TZ": "Asia/Tokyo", "PYTHONHASHSEED": "7"},
    ).stdout

    assert content == bundle.to_bytes()
    assert content == elsewhere
    other = replace(bundle, contract=replace(bundle.contract, filter="box"))
    assert content != other.to_bytes()


@pytest.mark.parametrize("tflite_format", FORMATS)
def test_published_files_are_bundles(tflite_format: str, published: Path) -> None:
    """Every published file states its model, format and contract."""
    files = Repository(published).newest("mlp")

    found = read_bundle(files.tflite(tflite_format).read_bytes())

    assert ("mlp", tflite_format) == (found.name, found.tflite_format)
    assert files.contract() == found.contract


def test_tools_for_zip_files_read_it(tflite: Path, published: Path) -> None:
    """Python's zipfile reads the contract and finds no fault."""
    with zipfile.ZipFile(tflite) as archive:
        assert ["inkling.json"] == archive.namelist()
        assert archive.testzip() is None
        described = json.loads(archive.read("inkling.json"))
    listed = subprocess.run(
        [sys.executable, "-m", "zipfile", "-l", str(tflite)],
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    ).stdout

    contract = Repository(published).newest("cnn").contract()
    assert contract.hash == described["contract_hash"]
    assert contract.json == described["contract"]
    assert "inkling.json" in listed


def test_litert_runs_the_file_itself(tflite: Path) -> None:
    """LiteRT runs the file and ignores the archive: the scores are those of the model."""
    from ai_edge_litert.interpreter import Interpreter

    inputs = np.random.default_rng(1).random((1, 28, 28, 1), np.float32)
    found = []
    for source in (
        {"model_path": str(tflite)},
        {"model_content": tflite.read_bytes()},
        {"model_content": read_bundle(tflite.read_bytes()).model},
    ):
        interpreter = Interpreter(**source)
        interpreter.allocate_tensors()
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], inputs)
        interpreter.invoke()
        [output] = interpreter.get_output_details()
        found.append(interpreter.get_tensor(output["index"]).copy())

    assert np.array_equal(found[0], found[1])
    assert np.array_equal(found[0], found[2])


def _flipped(content: bytes, bit: int) -> bytes:
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


@pytest.mark.parametrize("seed", range(5))
def test_flipped_bits_of_a_published_file_are_detected(
    seed: int, tflite: Path, tmp_path: Path
) -> None:
    """Each of 200 flipped bits in a file is refused, where LiteRT would run the file."""
    content = tflite.read_bytes()
    chance = random.Random(seed)
    path = tmp_path / "flipped.tflite"
    missed = []
    for bit in (chance.randrange(8 * len(content)) for _ in range(40)):
        path.write_bytes(_flipped(content, bit))
        try:
            inkling.connect(path)
            missed.append(bit)
        except InklingError:
            pass

    assert [] == missed


def test_no_flip_of_the_archive_changes_what_is_read(bundle: Bundle) -> None:
    """For each flipped bit the file is refused, or reads exactly as it was written.

    Some bits of a zip archive mean nothing here, such as the date.
    """
    content = bundle.to_bytes()
    harmless, foreign, wrong = 0, {}, []
    for bit in range(8 * len(content)):
        try:
            found = read_bundle(_flipped(content, bit))
        except InklingError:
            continue
        except Exception as error:  # noqa: BLE001 - which ones come is the question
            foreign[bit] = repr(error)
            continue
        if found != bundle:
            wrong.append(bit)
        harmless += 1

    print(f"{harmless} of {8 * len(content)} bits are without meaning")
    assert [] == wrong
    assert {} == foreign


@pytest.mark.parametrize("eighth", range(8))
def test_cut_files_are_refused(eighth: int, bundle: Bundle) -> None:
    """A file that was cut short, anywhere, is refused."""
    content = bundle.to_bytes()

    with pytest.raises(BrokenVersion):
        read_bundle(content[: len(content) * eighth // 8])


@pytest.mark.parametrize(
    "make",
    [
        lambda c: c + b"x" * 70_000,
        lambda c: b"x" + c,
        lambda c: c[:-1],
        lambda c: b"",
        lambda c: b"PK\x05\x06" + bytes(18),
    ],
    ids=["longer", "a byte before", "a byte less", "empty", "empty archive"],
)
def test_damaged_files_are_refused(
    make: Callable[[bytes], bytes], bundle: Bundle
) -> None:
    """A file with bytes added or removed, and an empty one, is a BrokenVersion."""
    with pytest.raises(BrokenVersion):
        read_bundle(make(bundle.to_bytes()))


def test_a_plain_tflite_file_is_refused_with_what_to_do(
    tflite: Path, tmp_path: Path
) -> None:
    """A TFLite file without a contract is refused; the message says how to get one."""
    path = tmp_path / "theirs.tflite"
    path.write_bytes(read_bundle(tflite.read_bytes()).model)

    with pytest.raises(BrokenVersion, match=r"no contract.*Inkling published"):
        inkling.connect(path)


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.update(contract=d["contract"].replace('"pad":0', '"pad":9')),
        lambda d: d.update(contract_hash="sha256:" + "0" * 64),
        lambda d: d.update(sha256="0" * 64),
        lambda d: d.pop("sha256"),
        lambda d: d.pop("contract"),
        lambda d: d.pop("contract_hash"),
        lambda d: d.pop("name"),
        lambda d: d.update(contract=None),
        lambda d: d.update(contract=7),
        lambda d: d.update(contract="{}"),
        lambda d: d.update(contract="[" * 100_000),
        lambda d: d.update(contract=d["contract"].replace('"format":2', '"format":3')),
        lambda d: d.update(format=2),
        lambda d: d.update(name=7),
    ],
    ids=[
        "edited contract", "contract_hash", "sha256", "no sha256", "no contract",
        "no hash", "no name", "contract null", "contract 7", "contract {}",
        "deep contract", "later contract", "later format", "name 7",
    ],
)  # fmt: skip
def test_edited_descriptions_are_detected(
    change: Callable[[dict[str, object]], object], bundle: Bundle
) -> None:
    """A description that was edited is refused, even in a valid archive."""
    with pytest.raises((BrokenVersion, InvalidContract)):
        read_bundle(_edited(bundle.to_bytes(), change))


def test_a_description_that_is_no_object_is_refused(bundle: Bundle) -> None:
    """A description that is not a JSON object is refused."""
    for text in ("[]", "7", "null", "{", '"x"', "[" * 100_000, ""):
        file = io.BytesIO(bundle.model)
        with zipfile.ZipFile(file, "a") as archive:
            archive.writestr("inkling.json", text)
        with pytest.raises(BrokenVersion):
            read_bundle(file.getvalue())


def test_an_archive_that_grows_is_refused(bundle: Bundle) -> None:
    """An archive that would unpack to far more than its size is refused before unpacking."""
    import tracemalloc

    file = io.BytesIO(bundle.model)
    with zipfile.ZipFile(file, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("inkling.json", b" " * (256 << 20))
    tracemalloc.start()
    with pytest.raises(BrokenVersion):
        read_bundle(file.getvalue())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert peak < 64 << 20
