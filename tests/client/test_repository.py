# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

import inkling
from inkling.errors import BrokenVersion, InklingError, InvalidRequest, ModelNotFound
from inkling.model.repository import (
    MANIFEST_FILE,
    Repository,
    VersionFiles,
    check_model_name,
)
from tests.support.machine import until

_FILES = {
    "model.bin": b"weights" * 100,
    "assets.extra/contract.json": b"{}",
    "tflite/deep/float32.tflite": b"TFL3",
}
_BAD_NAMES = [
    "", ".", "..", "../x", "a/b", "a/../b", "/etc", "A", "a\x00", "a\n", "-a", ".a",
    "_a", "a" * 65, "ä", "a b", "a:b", "a\\b", "²",
]  # fmt: skip

# Publishes in a process of its own: argv is the root, a tag, how many versions, and
# anything more for large ones.
_PUBLISHER = """
import sys
from pathlib import Path
from inkling.model.repository import Repository

root, tag, count = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
print("ready", flush=True)
sys.stdin.readline()
for number in range(count):
    with Repository(root).publishing("m") as publication:
        (publication.path / "who").write_text(f"{tag} {number}")
        if len(sys.argv) > 4:
            (publication.path / "tflite").mkdir()
            (publication.path / "tflite" / "weights").write_bytes(b"w" * 500_000)
        publication.commit()
"""

_LIMITED_PUBLISHER = """
import resource, sys
from pathlib import Path
from inkling.model.repository import Repository

limit, sizes = int(sys.argv[2]), map(int, sys.argv[3:])
with Repository(Path(sys.argv[1])).publishing("m") as publication:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    for number, size in enumerate(sizes):
        (publication.path / f"file-{number}").write_bytes(b"x" * size)
    publication.commit()
"""

_TRACED_PUBLISHER = """
import json, os, sys
from pathlib import Path
from inkling.model.repository import Repository

events = []
def hook(name, arguments):
    if name == "os.rename":
        events.append(["rename", *map(str, arguments[:2])])
    elif name == "open" and arguments[1] is None:
        events.append(["os.open", str(arguments[0])])

with Repository(Path(sys.argv[1])).publishing("m") as publication:
    (publication.path / "tflite").mkdir()
    (publication.path / "tflite" / "a").write_bytes(b"a")
    (publication.path / "b").write_bytes(b"b")
    print(publication.path)
    sys.addaudithook(hook)
    publication.commit()
print(json.dumps(events))
"""


def _write(directory: Path, files: Mapping[str, bytes]) -> None:
    for name, data in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def _publish(
    repository: Repository, model: str = "m", files: Mapping[str, bytes] = _FILES
) -> VersionFiles:
    with repository.publishing(model) as publication:
        _write(publication.path, files)
        return publication.commit()


def _entries(root: Path) -> set[str]:
    return {path.name for path in (root / "m").iterdir()}


def _python(script: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def _say_go(process: subprocess.Popen[str]) -> None:
    """Tell a publisher that has started to begin."""
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.stdin.write("go\n")
    process.stdin.flush()


def test_published_version_is_complete(tmp_path: Path) -> None:
    """A published version holds its files and a manifest of them; no staging is left."""
    files = _publish(Repository(tmp_path))

    manifest = json.loads((files.path / MANIFEST_FILE).read_text())
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in _FILES.items()}
    assert digests == manifest["files"]
    assert {"1"} == _entries(tmp_path)
    assert (("m", 1), tmp_path / "m" / "1") == (
        (files.model, files.version),
        files.path,
    )
    files.verify()


def test_published_versions_can_be_read_by_others(tmp_path: Path) -> None:
    """A version's directory has the usual mode, not the private one of staging."""
    files = _publish(Repository(tmp_path))

    assert files.path.stat().st_mode & 0o777 == 0o755


