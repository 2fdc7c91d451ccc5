# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import dataclasses
import http.client
import json
import shutil
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inkling.contract import Contract
from inkling.errors import InklingError, ModelNotFound, NotReady
from inkling.image.preprocess import to_input
from inkling.model.bundle import read_bundle
from inkling.model.repository import (
    CONTRACT_FILE,
    GOLDEN_FILE,
    MANIFEST_FILE,
    METRICS_FILE,
    Repository,
)
from inkling.model.runner import TFLiteRunner
from inkling_serving.engines.base import ModelStatus, State
from inkling_serving.engines.embedded import EmbeddedEngine
from inkling_serving.engines.label_moves import LabelMoves
from inkling_serving.engines.loaded_version import LoadedVersion
from tests.support.machine import memory_bytes, until, within

_POLL_S = 0.05
_TFLITE = "tflite/float32.tflite"
_MIB = 2**20

Change = Callable[[Path], object]


@pytest.fixture
def start_engine() -> Iterator[Callable[..., EmbeddedEngine]]:
    """Start an engine over a folder; it is closed when the test ends."""
    engines = []

    def start(
        root: Path, poll_s: float = _POLL_S, folder: Path | None = None
    ) -> EmbeddedEngine:
        engine = EmbeddedEngine(Repository(root), "float32", poll_s, folder)
        engines.append(engine)
        return engine

    yield start
    for engine in engines:
        engine.close()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An empty repository."""
    (tmp_path / "models").mkdir()
    return tmp_path / "models"


@dataclass
class Publisher:
    """Publishes copies of the trained models under any name and number.

    MLP and CNN follow one contract, so either can be a version of one model, and the
    scores tell which of them answered.
    """

    published: Path
    root: Path
    bench: Path

    def publish(
        self,
        source: str,
        model: str = "m",
        version: int | None = None,
        before: Change = lambda path: None,
        after: Change = lambda path: None,
    ) -> int:
        """Publish by one rename, changed `before` and `after` its manifest is made."""
        target = Repository(self.root)
        if version is None:
            version = max(target.versions(model), default=0) + 1
        made = self.make(source, model, before)
        after(made)
        (self.root / model).mkdir(exist_ok=True)
        made.rename(self.root / model / str(version))
        return version

    def make(self, source: str, model: str = "m", before: Change = str) -> Path:
        """Make a version outside the repository."""
        with Repository(self.bench).publishing(model) as publication:
            shutil.copytree(
                self.published / source / "1",
                publication.path,
                ignore=shutil.ignore_patterns(MANIFEST_FILE),
                dirs_exist_ok=True,
            )
            before(publication.path)
            return publication.commit().path


@pytest.fixture
def publisher(published: Path, root: Path, tmp_path: Path) -> Publisher:
    """A publisher into `root`."""
    return Publisher(published, root, tmp_path / "bench")


@pytest.fixture(scope="session")
def known(published: Path, picture: bytes) -> dict[str, list[float]]:
    """The scores that each trained model gives for the picture."""
    scores = {}
    for source in ("mlp", "cnn"):
        files = Repository(published).newest(source)
        contract = files.contract()
        bundle = read_bundle(files.tflite("float32").read_bytes())
        runner = TFLiteRunner(bundle.model, contract)
        [row] = runner.run(to_input(picture, contract)[np.newaxis])
        scores[source] = row.tolist()
    assert scores["mlp"] != scores["cnn"]
    return scores


def _model(engine: EmbeddedEngine, name: str = "m") -> ModelStatus | None:
    return {status.name: status for status in engine.status()}.get(name)


def _states(engine: EmbeddedEngine, name: str = "m") -> dict[int, State]:
    model = _model(engine, name)
    return {v.version: v.state for v in model.versions} if model else {}


def _reason(engine: EmbeddedEngine, version: int) -> str | None:
    model = _model(engine)
    reasons = {v.version: v.reason for v in model.versions} if model else {}
    return reasons.get(version)


def _newest(engine: EmbeddedEngine) -> int | None:
    try:
        return engine.select("m").version
    except InklingError:
        return None


def _scores(servable: LoadedVersion, picture: bytes) -> list[float]:
    inputs = to_input(picture, servable.contract)[np.newaxis]
    return servable.predict(inputs)[0].tolist()


def _look_twice(engine: EmbeddedEngine, publisher: Publisher) -> None:
    """Wait until the engine has looked at the whole repository at least once more.

    It goes by the names of the models, so a new label of the last one tells.
    """
    last = publisher.root / "zz"
    if not last.exists():
        publisher.publish("mlp", "zz")
    mark = f"mark-{time.monotonic_ns()}"
    (last / "labels.tmp").write_text(json.dumps({mark: 1}))
    (last / "labels.tmp").rename(last / "labels.json")
    until(lambda: (s := _model(engine, "zz")) and mark in s.version_labels)


def test_versions_at_start_are_there_at_once(
    start_engine: Callable[..., EmbeddedEngine], publisher: Publisher
) -> None:
    """What is published when the engine starts can be selected when it has started."""
    publisher.publish("mlp")
    publisher.publish("cnn")

    engine = start_engine(publisher.root, poll_s=60)

    assert _newest(engine) == 2
    assert _states(engine) == {2: State.AVAILABLE, 1: State.AVAILABLE}


def test_new_versions_are_picked_up_within_two_seconds(
    start_engine: Callable[..., EmbeddedEngine],
    publisher: Publisher,
    known: dict[str, list[float]],
    picture: bytes,
) -> None:
    """With the default poll a new version answers within 2 s of its rename."""
    publisher.publish("mlp")
    engine = start_engine(publisher.root, poll_s=1.0)
    assert known["mlp"] == _scores(engine.select("m"), picture)

    publisher.publish("cnn")
    took = until(lambda: _newest(engine) == 2)

    print(f"picked up after {took:.2f} s")
    assert known["cnn"] == _scores(engine.select("m"), picture)
    within(took, 2)


@pytest.mark.parametrize("missing", [False, True])
def test_models_join_later(
    start_engine: Callable[..., EmbeddedEngine], publisher: Publisher, missing: bool
) -> None:
    """A model that is published after the start is served; so is a whole repository."""
    if missing:
        publisher.root.rmdir()
    engine = start_engine(publisher.root)
    assert engine.status() == []
    with pytest.raises(ModelNotFound):
        engine.select("m")

    publisher.root.mkdir(exist_ok=True)
    publisher.publish("mlp")

    until(lambda: _newest(engine) == 1)
    assert [status.name for status in engine.status()] == ["m"]


def test_models_without_a_version_are_not_ready(
    start_engine: Callable[..., EmbeddedEngine], publisher: Publisher
) -> None:
    """A model's folder without a version is a model that cannot answer yet."""
    (publisher.root / "m").mkdir()
    engine = start_engine(publisher.root)

    with pytest.raises(NotReady):
        engine.select("m")
    assert [(s.ready, s.versions) for s in engine.status()] == [(False, ())]