def test_publishing_is_one_rename_between_syncs(tmp_path: Path) -> None:
    """Files and folders are synced, then one rename, then the parent is synced."""
    command = [sys.executable, "-c", _TRACED_PUBLISHER, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    staging, events = done.stdout.splitlines()
    trace = json.loads(events)
    renames = [event for event in trace if event[0] == "rename"]
    place = trace.index(renames[0])
    synced = {event[1] for event in trace[:place]}

    assert [["rename", staging, str(tmp_path / "m" / "1")]] == renames
    names = ["", "/tflite", "/tflite/a", "/b", f"/{MANIFEST_FILE}"]
    assert {staging + name for name in names} <= synced
    assert ["os.open", str(tmp_path / "m")] == trace[place + 1]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("1", [1]),
        ("10", [10]),
        ("20260101120000", [20260101120000]),
        ("9" * 18, [10**18 - 1]),
        ("9" * 19, []),
        ("0", []),
        ("0007", []),
        ("-1", []),
        ("+1", []),
        ("1.5", []),
        ("1_0", []),
        ("1 ", []),
        ("٣", []),
        ("three", []),
        ("7.denied", []),
        (".staging-7", []),
        ("7.tmp", []),
    ],
)
def test_names_that_are_versions(
    tmp_path: Path, name: str, expected: list[int]
) -> None:
    """Only plain numbers without leading zeros are versions."""
    _write(tmp_path / "m" / name, {MANIFEST_FILE: b"{}"})

    assert expected == Repository(tmp_path).versions("m")


def test_versions_are_sorted_as_numbers(tmp_path: Path) -> None:
    """Version 10 is newer than version 9."""
    for number in (9, 10, 1):
        _write(tmp_path / "m" / str(number), {MANIFEST_FILE: b"{}"})

    assert Repository(tmp_path).versions("m") == [10, 9, 1]
    assert Repository(tmp_path).newest("m").version == 10


def test_versions_without_a_manifest_are_not_there_yet(tmp_path: Path) -> None:
    """A directory counts as a version only once its manifest is a file; a file never does."""
    _write(tmp_path / "m", {"1/model.bin": b"", "2/manifest.json/x": b"", "3": b""})

    assert Repository(tmp_path).versions("m") == []
    with pytest.raises(ModelNotFound, match="inkling train m"):
        Repository(tmp_path).newest("m")


@pytest.mark.parametrize(
    ("existing", "expected"),
    [
        ([], 1),
        (["1", "2"], 3),
        (["2", "1.denied"], 3),
        (["3", "7.denied"], 8),
        (["12.tmp"], 13),
        (["0007"], 1),
        (["0"], 1),
        ([".staging-9"], 1),
        (["notes", "v8"], 1),
        (["20260101120000"], 20260101120001),
    ],
)
def test_next_version(tmp_path: Path, existing: list[str], expected: int) -> None:
    """The next version is one more than any number that was ever in use."""
    for name in existing:
        _write(tmp_path / "m" / name, {"file": b""})

    assert expected == _publish(Repository(tmp_path)).version


@pytest.mark.timeout(30)
def test_numbers_run_out(tmp_path: Path) -> None:
    """Publishing after the largest number is refused, and leaves no files."""
    largest = "9" * 18
    _write(tmp_path / "m" / largest, {MANIFEST_FILE: b"{}"})

    with pytest.raises(InklingError):
        _publish(Repository(tmp_path))

    assert {largest} == _entries(tmp_path)


def _change(name: str) -> Callable[[Path], None]:
    def change(version: Path) -> None:
        data = bytearray((version / name).read_bytes())
        data[len(data) // 2] ^= 1
        (version / name).write_bytes(data)

    return change


def _manifest(update: object) -> Callable[[Path], None]:
    """Merge an object into the manifest, or put something else in its place."""

    def change(version: Path) -> None:
        path = version / MANIFEST_FILE
        if isinstance(update, dict):
            path.write_text(json.dumps({**json.loads(path.read_text()), **update}))
        else:
            path.write_text(str(update))

    return change


def _listed(name: str) -> Callable[[Path], None]:
    """List a file that is not inside the version, with its right digest."""

    def change(version: Path) -> None:
        (version.parent / "outside").write_bytes(b"outside")
        target = str(version.parent / "outside") if name == "absolute" else name
        listed = json.loads((version / MANIFEST_FILE).read_text())["files"]
        listed[target] = hashlib.sha256(b"outside").hexdigest()
        _manifest({"files": listed})(version)

    return change


def _link(name: str, target: str) -> Callable[[Path], None]:
    """Put a link in the place of a file."""

    def change(version: Path) -> None:
        (version / name).unlink()
        (version / name).symlink_to(target)

    return change


def _pipe(name: str) -> Callable[[Path], None]:
    """Put a pipe in the place of a file; opening it would wait for ever."""

    def change(version: Path) -> None:
        (version / name).unlink()
        os.mkfifo(version / name)

    return change


def _linked_pipe(version: Path) -> None:
    """Put a link to a pipe in the place of a file; opening it would wait for ever."""
    os.mkfifo(version.parent / "pipe")
    (version / "model.bin").unlink()
    (version / "model.bin").symlink_to(version.parent / "pipe")


def _no_manifest(version: Path) -> None:
    (version / MANIFEST_FILE).unlink()


def _manifest_is_a_folder(version: Path) -> None:
    _no_manifest(version)
    (version / MANIFEST_FILE).mkdir()


_DAMAGES: dict[str, Callable[[Path], None]] = {
    "manifest missing": _no_manifest,
    "manifest is a folder": _manifest_is_a_folder,
    "manifest empty": _manifest(""),
    "manifest is a list": _manifest("[]"),
    "manifest cut short": _manifest('{"files": {"model.bin":'),
    "manifest nested too deep": _manifest("[" * 100_000),
    "manifest without files": _manifest("{}"),
    "manifest of another format": _manifest({"format": 2}),
    "files are a list": _manifest({"files": ["model.bin"]}),
    "files are none": _manifest({"files": {}}),
    "digest is none": _manifest({"files": dict.fromkeys(_FILES)}),
    "file changed": _change("model.bin"),
    "file below changed": _change("tflite/deep/float32.tflite"),
    "file missing": lambda version: (version / "model.bin").unlink(),
    "file truncated": lambda version: (version / "model.bin").write_bytes(b"w"),
    "file is a link to a pipe": _linked_pipe,
    "file is a pipe": _pipe("model.bin"),
    "manifest is a pipe": _pipe(MANIFEST_FILE),
    "file is a link to a device": _link("model.bin", "/dev/zero"),
    "manifest is a link to a device": _link(MANIFEST_FILE, "/dev/zero"),
    "file is a link to another file": _link("model.bin", "/etc/passwd"),
    "manifest is a link to another file": _link(MANIFEST_FILE, "/etc/passwd"),
    "file is a link to a folder": _link("model.bin", "/etc"),
    "file is a link to itself": _link("model.bin", "model.bin"),
    "file is a link to nothing": _link("model.bin", "../../blobs/gone"),
    "name is no text": _listed("\ud800"),
    "name has a zero byte": _listed("a\0b"),
    "absolute path listed": _listed("absolute"),
    "path with .. listed": _listed("../outside"),
}


@pytest.mark.timeout(60)  # to open a pipe is to wait for ever
@pytest.mark.parametrize("damage", _DAMAGES.values(), ids=_DAMAGES.keys())
def test_damaged_versions_are_refused(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    """A version that differs from its manifest is refused with the reason."""
    files = _publish(Repository(tmp_path))
    damage(files.path)

    with pytest.raises(BrokenVersion):
        files.verify()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("model.bin", "is missing"),
        ("link", "is its volume mounted"),
        ("pipe", "not a regular file"),
        ("socket", "not a regular file"),
        ("loop", "back to itself"),
    ],
)
def test_reasons_name_the_file_and_the_remedy(
    tmp_path: Path, name: str, words: str
) -> None:
    """A file that cannot be read is named, with why, and without this machine's paths."""
    version = _publish(Repository(tmp_path)).path
    (version / "model.bin").unlink()
    with contextlib.ExitStack() as stack, contextlib.chdir(version):
        if name == "socket":
            listener = stack.enter_context(socket.socket(socket.AF_UNIX))
            listener.bind("model.bin")
        elif name == "pipe":
            os.mkfifo("model.bin")
        elif name in ("link", "loop"):
            Path("model.bin").symlink_to(
                {"link": "/nowhere", "loop": "model.bin"}[name]
            )

        with pytest.raises(BrokenVersion, match=rf"^model\.bin .*{words}") as refused:
            Repository(tmp_path).newest("m").verify()

    assert "/" not in refused.value.message