def _contract(**values: object) -> Change:
    """Change fields of the contract."""

    def change(version: Path) -> None:
        path = version / CONTRACT_FILE
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))

    return change


def _contract_everywhere(**values: object) -> Change:
    """Change fields of the contract, in the TFLite file that carries it too."""

    def change(version: Path) -> None:
        _contract(**values)(version)
        contract = Contract.from_json((version / CONTRACT_FILE).read_bytes())
        bundle = read_bundle((version / _TFLITE).read_bytes())
        changed = dataclasses.replace(bundle, contract=contract)
        (version / _TFLITE).write_bytes(changed.to_bytes())

    return change


def _put(name: str, data: bytes) -> Change:
    return lambda version: (version / name).write_bytes(data)


def _cut(name: str) -> Change:
    def change(version: Path) -> None:
        data = (version / name).read_bytes()
        (version / name).write_bytes(data[: len(data) // 2])

    return change


def _remove(name: str) -> Change:
    return lambda version: (version / name).unlink()


def _swap_golden(version: Path) -> None:
    """Put golden scores there that belong to other weights."""
    with np.load(version / GOLDEN_FILE) as golden:
        arrays = {**golden, "scores": golden["scores"][::-1]}
    np.savez_compressed(version / GOLDEN_FILE, **arrays)


def _break_golden_header(version: Path) -> None:
    """Leave a bracket open in the header of an array."""
    with zipfile.ZipFile(version / GOLDEN_FILE) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    members["scores.npy"] = members["scores.npy"].replace(b"(32, 10)", b"(32, 10(")
    with zipfile.ZipFile(version / GOLDEN_FILE, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)


def _dangling(version: Path) -> None:
    (version / CONTRACT_FILE).unlink()
    (version / CONTRACT_FILE).symlink_to("../gone")


_NINE = list("012345678")
# Half of a surrogate pair, which JSON can hold and no answer can.
_ODD = [*_NINE, "\ud800"]
# How a version is broken before (or after) its manifest was written, and a word of why.
_BROKEN: dict[str, tuple[str, Change, str]] = {
    "truncated tflite": ("before", _cut(_TFLITE), "damaged"),
    "truncated tflite after": ("after", _cut(_TFLITE), "SHA-256"),
    "missing tflite": ("before", _remove(_TFLITE), "missing"),
    "missing tflite after": ("after", _remove(_TFLITE), "missing"),
    "changed contract": ("after", _contract(polarity="as_is"), "SHA-256"),
    "contract not the file's": ("before", _contract(polarity="as_is"), "differs"),
    "contract of nine": ("before", _contract_everywhere(labels=_NINE), "labels"),
    "contract of a skew": ("before", _contract_everywhere(polarity="as_is"), "inputs"),
    "contract of another format": ("before", _contract(format=99), "format"),
    "contract is none": ("before", _put(CONTRACT_FILE, b"[]"), "contract"),
    "missing golden": ("before", _remove(GOLDEN_FILE), "golden"),
    "missing golden after": ("after", _remove(GOLDEN_FILE), "golden"),
    "golden header": ("before", _break_golden_header, "golden"),
    "golden is text": ("before", _put(GOLDEN_FILE, b"golden"), "golden"),
    "golden of other weights": ("before", _swap_golden, "golden"),
    "dangling link": ("after", _dangling, "link"),
    "label is no text": ("before", _contract(labels=_ODD), "labels"),
    "metrics are none": ("before", _put(METRICS_FILE, b"{"), "metrics"),
    "manifest is none": ("after", _put(MANIFEST_FILE, b"{"), "manifest"),
    "manifest is empty": ("after", _put(MANIFEST_FILE, b""), "manifest"),
}


@pytest.mark.parametrize(("when", "change", "why"), _BROKEN.values(), ids=_BROKEN)
def test_broken_versions_stay_out(
    start_engine: Callable[..., EmbeddedEngine],
    publisher: Publisher,
    known: dict[str, list[float]],
    picture: bytes,
    when: str,
    change: Change,
    why: str,
) -> None:
    """F2, M14: a broken version is refused with its reason, and the old one serves."""
    publisher.publish("mlp")
    engine = start_engine(publisher.root)

    publisher.publish("cnn", **{when: change})
    took = until(lambda: _reason(engine, 2))

    reason = _reason(engine, 2)
    assert any(word in reason for word in why.split("|")), reason
    assert str(publisher.root) not in reason
    within(took, 2)
    assert _states(engine) == {2: State.FAILED, 1: State.AVAILABLE}
    assert known["mlp"] == _scores(engine.select("m"), picture)
    with pytest.raises(NotReady):
        engine.select("m", 2)


@pytest.mark.parametrize(("when", "change", "why"), _BROKEN.values(), ids=_BROKEN)
def test_broken_versions_do_not_stop_the_start(
    start_engine: Callable[..., EmbeddedEngine],
    publisher: Publisher,
    when: str,
    change: Change,
    why: str,
) -> None:
    """M7: an engine that starts over a broken newest version serves the older one."""
    publisher.publish("mlp")
    publisher.publish("cnn", **{when: change})

    engine = start_engine(publisher.root, poll_s=60)

    assert _newest(engine) == 1
    assert _states(engine) == {2: State.FAILED, 1: State.AVAILABLE}
    assert any(word in (_reason(engine, 2) or "") for word in why.split("|"))


@pytest.mark.parametrize("broken", [1, 2, 5])
def test_newest_good_version_serves_at_start(
    start_engine: Callable[..., EmbeddedEngine], publisher: Publisher, broken: int
) -> None:
    """M7: however many newer ones are broken, a good one serves right at the start."""
    publisher.publish("mlp")
    publisher.publish("cnn")
    for _ in range(broken):
        publisher.publish("mlp", before=_cut(_TFLITE))

    engine = start_engine(publisher.root, poll_s=60)

    assert _newest(engine) == 2
    assert _states(engine)[1] == State.AVAILABLE


def test_broken_versions_take_no_good_one_away(
    start_engine: Callable[..., EmbeddedEngine], publisher: Publisher
) -> None:
    """F2: while broken versions are published, the older two answer by number too."""
    publisher.publish("mlp")
    publisher.publish("cnn")
    engine = start_engine(publisher.root)
    stop, lost = threading.Event(), []

    def ask() -> None:
        while not (stop.wait(0.0005) or lost):
            for version in (1, 2, None):
                try:
                    found = engine.select("m", version).version
                except InklingError as error:
                    lost.append(error.message)
                else:
                    if found != (version or 2):
                        lost.append(f"{version} was answered by {found}")

    client = threading.Thread(target=ask)
    client.start()
    for number in (3, 4, 5):
        publisher.publish("mlp", before=_cut(_TFLITE))
        until(lambda number=number: _reason(engine, number))
        _look_twice(engine, publisher)
    stop.set()
    client.join()

    assert lost == []


def test_litter_changes_nothing(
    start_engine: Callable[..., EmbeddedEngine],
    publisher: Publisher,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Files that nobody published stop no version, neither at a start nor later."""
    caplog.set_level("INFO")
    publisher.publish("mlp", after=_put(".DS_Store", b"Bud1"))
    engine = start_engine(publisher.root)
    held = engine.select("m")

    version = publisher.root / "m" / "1"
    (version / "lost+found").mkdir()
    for name in ("._golden.npz", "tflite/.nfs000001", "tflite/float32.tflite~"):
        (version / name).write_bytes(b"litter")
    _look_twice(engine, publisher)

    assert engine.select("m") is held
    assert _states(engine) == {1: State.AVAILABLE}
    assert any(
        "not list" in r.message and ".DS_Store" in r.message for r in caplog.records
    )


def test_repaired_versions_are_served(
    start_engine: Callable[..., EmbeddedEngine], publisher: Publisher
) -> None:
    """A broken version that is published anew under its number is looked at again."""
    publisher.publish("mlp")
    publisher.publish("cnn", before=_cut(_TFLITE))
    engine = start_engine(publisher.root)
    until(lambda: _reason(engine, 2))

    shutil.rmtree(publisher.root / "m" / "2")
    publisher.publish("cnn", version=2)

    until(lambda: _newest(engine) == 2)
    assert _reason(engine, 2) is None


def test_replaced_versions_are_loaded_again(
    start_engine: Callable[..., EmbeddedEngine],
    publisher: Publisher,
    known: dict[str, list[float]],
    picture: bytes,
) -> None:
    """Other files under a number that serves are taken; broken ones only reported."""
    publisher.publish("mlp")
    engine = start_engine(publisher.root)

    shutil.rmtree(publisher.root / "m" / "1")
    publisher.publish("cnn", version=1)
    until(lambda: _scores(engine.select("m"), picture) == known["cnn"])

    shutil.rmtree(publisher.root / "m" / "1")
    publisher.publish("mlp", version=1, before=_cut(_TFLITE))
    until(lambda: _reason(engine, 1))
    assert known["cnn"] == _scores(engine.select("m"), picture)
    assert _states(engine) == {1: State.AVAILABLE}


def test_folders_without_a_manifest_are_passed_over(
    start_engine: Callable[..., EmbeddedEngine], publisher: Publisher
) -> None:
    """M1: without a manifest a folder is no version, and no failure either."""
    publisher.publish("mlp")
    engine = start_engine(publisher.root)

    publisher.publish("cnn", after=_remove(MANIFEST_FILE))
    for name in ("0003", "4.denied", ".staging-5", "0"):
        shutil.copytree(publisher.make("cnn"), publisher.root / "m" / name)
    _look_twice(engine, publisher)

    assert _states(engine) == {1: State.AVAILABLE}


def _copied(source: Path, target: Path, order: Sequence[Path], over_s: float) -> None:
    """Copy file by file, as `cp` or a network file system does."""
    for path in order:
        place = target / path.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, place)
        time.sleep(over_s / len(order))


@pytest.mark.parametrize(
    ("manifest", "over_s"), [("last", 2.0), ("first", 0.7), ("by name", 0.7)]
)
def test_slow_copies_are_served_once_whole(
    start_engine: Callable[..., EmbeddedEngine],
    publisher: Publisher,
    known: dict[str, list[float]],
    picture: bytes,
    manifest: str,
    over_s: float,
) -> None:
    """M1: a version that is copied slowly is served within 2 s of its last file."""
    publisher.publish("mlp")
    engine = start_engine(publisher.root)
    source = publisher.make("cnn")
    order = sorted(path for path in source.rglob("*") if path.is_file())
    if manifest != "by name":
        order.sort(key=lambda path: path.name == MANIFEST_FILE)
    if manifest == "first":
        order.reverse()
    copier = threading.Thread(
        target=_copied, args=(source, publisher.root / "m" / "2", order, over_s)
    )
    copier.start()
    target = publisher.root / "m" / "2"
    while copier.is_alive():
        seen, newest = _states(engine), _newest(engine)
        if not (target / MANIFEST_FILE).exists():
            assert seen == {1: State.AVAILABLE}
        if not (target / order[-1].relative_to(source)).exists():
            assert newest == 1
        time.sleep(0.01)
    copier.join()

    took = until(lambda: _newest(engine) == 2)
    assert known["cnn"] == _scores(engine.select("m"), picture)
    assert _reason(engine, 2) is None
    within(took, 2)


def test_rollback_by_renaming(
    start_engine: Callable[..., EmbeddedEngine],
    publisher: Publisher,
    known: dict[str, list[float]],
    picture: bytes,
) -> None:
    """M7: `mv 2 2.denied` brings version 1 back, within two looks."""
    publisher.publish("mlp")
    publisher.publish("cnn")
    engine = start_engine(publisher.root, poll_s=0.5)

    directory = publisher.root / "m"
    (directory / "2").rename(directory / "2.denied")
    took = until(lambda: _newest(engine) == 1)

    assert known["mlp"] == _scores(engine.select("m"), picture)
    with pytest.raises(ModelNotFound):
        engine.select("m", 2)

    (directory / "2.denied").rename(directory / "2")
    until(lambda: _newest(engine) == 2)
    within(took, 2 * 0.5 + 0.3)


@pytest.mark.parametrize("what", ["versions", "model", "repository", "manifests"])
def test_what_serves_stays_when_all_is_deleted(
    start_engine: Callable[..., EmbeddedEngine],
    publisher: Publisher,
    known: dict[str, list[float]],
    picture: bytes,
    what: str,
) -> None:
    """M6: when nothing is left on disk, what is in memory goes on answering."""
    publisher.publish("mlp")
    publisher.publish("cnn")
    engine = start_engine(publisher.root)
    gone = publisher.bench / "gone"
    if what == "versions":
        # The older one first: in between, the newer one is what is left.
        for version in (1, 2):
            shutil.rmtree(publisher.root / "m" / str(version))
    elif what == "manifests":
        for version in (1, 2):
            (publisher.root / "m" / str(version) / MANIFEST_FILE).unlink()
    elif what == "model":
        (publisher.root / "m").rename(gone)
    else:
        publisher.root.rename(gone)
        publisher.root.mkdir()

    _look_twice(engine, publisher)
    _look_twice(engine, publisher)

    assert known["cnn"] == _scores(engine.select("m"), picture)
    assert known["cnn"] == _scores(engine.select("m", 2), picture)


def test_deleted_versions_go_when_another_is_left(
    start_engine: Callable[..., EmbeddedEngine], publisher: Publisher
) -> None:
    """M6: of two versions the one whose folder was deleted is no longer served."""
    publisher.publish("mlp")
    publisher.publish("cnn")
    engine = start_engine(publisher.root)
    held = engine.select("m")

    shutil.rmtree(publisher.root / "m" / "2")

    until(lambda: _newest(engine) == 1)
    inputs = np.zeros((1, 28, 28, 1), np.float32)
    assert held.predict(inputs).shape == (1, 10)


def test_deleted_models_come_back_anew(
    start_engine: Callable[..., EmbeddedEngine],
    publisher: Publisher,
    known: dict[str, list[float]],
    picture: bytes,
) -> None:
    """After all was deleted, what is published next is served, whatever its number."""
    for source in ("mlp", "mlp", "mlp"):
        publisher.publish(source)
    engine = start_engine(publisher.root)
    shutil.rmtree(publisher.root / "m")
    _look_twice(engine, publisher)

    publisher.publish("cnn", version=1)

    until(lambda: _newest(engine) == 1)
    assert known["cnn"] == _scores(engine.select("m"), picture)


def _label(root: Path, **labels: int) -> None:
    """Write the labels by one rename."""
    (root / "m" / "labels.tmp").write_text(json.dumps(labels))
    (root / "m" / "labels.tmp").rename(root / "m" / "labels.json")


def test_version_labels_move(
    start_engine: Callable[..., EmbeddedEngine], publisher: Publisher
) -> None:
    """A label selects its version, however old, and follows when it is moved."""
    for _ in range(4):
        publisher.publish("mlp")
    _label(publisher.root, stable=1, canary=4)
    engine = start_engine(publisher.root)
    assert [
        engine.select("m", version_label=label).version
        for label in ("stable", "canary")
    ] == [1, 4]
    assert {4, 3, 1} == set(_states(engine))

    _label(publisher.root, stable=2)
    until(lambda: set(_states(engine)) == {4, 3, 2})

    assert engine.select("m", version_label="stable").version == 2
    with pytest.raises(ModelNotFound, match="does not have this version label"):
        engine.select("m", version_label="canary")


def test_moving_labels_lose_no_request(
    start_engine: Callable[..., EmbeddedEngine], publisher: Publisher
) -> None:
    """A label that moves to a version that is not loaded yet answers all the while."""
    for _ in range(5):
        publisher.publish("cnn")
    _label(publisher.root, stable=1)
    engine = start_engine(publisher.root)
    stop, lost = threading.Event(), []

    def ask() -> None:
        while not (stop.wait(0.0005) or lost):
            try:
                engine.select("m", version_label="stable")
            except InklingError as error:
                lost.append(error.message)

    client = threading.Thread(target=ask)
    client.start()
    for version in (2, 3, 1, 2, 1):
        _label(publisher.root, stable=version)
        until(lambda version=version: version in _states(engine))
        _look_twice(engine, publisher)
    stop.set()
    client.join()

    assert lost == []


def test_stable_answers_by_default(
    start_engine: Callable[..., EmbeddedEngine], publisher: Publisher
) -> None:
    """The version with the label `stable` answers, and newer ones only by their name."""
    for _ in range(3):
        publisher.publish("mlp")
    _label(publisher.root, stable=1)
    engine = start_engine(publisher.root)
    publisher.publish("cnn")
    until(lambda: 4 in _states(engine))

    assert engine.select("m").version == 1
    assert _model(engine, "m").default == 1

    _label(publisher.root, stable=4)
    until(lambda: engine.select("m").version == 4)
    _label(publisher.root)
    publisher.publish("mlp")
    until(lambda: engine.select("m").version == 5)


def test_a_version_beside_a_new_stable_never_answers(
    publisher: Publisher,
    start_engine: Callable[..., EmbeddedEngine],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A version that is published only does not answer while its labels are read, either."""
    publisher.publish("mlp")
    engine = start_engine(publisher.root, poll_s=3600)
    seen: list[int] = []
    moved = LabelMoves.moved

    def watched(moves: LabelMoves, model: str, *given: Any) -> Any:
        seen.append(engine.select(model).version)
        return moved(moves, model, *given)

    monkeypatch.setattr(LabelMoves, "moved", watched)
    _label(publisher.root, stable=1)
    publisher.publish("mlp")
    engine._refresh()

    assert set(_states(engine)) == {2, 1}
    assert seen == [1]


def test_a_label_waits_for_a_version_that_can_answer(
    start_engine: Callable[..., EmbeddedEngine],
    publisher: Publisher,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A label for a missing or a broken version stays; the log says so once."""
    publisher.publish("mlp")
    publisher.publish("mlp", after=lambda path: (path / _TFLITE).write_bytes(b"x"))
    _label(publisher.root, stable=1)
    engine = start_engine(publisher.root)
    for version in (2, 9):
        _label(publisher.root, stable=version)
        _look_twice(engine, publisher)
        assert engine.select("m").version == 1
        said = f"the label stable of m stays at version 1: version {version} is not"
        assert caplog.text.count(said) == 1


def test_a_start_with_a_broken_stable_version(
    start_engine: Callable[..., EmbeddedEngine], publisher: Publisher
) -> None:
    """No other version takes the place of the one that was promoted: not ready."""
    publisher.publish("mlp", after=lambda path: (path / _TFLITE).write_bytes(b"x"))
    publisher.publish("mlp")
    _label(publisher.root, stable=1)

    engine = start_engine(publisher.root)

    assert not _model(engine, "m").ready
    with pytest.raises(NotReady):
        engine.select("m")
    assert engine.select("m", version=2).version == 2


_OTHER = """
import sys
from pathlib import Path
from inkling_serving.engines.label_moves import LabelMoves
moves = LabelMoves(Path(sys.argv[1]))
for line in sys.stdin:
    loaded = [int(number) for number in line.split()]
    moves.moved("m", {"stable": 1}, {"stable": 1}, loaded)
    print(flush=True)
"""


def test_a_label_waits_for_all_processes(
    start_engine: Callable[..., EmbeddedEngine], publisher: Publisher, tmp_path: Path
) -> None:
    """A label moves once every process has the version; a dead one is not waited for."""
    for _ in range(3):
        publisher.publish("mlp")
    _label(publisher.root, stable=1)
    folder = tmp_path / "shared"
    folder.mkdir()
    with subprocess.Popen(
        [sys.executable, "-c", _OTHER, folder],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:

        def tell(line: str) -> None:
            print(line, file=other.stdin, flush=True)
            other.stdout.readline()

        tell("1 3")
        engine = start_engine(publisher.root, folder=folder)
        _label(publisher.root, stable=2)
        until(lambda: 2 in _states(engine))
        _look_twice(engine, publisher)
        assert engine.select("m").version == 1
        # One that starts meanwhile goes by the others, and not by the file.
        assert start_engine(publisher.root, folder=folder).select("m").version == 1

        tell("1 2 3")
        until(lambda: engine.select("m").version == 2)
        tell("3")
        _label(publisher.root, stable=1)
        _look_twice(engine, publisher)
        assert engine.select("m").version == 2
        other.stdin.close()
    until(lambda: engine.select("m").version == 1)


def test_a_swept_folder_is_made_again(tmp_path: Path) -> None:
    """Systems clean /tmp: a process tells the others again, though nothing has changed."""
    folder = tmp_path / "shared"
    moves, labels = LabelMoves(folder), {"stable": 1}
    moves.moved("m", labels, labels, [1])
    told = [path.read_text() for path in folder.iterdir()]
    shutil.rmtree(folder)

    moves.moved("m", labels, labels, [1])

    assert told == [path.read_text() for path in folder.iterdir()]


def test_a_label_that_waits_again_is_told_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A label that waits is told once, and once more if it was moved back meanwhile."""
    moves, before = LabelMoves(None), {"stable": 1}
    for wanted in (2, 2, 1, 2, 2):
        assert moves.moved("m", {"stable": wanted}, before, [1]) == {"stable": 1}

    assert 2 == caplog.text.count("stays at version 1: version 2 is not loaded")


@pytest.mark.parametrize("text", ["", "[]", '{"stable": "1"}', "{"])
def test_broken_labels_change_nothing(
    start_engine: Callable[..., EmbeddedEngine], publisher: Publisher, text: str
) -> None:
    """Labels that cannot be read leave the ones before in force."""
    publisher.publish("mlp")
    publisher.publish("cnn")
    _label(publisher.root, stable=1)
    engine = start_engine(publisher.root)

    (publisher.root / "m" / "labels.json").write_text(text)
    _look_twice(engine, publisher)

    assert engine.select("m", version_label="stable").version == 1


def test_one_model_does_not_hold_up_the_others(
    start_engine: Callable[..., EmbeddedEngine], publisher: Publisher
) -> None:
    """A model whose labels are a folder stops neither the engine nor other models."""
    publisher.publish("mlp", "a")
    publisher.publish("mlp")
    (publisher.root / "a" / "labels.json").mkdir()

    engine = start_engine(publisher.root)
    publisher.publish("cnn")

    until(lambda: _newest(engine) == 2)


def test_explicit_versions(
    start_engine: Callable[..., EmbeddedEngine],
    publisher: Publisher,
    known: dict[str, list[float]],
    picture: bytes,
) -> None:
    """The newest two versions can be asked for by number; others are refused."""
    for source in ("mlp", "cnn", "mlp"):
        publisher.publish(source)
    engine = start_engine(publisher.root)

    assert known["cnn"] == _scores(engine.select("m", 2), picture)
    assert known["mlp"] == _scores(engine.select("m", 3), picture)
    for version in (0, 1, 4, 10**18):
        with pytest.raises(ModelNotFound, match="it serves: 2, 3"):
            engine.select("m", version)
    for model in ("M", "..", "", "mm"):
        with pytest.raises(ModelNotFound):
            engine.select(model)


def test_held_versions_answer_after_they_are_replaced(
    start_engine: Callable[..., EmbeddedEngine],
    publisher: Publisher,
    known: dict[str, list[float]],
    picture: bytes,
) -> None:
    """A request that has selected a version is answered by it, whatever is swapped."""
    publisher.publish("mlp")
    engine = start_engine(publisher.root)
    held = engine.select("m")
    for _ in range(3):
        publisher.publish("cnn")
    until(lambda: set(_states(engine)) == {3, 4})

    assert (1, known["mlp"]) == (held.version, _scores(held, picture))


def test_closing_ends_the_watcher(publisher: Publisher) -> None:
    """A closed engine has no thread left, and still answers."""
    publisher.publish("mlp")
    before = set(threading.enumerate())
    engine = EmbeddedEngine(Repository(publisher.root), "float32", 60)
    [watcher] = set(threading.enumerate()) - before
    engine.close()

    assert not watcher.is_alive()
    assert engine.select("m").version == 1


@dataclass
class Client:
    """Posts one picture again and again over one connection, and keeps what came."""

    port: int
    picture: bytes
    known: dict[str, list[float]]
    sources: dict[int, str]
    versions: list[int] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        """Ask until told to stop."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            while not self.stop.is_set():
                self._ask(connection)
        except (OSError, http.client.HTTPException) as error:
            self.faults.append(f"lost: {error!r}")
        finally:
            connection.close()

    def _ask(self, connection: http.client.HTTPConnection) -> None:
        started = time.perf_counter()
        connection.request("POST", "/v1/models/m:classify?top_k=10", self.picture)
        response = connection.getresponse()
        body = response.read()
        self.seconds.append(time.perf_counter() - started)
        if response.status != 200 or response.will_close:
            self.faults.append(f"{response.status}: {body[:200]!r}")
            return
        answer = json.loads(body)
        version, top = answer["version"], answer["results"][0]["top"]
        scores = [s["probability"] for s in sorted(top, key=lambda s: s["index"])]
        if scores != self.known[self.sources[version]]:
            self.faults.append(f"version {version} has the scores of another")
        if self.versions and version < self.versions[-1]:
            self.faults.append(f"version {version} after {self.versions[-1]}")
        self.versions.append(version)


@contextmanager
def _asking(count: int, *about: Any) -> Iterator[list[Client]]:
    """Run clients in threads until the block ends."""
    clients = [Client(*about) for _ in range(count)]
    threads = [threading.Thread(target=client.run) for client in clients]
    for thread in threads:
        thread.start()
    try:
        yield clients
    finally:
        for client in clients:
            client.stop.set()
        for thread in threads:
            thread.join()


@pytest.mark.timeout(600)
@pytest.mark.parametrize("swaps", [4, pytest.param(100, marks=pytest.mark.soak)])
def test_swaps_under_load_lose_nothing(
    publisher: Publisher,
    start_gateway: Callable[..., Any],
    known: dict[str, list[float]],
    picture: bytes,
    swaps: int,
) -> None:
    """F1: while versions are swapped every answer is 200 and whole, of one version."""
    sources = {version: ("cnn", "mlp")[version % 2] for version in range(1, swaps + 2)}
    publisher.publish(sources[1])
    flags = ("--poll-s", "0.1")
    resident = []
    with (
        start_gateway(publisher.root, *flags) as gateway,
        _asking(4, gateway.port, picture, known, sources) as clients,
    ):
        until(lambda: all(len(client.versions) > 200 for client in clients))
        resident.append(memory_bytes(gateway.process.pid))
        for version in range(2, swaps + 2):
            publisher.publish(sources[version])
            until(lambda version=version: all(c.versions[-1] == version or c.faults
                                               for c in clients))  # fmt: skip
            shutil.rmtree(publisher.root / "m" / str(version - 2), ignore_errors=True)
            resident.append(memory_bytes(gateway.process.pid))

    seconds = np.sort(np.concatenate([client.seconds for client in clients]))
    growth = resident[-1] - resident[0]
    late = resident[-1] - resident[len(resident) // 2]
    median, p99 = seconds[len(seconds) // 2], seconds[len(seconds) * 99 // 100]
    print(
        f"{len(seconds)} answers in ms: p50 {median * 1e3:.1f}, p99 {p99 * 1e3:.1f}, "
        f"worst {seconds[-1] * 1e3:.0f}; resident {resident[-1] / _MIB:.0f} MiB, grown "
        f"by {growth / _MIB:.1f}, of it {late / _MIB:.1f} in the second half"
    )
    assert [client.faults for client in clients] == [[]] * 4
    assert [set(sources)] * 4 == [set(client.versions) for client in clients]
    assert growth <= 32 * _MIB


@pytest.mark.timeout(600)
def test_broken_versions_under_load_affect_nothing(
    publisher: Publisher,
    start_gateway: Callable[..., Any],
    known: dict[str, list[float]],
    picture: bytes,
) -> None:
    """F2: broken versions affect no request, and /v1/models says what is wrong."""
    publisher.publish("mlp")
    with (
        start_gateway(publisher.root, "--poll-s", "0.1") as gateway,
        _asking(2, gateway.port, picture, known, {1: "mlp"}) as clients,
    ):

        def reasons() -> dict[int, str | None]:
            model = gateway.request("GET", "/v1/models/m").json
            return {v["version"]: v["reason"] for v in model["versions"]}

        longest = 0.0
        for number, (when, change, why) in enumerate(_BROKEN.values(), start=2):
            publisher.publish("cnn", **{when: change})
            longest = max(longest, until(lambda number=number: reasons().get(number)))
            reason = reasons()[number]
            assert any(word in reason for word in why.split("|")), reason

    assert [client.faults for client in clients] == [[], []]
    assert [{1}, {1}] == [set(client.versions) for client in clients]
    within(longest, 2)