_LITTER = [
    ".DS_Store", "._model.bin", "Thumbs.db", "desktop.ini", ".nfs0000000000a1b2c3",
    "lost+found/x", "model.bin~", ".model.bin.swp", "__pycache__/x.pyc", ".git/HEAD",
    "..2026_11_27/manifest.json", "extra", "tflite/deep/._float32.tflite",
    "tflite/.DS_Store", "variables/unlisted", b"caf\xe9".decode(errors="surrogateescape"),
]  # fmt: skip


@pytest.mark.parametrize("name", _LITTER, ids=ascii)
def test_what_the_manifest_does_not_list_is_ignored(tmp_path: Path, name: str) -> None:
    """Litter neither breaks a version nor makes it look replaced; it can be named."""
    files = _publish(Repository(tmp_path))
    before = files.fingerprint()

    _write(files.path, {name: b"litter"})
    os.mkfifo(files.path / "a pipe")

    files.verify()
    assert before == files.fingerprint()
    shown = name if name.startswith("tflite/") else name.partition("/")[0]
    assert {shown, "a pipe"} == set(files.unlisted())


def test_litter_is_not_published(tmp_path: Path) -> None:
    """What a file manager leaves in staging is not listed, so that it may go later."""
    litter = {".DS_Store": b"", "tflite/Thumbs.db": b"", "__pycache__/a.pyc": b""}
    files = _publish(Repository(tmp_path), files={**_FILES, **litter})

    assert set(_FILES) == set(files.listed())
    assert [".DS_Store", "__pycache__", "tflite/Thumbs.db"] == files.unlisted()


def _each_a_link(source: Path, target: Path) -> None:
    """As `cp -rs`, and as KServe does with a volume."""
    for path in source.rglob("*"):
        if path.is_file():
            place = target / path.relative_to(source)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.symlink_to(path)


def _content_addressed(source: Path, target: Path) -> None:
    """As the cache of Hugging Face and DVC: relative links to files named by hash."""
    blobs = target.parent.parent / "blobs"
    blobs.mkdir(parents=True)
    for path in source.rglob("*"):
        if path.is_file():
            place = target / path.relative_to(source)
            place.parent.mkdir(parents=True, exist_ok=True)
            blob = blobs / hashlib.sha256(path.read_bytes()).hexdigest()
            blob.write_bytes(path.read_bytes())
            place.symlink_to(os.path.relpath(blob, place.parent))


def _projected(source: Path, target: Path) -> None:
    """As Kubernetes projects a ConfigMap: names -> ..data -> a directory with a date."""
    shutil.copytree(source, target / "..2026_11_27")
    (target / "..data").symlink_to("..2026_11_27")
    for path in source.iterdir():
        (target / path.name).symlink_to(Path("..data", path.name))


def _whole_link(source: Path, target: Path) -> None:
    """As a version that is released by a link."""
    target.parent.mkdir(parents=True)
    target.symlink_to(source)


def _linked_model(source: Path, target: Path) -> None:
    """As a model on a volume of its own."""
    target.parent.parent.mkdir(parents=True)
    target.parent.symlink_to(source.parent)


def _linked_root(source: Path, target: Path) -> None:
    """As a models directory that is itself a link."""
    target.parent.parent.symlink_to(source.parent.parent)


_LINKED = [
    _each_a_link, _content_addressed, _projected, _whole_link, _linked_model, _linked_root,
]  # fmt: skip


@pytest.mark.parametrize("link", _LINKED)
def test_links_are_followed(
    tmp_path: Path, published: Path, link: Callable[[Path, Path], None]
) -> None:
    """A version whose files are links, as stores and volumes give them, is the same."""
    source = Repository(published).newest("mlp")
    root = tmp_path / "linked"
    link(source.path, root / "mlp" / "1")

    found = Repository(root)

    assert "mlp" in found.models()
    assert [1] == found.versions("mlp")
    files = found.newest("mlp")
    files.verify()
    assert source.contract() == files.contract()
    assert source.accuracy("int8") == files.accuracy("int8")
    for place in (files.path, files.tflite("int8")):
        with inkling.connect(place) as classifier:
            assert classifier.contract() == source.contract()
            assert classifier.classify(np.zeros((28, 28), np.uint8)).origin.version in (
                None,
                1,
            )


def test_links_into_another_volume_are_followed(
    tmp_path: Path, published: Path
) -> None:
    """A file on another file system counts, too, if it has the SHA-256 in the manifest."""
    shared = Path("/dev/shm")
    if not shared.is_dir() or shared.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is no other file system to write to")
    with tempfile.TemporaryDirectory(dir=shared) as volume:
        source = Path(shutil.copytree(published / "mlp", Path(volume) / "mlp"))
        _each_a_link(source / "1", tmp_path / "mlp" / "1")
        files = Repository(tmp_path).newest("mlp")
        files.verify()

        (source / "1" / "golden.npz").write_bytes(b"another")

        with pytest.raises(BrokenVersion, match=r"golden\.npz differs"):
            files.verify()


def test_targets_of_links_are_watched(tmp_path: Path) -> None:
    """When the target of a link is replaced, the version looks replaced."""
    elsewhere = _publish(Repository(tmp_path / "elsewhere"))
    _each_a_link(elsewhere.path, tmp_path / "models" / "m" / "1")
    files = Repository(tmp_path / "models").newest("m")
    before = files.fingerprint()

    _write(elsewhere.path, {"model.bin": b"other"})

    assert before != files.fingerprint()


def test_a_manifest_that_cannot_be_read_is_a_version(tmp_path: Path) -> None:
    """Such a version is listed, so that its reason is told; it does not vanish."""
    for number, make in enumerate([os.mkfifo, lambda path: path.symlink_to("gone")], 1):
        (tmp_path / "m" / str(number)).mkdir(parents=True)
        make(tmp_path / "m" / str(number) / MANIFEST_FILE)

    assert [2, 1] == Repository(tmp_path).versions("m")


def test_single_flipped_bits_are_detected(models_dir: Path) -> None:
    """Each of 300 flipped bits over all files of a trained version is detected."""
    files = Repository(models_dir).newest("cnn")
    names = sorted(p for p in files.path.rglob("*") if p.is_file())
    rng = random.Random(11)
    detected = 0
    for flip in range(300):
        path = names[flip % len(names)]
        data = path.read_bytes()
        bit = rng.randrange(len(data) * 8)
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        try:
            files.verify()
        except BrokenVersion:
            detected += 1
        path.write_bytes(data)

    assert detected == 300
    files.verify()


def test_every_bit_of_a_manifest_counts(tmp_path: Path) -> None:
    """Every single flipped bit of a manifest is detected."""
    files = _publish(Repository(tmp_path), files={"model.bin": b"w"})
    path = files.path / MANIFEST_FILE
    data = path.read_bytes()
    unnoticed = []
    for bit in range(len(data) * 8):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        try:
            files.verify()
        except BrokenVersion:
            continue
        unnoticed.append(bytes(flipped[bit // 8 - 8 : bit // 8 + 8]))

    assert unnoticed == []


@pytest.mark.parametrize(
    ("publishers", "each"),
    [(2, 25), (3, 25), (4, 25), pytest.param(4, 200, marks=pytest.mark.soak)],
)
def test_publishers_at_once(tmp_path: Path, publishers: int, each: int) -> None:
    """Each publisher gets its own numbers, and no reader sees half a version."""
    repository = Repository(tmp_path)
    stop, torn, seen = threading.Event(), [], set()

    def watch() -> None:
        while not stop.is_set():
            for version in set(repository.versions("m")) - seen:
                seen.add(version)
                try:
                    repository.files("m", version).verify()
                except InklingError as error:
                    torn.append((version, error.message))

    watcher = threading.Thread(target=watch)
    watcher.start()
    processes = [_python(_PUBLISHER, tmp_path, tag, each) for tag in range(publishers)]
    for process in processes:
        _say_go(process)
    for process in processes:
        process.communicate(timeout=240)
    stop.set()
    watcher.join()

    total = publishers * each
    assert [0] * publishers == [process.returncode for process in processes]
    assert torn == []
    assert list(range(total, 0, -1)) == repository.versions("m")
    who = {(tmp_path / "m" / str(n) / "who").read_text() for n in range(1, total + 1)}
    assert total == len(who)
    assert {str(n) for n in range(1, total + 1)} == _entries(tmp_path)


def test_readers_see_versions_as_they_are_published(tmp_path: Path) -> None:
    """A reader that polls finds each version complete the first time that it is listed."""
    repository = Repository(tmp_path)
    for number in range(1, 6):
        files = _publish(repository)
        assert (number, number) == (files.version, repository.newest("m").version)
        repository.newest("m").verify()


def _raise() -> None:
    raise RuntimeError("the export failed")


def _nothing() -> None:
    """Leave the block without a commit."""


@pytest.mark.parametrize("way_out", [_raise, _nothing])
def test_publishers_that_fail_leave_nothing(
    tmp_path: Path, way_out: Callable[[], None]
) -> None:
    """A publisher that does not commit leaves no files, and its number is used again."""
    repository = Repository(tmp_path)
    _publish(repository)

    def fail() -> None:
        with repository.publishing("m") as publication:
            _write(publication.path, _FILES)
            way_out()

    if way_out is _raise:
        with pytest.raises(RuntimeError, match="the export failed"):
            fail()
    else:
        fail()

    assert {"1"} == _entries(tmp_path)
    assert _publish(repository).version == 2


def test_links_cannot_be_published(tmp_path: Path) -> None:
    """A publisher that wrote a link is refused before the version appears."""
    repository = Repository(tmp_path)
    with pytest.raises(BrokenVersion, match="link"):
        _publish_link(repository)

    assert set() == _entries(tmp_path)


def _publish_link(repository: Repository) -> None:
    with repository.publishing("m") as publication:
        (publication.path / "link").symlink_to("/etc/passwd")
        publication.commit()


@pytest.mark.parametrize("kills", [8, pytest.param(40, marks=pytest.mark.soak)])
def test_killed_publishers_leave_only_staging(tmp_path: Path, kills: int) -> None:
    """After SIGKILL at any moment the repository holds complete versions and staging only."""
    rng = random.Random(9)
    for tag in range(kills):
        process = _python(_PUBLISHER, tmp_path, tag, 10_000, "large")
        _say_go(process)
        if tag == 0:
            until(lambda: Repository(tmp_path).versions("m"))
        time.sleep(rng.uniform(0.005, 0.1))  # the moment is the test
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL

    repository = Repository(tmp_path)
    staging = {name for name in _entries(tmp_path) if name.startswith(".staging-")}
    versions = repository.versions("m")
    assert versions
    assert {str(version) for version in versions} == _entries(tmp_path) - staging
    for version in versions:
        repository.files("m", version).verify()
    assert versions[0] + 1 == _publish(repository).version


def test_a_live_publisher_keeps_its_staging(tmp_path: Path) -> None:
    """Staging that looks old is left alone while its publisher lives."""
    with Repository(tmp_path).publishing("m") as publication:
        _write(publication.path, _FILES)
        os.utime(publication.path, (0, 0))

        assert _publish(Repository(tmp_path)).version == 1

        assert publication.commit().version == 2
    Repository(tmp_path).files("m", 2).verify()


def test_old_staging_is_swept(tmp_path: Path) -> None:
    """The next publisher removes staging that is an hour old, and nothing else."""
    old, young = tmp_path / "m" / ".staging-old", tmp_path / "m" / ".staging-young"
    for directory in (old, young, tmp_path / "m" / "1.denied"):
        _write(directory, _FILES)
    for directory in (old, tmp_path / "m" / "1.denied"):
        os.utime(directory, (time.time() - 7200, time.time() - 7200))

    _publish(Repository(tmp_path))

    assert {".staging-young", "1.denied", "2"} == _entries(tmp_path)


@pytest.mark.parametrize(
    ("limit", "sizes"),
    [(65_536, [100_000]), (65_536, [10, 10, 70_000]), (0, [1]), (100, [50, 50])],
    ids=["first file", "last file", "no byte", "only the manifest"],
)
def test_full_disk_leaves_nothing(tmp_path: Path, limit: int, sizes: list[int]) -> None:
    """When a file cannot be written, no number appears and staging is gone."""
    command = [sys.executable, "-c", _LIMITED_PUBLISHER, tmp_path, limit, *sizes]
    done = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, check=False
    )

    assert done.returncode == 1, done.stderr
    assert "OSError" in done.stderr
    assert set() == _entries(tmp_path)


@pytest.mark.parametrize("labels", [{}, {"stable": 1}, {"stable": 3, "canary": 4}])
def test_version_labels(tmp_path: Path, labels: dict[str, int]) -> None:
    """Version labels are names for numbers; without a file there are none."""
    assert Repository(tmp_path).version_labels("m") == {}

    _write(tmp_path / "m", {"labels.json": json.dumps(labels).encode()})

    assert labels == Repository(tmp_path).version_labels("m")


@pytest.mark.parametrize(
    "text",
    [b"", b"[]", b"{", b'{"a": "1"}', b'{"a": true}', b'{"a": 1.0}', b'{"a": null}',
     b'{"\xff": 1}', b"[" * 100_000, b'{"\\ud800": 1}', b'{"a": 0}', b'{"a": -1}',
     b'{"a": 1000000000000000000000}'],
)  # fmt: skip
def test_broken_version_labels_are_refused(tmp_path: Path, text: bytes) -> None:
    """A file of labels that maps anything but names to whole numbers is refused."""
    _write(tmp_path / "m", {"labels.json": text})

    with pytest.raises(BrokenVersion, match=r"labels\.json"):
        Repository(tmp_path).version_labels("m")


@pytest.mark.parametrize(
    "make", [Path.mkdir, os.mkfifo, lambda path: path.symlink_to("gone")]
)
def test_version_labels_that_are_no_file_are_refused(
    tmp_path: Path, make: Callable[[Path], None]
) -> None:
    """A folder, a pipe or a dangling link in the place of the file is a typed error."""
    (tmp_path / "m").mkdir()
    make(tmp_path / "m" / "labels.json")

    with pytest.raises(BrokenVersion):
        Repository(tmp_path).version_labels("m")


@pytest.mark.parametrize("name", ["a", "0", "mlp", "cnn-2.1_x", "a" * 64, "a..", "7"])
def test_names_that_are_models(tmp_path: Path, name: str) -> None:
    """A valid name can be published under, and is listed."""
    assert name == check_model_name(name)
    _publish(Repository(tmp_path), name)

    assert [name] == Repository(tmp_path).models()


@pytest.mark.parametrize("name", _BAD_NAMES)
def test_names_that_are_no_models(tmp_path: Path, name: str) -> None:
    """Every method refuses a name that could lead out of the repository."""
    repository = Repository(tmp_path / "models")

    for use in (check_model_name, repository.versions, repository.newest,
                repository.version_labels, lambda name: repository.files(name, 1),
                lambda name: _publish(repository, name)):  # fmt: skip
        with pytest.raises(InvalidRequest, match="1 to 64 characters"):
            use(name)

    assert list(tmp_path.iterdir()) == []


def test_models_are_folders_with_a_good_name(tmp_path: Path) -> None:
    """Files, hidden folders and folders with other names are no models."""
    for name in ("cnn", "mlp", ".git", "Notes", "lost+found"):
        (tmp_path / name).mkdir()
    (tmp_path / "readme").write_text("")

    assert Repository(tmp_path).models() == ["cnn", "mlp"]
    assert Repository(tmp_path / "nowhere").models() == []


def test_fingerprint_changes_when_a_version_is_replaced(tmp_path: Path) -> None:
    """A version that was removed and published anew under its number is told apart."""
    repository = Repository(tmp_path)
    files = _publish(repository)
    before = files.fingerprint()
    kept = files.path.rename(tmp_path / "kept")
    again = _publish(repository)

    assert files.path == again.path
    assert before != again.fingerprint()
    shutil.rmtree(kept)
